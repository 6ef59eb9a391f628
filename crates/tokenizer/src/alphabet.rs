//! The byte alphabet: vocabulary files spell every byte as a printable character, as GPT-2 did.
//!
//! The bytes 0x21–0x7E, 0xA1–0xAC and 0xAE–0xFF are the characters with the same number; the 68
//! others, in order, are U+0100 and on. A space is `Ġ`, a line feed `Ċ`.

/// The character that spells each byte.
const SPELLING: [char; 256] = spelling();
/// One past the last character of the alphabet.
const END: u32 = 0x100 + 68;
/// The byte that each character below [`END`] spells.
const BYTE: [Option<u8>; END as usize] = byte();

/// Appends the bytes that a spelled token stands for. Gives back the first character that is
/// not in the alphabet, with `bytes` then holding what came before it.
pub(crate) fn spelled_to_bytes(token: &str, bytes: &mut Vec<u8>) -> Result<(), char> {
    for character in token.chars() {
        let byte = BYTE.get(character as usize).copied().flatten();
        bytes.push(byte.ok_or(character)?);
    }
    Ok(())
}

/// The character that spells a byte.
pub(crate) fn spelling_of(byte: u8) -> char {
    SPELLING[byte as usize]
}

const fn is_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const fn spelling() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut others = 0;
    let mut byte = 0;
    while byte < 256 {
        table[byte] = if is_itself(byte as u8) {
            byte as u8 as char
        } else {
            others += 1;
            match char::from_u32(0x100 + others - 1) {
                Some(character) => character,
                None => panic!("U+0100 to U+0143 are characters"),
            }
        };
        byte += 1;
    }
    table
}

const fn byte() -> [Option<u8>; END as usize] {
    let mut table = [None; END as usize];
    let mut byte = 0;
    while byte < 256 {
        table[SPELLING[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_with_the_known_letters() {
        for (byte, character) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'A', 'A'), (0xAD, 'Ń'), (0, 'Ā')]
        {
            assert_eq!(spelling_of(byte), character);
        }
        let all: String = (0..=255).map(spelling_of).collect();
        let mut bytes = Vec::new();
        assert_eq!(spelled_to_bytes(&all, &mut bytes), Ok(()));
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn characters_outside_are_named() {
        for outside in [' ', '\u{AD}', '\u{144}', '｜', '好'] {
            let token = format!("a{outside}b");
            assert_eq!(spelled_to_bytes(&token, &mut Vec::new()), Err(outside));
        }
    }
}
