//! Stored responses.

use serde_json::json;

use crate::common::serve;

#[tokio::test]
async fn a_stored_response_is_continued_read_and_forgotten() {
    let server = serve(&["First.", "Second."]);
    let ask = |input: &str| json!({"model": "m", "input": input, "reasoning": {"effort": "none"}});
    let first = server.ask("/v1/responses", ask("one")).await;
    assert_eq!(first["store"], true);
    let id = first["id"].as_str().unwrap().to_owned();
    let mut next = ask("two");
    next["previous_response_id"] = json!(id);
    let second = server.ask("/v1/responses", next).await;
    assert_eq!(second["output"][0]["content"][0]["text"], "Second.");
    assert_eq!(second["previous_response_id"], json!(id));
    let cached = second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 3, "the first turn is in the cache: {cached}");

    let path = format!("/v1/responses/{id}");
    assert_eq!(server.get(&path).await.1["output"], first["output"]);
    let (_, items) = server.get(&format!("{path}/input_items")).await;
    assert_eq!(items["data"][0]["content"], "one");
    let request = axum::http::Request::delete(&path).body(axum::body::Body::empty()).unwrap();
    assert_eq!(server.send(request).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404);

    let mut lost = ask("three");
    lost["previous_response_id"] = json!(id);
    let (status, body) = server.post("/v1/responses", lost).await;
    assert_eq!(status, 400);
    assert_eq!(body["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn an_item_can_be_named_instead_of_sent() {
    let server = serve(&["First.", "Second."]);
    let ask = |input: serde_json::Value| json!({"model": "m", "input": input, "reasoning": {"effort": "none"}, "metadata": {"a": "b"}});
    let first = server.ask("/v1/responses", ask(json!("one"))).await;
    assert_eq!(first["metadata"], json!({"a": "b"}));
    let id = &first["output"][0]["id"];
    let input = json!([
        {"role": "user", "content": "one"},
        {"type": "item_reference", "id": id},
        {"role": "user", "content": "two"},
    ]);
    let second = server.ask("/v1/responses", ask(input)).await;
    assert_eq!(second["output"][0]["content"][0]["text"], "Second.");
    let lost = json!([{"type": "item_reference", "id": "msg_none"}]);
    let (status, body) = server.post("/v1/responses", ask(lost)).await;
    assert_eq!((status.as_u16(), body["error"]["param"].as_str()), (400, Some("input[0].id")));
}

#[tokio::test]
async fn what_is_not_to_be_stored_is_not() {
    let server = serve(&["First."]);
    let body = json!({
        "model": "m", "input": "one", "store": false, "stream": true,
        "reasoning": {"effort": "none"},
    });
    let events = server.stream("/v1/responses", body).await;
    let last = crate::common::json(&events.last().unwrap().1);
    assert_eq!(last["response"]["store"], false);
    let id = last["response"]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/responses/{id}")).await.0, 404);
}
