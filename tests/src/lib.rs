//! What the tests share: models from formulas, engines on them, distances, and the laws that hold
//! on every backend.

pub mod laws;
pub mod rounded;
pub mod tiny;

use backend::Ops;
use engine::{Core, Feed, Options, RowFormat, Wanted, argmax};
use gguf::Gguf;
use model::{Config, bind_mtp, find_mtp};
use testkit::golden::Golden;
use testkit::oracle::{self, Mtp, Scheme};

/// A tiny model's file and what belongs to it.
pub struct Model {
    /// The main file.
    pub main: Gguf,
    /// ds4's separate MTP file.
    pub mtp: Option<Gguf>,
    /// What the main file says.
    pub config: Config,
}

impl Model {
    /// The main model.
    ///
    /// # Panics
    /// When the testkit writes an invalid file.
    pub fn new(config: &oracle::Config, scheme: Scheme) -> Self {
        Self::with_mtp(config, scheme, false)
    }

    /// The main model, with the separate MTP file when `mtp`.
    ///
    /// # Panics
    /// When the testkit writes an invalid file.
    pub fn with_mtp(config: &oracle::Config, scheme: Scheme, mtp: bool) -> Self {
        let file = |part| {
            let bytes = oracle::write_gguf(config, scheme, part);
            Gguf::from_vec(bytes, &config.name).expect("the testkit writes valid files")
        };
        let main = file(Mtp::Without);
        let mtp = mtp.then(|| file(Mtp::Ds4File));
        let config = Config::from_gguf(&main).expect("a V4 model");
        Self { main, mtp, config }
    }

    /// An engine on the model.
    ///
    /// # Panics
    /// When it does not open.
    pub fn open<B: Ops>(&self, be: B, options: Options) -> Core<B> {
        let mtp = self.mtp.as_ref().map(|file| {
            let source = find_mtp(file, &self.config).expect("an MTP block");
            bind_mtp(file, &self.config, &source).expect("a whole MTP block")
        });
        Core::open(be, &self.main, self.config.clone(), mtp.as_ref(), options).expect("opens")
    }
}

/// Sizes for one sequence.
pub fn options(context: usize, step_rows: usize, rows: RowFormat) -> Options {
    Options {
        logit_rows: step_rows.min(4),
        rows,
        anchor_bytes: 64 << 20,
        ..Options::single(context, step_rows)
    }
}

/// Feeds a prompt in chunks; logits of the last rows, `[min(4, n), vocab]`, flattened.
///
/// # Panics
/// When a step fails.
pub fn run<B: Ops>(core: &mut Core<B>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let keep = tokens.len().min(4);
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for part in tokens.chunks(chunk) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(4) }]).expect("feeds");
        rows.extend((0..core.n_logits()).map(|i| core.logits(i).to_vec()));
        core.commit(&[part.len() as u32]).expect("commits");
    }
    rows[rows.len() - keep..].concat()
}

/// The greedy continuation after `last`, the logits of the last prompt token.
///
/// # Panics
/// When a step fails.
pub fn greedy<B: Ops>(core: &mut Core<B>, last: &[f32], n: usize) -> Vec<u32> {
    let mut next = argmax(last);
    let mut out = vec![next];
    while out.len() < n {
        core.feed(&[Feed { slot: 0, tokens: &[next], wanted: Wanted::Last(1) }]).expect("feeds");
        next = argmax(core.logits(0));
        core.commit(&[1]).expect("commits");
        out.push(next);
    }
    out
}

/// Largest and root-mean-square difference.
///
/// # Panics
/// When a value is not finite.
pub fn distance(got: &[f32], want: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|v| v.is_finite()), "a value is not finite");
    let diffs = || got.iter().zip(want).map(|(g, w)| (g - w).abs());
    let max = diffs().fold(0.0, f32::max);
    let rms = (diffs().map(|d| f64::from(d * d)).sum::<f64>() / got.len() as f64).sqrt();
    (max, rms as f32)
}

/// One variant of the golden runs.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The model.
    pub config: &'a oracle::Config,
    /// Its file's types.
    pub scheme: Scheme,
    /// Name of the golden runs.
    pub variant: &'a str,
    /// Numerics.
    pub rows: RowFormat,
    /// Rows of a step.
    pub chunk: usize,
}

/// Runs every golden prompt of a variant and compares its last logits, and the greedy tokens of
/// the exact variant. `tolerance` gives the largest and the rms difference for a prompt length. The
/// largest differences found.
///
/// # Panics
/// When a difference is larger.
pub fn check<B: Ops>(
    golden: &Golden,
    what: &Run<'_>,
    tolerance: &dyn Fn(usize) -> (f32, f32),
    make: &dyn Fn() -> B,
) -> (f32, f32) {
    let model = Model::new(what.config, what.scheme);
    let (mut compared, mut worst) = (0, (0.0f32, 0.0f32));
    for n in [1, 3, 17, 130, 300, 700] {
        let key = format!("{}/{n}", what.variant);
        if !golden.contains(&format!("{key}/logits")) {
            continue;
        }
        let ids = |key: &str| golden.i32(key).1.iter().map(|t| *t as u32).collect::<Vec<_>>();
        let sizes = options(n + 32, what.chunk.min(n), what.rows);
        let mut core = model.open(make(), sizes);
        let logits = run(&mut core, &ids(&format!("tokens/{n}")), what.chunk);
        let (max, rms) = distance(&logits, &golden.f32(&format!("{key}/logits")).1);
        let label = format!("{} {key}: max {max}, rms {rms}", what.config.name);
        let (max_allowed, rms_allowed) = tolerance(n);
        assert!(max <= max_allowed && rms <= rms_allowed, "{label}");
        if what.variant == "exact" {
            let want = ids(&format!("{key}/greedy"));
            let last = &logits[logits.len() - what.config.vocab..];
            assert_eq!(greedy(&mut core, last, want.len()), want, "{label}");
        }
        compared += 1;
        worst = (worst.0.max(max), worst.1.max(rms));
    }
    assert!(compared > 0, "no golden runs called {}", what.variant);
    worst
}
