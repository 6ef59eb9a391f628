//! Loading from the `tokenizer.ggml.*` arrays of a GGUF file.
//!
use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::vocabulary::{self, Entry, Kind, Vocabulary};

/// The values of `tokenizer.ggml.pre` that stand for the three splits of DeepSeek V3 and V4.
const PRE: [&str; 3] = ["joyai-llm", "deepseek-v3", "hunyuan-dense"];

/// Tokenizer metadata of a GGUF file as plain data; each field says its key.
#[derive(Debug, Clone, Copy)]
pub struct GgufParts<'a> {
    /// `tokenizer.ggml.model`.
    pub model: Option<&'a str>,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.tokens`: base tokens in the byte alphabet, added ones literally.
    pub tokens: &'a [String],
    /// `tokenizer.ggml.token_type`, one for each token.
    pub token_types: &'a [i32],
    /// `tokenizer.ggml.merges`, each two base tokens with a space between, best first.
    pub merges: &'a [String],
}

pub(crate) fn load_metadata(metadata: &gguf::Metadata) -> Result<Tokenizer> {
    load(&GgufParts {
        model: metadata.optional("tokenizer.ggml.model")?,
        pre: metadata.optional("tokenizer.ggml.pre")?,
        tokens: metadata.arr_str("tokenizer.ggml.tokens")?,
        token_types: &metadata.arr_i32("tokenizer.ggml.token_type")?,
        merges: metadata.arr_str("tokenizer.ggml.merges")?,
    })
}

pub(crate) fn load(parts: &GgufParts<'_>) -> Result<Tokenizer> {
    require("tokenizer.ggml.model", parts.model, &["gpt2"])?;
    require("tokenizer.ggml.pre", parts.pre, &PRE)?;
    if parts.token_types.len() != parts.tokens.len() {
        return Err(Error::Length {
            field: "tokenizer.ggml.token_type",
            expected: parts.tokens.len(),
            found: parts.token_types.len(),
        });
    }
    let entries = (0u32..)
        .zip(parts.tokens.iter().zip(parts.token_types))
        .map(|(id, (text, &token_type))| entry(id, text, token_type))
        .collect::<Result<Vec<_>>>()?;
    let (vocabulary, base) = Vocabulary::new(&entries)?;
    let pairs = parts.merges.iter().map(|merge| merge.split_once(' '));
    let merges = vocabulary::merges(&base, pairs, |rank| parts.merges[rank].clone())?;
    Ok(Tokenizer { vocabulary, merges })
}

fn require(field: &str, found: Option<&str>, allowed: &[&str]) -> Result<()> {
    if found.is_some_and(|found| allowed.contains(&found)) {
        return Ok(());
    }
    let quoted: Vec<_> = allowed.iter().map(|value| format!("{value:?}")).collect();
    Err(Error::Unsupported {
        field: field.to_owned(),
        expected: quoted.join(" or "),
        found: found.map_or_else(|| "nothing".to_owned(), |found| format!("{found:?}")),
    })
}

fn entry(id: u32, text: &str, token_type: i32) -> Result<Entry<'_>> {
    let kind = match token_type {
        1 => Kind::Base,
        // Control and user-defined. Which of them a converter chose says nothing about how
        // text is to be read, and files differ in it.
        3 | 4 => Kind::Added { pass: 0 },
        5 => Kind::Unused,
        _ => {
            return Err(Error::Token {
                id,
                token: text.to_owned(),
                problem: format!(
                    "has type {token_type}, expected 1 (normal), 3 (control), 4 (user-defined) \
                     or 5 (unused)"
                ),
            });
        }
    };
    Ok(Entry { text, kind })
}
