//! The grammar of a tool block, from the schemas of the tools.
//!
//! Parameters come in the order in which the schema declares them, required ones always, others
//! or not. A parameter that can only be a string is a string; one that cannot is JSON that matches
//! its schema; one that may be either says which it is. What a schema says about the inside of a
//! string beyond `enum` and `const` is left to the model: the markup has strings as they are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// How deep types are looked for behind references and alternatives.
const DEPTH_MAX: usize = 8;

/// The rules `calls`, from the first call to the end of the block, and `block`, from the line
/// breaks before the block. `dsml` is the id of the markup's token.
pub(super) fn calls<'t>(
    tools: impl Iterator<Item = (&'t str, &'t Value)>,
    dsml: u32,
    is_parallel: bool,
) -> String {
    let mut lark = String::new();
    let mut names = Vec::new();
    for (i, (name, schema)) in tools.enumerate() {
        let call = Call { dsml, i, schema };
        call.write(name, &mut lark);
        names.push(format!("call_{i}"));
    }
    let more = if is_parallel { "+" } else { "" };
    let _ = writeln!(lark, "call: {}", names.join(" | "));
    let _ = writeln!(lark, "calls: call{more} \"</\" <[{dsml}]> \"tool_calls>\"");
    let _ = writeln!(lark, "block: \"\\n\\n<\" <[{dsml}]> \"tool_calls>\\n\" calls");
    // The text of a string up to the markup that ends it, which is not text: a special token.
    let _ = writeln!(lark, "TEXT: /(?s:.*)<\\//");
    lark
}

struct Call<'s> {
    dsml: u32,
    i: usize,
    schema: &'s Value,
}

impl Call<'_> {
    fn write(&self, name: &str, lark: &mut String) {
        let Self { dsml, i, schema } = self;
        let open = literal(&format!("invoke name=\"{name}\">\n"));
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut parameters = String::new();
        match properties {
            Some(properties) if !properties.is_empty() => {
                let required = schema.get("required").and_then(Value::as_array);
                for (j, (key, of_key)) in properties.iter().enumerate() {
                    let is_required = required.is_some_and(|keys| keys.iter().any(|k| k == key));
                    let or_not = if is_required { "" } else { "?" };
                    let _ = write!(parameters, "p_{i}_{j}{or_not} ");
                    let _ = writeln!(lark, "p_{i}_{j}: {}", self.parameter(key, of_key));
                }
            }
            _ if is_closed(schema) => {}
            _ => {
                let _ = writeln!(lark, "p_{i}: {}", self.any_parameter());
                let _ = write!(parameters, "p_{i}* ");
            }
        }
        let _ = writeln!(
            lark,
            "call_{i}: \"<\" <[{dsml}]> {open} {parameters}\"</\" <[{dsml}]> \"invoke>\\n\""
        );
    }

    fn parameter(&self, key: &str, schema: &Value) -> String {
        let dsml = self.dsml;
        let types = types(schema, self.schema, 0);
        let may_be_string = types.as_ref().is_none_or(|types| types.contains("string"));
        let may_be_other = types.as_ref().is_none_or(|types| types.iter().any(|t| *t != "string"));
        let mut ways = Vec::new();
        if may_be_string {
            let open = literal(&format!("parameter name=\"{key}\" string=\"true\">"));
            let text = match choices(schema) {
                Some(choices) => format!("({}) \"</\"", choices.join(" | ")),
                None => "TEXT".to_owned(),
            };
            ways.push(format!("\"<\" <[{dsml}]> {open} {text} <[{dsml}]> \"parameter>\\n\""));
        }
        if may_be_other {
            let open = literal(&format!("parameter name=\"{key}\" string=\"false\">"));
            let json = self.json(schema);
            ways.push(format!(
                "\"<\" <[{dsml}]> {open} %json {json} \"</\" <[{dsml}]> \"parameter>\\n\""
            ));
        }
        ways.join(" | ")
    }

    fn any_parameter(&self) -> String {
        let dsml = self.dsml;
        let open =
            |kind| format!("\"<\" <[{dsml}]> /parameter name=\"[^\"<>\\n]+\" string=\"{kind}\">/");
        format!(
            "{} TEXT <[{dsml}]> \"parameter>\\n\" | {} %json {{}} \"</\" <[{dsml}]> \"parameter>\\n\"",
            open("true"),
            open("false")
        )
    }

    /// A parameter's schema with the definitions that it may refer to. Words that the grammar
    /// cannot hold are left to the model.
    fn json(&self, schema: &Value) -> Value {
        let mut fields = schema.as_object().cloned().unwrap_or_default();
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = self.schema.get(key) {
                fields.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        fields.insert(
            "x-guidance".to_owned(),
            json!({"lenient": true, "whitespace_pattern": super::SPACE}),
        );
        Value::Object(fields)
    }
}

fn is_closed(schema: &Value) -> bool {
    schema.get("additionalProperties").is_some_and(|more| *more == Value::Bool(false))
}

/// A literal of the grammar's language, which has JSON's escapes.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The only strings that a parameter may be.
fn choices(schema: &Value) -> Option<Vec<String>> {
    let one = schema.get("const").map(std::slice::from_ref);
    let values = one.or_else(|| schema.get("enum").and_then(Value::as_array).map(Vec::as_slice))?;
    let strings: Vec<String> = values.iter().filter_map(Value::as_str).map(literal).collect();
    // An empty literal would be no lexeme; such a parameter is any string.
    (!strings.is_empty() && !strings.iter().any(|text| text == "\"\"")).then_some(strings)
}

/// The types that a schema allows, or `None` where it does not tell.
fn types<'s>(schema: &'s Value, root: &'s Value, depth: usize) -> Option<BTreeSet<&'s str>> {
    let fields: &Map<String, Value> = schema.as_object()?;
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(kind) = fields.get("type") {
        return match kind {
            Value::String(one) => Some(BTreeSet::from([one.as_str()])),
            Value::Array(many) => many.iter().map(Value::as_str).collect(),
            _ => None,
        };
    }
    if let Some(value) = fields.get("const") {
        return Some(BTreeSet::from([type_of(value)]));
    }
    if let Some(Value::Array(values)) = fields.get("enum") {
        return Some(values.iter().map(type_of).collect());
    }
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        return types(root.pointer(target.strip_prefix('#')?)?, root, depth + 1);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(ways)) = fields.get(key) {
            let mut all = BTreeSet::new();
            for way in ways {
                all.extend(types(way, root, depth + 1)?);
            }
            return Some(all);
        }
    }
    None
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_behind_alternatives_and_references() {
        let root = json!({"$defs": {"Id": {"type": ["string", "integer"]}}});
        let found = |schema: Value| {
            types(&schema, &root, 0)
                .map(|types| types.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(found(json!({"$ref": "#/$defs/Id"})).unwrap(), ["integer", "string"]);
        let optional = json!({"anyOf": [{"type": "integer"}, {"type": "null"}]});
        assert_eq!(found(optional).unwrap(), ["integer", "null"]);
        assert_eq!(found(json!({"enum": ["a", 1]})).unwrap(), ["number", "string"]);
        assert_eq!(found(json!({})), None);
        assert_eq!(found(json!({"$ref": "#/$defs/Missing"})), None);
    }
}
