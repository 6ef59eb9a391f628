//! Held-out cases: what is asked and what must come of it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use chat::Reply;
use serde::Deserialize;
use serde_json::Value;

/// One line of a case file.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) skill: String,
    /// An OpenAI chat request, without a model.
    pub(super) request: Value,
    pub(super) expect: Expect,
    /// Whether drafts are made and compared.
    #[serde(skip)]
    pub(super) drafts: bool,
}

/// What an answer must be.
#[derive(Debug, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase")]
pub(super) enum Expect {
    /// The whole text.
    Exact { answer: String },
    /// A part of the text.
    Contains { answer: String },
    /// A story of some length about certain things.
    Story { contains: Vec<String>, min_chars: usize },
    /// These tool calls, in this order.
    Calls { calls: Vec<Call> },
}

#[derive(Debug, Deserialize)]
pub(super) struct Call {
    name: String,
    arguments: Value,
}

impl Expect {
    /// Whether a reply is right. Reasoning is not scored.
    pub(super) fn holds(&self, reply: &Reply) -> bool {
        let text = reply.content.trim();
        match self {
            Self::Exact { answer } => text == answer.trim() && reply.tool_calls.is_empty(),
            Self::Contains { answer } => text.contains(answer.as_str()),
            Self::Story { contains, min_chars } => {
                text.chars().count() >= *min_chars && contains.iter().all(|c| text.contains(c))
            }
            Self::Calls { calls } => {
                calls.len() == reply.tool_calls.len()
                    && calls.iter().zip(&reply.tool_calls).all(|(want, got)| {
                        let arguments = serde_json::from_str::<Value>(&got.arguments).ok();
                        want.name == got.name && arguments.as_ref() == Some(&want.arguments)
                    })
            }
        }
    }
}

/// All cases of a directory, skill by skill.
pub(super) fn read_cases(dir: &Path) -> anyhow::Result<Vec<Case>> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for (i, line) in text.lines().enumerate() {
            let case = serde_json::from_str(line)
                .with_context(|| format!("{}: line {}", file.display(), i + 1))?;
            cases.push(case);
        }
    }
    if cases.is_empty() {
        bail!("{} holds no cases", dir.display());
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use chat::ToolCall;

    use super::*;

    fn expect(json: &str) -> Expect {
        serde_json::from_str(json).expect("an expectation")
    }

    fn call(name: &str, arguments: &str) -> Reply {
        let call = ToolCall { name: name.to_owned(), arguments: arguments.to_owned() };
        Reply { tool_calls: vec![call], ..Reply::default() }
    }

    #[test]
    fn texts() {
        let said = |content: &str| Reply { content: content.to_owned(), ..Reply::default() };
        let exact = expect(r#"{"rule": "exact", "answer": "42"}"#);
        assert!(exact.holds(&said("42\n")));
        assert!(!exact.holds(&said("420")));
        let contains = expect(r#"{"rule": "contains", "answer": "tiny"}"#);
        assert!(contains.holds(&said("a tiny model")) && !contains.holds(&said("a model")));
        let story = expect(r#"{"rule": "story", "contains": ["Pip"], "min_chars": 8}"#);
        assert!(story.holds(&said("Pip flew.")) && !story.holds(&said("Pip!")));
        assert!(!story.holds(&said("Mira walked.")));
    }

    #[test]
    fn calls() {
        let want = expect(
            r#"{"rule": "calls", "calls": [{"name": "f", "arguments": {"a": 1, "b": ["x"]}}]}"#,
        );
        assert!(want.holds(&call("f", r#"{"b": ["x"], "a": 1}"#)));
        assert!(!want.holds(&call("g", r#"{"a": 1, "b": ["x"]}"#)));
        assert!(!want.holds(&call("f", r#"{"a": "1", "b": ["x"]}"#)));
        assert!(!want.holds(&call("f", r#"{"a": 1, "b": ["x]}"#)));
        assert!(!want.holds(&Reply::default()));
    }
}
