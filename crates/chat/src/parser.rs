//! Sampled tokens to events, for programs in this repository.

use std::sync::Arc;

use deepseek_recipe::stream::{
    ChunkGenerator, FinishReason, InferenceChunk, InferenceFinishReason, OutputChunk,
    ParsingOptions, ThinkingInitialStage,
};
use tokenizer::Tokenizer;

pub use deepseek_recipe::stream::StreamError;

use crate::bridge::Pump;

/// Turns sampled tokens into [`Event`]s.
///
/// Where reasoning ends and tool calls begin is told by the special tokens that were sampled,
/// not by text that spells them. Text is held back while it is inside a character, may be the
/// start of a stop string, or is a line break that may belong to the markup behind it.
pub struct StreamParser {
    pump: Pump<OutputChunk>,
}

/// How a stream begins and what to look for in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParserOptions {
    /// Whether the prompt ended inside reasoning.
    pub starts_in_reasoning: bool,
    /// Whether tool-call markup makes tool calls. Without it, it is content.
    pub tool_calls: bool,
    /// Strings in the answer, not in reasoning or tool calls, that end it.
    pub stop: Vec<String>,
}

/// What a stream of tokens means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More reasoning.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A tool call with the name of the tool. What follows up to the next event of another kind
    /// are its arguments.
    ToolCall {
        /// The tool's name.
        name: String,
    },
    /// More of the arguments of the last tool call: JSON text.
    ToolArguments(String),
    /// The end; nothing follows.
    End {
        /// Why it ended.
        reason: EndReason,
        /// The tokens that were pushed, less what a stop string cut off.
        n_tokens: usize,
        /// The tokens of the reasoning text.
        n_reasoning_tokens: usize,
    },
}

/// Why no more tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The end-of-sentence token was sampled, or a stop string ended the stream.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// Somebody cancelled.
    Cancelled,
}

impl Finish {
    pub(crate) fn reason(self) -> InferenceFinishReason {
        match self {
            Self::Stop | Self::Cancelled => InferenceFinishReason::Stop,
            Self::Length => InferenceFinishReason::Length,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended its turn.
    Stop,
    /// The model ended its turn with tool calls.
    ToolCalls,
    /// This stop string came up.
    StopString(String),
    /// The limit of tokens was reached.
    Length,
    /// Somebody cancelled.
    Cancelled,
}

impl StreamParser {
    /// A parser for the answer to one prompt.
    pub fn new(tokenizer: Arc<Tokenizer>, options: ParserOptions) -> Self {
        let parsing = ParsingOptions {
            parse_tool_calls: options.tool_calls,
            thinking_initial_stage: options
                .starts_in_reasoning
                .then_some(ThinkingInitialStage::ReasoningStart),
            stop_sequences: options.stop,
            ..ParsingOptions::default()
        };
        Self { pump: Pump::new(Verbatim, parsing, tokenizer) }
    }

    /// Takes in one sampled token.
    ///
    /// # Errors
    ///
    /// [`StreamError::Decode`] for an id beyond the vocabulary.
    pub fn push(&mut self, token: u32) -> Result<Vec<Event>, StreamError> {
        let tokens = InferenceChunk::Tokens { token_ids: vec![token], logprobs: None };
        Ok(self.pump.push(tokens)?.into_iter().filter_map(event).collect())
    }

    /// Ends the stream and gives what was held back and [`Event::End`], unless a stop string
    /// ended it before.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn finish(&mut self, finish: Finish) -> Result<Vec<Event>, StreamError> {
        let last = InferenceChunk::Finish { finish_reason: finish.reason() };
        let mut events: Vec<_> = self.pump.finish(last)?.into_iter().filter_map(event).collect();
        if let Some(Event::End { reason, .. }) = events.last_mut()
            && finish == Finish::Cancelled
        {
            *reason = EndReason::Cancelled;
        }
        Ok(events)
    }

    /// Whether the stream has ended, so that no more tokens are needed.
    pub fn is_finished(&self) -> bool {
        self.pump.is_finished()
    }
}

/// A complete answer, gathered from events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The reasoning text.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The tool calls, in the order in which the model made them.
    pub tool_calls: Vec<ToolCall>,
}

/// A tool call of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// The arguments: JSON text of an object, unless the model wrote something else.
    pub arguments: String,
}

impl Reply {
    /// Adds what an event tells.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Reasoning(text) => self.reasoning.push_str(text),
            Event::Content(text) => self.content.push_str(text),
            Event::ToolCall { name } => {
                self.tool_calls.push(ToolCall { name: name.clone(), arguments: String::new() });
            }
            Event::ToolArguments(text) => {
                if let Some(call) = self.tool_calls.last_mut() {
                    call.arguments.push_str(text);
                }
            }
            Event::End { .. } => {}
        }
    }
}

/// Passes on what the parser found, unchanged.
struct Verbatim;

impl ChunkGenerator for Verbatim {
    type Chunk = OutputChunk;

    async fn generate(&mut self, chunk: OutputChunk) -> Vec<OutputChunk> {
        vec![chunk]
    }
}

fn event(chunk: OutputChunk) -> Option<Event> {
    match chunk {
        // A call is told once its name is complete.
        OutputChunk::Start { .. } | OutputChunk::ToolCallBegin => None,
        OutputChunk::Content { content, .. } => Some(Event::Content(content)),
        OutputChunk::Reasoning { content, .. } => Some(Event::Reasoning(content)),
        OutputChunk::ToolCallNamed { tool_name } => Some(Event::ToolCall { name: tool_name }),
        OutputChunk::ToolCallArgumentsDelta { arguments } => Some(Event::ToolArguments(arguments)),
        OutputChunk::Finish { finish_reason, stop_sequence, completion_usage } => {
            let reason = match (stop_sequence, finish_reason) {
                (Some(stop), _) => EndReason::StopString(stop),
                (None, FinishReason::ToolCalls) => EndReason::ToolCalls,
                (None, FinishReason::Length) => EndReason::Length,
                (None, _) => EndReason::Stop,
            };
            Some(Event::End {
                reason,
                n_tokens: completion_usage.completion_tokens,
                n_reasoning_tokens: completion_usage.reasoning_tokens.unwrap_or(0),
            })
        }
    }
}
