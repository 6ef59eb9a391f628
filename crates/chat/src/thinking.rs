use std::fmt;
use std::str::FromStr;

use deepseek_recipe_core::conversation::ReasoningEffort;

/// Whether and how thoroughly the model reasons before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// Answers at once.
    Off,
    /// Reasons, with no word about effort in the prompt.
    Low,
    /// Reasons with the effort that DeepSeek's service has by default.
    High,
    /// Reasons with the highest effort.
    Max,
}

impl Thinking {
    /// All modes, least effort first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Low, Self::High, Self::Max];

    /// The mode's name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::High => "high",
            Self::Max => "max",
        }
    }

    /// The effort to render, or `None` when off.
    pub(crate) fn effort(self) -> Option<ReasoningEffort> {
        match self {
            Self::Off => None,
            Self::Low => Some(ReasoningEffort::Low),
            Self::High => Some(ReasoningEffort::High),
            Self::Max => Some(ReasoningEffort::Max),
        }
    }

    /// The mode of a converted request, where no effort means high.
    pub(crate) fn from_request(thinks: bool, effort: Option<ReasoningEffort>) -> Self {
        match (thinks, effort) {
            (false, _) => Self::Off,
            (true, Some(ReasoningEffort::Low)) => Self::Low,
            (true, None | Some(ReasoningEffort::High | ReasoningEffort::Xhigh)) => Self::High,
            (true, Some(ReasoningEffort::Max)) => Self::Max,
        }
    }
}

impl fmt::Display for Thinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Thinking {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("thinking mode should be off, low, high or max, found {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mode in Thinking::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "medium".parse::<Thinking>().unwrap_err();
        assert_eq!(error, "thinking mode should be off, low, high or max, found \"medium\"");
    }
}
