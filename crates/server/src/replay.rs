//! Tool calls that come back are the tokens that were sampled.
//!
//! A client sends a tool call back as JSON; rendered again it is rarely the same tokens: the
//! order of parameters, a number's spelling, spaces. Behind the first difference nothing of the
//! cache could be used, and the model would read something that it did not write. So the tokens
//! of every turn with tool calls are remembered under its call ids. When all calls of a turn come
//! back, the remembered tokens stand in its place: what a client sends back *selects* what was
//! sampled, and never rewrites it. An edited call keeps its id only if the client breaks the
//! protocol; whoever wants another call gives it another id.
//!
//! Only turns with tool calls are kept, as the format keeps only their reasoning.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use chat::protocol::Protocol;
use chat::{ASSISTANT, DSML, EOS, Prompt, THINK_END, THINK_START};
use serde_json::Value;
use tokenizer::Tokenizer;

/// Tokens remembered over all turns; the oldest turns go first. 16 MB.
const TOKENS_MAX: usize = 4 << 20;

/// Sampled turns by their first call id.
#[derive(Default)]
pub(crate) struct Replay {
    turns: HashMap<String, Turn>,
    by_age: VecDeque<String>,
    n_tokens: usize,
}

struct Turn {
    call_ids: Vec<String>,
    /// From `<think>` or `</think>` to the last token before the end of sentence.
    tokens: Vec<u32>,
}

impl Replay {
    /// Remembers a turn. `tokens` begin with the last token of the header.
    pub(crate) fn keep(&mut self, call_ids: Vec<String>, tokens: Vec<u32>) {
        let Some(first) = call_ids.first().cloned() else { return };
        self.n_tokens += tokens.len();
        let turn = Turn { call_ids, tokens };
        match self.turns.insert(first.clone(), turn) {
            Some(old) => self.n_tokens -= old.tokens.len(),
            None => self.by_age.push_back(first),
        }
        while self.n_tokens > TOKENS_MAX {
            let Some(oldest) = self.by_age.pop_front() else { break };
            let gone = self.turns.remove(&oldest);
            self.n_tokens -= gone.map_or(0, |turn| turn.tokens.len());
        }
    }

    /// The turn that made exactly these calls, in any order.
    fn find(&self, call_ids: &[String]) -> Option<&[u32]> {
        let mut turns = call_ids.iter().filter_map(|id| self.turns.get(id));
        let turn = turns.find(|turn| {
            turn.call_ids.len() == call_ids.len()
                && turn.call_ids.iter().all(|id| call_ids.contains(id))
        })?;
        Some(&turn.tokens)
    }
}

/// The ids of all calls in a body, in its order.
pub(crate) fn call_ids(protocol: Protocol, body: &Value) -> Vec<String> {
    fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
        value.get(key).and_then(Value::as_array).into_iter().flatten()
    }
    fn id(value: &Value, key: &str) -> Option<String> {
        value.get(key).and_then(Value::as_str).map(str::to_owned)
    }
    let is = |value: &Value, kind: &str| value.get("type").is_some_and(|t| t == kind);
    match protocol {
        Protocol::Chat => list(body, "messages")
            .flat_map(|message| list(message, "tool_calls"))
            .filter_map(|call| id(call, "id"))
            .collect(),
        Protocol::Messages => list(body, "messages")
            .flat_map(|message| list(message, "content"))
            .filter(|block| is(block, "tool_use"))
            .filter_map(|block| id(block, "id"))
            .collect(),
        Protocol::Responses => list(body, "input")
            .filter(|item| {
                ["function_call", "custom_tool_call", "tool_search_call"]
                    .iter()
                    .any(|kind| is(item, kind))
            })
            .filter_map(|item| id(item, "call_id"))
            .collect(),
    }
}

/// Encodes a prompt, with remembered tokens for the turns whose calls are known. `call_ids` are
/// all calls of the conversation in order.
pub(crate) fn encode(
    replay: &Replay,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    call_ids: &[String],
) -> tokenizer::Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut rest = call_ids;
    let mut done = 0;
    for turn in turns(prompt) {
        let Some((calls, later)) = rest.split_at_checked(turn.n_calls) else { break };
        rest = later;
        let Some(tokens) = replay.find(calls) else { continue };
        let header = &prompt.text[prompt.special[turn.header].clone()];
        let Some(tokens) = from_header(tokenizer, tokens, header) else { continue };
        // Both cuts are at special tokens, which no piece of text crosses.
        ids.extend(part(prompt, done..turn.header).encode(tokenizer)?);
        ids.extend_from_slice(tokens);
        done = turn.end;
    }
    ids.extend(part(prompt, done..prompt.special.len()).encode(tokenizer)?);
    Ok(ids)
}

/// The end of a prompt from its last `<think>` or `</think>` on: what a sampled turn begins with.
pub(crate) fn turn_start<'i>(tokenizer: &Tokenizer, ids: &'i [u32]) -> &'i [u32] {
    let header = tokenizer.special_id(ASSISTANT);
    let at = ids.iter().rposition(|id| Some(*id) == header);
    at.map_or(&[], |at| &ids[at + 1..])
}

/// A turn with tool calls in a rendered prompt; numbers of special tokens.
struct RenderedTurn {
    /// `<think>` or `</think>` behind the header.
    header: usize,
    /// The end of sentence.
    end: usize,
    n_calls: usize,
}

/// The turns with tool calls of a prompt, in order.
fn turns(prompt: &Prompt) -> Vec<RenderedTurn> {
    let spelling = |at: usize| &prompt.text[prompt.special[at].clone()];
    let mut found = Vec::new();
    let mut start = None;
    let mut n_calls = 0;
    for at in 0..prompt.special.len() {
        match spelling(at) {
            ASSISTANT => (start, n_calls) = (Some(at + 1), 0),
            // An opening tag; `</` is before a closing one.
            DSML if prompt.text[prompt.special[at].end..].starts_with("invoke name=") => {
                n_calls += usize::from(prompt.text[..prompt.special[at].start].ends_with('<'));
            }
            EOS => {
                let header = start.take().filter(|_| n_calls > 0);
                found.extend(header.map(|header| RenderedTurn { header, end: at, n_calls }));
            }
            _ => {}
        }
    }
    found
}

/// The tokens of a turn as its header asks for them: without reasoning where the prompt has none.
fn from_header<'t>(tokenizer: &Tokenizer, tokens: &'t [u32], header: &str) -> Option<&'t [u32]> {
    let first = *tokens.first()?;
    if tokenizer.special_id(header) == Some(first) {
        return Some(tokens);
    }
    let think_end = tokenizer.special_id(THINK_END)?;
    let drops_reasoning = header == THINK_END && tokenizer.special_id(THINK_START) == Some(first);
    let at = tokens.iter().position(|id| *id == think_end).filter(|_| drops_reasoning)?;
    Some(&tokens[at..])
}

/// The part of a prompt that begins at one special token and ends before another.
fn part(prompt: &Prompt, special: Range<usize>) -> Prompt {
    let at = |i: usize| prompt.special.get(i).map_or(prompt.text.len(), |range| range.start);
    let start = if special.start == 0 { 0 } else { at(special.start) };
    let shift = |range: &Range<usize>| range.start - start..range.end - start;
    Prompt {
        text: prompt.text[start..at(special.end)].to_owned(),
        special: prompt.special[special].iter().map(shift).collect(),
    }
}
