//! The pre-tokenizer: three splits, one after another, each on the pieces that the last one left.
//!
//! ```text
//! 1  \p{N}{1,3}
//! 2  [一-龥぀-ゟ゠-ヿ]+
//! 3  [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+
//!    |[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
//!    | ?[\p{P}\p{S}]+[\r\n]*
//!    |\s*[\r\n]+
//!    |\s+(?!\S)
//!    |\s+
//! ```
//!
//! Text that a split does not match stays a piece. A piece is a text of its own for the next
//! split: in `"a   1"` the blanks end their piece, so that all three stay together, while in
//! `"a   b"` the last one belongs to `" b"`. The splits are written out by hand because their
//! alternatives are decided by one or two characters of look-ahead; nothing here backtracks
//! over more than one character, so the time is linear in the text.

use crate::class::Class;

/// Calls `emit` with each piece of `text`, in order. The pieces concatenate to the text.
pub(crate) fn split<'t>(text: &'t str, mut emit: impl FnMut(&'t str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let region = Region::of(first);
        let length_max = if region == Region::Number { 3 } else { usize::MAX };
        let run = rest.chars().take(length_max).take_while(|&next| Region::of(next) == region);
        let end = run.map(char::len_utf8).sum();
        let (piece, tail) = rest.split_at(end);
        match region {
            // Nothing in the third split matches a number.
            Region::Number => emit(piece),
            Region::HanKana | Region::Other => words(piece, &mut emit),
        }
        rest = tail;
    }
}

/// What the first two splits tell apart. No character of the second split's ranges is a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    Number,
    HanKana,
    Other,
}

impl Region {
    fn of(character: char) -> Self {
        match character {
            '\u{4E00}'..='\u{9FA5}' | '\u{3040}'..='\u{30FF}' => Self::HanKana,
            _ if Class::of(character) == Class::Number => Self::Number,
            _ => Self::Other,
        }
    }
}

/// The third split, on one piece of the first two.
fn words<'t>(text: &'t str, emit: &mut impl FnMut(&'t str)) {
    let mut at = 0;
    let mut unmatched_start = 0;
    while let Some(first) = text[at..].chars().next() {
        let Some(end) = word_end(text, at, first) else {
            at += first.len_utf8();
            continue;
        };
        if unmatched_start < at {
            emit(&text[unmatched_start..at]);
        }
        emit(&text[at..end]);
        at = end;
        unmatched_start = end;
    }
    if unmatched_start < text.len() {
        emit(&text[unmatched_start..]);
    }
}

/// The end of the match of the third split that starts at `at`, where `first` stands.
fn word_end(text: &str, at: usize, first: char) -> Option<usize> {
    let after = at + first.len_utf8();
    let class = Class::of(first);
    if class.is_word() {
        return Some(run_end(text, after, Class::is_word));
    }
    if class == Class::Symbol {
        let letters = text[after..].bytes().take_while(u8::is_ascii_alphabetic).count();
        if first.is_ascii() && letters > 0 {
            return Some(after + letters);
        }
        return Some(symbols_end(text, after));
    }
    let second = text[after..].chars().next().map(Class::of);
    match second {
        Some(second) if second.is_word() && class != Class::Newline => {
            Some(run_end(text, after, Class::is_word))
        }
        Some(Class::Symbol) if first == ' ' => Some(symbols_end(text, after)),
        _ if class.is_space() => Some(space_end(text, at)),
        _ => None,
    }
}

/// The end of `[\p{P}\p{S}]*[\r\n]*` from `at`.
fn symbols_end(text: &str, at: usize) -> usize {
    let newlines = run_end(text, at, |class| class == Class::Symbol);
    run_end(text, newlines, |class| class == Class::Newline)
}

/// The end of `\s*[\r\n]+|\s+(?!\S)|\s+` from `at`, where a space stands: through the last line
/// break of the run; without one all of it at the end of the piece; otherwise all but the last
/// character, which belongs to what follows, unless it is the only one.
fn space_end(text: &str, at: usize) -> usize {
    let end = run_end(text, at, Class::is_space);
    let run = &text[at..end];
    if let Some(newline) = run.rfind(['\r', '\n']) {
        return at + newline + 1;
    }
    let last_len = run.chars().next_back().map_or(0, char::len_utf8);
    if end == text.len() || run.len() == last_len { end } else { end - last_len }
}

/// The end of the run of characters from `at` whose class `belongs`.
fn run_end(text: &str, at: usize, belongs: impl Fn(Class) -> bool) -> usize {
    let mut run = text[at..].char_indices();
    run.find(|&(_, character)| !belongs(Class::of(character)))
        .map_or(text.len(), |(len, _)| at + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        split(text, |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn numbers_group_by_three_from_the_left() {
        assert_eq!(pieces("1234567"), ["123", "456", "7"]);
        assert_eq!(pieces("123"), ["123"]);
        assert_eq!(pieces("½²Ⅷ①９"), ["½²Ⅷ", "①９"]);
        assert_eq!(pieces("v1.2"), ["v", "1", ".", "2"]);
    }

    #[test]
    fn a_piece_is_a_text_of_its_own_for_the_next_split() {
        assert_eq!(pieces("a   1"), ["a", "   ", "1"]);
        assert_eq!(pieces("a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces(" 中文"), [" ", "中文"]);
        assert_eq!(pieces("  中文"), ["  ", "中文"]);
    }

    #[test]
    fn han_and_kana_pieces_still_see_the_third_split() {
        assert_eq!(pieces("カ・カー"), ["カ", "・", "カー"]);
        // U+3097 is unassigned: nothing matches it alone, but it may lead a word.
        assert_eq!(pieces("\u{3097}"), ["\u{3097}"]);
        assert_eq!(pieces("\u{3097}か"), ["\u{3097}か"]);
    }

    #[test]
    fn symbols_take_a_blank_before_and_line_breaks_after() {
        assert_eq!(pieces("x ->;\n\ny"), ["x", " ->;\n\n", "y"]);
        assert_eq!(pieces("  ->"), [" ", " ->"]);
        assert_eq!(
            pieces(".py (a _name 's ¿a"),
            [".py", " (", "a", " _", "name", " '", "s", " ¿", "a"]
        );
        assert_eq!(pieces("(a"), ["(a"]);
    }

    #[test]
    fn blanks_run_to_the_last_line_break() {
        assert_eq!(pieces("  \n  x"), ["  \n", " ", " x"]);
        assert_eq!(pieces("\r\n \t"), ["\r\n", " \t"]);
        assert_eq!(pieces("a\u{3000}b"), ["a", "\u{3000}b"]);
    }

    #[test]
    fn unmatched_text_stays_together() {
        assert_eq!(pieces("\0\0a"), ["\0", "\0a"]);
        assert_eq!(pieces("\u{200B}\u{200B}!"), ["\u{200B}\u{200B}", "!"]);
    }
}
