//! Ctrl-C. A command that can stop early arms the interrupt: the first Ctrl-C then asks it to
//! stop, the second ends the process. Without an armed command the first one ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The exit code of a process that SIGINT ended, as shells report it.
const EXIT_INTERRUPTED: i32 = 130;

/// A handle on Ctrl-C; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// How many commands are listening.
    armed: AtomicU32,
    requested: Arc<AtomicBool>,
}

/// While this lives, the first Ctrl-C is a request. Dropping it forgets the request.
#[derive(Debug)]
pub struct Armed(Arc<State>);

impl Interrupt {
    /// Catches SIGINT for the whole process. Where the system refuses, Ctrl-C keeps ending the
    /// process at once.
    pub(crate) fn install() -> Self {
        let interrupt = Self::default();
        let handle = interrupt.clone();
        let _ = ctrlc::set_handler(move || {
            if !handle.press() {
                std::process::exit(EXIT_INTERRUPTED);
            }
        });
        interrupt
    }

    /// Starts to listen: the first Ctrl-C from now on is a request to stop.
    pub fn arm(&self) -> Armed {
        self.0.armed.fetch_add(1, Ordering::SeqCst);
        Armed(Arc::clone(&self.0))
    }

    /// What a Ctrl-C does: `true` if somebody was asked to stop, `false` if the process should
    /// end.
    fn press(&self) -> bool {
        let listening = self.0.armed.load(Ordering::SeqCst) > 0;
        listening && !self.0.requested.swap(true, Ordering::SeqCst)
    }
}

impl Armed {
    /// Whether Ctrl-C was pressed.
    pub fn requested(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// The flag itself, for work that polls it from other threads.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.requested)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if self.0.armed.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.requested.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_press_asks_and_the_second_ends() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.press(), "nobody listens, so the process ends");
        let armed = interrupt.arm();
        assert!(!armed.requested());
        assert!(interrupt.press());
        assert!(armed.requested());
        assert!(!interrupt.press());
        drop(armed);
        let again = interrupt.arm();
        assert!(!again.requested(), "a request does not outlive the command it was for");
        assert!(interrupt.press());
    }
}
