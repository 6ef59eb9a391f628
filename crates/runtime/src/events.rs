//! The way of events from the engine's thread to whoever asked.
//!
//! One sender, one receiver, no bound: the scheduler bounds a stream by giving it no tokens. A
//! general channel keeps a list of those that wait and allocates an entry for each wait, which is
//! once for every token; here waiting is leaving a waker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::event::Event;

/// A way for the events of one request.
pub fn channel() -> (EventSender, Events) {
    let shared = Arc::new(Shared::default());
    (EventSender(Arc::clone(&shared)), Events(shared))
}

/// The scheduler's end.
#[derive(Debug)]
pub struct EventSender(Arc<Shared>);

/// The receiving end of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Of a receiver that waits.
    waker: Option<Waker>,
    is_sender_gone: bool,
    is_receiver_gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSender {
    /// Leaves an event for the receiver and wakes it; one that is gone gets none.
    pub(crate) fn send(&self, event: Event) {
        if let Some(state) = self.push(event) {
            wake(state);
        }
    }

    /// Leaves an event that can wait a little, until [`wake`](Self::wake) or the next one.
    pub(crate) fn leave(&self, event: Event) {
        self.push(event);
    }

    /// Wakes a receiver that waits, if there is something for it.
    pub(crate) fn wake(&self) {
        let state = self.0.lock();
        if !state.events.is_empty() {
            wake(state);
        }
    }

    fn push(&self, event: Event) -> Option<MutexGuard<'_, State>> {
        let mut state = self.0.lock();
        if state.is_receiver_gone {
            return None;
        }
        state.events.push_back(event);
        Some(state)
    }

    /// Whether nobody receives any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().is_receiver_gone
    }

    /// Events that were not read yet.
    pub(crate) fn n_unread(&self) -> usize {
        self.0.lock().events.len()
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_sender_gone = true;
        wake(state);
    }
}

/// Lets the receiver look again, once it can.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Events {
    /// The next event, if it is there already.
    pub fn try_next(&self) -> Option<Event> {
        self.0.lock().events.pop_front()
    }

    /// Events that are there already.
    pub fn n_unread(&self) -> usize {
        self.0.lock().events.len()
    }

    /// The next event; `None` when no more come.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.0.lock();
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.is_sender_gone {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits for the next event on this thread; `None` when no more come.
    pub fn wait(&self) -> Option<Event> {
        let waker = Waker::from(Arc::new(Parked(std::thread::current())));
        let context = Context::from_waker(&waker);
        loop {
            match self.poll_next(&context) {
                Poll::Ready(event) => return event,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// Cancels the request, as dropping does.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.is_receiver_gone = true;
        state.is_sender_gone = true;
        state.events.clear();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.close();
    }
}

/// A thread that waits.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(ahead: usize) -> Event {
        Event::Queued { ahead }
    }

    #[test]
    fn events_come_in_order_and_end_with_the_sender() {
        let (sender, events) = channel();
        assert_eq!(events.try_next(), None);
        sender.send(queued(1));
        sender.send(queued(2));
        assert_eq!(sender.n_unread(), 2);
        assert_eq!(events.try_next(), Some(queued(1)));
        drop(sender);
        assert_eq!((events.wait(), events.wait()), (Some(queued(2)), None));
    }

    #[test]
    fn a_thread_that_waits_is_woken_for_every_event() {
        let (sender, events) = channel();
        let reader = std::thread::spawn(move || {
            std::iter::from_fn(|| events.wait()).map(|event| event == queued(7)).collect::<Vec<_>>()
        });
        for _ in 0..1000 {
            sender.send(queued(7));
            std::thread::yield_now();
        }
        drop(sender);
        assert_eq!(reader.join().unwrap(), vec![true; 1000]);
    }

    #[test]
    fn whoever_closes_gets_no_more_and_the_sender_knows() {
        let (sender, events) = channel();
        sender.send(queued(1));
        events.close();
        sender.send(queued(2));
        assert!(sender.is_closed());
        assert_eq!((sender.n_unread(), events.wait()), (0, None));
    }
}
