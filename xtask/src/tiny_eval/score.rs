//! Counts of one skill, and how they are printed.

use std::iter::Sum;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::subject::Answer;

/// Counts of one skill.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Score {
    cases: usize,
    right: usize,
    /// Replies that end with the end token.
    stopped: usize,
    /// Replies that call a tool or try to, and those of them whose calls all parse.
    calling: usize,
    parsed: usize,
    /// First draft tokens, and those that the model then chose.
    drafted: usize,
    accepted: usize,
}

/// What opens a call in the text, when no parser took it out.
const CALL_MARK: &str = "｜DSML｜";

impl Score {
    /// Counts one answer.
    pub(super) fn add(&mut self, answer: &Answer, right: bool) {
        let reply = &answer.reply;
        self.cases += 1;
        self.right += usize::from(right && answer.stopped);
        self.stopped += usize::from(answer.stopped);
        self.drafted += answer.drafted;
        self.accepted += answer.accepted;
        let broken = reply.content.contains(CALL_MARK);
        if broken || !reply.tool_calls.is_empty() {
            let object = |text: &str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
            let parses = !broken && reply.tool_calls.iter().all(|c| object(&c.arguments));
            self.calling += 1;
            self.parsed += usize::from(parses);
        }
    }

    /// The table's first two lines.
    pub(super) fn head(changes: bool) -> String {
        let (name, rule) = if changes { (" change |", "---|") } else { ("", "") };
        format!(
            "| skill | cases | right |{name} stops | calls parse | draft accepted |\n\
             |---|---|---|{rule}---|---|---|"
        )
    }

    /// One line of the table; `before` adds the change in points.
    pub(super) fn row(&self, label: &str, before: Option<Option<&Self>>) -> String {
        let change = match before {
            None => String::new(),
            Some(None) => " |".to_owned(),
            Some(Some(b)) => format!(" {:+.1} |", self.percent_right() - b.percent_right()),
        };
        format!(
            "| {label} | {} | {} |{change} {} | {} | {} |",
            self.cases,
            share(self.right, self.cases),
            share(self.stopped, self.cases),
            share(self.parsed, self.calling),
            share(self.accepted, self.drafted),
        )
    }

    fn percent_right(&self) -> f64 {
        100.0 * self.right as f64 / self.cases.max(1) as f64
    }
}

fn share(part: usize, whole: usize) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

impl<'a> Sum<&'a Self> for Score {
    fn sum<I: Iterator<Item = &'a Self>>(scores: I) -> Self {
        scores.fold(Self::default(), |a, b| Self {
            cases: a.cases + b.cases,
            right: a.right + b.right,
            stopped: a.stopped + b.stopped,
            calling: a.calling + b.calling,
            parsed: a.parsed + b.parsed,
            drafted: a.drafted + b.drafted,
            accepted: a.accepted + b.accepted,
        })
    }
}

#[cfg(test)]
mod tests {
    use chat::{Reply, ToolCall};

    use super::*;

    fn answer(content: &str, calls: &[&str]) -> Answer {
        let call = |arguments: &&str| ToolCall {
            name: "f".to_owned(),
            arguments: (*arguments).to_owned(),
        };
        let reply = Reply {
            content: content.to_owned(),
            tool_calls: calls.iter().map(call).collect(),
            ..Reply::default()
        };
        Answer { reply, stopped: true, drafted: 4, accepted: 3 }
    }

    #[test]
    fn counts_and_shares() {
        let mut score = Score::default();
        score.add(&answer("17", &[]), true);
        score.add(&answer("", &[r#"{"a": 1}"#]), true);
        score.add(&answer("", &[r#"{"a": 1"#]), false);
        score.add(&answer("<｜DSML｜tool_calls>", &[]), false);
        let row = score.row("x", None);
        assert_eq!(row, "| x | 4 | 50.0 % | 100.0 % | 33.3 % | 75.0 % |");
        let before = Score { cases: 4, right: 3, ..Score::default() };
        assert!(score.row("x", Some(Some(&before))).contains("| 50.0 % | -25.0 |"));
    }

    #[test]
    fn an_answer_that_does_not_stop_is_not_right() {
        let mut score = Score::default();
        score.add(&Answer { stopped: false, ..answer("17", &[]) }, true);
        assert_eq!((score.cases, score.right, score.stopped), (1, 0, 0));
    }
}
