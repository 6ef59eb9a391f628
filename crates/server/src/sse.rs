//! Server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use chat::protocol::{Protocol, WireEvent};
use hyper::body::Frame;
use tokio::time::{Instant, Sleep};

use crate::error::{ApiError, Shape};

/// Events, or why there are no more.
pub(crate) type Said = Result<Vec<WireEvent>, ApiError>;

/// Where events come from.
pub(crate) trait Source: Send + Unpin + 'static {
    /// The next events, possibly none; `None` at the end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Said>>;
}

/// How a stream looks when nothing is said, and when something goes wrong.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) protocol: Protocol,
    pub(crate) keep_alive: Duration,
}

/// A response that streams. Dropping it drops the source.
pub(crate) fn response<S: Source>(source: S, style: Style) -> Response {
    let quiet = Quiet::new(style.keep_alive);
    let talk = Talk { source, style, quiet, is_over: false };
    let mut response = Response::new(Body::new(talk));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather responses would hold every token back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The body of a response that streams.
struct Talk<S> {
    source: S,
    style: Style,
    quiet: Quiet,
    is_over: bool,
}

/// Events that are there already go out together, up to about this many bytes.
const TOGETHER: usize = 16 << 10;

impl<S: Source> HttpBody for Talk<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { source, style, quiet, is_over } = self.get_mut();
        let mut text = String::new();
        while !*is_over && text.len() < TOGETHER {
            match source.poll_next(context) {
                Poll::Ready(Some(Ok(events))) => write(&events, &mut text),
                Poll::Ready(Some(Err(error))) => {
                    text.push_str(&style.error(&error));
                    *is_over = true;
                }
                Poll::Ready(None) => *is_over = true,
                Poll::Pending => break,
            }
        }
        if text.is_empty() {
            if *is_over {
                return Poll::Ready(None);
            }
            ready!(quiet.poll_lasts(context));
            text.push_str(style.keep_alive());
        }
        quiet.interrupt();
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

/// Tells when nothing has been said for some time. A timer for every token would be set and taken
/// back every time; this one runs on, and looks when it has run out.
struct Quiet {
    after: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Quiet {
    fn new(after: Duration) -> Self {
        Self { after, since: Instant::now(), timer: Box::pin(tokio::time::sleep(after)) }
    }

    /// Something was said.
    fn interrupt(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it has been quiet for long.
    fn poll_lasts(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let end = self.since + self.after;
            self.timer.as_mut().reset(end);
            if end <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }
}

/// Events as they go over the wire. JSON text has no line breaks, so one `data:` line is enough.
fn write(events: &[WireEvent], text: &mut String) {
    for WireEvent { name, data } in events {
        text.reserve(data.len() + 48);
        if let Some(name) = name {
            text.extend(["event: ", name, "\n"]);
        }
        text.extend(["data: ", data, "\n\n"]);
    }
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
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn events_have_their_lines() {
        let event = |name, data: &str| WireEvent { name, data: data.to_owned() };
        let mut text = String::new();
        write(&[event(None, "{}"), event(Some("ping"), "[1]")], &mut text);
        assert_eq!(text, "data: {}\n\nevent: ping\ndata: [1]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_lasts_from_the_last_word_on() {
        let start = Instant::now();
        let mut quiet = Quiet::new(Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(4)).await;
        quiet.interrupt();
        poll_fn(|context| quiet.poll_lasts(context)).await;
        assert_eq!(start.elapsed().as_secs(), 9);
        quiet.interrupt();
        poll_fn(|context| quiet.poll_lasts(context)).await;
        assert_eq!(start.elapsed().as_secs(), 14);
    }
}
