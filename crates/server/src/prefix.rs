//! What was reused of a prompt, and why not more.

use serde_json::{Value, json};
use tokenizer::Tokenizer;

/// What the engine found of a prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Tokens that agree with something held.
    pub(crate) matched: usize,
    /// Tokens that were not computed.
    pub(crate) reused: usize,
    /// What is held in the place of the first token that does not agree.
    pub(crate) instead: Option<u32>,
}

/// Tokens shown before the first one that differs.
const CONTEXT: usize = 12;

/// Logs what was found and gives it as the response says it.
pub(crate) fn report(id: &str, tokenizer: &Tokenizer, prompt: &[u32], found: Found) -> Value {
    let Found { matched, reused, instead } = found;
    let matched = matched.min(prompt.len());
    let text = |ids: &[u32]| {
        let bytes = ids.iter().filter_map(|&id| tokenizer.token_bytes(id));
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>().concat()).into_owned()
    };
    let differs = prompt.get(matched).map(|&token| {
        let after = text(&prompt[matched.saturating_sub(CONTEXT)..matched]);
        let (new, held) = (text(&[token]), instead.map(|held| text(&[held])));
        (after, new, held)
    });
    match &differs {
        Some((after, new, held)) => tracing::info!(
            id, prompt = prompt.len(), matched, reused, ?after, ?new, held = ?held.as_deref(),
            "prefix"
        ),
        None => tracing::info!(id, prompt = prompt.len(), matched, reused, "prefix"),
    }
    json!({
        "prompt_tokens": prompt.len(),
        "matched_tokens": matched,
        "reused_tokens": reused,
        "replayed_tokens": matched.saturating_sub(reused),
        "differs": differs.map(|(after, new, held)| {
            json!({"position": matched, "after": after, "text": new, "held": held})
        }),
    })
}
