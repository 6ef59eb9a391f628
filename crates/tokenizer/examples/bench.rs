//! How long a megabyte takes: `cargo run --release -p tokenizer --example bench [tokenizer.json]`.
//!
//! Ordinary text (this crate's own sources) and texts made to be slow: one piece a megabyte
//! long, nothing but blanks, nothing but tiny pieces.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, Instant};

use tokenizer::{Specials, Tokenizer};

const MEGABYTE: usize = 1 << 20;
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let json = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => published()?,
    };
    let (loading, tokenizer) = timed(|| Tokenizer::from_json(&json));
    let tokenizer = tokenizer?;
    println!("load {:38.1} ms", milliseconds(loading));
    println!("{:<20} {:>10} {:>10} {:>8}", "text", "bytes", "tokens", "ms");
    for (name, text) in texts() {
        let mut best = Duration::MAX;
        let mut n_tokens = 0;
        for _ in 0..RUNS {
            let (took, ids) = timed(|| tokenizer.encode(&text, Specials::Text));
            best = best.min(took);
            n_tokens = ids.len();
        }
        println!("{name:<20} {:>10} {n_tokens:>10} {:>8.1}", text.len(), milliseconds(best));
    }
    Ok(())
}

fn published() -> std::io::Result<Vec<u8>> {
    let packed = include_bytes!("../tests/data/tokenizer.json.gz");
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut json)?;
    Ok(json)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn texts() -> Vec<(&'static str, String)> {
    let sources = concat!(
        include_str!("../src/lib.rs"),
        include_str!("../src/split.rs"),
        include_str!("../src/merge.rs"),
        include_str!("../src/json.rs")
    );
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move |below: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % u64::from(below)) as u32
    };
    let mut from = |alphabet: &str| -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let count = MEGABYTE / alphabet[0].len_utf8();
        (0..count).map(|_| alphabet[next(alphabet.len() as u32) as usize]).collect()
    };
    let han: String = ('\u{4E00}'..='\u{9FA5}').take(5000).collect();
    vec![
        ("source code", sources.repeat(MEGABYTE / sources.len() + 1)),
        ("one letter", "a".repeat(MEGABYTE)),
        ("one Han character", "的".repeat(MEGABYTE / 3)),
        ("spaces", " ".repeat(MEGABYTE)),
        ("digits", "1".repeat(MEGABYTE)),
        ("line breaks", "\n".repeat(MEGABYTE)),
        ("one symbol", "=".repeat(MEGABYTE)),
        ("random letters", from("abcdefghijklmnopqrstuvwxyz")),
        ("random Han", from(&han)),
        ("random symbols", from("!@#$%^&*()-_=+")),
        ("random blanks", from(" \n\r\t")),
        ("random controls", from("\u{1}\u{2}\u{7f}a")),
    ]
}
