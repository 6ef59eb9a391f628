//! What a person sees and types: markdown, progress, the status line, line editing and the
//! commands of a conversation. Everything here turns values into text and text into values, so
//! that it is tested without a terminal.

pub(crate) mod command;
pub(crate) mod editor;
pub(crate) mod markdown;
pub(crate) mod progress;
