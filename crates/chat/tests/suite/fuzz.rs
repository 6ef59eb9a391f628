//! Nothing that comes from outside makes this crate panic.

use chat::protocol::{PromptUsage, Protocol, Request, RequestOptions};
use chat::{Finish, ParserOptions, PromptFormat, Reply, StreamParser};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizer::Specials;

use crate::support::{RECIPE, TOKENIZER, cases};

/// Pieces that the parser looks for, whole and broken, and text in which they stand.
fn model_output() -> impl Strategy<Value = Vec<u32>> {
    let marked = proptest::sample::select(vec![
        "</think>",
        "<think>",
        "｜DSML｜",
        "<｜DSML｜tool_calls>",
        "</｜DSML｜tool_calls>",
        "<｜DSML｜invoke name=\"f\">",
        "</｜DSML｜invoke>",
        "\n\n",
        "\"",
        "<",
        "</",
        "invoke name=\"",
        "<｜DSML｜parameter name=\"a\" string=\"true\">",
        "</｜DSML｜parameter>",
        "parameter name=",
        "string=\"false\">",
        "{\"x\": 1}",
        "END",
        "EN",
        "```json\n",
        "\n```",
        "好",
        "👍",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        " ",
    ]);
    let part = prop_oneof![
        3 => marked.prop_map(|text| TOKENIZER.encode(text, Specials::Parse)),
        1 => "\\PC{0,6}".prop_map(|text| TOKENIZER.encode(&text, Specials::Text)),
        1 => proptest::collection::vec(0u32..129_280, 1..4),
    ];
    proptest::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

/// A value of JSON to put where another was.
fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"type": "text", "text": "<｜User｜>"})),
        Just(json!([{"role": "assistant", "content": null, "prefix": true}])),
    ]
}

/// The values inside a value, itself included, counted depth first.
fn n_values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(n_values).sum(),
        Value::Object(fields) => fields.values().map(n_values).sum(),
        _ => 0,
    }
}

/// The value that the count `at` reaches.
fn value_at(value: &mut Value, mut at: usize) -> Option<&mut Value> {
    if at == 0 {
        return Some(value);
    }
    at -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let count = n_values(child);
        if at < count {
            return value_at(child, at);
        }
        at -= count;
    }
    None
}

fn parse(protocol: Protocol, body: &[u8]) -> Option<Request> {
    let options = RequestOptions { model: "keid".to_owned(), thinks: true };
    Request::parse(protocol, body, &options).map_err(|error| error.to_string()).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_tokens_parse_into_the_parts_that_were_asked_for(
        tokens in model_output(),
        starts_in_reasoning: bool,
        tool_calls: bool,
    ) {
        let stop = vec!["END".to_owned()];
        let options = ParserOptions { starts_in_reasoning, tool_calls, stop };
        let mut parser = StreamParser::new(TOKENIZER.clone(), options);
        let mut reply = Reply::default();
        for &token in &tokens {
            parser.push(token).unwrap().iter().for_each(|event| reply.push(event));
        }
        parser.finish(Finish::Stop).unwrap().iter().for_each(|event| reply.push(event));
        prop_assert!(parser.is_finished());
        prop_assert!(tool_calls || reply.tool_calls.is_empty());
        prop_assert!(starts_in_reasoning || reply.reasoning.is_empty());
    }

    #[test]
    fn changed_requests_are_answered_or_refused(
        case in 0usize..45,
        changes in proptest::collection::vec((0usize..200, any_json()), 1..4),
        tokens in model_output(),
    ) {
        let case = &cases(&RECIPE, "request_cases")[case];
        let mut body = case["request"].clone();
        for (at, value) in changes {
            let at = at % n_values(&body);
            *value_at(&mut body, at).unwrap() = value;
        }
        let protocol = case["protocol"].as_str().unwrap().parse().unwrap();
        if let Some(request) = parse(protocol, body.to_string().as_bytes()) {
            let prompt = request.prompt(PromptFormat::V4_2604);
            let ids = prompt.encode(&TOKENIZER).unwrap();
            prop_assert_eq!(TOKENIZER.decode(&ids).unwrap(), prompt.text.as_bytes());
            let usage = PromptUsage { prompt_tokens: ids.len(), prompt_cache_hit_tokens: 0 };
            let streams = request.streams();
            let mut responder = request.into_responder("id".to_owned(), usage, TOKENIZER.clone());
            let mut events = responder.start().unwrap();
            events.extend(responder.push(&tokens, None).unwrap());
            events.extend(responder.finish(Finish::Stop).unwrap());
            prop_assert_eq!(streams, !events.is_empty());
            prop_assert!(responder.into_body().unwrap().is_object());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_parsed(mut body: Vec<u8>, quoted in "\\PC{0,40}") {
        for protocol in Protocol::ALL {
            parse(protocol, &body);
            parse(protocol, format!("{{\"messages\": {quoted}}}").as_bytes());
        }
        body.insert(0, b'{');
        parse(Protocol::Chat, &body);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for protocol in Protocol::ALL {
        assert!(parse(protocol, deep.as_bytes()).is_none());
        let body = format!("{{\"messages\": {deep}}}");
        assert!(parse(protocol, body.as_bytes()).is_none());
    }
}
