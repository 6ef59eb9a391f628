//! The thread that owns the engine, and the handle on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::Engine;

use crate::clock::{Clock, SystemClock};
use crate::event::{Event, Failure};
use crate::events::{EventSender, Events, channel as event_channel};
use crate::request::{Limits, Refusal, Request};
use crate::scheduler::{Progress, Scheduler, SchedulerOptions};
use crate::stats::{Stats, Ticket};

/// How often a stream whose receiver is full is looked at.
const STALL_POLL: Duration = Duration::from_millis(2);

/// A handle on the engine thread; clones share it. When the last is dropped, the thread finishes
/// what it has and ends.
#[derive(Clone, Debug)]
pub struct Runtime {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stats: Arc<Stats>,
    limits: Limits,
    n_slots: usize,
    n_pages: usize,
    queue_max: usize,
    is_closing: AtomicBool,
    is_lost: AtomicBool,
}

enum Command {
    Submit(Request, EventSender, Ticket),
    /// Finish what is live within this time, fail everything else, end.
    ShutDown(Duration),
}

/// The engine thread, to wait for.
#[derive(Debug)]
pub struct Shutdown(JoinHandle<()>);

impl Shutdown {
    /// Waits until the thread has ended: after [`Runtime::shut_down`], or when no handle is left.
    pub fn wait(self) {
        // The thread catches panics of the engine itself.
        let _ = self.0.join();
    }
}

impl Runtime {
    /// Starts the thread. At most `queue_max` requests wait for a place.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn spawn(
        engine: Box<dyn Engine>,
        options: SchedulerOptions,
        queue_max: usize,
    ) -> std::io::Result<(Self, Shutdown)> {
        let info = engine.info();
        let stats = Arc::new(Stats::default());
        let shared = Arc::new(Shared {
            stats: Arc::clone(&stats),
            limits: Limits::of(&info),
            n_slots: info.options.n_slots,
            n_pages: info.options.n_pages(),
            queue_max,
            is_closing: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
        });
        let (commands, inbox) = channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let mut scheduler = Scheduler::new(engine, options, SystemClock::start(), stats);
            run(&mut scheduler, &inbox, &of_thread.is_lost);
        })?;
        Ok((Self { commands, shared }, Shutdown(thread)))
    }

    /// What the engine can run; makes requests.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Counts.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Sequences that run at once.
    pub fn n_slots(&self) -> usize {
        self.shared.n_slots
    }

    /// Pages of KV that all sequences share.
    pub fn n_pages(&self) -> usize {
        self.shared.n_pages
    }

    /// Whether requests are taken.
    pub fn is_open(&self) -> bool {
        !self.shared.is_closing.load(Relaxed) && !self.is_lost()
    }

    /// Whether the engine has failed for good: no request is answered until a restart.
    pub fn is_lost(&self) -> bool {
        self.shared.is_lost.load(Relaxed)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full or the thread is ending.
    pub fn submit(&self, request: Request) -> Result<Events, Refusal> {
        let refuse = || if self.is_lost() { Refusal::Lost } else { Refusal::ShuttingDown };
        if !self.is_open() {
            return Err(refuse());
        }
        let stats = &self.shared.stats;
        let ticket = Ticket::take(stats);
        let queued = stats.waiting.load(Relaxed) - 1;
        // A request that finds a free slot does not wait, so it may pass a queue of length 0.
        let n_free = self.shared.n_slots.saturating_sub(stats.running.load(Relaxed));
        if queued >= self.shared.queue_max + n_free {
            let retry_after = stats.retry_after(self.shared.n_slots);
            return Err(Refusal::Busy { queued, retry_after });
        }
        let (sender, events) = event_channel();
        let sent = self.commands.send(Command::Submit(request, sender, ticket));
        sent.map(|()| events).map_err(|_| refuse())
    }

    /// Takes no more requests, fails those that wait, gives live ones `grace` to finish.
    pub fn shut_down(&self, grace: Duration) {
        self.shared.is_closing.store(true, Relaxed);
        // A thread that has ended needs no telling.
        let _ = self.commands.send(Command::ShutDown(grace));
    }
}

/// Serves until told to end, and says so to every request if the engine is lost or panics.
fn run<C: Clock>(scheduler: &mut Scheduler<C>, inbox: &Receiver<Command>, is_lost: &AtomicBool) {
    if catch_unwind(AssertUnwindSafe(|| serve(scheduler, inbox))).is_err() {
        tracing::error!("the engine thread panicked; no more requests are taken");
        let what = "it panicked; the server has to be restarted";
        scheduler.abandon_engine(Failure::Engine(what.to_owned()));
    }
    is_lost.store(scheduler.lost().is_some(), Relaxed);
    let failure = scheduler.lost().cloned().unwrap_or(Failure::ShuttingDown);
    while let Ok(command) = inbox.try_recv() {
        if let Command::Submit(_, events, _) = command {
            events.send(Event::Failed(failure.clone()));
        }
    }
}

fn serve<C: Clock>(scheduler: &mut Scheduler<C>, inbox: &Receiver<Command>) {
    let mut closing = Closing::default();
    loop {
        loop {
            match inbox.try_recv() {
                Ok(command) => closing.take(command, scheduler),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if scheduler.is_empty() => return,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        let progress = scheduler.step();
        if scheduler.lost().is_some() {
            return;
        }
        if closing.is_over() {
            scheduler.fail_all(&Failure::ShuttingDown);
        }
        if closing.deadline.is_some() && scheduler.is_empty() {
            return;
        }
        let command = match progress {
            Progress::Worked => continue,
            Progress::Stalled => match inbox.recv_timeout(STALL_POLL) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(STALL_POLL);
                    continue;
                }
            },
            Progress::Idle => match inbox.recv() {
                Ok(command) => command,
                Err(_) => return,
            },
        };
        closing.take(command, scheduler);
    }
}

/// Whether and until when the thread is ending.
#[derive(Default)]
struct Closing {
    deadline: Option<(SystemClock, Duration)>,
}

impl Closing {
    fn take<C: Clock>(&mut self, command: Command, scheduler: &mut Scheduler<C>) {
        match command {
            Command::Submit(_, events, _) if self.deadline.is_some() => {
                events.send(Event::Failed(Failure::ShuttingDown));
            }
            Command::Submit(request, events, ticket) => scheduler.enqueue(request, events, ticket),
            Command::ShutDown(grace) => {
                scheduler.fail_waiting(&Failure::ShuttingDown);
                self.deadline.get_or_insert((SystemClock::start(), grace));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|(since, grace)| since.now() >= grace)
    }
}
