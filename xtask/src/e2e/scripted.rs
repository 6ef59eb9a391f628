//! The server over an engine that says what is written down: the first turn of a conversation,
//! then the second, and so on.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use chat::PromptFormat;
use runtime::fake::FakeEngine;
use runtime::{Runtime, SchedulerOptions};
use server::{App, HttpOptions, Options};
use tokenizer::{Specials, Tokenizer};

/// V4's vocabulary, packed.
const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/tokenizer/tests/data/tokenizer.json.gz");
/// Tokens of a conversation: more than any agent's prompt.
const CONTEXT: usize = 200_000;
const SLOTS: usize = 16;
const QUEUE: usize = 64;

/// A server on a free port; ends when dropped.
pub(crate) struct Scripted {
    url: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// `turns` spell special tokens. A step takes `step_time`.
    pub(crate) fn start(turns: &[&str], step_time: Duration) -> anyhow::Result<Self> {
        let tokenizer = tokenizer()?;
        let special = |spelling: &str| tokenizer.require_special(spelling);
        let (assistant, eos) = (special(chat::ASSISTANT)?, special(chat::EOS)?);
        let turns: Vec<Vec<u32>> =
            turns.iter().map(|turn| tokenizer.encode(turn, Specials::Parse)).collect();
        let model = move |tokens: &[u32], logits: &mut [f32]| {
            let headers = tokens.iter().filter(|&&id| id == assistant).count();
            let at = tokens.iter().rposition(|&id| id == assistant);
            // Behind the header stands one token of thinking.
            let n_said = at.map_or(0, |at| tokens.len().saturating_sub(at + 2));
            let turn = turns.get(headers.saturating_sub(1)).or(turns.last());
            let next = turn.and_then(|turn| turn.get(n_said)).copied().unwrap_or(eos);
            logits[next as usize] = 200.0;
        };
        let engine = FakeEngine::new(tokenizer.vocab_size(), SLOTS, CONTEXT, Box::new(model))
            .with_step(4096, SLOTS)
            .with_step_time(step_time);
        let (runtime, _) = Runtime::spawn(Box::new(engine), SchedulerOptions::default(), QUEUE)?;
        let app = App::new(runtime, tokenizer, Options::new("keid", PromptFormat::V4_0731))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // The name by which its time on a processor is found.
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            if let Err(error) = server::run(listener, &app, HttpOptions::default(), stopped) {
                eprintln!("the scripted server ended: {error}");
            }
        })?;
        Ok(Self { url, stop, thread: Some(thread) })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong.
            let _ = thread.join();
        }
    }
}

fn tokenizer() -> anyhow::Result<Arc<Tokenizer>> {
    let path = Path::new(TOKENIZER);
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {TOKENIZER}"))?;
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut json)?;
    Ok(Arc::new(Tokenizer::from_json(&json)?))
}
