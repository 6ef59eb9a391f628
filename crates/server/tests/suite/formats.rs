//! Answers in the form that the request sets.

use serde_json::{Value, json};

use crate::common::{json, serve};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["ok", "kind"],
        "additionalProperties": false,
    })
}

fn chat(format: Value) -> Value {
    json!({
        "messages": [{"role": "user", "content": "as json please"}],
        "response_format": format,
        "max_tokens": 200,
        "temperature": 0,
    })
}

fn schema_format() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}})
}

fn check(text: &str) {
    let value = json(text);
    assert!(value["ok"].is_boolean() && ["a", "b"].contains(&value["kind"].as_str().unwrap()));
    assert_eq!(value.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_schema_holds_behind_thoughts_and_without_them() {
    // The model has something else in mind.
    let server = serve(&["Any thought: {</think>Sure! Here is your JSON."]);
    let body = server.ask("/v1/chat/completions", chat(schema_format())).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Any thought: {");
    check(message["content"].as_str().unwrap());

    let server = serve(&["Sure! Here is your JSON."]);
    let mut body = chat(schema_format());
    body["thinking"] = json!({"type": "disabled"});
    let body = server.ask("/v1/chat/completions", body).await;
    check(body["choices"][0]["message"]["content"].as_str().unwrap());
}

/// DeepSeek's crates leave lengths out of a schema that is strict.
#[tokio::test]
async fn lengths_hold_in_strict_schemas() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 3},
            "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        },
        "required": ["name", "list"],
        "additionalProperties": false,
    });
    let said = r#"Hm.</think>{"name": "abcdefgh", "list": [1, 1, 1, 1]}"#;
    for strict in [false, true] {
        let server = serve(&[said]);
        let format = json!({"name": "x", "strict": strict, "schema": schema.clone()});
        let body = chat(json!({"type": "json_schema", "json_schema": format}));
        let body = server.ask("/v1/chat/completions", body).await;
        let value = json(body["choices"][0]["message"]["content"].as_str().unwrap());
        assert!(value["name"].as_str().unwrap().chars().count() <= 3, "{value}");
        assert!(value["list"].as_array().unwrap().len() <= 2, "{value}");
    }
}

#[tokio::test]
async fn a_schema_holds_in_every_protocol() {
    let server = serve(&["Hm.</think>Sure!"]);
    let body = json!({
        "model": "m", "input": "as json", "temperature": 0,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema()}},
    });
    let body = server.ask("/v1/responses", body).await;
    let items = body["output"].as_array().unwrap();
    let message = items.iter().find(|item| item["type"] == "message").unwrap();
    check(message["content"][0]["text"].as_str().unwrap());
    let body = json!({
        "model": "m", "max_tokens": 200, "temperature": 0,
        "messages": [{"role": "user", "content": "as json"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema()}},
    });
    let body = server.ask("/v1/messages", body).await;
    let blocks = body["content"].as_array().unwrap();
    let text = blocks.iter().find(|block| block["type"] == "text").unwrap();
    check(text["text"].as_str().unwrap());
}

#[tokio::test]
async fn a_form_and_tools_go_together() {
    let tools = json!([{
        "type": "function",
        "function": {"name": "look", "parameters": {
            "type": "object", "properties": {}, "additionalProperties": false,
        }},
    }]);
    let mut body = chat(schema_format());
    body["tools"] = tools;
    let server = serve(&["Hm.</think>Sure!"]);
    let answer = server.ask("/v1/chat/completions", body.clone()).await;
    check(answer["choices"][0]["message"]["content"].as_str().unwrap());

    let call = "Hm.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let server = serve(&[call]);
    let answer = server.ask("/v1/chat/completions", body).await;
    let calls = &answer["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"]["name"], "look");
    assert_eq!(json(calls[0]["function"]["arguments"].as_str().unwrap()), json!({}));
}

#[tokio::test]
async fn objects_and_expressions() {
    // Nothing but an object can come out, and nothing is left to say after `{}`.
    let server = serve(&["</think>{}"]);
    let body = server.ask("/v1/chat/completions", chat(json!({"type": "json_object"}))).await;
    assert_eq!(body["choices"][0]["message"]["content"], "{}");
    let server = serve(&["</think>Never."]);
    let format = json!({"type": "regex", "regex": "(yes|no)/[0-9]{2}"});
    let body = server.ask("/v1/chat/completions", chat(format)).await;
    let text = body["choices"][0]["message"]["content"].as_str().unwrap();
    let (word, number) = text.split_once('/').unwrap();
    assert!(["yes", "no"].contains(&word) && number.len() == 2, "{text}");
}

#[tokio::test]
async fn what_is_no_grammar_is_refused() {
    let server = serve(&["x"]);
    let format = json!({"type": "regex", "regex": "(("});
    let (status, body) = server.post("/v1/chat/completions", chat(format)).await;
    assert_eq!((status.as_u16(), &body["error"]["param"]), (400, &json!("response_format")));
}
