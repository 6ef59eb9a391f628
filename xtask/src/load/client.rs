//! A client of one request, which knows just enough of HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What came.
pub(crate) struct Answer {
    /// As the server says; of an answer that was left, the events, each of which has a token, without the one that
    /// opens it.
    pub(crate) n_tokens: u64,
    pub(crate) first_token: Option<Duration>,
    pub(crate) time: Duration,
    pub(crate) is_whole: bool,
}

/// When a client goes away before the end.
#[derive(Clone, Copy)]
pub(crate) enum Leave {
    Never,
    /// Behind so many events.
    After(u64),
    At(Instant),
}

const TIMEOUT: Duration = Duration::from_secs(60);
/// More than the events of a beat.
const BUFFER: usize = 32 << 10;

/// Asks for a chat stream and reads it to its end, or leaves. It takes as little of the processors that it shares
/// with the server as it can: events are counted and not parsed.
pub(crate) fn ask(url: &str, body: &Value, leave: Leave) -> anyhow::Result<Answer> {
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
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let mut line = Vec::new();
    read_line(&mut reader, &mut line)?;
    if !line.starts_with(b"HTTP/1.1 200") {
        let mut rest = String::new();
        // What can be read of an error's text is enough.
        let _ = reader.read_to_string(&mut rest);
        let status = String::from_utf8_lossy(&line);
        bail!("{}: {}", status.trim_end(), rest.lines().last().unwrap_or_default());
    }
    let mut answer =
        Answer { n_tokens: 0, first_token: None, time: Duration::ZERO, is_whole: false };
    let (mut n_events, mut last) = (0, Vec::new());
    while read_line(&mut reader, &mut line)? > 0 {
        let Some(data) = line.strip_prefix(b"data: ") else { continue };
        if data.starts_with(b"[DONE]") {
            answer.is_whole = true;
            break;
        }
        if data.starts_with(b"{\"error\"") {
            bail!("{}", String::from_utf8_lossy(data));
        }
        n_events += 1;
        // The first event opens the answer; the second has its first token.
        if n_events == 2 {
            answer.first_token = Some(started.elapsed());
        }
        let leaves = match leave {
            Leave::Never => false,
            Leave::After(n) => n_events > n,
            Leave::At(time) => Instant::now() >= time,
        };
        if leaves {
            answer.n_tokens = n_events - 1;
            return Ok(answer);
        }
        std::mem::swap(&mut line, &mut last);
    }
    answer.time = started.elapsed();
    if !answer.is_whole {
        bail!("the stream broke off after {n_events} events");
    }
    // Only the last event is more than counted: it has what was used.
    let last: Value = serde_json::from_slice(last.strip_prefix(b"data: ").unwrap_or(&last))?;
    answer.n_tokens = last["usage"]["completion_tokens"].as_u64().unwrap_or(0);
    Ok(answer)
}

/// The next line into `line`; its length, 0 at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    line.clear();
    reader.read_until(b'\n', line)
}
