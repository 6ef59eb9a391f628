//! Every field of a request is honoured or refused by name.
//!
//! DeepSeek's crates read the fields they know and skip the rest. So before they see a body, each
//! field is looked up here: passed on to them, taken off because this server honours it itself,
//! accepted where it asks for what is done anyway, or refused.

use chat::protocol::Protocol;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::grammar::Form;

/// What is done with a field.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Read by DeepSeek's crates.
    Passed,
    /// Read by [`Own`].
    Own,
    /// Says something about the client that changes no answer: an identifier, a note, a hint
    /// about caching that is done anyway.
    Inert,
    /// Accepted with one of these values, which describe what is done anyway.
    Only(&'static [&'static str]),
}

use Field::{Inert, Only, Own as Ours, Passed};

const CHAT: &[(&str, Field)] = &[
    ("messages", Passed),
    ("model", Passed),
    ("frequency_penalty", Ours),
    ("presence_penalty", Ours),
    ("logit_bias", Ours),
    ("logprobs", Passed),
    ("top_logprobs", Passed),
    ("max_tokens", Passed),
    ("max_completion_tokens", Ours),
    ("n", Ours),
    ("seed", Passed),
    ("stop", Passed),
    ("stream", Passed),
    ("stream_options", Passed),
    ("temperature", Passed),
    ("top_p", Passed),
    ("top_k", Ours),
    ("min_p", Ours),
    ("response_format", Passed),
    ("tools", Passed),
    ("tool_choice", Passed),
    ("parallel_tool_calls", Ours),
    ("reasoning_effort", Passed),
    ("thinking", Passed),
    ("return_progress", Ours),
    ("metadata", Inert),
    ("user", Inert),
    ("safety_identifier", Inert),
    ("prompt_cache_key", Inert),
    ("store", Only(&["false"])),
    ("modalities", Only(&["[\"text\"]"])),
    ("service_tier", Only(&["\"auto\"", "\"default\""])),
    ("verbosity", Only(&["\"medium\""])),
];

const MESSAGES: &[(&str, Field)] = &[
    ("messages", Passed),
    ("model", Passed),
    ("system", Passed),
    ("max_tokens", Passed),
    ("temperature", Passed),
    ("top_p", Passed),
    ("top_k", Ours),
    ("min_p", Ours),
    ("seed", Ours),
    ("stop_sequences", Passed),
    ("stream", Passed),
    ("tools", Passed),
    ("tool_choice", Passed),
    ("thinking", Passed),
    ("output_config", Passed),
    ("output_format", Ours),
    ("metadata", Passed),
    ("return_progress", Ours),
    ("cache_control", Inert),
    ("context_management", Only(&["{\"edits\":[]}"])),
    ("service_tier", Only(&["\"auto\"", "\"standard_only\""])),
];

const RESPONSES: &[(&str, Field)] = &[
    ("input", Passed),
    ("model", Passed),
    ("instructions", Passed),
    ("max_output_tokens", Passed),
    ("reasoning", Passed),
    ("stream", Passed),
    ("temperature", Passed),
    ("top_p", Passed),
    ("top_logprobs", Passed),
    ("text", Passed),
    ("tools", Passed),
    ("tool_choice", Passed),
    ("user", Passed),
    ("parallel_tool_calls", Ours),
    ("top_k", Ours),
    ("min_p", Ours),
    ("seed", Ours),
    ("store", Ours),
    ("previous_response_id", Ours),
    ("return_progress", Ours),
    ("metadata", Inert),
    ("safety_identifier", Inert),
    ("prompt_cache_key", Inert),
    ("prompt_cache_retention", Inert),
    ("client_metadata", Inert),
    ("include", Only(&["[]", "[\"reasoning.encrypted_content\"]"])),
    ("background", Only(&["false"])),
    ("truncation", Only(&["\"disabled\""])),
    ("service_tier", Only(&["\"auto\"", "\"default\""])),
    ("stream_options", Only(&["{}", "{\"include_obfuscation\":false}"])),
];

/// What this server reads from a body itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Own {
    /// Completions of one prompt.
    pub(crate) n: usize,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) top_k: usize,
    pub(crate) min_p: f32,
    pub(crate) seed: Option<u64>,
    /// As the request says them: while thinking, DeepSeek's crates put their own in the place.
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) allows_parallel_calls: bool,
    /// The form of the answer. Beside tools DeepSeek's crates only render it.
    pub(crate) form: Option<Form>,
    pub(crate) returns_progress: bool,
    /// Whether the response is stored; `true` where a Responses request does not say.
    pub(crate) stores: bool,
    pub(crate) previous_response_id: Option<String>,
}

/// Most completions of one prompt.
const N_MAX: u64 = 16;

/// Takes the server's own fields off a body and leaves what DeepSeek's crates read.
pub(crate) fn take(protocol: Protocol, body: &mut Value) -> Result<Own, ApiError> {
    let Some(fields) = body.as_object_mut() else {
        return Err(ApiError::bad_request("the request body should be a JSON object"));
    };
    // A null is how some clients leave a field out.
    fields.retain(|_, value| !value.is_null());
    let table = match protocol {
        Protocol::Chat => CHAT,
        Protocol::Messages => MESSAGES,
        Protocol::Responses => RESPONSES,
    };
    check(table, fields)?;
    fields.retain(|name, _| !matches!(field(table, name), Some(Inert | Only(_))));
    if let Some(max) = fields.remove("max_completion_tokens") {
        fields.entry("max_tokens").or_insert(max);
    }
    let bias = fields.remove("logit_bias");
    Ok(Own {
        n: whole(fields.remove("n"), "n", 1, N_MAX)?.unwrap_or(1) as usize,
        presence_penalty: number(
            fields.remove("presence_penalty"),
            "presence_penalty",
            -2.0..=2.0,
        )?
        .unwrap_or(0.0),
        frequency_penalty: number(
            fields.remove("frequency_penalty"),
            "frequency_penalty",
            -2.0..=2.0,
        )?
        .unwrap_or(0.0),
        logit_bias: bias.map(logit_bias).transpose()?.unwrap_or_default(),
        top_k: whole(fields.remove("top_k"), "top_k", 0, 1 << 20)?.unwrap_or(0) as usize,
        min_p: number(fields.remove("min_p"), "min_p", 0.0..=1.0)?.unwrap_or(0.0),
        seed: match protocol {
            // Chat's own seed is read by DeepSeek's crates.
            Protocol::Chat => None,
            _ => whole(fields.remove("seed"), "seed", 0, i64::MAX as u64)?,
        },
        temperature: number(fields.get("temperature").cloned(), "temperature", 0.0..=2.0)?,
        top_p: number(fields.get("top_p").cloned(), "top_p", 0.0..=1.0)?,
        allows_parallel_calls: parallel_calls(fields)?,
        form: form(protocol, fields)?,
        returns_progress: flag(fields.remove("return_progress"), "return_progress")?
            .unwrap_or(false),
        stores: match protocol {
            Protocol::Responses => flag(fields.remove("store"), "store")?.unwrap_or(true),
            _ => false,
        },
        previous_response_id: text(fields.remove("previous_response_id"), "previous_response_id")?,
    })
}

fn field(table: &[(&str, Field)], name: &str) -> Option<Field> {
    table.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
}

fn check(table: &[(&str, Field)], fields: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in fields {
        match field(table, name) {
            None => {
                let message = format!("`{name}` is not supported by this server");
                return Err(ApiError::field(name, message));
            }
            Some(Only(values)) if !values.contains(&value.to_string().as_str()) => {
                let message = format!("`{name}`: only {} is supported", values.join(" or "));
                return Err(ApiError::field(name, message));
            }
            Some(Only(_) | Passed | Ours | Inert) => {}
        }
    }
    Ok(())
}

/// Chat and Responses have a field, Messages says it inside the tool choice.
fn parallel_calls(fields: &mut Map<String, Value>) -> Result<bool, ApiError> {
    if let Some(allows) = flag(fields.remove("parallel_tool_calls"), "parallel_tool_calls")? {
        return Ok(allows);
    }
    let disables = fields.get("tool_choice").and_then(|c| c.get("disable_parallel_tool_use"));
    Ok(!flag(disables.cloned(), "tool_choice.disable_parallel_tool_use")?.unwrap_or(false))
}

/// The form of the answer, where each protocol says it. Messages' own is not known to DeepSeek's
/// crates, so it is taken off.
fn form(protocol: Protocol, fields: &mut Map<String, Value>) -> Result<Option<Form>, ApiError> {
    let (name, format) = match protocol {
        Protocol::Chat => ("response_format", fields.get("response_format").cloned()),
        Protocol::Responses => {
            ("text.format", fields.get("text").and_then(|text| text.get("format")).cloned())
        }
        Protocol::Messages => {
            let config = fields.get_mut("output_config").and_then(Value::as_object_mut);
            let format = config.and_then(|config| config.remove("format"));
            ("output_config.format", format.or_else(|| fields.remove("output_format")))
        }
    };
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let inner = format.get("json_schema").unwrap_or(&format);
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Form::object())),
        Some("json_schema") => match inner.get("schema") {
            Some(schema) => Ok(Some(Form::Schema(schema.clone()))),
            None => Err(ApiError::field(name, format!("`{name}` has no `schema`"))),
        },
        Some("regex") => match text(format.get("regex").cloned(), name)? {
            Some(regex) => Ok(Some(Form::Regex(regex))),
            None => Err(ApiError::field(name, format!("`{name}` has no `regex`"))),
        },
        _ => {
            let message =
                format!("`{name}.type` should be text, json_object, json_schema or regex");
            Err(ApiError::field(name, message))
        }
    }
}

pub(crate) fn flag(value: Option<Value>, name: &str) -> Result<Option<bool>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(ApiError::field(name, format!("`{name}` should be true or false"))),
    }
}

pub(crate) fn text(value: Option<Value>, name: &str) -> Result<Option<String>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::field(name, format!("`{name}` should be a string"))),
    }
}

pub(crate) fn whole(
    value: Option<Value>,
    name: &str,
    min: u64,
    max: u64,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => {
            let message =
                format!("`{name}` should be a whole number from {min} to {max}, not {value}");
            Err(ApiError::field(name, message))
        }
    }
}

pub(crate) fn number(
    value: Option<Value>,
    name: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f32>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(number) if range.contains(&number) => Ok(Some(number as f32)),
        _ => {
            let (min, max) = (range.start(), range.end());
            let message = format!("`{name}` should be a number from {min} to {max}, not {value}");
            Err(ApiError::field(name, message))
        }
    }
}

pub(crate) fn logit_bias(value: Value) -> Result<Vec<(u32, f32)>, ApiError> {
    let Value::Object(pairs) = value else {
        return Err(ApiError::field("logit_bias", "`logit_bias` should be an object"));
    };
    let pair = |(token, bias): (String, Value)| {
        let id = token.parse().map_err(|_| {
            let message = format!("`logit_bias` should have token ids as keys, not {token:?}");
            ApiError::field("logit_bias", message)
        })?;
        Ok((id, number(Some(bias), "logit_bias", -100.0..=100.0)?.unwrap_or(0.0)))
    };
    pairs.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(protocol: Protocol, mut body: Value) -> (Option<String>, String) {
        let error = take(protocol, &mut body).unwrap_err();
        (error.param, error.message)
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for protocol in Protocol::ALL {
            let (param, message) = refused(protocol, json!({"model": "m", "frobnicate": 1}));
            assert_eq!(param.as_deref(), Some("frobnicate"));
            assert_eq!(message, "`frobnicate` is not supported by this server");
        }
        let (param, message) = refused(Protocol::Responses, json!({"background": true}));
        assert_eq!(param.as_deref(), Some("background"));
        assert_eq!(message, "`background`: only false is supported");
        let (param, _) = refused(Protocol::Chat, json!({"n": 0}));
        assert_eq!(param.as_deref(), Some("n"));
        let (_, message) = refused(Protocol::Chat, json!({"logit_bias": {"x": 1}}));
        assert_eq!(message, "`logit_bias` should have token ids as keys, not \"x\"");
    }

    #[test]
    fn own_fields_are_taken_off_and_the_rest_is_left() {
        let mut body = json!({
            "model": "m", "messages": [], "n": 2, "presence_penalty": 1, "top_k": 5,
            "logit_bias": {"7": -100}, "user": "u", "seed": null, "max_completion_tokens": 9,
            "temperature": 0.5, "parallel_tool_calls": false, "service_tier": "auto",
        });
        let own = take(Protocol::Chat, &mut body).unwrap();
        assert_eq!((own.n, own.presence_penalty, own.top_k), (2, 1.0, 5));
        assert_eq!(own.logit_bias, [(7, -100.0)]);
        assert!(!own.allows_parallel_calls && !own.stores);
        let left = json!({"model": "m", "messages": [], "temperature": 0.5, "max_tokens": 9});
        assert_eq!(body, left);
    }

    #[test]
    fn messages_say_parallel_calls_inside_the_choice() {
        let choice = json!({"type": "auto", "disable_parallel_tool_use": true});
        let mut body = json!({"messages": [], "tool_choice": choice});
        assert!(!take(Protocol::Messages, &mut body).unwrap().allows_parallel_calls);
    }
}
