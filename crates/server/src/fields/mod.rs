//! Every field of a request is honoured or refused by name, the nested ones too.
//!
//! DeepSeek's crates read the fields they know and skip the rest. So before they see a body, each
//! field in it is looked up in the [tables](tables): read by them or by this server, accepted where
//! it asks for what is done anyway, or refused.

mod rules;
mod schema;
mod tables;
mod values;

use chat::protocol::Protocol;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::grammar::Form;

use rules::{Rule, Table};
pub(crate) use values::{flag, logit_bias, number, text, whole};

/// What a body of one of the protocols may have, or of completions, as JSON Schema.
pub(crate) fn schema(protocol: Option<Protocol>) -> Value {
    schema::of_body(protocol.map_or(tables::COMPLETIONS, table))
}

fn table(protocol: Protocol) -> Table {
    match protocol {
        Protocol::Chat => tables::CHAT,
        Protocol::Messages => tables::MESSAGES,
        Protocol::Responses => tables::RESPONSES,
    }
}

/// Refuses what a completions body should not have.
pub(crate) fn check_completions(fields: &Map<String, Value>) -> Result<(), ApiError> {
    rules::check(tables::COMPLETIONS, fields, "")
}

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
    /// Whether a call of any tool is wanted, in a protocol where DeepSeek's crates miss that.
    pub(crate) must_call: bool,
    /// Most tokens of reasoning: at that many it is ended.
    pub(crate) thinking_budget: Option<usize>,
    /// Types of declared tools that the model is not offered: web searches, which clients declare
    /// whoever serves them.
    pub(crate) left_out: Vec<String>,
    /// Schemas of the declared tools by their names, as they came.
    pub(crate) tool_schemas: Map<String, Value>,
    /// What a response object repeats of its request, beside what DeepSeek's crates repeat.
    pub(crate) repeated: Map<String, Value>,
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
    let table = table(protocol);
    rules::check(table, fields, "")?;
    let repeated = repeated(protocol, fields);
    let is_read = |rule: &Rule| !matches!(rule, Rule::Inert | Rule::Only(_));
    fields.retain(|name, _| table.iter().any(|(known, rule)| known == name && is_read(rule)));
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
        must_call: protocol == Protocol::Messages && {
            let choice = fields.get("tool_choice").and_then(|choice| choice.get("type"));
            choice.is_some_and(|kind| kind == "any")
        },
        thinking_budget: thinking_budget(fields)?,
        tool_schemas: tool_schemas(fields),
        left_out: leave_out(protocol, fields),
        repeated,
    })
}

/// Where each protocol has them. DeepSeek's crates leave lengths out of a strict one.
fn tool_schemas(fields: &Map<String, Value>) -> Map<String, Value> {
    let tools = fields.get("tools").and_then(Value::as_array);
    let of = |tool: &Value| {
        let tool = tool.get("function").unwrap_or(tool);
        let schema = tool.get("parameters").or_else(|| tool.get("input_schema"))?;
        Some((tool.get("name")?.as_str()?.to_owned(), schema.clone()))
    };
    tools.into_iter().flatten().filter_map(of).collect()
}

fn thinking_budget(fields: &Map<String, Value>) -> Result<Option<usize>, ApiError> {
    let budget = fields.get("thinking").and_then(|thinking| thinking.get("budget_tokens"));
    let budget = whole(budget.cloned(), "thinking.budget_tokens", 1, u64::from(u32::MAX))?;
    Ok(budget.map(|budget| budget as usize))
}

/// Takes tools off that the model cannot be offered and says `strict` no more: calls match their
/// schemas in any case, so a mixture of strict tools and others needs no refusal.
fn leave_out(protocol: Protocol, fields: &mut Map<String, Value>) -> Vec<String> {
    let mut left_out = Vec::new();
    let Some(Value::Array(tools)) = fields.get_mut("tools") else { return left_out };
    tools.retain_mut(|tool| {
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let unmark = |tool: &mut Value| {
            let definition = tool.as_object_mut();
            definition.and_then(|definition| definition.remove("strict"));
        };
        match tool.get_mut("function") {
            Some(function) => unmark(function),
            None => unmark(tool),
        }
        if protocol == Protocol::Messages
            && let Some(definition) = tool.as_object_mut()
        {
            // Where there is a type, DeepSeek's crates expect a tool of Anthropic's servers.
            definition.remove("type");
        }
        let is_search = protocol == Protocol::Responses && kind.starts_with("web_search");
        if is_search {
            left_out.push(kind);
        }
        !is_search
    });
    left_out
}

fn repeated(protocol: Protocol, fields: &Map<String, Value>) -> Map<String, Value> {
    let names = match protocol {
        Protocol::Responses => {
            ["metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"].as_slice()
        }
        Protocol::Chat | Protocol::Messages => &[],
    };
    let of = |name: &&str| Some(((*name).to_owned(), fields.get(*name)?.clone()));
    names.iter().filter_map(of).collect()
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
            let text = fields.get_mut("text").and_then(Value::as_object_mut);
            let is_regex = |format: &Value| format.get("type").is_some_and(|kind| kind == "regex");
            let format = text.and_then(|text| match text.get("format") {
                // DeepSeek's crates do not know it here.
                Some(format) if is_regex(format) => text.remove("format"),
                format => format.cloned(),
            });
            ("text.format", format)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(protocol: Protocol, mut body: Value) -> (String, String) {
        let error = take(protocol, &mut body).unwrap_err();
        (error.param.unwrap_or_default(), error.message)
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for protocol in Protocol::ALL {
            let (param, message) = refused(protocol, json!({"model": "m", "frobnicate": 1}));
            assert_eq!(param, "frobnicate");
            assert_eq!(message, "`frobnicate` is not supported by this server");
        }
        let (param, message) = refused(Protocol::Responses, json!({"background": true}));
        assert_eq!(param, "background");
        assert_eq!(message, "`background`: only false is supported");
        assert_eq!(refused(Protocol::Chat, json!({"n": 0})).0, "n");
        let (_, message) = refused(Protocol::Chat, json!({"logit_bias": {"x": 1}}));
        assert_eq!(message, "`logit_bias` should have token ids as keys, not \"x\"");
    }

    #[test]
    fn nested_fields_are_refused_by_path() {
        use Protocol::{Chat, Messages, Responses};
        let message = |fields: Value| json!({"messages": [fields]});
        let named = json!({"role": "user", "content": "x", "name": "ann"});
        let block = |block: Value| message(json!({"role": "user", "content": [block]}));
        let cases = [
            (Chat, message(named), "messages[0].name"),
            (Chat, block(json!({"type": "text", "text": "x", "z": 1})), "messages[0].content[0].z"),
            (Chat, block(json!({"type": "input_audio"})), "messages[0].content[0].type"),
            (Chat, json!({"stream_options": {"every": 1}}), "stream_options.every"),
            (
                Chat,
                json!({"tools": [{"type": "function", "function": {"z": 1}}]}),
                "tools[0].function.z",
            ),
            (Chat, json!({"thinking": {"budget_tokens": 0}}), "thinking.budget_tokens"),
            (Chat, json!({"store": true}), "store"),
            (Messages, block(json!({"type": "redacted_thinking"})), "messages[0].content[0].type"),
            (
                Messages,
                json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}),
                "tools[0].type",
            ),
            (
                Messages,
                json!({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
                "context_management.edits[0].type",
            ),
            (Messages, json!({"output_config": {"task_budget": {}}}), "output_config.task_budget"),
            (Responses, json!({"input": [{"type": "computer_call"}]}), "input[0].type"),
            (Responses, json!({"tools": [{"type": "mcp"}]}), "tools[0].type"),
            (Responses, json!({"include": ["file_search_call.results"]}), "include[0]"),
            (Responses, json!({"text": {"verbosity": "low"}}), "text.verbosity"),
            (Responses, json!({"tool_choice": {"type": "web_search"}}), "tool_choice.type"),
        ];
        for (protocol, body, path) in cases {
            assert_eq!(refused(protocol, body).0, path);
        }
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

    #[test]
    fn tools_that_nobody_runs_are_left_out_and_named() {
        let tools = json!([
            {"type": "web_search", "external_web_access": false},
            {"type": "function", "name": "f", "strict": true},
        ]);
        let mut body = json!({"input": "x", "tools": tools, "metadata": {"a": "b"}});
        let own = take(Protocol::Responses, &mut body).unwrap();
        assert_eq!(own.left_out, ["web_search"]);
        assert_eq!(body["tools"], json!([{"type": "function", "name": "f"}]));
        assert_eq!(own.repeated["metadata"], json!({"a": "b"}));
        let mut body = json!({"tools": [{"type": "custom", "name": "f", "strict": true}]});
        take(Protocol::Messages, &mut body).unwrap();
        assert_eq!(body["tools"], json!([{"name": "f"}]));
    }
}
