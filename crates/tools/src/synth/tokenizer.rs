//! A vocabulary for synthetic files: DeepSeek V4's special tokens, the 256 bytes, and merges of
//! lowercase letters, so that any text tokenises and generated ids print as letters.

/// Spellings that programs look up, in the order of the published tokenizer; the first three
/// have the ids 0, 1 and 2 there and here.
const SPECIALS: [&str; 46] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<｜begin▁of▁repo▁name｜>",
    "<｜end▁of▁repo▁name｜>",
    "<｜begin▁of▁file▁name｜>",
    "<｜end▁of▁file▁name｜>",
    "<｜begin▁of▁file｜>",
    "<｜end▁of▁file｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜begin▁sys｜>",
    "<｜end▁sys｜>",
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜task｜>",
    "<｜political｜>",
    "<｜entity｜>",
    "<｜title｜>",
    "<｜safety｜>",
    "<｜answer｜>",
    "<｜search｜>",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
    "<｜end_of_query｜>",
];

/// Tokens, their kinds and the merges between them, as GGUF stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vocabulary {
    /// Spelling of each id; bytes in GPT-2's printable alphabet.
    pub(super) tokens: Vec<String>,
    /// llama.cpp's token types: 1 normal, 3 control.
    pub(super) kinds: Vec<i32>,
    /// `left right` pairs, most important first.
    pub(super) merges: Vec<String>,
}

/// The smallest vocabulary that can spell any text and every special token.
pub(super) const SMALLEST: usize = SPECIALS.len() + 256;

/// A vocabulary of exactly `n` tokens; `None` if `n` is below [`SMALLEST`].
pub(super) fn vocabulary(n: usize) -> Option<Vocabulary> {
    let n_merges = n.checked_sub(SMALLEST)?;
    let mut tokens: Vec<String> = SPECIALS.iter().map(ToString::to_string).collect();
    tokens.extend((0..=255).map(|byte| printable(byte).to_string()));
    let mut kinds = vec![3; SPECIALS.len()];
    kinds.resize(n, 1);

    // Every prefix of a merge is itself a token, so longer pieces are made from shorter ones:
    // first all pairs of letters, then all triples, and so on.
    let space = printable(b' ').to_string();
    let mut stems: Vec<String> = ('a'..='z').map(String::from).collect();
    stems.insert(0, space);
    let mut merges = Vec::with_capacity(n_merges);
    while merges.len() < n_merges {
        let mut longer = Vec::new();
        for stem in &stems {
            for letter in 'a'..='z' {
                if merges.len() + longer.len() < n_merges {
                    longer.push((stem, letter));
                }
            }
        }
        merges.extend(longer.iter().map(|(stem, letter)| format!("{stem} {letter}")));
        let joined = longer.iter().map(|(stem, letter)| format!("{stem}{letter}"));
        stems = joined.collect();
        tokens.extend(stems.iter().cloned());
    }
    Some(Vocabulary { tokens, kinds, merges })
}

/// GPT-2's printable character for a byte: itself where it is visible, else one above U+0100.
fn printable(byte: u8) -> char {
    let visible = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !visible(*b)).count() as u32;
    // At most 68 bytes are invisible, so the sum is a valid character.
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn vocabularies_have_the_size_asked_for_and_no_duplicates() {
        for n in [SMALLEST, 512, 4096, 129_280] {
            let v = vocabulary(n).unwrap();
            assert_eq!((v.tokens.len(), v.kinds.len()), (n, n));
            assert_eq!(v.merges.len(), n - SMALLEST);
            assert_eq!(v.tokens.iter().collect::<HashSet<_>>().len(), n);
            assert_eq!(v.merges.iter().collect::<HashSet<_>>().len(), v.merges.len());
        }
        assert!(vocabulary(SMALLEST - 1).is_none());
    }

    #[test]
    fn every_merge_joins_tokens_into_a_token() {
        let v = vocabulary(30_000).unwrap();
        let known: HashSet<&str> = v.tokens.iter().map(String::as_str).collect();
        for merge in &v.merges {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right), "{merge}");
            assert!(known.contains(format!("{left}{right}").as_str()), "{merge}");
        }
    }

    #[test]
    fn bytes_have_gpt2s_characters() {
        assert_eq!(printable(b' '), 'Ġ');
        assert_eq!(printable(b'\n'), 'Ċ');
        assert_eq!(printable(b'A'), 'A');
        assert_eq!(printable(0xAD), '\u{143}');
    }
}
