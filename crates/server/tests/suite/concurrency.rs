//! Many at once, and those who leave.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::json;
use server::{HttpOptions, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::common::{Served, Setup, events, json};

fn body(i: usize, streams: bool) -> String {
    json!({
        "messages": [{"role": "user", "content": format!("number {i}")}],
        "thinking": {"type": "disabled"}, "stream": streams,
    })
    .to_string()
}

#[tokio::test]
async fn sixteen_streams_at_once_get_what_one_gets() {
    let server = Setup::new(&["one two three four five six seven eight"]).serve();
    let ask = |i| server.post_text("/v1/chat/completions", body(i, true));
    let all = futures_util::future::join_all((0..16).map(ask)).await;
    for (status, text) in all {
        assert_eq!(status, 200, "{text}");
        let events = events(&text);
        let said: String = events[..events.len() - 1]
            .iter()
            .filter_map(|event| {
                json(&event.1)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(said, "one two three four five six seven eight");
    }
    wait_until(|| server.runtime.stats().running.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut setup = Setup::new(&[&"on and on ".repeat(40)]);
    setup.n_slots = 1;
    setup.queue_max = 1;
    setup.step_time = Duration::from_millis(2);
    let server = setup.serve();
    let ask = |i| server.post_text("/v1/chat/completions", body(i, false));
    let all = futures_util::future::join_all((0..5).map(ask));
    let all = tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    let n_refused = all.iter().filter(|(status, _)| *status == 429).count();
    assert!((2..=4).contains(&n_refused), "{n_refused} were refused");
    let (_, text) = all.iter().find(|(status, _)| *status == 429).unwrap();
    assert_eq!(json(text)["error"]["type"], "rate_limit_error");
}

/// A server on a socket, and how to end it.
async fn listen(
    server: &Served,
    options: HttpOptions,
) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let router = server.router.clone();
    let task = tokio::spawn(async move {
        let ended = async { ended.await.unwrap_or(()) };
        serve(listener, router, options, ended).await.unwrap();
    });
    (address, end, task)
}

async fn connect(address: std::net::SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_frees_the_place() {
    let mut setup = Setup::new(&[&"on and on ".repeat(1000)]);
    setup.step_time = Duration::from_millis(3);
    let server = setup.serve();
    let (address, end, task) = listen(&server, HttpOptions::default()).await;
    let stats = || server.runtime.stats();
    for streams in [true, false] {
        let n_before = stats().cancelled.load(Relaxed);
        let connection = connect(address, &body(1, streams)).await;
        wait_until(|| stats().running.load(Relaxed) == 1).await;
        drop(connection);
        wait_until(|| stats().running.load(Relaxed) == 0).await;
        assert_eq!(stats().cancelled.load(Relaxed), n_before + 1, "streams: {streams}");
    }
    end.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_streams_end() {
    let mut setup = Setup::new(&[&"on and on ".repeat(20)]);
    setup.step_time = Duration::from_millis(3);
    let server = setup.serve();
    let (address, end, task) = listen(&server, HttpOptions::default()).await;
    let mut connection = connect(address, &body(1, true)).await;
    wait_until(|| server.runtime.stats().running.load(Relaxed) == 1).await;
    server.runtime.shut_down(Duration::from_secs(20));
    end.send(()).unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("data: [DONE]"), "{text}");
    task.await.unwrap();
    assert_eq!(server.get("/ready").await.0, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_floods_of_headers_are_cut_off() {
    let server = Setup::new(&["Hi."]).serve();
    let options =
        HttpOptions { header_timeout: Duration::from_millis(200), ..HttpOptions::default() };
    let (address, end, task) = listen(&server, options).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"POST /v1/chat/comp").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a head that never ends is not waited for");

    let mut flood = TcpStream::connect(address).await.unwrap();
    let headers: String = (0..5000).map(|i| format!("x-{i}: y\r\n")).collect();
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    // The server may close before it has read everything.
    let _ = flood.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = flood.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    let healthy = connect(address, &body(1, false)).await;
    drop(healthy);
    end.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_lost_engine_fails_what_runs_and_refuses_what_comes() {
    let server = Setup { lost_at: 4, ..Setup::new(&["one two three four five six"]) }.serve();
    assert_eq!(server.get("/health").await.0, 200);
    let (status, answer) = server.post_text("/v1/chat/completions", body(1, false)).await;
    assert_eq!(status, 500, "{answer}");
    assert_eq!(json(&answer)["error"]["type"], "server_error");
    for path in ["/health", "/ready"] {
        // The thread ends a moment after it has told.
        let mut status = server.get(path).await.0;
        for _ in 0..100 {
            if status == 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            status = server.get(path).await.0;
        }
        assert_eq!(status, 503, "{path}");
    }
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let asked = json!({"model": "m", "max_tokens": 5, "messages": messages});
    let (status, answer) = server.post("/v1/messages", asked).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (503, &json!("overloaded_error")));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("restarted"), "{message}");
}
