//! Vocabularies that come in GGUF metadata, small ones among them.

use tokenizer::{Error, GgufParts, Specials, Tokenizer};

/// A vocabulary as small models have it: three control tokens, the bytes, two merges, the
/// chat tokens at the end.
struct Small {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

impl Small {
    fn new() -> Self {
        let mut tokens: Vec<String> =
            ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
                .map(str::to_owned)
                .into();
        let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = 0x100..;
        tokens.extend((0..=255u8).map(|byte| match printable(&byte) {
            true => char::from(byte).to_string(),
            false => char::from_u32(others.next().unwrap()).unwrap().to_string(),
        }));
        tokens.extend(["th", "the"].map(str::to_owned));
        tokens.extend(["<｜User｜>", "<think>", "[unused]"].map(str::to_owned));
        let mut types = vec![1; tokens.len()];
        types[..3].fill(3);
        let tail = types.len() - 3;
        types[tail..].copy_from_slice(&[3, 4, 5]);
        Self { tokens, types, merges: ["t h", "th e"].map(str::to_owned).into() }
    }

    fn load(&self, pre: Option<&str>) -> Result<Tokenizer, Error> {
        Tokenizer::from_parts(&GgufParts {
            model: Some("gpt2"),
            pre,
            tokens: &self.tokens,
            token_types: &self.types,
            merges: &self.merges,
        })
    }
}

#[test]
fn a_small_vocabulary_has_its_own_ids() {
    let tokenizer = Small::new().load(Some("joyai-llm")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 264);
    assert_eq!(tokenizer.special_id("<｜User｜>"), Some(261));
    let text = "<｜User｜>the 好<think>";
    let ids = tokenizer.encode(text, Specials::Parse);
    assert_eq!(ids[..2], [261, 260]);
    assert_eq!(ids.last(), Some(&262));
    assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
    assert_eq!(tokenizer.special_id("｜DSML｜"), None);
    let spellings = [3 + 0x20, 260, 262].map(|id| tokenizer.token_spelling(id).unwrap());
    assert_eq!(spellings, ["Ġ", "the", "<think>"]);
    // Padding of the vocabulary has bytes but no text makes it.
    assert_eq!(tokenizer.token_bytes(263), Some(&b"[unused]"[..]));
    assert!(!tokenizer.encode("[unused]", Specials::Parse).contains(&263));
}

#[test]
fn the_family_of_the_pre_tokenizer_decides() {
    let small = Small::new();
    for pre in ["joyai-llm", "deepseek-v3", "hunyuan-dense"] {
        assert!(small.load(Some(pre)).is_ok(), "{pre}");
    }
    let error = small.load(Some("llama-bpe")).unwrap_err().to_string();
    assert_eq!(
        error,
        "tokenizer: tokenizer.ggml.pre should be \"joyai-llm\" or \"deepseek-v3\" or \
         \"hunyuan-dense\", found \"llama-bpe\""
    );
    assert!(small.load(None).unwrap_err().to_string().ends_with("found nothing"));
}

/// A change of the vocabulary that must be refused.
type Corruption = fn(&mut Small);

#[test]
fn contradictions_are_named() {
    let cases: [(Corruption, &str); 7] = [
        (
            |small| small.types.truncate(263),
            "token_type has 263 entries, expected one for each of 264",
        ),
        (|small| small.types[4] = 6, "token 4 (\"ā\") has type 6, expected 1 (normal)"),
        (|small| small.tokens[3] = "xx".to_owned(), "no token stands for the byte 0x00 alone"),
        (|small| small.tokens[259] = "好".to_owned(), "'好' is not in the byte alphabet"),
        (|small| small.tokens[261] = "<think>".to_owned(), "is also token 261"),
        (|small| small.merges[1] = "th x".to_owned(), "merge 1 (\"th x\") needs the base token"),
        (|small| small.merges.push("the".to_owned()), "merge 2 (\"the\") is not two tokens"),
    ];
    for (corrupt, message) in cases {
        let mut small = Small::new();
        corrupt(&mut small);
        let error = small.load(Some("joyai-llm")).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
