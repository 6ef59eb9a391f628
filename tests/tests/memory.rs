//! Memory is what the plan says, and a step takes none.

use backend::Ops;
use backend::reference::Reference;
use backend_cpu::{Cpu, PoolOptions};
use dhat::HeapStats;
use engine::{Core, Feed, MemoryPlan, Options, RowFormat, Wanted, argmax};
use testkit::oracle::{Config, Scheme};
use tests::Model;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// One test: the counts are of the whole process.
#[test]
fn memory_is_planned_and_steps_allocate_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    for scheme in [Scheme::F32, Scheme::Q8_0, Scheme::Q2] {
        let model = Model::new(&Config::tiny_a(), scheme);
        let cpu = Cpu::new(PoolOptions { threads: Some(2), pin: false }).expect("threads start");
        let core = planned(&model, cpu, scheme.name());
        decode_without_allocating(core, scheme.name());
    }
    let model = Model::new(&Config::tiny_a(), Scheme::Q8_0);
    planned(&model, Reference::new(), "reference");
}

fn options(config: &model::Config) -> Options {
    Options {
        n_slots: 2,
        pool_tokens: 6000,
        rows: RowFormat::Model,
        anchor_bytes: 0,
        ..Options::single(3000.min(config.context_max), 128)
    }
}

/// Opens an engine and reads a prompt; the memory taken meanwhile is the plan's, within 5 %.
fn planned<B: Ops>(model: &Model, be: B, label: &str) -> Core<B> {
    let options = options(&model.config);
    let plan = MemoryPlan::new(&be, &model.config, &options, 0);
    let before = HeapStats::get().curr_bytes;
    let mut core = model.open(be, options);
    read(&mut core, 300);
    let taken = (HeapStats::get().curr_bytes - before) as f64;
    let share = taken / plan.allocated() as f64;
    println!("{label}: {taken} bytes of {} planned: {plan:#?}", plan.allocated());
    assert!((0.95..=1.05).contains(&share), "{label}: {share:.3} of the plan is taken");
    core
}

fn read<B: Ops>(core: &mut Core<B>, n: u32) {
    let tokens: Vec<u32> = (0..n).map(|i| 3 + i % 400).collect();
    for part in tokens.chunks(128) {
        core.feed(&[Feed { slot: 0, tokens: part, wanted: Wanted::Last(1) }]).expect("feeds");
        core.commit(&[part.len() as u32]).expect("commits");
    }
}

fn decode_without_allocating<B: Ops>(mut core: Core<B>, label: &str) {
    let before = HeapStats::get().total_blocks;
    for _ in 0..40 {
        let token = argmax(core.logits(0));
        core.feed(&[Feed { slot: 0, tokens: &[token], wanted: Wanted::Last(1) }]).expect("feeds");
        core.commit(&[1]).expect("commits");
    }
    let blocks = HeapStats::get().total_blocks - before;
    assert_eq!(blocks, 0, "{label}: allocations in 40 steps");
}
