/// Turns bytes that arrive token by token into text.
///
/// A character can span tokens, so an incomplete one at the end is held back until its
/// remaining bytes come. Bytes that can never become a character are U+FFFD.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// At most three bytes: the start of a character.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// A stream at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more bytes and gives the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = invalid;
                    let Some(length) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        self.held = rest.to_vec();
        text
    }

    /// Ends the text: what is still held back is U+FFFD.
    pub fn finish(&mut self) -> String {
        match std::mem::take(&mut self.held).is_empty() {
            true => String::new(),
            false => char::REPLACEMENT_CHARACTER.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_comes_out_when_it_is_complete() {
        let mut stream = Utf8Stream::new();
        let thumb = "👍".as_bytes();
        assert_eq!(stream.push(&[b'a', thumb[0], thumb[1]]), "a");
        assert_eq!(stream.push(&thumb[2..3]), "");
        assert_eq!(stream.push(&[thumb[3], b'b']), "👍b");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn what_cannot_be_a_character_is_replaced() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(&[0xFF, b'x', 0xE4, b'y']), "\u{FFFD}x\u{FFFD}y");
        assert_eq!(stream.push(&[0xE4, 0xBD]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    proptest::proptest! {
        #[test]
        fn any_cut_gives_the_text_of_the_whole(bytes: Vec<u8>, cuts: Vec<usize>) {
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut % (rest.len() + 1));
                text.push_str(&stream.push(head));
                rest = tail;
            }
            text.push_str(&stream.push(rest));
            text.push_str(&stream.finish());
            proptest::prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
