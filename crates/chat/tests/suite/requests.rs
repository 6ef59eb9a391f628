//! Requests of the three protocols against DeepSeek's serving library.

use crate::support::{RECIPE, TOKENIZER, cases, ids};
use chat::protocol::{OutputConstraint, Protocol, Request, RequestError, RequestOptions};
use chat::{PromptFormat, Thinking};
use serde_json::{Value, json};

fn parse(protocol: Protocol, body: &Value) -> Result<Request, RequestError> {
    let options = RequestOptions { model: "keid".to_owned(), thinks: true };
    Request::parse(protocol, body.to_string().as_bytes(), &options)
}

fn protocol(case: &Value) -> Protocol {
    case["protocol"].as_str().unwrap().parse().unwrap()
}

#[test]
fn every_request_fixture_gives_its_prompt_and_settings() {
    let cases = cases(&RECIPE, "request_cases");
    assert!(cases.len() >= 45);
    for case in cases {
        let id = &case["id"];
        let expected = &case["expected"]["DeepSeek-V4-Pro"];
        let request = match parse(protocol(case), &case["request"]) {
            Ok(request) => request,
            Err(error) => {
                assert_eq!(expected["status"], error.status(), "{id}: {error}");
                let message = expected["body"]["error"]["message"].as_str();
                let message = message.or(expected["schema_error"].as_str()).unwrap();
                assert_eq!(error.to_string(), message, "{id}");
                continue;
            }
        };
        let prompt = request.prompt(PromptFormat::V4_0731);
        assert_eq!(expected["prompt"], prompt.text, "{id}");
        // The fixtures count characters.
        let place = |byte: usize| prompt.text[..byte].chars().count();
        let ranges = prompt.special.iter().map(|range| [place(range.start), place(range.end)]);
        let ranges: Vec<_> = ranges.collect();
        assert_eq!(expected["special_ranges"], json!(ranges), "{id}");
        assert_eq!(ids(&expected["ids"]), prompt.encode(&TOKENIZER).unwrap(), "{id}");
        check_settings(&request, expected);
    }
}

fn check_settings(request: &Request, expected: &Value) {
    let thinking = match (expected["thinking"].as_bool().unwrap(), expected["effort"].as_str()) {
        (false, _) => Thinking::Off,
        (true, effort) => effort.unwrap().parse().unwrap(),
    };
    assert_eq!(request.thinking(), thinking);
    let sampling = request.sampling();
    assert_eq!(expected["temperature"], json!(sampling.temperature));
    assert_eq!(expected["top_p"], json!(sampling.top_p));
    assert_eq!(expected["max_tokens"], json!(sampling.max_tokens));
    let constraint = request.constraint().map(OutputConstraint::kind);
    let expected_constraint = &expected["constraint"];
    let kind = expected_constraint["kind"].as_str().or(expected_constraint.as_str());
    assert_eq!(constraint, kind.or(expected_constraint[0].as_str()));
    let parsing = request.parsing();
    assert_eq!(expected["parse_tool_calls"], parsing.parse_tool_calls);
    assert_eq!(expected["starts_in_tool_calls"], parsing.starts_in_tool_calls);
    assert_eq!(expected["parse_json_output"], parsing.parse_json_output);
}
