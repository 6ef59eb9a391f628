//! Stored responses: what `previous_response_id` continues.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use crate::app::State;
use crate::error::ApiError;
use crate::fields::Own;

/// Responses by id; the oldest go first, by number and by size.
pub(crate) struct Store {
    held: HashMap<String, Stored>,
    by_age: VecDeque<String>,
    max: usize,
    bytes: usize,
}

/// Bytes of all stored responses together.
const BYTES_MAX: usize = 512 << 20;

struct Stored {
    /// All items up to this response.
    input: Vec<Value>,
    response: Value,
    bytes: usize,
}

impl Store {
    pub(crate) fn new(max: usize) -> Self {
        Self { held: HashMap::new(), by_age: VecDeque::new(), max, bytes: 0 }
    }

    pub(crate) fn response(&self, id: &str) -> Option<&Value> {
        self.held.get(id).map(|stored| &stored.response)
    }

    pub(crate) fn input(&self, id: &str) -> Option<&[Value]> {
        self.held.get(id).map(|stored| stored.input.as_slice())
    }

    /// An item of any stored response, by its own id.
    fn item(&self, id: &str) -> Option<&Value> {
        let held = self.by_age.iter().rev().filter_map(|id| self.held.get(id));
        let mut items = held.flat_map(|stored| {
            let output = stored.response.get("output").and_then(Value::as_array);
            output.into_iter().flatten().chain(&stored.input)
        });
        items.find(|item| item.get("id").is_some_and(|found| found == id))
    }

    /// Forgets a response; whether it was there.
    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let gone = self.held.remove(id);
        self.bytes -= gone.as_ref().map_or(0, |stored| stored.bytes);
        self.by_age.retain(|held| held != id);
        gone.is_some()
    }

    fn keep(&mut self, id: String, input: Vec<Value>, response: Value) {
        let size = |value: &Value| value.to_string().len();
        let bytes = size(&response) + input.iter().map(size).sum::<usize>();
        self.bytes += bytes;
        self.held.insert(id.clone(), Stored { input, response, bytes });
        self.by_age.push_back(id);
        while self.by_age.len() > self.max || self.bytes > BYTES_MAX {
            let Some(oldest) = self.by_age.pop_front() else { break };
            self.remove(&oldest);
        }
    }
}

/// Puts the items of the previous response before the input; the whole input if this response is
/// to be stored as well.
pub(crate) fn continue_stored(
    state: &State,
    own: &Own,
    body: &mut Value,
) -> Result<Option<Vec<Value>>, ApiError> {
    let mut items = match body.get_mut("input").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => {
            vec![json!({"type": "message", "role": "user", "content": text})]
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(ApiError::field("input", "`input` should be a string or an array")),
    };
    for (i, item) in items.iter_mut().enumerate() {
        let is_reference = item.get("type").is_some_and(|kind| kind == "item_reference");
        if !is_reference {
            continue;
        }
        let id = item.get("id").and_then(Value::as_str).unwrap_or_default();
        let found = state.store().item(id).cloned();
        *item = found.ok_or_else(|| {
            let message = format!("Item with id '{id}' not found.");
            ApiError::field(&format!("input[{i}].id"), message)
        })?;
    }
    if let Some(id) = &own.previous_response_id {
        let store = state.store();
        let found = store.held.get(id).ok_or_else(|| ApiError {
            code: Some("previous_response_not_found"),
            ..ApiError::field(
                "previous_response_id",
                format!("Previous response with id '{id}' not found."),
            )
        })?;
        let output = found.response.get("output").and_then(Value::as_array);
        let before = found.input.iter().chain(output.into_iter().flatten());
        items = before.cloned().chain(items).collect();
    }
    body["input"] = Value::Array(items.clone());
    Ok(own.stores.then_some(items))
}

/// Stores a complete response.
pub(crate) fn keep(state: &State, id: &str, input: Vec<Value>, response: &Value) {
    state.store().keep(id.to_owned(), input, response.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_bounded_and_forgets_the_oldest() {
        let mut store = Store::new(2);
        for id in ["a", "b", "c"] {
            store.keep(id.to_owned(), Vec::new(), json!({"id": id}));
        }
        assert!(store.response("a").is_none());
        assert_eq!(store.response("c"), Some(&json!({"id": "c"})));
        assert!(store.remove("b") && !store.remove("b"));
        assert!(store.remove("c"));
        assert_eq!(store.bytes, 0);
    }
}
