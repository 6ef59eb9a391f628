//! `cargo xtask tiny-eval`: keid-tiny's skills on its held-out cases, measured through the engine.

mod case;
mod score;
mod subject;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use case::{Case, read_cases};
use score::Score;
use subject::{Speed, Subject};

/// Score keid-tiny on its held-out cases
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask tiny-eval --limit 20
  cargo xtask tiny-eval --skill tools --failures
  cargo xtask tiny-eval -m q2.gguf --against default.json     how much a recipe costs")]
pub(crate) struct Args {
    /// The model
    #[arg(short, long, default_value = "models/keid-tiny.gguf")]
    model: PathBuf,
    /// The cases: a directory of JSON lines, one file a skill
    #[arg(long, default_value = "models/eval")]
    cases: PathBuf,
    /// Only these skills
    #[arg(long, value_name = "NAME")]
    skill: Vec<String>,
    /// Cases of each skill
    #[arg(long, default_value = "1000")]
    limit: usize,
    /// Conversations whose tokens are computed together
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u16).range(1..=64))]
    slots: u16,
    /// Conversations of each skill in which drafts are made and compared
    #[arg(long, default_value = "8")]
    drafts: usize,
    /// Print every case that fails
    #[arg(long)]
    failures: bool,
    /// Write the figures to this file; skills that were not run keep what it holds for the model
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the change against figures that --json wrote
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Debug, Deserialize, Serialize)]
struct Figures {
    /// First bytes of the name that [`Gguf::fingerprint`](gguf::Gguf::fingerprint) gives the weights.
    fingerprint: String,
    speed: Speed,
    skills: BTreeMap<String, Score>,
}

impl Args {
    /// Prints a line a skill, a total, and how fast it was.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let before = self.against.as_deref().map(read_figures).transpose()?;
        let cases = self.chosen()?;
        let mut subject = Subject::open(&self.model, self.slots.into())?;
        let speed = subject.speed()?;
        let start = Instant::now();
        let mut skills: BTreeMap<String, Score> = BTreeMap::new();
        subject.answer_all(&cases, &mut |case, answer| {
            let right = case.expect.holds(&answer.reply);
            skills.entry(case.skill.clone()).or_default().add(answer, right);
            if self.failures && !right {
                println!("{}: {:?}\n  {:?}\n", case.skill, case.expect, answer.reply);
            }
        })?;
        println!("{}", Score::head(before.is_some()));
        let change = |skill: &str| before.as_ref().map(|b| b.skills.get(skill));
        for (skill, score) in &skills {
            println!("{}", score.row(skill, change(skill)));
        }
        let all = skills.values().sum::<Score>();
        println!("{}", all.row("all", before.as_ref().map(|_| None)));
        println!("\n{speed}\n{:.0} s", start.elapsed().as_secs_f64());
        match &self.json {
            Some(path) => write_figures(path, subject.fingerprint(), speed, skills),
            None => Ok(()),
        }
    }

    /// The first `limit` cases of every chosen skill; the first `drafts` of them draft.
    fn chosen(&self) -> anyhow::Result<Vec<Case>> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut cases = read_cases(&self.cases)?;
        if let Some(name) = self.skill.iter().find(|name| cases.iter().all(|c| c.skill != **name)) {
            bail!("{} holds no skill called {name}", self.cases.display());
        }
        cases.retain_mut(|case| {
            let n = seen.entry(case.skill.clone()).or_default();
            *n += 1;
            case.drafts = *n <= self.drafts;
            *n <= self.limit && (self.skill.is_empty() || self.skill.contains(&case.skill))
        });
        Ok(cases)
    }
}

fn read_figures(path: &Path) -> anyhow::Result<Figures> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: not figures", path.display()))
}

fn write_figures(
    path: &Path,
    fingerprint: String,
    speed: Speed,
    mut skills: BTreeMap<String, Score>,
) -> anyhow::Result<()> {
    if path.exists() {
        let held = read_figures(path)?;
        if held.fingerprint == fingerprint {
            for (skill, score) in held.skills {
                skills.entry(skill).or_insert(score);
            }
        }
    }
    let figures = Figures { fingerprint, speed, skills };
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
