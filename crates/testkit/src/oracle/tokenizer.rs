//! A toy byte-level BPE tokenizer with DeepSeek's special tokens.

use std::collections::HashMap;

const SPECIALS_HEAD: [&str; 3] =
    ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"];

const SPECIALS_TAIL: [&str; 5] =
    ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"];

/// Repeated three times, so that every merge has a count above one.
const TRAINING_TEXT: &str = "the quick brown fox jumps over the lazy dog while another engine \
    reads tensors, rotates queries, compresses windows, selects rows and mixes streams of hidden \
    state; then the router picks experts and the shared expert answers every token in turn. and \
    in the end there is one more thing to say: ";

/// What the metadata keys of a tokenizer hold.
pub(super) struct ToyTokenizer {
    pub(super) tokens: Vec<String>,
    /// 1 normal, 3 control, 4 user-defined, as GGUF counts them.
    pub(super) types: Vec<i32>,
    pub(super) merges: Vec<String>,
}

impl ToyTokenizer {
    pub(super) fn new(vocab: usize) -> Self {
        let chars = byte_chars();
        let mut tokens: Vec<String> = SPECIALS_HEAD.map(str::to_owned).to_vec();
        tokens.extend(chars.iter().map(char::to_string));
        let merges = train(&chars, &mut tokens, vocab.saturating_sub(SPECIALS_TAIL.len()));
        let filler = vocab.saturating_sub(tokens.len() + SPECIALS_TAIL.len());
        let mut types = vec![1; tokens.len()];
        types[..SPECIALS_HEAD.len()].fill(3);
        tokens.extend((0..filler).map(|i| format!("<｜place▁holder▁no▁{i}｜>")));
        types.resize(tokens.len(), 3);
        for special in SPECIALS_TAIL {
            tokens.push(special.to_owned());
            types.push(if special.contains("think") { 4 } else { 3 });
        }
        Self { tokens, types, merges }
    }
}

/// GPT-2's printable stand-ins for the 256 bytes.
fn byte_chars() -> [char; 256] {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    std::array::from_fn(|b| {
        let b = b as u8;
        if printable(b) {
            return char::from(b);
        }
        next += 1;
        char::from_u32(next - 1).expect("a code point below 512")
    })
}

/// Adds merged tokens until there are `limit`, always the most frequent pair, the smallest among
/// equals.
fn train(chars: &[char; 256], tokens: &mut Vec<String>, limit: usize) -> Vec<String> {
    let text = TRAINING_TEXT.repeat(3);
    let mut words: Vec<Vec<String>> = text
        .split_whitespace()
        .enumerate()
        .map(|(i, word)| {
            let spaced = if i == 0 { word.to_owned() } else { format!(" {word}") };
            spaced.bytes().map(|b| chars[usize::from(b)].to_string()).collect()
        })
        .collect();
    let mut merges = Vec::new();
    while tokens.len() < limit {
        let mut counts: HashMap<(&str, &str), u32> = HashMap::new();
        for pair in words.iter().flat_map(|w| w.windows(2)) {
            *counts.entry((&pair[0], &pair[1])).or_default() += 1;
        }
        counts.retain(|(a, b), _| !tokens.contains(&format!("{a}{b}")));
        let best = counts.into_iter().min_by_key(|&(pair, n)| (std::cmp::Reverse(n), pair));
        let Some(((a, b), _)) = best else { break };
        let (a, b) = (a.to_owned(), b.to_owned());
        for word in &mut words {
            merge(word, &a, &b);
        }
        tokens.push(format!("{a}{b}"));
        merges.push(format!("{a} {b}"));
    }
    merges
}

fn merge(word: &mut Vec<String>, a: &str, b: &str) {
    let mut i = 0;
    while i + 1 < word.len() {
        if word[i] == a && word[i + 1] == b {
            let tail = word.remove(i + 1);
            word[i].push_str(&tail);
        } else {
            i += 1;
        }
    }
}
