//! Sampled tokens to events: what special tokens mean, and what is held back.

use chat::{EndReason, Event, Finish, ParserOptions, Reply, StreamParser, ToolCall};
use serde_json::Value;
use tokenizer::Specials;

use crate::encoder::ENCODER;
use crate::support::{TOKENIZER, cases};

const CALL: &str = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
                    <｜DSML｜parameter name=\"a\" string=\"true\">x\"y</｜DSML｜parameter>\n\
                    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fn parser(starts_in_reasoning: bool, stop: &[&str]) -> StreamParser {
    let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
    let options = ParserOptions { starts_in_reasoning, tool_calls: true, stop };
    StreamParser::new(TOKENIZER.clone(), options)
}

/// The tokens of a text in which special tokens are what they spell.
fn sampled(text: &str) -> Vec<u32> {
    TOKENIZER.encode(text, Specials::Parse)
}

/// All events of a stream.
fn events(mut parser: StreamParser, tokens: &[u32], finish: Finish) -> Vec<Event> {
    let mut events = Vec::new();
    for &token in tokens {
        events.extend(parser.push(token).unwrap());
    }
    events.extend(parser.finish(finish).unwrap());
    assert!(parser.is_finished());
    events
}

fn reply(events: &[Event]) -> Reply {
    let mut reply = Reply::default();
    events.iter().for_each(|event| reply.push(event));
    reply
}

fn end(events: &[Event]) -> &EndReason {
    match events.last() {
        Some(Event::End { reason, .. }) => reason,
        other => panic!("the last event is {other:?}"),
    }
}

#[test]
fn answers_that_the_strict_parser_takes_have_the_same_parts() {
    let mut n_compared = 0;
    for case in cases(&ENCODER, "parse_cases") {
        let expected = &case["expected"]["v4-0731"];
        if expected["error"].is_string() {
            continue;
        }
        n_compared += 1;
        let text = case["text"].as_str().unwrap().strip_suffix(chat::EOS).unwrap();
        let parser = parser(case["thinking_mode"] == "thinking", &[]);
        let reply = reply(&events(parser, &sampled(text), Finish::Stop));
        assert_eq!(expected["reasoning_content"], reply.reasoning, "{}", case["id"]);
        assert_eq!(expected["content"], reply.content, "{}", case["id"]);
        let call = |call: &Value| ToolCall {
            name: call["function"]["name"].as_str().unwrap().to_owned(),
            arguments: call["function"]["arguments"].as_str().unwrap().to_owned(),
        };
        let calls: Vec<_> = cases(expected, "tool_calls").iter().map(call).collect();
        assert_eq!(calls, reply.tool_calls, "{}", case["id"]);
    }
    assert!(n_compared >= 12);
}

#[test]
fn answers_that_the_strict_parser_refuses_are_read_as_far_as_they_go() {
    let xy = r#"{"a": "x"}"#;
    let expected = [
        ("bad_missing_eos", "", "no eos", None),
        ("bad_missing_newlines", "", "", Some(xy)),
        ("bad_trailing_text_after_block", "", "", Some(xy)),
        ("bad_unterminated_block", "", "", Some(r#"{"a": "x"#)),
        ("bad_dup_param", "", "", Some(r#"{"a": "x", "a": "y"}"#)),
        ("tool_in_thinking", "r", "", Some(xy)),
        ("think_tag_in_content", "r", "a <think> b", None),
    ];
    let cases = cases(&ENCODER, "parse_cases");
    for (id, reasoning, content, arguments) in expected {
        let case = cases.iter().find(|case| case["id"] == id).unwrap();
        let text = case["text"].as_str().unwrap();
        let text = text.strip_suffix(chat::EOS).unwrap_or(text);
        let parser = parser(case["thinking_mode"] == "thinking", &[]);
        let reply = reply(&events(parser, &sampled(text), Finish::Stop));
        assert_eq!(
            (reply.reasoning.as_str(), reply.content.as_str()),
            (reasoning, content),
            "{id}"
        );
        let calls: Vec<_> = reply.tool_calls.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(calls, arguments.into_iter().collect::<Vec<_>>(), "{id}");
    }
}

#[test]
fn reasoning_answer_and_call_come_apart() {
    let tokens = sampled(&format!("Let me see.\n</think>\nSure 👍{CALL}"));
    let events = events(parser(true, &[]), &tokens, Finish::Stop);
    let reply = reply(&events);
    assert_eq!((reply.reasoning.as_str(), reply.content.as_str()), ("Let me see.", "Sure 👍"));
    let call = ToolCall { name: "f".to_owned(), arguments: r#"{"a": "x\"y"}"#.to_owned() };
    assert_eq!(reply.tool_calls, [call]);
    let n_reasoning = TOKENIZER.encode("Let me see.", Specials::Text).len();
    assert_eq!(
        events.last(),
        Some(&Event::End {
            reason: EndReason::ToolCalls,
            n_tokens: tokens.len(),
            n_reasoning_tokens: n_reasoning,
        })
    );
}

#[test]
fn markers_spelled_with_plain_tokens_are_text() {
    let text = format!("a</think>b{CALL}");
    let plain = TOKENIZER.encode(&text, Specials::Text);
    let thinking = events(parser(true, &[]), &plain, Finish::Stop);
    assert_eq!(reply(&thinking), Reply { reasoning: text.clone(), ..Reply::default() });
    let answering = events(parser(false, &[]), &plain, Finish::Stop);
    assert_eq!(reply(&answering), Reply { content: text, ..Reply::default() });
    assert_eq!(end(&answering), &EndReason::Stop);
}

#[test]
fn without_tools_markup_is_content() {
    let options = ParserOptions { starts_in_reasoning: false, tool_calls: false, stop: Vec::new() };
    let parser = StreamParser::new(TOKENIZER.clone(), options);
    let events = events(parser, &sampled(&format!("a{CALL}")), Finish::Stop);
    assert_eq!(reply(&events).content, format!("a{CALL}"));
}

#[test]
fn a_stop_string_ends_the_answer_and_is_cut_off() {
    let mut parser = parser(true, &["END", "\n\n\n"]);
    let mut events = Vec::new();
    for token in sampled("END is no end here</think>one two E ENDLESS") {
        events.extend(parser.push(token).unwrap());
    }
    assert!(parser.is_finished());
    let reply = reply(&events);
    assert_eq!(
        (reply.reasoning.as_str(), reply.content.as_str()),
        ("END is no end here", "one two E ")
    );
    assert_eq!(end(&events), &EndReason::StopString("END".to_owned()));
    // Nothing follows the end.
    assert_eq!(parser.push(5).unwrap(), []);
    assert_eq!(parser.finish(Finish::Stop).unwrap(), []);
}

#[test]
fn characters_come_whole_and_a_cut_one_is_replaced() {
    let tokens = sampled("🤭!");
    assert!(tokens.len() > 2, "the character spans tokens");
    let mut parser = parser(false, &[]);
    assert_eq!(parser.push(tokens[0]).unwrap(), []);
    let events = parser.finish(Finish::Length).unwrap();
    assert_eq!(events[0], Event::Content("\u{FFFD}".to_owned()));
    assert_eq!(end(&events), &EndReason::Length);
}

#[test]
fn a_cut_answer_ends_where_it_was_cut() {
    let reasoning = events(parser(true, &[]), &sampled("hm"), Finish::Length);
    assert_eq!(reply(&reasoning), Reply { reasoning: "hm".to_owned(), ..Reply::default() });
    assert_eq!(end(&reasoning), &EndReason::Length);
    let cancelled = events(parser(false, &[]), &sampled("Hel"), Finish::Cancelled);
    assert_eq!(end(&cancelled), &EndReason::Cancelled);
    let call = &CALL[..CALL.find("x\"y").unwrap() + 1];
    let cut = events(parser(false, &[]), &sampled(call), Finish::Length);
    assert_eq!(reply(&cut).tool_calls[0].arguments, r#"{"a": "x"#);
    assert_eq!(end(&cut), &EndReason::Length);
}

#[test]
fn tokens_between_turns_are_never_text() {
    let tokens =
        sampled("<｜begin▁of▁sentence｜>a<｜User｜>b<｜Assistant｜>c<｜end▁of▁sentence｜>");
    let events = events(parser(false, &[]), &tokens, Finish::Stop);
    assert_eq!(reply(&events).content, "abc");
}

#[test]
fn an_id_beyond_the_vocabulary_is_an_error() {
    assert!(parser(false, &[]).push(129_280).is_err());
}
