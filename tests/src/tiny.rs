//! The model that ships, `models/keid-tiny.gguf`, against golden logits of the double-precision
//! model that trained it (`training/golden.py`).

use std::path::Path;

use backend::Ops;
use engine::{Core, Feed, RowFormat, Wanted, argmax};
use gguf::Gguf;
use model::Config;
use testkit::golden::Golden;

use crate::{Model, distance, options, run};

/// No rounding of rows.
pub const EXACT: (&str, RowFormat) = ("exact", RowFormat::F32);
/// The model's own rounding, in a format that keeps its tails in single precision.
pub const MODEL: (&str, RowFormat) = ("model", RowFormat::ModelWideTail);
/// Lengths of the golden prompts.
pub const LENGTHS: [usize; 4] = [17, 130, 600, 2000];
/// A near tie in the golden values, by numerics and length: for the last token of 600, without rounding of
/// rows, expert 0 of the last layer leads expert 7 for the second place by 0.0004 (score and bias added).
/// Activations rounded to eight bits move the two scores by 0.0016 and 0.0010, and the CPU chooses expert 7, by
/// 0.0002. Logits of that row are then off by up to 1.68; with the golden choice put in, by 0.11.
pub const NEAR_TIE: (&str, usize) = (EXACT.0, 600);

/// How far a backend may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// Largest difference of a logit.
    pub max: f32,
    /// Root mean square of the differences.
    pub rms: f32,
    /// How far the golden token's logit may be behind the best one's; 0 demands the golden tokens.
    pub gap: f32,
}

/// The model and its golden outputs.
pub struct Tiny {
    model: Model,
    golden: Golden,
}

impl Tiny {
    /// Reads both below `root`, a copy of the repository.
    ///
    /// # Panics
    /// When they are not there; the message names the file.
    pub fn open(root: &Path) -> Self {
        let file = |name: &str| root.join("models").join(name);
        let read = |name: &str| {
            let path = file(name);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let json = read("golden/keid-tiny.json");
        let json = std::str::from_utf8(&json).expect("the index is text");
        let golden = Golden::parse("keid-tiny", json, read("golden/keid-tiny.bin").into());
        let open = || Gguf::open(&file("keid-tiny.gguf")).unwrap_or_else(|e| panic!("{e}"));
        let main = open();
        let config = Config::from_gguf(&main).expect("a V4 model");
        // The file holds its MTP block beside the main layers.
        Self { model: Model { main, mtp: Some(open()), config }, golden }
    }

    /// The last logits, a draft and some greedy tokens after a prompt of `n` tokens, read in chunks;
    /// the largest and the rms difference of the logits.
    ///
    /// # Panics
    /// When one is further off than allowed.
    pub fn check<B: Ops>(
        &self,
        be: B,
        (n, chunk): (usize, usize),
        numerics: (&str, RowFormat),
        allowed: Allowed,
    ) -> (f32, f32) {
        let (name, rows) = numerics;
        let tokens = self.ids(&format!("tokens/{n}"));
        let mut sizes = options(n + 32, n.min(chunk), rows);
        sizes.draft = true;
        let mut core = self.model.open(be, sizes);

        run(&mut core, &tokens[..n - 1], chunk);
        let draft = core.draft(0, tokens[n - 1]).expect("drafts").to_vec();
        self.close(&draft, &format!("{name}/{n}/mtp_logits"), allowed);

        core.release(0);
        let logits = run(&mut core, &tokens, chunk);
        let found = self.close(&logits, &format!("{name}/{n}/logits"), allowed);

        let key = format!("{name}/{n}/greedy");
        if self.golden.contains(&key) {
            let last = &logits[logits.len() - self.model.config.n_vocab..];
            forced(&mut core, last, &self.ids(&key), allowed.gap);
        }
        found
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        self.golden.i32(key).1.iter().map(|t| *t as u32).collect()
    }

    fn close(&self, got: &[f32], key: &str, allowed: Allowed) -> (f32, f32) {
        let (max, rms) = distance(got, &self.golden.f32(key).1);
        assert!(max <= allowed.max && rms <= allowed.rms, "{key}: max {max}, rms {rms}");
        (max, rms)
    }
}

/// Feeds the wanted tokens one by one; each is the best one, but for `gap`.
fn forced<B: Ops>(core: &mut Core<B>, last: &[f32], want: &[u32], gap: f32) {
    let mut logits = last.to_vec();
    for (i, &token) in want.iter().enumerate() {
        let best = argmax(&logits);
        let behind = logits[best as usize] - logits[token as usize];
        assert!(
            best == token || behind < gap,
            "greedy token {i}: {best}, {behind} before the golden {token}"
        );
        core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }]).expect("feeds");
        logits = core.logits(0).to_vec();
        core.commit(&[1]).expect("commits");
    }
}
