//! The versions of the prompt format, and which one a checkpoint was trained on.
//!
//! The versions differ in one thing only, what the prompt says about reasoning effort. For a
//! model that does not think, or thinks with low effort, they are the same.

use std::fmt;
use std::str::FromStr;

use deepseek_recipe_core::conversation::ReasoningEffort;
use tokenizer::Tokenizer;

/// What only the prompt templates of 0731 and 0813 say, for max.
const EFFORT_0731: &str = "Beyond maximum";
/// What the templates of all versions with effort texts say.
const EFFORT_ANY: &str = "Absolute maximum";
/// A token that only V4.1 has.
const V4_1_TOKEN: &str = "<｜System｜>";

/// The version of V4's prompt format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PromptFormat {
    /// V4-Flash and V4-Pro of April 2026: max has the effort text that later became high's;
    /// low and high have none.
    V4_2604,
    /// V4-Flash-0731 and V4-Pro-0813: high and max have a text each.
    V4_0731,
}

impl PromptFormat {
    /// The format's name; `v4` is another name of `v4-2604`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4_2604 => "v4-2604",
            Self::V4_0731 => "v4-0731",
        }
    }

    /// The effort that makes DeepSeek's renderer, which has the texts of 0731, write what this
    /// format has for `effort`.
    pub(crate) fn rendered_effort(
        self,
        effort: Option<ReasoningEffort>,
    ) -> Option<ReasoningEffort> {
        match (self, effort) {
            (Self::V4_0731, _) => effort,
            (Self::V4_2604, Some(ReasoningEffort::Max)) => Some(ReasoningEffort::High),
            (Self::V4_2604, _) => Some(ReasoningEffort::Low),
        }
    }

    /// Finds out which format a checkpoint was trained on, from what its file says about it.
    ///
    /// # Errors
    ///
    /// [`FormatError::V4_1`] for a V4.1 checkpoint, which has another format altogether.
    pub fn detect(hints: &FormatHints<'_>) -> Result<Detected, FormatError> {
        if hints.has_system_token {
            return Err(FormatError::V4_1);
        }
        let detected = |format, evidence| Ok(Detected { format, evidence });
        if let Some(template) = hints.chat_template {
            if template.contains(EFFORT_0731) {
                return detected(Self::V4_0731, Evidence::ChatTemplate);
            }
            if template.contains(EFFORT_ANY) {
                return detected(Self::V4_2604, Evidence::ChatTemplate);
            }
        }
        if hints.base_versions.contains(&"0731") {
            return detected(Self::V4_0731, Evidence::BaseModelVersion);
        }
        if hints.names.iter().any(|name| name.contains("0731") || name.contains("0813")) {
            return detected(Self::V4_0731, Evidence::Name);
        }
        detected(Self::V4_0731, Evidence::Nothing)
    }
}

/// What a checkpoint's file says that tells its prompt format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormatHints<'a> {
    /// `tokenizer.chat_template`.
    pub chat_template: Option<&'a str>,
    /// `general.name` and the names of the base models.
    pub names: Vec<&'a str>,
    /// The versions of the base models.
    pub base_versions: Vec<&'a str>,
    /// Whether the vocabulary has `<｜System｜>`.
    pub has_system_token: bool,
}

impl<'a> FormatHints<'a> {
    /// The hints in a vocabulary alone, as a `tokenizer.json` has it: none but V4.1's token.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Self {
        let has_system_token = tokenizer.special_id(V4_1_TOKEN).is_some();
        Self { has_system_token, ..Self::default() }
    }

    /// Collects the hints in the metadata of a GGUF file.
    ///
    /// # Errors
    ///
    /// Keys with values that are not strings.
    pub fn from_metadata(metadata: &'a gguf::Metadata) -> Result<Self, gguf::Error> {
        let mut hints = Self {
            chat_template: metadata.optional("tokenizer.chat_template")?,
            names: metadata.optional("general.name")?.into_iter().collect(),
            ..Self::default()
        };
        for (key, _) in metadata.iter() {
            let Some(key_of_base) = key.strip_prefix("general.base_model.") else { continue };
            match key_of_base.split_once('.') {
                Some((_, "name")) => hints.names.push(metadata.str(key)?),
                Some((_, "version")) => hints.base_versions.push(metadata.str(key)?),
                _ => {}
            }
        }
        let tokens: Option<&[String]> = metadata.optional("tokenizer.ggml.tokens")?;
        hints.has_system_token =
            tokens.is_some_and(|tokens| tokens.iter().any(|t| t == V4_1_TOKEN));
        Ok(hints)
    }
}

/// A prompt format, and what tells that it is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected {
    /// The format.
    pub format: PromptFormat,
    /// How it was found.
    pub evidence: Evidence,
}

impl Detected {
    /// Whether to warn somebody who asks for high or max effort: the texts of the two formats
    /// differ there, and nothing in the file tells which it was trained on.
    pub fn is_guess(self) -> bool {
        self.evidence == Evidence::Nothing
    }
}

/// What tells a prompt format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Somebody asked for it.
    Asked,
    /// The effort texts in the chat template.
    ChatTemplate,
    /// The version of the base model.
    BaseModelVersion,
    /// The date in the name of the model or of its base.
    Name,
    /// Nothing: the format of the newest checkpoints is assumed.
    Nothing,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "as asked for",
            Self::ChatTemplate => "by the effort texts of its chat template",
            Self::BaseModelVersion => "by the version of its base model",
            Self::Name => "by the date in its name",
            Self::Nothing => "assumed, as nothing in the file tells",
        })
    }
}

/// Why no prompt format of V4 applies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The checkpoint is a V4.1.
    #[error(
        "this is a DeepSeek V4.1 model (its vocabulary has {V4_1_TOKEN}): expected V4, whose \
         prompt format is v4-2604 or v4-0731"
    )]
    V4_1,
    /// No format has this name.
    #[error("prompt format should be v4, v4-2604 or v4-0731, found {found:?}")]
    Unknown {
        /// The name.
        found: String,
    },
}

impl fmt::Display for PromptFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PromptFormat {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        match name {
            "v4" | "v4-2604" => Ok(Self::V4_2604),
            "v4-0731" => Ok(Self::V4_0731),
            _ => Err(FormatError::Unknown { found: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(hints: FormatHints<'_>) -> (PromptFormat, Evidence) {
        let detected = PromptFormat::detect(&hints).unwrap();
        (detected.format, detected.evidence)
    }

    #[test]
    fn the_template_tells_before_versions_and_names() {
        let april = "{{ 'Reasoning Effort: Absolute maximum with no shortcuts' }}";
        let july = "{{ 'Reasoning Effort: Absolute maximum' }} {{ 'Beyond maximum — exhaustive' }}";
        let hints = |chat_template| FormatHints {
            chat_template: Some(chat_template),
            names: vec!["DeepSeek-V4-Flash-0731"],
            ..FormatHints::default()
        };
        assert_eq!(detect(hints(april)), (PromptFormat::V4_2604, Evidence::ChatTemplate));
        assert_eq!(detect(hints(july)), (PromptFormat::V4_0731, Evidence::ChatTemplate));
        // A template without effort texts says nothing.
        assert_eq!(detect(hints("chat-v2")), (PromptFormat::V4_0731, Evidence::Name));
    }

    #[test]
    fn versions_and_names_tell_and_nothing_is_the_newest() {
        let version = FormatHints { base_versions: vec!["0731"], ..FormatHints::default() };
        assert_eq!(detect(version), (PromptFormat::V4_0731, Evidence::BaseModelVersion));
        let name = FormatHints { names: vec!["x", "V4 Pro 0813"], ..FormatHints::default() };
        assert_eq!(detect(name), (PromptFormat::V4_0731, Evidence::Name));
        assert_eq!(detect(FormatHints::default()), (PromptFormat::V4_0731, Evidence::Nothing));
        assert!(PromptFormat::detect(&FormatHints::default()).unwrap().is_guess());
    }

    #[test]
    fn v4_1_is_refused_with_what_it_is() {
        let hints = FormatHints { has_system_token: true, ..FormatHints::default() };
        let error = PromptFormat::detect(&hints).unwrap_err();
        assert!(error.to_string().starts_with("this is a DeepSeek V4.1 model"));
    }

    #[test]
    fn names_round_trip_and_v4_is_april() {
        for format in [PromptFormat::V4_2604, PromptFormat::V4_0731] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("v4".parse(), Ok(PromptFormat::V4_2604));
        let error = "v4.1".parse::<PromptFormat>().unwrap_err().to_string();
        assert_eq!(error, "prompt format should be v4, v4-2604 or v4-0731, found \"v4.1\"");
    }
}
