//! Streams, event by event.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Setup, json, serve};

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[tokio::test]
async fn chat_streams_reasoning_then_content_then_the_end() {
    let server = serve(&["Well.</think>Two words."]);
    let body = json!({"messages": user("go"), "stream": true});
    let events = server.stream("/v1/chat/completions", body).await;
    assert_eq!(events.last().unwrap().1, "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| json(&event.1)).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let gathered = |key: &str| {
        let delta = |chunk: &Value| chunk["choices"][0]["delta"][key].as_str().map(str::to_owned);
        chunks.iter().filter_map(delta).collect::<String>()
    };
    assert_eq!(gathered("reasoning_content"), "Well.");
    assert_eq!(gathered("content"), "Two words.");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 4);
}

#[tokio::test]
async fn messages_stream_in_the_order_that_clients_rely_on() {
    let server = serve(&["Well.</think>Hi."]);
    let body = json!({
        "model": "m", "max_tokens": 50, "messages": user("go"), "stream": true,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    });
    let events = server.stream("/v1/messages", body).await;
    let mut names: Vec<&str> = events.iter().map(|event| event.0.as_str()).collect();
    names.retain(|name| *name != "ping");
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert!(json(&events[0].1)["message"]["usage"]["input_tokens"].as_u64().unwrap() > 3);
}

#[tokio::test]
async fn responses_stream_with_rising_numbers_and_one_end() {
    let server = serve(&["Hi there."]);
    let body = json!({
        "model": "m", "input": "go", "stream": true, "reasoning": {"effort": "none"},
    });
    let events = server.stream("/v1/responses", body).await;
    assert_eq!(events[0].0, "response.created");
    assert_eq!(events.last().unwrap().0, "response.completed");
    for (at, (name, data)) in events.iter().enumerate() {
        let data = json(data);
        assert_eq!(data["sequence_number"], at, "{name}");
        assert_eq!(data["type"], name.as_str());
    }
    let response = &json(&events.last().unwrap().1)["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "Hi there.");
}

#[tokio::test]
async fn choices_stream_under_their_index_with_one_end() {
    let server = serve(&["Yes."]);
    let body = json!({
        "messages": user("ok?"), "thinking": {"type": "disabled"}, "n": 2, "stream": true,
    });
    let events = server.stream("/v1/chat/completions", body).await;
    assert_eq!(events.iter().filter(|event| event.1 == "[DONE]").count(), 1);
    assert_eq!(events.last().unwrap().1, "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| json(&event.1)).collect();
    for index in [0, 1] {
        let of_choice = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index);
        let text: String = of_choice
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "Yes.");
    }
    let with_usage = chunks.iter().filter(|chunk| chunk["usage"].is_object());
    assert_eq!(with_usage.count(), 1);
}

#[tokio::test]
async fn waiting_streams_show_that_they_live_and_progress_is_told_on_request() {
    let mut setup = Setup::new(&["Hi."]);
    setup.step_time = Duration::from_millis(60);
    let server = setup.serve();
    let body = json!({
        "messages": user(&"long words here ".repeat(200)), "thinking": {"type": "disabled"},
        "stream": true, "return_progress": true,
    });
    let (_, text) = server.post_text("/v1/chat/completions", &body).await;
    assert!(text.contains(": keep-alive\n\n"), "{text}");
    let progress: Vec<Value> = crate::common::events(&text)
        .iter()
        .filter(|event| event.1 != "[DONE]")
        .map(|event| json(&event.1)["prompt_progress"].clone())
        .filter(|progress| !progress.is_null())
        .collect();
    assert!(progress.len() >= 2, "{progress:?}");
    let last = progress.last().unwrap();
    assert_eq!(last["processed"], last["total"]);
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": user(&"other words ".repeat(300)),
        "stream": true,
    });
    let (_, text) = server.post_text("/v1/messages", &body).await;
    assert!(text.contains("event: ping\ndata: {\"type\": \"ping\"}\n\n"), "{text}");
}

#[tokio::test]
async fn characters_are_never_split() {
    let server = serve(&["👍🏽 日本語 ﷽"]);
    let body = json!({"messages": user("go"), "thinking": {"type": "disabled"}, "stream": true});
    let events = server.stream("/v1/chat/completions", body).await;
    let text: String = events[..events.len() - 1]
        .iter()
        .filter_map(|event| {
            json(&event.1)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(text, "👍🏽 日本語 ﷽");
}
