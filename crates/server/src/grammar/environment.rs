//! The vocabulary as `llguidance` reads it.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use tokenizer::{Specials, Tokenizer};

struct Environment {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| self.tokenizer.encode(text, Specials::Text);
        self.trie.tokenize_with_greedy_fallback(bytes, encode)
    }
}

/// Parsers over a vocabulary. Added tokens are outside of text: only a grammar that names one by
/// its id allows it.
pub(super) fn factory(
    tokenizer: &Arc<Tokenizer>,
    eos: u32,
) -> Result<ParserFactory, Box<dyn std::error::Error>> {
    let n_vocab = tokenizer.vocab_size() as u32;
    let word = |id: u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let marker = tokenizer.is_special(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
        marker.into_iter().chain(bytes.iter().copied()).collect()
    };
    let words: Vec<Vec<u8>> = (0..n_vocab).map(word).collect();
    let trie = TokTrie::from(&TokRxInfo::new(n_vocab, eos), &words);
    let environment: TokEnv = Arc::new(Environment { tokenizer: Arc::clone(tokenizer), trie });
    let mut factory = ParserFactory::new_simple(&environment)?;
    factory.quiet();
    Ok(factory)
}
