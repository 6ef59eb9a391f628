use std::io::Read as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use chat::PromptFormat;
use http_body_util::BodyExt;
use runtime::fake::FakeEngine;
use runtime::{Runtime, SchedulerOptions, Shutdown};
use serde_json::Value;
use server::{App, Options};
use tokenizer::{Specials, Tokenizer};
use tower::ServiceExt;

/// The vocabulary of V4.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load = || {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/tests/data/tokenizer.json.gz");
        let mut json = Vec::new();
        let file = std::fs::File::open(path).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut json).unwrap();
        Arc::new(Tokenizer::from_json(&json).unwrap())
    };
    Arc::clone(TOKENIZER.get_or_init(load))
}

/// A server whose engine answers with `turns`, special tokens spelled: the first answer of a
/// conversation with the first turn, and so on. Behind a turn comes the end of sentence.
pub(crate) struct Served {
    pub(crate) router: Router,
    pub(crate) runtime: Runtime,
    _thread: Shutdown,
}

#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) turns: Vec<String>,
    pub(crate) n_slots: usize,
    pub(crate) queue_max: usize,
    pub(crate) context: usize,
    pub(crate) step_time: Duration,
    /// The feed at which the device is lost.
    pub(crate) lost_at: u64,
    pub(crate) options: Options,
}

impl Setup {
    pub(crate) fn new(turns: &[&str]) -> Self {
        let options = Options {
            keep_alive: Duration::from_millis(40),
            ..Options::new("keid-test", PromptFormat::V4_0731)
        };
        Self {
            turns: turns.iter().map(|turn| (*turn).to_owned()).collect(),
            n_slots: 4,
            queue_max: 16,
            context: 4096,
            step_time: Duration::ZERO,
            lost_at: u64::MAX,
            options,
        }
    }

    pub(crate) fn serve(self) -> Served {
        let tokenizer = tokenizer();
        let special = |spelling: &str| tokenizer.require_special(spelling).unwrap();
        let (assistant, eos) = (special(chat::ASSISTANT), special(chat::EOS));
        let encode = |turn: &String| tokenizer.encode(turn, Specials::Parse);
        let turns: Vec<Vec<u32>> = self.turns.iter().map(encode).collect();
        let model = move |tokens: &[u32], logits: &mut [f32]| {
            let headers = tokens.iter().filter(|&&id| id == assistant).count();
            let at = tokens.iter().rposition(|&id| id == assistant);
            // Behind the header stands one token of thinking, or a raw prompt has no header.
            let n_said = at.map_or(0, |at| tokens.len().saturating_sub(at + 2));
            let turn = turns.get(headers.saturating_sub(1)).or(turns.last());
            let next = turn.and_then(|turn| turn.get(n_said)).copied().unwrap_or(eos);
            // So far above the others that none of them is a candidate.
            logits[next as usize] = 200.0;
        };
        let engine =
            FakeEngine::new(tokenizer.vocab_size(), self.n_slots, self.context, Box::new(model))
                .with_step(256, self.n_slots)
                .with_step_time(self.step_time)
                .with_loss(self.lost_at);
        let options = SchedulerOptions::default();
        let (runtime, thread) = Runtime::spawn(Box::new(engine), options, self.queue_max).unwrap();
        let app = App::new(runtime.clone(), tokenizer, self.options).unwrap();
        Served { router: app.router(), runtime, _thread: thread }
    }
}

pub(crate) fn serve(turns: &[&str]) -> Served {
    Setup::new(turns).serve()
}

impl Served {
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl ToString) -> (StatusCode, String) {
        let body = Body::from(body.to_string());
        self.send(Request::post(path).body(body).unwrap()).await
    }

    /// A JSON answer to a JSON request.
    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let (status, body) = self.post_text(path, body).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    /// As [`post`](Self::post), for a request that has to succeed.
    pub(crate) async fn ask(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.post(path, body).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, body) = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The events of a stream: name and data.
    pub(crate) async fn stream(&self, path: &str, body: Value) -> Vec<(String, String)> {
        let (status, text) = self.post_text(path, body).await;
        assert_eq!(status, 200, "{text}");
        events(&text)
    }
}

/// Reads server-sent events; comments are left out.
pub(crate) fn events(text: &str) -> Vec<(String, String)> {
    let event = |block: &str| {
        let line = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        (line("event: "), line("data: "))
    };
    text.split("\n\n").map(event).filter(|(_, data)| !data.is_empty()).collect()
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
