//! `/v1/completions`.

use serde_json::{Value, json};

use crate::common::{json, serve};

#[tokio::test]
async fn raw_prompts_are_continued_and_echoed() {
    // A raw prompt has no header, so the engine begins its turn at once, and never ends it.
    let server = serve(&["A"]);
    let body = json!({"prompt": "AAA", "max_tokens": 3, "echo": true, "model": "m"});
    let body = server.ask("/v1/completions", body).await;
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["choices"][0]["text"], "AAAAAA");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn prompts_come_in_lists_and_as_ids() {
    let server = serve(&["A"]);
    let body = json!({"prompt": ["x", [5, 6, 7]], "max_tokens": 2, "n": 2, "logprobs": 1});
    let body = server.ask("/v1/completions", body).await;
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["text"], "AA");
        assert_eq!(choice["logprobs"]["tokens"], json!(["A", "A"]));
        assert_eq!(choice["logprobs"]["top_logprobs"][0].as_object().unwrap().len(), 1);
        let offsets: Vec<u64> = choice["logprobs"]["text_offset"]
            .as_array()
            .unwrap()
            .iter()
            .map(|offset| offset.as_u64().unwrap())
            .collect();
        assert_eq!(offsets, [0, 1]);
    }
    // "x" and its beginning of sentence, three ids.
    assert_eq!(body["usage"]["prompt_tokens"], 2 + 3);
}

#[tokio::test]
async fn raw_streams_end_with_usage_and_the_mark() {
    let server = serve(&["ab"]);
    let body = json!({
        "prompt": "x", "max_tokens": 3, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let events = server.stream("/v1/completions", body).await;
    assert_eq!(events.last().unwrap().1, "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| json(&event.1)).collect();
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "ababab");
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(5)));
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_name() {
    let server = serve(&["A"]);
    for (field, value) in [
        ("suffix", json!("x")),
        ("best_of", json!(3)),
        ("logprobs", json!(2)),
        ("prompt", json!([["x"]])),
        ("stop", json!([1])),
        ("temperature", json!("hot")),
    ] {
        let mut body = json!({"prompt": "x", "echo": field == "logprobs"});
        body[field] = value;
        let (status, body) = server.post("/v1/completions", body).await;
        assert_eq!((status.as_u16(), body["error"]["param"].as_str()), (400, Some(field)));
    }
}

#[tokio::test]
async fn a_stop_string_cuts_a_raw_answer() {
    let server = serve(&["A"]);
    let body = json!({"prompt": "x", "max_tokens": 50, "stop": "AAA"});
    let body = server.ask("/v1/completions", body).await;
    assert_eq!(body["choices"][0]["text"], "");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["completion_tokens"], 3);
}
