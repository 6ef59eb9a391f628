//! What a grammar leaves no choice about is computed in one step, and changes nothing.

use serde_json::{Value, json};

use crate::common::{Served, serve};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "the_name_of_the_city": {"type": "string", "maxLength": 12},
            "temperature_in_degrees_celsius": {"type": "integer"},
            "is_it_going_to_rain_tomorrow": {"type": "boolean"},
        },
        "required": [
            "the_name_of_the_city", "temperature_in_degrees_celsius", "is_it_going_to_rain_tomorrow",
        ],
        "additionalProperties": false,
    })
}

fn form(seed: u64) -> Value {
    json!({
        "messages": [{"role": "user", "content": "as json please"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}},
        "max_tokens": 200, "temperature": 1, "seed": seed,
    })
}

fn call(seed: u64) -> Value {
    let function = json!({"name": "look_up_the_weather", "parameters": schema()});
    json!({
        "messages": [{"role": "user", "content": "weather?"}], "tool_choice": "required",
        "tools": [{"type": "function", "function": function}], "parallel_tool_calls": false,
        "max_tokens": 300, "temperature": 1, "seed": seed,
    })
}

/// The message, its tokens and the steps that it took.
async fn answer(server: &Served, mut body: Value, one_by_one: bool) -> (Value, Value, u64) {
    // With log probabilities every token has logits of its own.
    body["logprobs"] = one_by_one.into();
    let n_steps = || server.runtime.stats().steps.load(std::sync::atomic::Ordering::Relaxed);
    let before = n_steps();
    let mut answer = server.ask("/v1/chat/completions", body).await;
    let mut message = answer["choices"][0]["message"].take();
    for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
        call["id"].take();
    }
    (message, answer["usage"]["completion_tokens"].take(), n_steps() - before)
}

#[tokio::test]
async fn forced_tokens_are_those_that_come_one_by_one_in_fewer_steps() {
    for body in [form, call] {
        let server = serve(&["A thought.</think>Whatever the model wants."]);
        for seed in 0..6 {
            let (slow, n_slow, steps_slow) = answer(&server, body(seed), true).await;
            let (fast, n_fast, steps_fast) = answer(&server, body(seed), false).await;
            assert_eq!((fast, &n_fast), (slow, &n_slow), "seed {seed}");
            let (n, steps) = (n_slow.as_u64().unwrap(), steps_fast);
            assert!(steps + 10 < steps_slow, "{n} tokens in {steps} steps instead of {steps_slow}");
        }
    }
}

#[tokio::test]
async fn a_limit_among_forced_tokens_holds() {
    let server = serve(&["A thought.</think>Whatever the model wants."]);
    for max_tokens in [6, 7, 8, 9, 14, 30] {
        let mut body = form(3);
        body["max_tokens"] = max_tokens.into();
        let (slow, n_slow, _) = answer(&server, body.clone(), true).await;
        let (fast, n_fast, _) = answer(&server, body, false).await;
        assert_eq!((fast, n_fast), (slow, n_slow), "{max_tokens} tokens");
    }
}
