//! What may be in a body, and the walk that checks it.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The fields of an object by name; `*` stands for all others.
pub(super) type Table = &'static [(&'static str, Rule)];

/// What is done with a field. A null is how some clients leave a field out; a value of a wrong
/// type is left to the reader, whose error says what it should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Read by DeepSeek's crates or by this server.
    Read,
    /// Says something about the client that changes no answer (an identifier, a note), or asks
    /// for what is done anyway (caching).
    Inert,
    /// Accepted with one of these values (JSON text), which describe what is done anyway.
    Only(&'static [&'static str]),
    /// Refused, with the reason.
    Refused(&'static str),
    /// An object with these fields.
    Fields(Table),
    /// An array whose items follow a rule.
    Each(&'static Rule),
    /// An object whose fields depend on the value of one of them; the kind `""` is for objects
    /// without it.
    Kinds(&'static str, &'static [(&'static str, Table)]),
}

/// Checks the fields of an object at `path`.
pub(super) fn check(table: Table, fields: &Map<String, Value>, path: &str) -> Result<(), ApiError> {
    for (name, value) in fields {
        let found = table.iter().find(|(known, _)| known == name || *known == "*");
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match found {
            Some((_, rule)) => check_value(rule, value, &path)?,
            None if value.is_null() => {}
            None => return Err(refused(&path, "is not supported by this server")),
        }
    }
    Ok(())
}

fn check_value(rule: &Rule, value: &Value, path: &str) -> Result<(), ApiError> {
    match (rule, value) {
        (_, Value::Null) | (Rule::Read | Rule::Inert, _) => Ok(()),
        (Rule::Refused(reason), _) => Err(refused(path, reason)),
        (Rule::Only(values), _) if values.contains(&value.to_string().as_str()) => Ok(()),
        (Rule::Only(values), _) => {
            let message = format!("`{path}`: only {} is supported", values.join(" or "));
            Err(ApiError::field(path, message))
        }
        (Rule::Fields(table), Value::Object(fields)) => check(table, fields, path),
        (Rule::Each(rule), Value::Array(items)) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, item)| check_value(rule, item, &format!("{path}[{i}]"))),
        (Rule::Kinds(key, kinds), Value::Object(fields)) => check_kind(key, kinds, fields, path),
        (Rule::Fields(_) | Rule::Each(_) | Rule::Kinds(..), _) => Ok(()),
    }
}

fn check_kind(
    key: &str,
    kinds: &[(&str, Table)],
    fields: &Map<String, Value>,
    path: &str,
) -> Result<(), ApiError> {
    let kind = match fields.get(key) {
        None | Some(Value::Null) => "",
        Some(Value::String(kind)) => kind,
        Some(_) => return Ok(()),
    };
    if let Some((_, table)) = kinds.iter().find(|(known, _)| *known == kind) {
        return check(table, fields, path);
    }
    if kind.is_empty() {
        // The reader says that it is missing.
        return Ok(());
    }
    let known: Vec<&str> =
        kinds.iter().map(|(known, _)| *known).filter(|k| !k.is_empty()).collect();
    let path = format!("{path}.{key}");
    let message = format!("`{path}`: {kind:?} is not supported, only {}", known.join(", "));
    Err(ApiError::field(&path, message))
}

fn refused(path: &str, reason: &str) -> ApiError {
    ApiError::field(path, format!("`{path}` {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PART: Table = &[("type", Rule::Read), ("text", Rule::Read), ("hint", Rule::Inert)];
    const TABLE: Table = &[
        (
            "list",
            Rule::Each(&Rule::Kinds("type", &[("text", PART), ("any", &[("*", Rule::Read)])])),
        ),
        ("mode", Rule::Only(&["\"a\"", "1"])),
        ("gone", Rule::Refused("has no place in the prompt")),
        ("inner", Rule::Fields(&[("x", Rule::Read)])),
    ];

    fn error(body: &Value) -> Option<(String, String)> {
        let error = check(TABLE, body.as_object().unwrap(), "").err()?;
        Some((error.param.unwrap_or_default(), error.message))
    }

    #[test]
    fn what_is_not_in_the_tables_is_refused_with_its_path() {
        let cases = [
            (json!({"list": [{"type": "text"}, {"type": "text", "z": 0}]}), "list[1].z"),
            (json!({"list": [{"type": "image"}]}), "list[0].type"),
            (json!({"mode": 2}), "mode"),
            (json!({"gone": false}), "gone"),
            (json!({"inner": {"y": {}}}), "inner.y"),
            (json!({"z": 0}), "z"),
        ];
        for (body, path) in cases {
            assert_eq!(error(&body).unwrap().0, path);
        }
        let (_, message) = error(&json!({"list": [{"type": "image"}]})).unwrap();
        assert_eq!(message, "`list[0].type`: \"image\" is not supported, only text, any");
        let (_, message) = error(&json!({"gone": 1})).unwrap();
        assert_eq!(message, "`gone` has no place in the prompt");
    }

    #[test]
    fn nulls_and_wrong_types_are_left_to_the_reader() {
        for body in [
            json!({"list": [{"type": "text", "hint": {"a": 1}}, {"type": "any", "z": 0}]}),
            json!({"list": "text", "inner": 3, "mode": null, "gone": null, "z": null}),
            json!({"list": [{}, 1, {"type": 3}], "mode": "a"}),
        ] {
            assert_eq!(error(&body), None);
        }
    }
}
