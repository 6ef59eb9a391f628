//! Connections: limits of time, size and number, and a clean end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::App;

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// How long the head of a request may take to arrive; also how long a connection may idle.
    pub header_timeout: Duration,
    /// Largest head of a request, in bytes.
    pub header_max: usize,
    /// Most headers of a request.
    pub headers_max: usize,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long open responses may take to end at shutdown.
    pub grace: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            header_max: 64 << 10,
            headers_max: 100,
            connections: 1024,
            grace: Duration::from_secs(10),
        }
    }
}

/// How often [`run`] looks whether it is to end.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Serves on this thread, and on a few more where there are many processors, until `stop` is set; then takes no more requests and lets open
/// ones end within the grace time.
///
/// # Errors
/// The system gives no threads or takes the listener away.
pub fn run(
    listener: std::net::TcpListener,
    app: &App,
    options: HttpOptions,
    stop: Arc<AtomicBool>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut threads = match n_threads() {
        // The caller's own.
        1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut threads = tokio::runtime::Builder::new_multi_thread();
            threads.worker_threads(n);
            threads
        }
    };
    threads.max_blocking_threads(n_workers()).thread_name("http").enable_all();
    let threads = threads.build()?;
    let runtime = app.0.runtime.clone();
    let router = app.router();
    threads.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let stopped = async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(STOP_POLL).await;
            }
            runtime.shut_down(options.grace);
        };
        serve(listener, router, options, stopped).await
    })
}

/// Threads that carry tokens to clients: few, since each wakes the others for every token. One
/// carries tens of thousands a second; bodies are read and prompts rendered on others.
fn n_threads() -> usize {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    (n_cores / 8).clamp(1, 4)
}

/// Threads that read bodies and render prompts. That is work for a processor, so more than there
/// are processors would only take memory; two that read something huge must not be all.
fn n_workers() -> usize {
    std::thread::available_parallelism().map_or(4, usize::from).max(4)
}

/// Serves until `shutdown` ends, then lets open responses end.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: HttpOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_headers(options.headers_max)
        // A token's few bytes are copied together faster than the system gathers them.
        .writev(false)
        .max_buf_size(options.header_max);
    let open = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(options.connections));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut shutdown => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or a connection that is gone already.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // A token is a small packet that should not wait for the next.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps gathering small packets");
        }
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    if tokio::time::timeout(options.grace, open.shutdown()).await.is_err() {
        tracing::warn!("connections were still open at the end of the grace time");
    }
    Ok(())
}
