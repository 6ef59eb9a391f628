//! A device that stops answering: while a model is loaded, and while sequences are computed.

mod emulator;

use std::sync::atomic::Ordering;

use backend_cuda::Cuda;
use engine::{Core, Error, Feed, Options, RowFormat, Wanted};
use gguf::Gguf;
use model::Config;
use runtime::{Event, Events, Failure, Params, Refusal, Runtime, SchedulerOptions};
use testkit::oracle::{self, Mtp, Scheme};

fn open(cuda: Cuda) -> engine::Result<Core<Cuda>> {
    let shape = oracle::Config {
        hidden: 64,
        ratios: vec![4],
        heads: 2,
        head_dim: 96,
        rope_dim: 32,
        q_lora: 32,
        o_groups: 1,
        o_lora: 32,
        experts: 4,
        experts_used: 2,
        moe_inter: 32,
        hash_layers: 0,
        window: 8,
        index_heads: 2,
        index_dim: 64,
        index_top_k: 3,
        ..oracle::Config::tiny_c()
    };
    let bytes = oracle::write_gguf(&shape, Scheme::Q8_0, Mtp::Without);
    let gguf = Gguf::from_vec(bytes, "small").expect("the testkit writes valid files");
    let config = Config::from_gguf(&gguf).expect("a V4 model");
    let sizes = Options { n_slots: 2, pool_tokens: 600, logit_rows: 2, ..Options::single(64, 8) };
    Core::open(cuda, &gguf, config, None, Options { rows: RowFormat::Model, ..sizes })
}

/// Calls of the driver that loading takes, by what a smaller number of them does.
fn calls_to_open() -> usize {
    let (mut least, mut most) = (0, 4096);
    while least + 1 < most {
        let middle = (least + most) / 2;
        match open(emulator::cuda_lost_after(middle).0) {
            Ok(_) => most = middle,
            Err(_) => least = middle,
        }
    }
    most
}

/// What two sequences get on a device that is lost after so many calls; the last failure.
fn go_on(calls: usize) -> Option<Error> {
    let mut core = match open(emulator::cuda_lost_after(calls).0) {
        Ok(core) => core,
        Err(error) => return Some(error),
    };
    let mut failure = None;
    for i in 0..6 {
        // Both kinds of row, as a server mixes them.
        let draw = engine::Draw::GREEDY;
        let feeds = [
            Feed { slot: 0, tokens: &[5 + i, 6], wanted: Wanted::Last(1) },
            Feed { slot: 1, tokens: &[7 + i], wanted: Wanted::Token(draw) },
        ];
        let fed = core.feed(&feeds).and_then(|()| core.commit(&[2, 1]));
        let kept = fed.and_then(|()| core.anchor(0));
        failure = kept.err().or(failure);
    }
    // Whatever failed, nothing hangs or panics when it is given up.
    core.release(0);
    failure
}

#[test]
fn every_call_may_be_the_last() {
    let n = calls_to_open();
    for calls in (0..n).step_by(n / 23) {
        let (cuda, held) = emulator::cuda_lost_after(calls);
        let Err(error) = open(cuda) else { panic!("opens with {calls} of {n} calls") };
        assert!(error.is_lost() && error.to_string().contains("fell off the bus"), "{error}");
        assert_eq!(held.load(Ordering::Relaxed), 0, "what was taken is given back");
    }
    for more in (0..400).step_by(7) {
        if let Some(error) = go_on(n + more) {
            assert!(error.is_lost(), "after {more} calls: {error}");
        }
    }
    assert!(go_on(n).is_some() && go_on(1 << 20).is_none());
}

#[test]
fn everybody_is_told_and_nobody_waits() {
    let n = calls_to_open();
    let core = open(emulator::cuda_lost_after(n + 150).0).expect("opens");
    let options = SchedulerOptions::default();
    let (runtime, ended) = Runtime::spawn(Box::new(core), options, 8).expect("a thread");
    let request = |token| runtime.limits().check(Params::greedy(vec![token; 5], 40)).expect("fits");
    // Two with a place, and one that waits for one.
    let all: Vec<Events> = (3..6).map(|i| runtime.submit(request(i)).expect("room")).collect();
    for events in all {
        let told: Vec<Event> = std::iter::from_fn(|| events.wait()).collect();
        let Some(Event::Failed(Failure::Engine(what))) = told.last() else { panic!("{told:?}") };
        assert!(what.contains("cuda: it fell off the bus") && what.contains("restarted"), "{what}");
    }
    ended.wait();
    assert!(runtime.is_lost());
    assert_eq!(runtime.submit(request(9)).err(), Some(Refusal::Lost));
}
