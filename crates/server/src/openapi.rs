//! `/openapi.json`: what is served, for tools that ask.

use serde_json::{Map, Value, json};

/// (method, path, summary, whether there is a request body).
const ROUTES: &[(&str, &str, &str, bool)] = &[
    ("post", "/v1/chat/completions", "OpenAI Chat Completions", true),
    ("post", "/v1/completions", "OpenAI Completions: continue a raw prompt", true),
    ("post", "/v1/responses", "OpenAI Responses", true),
    ("get", "/v1/responses/{id}", "A stored response", false),
    ("delete", "/v1/responses/{id}", "Forget a stored response", false),
    ("get", "/v1/responses/{id}/input_items", "The input of a stored response", false),
    ("post", "/v1/messages", "Anthropic Messages", true),
    ("post", "/v1/messages/count_tokens", "Tokens of a Messages prompt", true),
    ("get", "/v1/models", "The models: one", false),
    ("get", "/v1/models/{id}", "The model", false),
    ("post", "/tokenize", "Text to tokens", true),
    ("post", "/detokenize", "Tokens to text", true),
    ("get", "/metrics", "Counts and times, for Prometheus", false),
    ("get", "/health", "Whether the process lives", false),
    ("get", "/ready", "Whether requests are taken", false),
];

pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for &(method, path, summary, has_body) in ROUTES {
        let mut operation = json!({
            "summary": summary,
            "responses": {"200": {"description": "OK"}, "4XX": {"description": "Refused"}},
        });
        if has_body {
            let json = json!({"application/json": {"schema": {"type": "object"}}});
            operation["requestBody"] = json!({"required": true, "content": json});
        }
        if path.contains("{id}") {
            operation["parameters"] = json!([
                {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}
            ]);
        }
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Keid", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
    })
}
