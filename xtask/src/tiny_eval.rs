//! `cargo xtask tiny-eval`: keid-tiny's skills on its held-out cases, measured through the engine.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use backend_cpu::{Cpu, PoolOptions};
use chat::protocol::{Protocol, Request, RequestOptions};
use chat::{
    Finish, FormatHints, ParserOptions, PromptFormat, Reply, StreamParser, THINK_END, THINK_START,
};
use engine::{Core, Engine, Feed, Options, Wanted, argmax, prefill};
use gguf::Gguf;
use model::{Config, bind_mtp, find_mtp};
use serde::Deserialize;
use serde_json::Value;
use tokenizer::Tokenizer;

/// Score keid-tiny on its held-out cases
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model
    #[arg(short, long, default_value = "models/keid-tiny.gguf")]
    model: PathBuf,
    /// The cases: a directory of JSON lines, one file a skill
    #[arg(long, default_value = "models/eval")]
    cases: PathBuf,
    /// Cases of each skill
    #[arg(long, default_value = "1000")]
    limit: usize,
    /// Print every case that fails
    #[arg(long)]
    failures: bool,
}

/// An answer that is longer scores nothing.
const ANSWER_TOKENS: usize = 400;

/// One line of a case file.
#[derive(Debug, Deserialize)]
struct Case {
    skill: String,
    request: Value,
    expect: Expect,
}

/// What an answer must be.
#[derive(Debug, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase")]
enum Expect {
    /// The whole text.
    Exact { answer: String },
    /// A part of the text.
    Contains { answer: String },
    /// A story of some length about certain things.
    Story { contains: Vec<String>, min_chars: usize },
    /// These tool calls, in this order.
    Calls { calls: Vec<Call> },
}

#[derive(Debug, Deserialize)]
struct Call {
    name: String,
    arguments: Value,
}

/// Counts of one skill.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    cases: usize,
    right: usize,
    stopped: usize,
    /// Cases that want tool calls, and those of them whose calls are valid JSON objects.
    with_calls: usize,
    parsed: usize,
    drafted: usize,
    accepted: usize,
}

/// One answer.
struct Answer {
    reply: Reply,
    stopped: bool,
    drafted: usize,
    accepted: usize,
}

/// The model, ready to answer.
struct Subject {
    core: Core<Cpu>,
    tokenizer: Arc<Tokenizer>,
    format: PromptFormat,
    eos: u32,
}

impl Args {
    /// Prints a line a skill and a total.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut subject = Subject::open(&self.model)?;
        let mut scores: BTreeMap<String, Score> = BTreeMap::new();
        let start = Instant::now();
        for case in self.read_cases()? {
            let score = scores.entry(case.skill.clone()).or_default();
            if score.cases == self.limit {
                continue;
            }
            let answer = subject.answer(&case.request)?;
            let right = case.expect.holds(&answer.reply);
            score.add(&case.expect, &answer, right);
            if self.failures && !right {
                println!("{}: {:?}\n  {:?}\n", case.skill, case.expect, answer.reply);
            }
        }
        println!("| skill | cases | right | stops | calls parse | draft accepted |");
        println!("|---|---|---|---|---|---|");
        let mut total = Score::default();
        for (skill, score) in &scores {
            println!("{}", score.row(skill));
            total.merge(score);
        }
        println!("{}", total.row("all"));
        println!("\n{:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn read_cases(&self) -> anyhow::Result<Vec<Case>> {
        let dir = self.cases.display();
        let entries =
            std::fs::read_dir(&self.cases).with_context(|| format!("cannot read {dir}"))?;
        let mut files: Vec<PathBuf> =
            entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
        files.sort();
        let mut cases = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            for (i, line) in text.lines().enumerate() {
                let case = serde_json::from_str(line)
                    .with_context(|| format!("{}: line {}", file.display(), i + 1))?;
                cases.push(case);
            }
        }
        if cases.is_empty() {
            bail!("{dir} holds no cases");
        }
        Ok(cases)
    }
}

impl Subject {
    fn open(path: &std::path::Path) -> anyhow::Result<Self> {
        let gguf = Gguf::open(path)?;
        let config = Config::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
        let hints = FormatHints::from_metadata(gguf.metadata())?;
        let format = PromptFormat::detect(&hints)?.format;
        let mtp = match find_mtp(&gguf, &config) {
            Some(source) => Some(bind_mtp(&gguf, &config, &source)?),
            None => None,
        };
        let options = Options { draft: mtp.is_some(), ..Options::single(config.context_max, 512) };
        let cpu = Cpu::new(PoolOptions { threads: None, pin: false })?;
        let eos = tokenizer.special_id(chat::EOS).context("the vocabulary has no end token")?;
        let core = Core::open(cpu, &gguf, config, mtp.as_ref(), options)?;
        Ok(Self { core, tokenizer: Arc::new(tokenizer), format, eos })
    }

    fn answer(&mut self, request: &Value) -> anyhow::Result<Answer> {
        let body = with_model(request);
        let options = RequestOptions { model: "keid-tiny".to_owned(), thinks: true };
        let request = Request::parse(Protocol::Chat, &serde_json::to_vec(&body)?, &options)?;
        let ids = request.prompt(self.format).encode(&self.tokenizer)?;
        let starts_in_reasoning = match ids.last().copied() {
            last if last == self.tokenizer.special_id(THINK_START) => true,
            last if last == self.tokenizer.special_id(THINK_END) => false,
            _ => bail!("a prompt that ends neither in reasoning nor after it"),
        };
        let tool_calls = body.get("tools").is_some();
        let parsing = ParserOptions { starts_in_reasoning, tool_calls, stop: Vec::new() };
        let mut parser = StreamParser::new(self.tokenizer.clone(), parsing);
        self.core.release(0);
        prefill(&mut self.core, 0, &ids, &mut |_, _| ControlFlow::Continue(()))?;
        self.generate(&mut parser)
    }

    fn generate(&mut self, parser: &mut StreamParser) -> anyhow::Result<Answer> {
        let mut answer =
            Answer { reply: Reply::default(), stopped: false, drafted: 0, accepted: 0 };
        let mut guess = None;
        let mut token = argmax(self.core.logits(0));
        for _ in 0..ANSWER_TOKENS {
            if let Some(guess) = guess {
                answer.drafted += 1;
                answer.accepted += usize::from(guess == token);
            }
            if token == self.eos {
                answer.stopped = true;
                break;
            }
            parser.push(token)?.iter().for_each(|event| answer.reply.push(event));
            if self.core.info().draft {
                guess = Some(argmax(self.core.draft(0, token)?));
            }
            self.core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
            self.core.commit(&[1])?;
            token = argmax(self.core.logits(0));
        }
        let finish = if answer.stopped { Finish::Stop } else { Finish::Length };
        parser.finish(finish)?.iter().for_each(|event| answer.reply.push(event));
        Ok(answer)
    }
}

/// A request without a model's name gets one, as the protocol demands.
fn with_model(request: &Value) -> Value {
    let mut body = request.clone();
    if let Some(object) = body.as_object_mut() {
        object.entry("model").or_insert_with(|| "keid-tiny".into());
    }
    body
}

impl Expect {
    fn holds(&self, reply: &Reply) -> bool {
        let text = reply.content.trim();
        match self {
            Self::Exact { answer } => text == answer.trim() && reply.tool_calls.is_empty(),
            Self::Contains { answer } => text.contains(answer.as_str()),
            Self::Story { contains, min_chars } => {
                text.chars().count() >= *min_chars && contains.iter().all(|c| text.contains(c))
            }
            Self::Calls { calls } => {
                calls.len() == reply.tool_calls.len()
                    && calls.iter().zip(&reply.tool_calls).all(|(want, got)| {
                        let arguments = serde_json::from_str::<Value>(&got.arguments).ok();
                        want.name == got.name && arguments.as_ref() == Some(&want.arguments)
                    })
            }
        }
    }
}

impl Score {
    fn add(&mut self, expect: &Expect, answer: &Answer, right: bool) {
        self.cases += 1;
        self.right += usize::from(right);
        self.stopped += usize::from(answer.stopped);
        self.drafted += answer.drafted;
        self.accepted += answer.accepted;
        if let Expect::Calls { .. } = expect {
            let calls = &answer.reply.tool_calls;
            let object = |text: &str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
            self.with_calls += 1;
            let parses = !calls.is_empty() && calls.iter().all(|c| object(&c.arguments));
            self.parsed += usize::from(parses);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.cases += other.cases;
        self.right += other.right;
        self.stopped += other.stopped;
        self.with_calls += other.with_calls;
        self.parsed += other.parsed;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }

    fn row(&self, label: &str) -> String {
        let share = |part: usize, whole: usize| match whole {
            0 => String::new(),
            _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
        };
        format!(
            "| {label} | {} | {} | {} | {} | {} |",
            self.cases,
            share(self.right, self.cases),
            share(self.stopped, self.cases),
            share(self.parsed, self.with_calls),
            share(self.accepted, self.drafted),
        )
    }
}
