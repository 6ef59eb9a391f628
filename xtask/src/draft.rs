//! `cargo xtask draft`: whether drafting with the MTP block pays: one stream, greedy, with and
//! without it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use backend_cpu::{Cpu, PoolOptions};
use chat::protocol::{Protocol, Request, RequestOptions};
use chat::{FormatHints, PromptFormat};
use engine::{Core, Feed, Options, Wanted, argmax, prefill};
use gguf::Gguf;
use model::{Config, bind_mtp, find_mtp};
use tokenizer::Tokenizer;

/// Measure what drafting with the MTP block gives
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model
    #[arg(short, long, default_value = "models/keid-tiny.gguf")]
    model: PathBuf,
    /// Tokens of each answer
    #[arg(long, default_value_t = 150)]
    tokens: usize,
}

const QUESTIONS: [&str; 6] = [
    "Tell me a story about a fox.",
    "Tell me a story about a cat and an owl.",
    "What is 17 + 25?",
    "Sort these numbers: 9, 4, 7, 1.",
    "Tell me a story about a bear.",
    "Who are you?",
];

/// What a way of generating took and gave.
#[derive(Default)]
struct Taken {
    time: Duration,
    n_steps: usize,
    answers: Vec<Vec<u32>>,
}

impl Taken {
    fn n_tokens(&self) -> usize {
        self.answers.iter().map(Vec::len).sum()
    }

    fn pace(&self) -> f64 {
        self.n_tokens() as f64 / self.time.as_secs_f64()
    }
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let (plain, drafted) = (self.generate(false)?, self.generate(true)?);
        if plain.answers != drafted.answers {
            bail!("drafting changed an answer");
        }
        let per_step = drafted.n_tokens() as f64 / drafted.n_steps.max(1) as f64;
        println!("plain:   {:7.1} t/s", plain.pace());
        println!("drafted: {:7.1} t/s, {per_step:.2} tokens a step", drafted.pace());
        println!("drafting gives {:.2} of the speed", drafted.pace() / plain.pace());
        Ok(())
    }

    /// Answers all questions.
    fn generate(&self, drafts: bool) -> anyhow::Result<Taken> {
        let gguf = Gguf::open(&self.model)?;
        let config = Config::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
        let format = PromptFormat::detect(&FormatHints::from_metadata(gguf.metadata())?)?.format;
        let source = find_mtp(&gguf, &config).context("the file has no MTP block")?;
        let mtp = bind_mtp(&gguf, &config, &source)?;
        let options = Options {
            draft: drafts,
            logit_rows: 2,
            ..Options::single(2048.min(config.context_max), 512)
        };
        let eos = tokenizer.special_id(chat::EOS).context("the vocabulary has no end token")?;
        let cpu = Cpu::new(PoolOptions { threads: None, pin: false })?;
        let mut core = Core::open(cpu, &gguf, config, drafts.then_some(&mtp), options)?;
        let mut taken = Taken::default();
        for question in QUESTIONS {
            let body = serde_json::json!({
                "model": "m", "messages": [{"role": "user", "content": question}],
            });
            let options = RequestOptions { model: "m".to_owned(), thinks: true };
            let request = Request::parse(Protocol::Chat, body.to_string().as_bytes(), &options)?;
            let prompt = request.prompt(format).encode(&tokenizer)?;
            core.release(0);
            prefill(&mut core, 0, &prompt, &mut |_, _| ControlFlow::Continue(()))?;
            let started = Instant::now();
            let mut answer = vec![argmax(core.logits(0))];
            while answer.len() < self.tokens && answer.last() != Some(&eos) {
                taken.n_steps += 1;
                step(&mut core, &mut answer, drafts, eos)?;
            }
            answer.truncate(self.tokens);
            taken.time += started.elapsed();
            taken.answers.push(answer);
        }
        Ok(taken)
    }
}

/// Feeds the last token, with a guess of the next behind it, and takes what holds.
fn step(core: &mut Core<Cpu>, answer: &mut Vec<u32>, drafts: bool, eos: u32) -> anyhow::Result<()> {
    let Some(&token) = answer.last() else { bail!("an answer begins with a token") };
    if !drafts {
        core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
        core.commit(&[1])?;
        answer.push(argmax(core.logits(0)));
        return Ok(());
    }
    let guess = argmax(core.draft(0, token)?);
    core.feed(&[Feed { slot: 0, tokens: &[token, guess], wanted: Wanted::Last(2) }])?;
    let next = argmax(core.logits(0));
    let holds = next == guess && next != eos;
    let behind = argmax(core.logits(1));
    core.commit(&[1 + u32::from(holds)])?;
    answer.push(next);
    answer.extend(holds.then_some(behind));
    Ok(())
}
