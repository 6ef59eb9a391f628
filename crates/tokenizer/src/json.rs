//! Loading from the text of a `tokenizer.json`.
//!
//! The format can describe many tokenizers; this crate is one of them. Every setting that would
//! change a result is compared with the one implemented here.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::vocabulary::{self, Entry, Kind, Vocabulary};

/// The patterns of the three splits, as DeepSeek's files write them. They are data: `split.rs`
/// says what they mean.
const SPLITS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n",
        r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r"| ?[\p{P}\p{S}]+",
        "[\r\n]*",
        r"|\s*",
        "[\r\n]+",
        r"|\s+(?!\S)|\s+"
    ),
];

/// The strings of the vocabulary and the merges, a quarter of a million, are borrowed from the
/// text where it has them without escapes.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

/// An unknown field could be one that changes results, so there must be none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model<'a> {
    #[serde(default)]
    r#type: Value,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    merges: Vec<Merge<'a>>,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
    /// Without an unknown token there is nothing to fuse.
    #[serde(default, rename = "fuse_unk")]
    _fuse_unk: Value,
}

/// A string of the file.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The base tokens with their ids, in the order of the file.
struct Vocab<'a>(Vec<(Text<'a>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(VocabVisitor)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = Vocab<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tokens and their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocab<'de>, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = map.next_entry()? {
            tokens.push(token);
        }
        Ok(Vocab(tokens))
    }
}

/// A merge: `"a b"`, or `["a", "b"]` in newer files.
enum Merge<'a> {
    Joined(Cow<'a, str>),
    Pair(Text<'a>, Text<'a>),
}

/// By hand, because a derived untagged enum copies each of the 127,741 values first.
impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: \"a b\" or [\"a\", \"b\"]")
    }

    fn visit_str<E: de::Error>(self, joined: &str) -> std::result::Result<Merge<'de>, E> {
        Ok(Merge::Joined(Cow::Owned(joined.to_owned())))
    }

    fn visit_borrowed_str<E: de::Error>(
        self,
        joined: &'de str,
    ) -> std::result::Result<Merge<'de>, E> {
        Ok(Merge::Joined(Cow::Borrowed(joined)))
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut pair: A,
    ) -> std::result::Result<Merge<'de>, A::Error> {
        let mut token =
            |at| pair.next_element()?.ok_or_else(|| de::Error::invalid_length(at, &"two tokens"));
        Ok(Merge::Pair(token(0)?, token(1)?))
    }
}

impl Merge<'_> {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Joined(joined) => joined.split_once(' '),
            Self::Pair(left, right) => Some((&left.0, &right.0)),
        }
    }

    fn spelled(&self) -> String {
        match self {
            Self::Joined(joined) => joined.clone().into_owned(),
            Self::Pair(left, right) => format!("{} {}", left.0, right.0),
        }
    }
}

pub(crate) fn load(text: &[u8]) -> Result<Tokenizer> {
    let file: File =
        serde_json::from_slice(text).map_err(|error| Error::Json { detail: error.to_string() })?;
    check_settings(&file)?;
    let entries = entries(&file)?;
    let (vocabulary, base) = Vocabulary::new(&entries)?;
    let merges = &file.model.merges;
    let pairs = merges.iter().map(Merge::pair);
    let merges = vocabulary::merges(&base, pairs, |rank| merges[rank].spelled())?;
    Ok(Tokenizer { vocabulary, merges })
}

/// Orders the base and the added tokens by id; the ids must have no gap. An added token may be
/// in the base vocabulary as well, with the same spelling, and is then an added token.
fn entries<'a>(file: &'a File<'_>) -> Result<Vec<Entry<'a>>> {
    let token_count_max = file.model.vocab.0.len() + file.added_tokens.len();
    let mut entries: Vec<Option<Entry<'a>>> = Vec::new();
    let base = file.model.vocab.0.iter();
    let base = base.map(|(text, id)| (*id, Entry { text: &text.0, kind: Kind::Base }));
    let added = file.added_tokens.iter().map(|token| {
        // The first pass looks in the text as it is, the second in normalised text. They are
        // the same text here, but the order decides where spellings overlap.
        let kind = Kind::Added { pass: usize::from(token.normalized) };
        (token.id, Entry { text: &token.content, kind })
    });
    for (id, entry) in base.chain(added) {
        let place = id as usize;
        if place >= token_count_max {
            return Err(Error::Token {
                id,
                token: entry.text.to_owned(),
                problem: format!("has an id beyond the {token_count_max} tokens of the file"),
            });
        }
        entries.resize(entries.len().max(place + 1), None);
        match entries[place] {
            Some(earlier) if earlier.text != entry.text || earlier.kind != Kind::Base => {
                return Err(Error::Token {
                    id,
                    token: entry.text.to_owned(),
                    problem: format!("shares its id with {:?}", earlier.text),
                });
            }
            _ => entries[place] = Some(entry),
        }
    }
    let gap = |id: usize| Error::Unsupported {
        field: "ids".to_owned(),
        expected: format!("every id from 0 to {}", entries.len().saturating_sub(1)),
        found: format!("no token {id}"),
    };
    entries.iter().enumerate().map(|(id, entry)| entry.ok_or_else(|| gap(id))).collect()
}

fn check_settings(file: &File<'_>) -> Result<()> {
    let no_normalizer = |value: &Value| {
        value.is_null()
            || (kind(value) == "Sequence" && value["normalizers"] == Value::Array(vec![]))
    };
    check("normalizer", &file.normalizer, "null or an empty sequence", no_normalizer)?;
    check_pre_tokenizer(&file.pre_tokenizer)?;
    check("decoder.type", &file.decoder["type"], "\"ByteLevel\"", |value| value == "ByteLevel")?;
    check("model.type", &file.model.r#type, "\"BPE\"", |value| value.is_null() || value == "BPE")?;
    let model = &file.model;
    for (field, value) in [
        ("model.dropout", &model.dropout),
        ("model.unk_token", &model.unk_token),
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        check(field, value, "null", |value| value.is_null() || value == "")?;
    }
    for (field, value) in [
        ("model.byte_fallback", &model.byte_fallback),
        ("model.ignore_merges", &model.ignore_merges),
    ] {
        check(field, value, "false", |value| value.is_null() || value == false)?;
    }
    for token in &file.added_tokens {
        if token.single_word || token.lstrip || token.rstrip {
            return Err(Error::Token {
                id: token.id,
                token: token.content.clone(),
                problem: "has single_word, lstrip or rstrip, expected none of them".to_owned(),
            });
        }
    }
    Ok(())
}

/// The three splits, then the byte alphabet.
fn check_pre_tokenizer(sequence: &Value) -> Result<()> {
    let field = "pre_tokenizer";
    check(field, sequence, "a sequence of three splits and ByteLevel", |value| {
        let length = value["pretokenizers"].as_array().map(Vec::len);
        kind(value) == "Sequence" && length == Some(SPLITS.len() + 1)
    })?;
    for (at, pattern) in SPLITS.iter().enumerate() {
        let split = &sequence["pretokenizers"][at];
        let expected = format!("an isolating split at {pattern:?}");
        check(&format!("{field}[{at}]"), split, &expected, |split| {
            kind(split) == "Split"
                && split["pattern"]["Regex"] == *pattern
                && split["behavior"] == "Isolated"
                && split["invert"] == false
        })?;
    }
    let bytes = &sequence["pretokenizers"][SPLITS.len()];
    let expected = "ByteLevel without prefix space and regex";
    check(&format!("{field}[{}]", SPLITS.len()), bytes, expected, |bytes| {
        kind(bytes) == "ByteLevel"
            && bytes["add_prefix_space"] == false
            && bytes["use_regex"] == false
    })
}

fn kind(value: &Value) -> &str {
    value["type"].as_str().unwrap_or_default()
}

fn check(field: &str, found: &Value, expected: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    if holds(found) {
        return Ok(());
    }
    Err(Error::Unsupported {
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer of the 256 bytes, "ab" and one added token.
    fn small() -> Value {
        let mut vocab: serde_json::Map<String, Value> = (0..=255u8)
            .map(|byte| (crate::alphabet::spelling_of(byte).to_string(), byte.into()))
            .collect();
        vocab.insert("ab".to_owned(), 256.into());
        let split = |pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                   "invert": false})
        };
        json!({
            "added_tokens": [{"id": 257, "content": "<x>"}],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                split(SPLITS[0]), split(SPLITS[1]), split(SPLITS[2]),
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"], "byte_fallback": false}
        })
    }

    fn load_value(value: &Value) -> Result<Tokenizer> {
        load(value.to_string().as_bytes())
    }

    #[test]
    fn a_small_file_loads() {
        let tokenizer = load_value(&small()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 258);
        assert_eq!(tokenizer.encode("ab<x>", crate::Specials::Parse), [256, 257]);
        let mut pairs = small();
        pairs["model"]["merges"] = json!([["a", "b"]]);
        assert_eq!(load_value(&pairs).unwrap().encode("ab", crate::Specials::Text), [256]);
    }

    #[test]
    fn every_difference_is_named() {
        let cases: [(&str, Value, &str); 16] = [
            ("/normalizer", json!({"type": "NFC"}), "normalizer should be"),
            ("/pre_tokenizer", json!(null), "pre_tokenizer should be"),
            ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("x"), "pre_tokenizer[0]"),
            ("/pre_tokenizer/pretokenizers/3/use_regex", json!(true), "pre_tokenizer[3]"),
            ("/decoder/type", json!("WordPiece"), "decoder.type should be \"ByteLevel\""),
            ("/model/type", json!("Unigram"), "model.type should be \"BPE\", found \"Unigram\""),
            ("/model/byte_fallback", json!(true), "model.byte_fallback should be false"),
            ("/model/merges", json!(["ab"]), "merge 0 (\"ab\") is not two tokens"),
            ("/model/merges", json!(["a c"]), "needs the base token \"ac\", which is missing"),
            ("/model/merges", json!(["a b", "a b"]), "merge 1 (\"a b\") is also merge 0"),
            ("/model/vocab/ab", json!(400), "token 400 (\"ab\") has an id beyond the 258"),
            ("/model/vocab/ab", json!(257), "shares its id"),
            ("/added_tokens/0/id", json!(3), "token 3 (\"<x>\") shares its id"),
            ("/added_tokens/0/content", json!(""), "token 257 (\"\") is empty"),
            ("/added_tokens/0", json!({"id": 257, "content": "<x>", "lstrip": true}), "lstrip"),
            ("/model/vocab", json!({"ab": 0, "x": 1}), "has an id beyond the 3 tokens"),
        ];
        for (place, value, message) in cases {
            let mut file = small();
            *file.pointer_mut(place).unwrap() = value;
            let error = load_value(&file).unwrap_err().to_string();
            assert!(error.contains(message), "{place}: {error}");
        }
        let mut file = small();
        file["added_tokens"] = json!([{"id": 256, "content": "ab"}, {"id": 258, "content": "<x>"}]);
        let error = load_value(&file).unwrap_err().to_string();
        assert!(error.ends_with("every id from 0 to 258, found no token 257"), "{error}");
        assert!(load(b"{").unwrap_err().to_string().contains("line 1"));
    }
}
