//! What real clients send. The bodies are those of Claude Code 2.1.197, Codex 0.169.0 and opencode
//! 1.18.33, with their texts taken out and a few tools kept.

use serde_json::{Value, json};

use crate::common::{Setup, serve};

fn body(of: &str) -> Value {
    let text = match of {
        "claude_code" => include_str!("../data/claude_code.json"),
        "codex" => include_str!("../data/codex.json"),
        _ => include_str!("../data/opencode.json"),
    };
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn what_coding_agents_send_is_taken() {
    let cases = [
        ("claude_code", "/v1/messages", "message_stop"),
        ("codex", "/v1/responses", "response.completed"),
        ("opencode", "/v1/chat/completions", "[DONE]"),
    ];
    for (client, path, end) in cases {
        let server = serve(&["Hm.</think>Hi.", "Hm.</think>Hi."]);
        let events = server.stream(path, body(client)).await;
        let (name, data) = events.last().unwrap();
        assert!(name == end || data == end, "{client}: {name} {data}");
        let text: String = events.iter().map(|(_, data)| data.as_str()).collect();
        assert!(text.contains("\"Hi\""), "{client}: {text}");
    }
}

#[tokio::test]
async fn tools_that_nobody_runs_are_named_in_the_response() {
    let server = serve(&["Hm.</think>Hi."]);
    let events = server.stream("/v1/responses", body("codex")).await;
    let last = crate::common::json(&events.last().unwrap().1);
    assert_eq!(last["response"]["keid"]["left_out_tools"], json!(["web_search"]));
}

#[tokio::test]
async fn an_unknown_field_of_an_agent_is_named_with_its_path() {
    let server = serve(&["x"]);
    for (client, path, name) in [
        ("claude_code", "/v1/messages", "messages[0].content[1].frob"),
        ("codex", "/v1/responses", "input[0].content[0].frob"),
        ("opencode", "/v1/chat/completions", "messages[0].frob"),
    ] {
        let mut body = body(client);
        let pointer = format!("/{}", name.replace("].", "/").replace(['[', '.'], "/"));
        let (parent, _) = pointer.rsplit_once('/').unwrap();
        let place = body.pointer_mut(parent).unwrap_or_else(|| panic!("{client}: {parent}"));
        place["frob"] = json!(1);
        let (status, body) = server.post(path, body).await;
        assert_eq!(status, 400);
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused_in_words_that_agents_know() {
    let server = Setup { context: 64, ..Setup::new(&["x"]) }.serve();
    let (status, refused) = server.post("/v1/messages", body("claude_code")).await;
    assert_eq!(status, 400);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("prompt is too long: "), "{message}");
    assert!(message.ends_with(" tokens > 64 maximum"), "{message}");
    for (client, path) in [("codex", "/v1/responses"), ("opencode", "/v1/chat/completions")] {
        let (status, refused) = server.post(path, body(client)).await;
        assert_eq!(status, 400);
        assert_eq!(refused["error"]["code"], "context_length_exceeded", "{refused}");
    }
}

#[tokio::test]
async fn reasoning_ends_at_its_budget() {
    let server = serve(&["one two three four five six seven"]);
    let ask = |thinking: Value| {
        let messages = json!([{"role": "user", "content": "hi"}]);
        json!({"model": "m", "max_tokens": 40, "messages": messages, "thinking": thinking})
    };
    let limited = json!({"type": "enabled", "budget_tokens": 3});
    let body = server.ask("/v1/messages", ask(limited.clone())).await;
    assert_eq!(body["content"][0]["thinking"], "one two three");
    assert_eq!(body["content"][1]["type"], "text", "the answer follows: {body}");
    let mut chat = ask(limited);
    chat["messages"][0]["content"] = json!("hello");
    let body = server.ask("/v1/chat/completions", chat).await;
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "one two three");
    let free = server.ask("/v1/messages", ask(json!({"type": "adaptive"}))).await;
    assert_eq!(free["content"][0]["thinking"], "one two three four five six seven");
}

#[tokio::test]
async fn any_tool_means_that_one_is_called() {
    let inside = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">\n\
        <｜DSML｜parameter name=\"at\" string=\"true\">it</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let server = serve(&[inside]);
    let schema =
        json!({"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]});
    let ask = |choice: Value| {
        json!({
            "model": "m", "max_tokens": 99, "tool_choice": choice,
            "messages": [{"role": "user", "content": "look"}],
            "tools": [
                {"name": "look", "input_schema": schema},
                {"type": "custom", "name": "wait", "input_schema": {"type": "object"}},
            ],
        })
    };
    let body = server.ask("/v1/messages", ask(json!({"type": "any"}))).await;
    assert_eq!(body["stop_reason"], "tool_use");
    assert_eq!(body["content"][0]["input"], json!({"at": "it"}));
    let mut contradiction = ask(json!({"type": "any"}));
    contradiction["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    assert_eq!(server.post("/v1/messages", contradiction).await.0, 400);
}

#[tokio::test]
async fn the_response_says_what_was_reused_and_where_it_differs() {
    let server = serve(&["Fine."]);
    let ask = |system: &str, streams: bool| {
        json!({
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": "How is it?"},
            ],
            "thinking": {"type": "disabled"}, "stream": streams,
        })
    };
    let first = server.ask("/v1/chat/completions", ask("It is Monday here.", false)).await;
    assert_eq!(first["keid"]["prefix"]["matched_tokens"], 0);
    let again = server.ask("/v1/chat/completions", ask("It is Monday here.", false)).await;
    let n_prompt = again["usage"]["prompt_tokens"].as_u64().unwrap();
    let prefix = &again["keid"]["prefix"];
    assert_eq!(prefix["reused_tokens"].as_u64(), Some(n_prompt - 1));
    assert_eq!(prefix["differs"], json!(null));

    let events = server.stream("/v1/chat/completions", ask("It is Sunday here.", true)).await;
    let first = crate::common::json(&events[0].1);
    let differs = &first["keid"]["prefix"]["differs"];
    let texts = ["text", "held"].map(|key| differs[key].as_str().unwrap().trim().to_owned());
    assert_eq!(texts, ["Sunday", "Monday"], "{first}");
    assert!(differs["after"].as_str().unwrap().ends_with("It is"));
    let message = json!({
        "model": "m", "max_tokens": 9, "stream": true, "thinking": {"type": "disabled"},
        "system": "It is Friday here.", "messages": [{"role": "user", "content": "How is it?"}],
    });
    let events = server.stream("/v1/messages", message).await;
    let start = crate::common::json(&events[0].1);
    assert_eq!(start["message"]["keid"]["prefix"]["differs"]["text"], " Friday");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = serve(&["One two."]);
    let body = json!({
        "messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "disabled"},
    });
    server.ask("/v1/chat/completions", body).await;
    server.post("/v1/chat/completions", json!({"frob": 1})).await;
    let request = axum::http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let (status, text) = server.send(request).await;
    assert_eq!(status, 200);
    for line in [
        "vllm:num_requests_waiting{model_name=\"keid-test\"} 0.0",
        "vllm:generation_tokens_total{model_name=\"keid-test\"} 4",
        "vllm:request_success_total{model_name=\"keid-test\",finished_reason=\"stop\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"keid-test\"} 1",
        "keid:requests_refused_total{model_name=\"keid-test\",status=\"400\"} 1",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
