use engine::Sampling;
use runtime::{Params, Penalties};
use serde_json::{Map, Value};
use tokenizer::Specials;

use crate::app::State;
use crate::error::ApiError;
use crate::fields::{flag, logit_bias, number, text, whole};
use crate::{ids, prepare};

/// A request that is ready to run.
pub(crate) struct Job {
    pub(super) model: String,
    pub(super) streams: bool,
    pub(super) includes_usage: bool,
    pub(super) wants_logprobs: bool,
    pub(super) stop: Vec<String>,
    /// One request for every choice of every prompt, with the text to show before it.
    pub(super) runs: Vec<(runtime::Request, String)>,
    pub(super) n_prompts: usize,
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
    let prompts = prompts(state, fields.remove("prompt"))?;
    let n = whole(fields.remove("n"), "n", 1, 16)?.unwrap_or(1) as usize;
    let best_of = whole(fields.remove("best_of"), "best_of", 1, 16)?;
    if best_of.is_some_and(|best_of| best_of as usize != n) {
        return Err(ApiError::field("best_of", "`best_of` should be the same as `n`"));
    }
    let echoes = flag(fields.remove("echo"), "echo")?.unwrap_or(false);
    let logprobs = whole(fields.remove("logprobs"), "logprobs", 0, 20)?;
    if echoes && logprobs.is_some() {
        let message = "`logprobs` of the prompt are not computed: use `echo` or `logprobs` alone";
        return Err(ApiError::field("logprobs", message));
    }
    let seed =
        whole(fields.remove("seed"), "seed", 0, i64::MAX as u64)?.unwrap_or_else(ids::random);
    let max_tokens = whole(fields.remove("max_tokens"), "max_tokens", 1, 1 << 32)?.unwrap_or(16);
    let job = Job {
        model: text(fields.remove("model"), "model")?
            .unwrap_or_else(|| state.options.model.clone()),
        streams: flag(fields.remove("stream"), "stream")?.unwrap_or(false),
        includes_usage: includes_usage(fields.remove("stream_options"))?,
        wants_logprobs: logprobs.is_some(),
        stop: stop(fields.remove("stop"))?,
        runs: Vec::new(),
        n_prompts: prompts.len(),
    };
    let (sampling, penalties) = (sampling(&mut fields)?, penalties(&mut fields)?);
    fields.remove("user");
    if let Some(name) = fields.keys().next() {
        return Err(ApiError::field(name, format!("`{name}` is not supported by this server")));
    }
    let context = state.runtime.limits().context;
    let mut runs = Vec::with_capacity(prompts.len() * n);
    for (i, prompt) in prompts.into_iter().flat_map(|p| std::iter::repeat_n(p, n)).enumerate() {
        let left = context.saturating_sub(prompt.ids.len());
        if left == 0 {
            return Err(prepare::too_long(context, prompt.ids.len()));
        }
        let params = Params {
            sampling: Sampling { seed: seed.wrapping_add(i as u64), ..sampling },
            penalties: penalties.clone(),
            stop_tokens: state.stop_tokens.clone(),
            logprobs: logprobs.map(|n| n as usize),
            ..Params::greedy(prompt.ids, left.min(max_tokens as usize))
        };
        let echo = if echoes { prompt.text } else { String::new() };
        runs.push((state.runtime.limits().check(params)?, echo));
    }
    Ok(Job { runs, ..job })
}

#[derive(Clone)]
struct RawPrompt {
    ids: Vec<u32>,
    text: String,
}

/// A text, ids, or a list of either.
fn prompts(state: &State, value: Option<Value>) -> Result<Vec<RawPrompt>, ApiError> {
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
            Value::String(text) => from_text(state, text),
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
    ids.extend(state.tokenizer.encode(&text, Specials::Parse));
    Ok(RawPrompt { ids, text })
}

fn from_ids(state: &State, ids: Vec<u32>) -> Result<RawPrompt, ApiError> {
    let bytes = state.tokenizer.decode(&ids);
    let bytes = bytes.map_err(|error| ApiError::field("prompt", error.to_string()))?;
    Ok(RawPrompt { ids, text: String::from_utf8_lossy(&bytes).into_owned() })
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
    let Some(options) = options else { return Ok(false) };
    let Value::Object(mut options) = options else {
        return Err(ApiError::field("stream_options", "`stream_options` should be an object"));
    };
    let includes = flag(options.remove("include_usage"), "stream_options.include_usage")?;
    match options.keys().next() {
        None => Ok(includes.unwrap_or(false)),
        Some(name) => {
            let message = format!("`stream_options.{name}` is not supported by this server");
            Err(ApiError::field("stream_options", message))
        }
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
