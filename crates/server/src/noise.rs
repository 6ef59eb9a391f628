//! What clients put into a prompt that differs with every request and means nothing to a model.
//!
//! A changing text at the front of a prompt makes everything behind it new. Claude Code puts a
//! billing header there.

use serde_json::Value;

/// How blocks begin that are about the client's account, not about the conversation.
const NOISE: &str = "x-anthropic-billing-header";

/// Removes noise from the system prompt of a Messages body, and from the first system message of
/// a Chat body; how many lines were removed. Callers log it.
pub(crate) fn remove(body: &mut Value) -> usize {
    let mut n_removed = 0;
    if let Some(system) = body.get_mut("system") {
        n_removed += remove_from_content(system);
        if is_empty(system)
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("system");
        }
    }
    let first = body.get_mut("messages").and_then(|messages| messages.get_mut(0));
    let first = first.filter(|message| message.get("role").is_some_and(|role| role == "system"));
    if let Some(content) = first.and_then(|message| message.get_mut("content")) {
        n_removed += remove_from_content(content);
    }
    n_removed
}

fn remove_from_content(content: &mut Value) -> usize {
    match content {
        Value::String(text) => remove_lines(text),
        Value::Array(blocks) => {
            let mut n_removed = 0;
            blocks.retain_mut(|block| {
                let Some(Value::String(text)) = block.get_mut("text") else { return true };
                let n_here = remove_lines(text);
                n_removed += n_here;
                n_here == 0 || !text.trim().is_empty()
            });
            n_removed
        }
        _ => 0,
    }
}

/// Removes leading lines of noise. Only leading ones: a conversation may be about the header.
fn remove_lines(text: &mut String) -> usize {
    let mut n_removed = 0;
    while text.trim_start().starts_with(NOISE) {
        let start = text.len() - text.trim_start().len();
        let end = text[start..].find('\n').map_or(text.len(), |at| start + at + 1);
        text.replace_range(..end, "");
        n_removed += 1;
    }
    n_removed
}

fn is_empty(content: &Value) -> bool {
    match content {
        Value::String(text) => text.is_empty(),
        Value::Array(blocks) => blocks.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_header_goes_and_the_prompt_stays() {
        let header = "x-anthropic-billing-header: cc_version=2.1; cch=a1b2c;";
        let mut body = json!({
            "system": [{"type": "text", "text": header}, {"type": "text", "text": "You code."}],
        });
        assert_eq!(remove(&mut body), 1);
        assert_eq!(body, json!({"system": [{"type": "text", "text": "You code."}]}));

        let mut body = json!({"system": format!("{header}\nYou code.")});
        assert_eq!(remove(&mut body), 1);
        assert_eq!(body, json!({"system": "You code."}));

        let mut body = json!({"system": header, "messages": []});
        assert_eq!(remove(&mut body), 1);
        assert_eq!(body, json!({"messages": []}));
    }

    #[test]
    fn talk_about_the_header_stays() {
        let about = json!({
            "system": "What is the x-anthropic-billing-header?",
            "messages": [{"role": "user", "content": "x-anthropic-billing-header: why?"}],
        });
        let mut body = about.clone();
        assert_eq!(remove(&mut body), 0);
        assert_eq!(body, about);
    }
}
