use std::ops::Range;

/// Why a tokenizer could not be loaded, or a call not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tokenizer file is not JSON of the expected shape.
    #[error("the tokenizer file is not a tokenizer.json: {detail}")]
    Json {
        /// What the JSON reader says, with line and column.
        detail: String,
    },
    /// The metadata of a GGUF file lacks a key, or holds another type under it.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    /// A setting of the tokenizer is not what DeepSeek V4 has.
    #[error("tokenizer: {field} should be {expected}, found {found}")]
    Unsupported {
        /// The field, as the file names it.
        field: String,
        /// The value that this crate implements.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// Two arrays that describe the same tokens have different lengths.
    #[error("tokenizer: {field} has {found} entries, expected one for each of {expected} tokens")]
    Length {
        /// The array, as the file names it.
        field: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The number of entries.
        found: usize,
    },
    /// A token contradicts the rest of the vocabulary.
    #[error("tokenizer: token {id} ({token:?}) {problem}")]
    Token {
        /// Its id.
        id: u32,
        /// Its spelling in the file.
        token: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No base token stands for this byte alone, so some text could not be encoded.
    #[error("tokenizer: no token stands for the byte 0x{byte:02x} alone")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge contradicts the vocabulary or another merge.
    #[error("tokenizer: merge {rank} ({merge:?}) {problem}")]
    Merge {
        /// Its place in the list of merges.
        rank: usize,
        /// Its text in the file.
        merge: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The vocabulary has no added token with this spelling.
    #[error("the vocabulary of {vocab_size} tokens has no special token {spelling:?}")]
    UnknownSpecial {
        /// The spelling that was looked up.
        spelling: String,
        /// The number of tokens searched.
        vocab_size: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// The number of tokens.
        vocab_size: usize,
    },
    /// The ranges of special tokens do not fit the text.
    #[error(
        "special range {range:?} overlaps the one before, leaves the text of {text_len} bytes, \
         or cuts a character"
    )]
    SpecialRange {
        /// The range that does not fit.
        range: Range<usize>,
        /// The length of the text in bytes.
        text_len: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
