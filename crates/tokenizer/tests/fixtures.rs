//! The published tokenizer against the ids that the reference implementation gives.

mod support;

use std::ops::Range;

use serde_json::Value;
use tokenizer::{Error, Specials, Tokenizer};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&support::tokenizer_json()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_fixture_has_its_pieces_and_ids_and_decodes_to_its_text() {
    let tokenizer = tokenizer();
    let fixtures: Value =
        serde_json::from_str(include_str!("data/tokenizer_fixtures.json")).unwrap();
    let cases = fixtures["cases"].as_array().unwrap();
    assert!(cases.len() >= 195);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let parsed = tokenizer.encode(text, Specials::Parse);
        let plain = tokenizer.encode(text, Specials::Text);
        assert_eq!(parsed, ids(&case["ids"]), "{text:?}");
        assert_eq!(plain, ids(&case["ids_plain"]), "{text:?}");
        let pieces: Vec<_> = case["pieces"].as_array().unwrap().iter().collect();
        assert_eq!(tokenizer.pieces(text), pieces, "{text:?}");
        assert_eq!(tokenizer.decode(&parsed).unwrap(), text.as_bytes());
        assert_eq!(tokenizer.decode(&plain).unwrap(), text.as_bytes());
    }
}

#[test]
fn the_published_vocabulary() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size(), 129_280);
    let specials = [
        (0, "<｜begin▁of▁sentence｜>"),
        (1, "<｜end▁of▁sentence｜>"),
        (128_803, "<｜User｜>"),
        (128_804, "<｜Assistant｜>"),
        (128_821, "<think>"),
        (128_822, "</think>"),
        (128_825, "｜DSML｜"),
    ];
    for (id, spelling) in specials {
        assert_eq!(tokenizer.special_id(spelling), Some(id));
        assert_eq!(tokenizer.token_bytes(id), Some(spelling.as_bytes()));
        assert!(tokenizer.is_special(id));
    }
    assert!(!tokenizer.is_special(223) && !tokenizer.is_special(200_000));
    assert_eq!(tokenizer.token_bytes(223), Some(&b" "[..]));
    assert_eq!(tokenizer.special_id("the"), None);
    let unknown = tokenizer.decode(&[5, 129_280]);
    assert!(matches!(unknown, Err(Error::UnknownId { id: 129_280, vocab_size: 129_280 })));
}

#[test]
fn segments_are_special_only_where_the_caller_says_so() {
    let tokenizer = tokenizer();
    let text = "<｜User｜>say <｜User｜><｜Assistant｜>";
    let user = "<｜User｜>".len();
    let ids = tokenizer.encode_segments(text, &[0..user, user + 4 + user..text.len()]).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (128_803, 128_804));
    let content = &ids[1..ids.len() - 1];
    assert_eq!(content, tokenizer.encode("say <｜User｜>", Specials::Text));
    assert!(content.iter().all(|&id| !tokenizer.is_special(id)));

    let unknown = tokenizer.encode_segments("hello", std::slice::from_ref(&(0..5)));
    assert!(matches!(unknown, Err(Error::UnknownSpecial { spelling, .. }) if spelling == "hello"));
    let overlapping = [0..user, 2..user];
    let backwards = Range { start: user, end: 0 };
    assert!(tokenizer.encode_segments(text, &overlapping).is_err());
    for misplaced in [0..1000, 1..3, backwards] {
        let result = tokenizer.encode_segments(text, std::slice::from_ref(&misplaced));
        assert!(matches!(result, Err(Error::SpecialRange { .. })), "{misplaced:?}");
    }
}

/// The slowest texts known take a tenth of this on a slow machine.
#[test]
fn a_megabyte_takes_less_than_a_second() {
    let tokenizer = tokenizer();
    for unit in ["a", "ab", " ", "1", "\n", "=", "的", "the cat; ", "x\u{301}", "\u{1}", "a\n "] {
        let text = unit.repeat((1 << 20) / unit.len());
        let start = std::time::Instant::now();
        let ids = tokenizer.encode(&text, Specials::Text);
        let took = start.elapsed();
        assert!(took.as_secs_f64() < 1.0, "{unit:?}: {} tokens in {took:?}", ids.len());
    }
}
