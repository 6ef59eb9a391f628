//! `keid render`: a request to the prompt that the model reads.

use std::io::{self, Read};

use anyhow::Context as _;
use chat::protocol::{Protocol, Request, RequestOptions};
use chat::{Detected, Evidence, FormatError, FormatHints, PromptFormat, Thinking};
use serde_json::json;
use tokenizer::Tokenizer;

use super::tokenize::{Vocabulary, VocabularyArgs};
use crate::Context;

/// Flags of `keid render`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keid render --protocol chat -m model.gguf < request.json
  keid render --protocol messages --tokenizer tokenizer.json --prompt-format v4-0731 \\
      < request.json | jq -r .text")]
pub(crate) struct Args {
    /// The protocol of the request: chat, messages or responses
    #[arg(long)]
    protocol: Protocol,
    /// The prompt format: v4 or v4-2604 (April), or v4-0731 [default: what the file says]
    #[arg(long, value_name = "FORMAT", value_parser = prompt_format)]
    prompt_format: Option<PromptFormat>,
    #[command(flatten)]
    vocabulary: VocabularyArgs,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let vocabulary = self.vocabulary.open()?;
        let mut body = Vec::new();
        io::stdin().read_to_end(&mut body).context("cannot read standard input")?;
        // What a request without a model's name or a word about thinking gets from a server.
        let options = RequestOptions { model: "deepseek-v4".to_owned(), thinks: true };
        let request = Request::parse(self.protocol, &body, &options)?;
        let found = self.format(&vocabulary)?;
        let prompt = request.prompt(found.format);
        let ids = prompt.encode(vocabulary.tokenizer()).context("cannot encode the prompt")?;
        // The formats differ in their effort texts only.
        if found.is_guess() && matches!(request.thinking(), Thinking::High | Thinking::Max) {
            context.note(&format!("prompt format {}: {}", found.format, found.evidence));
        }
        let json = json!({ "text": prompt.text, "ids": ids });
        Ok(writeln!(context.out, "{json}")?)
    }

    /// The format that was asked for, or that the file tells.
    fn format(&self, vocabulary: &Vocabulary) -> anyhow::Result<Detected> {
        if let Some(format) = self.prompt_format {
            return Ok(Detected { format, evidence: Evidence::Asked });
        }
        let hints = match vocabulary {
            Vocabulary::Json(tokenizer) => FormatHints::from_tokenizer(tokenizer),
            Vocabulary::Model(_, gguf) => FormatHints::from_metadata(gguf.metadata())?,
        };
        Ok(PromptFormat::detect(&hints)?)
    }
}

impl Vocabulary {
    fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Json(tokenizer) | Self::Model(tokenizer, _) => tokenizer,
        }
    }
}

fn prompt_format(name: &str) -> Result<PromptFormat, FormatError> {
    name.parse()
}
