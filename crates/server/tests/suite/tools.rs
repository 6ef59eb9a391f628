//! Tool calls: valid by construction, in every protocol, and the same tokens when they come back.

use serde_json::{Value, json};

use crate::common::{Setup, json, serve};

const CALL: &str = "I look.</think>One moment.\n\n<｜DSML｜tool_calls>\n\
    <｜DSML｜invoke name=\"weather\">\n\
    <｜DSML｜parameter name=\"city\" string=\"true\">São \"Paulo\"</｜DSML｜parameter>\n\
    <｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n\
    </｜DSML｜invoke>\n\
    </｜DSML｜tool_calls>";

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "days"],
    })
}

fn chat_tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": weather()}}])
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// DeepSeek's crates leave lengths out of a schema that is strict.
#[tokio::test]
async fn lengths_hold_in_strict_tools() {
    let parameters = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "notes": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 1},
        },
        "required": ["city", "days", "notes"],
        "additionalProperties": false,
    });
    let tool = json!({"name": "weather", "strict": true, "parameters": parameters});
    let said = CALL.replace(
        "name=\"days\" string=\"false\">3<",
        "name=\"days\" string=\"false\">3</｜DSML｜parameter>\n<｜DSML｜parameter name=\"notes\" \
         string=\"false\">[\"abcdef\", \"g\"]<",
    );
    let server = serve(&[&said]);
    let body =
        json!({"messages": user("weather?"), "tools": [{"type": "function", "function": tool}]});
    let body = server.ask("/v1/chat/completions", body).await;
    let call = &body["choices"][0]["message"]["tool_calls"][0]["function"];
    let arguments = json(call["arguments"].as_str().unwrap());
    let notes = arguments["notes"].as_array().unwrap();
    assert!(
        notes.len() <= 1 && notes.iter().all(|n| n.as_str().unwrap().chars().count() <= 2),
        "{arguments}"
    );
}

#[tokio::test]
async fn a_call_is_parsed_in_every_protocol() {
    let server = serve(&[CALL]);
    let body = json!({"messages": user("weather?"), "tools": chat_tools()});
    let body = server.ask("/v1/chat/completions", body).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], "One moment.");
    assert_eq!(message["reasoning_content"], "I look.");
    let call = &message["tool_calls"][0]["function"];
    assert_eq!(call["name"], "weather");
    let arguments = json(call["arguments"].as_str().unwrap());
    assert_eq!(arguments, json!({"city": "São \"Paulo\"", "days": 3}));
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");

    let body = json!({
        "model": "m", "max_tokens": 500, "messages": user("weather?"),
        "tools": [{"name": "weather", "input_schema": weather()}],
    });
    let body = server.ask("/v1/messages", body).await;
    let blocks = body["content"].as_array().unwrap();
    let used = blocks.iter().find(|block| block["type"] == "tool_use").unwrap();
    assert_eq!(used["input"], json!({"city": "São \"Paulo\"", "days": 3}));
    assert_eq!(body["stop_reason"], "tool_use");

    let body = json!({
        "model": "m", "input": "weather?",
        "tools": [{"type": "function", "name": "weather", "parameters": weather()}],
    });
    let body = server.ask("/v1/responses", body).await;
    let items = body["output"].as_array().unwrap();
    let call = items.iter().find(|item| item["type"] == "function_call").unwrap();
    assert_eq!(json(call["arguments"].as_str().unwrap())["days"], 3);
}

/// Calls of an answer to a chat request.
async fn calls(turn: &str, change: impl FnOnce(&mut Value)) -> Vec<(String, Value)> {
    let server = serve(&[turn]);
    let mut body =
        json!({"messages": user("go"), "tools": chat_tools(), "max_tokens": 400, "temperature": 0});
    change(&mut body);
    let body = server.ask("/v1/chat/completions", body).await;
    let calls = body["choices"][0]["message"]["tool_calls"].as_array().cloned();
    let call = |call: Value| {
        let function = &call["function"];
        let name = function["name"].as_str().unwrap().to_owned();
        (name, json(function["arguments"].as_str().unwrap()))
    };
    calls.unwrap_or_default().into_iter().map(call).collect()
}

#[tokio::test]
async fn what_the_model_gets_wrong_the_grammar_does_not_let_out() {
    // A tool that there is not, a parameter that there is not, a word for a number.
    let wrong = "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weathers\">\n\
        <｜DSML｜parameter name=\"town\" string=\"true\">Rome</｜DSML｜parameter>\n\
        <｜DSML｜parameter name=\"days\" string=\"true\">many</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let schema = json!({
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "on": {"type": "boolean"}},
        "required": ["unit", "on"],
        "additionalProperties": false,
    });
    let found = calls(wrong, |body| {
        body["tools"][0]["function"]["parameters"] = schema;
        body["parallel_tool_calls"] = json!(false);
    })
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    let (name, arguments) = &found[0];
    assert_eq!(name, "weather");
    assert!(["C", "F"].contains(&arguments["unit"].as_str().unwrap()), "{arguments}");
    assert!(arguments["on"].is_boolean(), "{arguments}");
}

#[tokio::test]
async fn a_required_call_is_made_and_none_is_not() {
    // The prompt opens the block already; the engine counts from the header.
    let inside = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n\
        <｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n\
        <｜DSML｜parameter name=\"days\" string=\"false\">1</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})]
    {
        let found = calls(inside, |body| body["tool_choice"] = choice).await;
        assert_eq!(found[0].1["city"], "Rome");
    }
    let prose = calls("</think>No call.", |body| body["tool_choice"] = json!("none")).await;
    assert_eq!(prose, []);
}

#[tokio::test]
async fn a_call_that_comes_back_is_what_was_sampled() {
    // Sampled with parameters in an order and spelling that rendering would not give.
    let sampled = CALL.replace("São \"Paulo\"", "Rome");
    let server = Setup::new(&[&sampled, "Done.</think>Sunny."]).serve();
    let tools = chat_tools();
    let body = json!({"messages": user("weather?"), "tools": tools});
    let first = server.ask("/v1/chat/completions", body).await;
    let mut message = first["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    // A client that writes JSON its own way.
    message["tool_calls"][0]["function"]["arguments"] = json!("{\"days\":3,\"city\":\"Rome\"}");
    let messages = json!([
        {"role": "user", "content": "weather?"},
        message,
        {"role": "tool", "tool_call_id": id, "content": "sun"},
    ]);
    let body = json!({"messages": messages, "tools": tools});
    let second = server.ask("/v1/chat/completions", body.clone()).await;
    assert_eq!(second["choices"][0]["message"]["content"], "Sunny.");
    let n = |body: &Value, key: &str| body["usage"][key].as_u64().unwrap();
    let held = n(&first, "prompt_tokens") + n(&first, "completion_tokens");
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let cached = cached.or(second["usage"]["prompt_cache_hit_tokens"].as_u64()).unwrap();
    assert!(cached + 2 >= held, "{cached} of {held} tokens of the first turn were reused");

    // Another server knows nothing of the call and reads it anew.
    let other = Setup::new(&["x", "Done.</think>Sunny."]).serve();
    let fresh = other.ask("/v1/chat/completions", body).await;
    assert_eq!(fresh["choices"][0]["message"]["content"], "Sunny.");
}

#[tokio::test]
async fn ids_sort_in_the_order_of_their_calls() {
    let one = |city: &str| {
        format!(
            "<｜DSML｜invoke name=\"weather\">\n\
             <｜DSML｜parameter name=\"city\" string=\"true\">{city}</｜DSML｜parameter>\n\
             <｜DSML｜parameter name=\"days\" string=\"false\">1</｜DSML｜parameter>\n\
             </｜DSML｜invoke>\n"
        )
    };
    let many: String = (0..12).map(|i| one(&format!("c{i}"))).collect();
    let turn = format!("</think>\n\n<｜DSML｜tool_calls>\n{many}</｜DSML｜tool_calls>");
    let server = serve(&[&turn]);
    let body = json!({"messages": user("go"), "tools": chat_tools(), "stream": true});
    let events = server.stream("/v1/chat/completions", body).await;
    let ids: Vec<String> = events[..events.len() - 1]
        .iter()
        .filter_map(|event| {
            let call = &json(&event.1)["choices"][0]["delta"]["tool_calls"][0]["id"];
            call.as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(ids.len(), 12);
    assert!(ids.is_sorted(), "{ids:?}");
}
