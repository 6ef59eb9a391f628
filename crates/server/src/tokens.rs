//! `/tokenize` and `/detokenize`.

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizer::{Specials, Utf8Stream};

use crate::app::State;
use crate::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tokenize {
    #[serde(alias = "prompt", alias = "text")]
    content: String,
    /// Whether to put the beginning of sentence first.
    #[serde(default, alias = "add_special_tokens")]
    add_special: bool,
    /// Whether spellings of special tokens are special tokens. Not so in content.
    #[serde(default)]
    parse_special: bool,
    /// Whether to tell each token's text.
    #[serde(default, alias = "return_token_strs")]
    with_pieces: bool,
    #[serde(default, rename = "model")]
    _model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detokenize {
    tokens: Vec<u32>,
    #[serde(default, rename = "model")]
    _model: Option<String>,
}

pub(crate) fn tokenize(state: &State, body: Tokenize) -> Result<Value, ApiError> {
    let tokenizer = &state.tokenizer;
    let mut ids = Vec::new();
    if body.add_special {
        let bos = tokenizer.require_special(chat::BOS);
        ids.push(bos.map_err(|error| ApiError::field("add_special", error.to_string()))?);
    }
    let specials = if body.parse_special { Specials::Parse } else { Specials::Text };
    ids.extend(tokenizer.encode(&body.content, specials));
    let tokens: Value = match body.with_pieces {
        false => json!(ids),
        true => ids
            .iter()
            .map(|&id| {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                // A piece of a character has no text; its bytes are told.
                match std::str::from_utf8(bytes) {
                    Ok(text) => json!({"id": id, "piece": text}),
                    Err(_) => json!({"id": id, "piece": bytes}),
                }
            })
            .collect(),
    };
    let max_model_len = state.runtime.limits().context;
    Ok(json!({"tokens": tokens, "count": ids.len(), "max_model_len": max_model_len}))
}

pub(crate) fn detokenize(state: &State, body: &Detokenize) -> Result<Value, ApiError> {
    let bytes = state.tokenizer.decode(&body.tokens);
    let bytes = bytes.map_err(|error| ApiError::field("tokens", error.to_string()))?;
    let mut stream = Utf8Stream::new();
    let text = stream.push(&bytes) + &stream.finish();
    Ok(json!({"content": text, "prompt": text}))
}
