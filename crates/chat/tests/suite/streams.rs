//! Event streams of the three protocols against DeepSeek's serving library.

use crate::support::{RECIPE, TOKENIZER, cases};
use chat::Finish;
use chat::protocol::{PromptUsage, Protocol, Request, RequestOptions, WireEvent};
use serde_json::{Value, json};

/// Fields that differ from run to run.
const VARYING: [&str; 4] = ["created", "created_at", "completed_at", "reasoning_tokens"];

/// Replaces what differs from run to run, and the reasoning tokens, which were not counted when
/// the fixtures were made.
fn steady(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(steady),
        Value::Object(fields) => {
            fields.shift_remove("completion_tokens_details");
            for (key, field) in fields {
                match field {
                    Value::Number(_) if VARYING.contains(&key.as_str()) => *field = json!(0),
                    // The index and the mark of empty reasoning are told, the rest is random.
                    Value::String(id) if id.starts_with("call_") => {
                        let told = if id.contains("ET_") { 11 } else { 8 };
                        id.truncate(told);
                    }
                    _ => steady(field),
                }
            }
        }
        _ => {}
    }
}

/// Runs a case with text in pieces of the length that the fixture had, in characters.
fn run(case: &Value) -> Vec<WireEvent> {
    let protocol: Protocol = case["protocol"].as_str().unwrap().parse().unwrap();
    let options = RequestOptions { model: "MODEL".to_owned(), thinks: true };
    let body = case["request"].to_string();
    let request = Request::parse(protocol, body.as_bytes(), &options).unwrap();
    let usage = PromptUsage { prompt_tokens: 10, prompt_cache_hit_tokens: 4 };
    let mut responder = request.into_responder("ID".to_owned(), usage, TOKENIZER.clone());
    let mut events = responder.start().unwrap();
    let text: Vec<char> = case["model_text"].as_str().unwrap().chars().collect();
    for piece in text.chunks(case["chunk_len"].as_u64().unwrap() as usize) {
        let piece: String = piece.iter().collect();
        events.extend(responder.push_text(&piece, 1).unwrap());
    }
    let finish = match case["finish"].as_str().unwrap() {
        "Stop" => Finish::Stop,
        "Length" => Finish::Length,
        other => panic!("unknown finish reason {other}"),
    };
    events.extend(responder.finish(finish).unwrap());
    assert!(responder.is_finished());
    events
}

#[test]
fn every_stream_fixture_gives_its_events() {
    let cases = cases(&RECIPE, "stream_cases");
    assert!(cases.len() >= 14);
    for case in cases {
        let id = &case["id"];
        let mut events = run(case);
        if case["protocol"] == "chat" {
            assert_eq!(events.pop().unwrap(), WireEvent { name: None, data: "[DONE]".to_owned() });
        }
        let expected = case["events"].as_array().unwrap();
        for (at, (event, expected)) in events.iter().zip(expected).enumerate() {
            let mut event: Value = serde_json::from_str(&event.data).unwrap();
            let mut expected = expected.clone();
            steady(&mut event);
            steady(&mut expected);
            assert_eq!(event, expected, "{id}: event {at}");
        }
        assert_eq!(events.len(), expected.len(), "{id}");
    }
}

#[test]
fn events_of_anthropic_and_responses_have_the_name_of_their_type() {
    for case in cases(&RECIPE, "stream_cases") {
        for event in run(case) {
            let Some(name) = event.name else {
                assert_eq!(case["protocol"], "chat");
                continue;
            };
            let data: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(data["type"], name);
        }
    }
}
