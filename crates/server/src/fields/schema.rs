//! The tables as JSON Schema, for `/openapi.json`: what is not in it is refused.

use serde_json::{Map, Value, json};

use super::rules::{Rule, Table};

/// The schema of a body. Types of values are left to the protocols' own documents: only names, and
/// values where few are taken, are said here.
pub(super) fn of_body(table: Table) -> Value {
    let mut schema = of_fields(table);
    schema["type"] = "object".into();
    schema
}

fn of_fields(table: Table) -> Value {
    let is_taken = |rule: &Rule| !matches!(rule, Rule::Refused(_));
    let named = table.iter().filter(|(name, rule)| *name != "*" && is_taken(rule));
    let properties: Map<String, Value> =
        named.map(|(name, rule)| ((*name).to_owned(), of_rule(rule))).collect();
    let is_open = table.iter().any(|(name, _)| *name == "*");
    json!({"properties": properties, "additionalProperties": is_open})
}

fn of_rule(rule: &Rule) -> Value {
    match rule {
        Rule::Read => json!({}),
        Rule::Inert => json!({"description": "Changes no answer."}),
        Rule::Only(values) => {
            let values = values.iter().filter_map(|text| serde_json::from_str(text).ok());
            json!({"enum": values.chain([Value::Null]).collect::<Vec<_>>()})
        }
        Rule::Refused(reason) => json!({"description": reason, "not": {}}),
        Rule::Fields(table) => of_fields(table),
        Rule::Each(rule) => json!({"items": of_rule(rule)}),
        Rule::Kinds(key, kinds) => {
            let ways = kinds.iter().map(|(kind, table)| {
                let mut schema = of_fields(table);
                if !kind.is_empty() {
                    schema["properties"][key] = json!({"const": kind});
                }
                schema
            });
            json!({"anyOf": ways.collect::<Vec<_>>()})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_values_and_kinds_are_said_and_refused_ones_are_not() {
        const PART: Table = &[("type", Rule::Read), ("note", Rule::Inert)];
        const TABLE: Table = &[
            ("list", Rule::Each(&Rule::Kinds("type", &[("text", PART)]))),
            ("mode", Rule::Only(&["\"a\""])),
            ("gone", Rule::Refused("has no place")),
            ("any", Rule::Fields(&[("*", Rule::Read)])),
        ];
        let part = json!({
            "properties": {"type": {"const": "text"}, "note": {"description": "Changes no answer."}},
            "additionalProperties": false,
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "list": {"items": {"anyOf": [part]}},
                "mode": {"enum": ["a", null]},
                "any": {"properties": {}, "additionalProperties": true},
            },
            "additionalProperties": false,
        });
        assert_eq!(of_body(TABLE), expected);
    }
}
