//! The published tokenizer, unpacked.

use std::io::Read;

/// The text of DeepSeek V4's `tokenizer.json`.
pub(crate) fn tokenizer_json() -> Vec<u8> {
    let packed = include_bytes!("../data/tokenizer.json.gz");
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
    text
}
