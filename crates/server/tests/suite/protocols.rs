//! What each protocol answers, and what it refuses.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::common::{Setup, serve};

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[tokio::test]
async fn chat_answers_with_reasoning_and_usage() {
    let server = serve(&["Let me see.</think>Four."]);
    let body =
        server.ask("/v1/chat/completions", json!({"model": "any", "messages": user("2+2?")})).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], "Four.");
    assert_eq!(message["reasoning_content"], "Let me see.");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["model"], "any");
    let usage = &body["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 4);
    assert!(usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 4);
}

#[tokio::test]
async fn every_protocol_answers_without_thinking() {
    let server = serve(&["Hello."]);
    let chat = json!({"messages": user("hi"), "thinking": {"type": "disabled"}});
    let body = server.ask("/v1/chat/completions", chat).await;
    assert_eq!(body["choices"][0]["message"]["content"], "Hello.");
    let messages = json!({
        "model": "m", "max_tokens": 50, "messages": user("hi"), "thinking": {"type": "disabled"},
    });
    let body = server.ask("/v1/messages", messages).await;
    assert_eq!(body["content"], json!([{"type": "text", "text": "Hello."}]));
    assert_eq!(body["stop_reason"], "end_turn");
    let responses = json!({"model": "m", "input": "hi", "reasoning": {"effort": "none"}});
    let body = server.ask("/v1/responses", responses).await;
    assert_eq!(body["status"], "completed");
    assert_eq!(body["output"][0]["content"][0]["text"], "Hello.");
}

#[tokio::test]
async fn limits_seeds_and_probabilities_are_honoured() {
    let server = serve(&["one two three four five"]);
    let body = server
        .ask(
            "/v1/chat/completions",
            json!({
                "messages": user("count"), "thinking": {"type": "disabled"}, "max_tokens": 2,
                "logprobs": true, "top_logprobs": 1, "seed": 3, "temperature": 0.7,
            }),
        )
        .await;
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "one two");
    assert_eq!(choice["finish_reason"], "length");
    let told = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told.len(), 2, "{choice}");
    assert_eq!(told[1]["token"], " two");
    assert!(told[1]["logprob"].as_f64().unwrap() > -1e-3);
    assert_eq!(told[1]["top_logprobs"][0]["token"], " two");
}

#[tokio::test]
async fn several_choices_share_one_prompt() {
    let server = serve(&["Yes."]);
    let body = server
        .ask(
            "/v1/chat/completions",
            json!({"messages": user("ok?"), "thinking": {"type": "disabled"}, "n": 3}),
        )
        .await;
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], "Yes.");
    }
    let one = server
        .ask(
            "/v1/chat/completions",
            json!({"messages": user("ok?"), "thinking": {"type": "disabled"}}),
        )
        .await;
    let n = |body: &Value, key| body["usage"][key].as_u64().unwrap();
    assert_eq!(n(&body, "prompt_tokens"), n(&one, "prompt_tokens"));
    assert_eq!(n(&body, "completion_tokens"), 3 * n(&one, "completion_tokens"));
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_and_frees_the_place() {
    let server = serve(&["one two three four five six"]);
    let body = server
        .ask(
            "/v1/chat/completions",
            json!({
                "messages": user("count"), "thinking": {"type": "disabled"}, "stop": [" three"],
            }),
        )
        .await;
    assert_eq!(body["choices"][0]["message"]["content"], "one two");
    let messages = json!({
        "model": "m", "max_tokens": 50, "messages": user("count"),
        "thinking": {"type": "disabled"}, "stop_sequences": [" four"],
    });
    let body = server.ask("/v1/messages", messages).await;
    assert_eq!(body["stop_reason"], "stop_sequence");
    assert_eq!(body["stop_sequence"], " four");
    while server.runtime.stats().running.load(std::sync::atomic::Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_in_the_protocols_words() {
    let server = serve(&["x"]);
    let body = json!({"messages": user("hi"), "guided_magic": 1});
    let (status, body) = server.post("/v1/chat/completions", body).await;
    assert_eq!(status, 400);
    assert_eq!(body["error"]["param"], "guided_magic");
    assert_eq!(body["error"]["type"], "invalid_request_error");
    let body = json!({"max_tokens": 5, "messages": user("hi"), "guided_magic": 1});
    let (status, body) = server.post("/v1/messages", body).await;
    assert_eq!((status.as_u16(), &body["type"]), (400, &json!("error")));
    assert!(body["error"]["message"].as_str().unwrap().contains("guided_magic"));
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_and_a_long_limit_is_cut() {
    let server = Setup { context: 40, ..Setup::new(&["word ".repeat(100).trim()]) }.serve();
    let long = json!({"messages": user(&"many words ".repeat(50))});
    let (status, body) = server.post("/v1/chat/completions", long).await;
    assert_eq!(status, 400);
    assert_eq!(body["error"]["code"], "context_length_exceeded");
    let short = json!({
        "messages": user("hi"), "max_tokens": 4000, "thinking": {"type": "disabled"},
    });
    let body = server.ask("/v1/chat/completions", short).await;
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let usage = &body["usage"];
    assert_eq!(usage["total_tokens"], 40);
}

#[tokio::test]
async fn the_key_opens_and_health_needs_none() {
    let mut setup = Setup::new(&["Hi."]);
    setup.options.api_key = Some("secret".to_owned());
    let server = setup.serve();
    let (status, body) = server.get("/v1/models").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (401, &json!("invalid_api_key")));
    let (status, body) = server.post("/v1/messages", json!({})).await;
    assert_eq!((status.as_u16(), &body["error"]["type"]), (401, &json!("authentication_error")));
    assert_eq!(server.get("/health").await.0, 200);
    let request = Request::get("/v1/models").header("authorization", "Bearer secret");
    let (status, _) = server.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn models_tokens_and_the_description() {
    let server = serve(&["x"]);
    let (_, body) = server.get("/v1/models").await;
    assert_eq!(body["data"][0]["id"], "keid-test");
    assert_eq!(server.get("/v1/models/keid-test").await.0, 200);
    let (status, body) = server.get("/v1/models/other").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("model_not_found")));
    let (status, body) = server.get("/nowhere").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!("not_found")));
    assert_eq!(server.get("/ready").await.0, 200);
    let (_, body) = server.get("/openapi.json").await;
    let of_messages = &body["paths"]["/v1/messages"]["post"]["requestBody"]["content"];
    let fields = &of_messages["application/json"]["schema"]["properties"];
    assert!(fields["messages"].is_object() && fields["max_tokens"].is_object(), "{of_messages}");
    assert!(body["paths"]["/v1/completions"]["post"]["responses"]["429"].is_object());

    let body = server.ask("/tokenize", json!({"content": "Hi <｜User｜>"})).await;
    let ids: Vec<u64> =
        body["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert!(!ids.contains(&128_803), "content spells no control token");
    let text = server.ask("/detokenize", json!({"tokens": ids})).await;
    assert_eq!(text["content"], "Hi <｜User｜>");
    let parsed = json!({"content": "<｜User｜>", "parse_special": true});
    assert_eq!(server.ask("/tokenize", parsed).await["tokens"], json!([128_803]));
}

#[tokio::test]
async fn counting_is_what_asking_reports() {
    let server = serve(&["Hi."]);
    let body = json!({"model": "m", "messages": user("how long is this?"), "system": "Be brief."});
    let count = server.ask("/v1/messages/count_tokens", body.clone()).await;
    let mut asked = body;
    asked["max_tokens"] = json!(5);
    let answer = server.ask("/v1/messages", asked).await;
    assert_eq!(count["input_tokens"], answer["usage"]["input_tokens"]);
}

#[tokio::test]
async fn the_billing_header_does_not_bust_the_cache() {
    let server = serve(&["Hi."]);
    let ask = |cch: &str| {
        let header = format!("x-anthropic-billing-header: cc_version=2.1; cch={cch};");
        json!({
            "model": "m", "max_tokens": 5, "messages": user("hello there"),
            "system": [{"type": "text", "text": header}, {"type": "text", "text": "You code."}],
        })
    };
    let first = server.ask("/v1/messages", ask("aaaaa")).await;
    let second = server.ask("/v1/messages", ask("bbbbb")).await;
    assert_eq!(first["usage"]["cache_read_input_tokens"], 0);
    let cached = second["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(second["usage"]["input_tokens"], 1, "all but the last token: {cached}");
}

/// Where each protocol has its effort, as a path and as a body.
fn efforts(effort: &Value) -> [(&'static str, &'static str, Value); 3] {
    let chat = json!({"messages": user("hi"), "reasoning_effort": effort});
    let responses = json!({"input": "hi", "reasoning": {"effort": effort}});
    let output = json!({"effort": effort});
    let messages = json!({"messages": user("hi"), "max_tokens": 9, "output_config": output});
    [
        ("/v1/chat/completions", "reasoning_effort", chat),
        ("/v1/responses", "reasoning.effort", responses),
        ("/v1/messages", "output_config.effort", messages),
    ]
}

#[tokio::test]
async fn every_effort_is_taken_or_refused_by_name() {
    let server = serve(&["</think>yes"]);
    for effort in ["none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"] {
        for (path, _, body) in efforts(&effort.into()) {
            let (status, body) = server.post(path, body).await;
            assert_eq!(status, 200, "{path}, {effort}: {body}");
        }
    }
    for effort in [json!("HIGH"), json!("auto"), json!(""), json!(3), json!(["high"])] {
        for (path, field, body) in efforts(&effort) {
            let (status, body) = server.post(path, body).await;
            assert_eq!(status, 400, "{path}, {effort}: {body}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.ends_with(&format!("at `{field}`")), "{path}, {effort}: {message}");
            if path != "/v1/messages" {
                assert_eq!(body["error"]["param"], field);
            }
        }
    }
}
