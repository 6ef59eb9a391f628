use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat::protocol::RequestOptions;
use chat::{EOS, PromptFormat, USER};
use runtime::Runtime;
use tokenizer::Tokenizer;

use crate::grammar::Grammarian;
use crate::metrics::Metrics;
use crate::replay::Replay;
use crate::responses::Store;

/// What the server decides where requests are silent.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's name in `/v1/models`. Requests may name any model.
    pub model: String,
    /// The version of the prompt format.
    pub format: PromptFormat,
    /// Whether a request that does not say so thinks.
    pub thinks: bool,
    /// What requests must show, or `None` to let everybody in.
    pub api_key: Option<String>,
    /// Largest body, in bytes.
    pub body_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How often a stream that has nothing to say says that it is alive.
    pub keep_alive: Duration,
    /// Stored responses; the oldest go first.
    pub stored_responses: usize,
}

impl Options {
    /// The usual values.
    pub fn new(model: impl Into<String>, format: PromptFormat) -> Self {
        Self {
            model: model.into(),
            format,
            thinks: true,
            api_key: None,
            body_max: 64 << 20,
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(5),
            stored_responses: 1000,
        }
    }
}

/// The server without its transport; clones share it.
#[derive(Clone)]
pub struct App(pub(crate) Arc<State>);

pub(crate) struct State {
    pub(crate) runtime: Runtime,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) options: Options,
    pub(crate) grammarian: Grammarian,
    /// Tokens that end an answer: the end of sentence, and a user's turn, which a model that
    /// lost its way may begin.
    pub(crate) stop_tokens: Vec<u32>,
    /// Seconds since 1970 at the start.
    pub(crate) created: u64,
    pub(crate) metrics: Metrics,
    store: Mutex<Store>,
    replay: Mutex<Replay>,
}

impl App {
    /// A server over a runtime.
    ///
    /// # Errors
    /// The vocabulary has no end of sentence.
    pub fn new(
        runtime: Runtime,
        tokenizer: Arc<Tokenizer>,
        options: Options,
    ) -> Result<Self, tokenizer::Error> {
        let eos = tokenizer.require_special(EOS)?;
        let mut stop_tokens = vec![eos];
        stop_tokens.extend(tokenizer.special_id(USER));
        Ok(Self(Arc::new(State {
            store: Mutex::new(Store::new(options.stored_responses)),
            replay: Mutex::new(Replay::default()),
            grammarian: Grammarian::new(Arc::clone(&tokenizer), eos),
            created: now(),
            metrics: Metrics::new(&options.model, runtime.clone()),
            runtime,
            tokenizer,
            options,
            stop_tokens,
        })))
    }
}

impl State {
    pub(crate) fn request_options(&self) -> RequestOptions {
        RequestOptions { model: self.options.model.clone(), thinks: self.options.thinks }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replay(&self) -> MutexGuard<'_, Replay> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
