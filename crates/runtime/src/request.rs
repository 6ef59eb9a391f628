//! What may be asked, and the only way to ask it.

use std::time::Duration;

use engine::{Info, Sampling};

use crate::constraint::Constraint;

/// A request as it is asked for.
pub struct Params {
    /// The prompt. Prompts that share a beginning share its computation.
    pub prompt: Vec<u32>,
    /// How tokens are chosen, seed included: the same request gives the same tokens whatever runs
    /// beside it, as far as the backend computes rows independently.
    pub sampling: Sampling,
    /// Adjustments of logits before sampling.
    pub penalties: Penalties,
    /// Tokens that end the answer. (Stop strings are found where tokens become text.)
    pub stop_tokens: Vec<u32>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Number of likeliest tokens to report with every token, or `None` for no log probabilities.
    pub logprobs: Option<usize>,
    /// Number of likeliest tokens to report with every token of the prompt, or `None` to report
    /// none. Such a prompt is computed whole, whatever is held of it.
    pub prompt_logprobs: Option<usize>,
    /// A grammar.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Params {
    /// The greedy continuation of a prompt.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            sampling: Sampling::GREEDY,
            penalties: Penalties::default(),
            stop_tokens: Vec::new(),
            max_tokens,
            logprobs: None,
            prompt_logprobs: None,
            constraint: None,
        }
    }
}

/// Adjustments of logits, in OpenAI's definitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Penalties {
    /// Subtracted once from tokens that the answer already has; -2 to 2.
    pub presence: f32,
    /// Subtracted from tokens for every time the answer has them; -2 to 2.
    pub frequency: f32,
    /// Added to single tokens; -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Penalties {
    /// Whether nothing is adjusted.
    pub fn is_neutral(&self) -> bool {
        self.presence == 0.0 && self.frequency == 0.0 && self.logit_bias.is_empty()
    }
}

/// A request that can be run. Only [`Limits::check`] makes one.
pub struct Request {
    pub(crate) params: Params,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Params { prompt, max_tokens, sampling, .. } = &self.params;
        let n_prompt = prompt.len();
        write!(f, "Request {{ {n_prompt} prompt tokens, {max_tokens} at most, {sampling:?} }}")
    }
}

/// Most log probabilities per token.
const LOGPROBS_MAX: usize = 64;

/// What an engine can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Token ids are below this.
    pub n_vocab: usize,
}

impl Limits {
    /// The limits of an engine.
    pub fn of(info: &Info) -> Self {
        Self { context: info.options.context, n_vocab: info.n_vocab }
    }

    /// Checks everything that the scheduler relies on.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self, params: Params) -> Result<Request, InvalidRequest> {
        let n_prompt = params.prompt.len();
        if n_prompt == 0 {
            return Err(InvalidRequest::EmptyPrompt);
        }
        if params.max_tokens == 0 {
            return Err(InvalidRequest::NoTokens);
        }
        let wanted = n_prompt.saturating_add(params.max_tokens);
        if wanted > self.context {
            let (context, n_max) = (self.context, params.max_tokens);
            return Err(InvalidRequest::Context { context, n_prompt, n_max });
        }
        let bias = params.penalties.logit_bias.iter().map(|(token, _)| *token);
        let mut ids = params.prompt.iter().copied().chain(params.stop_tokens.iter().copied());
        if let Some(token) = ids.by_ref().chain(bias).find(|&id| id as usize >= self.n_vocab) {
            return Err(InvalidRequest::Token { token, n_vocab: self.n_vocab });
        }
        params.sampling.check().map_err(InvalidRequest::range)?;
        params.penalties.check().map_err(InvalidRequest::range)?;
        for n in [params.logprobs, params.prompt_logprobs].into_iter().flatten() {
            if n > LOGPROBS_MAX {
                return Err(InvalidRequest::range(("logprobs", "0 to 64", n as f32)));
            }
        }
        Ok(Request { params })
    }
}

impl Penalties {
    fn check(&self) -> Result<(), (&'static str, &'static str, f32)> {
        for (name, value) in
            [("presence penalty", self.presence), ("frequency penalty", self.frequency)]
        {
            if !(-2.0..=2.0).contains(&value) {
                return Err((name, "-2 to 2", value));
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
            Some((_, bias)) => Err(("logit bias", "-100 to 100", *bias)),
            None => Ok(()),
        }
    }
}

/// Why something is no request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidRequest {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// There is nothing to generate.
    #[error("max tokens: expected at least 1, found 0")]
    NoTokens,
    /// Prompt and answer do not fit.
    #[error(
        "the context holds {context} tokens; {} were asked for ({n_prompt} in the prompt, {n_max} \
         in the completion)", .n_prompt + .n_max
    )]
    Context {
        /// Tokens that fit.
        context: usize,
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Most tokens of the answer.
        n_max: usize,
    },
    /// An id is not in the vocabulary.
    #[error("token {token}: the vocabulary has {n_vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Ids are below this.
        n_vocab: usize,
    },
    /// A number is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Range {
        /// Which.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was asked.
        found: f32,
    },
}

impl InvalidRequest {
    fn range((option, expected, found): (&'static str, &'static str, f32)) -> Self {
        Self::Range { option, expected, found }
    }
}

/// Why a valid request is not taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("{queued} requests are waiting already; try again in {} s", .retry_after.as_secs())]
    Busy {
        /// Requests that wait.
        queued: usize,
        /// When there may be room, by the recent pace.
        retry_after: Duration,
    },
    /// The process is ending.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine has failed for good.
    #[error("the engine has failed; the server has to be restarted")]
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { context: 8, n_vocab: 10 };

    fn error(change: impl FnOnce(&mut Params)) -> String {
        let mut params = Params::greedy(vec![1, 2], 6);
        change(&mut params);
        LIMITS.check(params).unwrap_err().to_string()
    }

    #[test]
    fn requests_are_checked_and_refused_with_numbers() {
        assert!(LIMITS.check(Params::greedy(vec![1, 2], 6)).is_ok());
        assert_eq!(error(|p| p.prompt.clear()), "the prompt is empty");
        assert_eq!(error(|p| p.max_tokens = 0), "max tokens: expected at least 1, found 0");
        assert_eq!(
            error(|p| p.max_tokens = 7),
            "the context holds 8 tokens; 9 were asked for (2 in the prompt, 7 in the completion)"
        );
        assert_eq!(error(|p| p.prompt[1] = 10), "token 10: the vocabulary has 10 tokens");
        assert_eq!(error(|p| p.stop_tokens = vec![11]), "token 11: the vocabulary has 10 tokens");
        let bias = error(|p| p.penalties.logit_bias = vec![(12, 0.0)]);
        assert_eq!(bias, "token 12: the vocabulary has 10 tokens");
        assert_eq!(error(|p| p.sampling.top_p = 2.0), "top-p: expected 0 to 1, found 2");
        let presence = error(|p| p.penalties.presence = f32::NAN);
        assert_eq!(presence, "presence penalty: expected -2 to 2, found NaN");
        assert_eq!(error(|p| p.logprobs = Some(65)), "logprobs: expected 0 to 64, found 65");
    }
}
