//! From a body to requests that the runtime can run. Everything here may take a while (a long
//! prompt is read several times), so routes call it off the asynchronous threads.

use std::sync::Arc;

use axum::http::StatusCode;
use chat::protocol::{Protocol, Request};
use chat::{Prompt, Thinking};
use engine::Sampling;
use runtime::{Params, Penalties};
use serde_json::{Map, Value, json};

use crate::app::State;
use crate::error::ApiError;
use crate::fields::{self, Own};
use crate::{ids, noise, replay, responses};

/// A request that is ready to run.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) protocol: Protocol,
    pub(crate) streams: bool,
    pub(crate) returns_progress: bool,
    pub(crate) choices: Vec<Choice>,
    /// The conversation so far, where the response is to be stored.
    pub(crate) stored_input: Option<Vec<Value>>,
    pub(crate) previous_response_id: Option<String>,
    /// Declared tools that the model is not offered.
    pub(crate) left_out: Vec<String>,
    /// What a response object repeats of its request.
    pub(crate) repeated: Map<String, Value>,
}

/// One of `n` answers to the same prompt.
pub(crate) struct Choice {
    /// For the response.
    pub(crate) request: Request,
    /// For the runtime.
    pub(crate) run: runtime::Request,
    /// The prompt from its last turn's header on: where the sampled turn begins.
    pub(crate) turn_start: Vec<u32>,
    /// The whole prompt, to say where it stops agreeing with what is held.
    pub(crate) prompt: Arc<[u32]>,
}

/// Reads JSON. The reader itself refuses more than 128 levels.
pub(crate) fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("request body is not JSON: {error}")))
}

/// Validates a body and makes its job.
pub(crate) fn job(state: &State, protocol: Protocol, body: &[u8]) -> Result<Job, ApiError> {
    let mut body = json(body)?;
    let own = fields::take(protocol, &mut body)?;
    let stored_input = match protocol {
        Protocol::Responses => responses::continue_stored(state, &own, &mut body)?,
        _ => None,
    };
    let call_ids = replay::call_ids(protocol, &body);
    let body = adapt(protocol, body);
    let mut choices = Vec::with_capacity(own.n);
    let first_seed = own.seed.unwrap_or_else(ids::random);
    let mut prompt: Option<Arc<[u32]>> = None;
    for i in 0..own.n {
        let request = parse(state, protocol, &body, &own)?;
        let ids = match &prompt {
            Some(ids) => Arc::clone(ids),
            None => encode(state, &request.prompt(state.options.format), &call_ids)?.into(),
        };
        let params = params(state, &request, &own, (ids.to_vec(), first_seed, i))?;
        let run = state.runtime.limits().check(params)?;
        let turn_start = replay::turn_start(&state.tokenizer, &ids).to_vec();
        choices.push(Choice { request, run, turn_start, prompt: Arc::clone(&ids) });
        prompt = Some(ids);
    }
    if !own.left_out.is_empty() {
        tracing::info!(tools = ?own.left_out, "the model is not offered tools that nobody here runs");
    }
    Ok(Job {
        id: ids::id(match protocol {
            Protocol::Chat => "chatcmpl-",
            Protocol::Messages => "msg_",
            Protocol::Responses => "resp_",
        }),
        protocol,
        streams: choices.first().is_some_and(|choice| choice.request.streams()),
        returns_progress: own.returns_progress,
        choices,
        stored_input,
        previous_response_id: own.previous_response_id,
        left_out: own.left_out,
        repeated: own.repeated,
    })
}

/// The number of tokens of a Messages body's prompt.
pub(crate) fn count(state: &State, body: &[u8]) -> Result<usize, ApiError> {
    let mut body = json(body)?;
    let own = fields::take(Protocol::Messages, &mut body)?;
    let call_ids = replay::call_ids(Protocol::Messages, &body);
    let body = adapt(Protocol::Messages, body);
    let request = parse(state, Protocol::Messages, &body, &own)?;
    Ok(encode(state, &request.prompt(state.options.format), &call_ids)?.len())
}

fn parse(state: &State, protocol: Protocol, body: &str, own: &Own) -> Result<Request, ApiError> {
    let request = Request::parse(protocol, body.as_bytes(), &state.request_options())?;
    Ok(if own.must_call { request.require_call()? } else { request })
}

fn encode(state: &State, prompt: &Prompt, call_ids: &[String]) -> Result<Vec<u32>, ApiError> {
    let ids = replay::encode(&state.replay(), &state.tokenizer, prompt, call_ids);
    ids.map_err(|error| {
        ApiError::bad_request(format!("this model cannot take this prompt: {error}"))
    })
}

/// Says in the words of DeepSeek's crates what clients say in others.
fn adapt(protocol: Protocol, mut body: Value) -> String {
    let n_removed = noise::remove(&mut body);
    if n_removed > 0 {
        tracing::info!(n_removed, "removed billing headers from the system prompt");
    }
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(fields) = body.as_object_mut() {
        // The names of DeepSeek's service say how to think.
        let by_name = match model.as_str() {
            "deepseek-chat" => Some(false),
            "deepseek-reasoner" => Some(true),
            _ => None,
        };
        // Being made to call a tool leaves no room for thoughts; only a request that asks for
        // both is a contradiction.
        let is_forced = fields.get("tool_choice").is_some_and(is_forced);
        let says_nothing = match protocol {
            Protocol::Chat => {
                !fields.contains_key("thinking") && !fields.contains_key("reasoning_effort")
            }
            Protocol::Messages => {
                !fields.contains_key("thinking") && !fields.contains_key("output_config")
            }
            Protocol::Responses => !fields
                .get("reasoning")
                .is_some_and(|r| r.get("effort").is_some_and(Value::is_string)),
        };
        if let Some(thinks) = by_name.or(is_forced.then_some(false)).filter(|_| says_nothing) {
            let (key, value) = match protocol {
                Protocol::Responses if thinks => ("reasoning", json!({"effort": "high"})),
                Protocol::Responses => ("reasoning", json!({"effort": "none"})),
                _ if thinks => ("thinking", json!({"type": "enabled"})),
                _ => ("thinking", json!({"type": "disabled"})),
            };
            fields.insert(key.to_owned(), value);
        }
        if protocol == Protocol::Chat
            && let Some(Value::Array(messages)) = fields.get_mut("messages")
        {
            let roles = messages.iter_mut().filter_map(|message| message.get_mut("role"));
            roles.filter(|role| *role == "developer").for_each(|role| *role = json!("system"));
        }
        if protocol == Protocol::Responses
            && let Some(Value::Array(items)) = fields.get_mut("input")
        {
            items.iter_mut().for_each(reason_from_summary);
        }
    }
    body.to_string()
}

/// Clients that keep only the summary of a reasoning item send that: what it says stands for the
/// reasoning.
fn reason_from_summary(item: &mut Value) {
    let is_empty =
        |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(|list| list.is_empty());
    let is_reasoning = item.get("type").is_some_and(|kind| kind == "reasoning");
    if is_reasoning && is_empty(item.get("content")) && !is_empty(item.get("summary")) {
        item["content"] = item["summary"].clone();
    }
}

fn is_forced(choice: &Value) -> bool {
    match choice {
        Value::String(word) => word == "required",
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind != "auto" && kind != "none")
        }
        _ => false,
    }
}

fn params(
    state: &State,
    request: &Request,
    own: &Own,
    (prompt, seed, i): (Vec<u32>, u64, usize),
) -> Result<Params, ApiError> {
    let asked = request.sampling();
    let context = state.runtime.limits().context;
    let Some(left) = context.checked_sub(prompt.len()).filter(|left| *left > 0) else {
        return Err(too_long(request.protocol(), context, prompt.len()));
    };
    let max_tokens = match asked.max_tokens {
        // A limit is no promise: the context may end an answer before it, and says so.
        Some(asked) => left.min(asked as usize),
        None => {
            let n = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            request.resolve_max_tokens(n(prompt.len()), n(context))? as usize
        }
    };
    if request.thinking() != Thinking::Off && own.temperature.is_some_and(|t| t != 1.0) {
        tracing::debug!("the model is meant to think at temperature 1");
    }
    let mut constraint = state.grammarian.constraint(request, own)?;
    let budget = own.thinking_budget.filter(|_| request.thinking() != Thinking::Off);
    if let Some(budget) = budget {
        constraint = Some(state.grammarian.limit_reasoning(budget, constraint)?);
    }
    Ok(Params {
        sampling: Sampling {
            temperature: own.temperature.unwrap_or(asked.temperature),
            top_p: own.top_p.unwrap_or(asked.top_p),
            top_k: own.top_k,
            min_p: own.min_p,
            seed: asked.seed.unwrap_or(seed).wrapping_add(i as u64),
            ..Sampling::GREEDY
        },
        penalties: Penalties {
            presence: own.presence_penalty,
            frequency: own.frequency_penalty,
            logit_bias: own.logit_bias.clone(),
        },
        stop_tokens: state.stop_tokens.clone(),
        max_tokens,
        logprobs: asked.top_logprobs.map(usize::from),
        prompt_logprobs: None,
        constraint,
        prompt,
    })
}

/// Refuses a prompt in the words by which each protocol's clients know that it is time to make the
/// conversation shorter.
pub(crate) fn too_long(protocol: Protocol, context: usize, n_prompt: usize) -> ApiError {
    ApiError {
        status: StatusCode::BAD_REQUEST,
        message: match protocol {
            Protocol::Messages => {
                format!("prompt is too long: {n_prompt} tokens > {context} maximum")
            }
            Protocol::Chat | Protocol::Responses => format!(
                "This model's maximum context length is {context} tokens. However, your prompt \
                 has {n_prompt} tokens. Please reduce the length of the messages."
            ),
        },
        param: None,
        code: Some("context_length_exceeded"),
        retry_after_s: None,
    }
}
