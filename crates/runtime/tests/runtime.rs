//! The scheduler's promises one by one, and the thread around it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{N_VOCAB, POISON, Parity, Rng, expected, hash_model};
use engine::Sampling;
use runtime::fake::FakeEngine;
use runtime::{
    Allowed, Clock, Constraint, Event, Events, Failure, Limits, Params, Progress, Refusal, Request,
    Runtime, Scheduler, SchedulerOptions, Stats, SystemClock,
};

fn engine(n_slots: usize) -> FakeEngine {
    FakeEngine::new(N_VOCAB, n_slots, 8192, hash_model())
}

fn scheduler(engine: FakeEngine, options: SchedulerOptions) -> Scheduler<SystemClock> {
    Scheduler::new(Box::new(engine), options, SystemClock::start(), Arc::new(Stats::default()))
}

fn prompt(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.below(N_VOCAB - 1) as u32).collect()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Limits { context: 8192, n_vocab: N_VOCAB }.check(Params::greedy(prompt, max_tokens)).unwrap()
}

fn submit(scheduler: &mut Scheduler<SystemClock>, request: Request) -> Events {
    let (sender, events) = runtime::channel();
    scheduler.submit(request, sender);
    events
}

fn read(events: &Events) -> Vec<Event> {
    std::iter::from_fn(|| events.try_next()).collect()
}

fn tokens(events: &[Event]) -> Vec<u32> {
    let token = |event: &Event| match event {
        Event::Token(token) => Some(token.id),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

#[test]
fn prompts_that_begin_alike_share_the_beginning_from_the_third_on() {
    let mut scheduler = scheduler(engine(2), SchedulerOptions::default());
    let beginning = prompt(9, 300);
    let mut reused = Vec::new();
    for question in 0..4 {
        let asked = [beginning.clone(), vec![question; 5], prompt(u64::from(question), 9)].concat();
        let events = submit(&mut scheduler, request(asked, 2));
        while scheduler.step() != Progress::Idle {}
        reused.push(cached(&read(&events)));
    }
    // The second sees where it parts from the first and leaves an anchor there.
    assert_eq!(reused, [0, 0, 300, 300]);
}

#[test]
fn a_scored_prompt_is_told_what_the_model_makes_of_each_token() {
    let engine = engine(2).with_step(64, 3);
    let prompt = prompt(3, 300);
    let model = hash_model();
    let mut scheduler =
        scheduler(engine, SchedulerOptions { event_buffer: 1000, ..SchedulerOptions::default() });
    let limits = Limits { context: 8192, n_vocab: N_VOCAB };
    let ask = |prompt_logprobs| {
        let params = Params { prompt_logprobs, ..Params::greedy(prompt.clone(), 2) };
        limits.check(params).unwrap()
    };
    let plain = submit(&mut scheduler, ask(None));
    while scheduler.step() != Progress::Idle {}
    // What is held of the prompt has no logits any more, and is computed again.
    let scored = submit(&mut scheduler, ask(Some(2)));
    while scheduler.step() != Progress::Idle {}
    let events = read(&scored);
    assert_eq!(tokens(&events), tokens(&read(&plain)));
    let scores = events.iter().filter_map(|event| match event {
        Event::PromptToken(token) => Some(token),
        _ => None,
    });
    let mut at = 1;
    for token in scores {
        let mut logits = vec![0.0; N_VOCAB];
        model(&prompt[..at], &mut logits);
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let found = token.logprobs.as_ref().unwrap();
        assert_eq!(token.id, prompt[at]);
        assert!((found.chosen - (logits[prompt[at] as usize] - sum.ln())).abs() < 1e-3);
        assert_eq!(found.top.len(), 2);
        at += 1;
    }
    assert_eq!(at, prompt.len());
}

fn cached(events: &[Event]) -> usize {
    let started = events.iter().find_map(|event| match event {
        Event::Started { cached_tokens, .. } => Some(*cached_tokens),
        _ => None,
    });
    started.unwrap()
}

#[test]
fn a_short_newcomer_does_not_wait_for_answers_or_long_prompts() {
    let engine = engine(4).with_step(64, 4);
    let mut scheduler =
        scheduler(engine, SchedulerOptions { prefill_rows: 32, ..SchedulerOptions::default() });
    let answering = submit(&mut scheduler, request(prompt(1, 4), 4000));
    let reading = submit(&mut scheduler, request(prompt(2, 6000), 10));
    (0..5).for_each(|_| assert_eq!(scheduler.step(), Progress::Worked));
    let (n_answering, n_reading) = (read(&answering).len(), read(&reading).len());
    assert!(n_answering > 4 && n_reading > 2);
    let newcomer = submit(&mut scheduler, request(prompt(3, 12), 10));
    (0..2).for_each(|_| assert_eq!(scheduler.step(), Progress::Worked));
    assert!(!tokens(&read(&newcomer)).is_empty(), "two steps are enough for 12 tokens");
    assert_eq!(tokens(&read(&answering)).len(), 2, "and nobody missed a step");
    assert!(!read(&reading).is_empty());
}

#[test]
fn the_next_turn_the_same_prompt_and_a_sibling_start_where_they_can() {
    let mut scheduler = scheduler(engine(2), SchedulerOptions::default());
    let first = prompt(4, 700);
    let events = submit(&mut scheduler, request(first.clone(), 20));
    while scheduler.step() != Progress::Idle {}
    let answer = tokens(&read(&events));

    let same = submit(&mut scheduler, request(first.clone(), 20));
    while scheduler.step() != Progress::Idle {}
    let same = read(&same);
    assert_eq!((cached(&same), tokens(&same)), (699, answer.clone()));

    let next = submit(&mut scheduler, request([first, answer, prompt(5, 9)].concat(), 3));
    while scheduler.step() != Progress::Idle {}
    assert_eq!(cached(&read(&next)), 719, "all but the answer's last token was computed");

    // Two that come together: the second waits for the first one's prompt instead of computing
    // it as well.
    let pair = [0, 1].map(|_| submit(&mut scheduler, request(prompt(6, 2000), 5)));
    while scheduler.step() != Progress::Idle {}
    let [one, two] = pair.map(|events| read(&events));
    assert_eq!((cached(&one), cached(&two)), (0, 1999));
    assert_eq!(tokens(&one), tokens(&two));
}

#[test]
fn who_leaves_frees_the_place_in_one_step_and_leaves_the_work() {
    let mut scheduler = scheduler(engine(1), SchedulerOptions::default());
    let gone = submit(&mut scheduler, request(prompt(7, 640), 100));
    (0..5).for_each(|_| assert_eq!(scheduler.step(), Progress::Worked));
    let waiting = submit(&mut scheduler, request(prompt(7, 640), 3));
    let _ = scheduler.step();
    assert_eq!(read(&waiting), [Event::Queued { ahead: 0 }]);
    drop(gone);
    let _ = scheduler.step();
    assert_eq!(cached(&read(&waiting)), 384, "six steps of 64 rows were not lost");
}

#[test]
fn a_reader_that_stops_holds_up_only_itself() {
    let options = SchedulerOptions {
        event_buffer: 8,
        stall_limit: Duration::from_millis(30),
        ..SchedulerOptions::default()
    };
    let mut scheduler = scheduler(engine(2), options);
    let asleep = submit(&mut scheduler, request(prompt(8, 5), 1000));
    let awake = submit(&mut scheduler, request(prompt(9, 5), 200));
    let mut n_tokens = 0;
    while n_tokens < 200 {
        assert_eq!(scheduler.step(), Progress::Worked);
        n_tokens += tokens(&read(&awake)).len();
    }
    assert_eq!(asleep.n_unread(), 8);
    while scheduler.step() == Progress::Stalled {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(read(&asleep).last(), Some(Event::Failed(Failure::Stalled(_)))));
    assert_eq!(scheduler.n_free_slots(), 2);
}

/// A millisecond for every look at it.
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Relaxed))
    }
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_fast_stream_wakes_its_receiver_now_and_then_and_a_slow_one_for_every_token() {
    let n_woken = |rest_ms: u64| {
        let options =
            SchedulerOptions { rest: Duration::from_millis(rest_ms), ..Default::default() };
        let clock = Ticks(AtomicU64::new(0));
        let stats = Arc::new(Stats::default());
        let mut scheduler = Scheduler::new(Box::new(engine(2)), options, clock, stats);
        let (sender, events) = runtime::channel();
        scheduler.submit(request(prompt(3, 5), 400), sender);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        let mut n_tokens = 0;
        let mut n_read = 0;
        while scheduler.step() != Progress::Idle {
            // Reads only when it is woken, as a task does.
            if n_read < 1 + woken.0.load(Relaxed) {
                n_read = 1 + woken.0.load(Relaxed);
                while let Poll::Ready(Some(event)) = events.poll_next(&context) {
                    n_tokens += usize::from(matches!(event, Event::Token(_)));
                }
            }
        }
        while let Poll::Ready(Some(event)) = events.poll_next(&context) {
            n_tokens += usize::from(matches!(event, Event::Token(_)));
        }
        assert_eq!(n_tokens, 400);
        woken.0.load(Relaxed)
    };
    // A step looks at the clock twice.
    assert!((80..=110).contains(&n_woken(8)), "{}", n_woken(8));
    assert!(n_woken(2) >= 390, "{}", n_woken(2));
}

#[test]
fn one_that_cannot_be_computed_fails_alone() {
    let faults = |_: u64, feeds: &[engine::Feed<'_>]| {
        feeds.iter().any(|feed| feed.tokens.contains(&POISON)).then(|| "planned".to_owned())
    };
    let mut scheduler =
        scheduler(engine(3).with_faults(Box::new(faults)), SchedulerOptions::default());
    let good = submit(&mut scheduler, request(prompt(10, 20), 20));
    let bad = submit(&mut scheduler, request(vec![1, 2, POISON], 20));
    while scheduler.step() != Progress::Idle {}
    let params = Params::greedy(prompt(10, 20), 20);
    assert_eq!(tokens(&read(&good)), expected(&params, false).0);
    let failure = Failure::Engine("saved session: planned".to_owned());
    assert_eq!(read(&bad).last(), Some(&Event::Failed(failure)));
}

#[test]
fn company_changes_nothing() {
    let params = |seed| Params {
        sampling: Sampling { temperature: 0.8, top_p: 0.9, seed, ..Sampling::GREEDY },
        constraint: (seed % 2 == 0).then(|| Box::new(Parity::default()) as _),
        logprobs: Some(2),
        ..Params::greedy(prompt(seed, 10 + 13 * seed as usize), 50)
    };
    let limits = Limits { context: 8192, n_vocab: N_VOCAB };
    let run = |seeds: &[u64]| {
        let mut scheduler = scheduler(engine(4), SchedulerOptions::default());
        let events: Vec<Events> = seeds
            .iter()
            .map(|&seed| submit(&mut scheduler, limits.check(params(seed)).unwrap()))
            .collect();
        while scheduler.step() != Progress::Idle {}
        let only_tokens = |event: &Event| matches!(event, Event::Token(_));
        let told =
            |events: &Events| read(events).into_iter().filter(only_tokens).collect::<Vec<Event>>();
        events.iter().map(told).collect::<Vec<_>>()
    };
    let together = run(&[1, 2, 3, 4, 5, 6, 7]);
    for (seed, answer) in (1..8).zip(together) {
        assert_eq!(run(&[seed]), [answer], "seed {seed}");
    }
}

/// Spells four tokens of every seven; the others are free.
struct Spelled {
    n_accepted: usize,
    knows: bool,
    mask: [u32; 2],
}

impl Spelled {
    fn only(&self) -> Option<u32> {
        (self.n_accepted % 7 < 4).then_some((self.n_accepted * 5 % 40) as u32)
    }
}

impl Constraint for Spelled {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        let only = self.only().map(|token| 1u64 << token).unwrap_or(u64::MAX >> 17);
        self.mask = [only as u32, (only >> 32) as u32];
        Ok(Allowed { mask: Some(&self.mask), greedy: false })
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        self.n_accepted += 1;
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>, String> {
        let mut forced = Vec::new();
        while let Some(token) = self.only().filter(|_| self.knows) {
            forced.push(token);
            self.n_accepted += 1;
        }
        Ok(forced)
    }
}

#[test]
fn tokens_that_are_known_in_advance_are_the_same_in_fewer_steps() {
    let answer = |knows, max_tokens, logprobs, stop| {
        let stats = Arc::new(Stats::default());
        let options = SchedulerOptions { event_buffer: 1000, ..SchedulerOptions::default() };
        let engine = Box::new(engine(3));
        let clock = SystemClock::start();
        let mut scheduler = Scheduler::new(engine, options, clock, Arc::clone(&stats));
        let spelled = Spelled { n_accepted: 0, knows, mask: [0; 2] };
        let params = Params {
            sampling: Sampling { temperature: 0.8, seed: 5, ..Sampling::GREEDY },
            constraint: Some(Box::new(spelled)),
            logprobs,
            stop_tokens: vec![stop],
            ..Params::greedy(prompt(11, 40), max_tokens)
        };
        let limits = Limits { context: 8192, n_vocab: N_VOCAB };
        let events = submit(&mut scheduler, limits.check(params).unwrap());
        let beside = submit(&mut scheduler, request(prompt(12, 30), 3));
        while scheduler.step() != Progress::Idle {}
        assert_eq!(tokens(&read(&beside)).len(), 3);
        assert_eq!(scheduler.n_free_slots(), 3);
        let events = read(&events);
        let Some(Event::Finished { reason, usage }) = events.last() else { panic!("{events:?}") };
        let end = (*reason, usage.completion_tokens);
        ((tokens(&events), end), stats.steps.load(Relaxed))
    };
    let unlikely = POISON;
    for max_tokens in [1, 2, 4, 5, 9, 100] {
        let (plain, n_plain) = answer(false, max_tokens, None, unlikely);
        let (known, n_known) = answer(true, max_tokens, None, unlikely);
        assert_eq!(known, plain, "{max_tokens} tokens");
        assert!(n_known <= n_plain && (max_tokens < 100 || n_known < n_plain - 40));
        let (scored, _) = answer(true, max_tokens, Some(1), unlikely);
        assert_eq!(scored, plain, "log probabilities are of each token");
    }
    // The third of the tokens that begin the second seven, and a free one.
    for stop in [9 * 5 % 40, 17] {
        assert_eq!(answer(true, 100, None, stop).0, answer(false, 100, None, stop).0);
    }
}

#[test]
fn the_thread_serves_refuses_and_ends() {
    let engine = engine(1).with_step_time(Duration::from_millis(1));
    let (runtime, ended) =
        Runtime::spawn(Box::new(engine), SchedulerOptions::default(), 1).unwrap();
    let request = |n| runtime.limits().check(Params::greedy(prompt(n, 10), 60)).unwrap();
    let first = runtime.submit(request(1)).unwrap();
    let began = first.wait();
    assert!(matches!(began, Some(Event::Started { .. })), "{began:?}");
    while runtime.stats().running.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    let second = runtime.submit(request(2)).unwrap();
    let refused = runtime.submit(request(3));
    assert!(matches!(refused, Err(Refusal::Busy { queued: 1, .. })), "{refused:?}");
    runtime.shut_down(Duration::from_secs(20));
    assert_eq!(runtime.submit(request(4)).err(), Some(Refusal::ShuttingDown));
    let told: Vec<Event> = std::iter::from_fn(|| second.wait()).collect();
    assert_eq!(told.last(), Some(&Event::Failed(Failure::ShuttingDown)));
    let told: Vec<Event> = std::iter::from_fn(|| first.wait()).collect();
    assert!(matches!(told.last(), Some(Event::Finished { .. })), "{:?}", told.last());
    assert_eq!(tokens(&told).len(), 60);
    ended.wait();
}

#[test]
fn a_panic_of_the_engine_is_told_to_everybody() {
    let faults = |n: u64, _: &[engine::Feed<'_>]| {
        assert!(n < 5, "planned");
        None
    };
    let engine = engine(2).with_faults(Box::new(faults));
    let (runtime, ended) =
        Runtime::spawn(Box::new(engine), SchedulerOptions::default(), 8).unwrap();
    let request = runtime.limits().check(Params::greedy(prompt(1, 10), 60)).unwrap();
    let events = runtime.submit(request).unwrap();
    let told: Vec<Event> = std::iter::from_fn(|| events.wait()).collect();
    assert!(matches!(told.last(), Some(Event::Failed(Failure::Engine(_)))), "{:?}", told.last());
    ended.wait();
    let request = runtime.limits().check(Params::greedy(prompt(1, 10), 60)).unwrap();
    assert_eq!(runtime.submit(request).err(), Some(Refusal::Lost));
    assert!(!runtime.is_open());
}

#[test]
fn a_lost_device_is_told_once_to_everybody_and_no_more_is_taken() {
    let engine = engine(2).with_loss(4);
    let (runtime, ended) =
        Runtime::spawn(Box::new(engine), SchedulerOptions::default(), 8).unwrap();
    let request = |seed| runtime.limits().check(Params::greedy(prompt(seed, 10), 60)).unwrap();
    // Two with a place, one that waits for one.
    let all: Vec<Events> = (0..3).map(|seed| runtime.submit(request(seed)).unwrap()).collect();
    for events in all {
        let told: Vec<Event> = std::iter::from_fn(|| events.wait()).collect();
        let n_failed = told.iter().filter(|event| matches!(event, Event::Failed(_))).count();
        let Some(Event::Failed(Failure::Engine(what))) = told.last() else { panic!("{told:?}") };
        assert!(what.contains("does not answer") && what.contains("restarted"), "{what}");
        assert_eq!(n_failed, 1);
    }
    ended.wait();
    assert!(runtime.is_lost() && !runtime.is_open());
    assert_eq!(runtime.submit(request(4)).err(), Some(Refusal::Lost));
}
