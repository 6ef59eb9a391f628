//! The training-format encoders against what requests give.
//!
//! DeepSeek's serving library, which this crate renders with, differs from its published
//! encoders in places. `docs/prompt-format.md` lists every fixture where it does; here the list
//! is compared with the truth.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use chat::PromptFormat;
use chat::protocol::{Protocol, Request, RequestOptions};
use serde_json::{Map, Value, json};

use crate::support::{TOKENIZER, cases, ids};

pub(crate) static ENCODER: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../data/encoding_fixtures.json")).unwrap());

const DOCUMENT: &str = include_str!("../../../../docs/prompt-format.md");

/// What becomes of an encoder case as a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Both give the same prompt.
    Same,
    /// Both refuse.
    BothRefuse,
    /// The prompts differ.
    Differs(String),
    /// One of the two refuses.
    Refused(String),
    /// A request has no way to say it.
    Unsayable(&'static str),
}

/// A case as a chat request, or what a request cannot say.
fn request(case: &Value, format: PromptFormat) -> Result<Value, &'static str> {
    let options = &case["options"];
    if options["context"].is_array() {
        return Err("a context rendered before");
    }
    if options["add_default_bos_token"] == false {
        return Err("a prompt without its first token");
    }
    if options["drop_thinking"] == false && case["thinking_mode"] == "thinking" {
        return Err("keeping the reasoning of former turns without tools");
    }
    let mut request = Map::new();
    let thinking = match case["thinking_mode"].as_str() {
        Some("chat") => "disabled",
        Some("thinking") => "enabled",
        _ => return Err("another thinking mode"),
    };
    request.insert("thinking".to_owned(), json!({"type": thinking}));
    // No effort is the encoders' default and renders no text; requests without one mean high.
    let effort = match (options["reasoning_effort"].as_str(), format) {
        (None, _) => "low",
        (Some(effort), _) => effort,
    };
    request.insert("reasoning_effort".to_owned(), json!(effort));
    let mut messages = Vec::new();
    for message in case["messages"].as_array().unwrap() {
        let mut message = message.as_object().unwrap().clone();
        for (field, what) in [("task", "a quick-instruction task"), ("content_blocks", "blocks")] {
            if message.contains_key(field) {
                return Err(what);
            }
        }
        message.shift_remove("mask");
        message.entry("content").or_insert(json!(""));
        if let Some(tools) = message.shift_remove("tools") {
            request.insert("tools".to_owned(), tools);
        }
        if let Some(schema) = message.shift_remove("response_format") {
            let format =
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
            request.insert("response_format".to_owned(), format);
        }
        if message.shift_remove("wo_eos").is_some() {
            message.insert("prefix".to_owned(), json!(true));
        }
        messages.push(Value::Object(message));
    }
    request.insert("messages".to_owned(), messages.into());
    Ok(Value::Object(request))
}

fn outcome(case: &Value, format: PromptFormat) -> Outcome {
    let expected = &case["expected"][format.name()];
    let body = match request(case, format) {
        Ok(body) => body,
        Err(what) => return Outcome::Unsayable(what),
    };
    let options = RequestOptions { model: "keid".to_owned(), thinks: true };
    let request = Request::parse(Protocol::Chat, body.to_string().as_bytes(), &options);
    match (request, expected["text"].as_str()) {
        (Err(_), None) => Outcome::BothRefuse,
        (Err(error), Some(_)) => Outcome::Refused(error.to_string()),
        (Ok(_), None) => Outcome::Refused(expected["detail"].to_string()),
        (Ok(request), Some(text)) => {
            let prompt = request.prompt(format);
            if prompt.text != text {
                return Outcome::Differs(difference(&prompt.text, text));
            }
            // The encoders make special tokens of what messages spell; requests never do.
            match prompt.encode(&TOKENIZER).unwrap() == ids(&expected["ids"]) {
                true => Outcome::Same,
                false => Outcome::Differs("the ids".to_owned()),
            }
        }
    }
}

/// The texts from a little before where they part.
fn difference(request: &str, encoder: &str) -> String {
    let same = request.chars().zip(encoder.chars()).take_while(|(ours, theirs)| ours == theirs);
    let start = same.count().saturating_sub(20);
    let excerpt = |text: &str| text.chars().skip(start).take(90).collect::<String>();
    format!("request {:?}, encoder {:?}", excerpt(request), excerpt(encoder))
}

#[test]
fn the_document_lists_every_case_that_differs_and_no_other() {
    let mut n_same = 0;
    let mut differing = BTreeSet::new();
    for case in cases(&ENCODER, "encode_cases") {
        let id = case["id"].as_str().unwrap();
        for format in [PromptFormat::V4_2604, PromptFormat::V4_0731] {
            match outcome(case, format) {
                Outcome::Same | Outcome::BothRefuse => n_same += 1,
                outcome => {
                    println!("{id} ({format}): {outcome:?}");
                    differing.insert(id);
                }
            }
        }
    }
    assert!(n_same > 0);
    let listed = listed("## Where the published encoders", "## Where the strict parser");
    assert_eq!(differing, listed);
}

/// The fixtures in the first columns of the tables between two headings of the document.
fn listed(from: &str, to: &str) -> BTreeSet<&'static str> {
    let from = DOCUMENT.find(from).unwrap();
    let length = DOCUMENT[from..].find(to).unwrap_or(DOCUMENT.len() - from);
    let rows = DOCUMENT[from..from + length].lines();
    let first_cells = rows.filter_map(|row| row.strip_prefix("| `")?.split(" |").next());
    first_cells.flat_map(|cell| cell.trim_matches('`').split("` `")).collect()
}

#[test]
fn the_document_lists_every_answer_that_the_strict_parser_refuses() {
    let refused = cases(&ENCODER, "parse_cases").iter();
    let refused = refused.filter(|case| case["expected"]["v4-0731"]["error"].is_string());
    let refused: BTreeSet<&str> = refused.map(|case| case["id"].as_str().unwrap()).collect();
    assert_eq!(refused, listed("## Where the strict parser", "no heading follows"));
}

/// Numbers in JSON are not those of Python where Python writes an exponent.
#[test]
fn the_document_lists_every_number_that_is_written_differently() {
    for case in cases(&ENCODER, "json_dumps_cases") {
        let value = case["value_json"].as_str().unwrap();
        let arguments = format!("{{\"a\": {value}}}");
        let call = json!({"id": "c", "type": "function",
                          "function": {"name": "f", "arguments": arguments}});
        let body = json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "r"}]});
        let options = RequestOptions { model: "keid".to_owned(), thinks: true };
        let body = body.to_string();
        let request = Request::parse(Protocol::Chat, body.as_bytes(), &options).unwrap();
        let text = request.prompt(PromptFormat::V4_0731).text;
        let tag = "name=\"a\" string=\"false\">";
        let written = text.split(tag).nth(1).unwrap().split("</｜DSML｜").next().unwrap();
        let expected = case["expected"].as_str().unwrap();
        for (ours, python) in numbers(written).zip(numbers(expected)) {
            let differs = ours != python;
            let is_listed = [ours, python].iter().all(|it| DOCUMENT.contains(&format!("`{it}`")));
            assert!(!differs || is_listed, "{python} is written {ours}");
        }
        assert_eq!(numbers(written).count(), numbers(expected).count());
    }
}

fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', ':', '[', ']', '{', '}']).filter(|part| !part.is_empty())
}
