//! Choices of tokens. Every share is drawn several times, from peaked and from flat logits with ties.

use super::inputs::{bits, chunks, config, filled, prepare, values};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::sampler::Draw;

struct Sample {
    name: &'static str,
    rows: usize,
    vocab: usize,
    /// Distance of logits from one another.
    spread: f32,
    draw: Draw,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    let all = Draw { temperature: 1.0, ..Draw::GREEDY };
    for (name, draw) in [
        ("greedy", Draw::GREEDY),
        ("all", all),
        ("min-p", Draw { min_p: 0.05, ..all }),
        ("top-k", Draw { top_k: 40, ..all }),
        ("top-p", Draw { top_p: 0.9, ..all }),
        ("every cut", Draw { temperature: 0.7, top_k: 50, top_p: 0.95, min_p: 0.01, ..all }),
        ("a top-k past the vocabulary", Draw { top_k: 1 << 20, top_p: 0.5, ..all }),
        ("nothing but the best", Draw { top_p: 0.0, ..all }),
    ] {
        visitor.visit(&Sample { name, rows: 5, vocab: 1003, spread: 4.0, draw });
        // Four values: a cut falls among equals.
        visitor.visit(&Sample { name, rows: 19, vocab: 333, spread: 0.0, draw });
    }
    let draw = Draw { temperature: 1.0, top_k: 200, top_p: 0.99, min_p: 0.001, share: 0.0 };
    visitor.visit(&Sample { name: "every cut", rows: 2, vocab: 129_280, spread: 6.0, draw });
}

impl Sample {
    fn logits(&self, row: usize) -> Vec<f32> {
        let mut logits = values(7 + row as u64, self.vocab);
        match self.spread {
            0.0 => logits.iter_mut().for_each(|v| *v = v.round()),
            spread => logits.iter_mut().for_each(|v| *v *= spread),
        }
        // What is no number, or infinitely far down, is never chosen.
        logits[row] = f32::NAN;
        logits[row + 20] = f32::NEG_INFINITY;
        logits
    }

    fn draw(&self, row: usize) -> Draw {
        Draw { share: (bits(3, row as u64) >> 40) as f32 / (1u64 << 24) as f32, ..self.draw }
    }
}

impl Case for Sample {
    fn name(&self) -> String {
        let ties = if self.spread == 0.0 { ", ties" } else { "" };
        format!("sample {} {}x{}{ties}", self.name, self.rows, self.vocab)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        prepare(be, &config(), RowFormat::F32, self.rows)?;
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let rows: Vec<f32> = range.clone().flat_map(|row| self.logits(row)).collect();
            let logits = filled(be, "logits", self.vocab, &rows)?;
            let draws: Vec<(u32, Draw)> = (0..).zip(range.map(|row| self.draw(row))).collect();
            let mut tokens = vec![u32::MAX; draws.len()];
            be.sample(&logits, &draws, &mut tokens)?;
            result.extend(tokens.iter().map(|token| *token as f32));
        }
        Ok(result)
    }
}
