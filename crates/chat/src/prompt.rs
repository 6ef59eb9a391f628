use std::ops::Range;

use deepseek_recipe_core::conversation::Conversation;
use deepseek_recipe_encoding::PromptEncoding;
use deepseek_recipe_encoding::dsv4::DeepseekV4Encoding;
use tokenizer::Tokenizer;

use crate::PromptFormat;

/// The tokens by which a vision model points at places in an image. Rendering marks them where
/// a former answer spells them.
const GROUNDING: [&str; 8] = [
    "<｜ref｜>",
    "<｜/ref｜>",
    "<｜box｜>",
    "<｜/box｜>",
    "<｜point｜>",
    "<｜/point｜>",
    "<｜polygon｜>",
    "<｜/polygon｜>",
];

/// A rendered prompt: text in which some byte ranges are special tokens. Everything else is
/// plain text, so a message that spells a special token cannot become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The prompt as the model reads it.
    pub text: String,
    /// The byte ranges of `text` that hold one special token each, ascending and disjoint.
    pub special: Vec<Range<usize>>,
}

impl Prompt {
    /// Renders a conversation with the effort texts of `format`.
    pub(crate) fn render(conversation: &Conversation, format: PromptFormat) -> Self {
        let mut conversation = conversation.clone();
        conversation.reasoning_effort = format.rendered_effort(conversation.reasoning_effort);
        let rendered = DeepseekV4Encoding::new().render_conversation(&conversation);
        Self { text: rendered.prompt, special: rendered.special_ranges }
    }

    /// The prompt's token ids.
    ///
    /// # Errors
    ///
    /// [`tokenizer::Error::UnknownSpecial`] where the vocabulary lacks a token that the prompt
    /// needs: small vocabularies may have none for tool calls or thinking.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, tokenizer::Error> {
        tokenizer.encode_segments(&self.text, &self.special_in(tokenizer))
    }

    /// The ranges that are special to this vocabulary. Where it has no grounding tokens, their
    /// spelling in a former answer is mere text; all other tokens a prompt cannot do without.
    pub(crate) fn special_in(&self, tokenizer: &Tokenizer) -> Vec<Range<usize>> {
        let has_meaning = |range: &&Range<usize>| {
            let spelling = &self.text[(*range).clone()];
            !GROUNDING.contains(&spelling) || tokenizer.special_id(spelling).is_some()
        };
        self.special.iter().filter(has_meaning).cloned().collect()
    }

    /// The special tokens and the plain text between them, in order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut plain_start = 0;
        let ends = self.special.iter().cloned().map(Some).chain([None]);
        ends.flat_map(move |special| {
            let plain_end = special.as_ref().map_or(self.text.len(), |range| range.start);
            let plain = Segment::Plain(&self.text[plain_start..plain_end]);
            let special = special.map(|range| {
                plain_start = range.end;
                Segment::Special(&self.text[range])
            });
            std::iter::once(plain).chain(special)
        })
    }
}

/// A part of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'p> {
    /// Text, possibly empty.
    Plain(&'p str),
    /// The spelling of one special token.
    Special(&'p str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_alternate_and_concatenate_to_the_text() {
        let prompt = Prompt { text: "AbcDE".to_owned(), special: vec![0..1, 3..4, 4..5] };
        let segments: Vec<_> = prompt.segments().collect();
        use Segment::{Plain, Special};
        assert_eq!(
            segments,
            [
                Plain(""),
                Special("A"),
                Plain("bc"),
                Special("D"),
                Plain(""),
                Special("E"),
                Plain("")
            ]
        );
    }
}
