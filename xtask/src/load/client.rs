//! A client of one request, which knows just enough of HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What came.
pub(crate) struct Answer {
    /// As the server says, or the events of one that was left.
    pub(crate) n_tokens: u64,
    pub(crate) first_token: Option<Duration>,
    pub(crate) time: Duration,
    pub(crate) is_whole: bool,
}

const TIMEOUT: Duration = Duration::from_secs(60);

/// Asks for a chat stream and reads it to its end, or leaves after so many events.
pub(crate) fn ask(url: &str, body: &Value, leave_after: Option<usize>) -> anyhow::Result<Answer> {
    let address = url.strip_prefix("http://").context("a URL begins with http://")?;
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().context("nothing came")??;
    if !status.starts_with("HTTP/1.1 200") {
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        bail!("{status}: {}", rest.last().map_or("", String::as_str));
    }
    let mut answer =
        Answer { n_tokens: 0, first_token: None, time: Duration::ZERO, is_whole: false };
    let mut n_events = 0;
    for line in lines {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            answer.is_whole = true;
            break;
        }
        if data.starts_with("{\"error\"") {
            bail!("{data}");
        }
        n_events += 1;
        // The first event opens the answer; the second has its first token.
        if n_events == 2 {
            answer.first_token = Some(started.elapsed());
        }
        if leave_after.is_some_and(|n| n_events > n) {
            answer.n_tokens = n_events as u64;
            return Ok(answer);
        }
        if data.contains("\"total_tokens\"") {
            let chunk: Value = serde_json::from_str(data)?;
            answer.n_tokens = chunk["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        }
    }
    answer.time = started.elapsed();
    if !answer.is_whole {
        bail!("the stream broke off after {n_events} events");
    }
    Ok(answer)
}
