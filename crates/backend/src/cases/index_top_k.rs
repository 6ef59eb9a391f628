//! The indexer's choice: distances of sets, ties, and more rows than a tile.

use model::LayerKind;
use quant::TensorType::F32;

use super::inputs::{chunks, config, filled, prepare, step, values, vector, weight};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::{KvLayout, PAGE_TOKENS, RowFormat};
use crate::ops::{Ops, PoolInput, Pooled};
use crate::weights::CompressorWeights;

struct IndexTopK {
    format: RowFormat,
    heads: usize,
    dim: usize,
    top_k: usize,
    history: usize,
    rows: usize,
    /// Head weights of zero: every score is an exact tie, so the lowest rows must win.
    ties: bool,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    use RowFormat::*;
    for format in [F32, Model] {
        for (heads, dim, top_k, history) in
            [(64, 128, 512, 2400), (64, 128, 1024, 300), (4, 64, 3, 90), (16, 32, 7, 5000)]
        {
            visitor.visit(&IndexTopK { format, heads, dim, top_k, history, rows: 3, ties: false });
        }
        let ties =
            IndexTopK { format, heads: 8, dim: 64, top_k: 16, history: 500, rows: 3, ties: true };
        visitor.visit(&ties);
        // Enough rows for kernels that take many.
        let many = IndexTopK { heads: 64, dim: 128, history: 600, rows: 37, ..ties };
        visitor.visit(&many);
        visitor.visit(&IndexTopK { ties: false, ..many });
    }
    // More scores than a block of a kernel for few rows selects among, and more ties than it holds.
    let long = IndexTopK {
        format: Model,
        heads: 64,
        dim: 128,
        top_k: 512,
        history: 17_000,
        rows: 2,
        ties: true,
    };
    visitor.visit(&long);
    visitor.visit(&IndexTopK { ties: false, ..long });
}

impl Case for IndexTopK {
    fn name(&self) -> String {
        let Self { format, heads, dim, top_k, history, rows, ties } = self;
        format!(
            "index_top_k {} {rows}x{heads}x{dim}, top {top_k} at {history}, ties {ties}",
            format.name()
        )
    }

    fn tolerance(&self) -> Tolerance {
        if self.ties {
            return Tolerance::EXACT;
        }
        Tolerance { nmse: 0.01, reason: "one row in a hundred may change places at the threshold" }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    /// A row of ones at the picked rows, zeros elsewhere: the distance counts the rows that differ.
    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        config.layers = vec![LayerKind::Csa];
        (config.head_dim, config.rope_dim) = (96, 32);
        config.rope_compress = model::Rope::plain(32, 160_000.0);
        (config.indexer.n_heads, config.indexer.head_dim) = (self.heads, self.dim);
        config.indexer.top_k = self.top_k;
        prepare(be, &config, self.format, self.history)?;
        let n_pages = (self.history + self.rows).div_ceil(PAGE_TOKENS);
        let layout = KvLayout::new(&config, self.format, 2, n_pages, self.history, false);
        let pages: Vec<u32> = (0..n_pages as u32).rev().collect();
        let mut kv = be.alloc_kv(&layout)?;
        let w = CompressorWeights {
            kv: be.load(&weight(1, F32, 1, 2 * self.dim, 64))?,
            gate: be.load(&weight(1, F32, 1, 2 * self.dim, 64))?,
            position_bias: be.load_vector(&weight(2, F32, 1, 4, 2 * self.dim))?,
            norm: be.load_vector(&vector(3, self.dim))?,
            width: self.dim,
            ratio: 4,
        };
        let mut result = Vec::new();
        let head = std::iter::once(0..self.history);
        let tail = chunks(self.rows, chunk).map(|r| self.history + r.start..self.history + r.end);
        for range in head.chain(tail) {
            let n = range.len();
            let mut rows = |seed: u64, cols: usize| {
                let all: Vec<f32> =
                    range.clone().flat_map(|r| values(seed + 1000 * r as u64, cols)).collect();
                filled(be, "rows", cols, &all)
            };
            let input = PoolInput { kv: rows(1, 2 * self.dim)?, gate: rows(2, 2 * self.dim)? };
            let q = rows(3, self.heads * self.dim)?;
            let mut weights = rows(4, self.heads)?;
            if self.ties {
                be.write(&mut weights, 0, &vec![0.0; n * self.heads])?;
            }
            let step = step(range.clone(), 0, &pages);
            be.begin(&step)?;
            be.compress(&mut kv, 0, Pooled::Index, &input, &w, &config.rope_compress, &step)?;
            if range.start >= self.history {
                let mut ids = be.alloc_ids("picked", n, self.top_k)?;
                be.index_top_k(&mut ids, &kv, 0, (&q, &weights), &step)?;
                let mut picked = vec![0; n * self.top_k];
                be.read_ids(&ids, 0, &mut picked)?;
                for (row, picked) in range.clone().zip(picked.chunks_exact(self.top_k)) {
                    result.extend(self.marks(row, picked));
                }
            }
            be.commit(&mut kv, &step, 0..1, &[n as u32])?;
        }
        Ok(result)
    }
}

impl IndexTopK {
    fn marks(&self, row: usize, picked: &[u32]) -> Vec<f32> {
        let visible = (row + 1) / 4;
        let picked = &picked[..self.top_k.min(visible)];
        let mut marks = vec![0.0; (self.history + self.rows) / 4];
        // Rows that are not ascending, repeated or invisible are wrong in a way no tolerance covers.
        if picked.windows(2).any(|w| w[0] >= w[1])
            || picked.last().is_some_and(|&i| i as usize >= visible)
        {
            marks.fill(f32::NAN);
            return marks;
        }
        picked.iter().for_each(|&i| marks[i as usize] = 1.0);
        marks
    }
}
