//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use chat::protocol::{Protocol, WireEvent};
use futures_util::stream;

use crate::error::{ApiError, Shape};

/// Where events come from. `next` may be dropped between events without losing one.
pub(crate) trait Source: Send + 'static {
    /// The next events; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Result<Vec<WireEvent>, ApiError>>> + Send;
}

/// How a stream looks when nothing is said, and when something goes wrong.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) protocol: Protocol,
    pub(crate) keep_alive: Duration,
}

/// A response that streams. Dropping it drops the source.
pub(crate) fn response<S: Source>(source: S, style: Style) -> Response {
    let chunks = stream::unfold(Some(source), move |source| async move {
        let mut source = source?;
        loop {
            let (chunk, is_over) = match tokio::time::timeout(style.keep_alive, source.next()).await
            {
                Err(_) => (style.keep_alive().to_owned(), false),
                Ok(None) => return None,
                Ok(Some(Ok(events))) => (write(&events), false),
                Ok(Some(Err(error))) => (style.error(&error), true),
            };
            if !chunk.is_empty() {
                return Some((
                    Ok::<_, Infallible>(Bytes::from(chunk)),
                    (!is_over).then_some(source),
                ));
            }
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather responses would hold every token back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Events as they go over the wire. JSON text has no line breaks, so one `data:` line is enough.
fn write(events: &[WireEvent]) -> String {
    let mut text = String::new();
    for WireEvent { name, data } in events {
        if let Some(name) = name {
            text.extend(["event: ", name, "\n"]);
        }
        text.extend(["data: ", data, "\n\n"]);
    }
    text
}

impl Style {
    /// A sign of life that clients take no notice of.
    fn keep_alive(self) -> &'static str {
        match self.protocol {
            Protocol::Messages => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Protocol::Chat | Protocol::Responses => ": keep-alive\n\n",
        }
    }

    /// An error after the headers were sent.
    fn error(self, error: &ApiError) -> String {
        let body = error.body(Shape::from(self.protocol));
        match self.protocol {
            Protocol::Chat => format!("data: {body}\n\n"),
            Protocol::Messages => format!("event: error\ndata: {body}\n\n"),
            Protocol::Responses => {
                let (code, message) = (&body["error"]["code"], &body["error"]["message"]);
                let data = serde_json::json!({
                    "type": "error", "code": code, "message": message, "param": null,
                });
                format!("event: error\ndata: {data}\n\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_lines() {
        let event = |name, data: &str| WireEvent { name, data: data.to_owned() };
        let text = write(&[event(None, "{}"), event(Some("ping"), "[1]")]);
        assert_eq!(text, "data: {}\n\nevent: ping\ndata: [1]\n\n");
    }
}
