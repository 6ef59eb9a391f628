//! One request on its way through the scheduler.

use std::time::Duration;

use engine::{ANCHOR_EVERY, Sampling};

use crate::constraint::Constraint;
use crate::event::{Event, TokenEvent, Usage};
use crate::events::EventSender;
use crate::request::{Penalties, Request};
use crate::stats::Ticket;

/// A request and how far it is.
pub(crate) struct Stream {
    /// Order of submission.
    pub(crate) id: u64,
    /// Prompt, then answer.
    pub(crate) tokens: Vec<u32>,
    pub(crate) n_prompt: usize,
    /// The beginning of `tokens` that the slot holds.
    pub(crate) held: usize,
    pub(crate) slot: usize,
    /// Where the prompt parts from another that is held, if it could not be resumed near there: an
    /// anchor left there spares the next prompt that begins alike what this one has to read again.
    pub(crate) parts_at: Option<usize>,
    pub(crate) sampling: Sampling,
    pub(crate) penalties: Penalties,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) max_tokens: usize,
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
    /// Tokens of the prompt whose scores were told; the first has none.
    pub(crate) n_scored: usize,
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    pub(crate) usage: Usage,
    /// Times of submission, of the first place, of the first token.
    pub(crate) times: Times,
    /// Since when the receiver has been full.
    pub(crate) full_since: Option<Duration>,
    /// When the receiver was last woken for a token, and whether one was left without that.
    woken: Option<Duration>,
    has_left: bool,
    /// Held until the first place.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) is_told_to_wait: bool,
    events: EventSender,
}

/// When things happened to a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) submitted: Duration,
    pub(crate) placed: Option<Duration>,
    pub(crate) first_token: Option<Duration>,
}

impl Stream {
    pub(crate) fn new(
        (id, now): (u64, Duration),
        request: Request,
        events: EventSender,
        ticket: Option<Ticket>,
    ) -> Self {
        let params = request.params;
        Self {
            id,
            n_prompt: params.prompt.len(),
            tokens: params.prompt,
            held: 0,
            slot: usize::MAX,
            parts_at: None,
            sampling: params.sampling,
            penalties: params.penalties,
            stop_tokens: params.stop_tokens,
            max_tokens: params.max_tokens,
            logprobs: params.logprobs,
            prompt_logprobs: params.prompt_logprobs,
            n_scored: 1,
            constraint: params.constraint,
            usage: Usage::default(),
            times: Times { submitted: now, ..Times::default() },
            full_since: None,
            woken: None,
            has_left: false,
            ticket,
            is_told_to_wait: false,
            events,
        }
    }

    /// Tokens of the answer so far.
    pub(crate) fn answer(&self) -> &[u32] {
        &self.tokens[self.n_prompt..]
    }

    /// Known tokens that the slot does not hold yet.
    pub(crate) fn rest(&self) -> usize {
        self.tokens.len() - self.held
    }

    /// Whether feeding `rows` more tokens ends the prompt for the first time. The last token is
    /// then left uncommitted, so that the anchor lies before it: the same prompt again, and a
    /// next turn that differs in that token, both resume there.
    pub(crate) fn ends_prompt(&self, rows: usize) -> bool {
        self.tokens.len() == self.n_prompt && rows > 1 && self.held + rows == self.n_prompt
    }

    /// Tokens to the next position where a chunk has to end, because an anchor is due there.
    pub(crate) fn until_anchor(&self) -> usize {
        let regular = ANCHOR_EVERY - self.held % ANCHOR_EVERY;
        let parting = self.parts_at.and_then(|at| at.checked_sub(self.held)).filter(|n| *n > 0);
        parting.map_or(regular, |n| n.min(regular))
    }

    /// Whether the next token is drawn from the logits as they are, and nothing else is asked of those.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_scoring()
            && self.constraint.is_none()
            && self.logprobs.is_none()
            && self.penalties.is_neutral()
            && self.sampling.repeat_penalty == 1.0
    }

    /// Whether the prompt's own tokens are being scored, so that every row needs its logits.
    pub(crate) fn is_scoring(&self) -> bool {
        self.prompt_logprobs.is_some() && self.tokens.len() == self.n_prompt
    }

    /// Tells the receiver. The scheduler bounds what lies unread by giving no tokens to a stream
    /// whose receiver is full. A receiver that is gone is noticed by the next step.
    pub(crate) fn tell(&self, event: Event) {
        self.events.send(event);
    }

    /// Tells the receiver of a token. Waking it, and what it then writes, take more of a processor
    /// than all the rest of a token; so a fast stream's receiver is woken once in `rest`, for all
    /// that came since. All beat the same time, so that the thread that serves them wakes once.
    pub(crate) fn tell_token(&mut self, token: TokenEvent, (now, rest): (Duration, Duration)) {
        let event = Event::Token(token);
        self.has_left = self.rests(now, rest);
        if self.has_left {
            self.events.leave(event);
        } else {
            self.events.send(event);
            self.woken = Some(now);
        }
    }

    /// Leaves a token that another one follows at once.
    pub(crate) fn leave_token(&self, token: TokenEvent) {
        self.events.leave(Event::Token(token));
    }

    /// Wakes the receiver for tokens that were left, if it has rested long enough.
    pub(crate) fn wake(&mut self, now: Duration, rest: Duration) {
        if self.has_left && !self.rests(now, rest) {
            self.events.wake();
            self.has_left = false;
            self.woken = Some(now);
        }
    }

    fn rests(&self, now: Duration, rest: Duration) -> bool {
        let beat = |time: Duration| time.as_nanos().checked_div(rest.as_nanos());
        rest > Duration::ZERO && self.woken.is_some_and(|woken| beat(woken) == beat(now))
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Events that were not read yet.
    pub(crate) fn n_unread(&self) -> usize {
        self.events.n_unread()
    }

    /// The usage at the end.
    pub(crate) fn final_usage(&self, now: Duration) -> Usage {
        let placed = self.times.placed.unwrap_or(now);
        let first = self.times.first_token.unwrap_or(now);
        Usage {
            queued: placed.saturating_sub(self.times.submitted),
            prefill: first.saturating_sub(placed),
            decode: now.saturating_sub(first),
            ..self.usage
        }
    }
}
