//! A chat at the terminal: a system prompt and turns that alternate.

use std::sync::Arc;

use deepseek_recipe_core as core;
use deepseek_recipe_core::messages::InputMessage;
use tokenizer::{Specials, Tokenizer};

use crate::prompt::Segment;
use crate::{EOS, ParserOptions, Prompt, PromptFormat, Reply, StreamParser, THINK_END, Thinking};

/// A conversation without tools.
///
/// Its prompts are stable: each new one repeats the last up to the header of the last answer,
/// where the format replaces the reasoning by `</think>`, and repeats the tokens of answers as
/// they were sampled. So of a cached prompt no more than the answer has to be read again, and
/// not even that when the model does not think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The version of the prompt format.
    pub format: PromptFormat,
    /// How the next answer is reasoned.
    pub thinking: Thinking,
    /// What the model is told before everything else.
    pub system: Option<String>,
    turns: Vec<Turn>,
}

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// What a person said.
    User(String),
    /// What the model answered.
    Assistant {
        /// The reasoning, which is kept for display; the format drops it from later prompts.
        reasoning: String,
        /// The answer.
        content: String,
        /// The tokens that were sampled, reasoning included, the end-of-sentence token not.
        sampled: Vec<u32>,
    },
}

impl Conversation {
    /// A conversation without turns.
    pub fn new(format: PromptFormat, thinking: Thinking, system: Option<String>) -> Self {
        Self { format, thinking, system, turns: Vec::new() }
    }

    /// The turns so far.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Adds what a person says.
    pub fn push_user(&mut self, text: impl Into<String>) {
        self.turns.push(Turn::User(text.into()));
    }

    /// Adds an answer, complete or cut off, with the tokens it was parsed from.
    pub fn push_reply(&mut self, reply: Reply, sampled: Vec<u32>) {
        let Reply { reasoning, content, .. } = reply;
        self.turns.push(Turn::Assistant { reasoning, content, sampled });
    }

    /// Takes back the last turn.
    pub fn pop(&mut self) -> Option<Turn> {
        self.turns.pop()
    }

    /// Forgets all turns and keeps the settings.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// The prompt for the next answer.
    pub fn prompt(&self) -> Prompt {
        let system = self.system.iter().map(|text| InputMessage::System {
            content: core::prompt::Prompt::plain(text.as_str()),
            image_sources: Vec::new(),
            tools: None,
        });
        let conversation = core::conversation::Conversation {
            messages: system.chain(self.turns.iter().map(Turn::message)).collect(),
            thinking_mode: self.thinking != Thinking::Off,
            reasoning_effort: self.thinking.effort(),
            ..core::conversation::Conversation::default()
        };
        Prompt::render(&conversation, self.format)
    }

    /// The token ids of [`prompt`](Self::prompt). Answers keep the tokens that were sampled
    /// where these spell what the prompt shows.
    ///
    /// # Errors
    ///
    /// As [`Prompt::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, tokenizer::Error> {
        let mut prompt = self.prompt();
        prompt.special = prompt.special_in(tokenizer);
        let segments: Vec<_> = prompt.segments().collect();
        let think_end = tokenizer.special_id(THINK_END);
        let answers: Vec<_> = self.turns.iter().filter_map(|turn| turn.answer(think_end)).collect();
        let mut n_answers_ended = 0;
        let mut ids = Vec::new();
        for (at, &segment) in segments.iter().enumerate() {
            match segment {
                Segment::Special(spelling) => {
                    n_answers_ended += usize::from(spelling == EOS);
                    ids.push(tokenizer.require_special(spelling)?);
                }
                // An answer stands alone between these two tokens. One that holds grounding
                // tokens is several segments, and is read anew.
                Segment::Plain(text)
                    if at > 0
                        && segments[at - 1] == Segment::Special(THINK_END)
                        && segments.get(at + 1) == Some(&Segment::Special(EOS)) =>
                {
                    ids.extend(spelled_by(answers.get(n_answers_ended), text, tokenizer));
                }
                Segment::Plain(text) => ids.extend(tokenizer.encode(text, Specials::Text)),
            }
        }
        Ok(ids)
    }

    /// A parser for the next answer, which ends at any of the strings in `stop`.
    pub fn parser(&self, tokenizer: Arc<Tokenizer>, stop: Vec<String>) -> StreamParser {
        let starts_in_reasoning = self.thinking != Thinking::Off;
        let options = ParserOptions { starts_in_reasoning, tool_calls: false, stop };
        StreamParser::new(tokenizer, options)
    }
}

impl Turn {
    fn message(&self) -> InputMessage {
        match self {
            Self::User(text) => InputMessage::User {
                content: core::prompt::Prompt::plain(text.as_str()),
                image_sources: Vec::new(),
            },
            Self::Assistant { reasoning, content, .. } => InputMessage::Assistant {
                content: content.clone(),
                reasoning_content: Some(reasoning.clone()),
                tool_calls: None,
                prefix: false,
            },
        }
    }

    /// The sampled tokens of an answer, without its reasoning.
    fn answer(&self, think_end: Option<u32>) -> Option<&[u32]> {
        let Self::Assistant { sampled, .. } = self else { return None };
        let reasoning_end = sampled.iter().rposition(|&id| Some(id) == think_end);
        Some(&sampled[reasoning_end.map_or(0, |at| at + 1)..])
    }
}

/// The tokens of `text`: the sampled ones where they spell it, or else its own.
fn spelled_by(sampled: Option<&&[u32]>, text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
    let spells_it = |ids: &&&[u32]| tokenizer.decode(ids).is_ok_and(|it| it == text.as_bytes());
    match sampled.filter(spells_it) {
        Some(sampled) => sampled.to_vec(),
        None => tokenizer.encode(text, Specials::Text),
    }
}
