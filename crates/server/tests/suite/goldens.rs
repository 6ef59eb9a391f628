//! DeepSeek's serving library, its fixtures: what it makes of the same requests and answers.

use serde_json::{Value, json};
use tokenizer::Specials;

use crate::common::{Setup, json, serve, tokenizer};

fn cases(kind: &str) -> Vec<Value> {
    let text = include_str!("../../../chat/tests/data/encoding_fixtures_recipe.json");
    json(text)[kind].as_array().unwrap().clone()
}

fn path(case: &Value) -> &'static str {
    match case["protocol"].as_str().unwrap() {
        "chat" => "/v1/chat/completions",
        "messages" => "/v1/messages",
        _ => "/v1/responses",
    }
}

/// What differs from run to run, or by how a text was cut into pieces.
const VARYING: [&str; 18] = [
    "id",
    "item_id",
    "call_id",
    "created",
    "created_at",
    "completed_at",
    "usage",
    "sequence_number",
    "keid",
    "signature",
    // A name made of the response's id.
    "encrypted_content",
    "max_output_tokens",
    "store",
    "model",
    "parallel_tool_calls",
    "prompt_cache_key",
    "strict",
    "logprobs",
];

/// Takes off what varies, and the texts of deltas, which are gathered.
fn strip(value: &mut Value, text: &mut String) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, text)),
        Value::Object(fields) => {
            fields.retain(|name, _| !VARYING.contains(&name.as_str()));
            if let Some(delta) = fields.get_mut("delta") {
                gather(delta, text);
            }
            fields.values_mut().for_each(|value| strip(value, text));
        }
        _ => {}
    }
}

fn gather(delta: &mut Value, text: &mut String) {
    match delta {
        Value::String(piece) => text.push_str(&std::mem::take(piece)),
        Value::Array(items) => items.iter_mut().for_each(|item| gather(item, text)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_text = ["content", "reasoning_content", "text", "thinking", "partial_json"]
                    .contains(&name.as_str());
                if is_text || name == "arguments" || value.is_object() || value.is_array() {
                    gather(value, text);
                }
            }
        }
        _ => {}
    }
}

/// Events, neighbours of one kind put together.
fn gathered(events: impl Iterator<Item = Value>) -> Vec<(Value, String)> {
    let mut all: Vec<(Value, String)> = Vec::new();
    for mut event in events.filter(|event| event["type"] != "ping") {
        let mut text = String::new();
        strip(&mut event, &mut text);
        match all.last_mut() {
            Some((last, gathered)) if *last == event => gathered.push_str(&text),
            _ => all.push((event, text)),
        }
    }
    // A piece that only opens or closes an escape may stand alone.
    all.retain(|(event, text)| !text.is_empty() || !is_silent_delta(event));
    all
}

fn is_silent_delta(event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap_or_default();
    kind.ends_with("delta") && kind != "message_delta"
}

#[tokio::test]
async fn streams_are_those_of_the_serving_library() {
    let all = cases("stream_cases");
    assert!(all.len() >= 14);
    // The grammar decides two of them: where only one text can follow, it is spelled in the
    // tokenizer's own way, so a call that is cut off inside a name is cut off elsewhere; and a tool
    // or a parameter that is not declared is not called.
    let by_grammar = ["c_truncated_tool", "m_think_tools"];
    let is_free = |case: &Value| !by_grammar.iter().any(|id| case["id"] == *id);
    for case in all.into_iter().filter(is_free) {
        let (id, text) = (&case["id"], case["model_text"].as_str().unwrap());
        let mut request = case["request"].clone();
        if case["finish"] == "Length" {
            let n_tokens = tokenizer().encode(text, Specials::Parse).len();
            let name =
                if case["protocol"] == "responses" { "max_output_tokens" } else { "max_tokens" };
            request[name] = n_tokens.into();
        }
        let server = serve(&[text]);
        let mut events = server.stream(path(&case), request).await;
        if case["protocol"] == "chat" {
            assert_eq!(events.pop().unwrap().1, "[DONE]");
        }
        let found = gathered(events.iter().map(|(_, data)| json(data)));
        let expected = gathered(case["events"].as_array().unwrap().iter().cloned());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{id}: event {at}");
        }
        assert_eq!(found.len(), expected.len(), "{id}: {found:#?}");
    }
}

/// Requests that this server takes where the library does not or reads otherwise, and one that it
/// refuses: its own status.
const DIFFERENT: [(&str, u16); 4] = [
    ("developer_role", 200),
    // A forced choice turns thinking off unless the request asks for it.
    ("tool_choice_required_think", 200),
    ("a_tool_choice_any", 200),
    ("r_prev_id", 400),
];

#[tokio::test]
async fn prompts_are_those_of_the_serving_library() {
    let server = Setup { context: 8192, ..Setup::new(&["x"]) }.serve();
    let all = cases("request_cases");
    assert!(all.len() >= 45);
    for case in all {
        let id = case["id"].as_str().unwrap();
        let expected = &case["expected"]["DeepSeek-V4-Pro"];
        let (status, text) = server.post_text(path(&case), &case["request"]).await;
        let body = if text.starts_with('{') { json(&text) } else { json!(null) };
        if let Some((_, expected)) = DIFFERENT.iter().find(|(different, _)| *different == id) {
            assert_eq!(status, *expected, "{id}: {text}");
            continue;
        }
        match expected["ids"].as_array() {
            Some(ids) if body.is_null() => {
                assert!(!ids.is_empty() && status == 200, "{id}: {text}")
            }
            Some(ids) => {
                assert_eq!(body["keid"]["prefix"]["prompt_tokens"], ids.len(), "{id}: {text}")
            }
            None => assert_eq!(expected["status"], status.as_u16(), "{id}: {text}"),
        }
    }
}
