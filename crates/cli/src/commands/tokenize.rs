//! `keid tokenize`: text to token ids, and back.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use gguf::Gguf;
use tokenizer::{Specials, Tokenizer};

use crate::Context;

/// Flags of `keid tokenize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid tokenize -m model.gguf < prompt.txt
  keid tokenize --tokenizer tokenizer.json --specials text < notes.md | jq length
  echo '[17981, 14, 2058]' | keid tokenize -m model.gguf --decode")]
pub(crate) struct Args {
    #[command(flatten)]
    vocabulary: VocabularyArgs,
    /// How to read the spelling of a special token, such as `<think>`, in the text
    #[arg(long, value_enum, value_name = "HOW", default_value = "parse")]
    specials: SpecialsArg,
    /// Read token ids, as a JSON array or separated by blanks, and write the bytes
    #[arg(long, conflicts_with = "specials")]
    decode: bool,
}

/// Flags of every command that needs a vocabulary and no weights.
#[derive(Debug, clap::Args)]
pub(super) struct VocabularyArgs {
    /// A tokenizer.json
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    tokenizer: Option<PathBuf>,
    /// A GGUF file [default: the model inside this binary, if there is one]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
}

/// Where a vocabulary came from.
pub(super) enum Vocabulary {
    /// A `tokenizer.json`.
    Json(Tokenizer),
    /// A model, whose metadata says more than the vocabulary.
    Model(Tokenizer, Box<Gguf>),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SpecialsArg {
    /// It becomes that token
    Parse,
    /// It is ordinary text
    Text,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let tokenizer = self.vocabulary.open()?.into_tokenizer();
        if self.decode {
            let bytes = tokenizer.decode(&parse_ids(&text(io::stdin())?)?)?;
            // Not by way of `context.out`, which may take escape sequences out.
            return Ok(io::stdout().lock().write_all(&bytes)?);
        }
        let specials = match self.specials {
            SpecialsArg::Parse => Specials::Parse,
            SpecialsArg::Text => Specials::Text,
        };
        let ids = tokenizer.encode(&text(io::stdin())?, specials);
        let json = serde_json::to_string(&ids).context("cannot write JSON")?;
        Ok(writeln!(context.out, "{json}")?)
    }
}

impl VocabularyArgs {
    /// Loads the vocabulary that the flags name.
    pub(super) fn open(&self) -> anyhow::Result<Vocabulary> {
        if let Some(path) = &self.tokenizer {
            let json = std::fs::read(path)
                .with_context(|| format!("cannot read the tokenizer {}", path.display()))?;
            let tokenizer = Tokenizer::from_json(&json)
                .with_context(|| format!("cannot use the tokenizer {}", path.display()))?;
            return Ok(Vocabulary::Json(tokenizer));
        }
        let gguf = match &self.model {
            Some(path) => Gguf::open(path)?,
            None => crate::open::embedded()?,
        };
        let tokenizer = Tokenizer::from_metadata(gguf.metadata())
            .with_context(|| format!("cannot use the tokenizer of {}", gguf.path().display()))?;
        Ok(Vocabulary::Model(tokenizer, Box::new(gguf)))
    }
}

impl Vocabulary {
    fn into_tokenizer(self) -> Tokenizer {
        match self {
            Self::Json(tokenizer) | Self::Model(tokenizer, _) => tokenizer,
        }
    }
}

/// Reads all of standard input as text.
fn text(mut input: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).context("cannot read standard input")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        anyhow::anyhow!(
            "standard input should be UTF-8 text, found the byte 0x{byte:02x} at offset {at}"
        )
    })
}

/// Parses token ids: a JSON array, or numbers separated by blanks.
fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .context("token ids should be a JSON array of whole numbers from 0 to 4294967295");
    }
    let mut ids = Vec::new();
    for (at, word) in text.split_whitespace().enumerate() {
        match word.parse() {
            Ok(id) => ids.push(id),
            Err(_) => bail!(
                "token ids should be whole numbers from 0 to 4294967295, found {word:?} in \
                 place {at}"
            ),
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_as_json_or_as_words() {
        assert_eq!(parse_ids(" [1, 2,3]\n").unwrap(), [1, 2, 3]);
        assert_eq!(parse_ids("1 2\n3\t").unwrap(), [1, 2, 3]);
        assert!(parse_ids("").unwrap().is_empty());
        for wrong in ["[1, -2]", "[1.5]", "[1", "[[1]]", "[\"1\"]"] {
            let error = parse_ids(wrong).unwrap_err().to_string();
            assert!(error.starts_with("token ids should be a JSON array"), "{wrong}: {error}");
        }
        let error = parse_ids("1 x").unwrap_err().to_string();
        assert!(error.ends_with("found \"x\" in place 1"), "{error}");
        assert!(parse_ids("1,2").is_err() && parse_ids("4294967296").is_err());
    }

    #[test]
    fn input_that_is_no_text_is_refused_with_its_place() {
        assert_eq!(text(&b"h\xc3\xa9"[..]).unwrap(), "hé");
        let error = text(&b"ab\xffc"[..]).unwrap_err().to_string();
        assert_eq!(error, "standard input should be UTF-8 text, found the byte 0xff at offset 2");
    }
}
