use std::time::Duration;

/// What happens to a request, in order: `Queued` at most once, `Started` once, `Prompt` after
/// every part of the prompt, `Token`s, and exactly one of `Finished` and `Failed`, the last.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Waits for a place behind this many others.
    Queued {
        /// Requests before this one.
        ahead: usize,
    },
    /// Has a place; the prompt is about to be read.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Beginning of the prompt that agrees with something held.
        matched_tokens: usize,
        /// Beginning of the prompt that need not be computed: the last anchor inside the match.
        cached_tokens: usize,
        /// What is held in the place of the first token that does not agree, if anything is.
        instead: Option<u32>,
    },
    /// Part of the prompt was read.
    Prompt {
        /// Tokens of the prompt that are held now.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token of the prompt was scored, if that was asked for: all but the first, in order.
    PromptToken(TokenEvent),
    /// A token was chosen. Stop tokens are not told.
    Token(TokenEvent),
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// There will be no (more) answer.
    Failed(Failure),
}

impl Event {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed(_))
    }
}

/// One chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// The token.
    pub id: u32,
    /// Its log probability and those of the likeliest, if they were asked for: of the model's own
    /// distribution, before temperature, penalties and constraints.
    pub logprobs: Option<Box<TokenLogprob>>,
}

/// Log probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Of the chosen token.
    pub chosen: f32,
    /// The likeliest tokens, best first, ties by id.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose this stop token.
    Stop(u32),
    /// The request's limit of tokens is reached.
    Length,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that agree with something held. Where this is less than the prompt,
    /// it is the position of the first token that differs.
    pub matched_tokens: usize,
    /// Tokens of the prompt that were not computed: the last anchor inside the match.
    pub cached_tokens: usize,
    /// Tokens chosen, stop token included.
    pub completion_tokens: usize,
    /// Time until the request had a place.
    pub queued: Duration,
    /// Time from there to the first token.
    pub prefill: Duration,
    /// Time from there to the end.
    pub decode: Duration,
}

/// Why there is no (more) answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The engine refused or failed.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// The grammar failed.
    #[error("the output constraint failed: {0}")]
    Constraint(String),
    /// The receiver was full for longer than is allowed.
    #[error("the client did not read for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The process is ending.
    #[error("the server is shutting down")]
    ShuttingDown,
}
