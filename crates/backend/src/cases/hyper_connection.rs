//! Hyper-connections: mixing values, collapse, expand, the head's collapse, and the whole step
//! from one site to the next.

use quant::TensorType::{self, F16, F32};

use super::inputs::{
    chunks, collect, config, filled, offsets, output, prepare, step, values, vector, weight,
};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::Ops;
use crate::weights::{HcWeights, HeadWeights, SiteWeights};

struct Site {
    rows: usize,
    hidden: usize,
    streams: usize,
    ty: TensorType,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Enter,
    Next,
    Expand,
    Head,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for (rows, hidden, streams, ty) in
        [(3, 4096, 4, F16), (2, 7168, 4, F32), (5, 64, 4, F32), (4, 96, 2, F32)]
    {
        for part in [Part::Enter, Part::Next, Part::Expand, Part::Head] {
            visitor.visit(&Site { rows, hidden, streams, ty, part });
        }
    }
    // Enough rows for kernels that take many.
    for (rows, hidden, ty) in [(70, 520, F16), (66, 300, F32)] {
        for part in [Part::Enter, Part::Next, Part::Expand] {
            visitor.visit(&Site { rows, hidden, streams: 4, ty, part });
        }
    }
}

impl Site {
    fn hc<B: Ops>(&self, be: &mut B, mix: usize, scales: usize) -> Result<HcWeights<B>> {
        Ok(HcWeights {
            project: be.load(&weight(3, self.ty, 1, mix, self.streams * self.hidden))?,
            base: be.load_vector(&offsets(4, mix))?,
            scale: be.load_vector(&vector(5, scales))?,
        })
    }
}

impl Case for Site {
    fn name(&self) -> String {
        let Self { rows, hidden, streams, ty, part } = self;
        format!("hc {part:?} {} {rows}x{streams}x{hidden}", ty.name())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::FLOAT
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        (config.hidden, config.hc.n_streams) = (self.hidden, self.streams);
        prepare(be, &config, RowFormat::F32, self.rows)?;
        let (mix, wide) = (config.hc.mix_len(), self.streams * self.hidden);
        let hc = self.hc(be, mix, 3)?;
        let site = SiteWeights { hc, norm: be.load_vector(&vector(6, self.hidden))? };
        let head_hc = self.hc(be, self.streams, 1)?;
        let head = HeadWeights { hc: head_hc, norm: be.load_vector(&vector(6, self.hidden))? };
        let to_vocab = be.load(&weight(7, F32, 1, config.n_vocab, self.hidden))?;
        let (x, y) = (values(1, self.rows * wide), values(2, self.rows * self.hidden));
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let n = range.len();
            let part =
                |all: &[f32], cols: usize| all[range.start * cols..range.end * cols].to_vec();
            let mut streams = filled(be, "streams", wide, &part(&x, wide))?;
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            if let Part::Head = self.part {
                let mut logits = output(be, "logits", n, config.n_vocab)?;
                be.head(&mut logits, &streams, &head, &to_vocab, &step)?;
                collect(be, &logits, n, &mut result)?;
                continue;
            }
            let mut normed = output(be, "x", n, self.hidden)?;
            let mut mixing = output(be, "mix", n, mix)?;
            be.hc_enter(&mut normed, &mut mixing, &streams, &site, &step)?;
            if let Part::Next | Part::Expand = self.part {
                let sublayer = filled(be, "y", self.hidden, &part(&y, self.hidden))?;
                let (x, mix) = (&mut normed, &mut mixing);
                be.hc_next(x, mix, &mut streams, &sublayer, &site, &step)?;
            }
            let shown = if let Part::Expand = self.part { &streams } else { &normed };
            collect(be, shown, n, &mut result)?;
        }
        Ok(result)
    }
}
