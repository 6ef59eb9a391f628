//! keid-tiny answers a question.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context as _;
use backend::Ops;
use chat::{FormatHints, PromptFormat};
use engine::{Core, Engine, Feed, Options, Wanted, argmax, prefill};
use gguf::Gguf;
use model::Config;
use serde_json::json;
use tokenizer::Tokenizer;

use crate::ask;

const QUESTION: &str = "What is 17 + 25?";
const ANSWER: &str = "42";
const TOKENS_MAX: usize = 64;

/// The answer's text, which must hold the sum, and stop by itself.
pub(super) fn ask<B>(root: &Path, be: B) -> Result<String, String>
where
    B: Ops + Send,
    Core<B>: Engine,
{
    let (text, stopped) = answer(root, be).map_err(|error| format!("{error:#}"))?;
    match stopped && text.contains(ANSWER) {
        true => Ok(format!("{QUESTION} {text:?}")),
        false => Err(format!("{QUESTION} {text:?}, expected {ANSWER} and an end")),
    }
}

fn answer<B>(root: &Path, be: B) -> anyhow::Result<(String, bool)>
where
    B: Ops + Send,
    Core<B>: Engine,
{
    let gguf = Gguf::open(&root.join("models/keid-tiny.gguf"))?;
    let config = Config::from_gguf(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    let format = PromptFormat::detect(&FormatHints::from_metadata(gguf.metadata())?)?.format;
    let eos = tokenizer.special_id(chat::EOS).context("the vocabulary has no end token")?;
    let request = json!({
        "messages": [{"role": "user", "content": QUESTION}],
        "thinking": {"type": "disabled"},
    });
    let (ids, _) = ask::prompt(&tokenizer, format, &request)?;
    let mut core = Core::open(be, &gguf, config, None, Options::single(1024, 512))?;
    prefill(&mut core, 0, &ids, &mut |_, _| ControlFlow::Continue(()))?;
    let mut said = Vec::new();
    loop {
        let token = argmax(core.logits(0));
        if token == eos || said.len() == TOKENS_MAX {
            let text = String::from_utf8_lossy(&tokenizer.decode(&said)?).into_owned();
            return Ok((text, token == eos));
        }
        said.push(token);
        core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }])?;
        core.commit(&[1])?;
    }
}
