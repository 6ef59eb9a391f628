//! Rows that compressors close: over chunk borders, windows and pages, in every row format.

use model::LayerKind;
use quant::TensorType::F32;

use super::inputs::{chunks, config, filled, prepare, step, values, vector, weight};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::{KvLayout, PAGE_TOKENS, RowFormat};
use crate::kv_row;
use crate::ops::{Ops, PoolInput, Pooled};
use crate::weights::CompressorWeights;

struct Compress {
    kind: LayerKind,
    pooled: Pooled,
    format: RowFormat,
    width: usize,
    rows: usize,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    use {LayerKind::*, Pooled::*, RowFormat::*};
    let shapes = [(Csa, Attention, 512, 41), (Csa, Index, 128, 41), (Hca, Attention, 192, 300)];
    for (kind, pooled, width, rows) in shapes {
        for format in [F32, Model, ModelWideTail] {
            visitor.visit(&Compress { kind, pooled, format, width, rows });
        }
    }
}

impl Case for Compress {
    fn name(&self) -> String {
        let Self { kind, pooled, format, width, rows } = self;
        format!("compress {} {pooled:?} {} {rows}x{width}", kind.name(), format.name())
    }

    fn tolerance(&self) -> Tolerance {
        match self.format {
            RowFormat::F32 => Tolerance::FLOAT,
            _ => {
                Tolerance { nmse: 1e-4, reason: "a value at a rounding boundary falls either way" }
            }
        }
    }

    /// What is compared are pages, not rows: the case has one result for any chunking.
    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.layers = vec![self.kind];
        config.head_dim = if self.pooled == Pooled::Index { 128 } else { self.width };
        config.indexer.head_dim = if self.pooled == Pooled::Index { self.width } else { 64 };
        prepare(be, &config, self.format, self.rows)?;
        let ratio = self.kind.ratio().unwrap_or(1);
        let cols = self.width * if ratio == 4 { 2 } else { 1 };
        let w = CompressorWeights {
            kv: be.load(&weight(1, F32, 1, cols, 64))?,
            gate: be.load(&weight(2, F32, 1, cols, 64))?,
            position_bias: be.load_vector(&weight(3, F32, 1, ratio, cols))?,
            norm: be.load_vector(&vector(4, self.width))?,
            width: self.width,
            ratio,
        };
        let layout = KvLayout::new(&config, self.format, 2, 3, self.rows, false);
        let mut kv = be.alloc_kv(&layout)?;
        let (k, z) = (values(5, self.rows * cols), values(6, self.rows * cols));
        for range in chunks(self.rows, chunk) {
            let part = |x: &[f32]| x[range.start * cols..range.end * cols].to_vec();
            let input = PoolInput {
                kv: filled(be, "k", cols, &part(&k))?,
                gate: filled(be, "z", cols, &part(&z))?,
            };
            let step = step(range.clone(), 0, &[2, 0]);
            be.begin(&step)?;
            be.compress(&mut kv, 0, self.pooled, &input, &w, &config.rope_compress, &step)?;
            be.commit(&mut kv, &step, 0..1, &[range.len() as u32])?;
        }
        self.closed_rows(be, &kv, &layout, ratio)
    }
}

impl Compress {
    /// Every closed row, decoded from the pages it was committed to.
    fn closed_rows<B: Ops>(
        &self,
        be: &mut B,
        kv: &B::Kv,
        layout: &KvLayout,
        ratio: usize,
    ) -> Result<Vec<f32>> {
        let row = if self.pooled == Pooled::Index { layout.index_row } else { layout.row };
        // A CSA layer's page holds its attention rows, then its index rows.
        let per_page = PAGE_TOKENS / ratio;
        let skip = if self.pooled == Pooled::Index { per_page * layout.row.bytes() } else { 0 };
        let mut result = vec![0.0; self.rows / ratio * row.dim];
        for (i, values) in result.chunks_exact_mut(row.dim).enumerate() {
            let mut page = Vec::new();
            be.read_page(kv, [2, 0][i / per_page], &mut page)?;
            let at = skip + i % per_page * row.bytes();
            kv_row::decode(&row, &page[at..at + row.bytes()], values);
        }
        Ok(result)
    }
}
