use chat::protocol::Protocol;
use engine::Sampling;
use runtime::{Params, Penalties};
use serde_json::{Map, Value};
use tokenizer::Specials;

use crate::app::State;
use crate::error::ApiError;
use crate::fields::{check_completions, flag, logit_bias, number, text, whole};
use crate::{ids, prepare};

/// A request that is ready to run.
pub(crate) struct Job {
    pub(super) model: String,
    pub(super) streams: bool,
    pub(super) includes_usage: bool,
    pub(super) wants_logprobs: bool,
    pub(super) stop: Vec<String>,
    /// One request for every choice of every prompt.
    pub(super) runs: Vec<(runtime::Request, RawPrompt)>,
    pub(super) n_prompts: usize,
    /// Choices of each prompt to show: the likeliest by mean log probability.
    pub(super) n_shown: usize,
    /// How the prompt is shown.
    pub(super) echo: Echo,
    /// Whether only the prompt is wanted.
    pub(super) hides_answer: bool,
}

/// How a prompt is shown before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    No,
    Text,
    /// Token by token, with log probabilities.
    Scored,
}

/// Most prompts of one request.
const PROMPTS_MAX: usize = 64;
/// Most stop strings.
const STOPS_MAX: usize = 16;

/// Validates a body and makes its job.
pub(crate) fn job(state: &State, body: &[u8]) -> Result<Job, ApiError> {
    let Value::Object(mut fields) = prepare::json(body)? else {
        return Err(ApiError::bad_request("the request body should be a JSON object"));
    };
    fields.retain(|_, value| !value.is_null());
    check_completions(&fields)?;
    let suffix = text(fields.remove("suffix"), "suffix")?;
    let prompts = prompts(state, fields.remove("prompt"), suffix.as_deref())?;
    let n = whole(fields.remove("n"), "n", 1, 16)?.unwrap_or(1) as usize;
    let best_of = whole(fields.remove("best_of"), "best_of", 1, 16)?;
    let n_tried = best_of.map_or(n, |best_of| best_of as usize);
    if n_tried < n {
        let message = format!("`best_of` should be at least `n`, which is {n}, not {n_tried}");
        return Err(ApiError::field("best_of", message));
    }
    let echoes = flag(fields.remove("echo"), "echo")?.unwrap_or(false);
    let logprobs = whole(fields.remove("logprobs"), "logprobs", 0, 20)?;
    let echo = match (echoes, logprobs) {
        (false, _) => Echo::No,
        (true, None) => Echo::Text,
        (true, Some(_)) => Echo::Scored,
    };
    let seed =
        whole(fields.remove("seed"), "seed", 0, i64::MAX as u64)?.unwrap_or_else(ids::random);
    // The prompt alone is an answer if it is shown.
    let least = u64::from(!echoes);
    let max_tokens =
        whole(fields.remove("max_tokens"), "max_tokens", least, 1 << 32)?.unwrap_or(16);
    let job = Job {
        model: text(fields.remove("model"), "model")?
            .unwrap_or_else(|| state.options.model.clone()),
        streams: flag(fields.remove("stream"), "stream")?.unwrap_or(false),
        includes_usage: includes_usage(fields.remove("stream_options"))?,
        wants_logprobs: logprobs.is_some(),
        stop: stop(fields.remove("stop"))?,
        runs: Vec::new(),
        n_prompts: prompts.len(),
        n_shown: n,
        echo,
        hides_answer: max_tokens == 0,
    };
    if n_tried > n && job.streams {
        let message = "`best_of` answers are compared when they are complete: they cannot stream";
        return Err(ApiError::field("best_of", message));
    }
    let (sampling, penalties) = (sampling(&mut fields)?, penalties(&mut fields)?);
    let context = state.runtime.limits().context;
    // What is compared is the mean log probability.
    let ranked = (n_tried > n).then_some(0);
    let mut runs = Vec::with_capacity(prompts.len() * n_tried);
    let tries = prompts.into_iter().flat_map(|p| std::iter::repeat_n(p, n_tried));
    for (i, prompt) in tries.enumerate() {
        let left = context.saturating_sub(prompt.ids.len());
        if left == 0 {
            return Err(prepare::too_long(Protocol::Chat, context, prompt.ids.len()));
        }
        let params = Params {
            sampling: Sampling { seed: seed.wrapping_add(i as u64), ..sampling },
            penalties: penalties.clone(),
            stop_tokens: state.stop_tokens.clone(),
            logprobs: logprobs.map(|n| n as usize).or(ranked),
            prompt_logprobs: logprobs.map(|n| n as usize).filter(|_| echo == Echo::Scored),
            ..Params::greedy(prompt.ids.clone(), left.min(max_tokens.max(1) as usize))
        };
        runs.push((state.runtime.limits().check(params)?, prompt));
    }
    Ok(Job { runs, ..job })
}

/// A prompt as it is read and as it is shown.
#[derive(Clone)]
pub(super) struct RawPrompt {
    pub(super) ids: Vec<u32>,
    pub(super) text: String,
    /// First tokens that were put before the text and are no part of it.
    pub(super) n_silent: usize,
}

/// A text, ids, or a list of either.
fn prompts(
    state: &State,
    value: Option<Value>,
    suffix: Option<&str>,
) -> Result<Vec<RawPrompt>, ApiError> {
    let wrong = || {
        let message = "`prompt` should be a string, an array of token ids, or an array of either";
        ApiError::field("prompt", message)
    };
    let many = match value {
        Some(Value::Array(items)) if items.iter().all(|item| item.is_number()) => {
            vec![Value::Array(items)]
        }
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
        None => return Err(ApiError::field("prompt", "`prompt` is missing")),
    };
    if many.is_empty() || many.len() > PROMPTS_MAX {
        let message =
            format!("`prompt` should hold 1 to {PROMPTS_MAX} prompts, not {}", many.len());
        return Err(ApiError::field("prompt", message));
    }
    many.into_iter()
        .map(|one| match one {
            Value::String(text) => match suffix {
                None => from_text(state, text),
                Some(suffix) => around_hole(state, text, suffix),
            },
            Value::Array(_) if suffix.is_some() => {
                Err(ApiError::field("suffix", "`suffix` needs a `prompt` of text"))
            }
            Value::Array(ids) => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
                from_ids(state, ids.ok_or_else(wrong)?)
            }
            _ => Err(wrong()),
        })
        .collect()
}

fn from_text(state: &State, text: String) -> Result<RawPrompt, ApiError> {
    let mut ids = Vec::new();
    if !text.starts_with(chat::BOS) {
        ids.extend(state.tokenizer.special_id(chat::BOS));
    }
    let n_silent = ids.len();
    ids.extend(state.tokenizer.encode(&text, Specials::Parse));
    Ok(RawPrompt { ids, text, n_silent })
}

/// The prompt to fill in what is missing between two texts, in DeepSeek's order: what comes
/// before the hole, the hole, what comes behind it. Both are text whatever they spell.
fn around_hole(state: &State, text: String, suffix: &str) -> Result<RawPrompt, ApiError> {
    let tokenizer = &state.tokenizer;
    let mark = |spelling: &str| {
        tokenizer.special_id(spelling).ok_or_else(|| {
            let message = "`suffix`: this model's vocabulary has no tokens to fill in the middle \
                           with";
            ApiError::field("suffix", message)
        })
    };
    let mut ids: Vec<u32> = tokenizer.special_id(chat::BOS).into_iter().collect();
    ids.push(mark("<｜fim▁begin｜>")?);
    let n_silent = ids.len();
    ids.extend(tokenizer.encode(&text, Specials::Text));
    ids.push(mark("<｜fim▁hole｜>")?);
    ids.extend(tokenizer.encode(suffix, Specials::Text));
    ids.push(mark("<｜fim▁end｜>")?);
    Ok(RawPrompt { ids, text, n_silent })
}

fn from_ids(state: &State, ids: Vec<u32>) -> Result<RawPrompt, ApiError> {
    let bytes = state.tokenizer.decode(&ids);
    let bytes = bytes.map_err(|error| ApiError::field("prompt", error.to_string()))?;
    Ok(RawPrompt { ids, text: String::from_utf8_lossy(&bytes).into_owned(), n_silent: 0 })
}

fn sampling(fields: &mut Map<String, Value>) -> Result<Sampling, ApiError> {
    let mut number = |name, range| number(fields.remove(name), name, range);
    Ok(Sampling {
        temperature: number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
        top_p: number("top_p", 0.0..=1.0)?.unwrap_or(1.0),
        min_p: number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        top_k: whole(fields.remove("top_k"), "top_k", 0, 1 << 20)?.unwrap_or(0) as usize,
        ..Sampling::GREEDY
    })
}

fn penalties(fields: &mut Map<String, Value>) -> Result<Penalties, ApiError> {
    let bias = fields.remove("logit_bias").map(logit_bias).transpose()?.unwrap_or_default();
    let mut number = |name| number(fields.remove(name), name, -2.0..=2.0);
    Ok(Penalties {
        presence: number("presence_penalty")?.unwrap_or(0.0),
        frequency: number("frequency_penalty")?.unwrap_or(0.0),
        logit_bias: bias,
    })
}

fn includes_usage(options: Option<Value>) -> Result<bool, ApiError> {
    match options {
        None => Ok(false),
        Some(Value::Object(mut options)) => {
            let includes = flag(options.remove("include_usage"), "stream_options.include_usage")?;
            Ok(includes.unwrap_or(false))
        }
        Some(_) => Err(ApiError::field("stream_options", "`stream_options` should be an object")),
    }
}

fn stop(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = |message: String| Err(ApiError::field("stop", message));
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    let stops: Option<Vec<String>> =
        items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    match stops {
        Some(stops) if stops.len() > STOPS_MAX => wrong(format!("`stop`: at most {STOPS_MAX}")),
        Some(stops) if stops.iter().any(String::is_empty) => {
            wrong("`stop` should not be empty".to_owned())
        }
        Some(stops) => Ok(stops),
        None => wrong("`stop` should be a string or an array of strings".to_owned()),
    }
}
