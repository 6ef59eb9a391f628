//! A conversation as a file: what was said and, for each answer, the tokens that were sampled,
//! so that a conversation that goes on reads the same tokens as one that never stopped.

use std::path::Path;

use anyhow::{Context as _, ensure};
use chat::{Conversation, PromptFormat, Reply, Thinking, Turn};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transcript {
    /// Version of this format.
    keid_chat: u32,
    prompt_format: String,
    thinking: String,
    system: Option<String>,
    turns: Vec<Said>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Said {
    User(String),
    Assistant { reasoning: String, content: String, tokens: Vec<u32> },
}

const VERSION: u32 = 1;

/// Writes a conversation; the file appears when it is complete.
pub(super) fn save(conversation: &Conversation, path: &Path) -> anyhow::Result<()> {
    let said = |turn: &Turn| match turn {
        Turn::User(text) => Said::User(text.clone()),
        Turn::Assistant { reasoning, content, sampled } => Said::Assistant {
            reasoning: reasoning.clone(),
            content: content.clone(),
            tokens: sampled.clone(),
        },
    };
    let transcript = Transcript {
        keid_chat: VERSION,
        prompt_format: conversation.format.name().to_owned(),
        thinking: conversation.thinking.name().to_owned(),
        system: conversation.system.clone(),
        turns: conversation.turns().iter().map(said).collect(),
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let cannot = || format!("cannot write {}", path.display());
    let mut file =
        tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).with_context(cannot)?;
    serde_json::to_writer_pretty(&mut file, &transcript).with_context(cannot)?;
    file.persist(path).with_context(cannot)?;
    Ok(())
}

/// Reads a conversation. Token ids are those of a vocabulary of `n_vocab`.
pub(super) fn load(path: &Path, n_vocab: usize) -> anyhow::Result<Conversation> {
    let cannot = || format!("cannot read {}", path.display());
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    let transcript: Transcript = serde_json::from_str(&text).with_context(cannot)?;
    let found = transcript.keid_chat;
    ensure!(found == VERSION, "{}: a chat of version {found}, expected {VERSION}", path.display());
    let format: PromptFormat = transcript.prompt_format.parse().with_context(cannot)?;
    let thinking: Thinking =
        transcript.thinking.parse().map_err(anyhow::Error::msg).with_context(cannot)?;
    let mut conversation = Conversation::new(format, thinking, transcript.system);
    for said in transcript.turns {
        match said {
            Said::User(text) => conversation.push_user(text),
            Said::Assistant { reasoning, content, tokens } => {
                let beyond = tokens.iter().find(|token| **token as usize >= n_vocab);
                if let Some(token) = beyond {
                    anyhow::bail!(
                        "{}: token {token} of an answer is beyond this model's {n_vocab}",
                        path.display()
                    );
                }
                let reply = Reply { reasoning, content, tool_calls: Vec::new() };
                conversation.push_reply(reply, tokens);
            }
        }
    }
    Ok(conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let system = Some("be brief".to_owned());
        let mut c = Conversation::new(PromptFormat::V4_0731, Thinking::High, system);
        c.push_user("2+2");
        let reply = Reply { reasoning: "hm".into(), content: "4".into(), tool_calls: Vec::new() };
        c.push_reply(reply, vec![7, 8, 9]);
        c
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.json");
        save(&conversation(), &path).unwrap();
        assert_eq!(load(&path, 10).unwrap(), conversation());
        let error = load(&path, 9).unwrap_err().to_string();
        assert!(error.contains("token 9"), "{error}");
    }

    #[test]
    fn foreign_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for text in [
            "",
            "{}",
            r#"{"keid_chat":2,"prompt_format":"v4","thinking":"off","system":null,"turns":[]}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", load(&path, 10).unwrap_err());
            assert!(error.contains("x.json"), "{error}");
        }
    }
}
