//! Bytes to tokens and back: DeepSeek V4's byte-level BPE.
//!
//! Text is cut into pieces ([`split`](mod@split)), every piece becomes its bytes, and the
//! lowest-ranked pair of neighbours merges until none is left ([`merge`](mod@merge)). Added
//! tokens such as `<｜User｜>` stand outside of that: they are whole tokens where the caller says
//! so and ordinary text everywhere else, so that content can never spell a control token.
//!
//! This crate knows vocabularies, not roles: it finds a special token by its spelling and does
//! not know what it means.

mod alphabet;
mod class;
mod error;
mod gguf;
mod json;
mod merge;
mod split;
mod stream;
mod vocabulary;

use std::ops::Range;

pub use error::{Error, Result};
pub use gguf::GgufParts;
pub use stream::Utf8Stream;

use merge::{Merges, Scratch};
use vocabulary::Vocabulary;

/// How [`Tokenizer::encode`] reads the spelling of an added token in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// Every added token spelled in the text becomes that token, the longest at the leftmost
    /// place first. For text that a program wrote as a prompt.
    Parse,
    /// Every spelling is ordinary text. For content: what a person, a file or a tool says.
    Text,
}

/// A loaded vocabulary with its merges. Immutable; share it behind an `Arc`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    merges: Merges,
}

impl Tokenizer {
    /// Loads the text of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// The file must describe byte-level BPE with DeepSeek's three splits and nothing else;
    /// whatever differs is named with what was expected and what was found.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        json::load(text)
    }

    /// Builds the tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] for missing keys, and everything that
    /// [`from_parts`](Self::from_parts) refuses.
    pub fn from_metadata(metadata: &::gguf::Metadata) -> Result<Self> {
        gguf::load_metadata(metadata)
    }

    /// Builds a tokenizer from the values of a GGUF file's `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    ///
    /// Another tokenizer family, arrays that disagree in length, a vocabulary without some
    /// byte, merges of unknown tokens.
    pub fn from_parts(parts: &GgufParts<'_>) -> Result<Self> {
        gguf::load(parts)
    }

    /// The number of token ids, base and added.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Encodes a text. Never fails and never drops a byte; the result of `Specials::Text`
    /// decodes to the text. Adds no token of its own, such as BOS.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut scratch = Scratch::default();
        match specials {
            Specials::Text => self.encode_plain(text, &mut scratch, &mut ids),
            Specials::Parse => self.vocabulary.parse_added(text, &mut |part| match part {
                vocabulary::Part::Added(id) => ids.push(id),
                vocabulary::Part::Text(text) => self.encode_plain(text, &mut scratch, &mut ids),
            }),
        }
        ids
    }

    /// Encodes a prompt: each byte range in `special` is one added token, found by its
    /// spelling; the text between the ranges is plain, each stretch on its own.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSpecial`] where the vocabulary lacks a spelling, and
    /// [`Error::SpecialRange`] for ranges that are not ascending, disjoint and inside `text`.
    pub fn encode_segments(&self, text: &str, special: &[Range<usize>]) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut scratch = Scratch::default();
        let mut plain_start = 0;
        for range in special {
            let misplaced = || Error::SpecialRange { range: range.clone(), text_len: text.len() };
            let plain = text.get(plain_start..range.start).ok_or_else(misplaced)?;
            let spelling = text.get(range.clone()).ok_or_else(misplaced)?;
            self.encode_plain(plain, &mut scratch, &mut ids);
            ids.push(self.require_special(spelling)?);
            plain_start = range.end;
        }
        self.encode_plain(&text[plain_start..], &mut scratch, &mut ids);
        Ok(ids)
    }

    /// The bytes that tokens stand for, one after another. Added tokens give their spelling.
    /// The bytes need not be UTF-8: a character can span tokens.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id beyond the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let token = self.token_bytes(id);
            bytes.extend_from_slice(
                token.ok_or(Error::UnknownId { id, vocab_size: self.vocab_size() })?,
            );
        }
        Ok(bytes)
    }

    /// The bytes that one token stands for, or `None` beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// One token as a vocabulary file spells it: added tokens literally, the others in the
    /// byte alphabet (a space is `Ġ`). `None` beyond the vocabulary.
    pub fn token_spelling(&self, id: u32) -> Option<String> {
        let bytes = self.token_bytes(id)?;
        Some(match self.vocabulary.is_base(id) {
            true => bytes.iter().map(|&byte| alphabet::spelling_of(byte)).collect(),
            false => String::from_utf8_lossy(bytes).into_owned(),
        })
    }

    /// The id of the added token with this spelling.
    pub fn special_id(&self, spelling: &str) -> Option<u32> {
        self.vocabulary.added_id(spelling)
    }

    /// As [`special_id`](Self::special_id), for a token that the caller cannot do without.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSpecial`] names the spelling.
    pub fn require_special(&self, spelling: &str) -> Result<u32> {
        self.special_id(spelling).ok_or_else(|| Error::UnknownSpecial {
            spelling: spelling.to_owned(),
            vocab_size: self.vocab_size(),
        })
    }

    /// Whether an id is an added token rather than a piece of text.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_added(id)
    }

    /// The pieces that the pre-tokenizer cuts a text into; no merge crosses their borders.
    pub fn pieces<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        split::split(text, |piece| pieces.push(piece));
        pieces
    }

    fn encode_plain(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        split::split(text, |piece| self.merges.encode(piece.as_bytes(), scratch, ids));
    }
}
