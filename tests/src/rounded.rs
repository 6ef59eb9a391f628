//! A device that rounds activations against a reference that rounds the same.
//!
//! From one state, a step of few rows multiplies the same integers, and what is left is the order of
//! additions: 10⁻⁶ of a logit. But a value that lies so near to a boundary between two codes falls to either
//! side. What follows is then rounded from other values, and after a layer or two logits are as far apart
//! as rounding moves them at all: 0.05, or 0.4 where a choice turns. Steps begin from states of the reference,
//! so that this ends with a step: a third of the rows and more agree, through every layer.

use backend::Ops;
use backend::reference::{Reference, Rounds};
use engine::{Core, Feed, Options, RowFormat, Wanted};
use testkit::oracle::{self, Scheme, tokens_for};

use crate::{Model, distance};

/// Rows of a step, in turn: alone, and as many as the two kinds of kernels for few take.
const ROWS: [usize; 3] = [1, 4, 8];
const MOST_ROWS: usize = 8;
/// Rows that the reference reads at once.
const CHUNK: usize = 64;
/// Rows that agree do so in every logit: other orders of additions make 10⁻⁵ where no code turns.
const SAME: f32 = 5e-4;
/// Rms of a row's differences where codes turn: two roundings of the same values, each 0.05 off.
const NEAR: f32 = 0.1;

/// What [`steps`] has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Rows that were compared.
    pub rows: usize,
    /// Of these, rows without a turned code, by the sizes of steps.
    pub same: [usize; ROWS.len()],
    /// Rows beyond what rounding moves: a choice of experts, or of rows to attend to, has turned.
    pub turned: usize,
    /// The largest root mean square of a row's differences.
    pub rms: f32,
}

impl Seen {
    /// Whether the device rounds and multiplies as it is said to: kernels that do otherwise leave no row the
    /// same. Of 117 rows on the emulator 41 are for Q8_0, 48 for Q4_K, 35 for Q2 and 100 for MXFP4, some in
    /// steps of every size, and at most 4 have turned.
    #[must_use]
    pub fn agrees(&self) -> bool {
        16 * self.same.iter().sum::<usize>() >= self.rows && 4 * self.turned <= self.rows
    }

    /// The same, and in steps of every size: for many places.
    #[must_use]
    pub fn all_sizes_agree(&self) -> bool {
        self.agrees() && self.same.iter().all(|&same| same > 0)
    }
}

/// Compares steps that begin behind so many tokens of a prompt, for every one of `places`, which ascend.
///
/// # Panics
/// When a step fails or a logit is not finite.
pub fn steps<B: Ops>(
    (config, scheme): (&oracle::Config, Scheme),
    places: &[usize],
    rounds: Rounds,
    be: B,
) -> Seen {
    let model = Model::new(config, scheme);
    let end = places.last().map_or(0, |last| last + MOST_ROWS);
    let tokens = tokens_for(config, end);
    let sizes = Options::single(end, CHUNK);
    let options = Options { logit_rows: MOST_ROWS, rows: RowFormat::F32, ..sizes };
    let mut reference = model.open(Reference::rounding(rounds), options);
    let mut device = model.open(be, options);
    let (mut seen, mut read) = (Seen::default(), 0);
    for (&place, (size, n)) in places.iter().zip(ROWS.into_iter().enumerate().cycle()) {
        for part in tokens[read..place].chunks(CHUNK) {
            let feed = Feed { slot: 0, tokens: part, wanted: Wanted::Nothing };
            reference.feed(&[feed]).expect("feeds");
            reference.commit_all().expect("commits");
        }
        read = place;
        let mut state = Vec::new();
        reference.save(0, &mut state).expect("saves");
        device.load(0, &mut state.as_slice()).expect("loads");
        let part = &tokens[place..place + n];
        let (want, got) = (logits(&mut reference, part), logits(&mut device, part));
        for (got, want) in got.iter().zip(&want) {
            let (max, rms) = distance(got, want);
            seen.rows += 1;
            seen.same[size] += usize::from(max <= SAME);
            seen.turned += usize::from(rms > NEAR);
            seen.rms = seen.rms.max(rms);
        }
    }
    seen
}

/// Every row of a step that is not committed.
fn logits<B: Ops>(core: &mut Core<B>, tokens: &[u32]) -> Vec<Vec<f32>> {
    core.feed(&[Feed { slot: 0, tokens, wanted: Wanted::Last(tokens.len()) }]).expect("feeds");
    (0..core.n_logits()).map(|i| core.logits(i).to_vec()).collect()
}
