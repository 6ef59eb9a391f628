//! What the engine computes next, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use engine::{Engine, Error, Feed, Options, Wanted};

use crate::clock::Clock;
use crate::event::{Event, Failure, FinishReason, TokenEvent};
use crate::events::EventSender;
use crate::plan::{Budget, Demand, plan};
use crate::queue::Queue;
use crate::request::Request;
use crate::sample::{Choice, Chooser, logprobs};
use crate::stats::{Stats, Ticket};
use crate::stream::Stream;

/// Rows of a prompt that hold a step up no longer than receivers may be left alone: what is new in a prompt of
/// which the rest is held.
const SOON_ROWS: usize = 8;

/// How the scheduler shares the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Rows of prompts in a step that also decodes. Smaller keeps streams smooth while somebody
    /// else's prompt is read; larger reads prompts faster. Alone, prompts get the whole step.
    pub prefill_rows: usize,
    /// Events that a receiver may leave unread. At that many its stream gets no more tokens until
    /// it reads; nobody else is held up.
    pub event_buffer: usize,
    /// How long a stream may stand still for that reason. Then it fails as stalled, and its state
    /// stays in the cache.
    pub stall_limit: Duration,
    /// How long a receiver is left alone after it was woken for a token: what comes in the
    /// meantime, it finds together. Where steps take longer than that, every token wakes it.
    pub rest: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            prefill_rows: 256,
            event_buffer: 256,
            stall_limit: Duration::from_secs(30),
            rest: Duration::from_millis(16),
        }
    }
}

/// Fewer tokens than this are read again rather than given an anchor, whose bytes would drive out
/// another.
const PARTING_TOKENS: usize = 64;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was computed or decided.
    Worked,
    /// Every live stream waits for its receiver to read.
    Stalled,
    /// There is nothing to do.
    Idle,
}

/// Owns an engine and the requests on it. See the crate's page.
pub struct Scheduler<C> {
    engine: Box<dyn Engine>,
    clock: C,
    options: SchedulerOptions,
    limits: Options,
    waiting: Queue,
    /// By age, oldest first.
    live: Vec<Stream>,
    free_slots: Vec<usize>,
    chooser: Chooser,
    stats: Arc<Stats>,
    next_id: u64,
    turn: usize,
    /// Whether the engine chooses tokens where nothing but the logits decides.
    samples: bool,
    /// Why nothing can be computed any more.
    lost: Option<Failure>,
}

impl<C: Clock> Scheduler<C> {
    /// A scheduler without requests.
    pub fn new(
        engine: Box<dyn Engine>,
        options: SchedulerOptions,
        clock: C,
        stats: Arc<Stats>,
    ) -> Self {
        let info = engine.info();
        stats.available_pages.store(engine.available_pages(), Relaxed);
        Self {
            free_slots: (0..info.options.n_slots).rev().collect(),
            limits: info.options,
            chooser: Chooser::new(info.n_vocab),
            engine,
            clock,
            options,
            waiting: Queue::default(),
            live: Vec::new(),
            stats,
            next_id: 0,
            turn: 0,
            samples: info.samples,
            lost: None,
        }
    }

    /// Queues a request. Its events go to `events`.
    pub fn submit(&mut self, request: Request, events: EventSender) {
        let ticket = Ticket::take(&self.stats);
        self.enqueue(request, events, ticket);
    }

    pub(crate) fn enqueue(&mut self, request: Request, events: EventSender, ticket: Ticket) {
        let now = self.clock.now();
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push(Stream::new((id, now), request, events, Some(ticket)));
    }

    /// Whether no request is left.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.waiting.len() == 0
    }

    /// The engine, for reports and tests.
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Slots that no request holds.
    pub fn n_free_slots(&self) -> usize {
        self.free_slots.len()
    }

    /// Fails every request that has no answer yet; live ones may go on.
    pub fn fail_waiting(&mut self, failure: &Failure) {
        for stream in self.waiting.take_all() {
            self.stats.failed.fetch_add(1, Relaxed);
            stream.tell(Event::Failed(failure.clone()));
        }
    }

    /// Fails every request.
    pub fn fail_all(&mut self, failure: &Failure) {
        self.fail_waiting(failure);
        while let Some(stream) = self.live.pop() {
            self.release(&stream);
            self.fail(&stream, failure.clone());
        }
    }

    /// Why nothing can be computed any more, if that is so.
    pub fn lost(&self) -> Option<&Failure> {
        self.lost.as_ref()
    }

    /// Fails every request without touching the engine, which is gone or in an unknown state.
    pub(crate) fn abandon_engine(&mut self, failure: Failure) {
        self.fail_waiting(&failure);
        self.stats.failed.fetch_add(self.live.len() as u64, Relaxed);
        self.live.drain(..).for_each(|stream| stream.tell(Event::Failed(failure.clone())));
        self.lost = Some(failure);
    }

    /// Lets go of who is gone, admits who fits, computes one step.
    pub fn step(&mut self) -> Progress {
        let now = self.clock.now();
        self.sweep(now);
        self.admit(now);
        if self.live.is_empty() {
            return Progress::Idle;
        }
        let planned = self.plan();
        self.wake(&planned, now);
        if planned.is_empty() {
            return Progress::Stalled;
        }
        self.turn = self.turn.wrapping_add(1);
        self.compute(&planned);
        self.stats.running.store(self.live.len(), Relaxed);
        self.stats.available_pages.store(self.engine.available_pages(), Relaxed);
        Progress::Worked
    }

    /// Wakes receivers for what was left to them: those that have rested, and all where it may take
    /// long until the next token, since a prompt is read or everybody is full.
    fn wake(&mut self, planned: &[(u64, usize)], now: Duration) {
        let is_soon = planned.iter().all(|(_, rows)| *rows <= SOON_ROWS) && !planned.is_empty();
        let rest = if is_soon { self.options.rest } else { Duration::ZERO };
        self.live.iter_mut().for_each(|stream| stream.wake(now, rest));
    }

    /// Frees the places of receivers that are gone or have not read for too long.
    fn sweep(&mut self, now: Duration) {
        let n_gone = self.waiting.drop_abandoned();
        self.stats.cancelled.fetch_add(n_gone as u64, Relaxed);
        let mut i = 0;
        while i < self.live.len() {
            let stream = &mut self.live[i];
            let is_full = stream.n_unread() >= self.options.event_buffer;
            stream.full_since = is_full.then(|| stream.full_since.unwrap_or(now));
            let stalled = stream.full_since.map(|since| now.saturating_sub(since));
            if stream.is_abandoned() {
                let stream = self.live.remove(i);
                self.retire(&stream);
                self.stats.cancelled.fetch_add(1, Relaxed);
            } else if let Some(time) = stalled.filter(|time| *time > self.options.stall_limit) {
                let stream = self.live.remove(i);
                self.retire(&stream);
                self.fail(&stream, Failure::Stalled(time));
            } else {
                i += 1;
            }
        }
        self.stats.running.store(self.live.len(), Relaxed);
    }

    /// Gives slots to waiting streams, oldest first.
    fn admit(&mut self, now: Duration) {
        while let Some(slot) = self.free_slots.pop() {
            let available = self.engine.available_pages();
            let Some(stream) = self.waiting.take(&self.live, available) else {
                self.free_slots.push(slot);
                break;
            };
            self.place(stream, slot, now);
        }
        for (ahead, stream) in self.waiting.iter_mut().enumerate() {
            if !std::mem::replace(&mut stream.is_told_to_wait, true) {
                stream.tell(Event::Queued { ahead });
            }
        }
    }

    /// Resumes a stream in a slot at the longest beginning that is held.
    fn place(&mut self, mut stream: Stream, slot: usize, now: Duration) {
        stream.slot = slot;
        // Logits of rows that are held are not: a prompt that is scored starts from nothing.
        let known = if stream.is_scoring() { &[] } else { stream.tokens.as_slice() };
        let reuse = match self.engine.resume(slot, known) {
            Ok(reuse) => reuse,
            Err(error) => {
                self.release(&stream);
                return match error {
                    Error::Pages { .. } if !self.live.is_empty() => self.waiting.push(stream),
                    error => self.fail(&stream, Failure::Engine(error.to_string())),
                };
            }
        };
        stream.held = reuse.resumed;
        let matched = reuse.matched.min(stream.n_prompt - 1);
        stream.parts_at = (matched >= reuse.resumed + PARTING_TOKENS).then_some(matched);
        if stream.times.placed.is_none() {
            stream.times.placed = Some(now);
            stream.ticket = None;
            stream.usage.prompt_tokens = stream.n_prompt;
            stream.usage.matched_tokens = reuse.matched.min(stream.n_prompt);
            stream.usage.cached_tokens = reuse.resumed.min(stream.n_prompt);
            let (prompt_tokens, cached_tokens) = (stream.n_prompt, stream.usage.cached_tokens);
            self.stats.prompt_tokens.fetch_add(prompt_tokens as u64, Relaxed);
            self.stats.cached_tokens.fetch_add(cached_tokens as u64, Relaxed);
            let matched_tokens = stream.usage.matched_tokens;
            let instead = reuse.instead;
            stream.tell(Event::Started { prompt_tokens, matched_tokens, cached_tokens, instead });
        }
        let at = self.live.partition_point(|other| other.id < stream.id);
        self.live.insert(at, stream);
    }

    /// (stream, rows) of the next step.
    fn plan(&self) -> Vec<(u64, usize)> {
        let able: Vec<&Stream> =
            self.live.iter().filter(|stream| stream.full_since.is_none()).collect();
        let demand = |stream: &&Stream| Demand {
            rest: stream.rest(),
            until_anchor: stream.until_anchor(),
            is_scored: stream.is_scoring(),
        };
        let demands: Vec<Demand> = able.iter().map(demand).collect();
        let budget = Budget {
            rows: self.limits.step_rows,
            prefill_rows: self.options.prefill_rows,
            logit_rows: self.limits.logit_rows,
            first: self.turn,
        };
        let given = able.iter().zip(plan(&demands, budget));
        given.filter(|(_, rows)| *rows > 0).map(|(stream, rows)| (stream.id, rows)).collect()
    }

    /// Computes planned rows. Where that fails, every stream is tried alone, so that only those
    /// fail that cannot be computed; where pages run out, the youngest stream gives its own up.
    fn compute(&mut self, planned: &[(u64, usize)]) {
        let mut live = self.live.iter();
        // Both are in the order of age.
        let mut next = |id| live.by_ref().find(|stream| stream.id == id);
        let feeds = planned.iter().filter_map(|&(id, rows)| {
            let stream = next(id)?;
            Some(feed(stream, rows, self.samples && stream.is_plain()))
        });
        let feeds: Vec<Feed<'_>> = feeds.collect();
        if feeds.is_empty() {
            return;
        }
        match self.engine.feed(&feeds) {
            Ok(()) => self.take_results(planned),
            Err(Error::Pages { .. }) if self.live.len() > 1 => self.preempt(),
            Err(error) if error.is_lost() => self.lose(&error),
            Err(error) if planned.len() == 1 => self.fail_planned(planned, &error),
            Err(error) => {
                tracing::warn!(%error, streams = planned.len(), "a step failed; trying one by one");
                planned.iter().for_each(|&part| self.compute(&[part]));
            }
        }
    }

    fn lose(&mut self, error: &Error) {
        tracing::error!(%error, "the engine is lost; no more requests are taken");
        self.abandon_engine(Failure::Engine(format!("{error}; the server has to be restarted")));
    }

    /// The youngest stream leaves its pages to the others and waits for its turn, with all it
    /// needs to go on where it was.
    fn preempt(&mut self) {
        self.engine.discard();
        let Some(mut stream) = self.live.pop() else { return };
        tracing::info!(held = stream.held, "out of pages: the youngest stream waits");
        stream.wake(self.clock.now(), Duration::ZERO);
        self.retire(&stream);
        self.stats.preempted.fetch_add(1, Relaxed);
        stream.held = 0;
        self.waiting.push(stream);
    }

    /// Chooses tokens from the logits of a step, commits it, tells everybody.
    fn take_results(&mut self, planned: &[(u64, usize)]) {
        self.stats.steps.fetch_add(1, Relaxed);
        let mut n_logits = 0;
        let mut choices = Vec::with_capacity(planned.len());
        let mut accepted = Vec::with_capacity(planned.len());
        let mut live = self.live.iter_mut();
        for &(id, rows) in planned {
            let Some(stream) = live.by_ref().find(|stream| stream.id == id) else { continue };
            accepted.push((rows - usize::from(stream.ends_prompt(rows))) as u32);
            let first = n_logits;
            let is_whole = rows == stream.rest();
            n_logits += if stream.is_scoring() { rows } else { usize::from(is_whole) };
            // As it was when the step was computed: scoring ends here.
            let chosen = self.samples && stream.is_plain();
            score(stream, rows, |row| self.engine.logits(first + row));
            let choice = is_whole.then(|| match chosen {
                true => Ok(Choice::of(self.engine.chosen(n_logits - 1))),
                false => self.chooser.choose(stream, self.engine.logits(n_logits - 1)),
            });
            choices.push(choice);
        }
        match self.engine.commit(&accepted) {
            Ok(()) => {}
            Err(error) if error.is_lost() => return self.lose(&error),
            Err(error) => return self.fail_planned(planned, &error),
        }
        let now = self.clock.now();
        let mut results = planned.iter().zip(accepted).zip(choices).peekable();
        let mut live = std::mem::take(&mut self.live);
        live.retain_mut(|stream| {
            let of_stream = results.next_if(|((part, _), _)| part.0 == stream.id);
            let Some(((&(_, rows), accepted), choice)) = of_stream else { return true };
            match self.advance(stream, (rows, accepted as usize), choice, now) {
                Ok(None) => return true,
                Ok(Some(reason)) => self.finish(stream, reason, now),
                Err(failure) => {
                    self.release(stream);
                    self.fail(stream, failure);
                }
            }
            false
        });
        self.live = live;
    }

    /// Books what a step did for one stream; the reason if its answer is now complete.
    fn advance(
        &mut self,
        stream: &mut Stream,
        (rows, accepted): (usize, usize),
        choice: Option<Result<Choice, Failure>>,
        now: Duration,
    ) -> Result<Option<FinishReason>, Failure> {
        let is_reading =
            stream.held + rows <= stream.n_prompt && stream.times.first_token.is_none();
        let ends_prompt = stream.ends_prompt(rows);
        stream.held += accepted;
        let parts_here = stream.parts_at.take_if(|at| *at == stream.held).is_some();
        if ends_prompt || parts_here {
            self.engine.anchor(stream.slot).map_err(|e| Failure::Engine(e.to_string()))?;
        }
        if is_reading {
            let done = stream.held + usize::from(ends_prompt);
            stream.tell(Event::Prompt { done, total: stream.n_prompt });
        }
        let Some(choice) = choice else { return Ok(None) };
        let Choice { token, logprobs, forced } = choice?;
        stream.times.first_token.get_or_insert(now);
        let first = TokenEvent { id: token, logprobs };
        let forced = forced.into_iter().map(|id| TokenEvent { id, logprobs: None });
        let mut tokens = std::iter::once(first).chain(forced).peekable();
        while let Some(token) = tokens.next() {
            let id = token.id;
            stream.usage.completion_tokens += 1;
            self.stats.completion_tokens.fetch_add(1, Relaxed);
            if stream.stop_tokens.contains(&id) {
                return Ok(Some(FinishReason::Stop(id)));
            }
            stream.tokens.push(id);
            let is_full = stream.usage.completion_tokens == stream.max_tokens;
            if tokens.peek().is_some() && !is_full {
                stream.leave_token(token);
            } else {
                stream.tell_token(token, (now, self.options.rest));
            }
            if is_full {
                return Ok(Some(FinishReason::Length));
            }
        }
        Ok(None)
    }

    fn finish(&mut self, stream: &Stream, reason: FinishReason, now: Duration) {
        self.retire(stream);
        self.stats.finished.fetch_add(1, Relaxed);
        if let Some(placed) = stream.times.placed {
            self.stats.note_hold(now.saturating_sub(placed));
        }
        stream.tell(Event::Finished { reason, usage: stream.final_usage(now) });
    }

    fn fail_planned(&mut self, planned: &[(u64, usize)], error: &Error) {
        self.engine.discard();
        for &(id, _) in planned {
            let Some(at) = self.live.iter().position(|stream| stream.id == id) else { continue };
            let stream = self.live.remove(at);
            self.release(&stream);
            self.fail(&stream, Failure::Engine(error.to_string()));
        }
    }

    fn fail(&self, stream: &Stream, failure: Failure) {
        tracing::warn!(%failure, "a request failed");
        self.stats.failed.fetch_add(1, Relaxed);
        stream.tell(Event::Failed(failure));
    }

    /// Gives a slot up and leaves what it holds in the cache.
    fn retire(&mut self, stream: &Stream) {
        // The anchor before the end of the prompt is there already.
        let is_kept = stream.held == 0 || stream.held + 1 == stream.n_prompt;
        if !is_kept && let Err(error) = self.engine.anchor(stream.slot) {
            // The answer is not affected, only the next one's start.
            tracing::warn!(%error, "a finished sequence could not be kept");
        }
        self.release(stream);
    }

    fn release(&mut self, stream: &Stream) {
        self.engine.release(stream.slot);
        self.free_slots.push(stream.slot);
    }
}

/// Tells the scores of the prompt's tokens behind the next `rows` rows, if they are wanted.
fn score<'l>(stream: &mut Stream, rows: usize, logits: impl Fn(usize) -> &'l [f32]) {
    let Some(n_top) = stream.prompt_logprobs.filter(|_| stream.is_scoring()) else { return };
    for row in 0..rows {
        let at = stream.held + row + 1;
        // A stream that gave its pages up reads its prompt again.
        if at != stream.n_scored || at >= stream.n_prompt {
            continue;
        }
        let id = stream.tokens[at];
        let logprobs = Some(Box::new(logprobs(logits(row), id, n_top)));
        stream.tell(Event::PromptToken(TokenEvent { id, logprobs }));
        stream.n_scored += 1;
    }
}

/// The next `rows` tokens of a stream, with logits if they are its last or all are wanted; with a token
/// instead, where the engine is to choose.
fn feed(stream: &Stream, rows: usize, chooses: bool) -> Feed<'_> {
    let wanted = match rows == stream.rest() {
        _ if stream.is_scoring() => Wanted::Last(rows),
        true if chooses => Wanted::Token(stream.sampling.draw(stream.tokens.len())),
        true => Wanted::Last(1),
        false => Wanted::Nothing,
    };
    let tokens = &stream.tokens[stream.held..][..rows];
    Feed { slot: stream.slot, tokens, wanted }
}
