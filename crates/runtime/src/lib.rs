//! Owns the engine thread: requests in, events out.
//!
//! A [`Request`] is validated before it can exist ([`Limits::check`]). [`Runtime::submit`] queues
//! it and gives a receiver of [`Event`]s. The thread that owns the engine runs a [`Scheduler`]:
//! every step takes the next token of all live streams first and then shares what is left of a
//! row budget among the prompts, so that a newcomer's first token does not wait for another's
//! answer.
//!
//! Slots are separate from requests. A stream leaves an anchor one token before the end of its
//! prompt and one at the end of its turn, then gives its slot up; pages and anchors stay in the
//! engine's cache, and the next request resumes at the longest prefix that is held.
//!
//! The scheduler has no threads and reads time from a [`Clock`]; the simulation in `tests/`
//! drives it from a seed, against the engine without a model in [`fake`].

mod clock;
mod constraint;
mod event;
mod events;
pub mod fake;
mod handle;
mod plan;
mod queue;
mod request;
mod sample;
mod scheduler;
mod stats;
mod stream;

pub use clock::{Clock, SystemClock};
pub use constraint::{Allowed, Constraint};
pub use event::{Event, Failure, FinishReason, TokenEvent, TokenLogprob, Usage};
pub use events::{EventSender, Events, channel};
pub use handle::{Runtime, Shutdown};
pub use request::{InvalidRequest, Limits, Params, Penalties, Refusal, Request};
pub use scheduler::{Progress, Scheduler, SchedulerOptions};
pub use stats::Stats;
