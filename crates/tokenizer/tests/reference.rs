//! The published tokenizer against the `tokenizers` crate on text that no fixture holds.

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use tokenizer::{Specials, Tokenizer};
use tokenizers::{
    AddedVocabulary, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

struct Both {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
    theirs_plain: tokenizers::Tokenizer,
}

static BOTH: LazyLock<Both> = LazyLock::new(|| {
    let json = support::tokenizer_json();
    let theirs = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    let mut theirs_plain = theirs.clone();
    theirs_plain.with_added_vocabulary(AddedVocabulary::new());
    Both { ours: Tokenizer::from_json(&json).unwrap(), theirs, theirs_plain }
});

/// The byte borders of the pieces that the `tokenizers` crate cuts.
fn their_borders(text: &str) -> Vec<usize> {
    let mut cut = PreTokenizedString::from(text);
    BOTH.theirs.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
    let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(_, (_, end), _)| end).collect()
}

fn our_borders(text: &str) -> Vec<usize> {
    let mut end = 0;
    let pieces = BOTH.ours.pieces(text).into_iter();
    pieces.map(|piece| (end += piece.len(), end).1).collect()
}

/// Every character between the neighbours that tell its class.
#[test]
fn every_character_has_the_class_that_the_reference_gives_it() {
    let mut differing = Vec::new();
    let characters: Vec<char> = ('\0'..=char::MAX).collect();
    for block in characters.chunks(512) {
        let text: String = block
            .iter()
            .map(|character| format!("{character}a {character}\n{character}!1"))
            .collect();
        if their_borders(&text) != our_borders(&text) {
            let alone = |character: &&char| {
                let text = format!("{character}a {character}\n{character}!1");
                their_borders(&text) != our_borders(&text)
            };
            differing.extend(block.iter().filter(alone).map(|&character| character as u32));
        }
    }
    assert!(differing.is_empty(), "{} characters differ: {differing:x?}", differing.len());
}

/// Text with what the splits look at: scripts, digits, marks, blanks, symbols, spellings of
/// added tokens and parts of them.
fn mixed_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z' ]{1,8}",
        2 => "[0-9٣½Ⅷ〇]{1,7}",
        2 => "[一龥中文かなカ・ー]{1,4}",
        2 => "[ \t\r\n\u{3000}\u{a0}]{1,4}",
        2 => "[!-/:-@\\[-`{-~]{1,5}",
        2 => "[éñ\u{301}я한ไ𠀀龦。！€👍\u{200d}]{1,3}",
        1 => any::<char>().prop_map(String::from),
        1 => "[\0-\u{1f}\u{7f}\u{85}\u{200b}\u{fffd}]{1,2}",
        1 => proptest::sample::select(vec![
            "<｜User｜>", "<think>", "</think>", "｜DSML｜", "<｜end▁of▁sentence｜>", "<|EOT|>",
            "<｜/table>｜", "<｜", "｜>", "</", "tool_calls>",
        ]).prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn random_text_has_the_ids_that_the_reference_gives_it(text in mixed_text()) {
        let parsed = BOTH.theirs.encode_fast(text.as_str(), false).unwrap();
        prop_assert_eq!(BOTH.ours.encode(&text, Specials::Parse), parsed.get_ids());
        let plain = BOTH.theirs_plain.encode_fast(text.as_str(), false).unwrap();
        let ids = BOTH.ours.encode(&text, Specials::Text);
        prop_assert_eq!(&ids, plain.get_ids());
        prop_assert_eq!(BOTH.ours.decode(&ids).unwrap(), text.as_bytes());
    }
}

#[test]
fn long_pieces_have_the_ids_that_the_reference_gives_them() {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let letters: String = (0..20_000).map(|_| char::from(b'a' + next(26) as u8)).collect();
    let han: String =
        (0..8_000).map(|_| char::from_u32(0x4E00 + next(3000) as u32).unwrap()).collect();
    let repeated = ["a", " ", "\n", "=", "ab", "的"].map(|unit| unit.repeat(20_000));
    for text in repeated.into_iter().chain([letters, han]) {
        let plain = BOTH.theirs_plain.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(BOTH.ours.encode(&text, Specials::Text), plain.get_ids());
    }
}
