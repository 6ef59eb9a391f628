//! `/openapi.json`: what is served, for tools that ask.

use chat::protocol::Protocol;
use serde_json::{Map, Value, json};

use crate::fields;

/// What a request carries.
#[derive(Clone, Copy)]
enum Carries {
    Nothing,
    /// A body of a protocol, or of completions; whether the answer can be a stream.
    Prompt(Option<Protocol>, bool),
    Text,
    Tokens,
}

use Carries::{Nothing, Prompt};

/// Method, path, summary, body.
const ROUTES: &[(&str, &str, &str, Carries)] = &[
    ("post", "/v1/chat/completions", "OpenAI Chat Completions", Prompt(Some(Protocol::Chat), true)),
    ("post", "/v1/completions", "OpenAI Completions: continue a raw prompt", Prompt(None, true)),
    ("post", "/v1/responses", "OpenAI Responses", Prompt(Some(Protocol::Responses), true)),
    ("get", "/v1/responses/{id}", "A stored response", Nothing),
    ("delete", "/v1/responses/{id}", "Forget a stored response", Nothing),
    ("get", "/v1/responses/{id}/input_items", "The input of a stored response", Nothing),
    ("post", "/v1/messages", "Anthropic Messages", Prompt(Some(Protocol::Messages), true)),
    (
        "post",
        "/v1/messages/count_tokens",
        "Tokens of a Messages prompt",
        Prompt(Some(Protocol::Messages), false),
    ),
    ("get", "/v1/models", "The models: one", Nothing),
    ("get", "/v1/models/{id}", "The model", Nothing),
    ("post", "/tokenize", "Text to tokens", Carries::Text),
    ("post", "/detokenize", "Tokens to text", Carries::Tokens),
    ("get", "/metrics", "Counts and times, for Prometheus", Nothing),
    ("get", "/health", "Whether the process lives", Nothing),
    ("get", "/ready", "Whether requests are taken", Nothing),
];

/// Paths that need no key.
const OPEN: &[&str] = &["/metrics", "/health", "/ready"];

pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for &(method, path, summary, carries) in ROUTES {
        let mut operation = json!({"summary": summary, "responses": responses(carries)});
        if let Some(schema) = schema(carries) {
            let content = json!({"application/json": {"schema": schema}});
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        if path.contains("{id}") {
            operation["parameters"] = json!([
                {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}
            ]);
        }
        if OPEN.contains(&path) {
            operation["security"] = json!([]);
        }
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Keid", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {"securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }},
    })
}

fn schema(carries: Carries) -> Option<Value> {
    match carries {
        Nothing => None,
        Prompt(protocol, _) => Some(fields::schema(protocol)),
        Carries::Text => Some(json!({
            "type": "object",
            "required": ["content"],
            "properties": {
                "content": {"type": "string"},
                "add_special": {"type": "boolean"},
                "parse_special": {"type": "boolean"},
            },
        })),
        Carries::Tokens => Some(json!({
            "type": "object",
            "required": ["tokens"],
            "properties": {"tokens": {"type": "array", "items": {"type": "integer"}}},
        })),
    }
}

fn responses(carries: Carries) -> Value {
    let mut responses = json!({
        "200": {"description": "OK"},
        "4XX": {"description": "Refused; the message names the field at fault"},
    });
    if let Prompt(_, streams) = carries {
        let mut content = json!({"application/json": {}});
        if streams {
            content["text/event-stream"] = json!({});
            let header = json!({"Retry-After": {"schema": {"type": "integer"}}});
            responses["429"] = json!({"description": "The queue is full", "headers": header});
            responses["503"] = json!({"description": "Shutting down", "headers": header});
            responses["500"] = json!({"description": "The engine failed"});
        }
        responses["200"]["content"] = content;
    }
    responses
}
