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
        ("suffix", json!(3)),
        ("best_of", json!(0)),
        ("logprobs", json!(21)),
        ("max_tokens", json!(0)),
        ("stream_options.often", json!(true)),
        ("prompt", json!([["x"]])),
        ("stop", json!([1])),
        ("temperature", json!("hot")),
    ] {
        let mut body = json!({"prompt": "x"});
        match field.split_once('.') {
            Some((outer, inner)) => body[outer] = json!({inner: value}),
            None => body[field] = value,
        }
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

#[tokio::test]
async fn a_prompt_is_scored_token_by_token() {
    let server = serve(&["A"]);
    let ask = |max_tokens: u32, streams: bool| {
        json!({
            "prompt": "one two", "max_tokens": max_tokens, "echo": true, "logprobs": 2,
            "stream": streams,
        })
    };
    let body = server.ask("/v1/completions", ask(1, false)).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], "one twoA");
    let lists = &choice["logprobs"];
    let tokens = json!(["<｜begin▁of▁sentence｜>", "one", " two", "A"]);
    assert_eq!(lists["tokens"], tokens);
    assert_eq!(lists["text_offset"], json!([0, 0, 3, 7]));
    assert_eq!(lists["token_logprobs"][0], json!(null));
    assert_eq!(lists["top_logprobs"][0], json!(null));
    for at in [1, 2] {
        assert!(
            lists["token_logprobs"][at].as_f64().unwrap() < -100.0,
            "the engine says A: {lists}"
        );
        assert_eq!(lists["top_logprobs"][at].as_object().unwrap().len(), 2);
    }
    assert!(lists["token_logprobs"][3].as_f64().unwrap() > -1e-3);

    let prompt_only = server.ask("/v1/completions", ask(0, false)).await;
    assert_eq!(prompt_only["choices"][0]["text"], "one two");
    assert_eq!(prompt_only["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(prompt_only["usage"]["completion_tokens"], 0);

    let events = server.stream("/v1/completions", ask(1, true)).await;
    let texts: String = events[..events.len() - 1]
        .iter()
        .filter_map(|event| json(&event.1)["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(texts, "one twoA");
}

#[tokio::test]
async fn the_best_of_several_answers_are_shown() {
    let server = serve(&["A"]);
    let body = json!({"prompt": "x", "max_tokens": 2, "n": 2, "best_of": 5});
    let body = server.ask("/v1/completions", body).await;
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| &c["index"]).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(choices[1]["logprobs"], json!(null), "compared, not shown");
    assert_eq!(body["usage"]["completion_tokens"], 10, "all of them were made");
    let streamed = json!({"prompt": "x", "best_of": 2, "stream": true});
    let (status, body) = server.post("/v1/completions", streamed).await;
    assert_eq!((status.as_u16(), body["error"]["param"].as_str()), (400, Some("best_of")));
}

#[tokio::test]
async fn a_hole_is_filled_between_two_texts() {
    let server = serve(&["A"]);
    let ask = |suffix: serde_json::Value| json!({"prompt": "def f():", "suffix": suffix, "max_tokens": 2});
    let plain = server.ask("/v1/completions", ask(json!(null))).await;
    let filled = server.ask("/v1/completions", ask(json!("return x"))).await;
    let n = |body: &Value| body["usage"]["prompt_tokens"].as_u64().unwrap();
    // Three marks and the two tokens of the suffix.
    assert_eq!(n(&filled), n(&plain) + 5);
    let ids = json!({"prompt": [1, 2], "suffix": "x"});
    let (status, body) = server.post("/v1/completions", ids).await;
    assert_eq!((status.as_u16(), body["error"]["param"].as_str()), (400, Some("suffix")));
}
