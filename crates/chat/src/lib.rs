//! Messages to prompts, sampled tokens to reasoning, content and tool calls.
//!
//! Rendering, request conversion and output parsing are DeepSeek's own serving crates
//! (`deepseek-recipe`); this crate is the only one that knows them. What it adds: the effort
//! texts of each published checkpoint ([`PromptFormat`]), prompts as text with marked special
//! tokens ([`Prompt`]), a conversation for a chat at the terminal ([`Conversation`]), and the
//! two ways out of a token stream: [`StreamParser`] gives [`Event`]s to programs in this
//! repository, [`protocol::Responder`] gives the events of a wire protocol.
//!
//! This crate knows special tokens by their spelling only; ids are the tokenizer's.

mod bridge;
mod conversation;
mod format;
mod parser;
mod prompt;
pub mod protocol;
mod thinking;

pub use conversation::{Conversation, Turn};
pub use format::{Detected, Evidence, FormatError, FormatHints, PromptFormat};
pub use parser::{
    EndReason, Event, Finish, ParserOptions, Reply, StreamError, StreamParser, ToolCall,
};
pub use prompt::Prompt;
pub use thinking::Thinking;

/// The token that starts every prompt.
pub const BOS: &str = "<｜begin▁of▁sentence｜>";
/// The token that ends every answer. Generation stops where it is sampled.
pub const EOS: &str = "<｜end▁of▁sentence｜>";
/// The token that starts a user's turn.
pub const USER: &str = "<｜User｜>";
/// The token that starts an answer.
pub const ASSISTANT: &str = "<｜Assistant｜>";
/// The token that starts reasoning.
pub const THINK_START: &str = "<think>";
/// The token that ends reasoning, and that stands in its place where there is none.
pub const THINK_END: &str = "</think>";
/// The token in every tag of the tool-call markup.
pub const DSML: &str = "｜DSML｜";
