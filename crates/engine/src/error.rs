//! What can go wrong in the engine.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A refusal or a failure, with the numbers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device refused or failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The file is no model that can be run.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An option is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its range.
        expected: String,
        /// What was asked.
        found: String,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} at position {pos}: the vocabulary has {n_vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Where.
        pos: usize,
        /// Ids are below this.
        n_vocab: usize,
    },
    /// [`Engine::watch`](crate::Engine::watch)'s flag was set while a chunk was computed.
    #[error("stopped")]
    Stopped,
    /// A sequence would grow past its context.
    #[error("the context holds {context} tokens; {wanted} are needed")]
    Context {
        /// Tokens of the context.
        context: usize,
        /// Tokens that the sequence would have.
        wanted: usize,
    },
    /// Every KV page is in use.
    #[error("all {n_pages} KV pages ({tokens} tokens) are in use")]
    Pages {
        /// Pages of the pool.
        n_pages: usize,
        /// Tokens they hold.
        tokens: usize,
    },
    /// A step asks for more than was planned.
    #[error("step: {what}: at most {max}, found {found}")]
    Step {
        /// Rows, slots or logit rows.
        what: &'static str,
        /// The limit given at the start.
        max: usize,
        /// What was asked.
        found: usize,
    },
    /// A saved session cannot be used.
    #[error("saved session: {what}: expected {expected}, found {found}")]
    Snapshot {
        /// Which part.
        what: &'static str,
        /// What this engine needs.
        expected: String,
        /// What the bytes hold.
        found: String,
    },
    /// Reading or writing a session failed.
    #[error("saved session: {0}")]
    Io(#[from] std::io::Error),
    /// Does not fit this machine.
    #[error("{what}: {needed} bytes are needed, {available} are available")]
    Memory {
        /// What does not fit.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
}

impl Error {
    /// Whether nothing can be computed any more, whatever is asked.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Backend(backend::Error::Lost { .. }))
    }
}
