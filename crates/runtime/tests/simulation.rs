//! The scheduler under a seeded world: random requests, readers that stall and leave, an engine
//! that fails and runs out of pages. Every failure of this test names a seed; the same seed is
//! the same run.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::{N_VOCAB, POISON, Parity, Rng, expected, hash_model};
use engine::Sampling;
use runtime::fake::FakeEngine;
use runtime::{
    Clock, Event, Events, Failure, FinishReason, Limits, Params, Progress, Request, Scheduler,
    SchedulerOptions, Stats,
};

struct SharedClock(Arc<std::sync::atomic::AtomicU64>);

impl Clock for SharedClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

/// One client: what it asked, what it got, how it behaves.
struct Client {
    events: Option<Events>,
    expected: Vec<u32>,
    is_stopped: bool,
    is_poisoned: bool,
    tokens: Vec<u32>,
    /// The tokens of the prompt that are to be scored, and those that were.
    to_score: Vec<u32>,
    scored: Vec<u32>,
    prompt_done: usize,
    n_prompt: usize,
    last: Option<Event>,
    n_last: usize,
    reads: bool,
}

impl Client {
    fn read(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let Some(event) = self.events.as_ref().and_then(Events::try_next) else {
                return;
            };
            assert!(self.last.is_none(), "{event:?} after the last event");
            match &event {
                Event::Token(token) => self.tokens.push(token.id),
                Event::PromptToken(token) => {
                    assert!(self.tokens.is_empty(), "the prompt comes first");
                    assert!(token.logprobs.is_some());
                    self.scored.push(token.id);
                }
                Event::Prompt { done, total } => {
                    assert_eq!(*total, self.n_prompt);
                    assert!(*done > self.prompt_done, "a prompt goes forward");
                    self.prompt_done = *done;
                }
                Event::Started { prompt_tokens, cached_tokens, .. } => {
                    assert_eq!(*prompt_tokens, self.n_prompt);
                    assert!(cached_tokens < prompt_tokens, "the last token is always computed");
                }
                Event::Queued { .. } => assert!(self.tokens.is_empty()),
                Event::Finished { .. } | Event::Failed(_) => {}
            }
            if event.is_last() {
                self.n_last += 1;
                self.last = Some(event);
            }
        }
    }

    fn check(&self) {
        let Some(last) = &self.last else { panic!("no last event") };
        assert_eq!(self.n_last, 1);
        match last {
            Event::Finished { reason, usage } => {
                assert_eq!(self.tokens, self.expected, "the engine's pure function");
                assert_eq!(self.scored, self.to_score, "every token once, in order");
                assert!(!self.is_poisoned, "a request that cannot be computed was answered");
                assert_eq!(usage.prompt_tokens, self.n_prompt);
                let n_tokens = self.expected.len() + usize::from(self.is_stopped);
                assert_eq!(usage.completion_tokens, n_tokens);
                assert!(usage.cached_tokens <= usage.matched_tokens);
                assert_eq!(matches!(reason, FinishReason::Stop(_)), self.is_stopped);
            }
            Event::Failed(failure) => {
                assert!(self.expected.starts_with(&self.tokens), "a wrong beginning");
                assert!(matches!(failure, Failure::Engine(_) | Failure::Stalled(_)), "{failure}");
            }
            other => panic!("{other:?} is no last event"),
        }
    }
}

fn request(rng: &mut Rng, prefixes: &[Vec<u32>]) -> (Request, Client) {
    let prefix = &prefixes[rng.below(prefixes.len())];
    let mut prompt = prefix[..1 + rng.below(prefix.len())].to_vec();
    let n_more = rng.below(30);
    prompt.extend((0..n_more).map(|_| rng.below(N_VOCAB - 1) as u32));
    let is_poisoned = rng.below(12) == 0;
    if is_poisoned {
        prompt.push(POISON);
    }
    let temperature = if rng.below(2) == 0 { 0.0 } else { 1.0 };
    let sampling = Sampling { temperature, seed: rng.next(), ..Sampling::GREEDY };
    let is_constrained = rng.below(4) == 0;
    let is_scored = rng.below(8) == 0;
    let params = || Params {
        prompt: prompt.clone(),
        sampling,
        stop_tokens: vec![7],
        max_tokens: 0,
        prompt_logprobs: is_scored.then_some(1),
        constraint: is_constrained.then(|| Box::new(Parity::default()) as _),
        ..Params::greedy(Vec::new(), 0)
    };
    let max_tokens = 1 + rng.below(40);
    let (expected, is_stopped) = expected(&Params { max_tokens, ..params() }, is_constrained);
    let limits = Limits { context: 1024, n_vocab: N_VOCAB };
    let request = limits.check(Params { max_tokens, ..params() }).unwrap();
    let client = Client {
        events: None,
        expected,
        is_stopped,
        is_poisoned,
        tokens: Vec::new(),
        to_score: if is_scored { prompt[1..].to_vec() } else { Vec::new() },
        scored: Vec::new(),
        prompt_done: 0,
        n_prompt: prompt.len(),
        last: None,
        n_last: 0,
        reads: true,
    };
    (request, client)
}

fn world(rng: &mut Rng) -> (FakeEngine, SchedulerOptions, usize, usize) {
    let n_slots = 1 + rng.below(5);
    let n_pages = 4 + rng.below(6);
    let step_rows = 4 + rng.below(80);
    let logit_rows = 1 + rng.below(n_slots.min(step_rows));
    let mut faults = Rng(rng.next());
    let fault_every = [0, 40, 200][rng.below(3)];
    let engine = FakeEngine::new(N_VOCAB, n_slots, 1024, hash_model())
        .with_pages(n_pages)
        .with_step(step_rows, logit_rows)
        .with_faults(Box::new(move |_, feeds| {
            let poisoned = feeds.iter().any(|feed| feed.tokens.contains(&POISON));
            let unlucky = fault_every > 0 && faults.below(fault_every) == 0;
            (poisoned || unlucky).then(|| "planned".to_owned())
        }));
    let engine = if rng.below(2) == 0 { engine } else { engine.with_sampling() };
    let options = SchedulerOptions {
        prefill_rows: 1 + rng.below(64),
        event_buffer: 2 + rng.below(20),
        stall_limit: Duration::from_millis(200),
        rest: Duration::from_millis(rng.below(9) as u64),
    };
    (engine, options, n_slots, n_pages)
}

fn simulate(seed: u64) {
    let rng = &mut Rng(seed);
    let (engine, options, n_slots, n_pages) = world(rng);
    let time = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let stats = Arc::new(Stats::default());
    let clock = SharedClock(Arc::clone(&time));
    let mut scheduler = Scheduler::new(Box::new(engine), options, clock, Arc::clone(&stats));
    let prefixes: Vec<Vec<u32>> = (0..3)
        .map(|_| (0..1 + rng.below(700)).map(|_| rng.below(N_VOCAB - 1) as u32).collect())
        .collect();
    let mut clients: Vec<Client> = Vec::new();
    let n_requests = 1 + rng.below(14);
    let mut n_left = 0;
    while clients.len() < n_requests || rng.below(60) != 0 {
        time.fetch_add(rng.below(5) as u64, Relaxed);
        if clients.len() < n_requests && rng.below(4) == 0 {
            let (request, mut client) = request(rng, &prefixes);
            let (sender, events) = runtime::channel();
            client.events = Some(events);
            scheduler.submit(request, sender);
            clients.push(client);
        }
        for client in &mut clients {
            match rng.below(120) {
                0 => client.reads = !client.reads,
                1 if client.last.is_none() => n_left += usize::from(client.events.take().is_some()),
                _ if client.reads => client.read(1 + rng.below(4)),
                _ => {}
            }
        }
        let _ = scheduler.step();
    }
    // Everybody reads again: now all has to end, in a bounded number of steps.
    let mut n_steps = 0;
    while !scheduler.is_empty() {
        clients.iter_mut().for_each(|client| client.read(usize::MAX));
        time.fetch_add(1, Relaxed);
        let _ = scheduler.step();
        n_steps += 1;
        assert!(n_steps < 100_000, "no progress");
    }
    for client in &mut clients {
        client.read(usize::MAX);
        if client.events.is_some() {
            client.check();
        }
    }
    assert_eq!(scheduler.n_free_slots(), n_slots, "a slot leaked");
    assert_eq!(scheduler.engine().available_pages(), n_pages, "a page leaked");
    assert!((0..n_slots).all(|slot| scheduler.engine().tokens(slot).is_empty()));
    assert_eq!(scheduler.step(), Progress::Idle);
    assert_eq!((stats.waiting.load(Relaxed), stats.running.load(Relaxed)), (0, 0));
    let ended = [&stats.finished, &stats.failed, &stats.cancelled].map(|n| n.load(Relaxed));
    assert_eq!(ended.iter().sum::<u64>() as usize, clients.len(), "every request ends once");
    assert!(ended[2] as usize <= n_left, "only who left is cancelled");
}

#[test]
fn any_seed_keeps_every_promise() {
    for seed in 0..3000 {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
