use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Counts that other threads may read at any time; each is exact, together they may be a step
/// apart.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests submitted and without a place yet.
    pub waiting: AtomicUsize,
    /// Requests with a slot.
    pub running: AtomicUsize,
    /// Pages that could be taken.
    pub available_pages: AtomicUsize,
    /// Steps computed.
    pub steps: AtomicU64,
    /// Tokens of prompts, reused ones included.
    pub prompt_tokens: AtomicU64,
    /// Tokens of prompts that were reused.
    pub cached_tokens: AtomicU64,
    /// Tokens chosen.
    pub completion_tokens: AtomicU64,
    /// Requests that finished.
    pub finished: AtomicU64,
    /// Requests whose receiver went away.
    pub cancelled: AtomicU64,
    /// Requests that failed.
    pub failed: AtomicU64,
    /// Times a stream gave its pages up for an older one and came back later.
    pub preempted: AtomicU64,
    /// Moving average of the milliseconds that a request holds a slot.
    hold_ms: AtomicU64,
}

impl Stats {
    pub(crate) fn note_hold(&self, held: Duration) {
        let (old, new) = (self.hold_ms.load(Relaxed), held.as_millis() as u64);
        let average = if old == 0 { new } else { (old * 7 + new) / 8 };
        self.hold_ms.store(average, Relaxed);
    }

    /// When a place may be free for one more request: the queue's length times the recent time
    /// per request, between 1 s and 2 min.
    pub(crate) fn retry_after(&self, n_slots: usize) -> Duration {
        let ahead = self.waiting.load(Relaxed) as u64 + 1;
        let ms = self.hold_ms.load(Relaxed).saturating_mul(ahead) / n_slots.max(1) as u64;
        Duration::from_secs(ms.div_ceil(1000).clamp(1, 120))
    }
}

/// A place in the queue; counted while it lives.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Stats>);

impl Ticket {
    pub(crate) fn take(stats: &Arc<Stats>) -> Self {
        stats.waiting.fetch_add(1, Relaxed);
        Self(Arc::clone(stats))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_grows_with_the_queue() {
        let stats = Arc::new(Stats::default());
        assert_eq!(stats.retry_after(4), Duration::from_secs(1));
        stats.note_hold(Duration::from_secs(8));
        assert_eq!(stats.retry_after(4), Duration::from_secs(2));
        let tickets: Vec<Ticket> = (0..5).map(|_| Ticket::take(&stats)).collect();
        assert_eq!(stats.retry_after(4), Duration::from_secs(12));
        drop(tickets);
        assert_eq!(stats.waiting.load(Relaxed), 0);
    }
}
