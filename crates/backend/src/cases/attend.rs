//! Attention over window, compressed and picked rows, committed and staged, in every row format.

use model::LayerKind;
use quant::TensorType::F32;

use super::inputs::{
    chunks, collect, config, filled, offsets, output, prepare, step, values, vector, weight,
};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::{KvLayout, RowFormat};
use crate::ops::{Ops, PoolInput, Pooled, Selected};
use crate::weights::CompressorWeights;

struct Attend {
    kind: LayerKind,
    format: RowFormat,
    heads: usize,
    head_dim: usize,
    window: usize,
    top_k: usize,
    /// Positions before the rows that are compared, and these.
    history: usize,
    rows: usize,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    use {LayerKind::*, RowFormat::*};
    for format in [F32, Model, ModelWideTail] {
        for kind in [SlidingWindow, Csa, Hca] {
            let case = Attend {
                kind,
                format,
                heads: 64,
                head_dim: 512,
                window: 128,
                top_k: 512,
                history: 270,
                rows: 6,
            };
            visitor.visit(&case);
            // Odd shapes; the selection bites.
            let odd = Attend { heads: 3, head_dim: 192, window: 16, top_k: 5, ..case };
            visitor.visit(&odd);
            visitor.visit(&Attend { history: 0, window: 64, ..odd });
        }
    }
    let pro = Attend {
        kind: Csa,
        format: Model,
        heads: 128,
        head_dim: 512,
        window: 128,
        top_k: 1024,
        history: 130,
        rows: 6,
    };
    visitor.visit(&pro);
    // Few heads leave room for many blocks that share the keys.
    visitor.visit(&Attend { kind: Hca, heads: 16, history: 400, ..pro });
    // Enough rows for kernels that take many.
    for kind in [SlidingWindow, Csa, Hca] {
        visitor.visit(&Attend { kind, heads: 64, top_k: 40, history: 140, rows: 70, ..pro });
    }
}

impl Case for Attend {
    fn name(&self) -> String {
        let Self { kind, format, heads, head_dim, window, top_k, history, rows } = self;
        let (kind, format) = (kind.name(), format.name());
        format!(
            "attend {kind} {format} {rows}x{heads}x{head_dim}, window {window}, top {top_k}, at {history}"
        )
    }

    fn tolerance(&self) -> Tolerance {
        match self.format {
            RowFormat::F32 => Tolerance::FLOAT,
            _ => Tolerance { nmse: 1e-4, reason: "rows are rounded, some at a boundary" },
        }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.layers = vec![self.kind];
        (config.n_heads, config.head_dim) = (self.heads, self.head_dim);
        (config.window, config.indexer.top_k) = (self.window, self.top_k);
        (config.indexer.n_heads, config.indexer.head_dim) = (2, 64);
        let all = self.history.max(self.rows);
        prepare(be, &config, self.format, all)?;
        let layout = KvLayout::new(&config, self.format, 2, 3, all, false);
        let mut kv = be.alloc_kv(&layout)?;
        let feed = Feed::new(self, be, config)?;
        if self.history > 0 {
            feed.stage(be, &mut kv, 0..self.history, None)?;
        }
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let range = self.history + range.start..self.history + range.end;
            feed.stage(be, &mut kv, range, Some(&mut result))?;
        }
        Ok(result)
    }
}

/// Inputs of every position of a case.
struct Feed<'a, B: Ops> {
    case: &'a Attend,
    config: model::Config,
    attention: CompressorWeights<B>,
    index: CompressorWeights<B>,
    sinks: B::Weight,
}

impl<'a, B: Ops> Feed<'a, B> {
    fn new(case: &'a Attend, be: &mut B, config: model::Config) -> Result<Self> {
        let ratio = case.kind.ratio().unwrap_or(4);
        let mut compressor = |seed: u64, width: usize| -> Result<CompressorWeights<B>> {
            let cols = width * if ratio == 4 { 2 } else { 1 };
            Ok(CompressorWeights {
                kv: be.load(&weight(seed, F32, 1, cols, 64))?,
                gate: be.load(&weight(seed, F32, 1, cols, 64))?,
                position_bias: be.load_vector(&weight(seed + 1, F32, 1, ratio, cols))?,
                norm: be.load_vector(&vector(seed + 2, width))?,
                width,
                ratio,
            })
        };
        let attention = compressor(20, case.head_dim)?;
        let index = compressor(30, 64)?;
        let sinks = be.load_vector(&offsets(40, case.heads))?;
        Ok(Self { case, config, attention, index, sinks })
    }

    /// Stages and commits the positions `range`; attends first when `out` is given.
    fn stage(
        &self,
        be: &mut B,
        kv: &mut B::Kv,
        range: std::ops::Range<usize>,
        out: Option<&mut Vec<f32>>,
    ) -> Result<()> {
        let n = range.len();
        let mut rows = |seed: u64, cols: usize| {
            let all: Vec<f32> =
                range.clone().flat_map(|r| values(seed + 1000 * r as u64, cols)).collect();
            filled(be, "rows", cols, &all)
        };
        let window = rows(1, self.case.head_dim)?;
        let wide =
            |width: usize, kind: LayerKind| width * if kind == LayerKind::Hca { 1 } else { 2 };
        let cols = wide(self.case.head_dim, self.case.kind);
        let pool = PoolInput { kv: rows(2, cols)?, gate: rows(3, cols)? };
        let index = PoolInput { kv: rows(4, 128)?, gate: rows(5, 128)? };
        let q = rows(6, self.case.heads * self.case.head_dim)?;
        let queries = (rows(7, 128)?, rows(8, 2)?);
        let step = step(range.clone(), 0, &[1, 2]);
        be.begin(&step)?;
        be.stage_window(kv, 0, &window, &step)?;
        let rope = &self.config.rope_compress;
        if self.case.kind != LayerKind::SlidingWindow {
            be.compress(kv, 0, Pooled::Attention, &pool, &self.attention, rope, &step)?;
        }
        let mut picked = be.alloc_ids("picked", n, self.case.top_k)?;
        if self.case.kind == LayerKind::Csa {
            be.compress(kv, 0, Pooled::Index, &index, &self.index, rope, &step)?;
            be.index_top_k(&mut picked, kv, 0, (&queries.0, &queries.1), &step)?;
        }
        if let Some(result) = out {
            let selected = match self.case.kind {
                LayerKind::SlidingWindow => Selected::WindowOnly,
                LayerKind::Csa => Selected::Picked(&picked),
                LayerKind::Hca => Selected::All,
            };
            let mut heads = output(be, "heads", n, self.case.heads * self.case.head_dim)?;
            be.attend(&mut heads, &q, kv, 0, selected, &self.sinks, &step)?;
            collect(be, &heads, n, result)?;
        }
        be.commit(kv, &step, 0..1, &[n as u32])
    }
}
