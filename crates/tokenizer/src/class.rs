//! What the pre-tokenizer needs to know of a character. Unicode 16, as the crate
//! `unicode-general-category` has it.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// The classes that the three splits tell apart. Every character is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// `\p{L}`.
    Letter,
    /// `\p{M}`.
    Mark,
    /// `\p{N}`: digits, letter numbers, other numbers.
    Number,
    /// `\p{P}` or `\p{S}`; the splits treat them alike.
    Symbol,
    /// CR or LF.
    Newline,
    /// `\s` without CR and LF.
    Blank,
    /// Everything else: control and format characters, private use, unassigned.
    Other,
}

impl Class {
    /// The class of a character.
    pub(crate) fn of(character: char) -> Self {
        match u8::try_from(character) {
            Ok(byte) if byte < 0x80 => ASCII[byte as usize],
            _ if character.is_whitespace() => Self::Blank,
            _ => Self::from_category(get_general_category(character)),
        }
    }

    /// `[\p{L}\p{M}]`: what words are made of.
    pub(crate) fn is_word(self) -> bool {
        matches!(self, Self::Letter | Self::Mark)
    }

    /// `\s`.
    pub(crate) fn is_space(self) -> bool {
        matches!(self, Self::Newline | Self::Blank)
    }

    fn from_category(category: Category) -> Self {
        match category {
            Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter => Self::Letter,
            Category::NonspacingMark | Category::SpacingMark | Category::EnclosingMark => {
                Self::Mark
            }
            Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => {
                Self::Number
            }
            Category::ConnectorPunctuation
            | Category::DashPunctuation
            | Category::OpenPunctuation
            | Category::ClosePunctuation
            | Category::InitialPunctuation
            | Category::FinalPunctuation
            | Category::OtherPunctuation
            | Category::MathSymbol
            | Category::CurrencySymbol
            | Category::ModifierSymbol
            | Category::OtherSymbol => Self::Symbol,
            _ => Self::Other,
        }
    }
}

/// Most text is ASCII, and a table of 128 bytes stays in the nearest cache.
const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'\r' | b'\n' => Class::Newline,
            b' ' | b'\t' | 0x0B | 0x0C => Class::Blank,
            b'0'..=b'9' => Class::Number,
            b'A'..=b'Z' | b'a'..=b'z' => Class::Letter,
            0x21..=0x7E => Class::Symbol,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ascii_table_agrees_with_unicode() {
        for byte in 0..128u8 {
            let character = byte as char;
            let expected = match character {
                '\r' | '\n' => Class::Newline,
                _ if character.is_whitespace() => Class::Blank,
                _ => Class::from_category(get_general_category(character)),
            };
            assert_eq!(Class::of(character), expected, "{byte:#x}");
        }
    }

    #[test]
    fn classes_beyond_ascii() {
        let cases = [
            ('é', Class::Letter),
            ('好', Class::Letter),
            ('\u{301}', Class::Mark),
            ('½', Class::Number),
            ('Ⅷ', Class::Number),
            ('〇', Class::Number),
            ('。', Class::Symbol),
            ('€', Class::Symbol),
            ('\u{85}', Class::Blank),
            ('\u{A0}', Class::Blank),
            ('\u{3000}', Class::Blank),
            ('\u{200B}', Class::Other),
            ('\u{E000}', Class::Other),
        ];
        for (character, class) in cases {
            assert_eq!(Class::of(character), class, "{character:?}");
        }
    }
}
