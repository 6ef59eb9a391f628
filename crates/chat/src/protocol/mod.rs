//! The wire protocols: OpenAI Chat Completions and Responses, Anthropic Messages.
//!
//! A [`Request`] is a request body that DeepSeek's crates have validated; it gives the prompt
//! and the settings to sample with. A [`Responder`] turns the sampled tokens into the events of
//! the protocol, or into one response body. Nothing here knows HTTP.

mod request;
mod responder;

use std::fmt;
use std::str::FromStr;

pub use deepseek_recipe::request::OutputConstraint;
pub use deepseek_recipe::stream::{
    InferenceTokenLogprob as TokenLogprob, ParsingOptions, PromptUsage,
};
pub use request::{Request, RequestError, RequestOptions, Sampling};
pub use responder::{RespondError, Responder, WireEvent};

/// A wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// Anthropic's `/v1/messages`.
    Messages,
    /// OpenAI's `/v1/responses`.
    Responses,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Messages, Self::Responses];

    /// The protocol's name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Messages => "messages",
            Self::Responses => "responses",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name).ok_or_else(|| {
            format!("protocol should be chat, messages or responses, found {name:?}")
        })
    }
}
