//! Several answers to one prompt in the shape of one response.

use std::task::{Context, Poll};

use runtime::{Event, Events};
use serde_json::{Value, json};

/// The events of all choices of a request, each with the index of its choice.
pub(crate) struct ChoiceEvents {
    of: Vec<Events>,
    /// Who is looked at first: nobody waits behind one that always has something.
    turn: usize,
}

impl ChoiceEvents {
    pub(crate) fn new(of: Vec<Events>) -> Self {
        Self { of, turn: 0 }
    }

    /// The next event of any choice; `None` when no more come.
    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Option<(usize, Event)>> {
        let n = self.of.len();
        let mut is_over = true;
        for index in (0..n).map(|i| (self.turn + i) % n) {
            match self.of[index].poll_next(context) {
                Poll::Ready(Some(event)) => {
                    self.turn = index + 1;
                    return Poll::Ready(Some((index, event)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => is_over = false,
            }
        }
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Cancels one choice.
    pub(crate) fn close(&self, index: usize) {
        self.of[index].close();
    }
}

/// Adds up the usage of choices: the prompt counts once.
#[derive(Default)]
pub(crate) struct Merged {
    usage: Option<Value>,
    n_ended: usize,
}

impl Merged {
    /// Gives a Chat chunk of choice `index` its place. The usage of all goes into the last chunk
    /// of the last choice that ends.
    pub(crate) fn chunk(
        &mut self,
        data: &str,
        index: usize,
        n: usize,
    ) -> serde_json::Result<String> {
        let mut chunk: Value = serde_json::from_str(data)?;
        if let Some(Value::Array(choices)) = chunk.get_mut("choices") {
            choices.iter_mut().for_each(|choice| choice["index"] = index.into());
        }
        let usage = chunk.get_mut("usage").filter(|usage| usage.is_object()).map(Value::take);
        if let Some(usage) = usage {
            self.add(usage);
            self.n_ended += 1;
            if self.n_ended == n {
                chunk["usage"] = self.usage.take().unwrap_or_default();
            } else if let Some(fields) = chunk.as_object_mut() {
                fields.remove("usage");
            }
        }
        Ok(chunk.to_string())
    }

    /// Joins the bodies of all choices.
    pub(crate) fn body(bodies: Vec<Value>) -> Value {
        let mut merged = Self::default();
        let mut choices = Vec::with_capacity(bodies.len());
        let mut body = Value::Null;
        for (index, mut one) in bodies.into_iter().enumerate() {
            merged.add(one["usage"].take());
            if let Value::Array(of_one) = one["choices"].take() {
                choices.extend(of_one.into_iter().map(|mut choice| {
                    choice["index"] = index.into();
                    choice
                }));
            }
            body = one;
        }
        body["choices"] = choices.into();
        body["usage"] = merged.usage.unwrap_or_default();
        body
    }

    fn add(&mut self, usage: Value) {
        let Some(sum) = &mut self.usage else {
            self.usage = Some(usage);
            return;
        };
        for key in ["completion_tokens", "total_tokens"] {
            let prompt = if key == "total_tokens" { count(&usage, "prompt_tokens") } else { 0 };
            sum[key] = json!(count(sum, key) + count(&usage, key) - prompt);
        }
        let details = "completion_tokens_details";
        let reasoning = usage[details]["reasoning_tokens"].as_u64().unwrap_or(0);
        if let Some(held) = sum[details]["reasoning_tokens"].as_u64() {
            sum[details]["reasoning_tokens"] = json!(held + reasoning);
        }
    }
}

fn count(usage: &Value, key: &str) -> u64 {
    usage[key].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(completion: u64) -> Value {
        json!({"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": 10 + completion})
    }

    #[test]
    fn choices_keep_their_index_and_usage_adds_up() {
        let mut merged = Merged::default();
        let chunk = |n| json!({"choices": [{"index": 0}], "usage": usage(n)}).to_string();
        let first = merged.chunk(&chunk(3), 1, 2).unwrap();
        assert_eq!(first, r#"{"choices":[{"index":1}]}"#);
        let last: Value = serde_json::from_str(&merged.chunk(&chunk(4), 0, 2).unwrap()).unwrap();
        assert_eq!(last["usage"], usage(7));

        let body = |n| json!({"id": "x", "choices": [{"index": 0}], "usage": usage(n)});
        let body = Merged::body(vec![body(1), body(2)]);
        assert_eq!(body["choices"], json!([{"index": 0}, {"index": 1}]));
        assert_eq!(body["usage"], usage(3));
    }
}
