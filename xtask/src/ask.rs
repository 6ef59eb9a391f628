//! A request as the tokens of its prompt.

use anyhow::bail;
use chat::protocol::{Protocol, Request, RequestOptions};
use chat::{ParserOptions, PromptFormat, THINK_END, THINK_START};
use serde_json::Value;
use tokenizer::Tokenizer;

/// The tokens of a chat request, and how the answer is to be parsed.
pub(crate) fn prompt(
    tokenizer: &Tokenizer,
    format: PromptFormat,
    request: &Value,
) -> anyhow::Result<(Vec<u32>, ParserOptions)> {
    let body = with_model(request);
    let options = RequestOptions { model: "keid-tiny".to_owned(), thinks: true };
    let request = Request::parse(Protocol::Chat, &serde_json::to_vec(&body)?, &options)?;
    let ids = request.prompt(format).encode(tokenizer)?;
    let starts_in_reasoning = match ids.last().copied() {
        last if last == tokenizer.special_id(THINK_START) => true,
        last if last == tokenizer.special_id(THINK_END) => false,
        _ => bail!("a prompt that ends neither in reasoning nor after it"),
    };
    let tool_calls = body.get("tools").is_some();
    Ok((ids, ParserOptions { starts_in_reasoning, tool_calls, stop: Vec::new() }))
}

/// A request without a model's name gets one, as the protocol demands.
fn with_model(request: &Value) -> Value {
    let mut body = request.clone();
    if let Some(object) = body.as_object_mut() {
        object.entry("model").or_insert_with(|| "keid-tiny".into());
    }
    body
}
