//! The reference backend against numbers from outside: a double-precision model, itself checked
//! against two public implementations.

use backend::reference::{Record, Reference, Trace};
use engine::{Feed, RowFormat, Wanted};
use testkit::golden::Golden;
use testkit::oracle::{self, Scheme};
use tests::{Model, Run, check, distance, options, run};

fn reference(
    config: &oracle::Config,
    scheme: Scheme,
    variant: &str,
    rows: RowFormat,
    chunk: usize,
) {
    let tolerance = |n: usize| match rows {
        // Float32 noise grows with the prompt in a network that amplifies it.
        RowFormat::F32 => (if n == 700 { 1e-3 } else { 5e-4 }, 5e-4),
        // A value at a rounding boundary falls to either side.
        _ => (0.25, 0.05),
    };
    let what = Run { config, scheme, variant, rows, chunk };
    let found = check(&Golden::load(&config.name), &what, &tolerance, &Reference::new);
    println!("{what:?}: max and rms {found:?}");
}

const A: fn() -> oracle::Config = oracle::Config::tiny_a;
const C: fn() -> oracle::Config = oracle::Config::tiny_c;

#[test]
fn exact_logits_and_greedy_tokens() {
    reference(&A(), Scheme::F32, "exact", RowFormat::F32, 256);
    reference(&C(), Scheme::F32, "exact", RowFormat::F32, 64);
}

#[test]
fn sixteen_bit_files_hold_the_same_numbers() {
    reference(&C(), Scheme::F16, "exact", RowFormat::F32, 256);
    reference(&C(), Scheme::Bf16, "exact", RowFormat::F32, 256);
}

#[test]
fn quantised_files_of_the_amplifying_model() {
    reference(&A(), Scheme::Q8_0, "q8_0", RowFormat::F32, 300);
    reference(&A(), Scheme::Q4K, "q4k", RowFormat::F32, 300);
    reference(&A(), Scheme::Q2, "q2", RowFormat::F32, 300);
    reference(&A(), Scheme::Mxfp4, "fp8fp4", RowFormat::F32, 300);
}

#[test]
fn quantised_files_of_the_calm_model() {
    reference(&C(), Scheme::Q8_0, "q8_0", RowFormat::F32, 300);
    reference(&C(), Scheme::Q4K, "q4k", RowFormat::F32, 300);
    reference(&C(), Scheme::Q2, "q2", RowFormat::F32, 300);
    reference(&C(), Scheme::Mxfp4, "fp8fp4", RowFormat::F32, 300);
}

#[test]
fn the_models_own_rounding() {
    reference(&C(), Scheme::F32, "qat", RowFormat::ModelWideTail, 128);
    reference(&C(), Scheme::Q2, "q2_qat", RowFormat::ModelWideTail, 300);
    reference(&C(), Scheme::Mxfp4, "fp8fp4_qat", RowFormat::ModelWideTail, 300);
}

#[test]
fn mtp_drafts() {
    let config = C();
    let golden = Golden::load(&config.name);
    // The draft block of the golden run holds unquantised weights.
    let model = Model::with_mtp(&config, Scheme::F32, true);
    for n in [17, 130, 300] {
        let (_, tokens) = golden.i32(&format!("tokens/{n}"));
        let tokens: Vec<u32> = tokens.iter().map(|t| *t as u32).collect();
        for chunk in [1, 50, 300] {
            let mut sizes = options(n, chunk.min(n), RowFormat::F32);
            sizes.draft = true;
            let mut core = model.open(Reference::new(), sizes);
            run(&mut core, &tokens[..n - 1], chunk);
            let draft = core.draft(0, tokens[n - 1]).expect("drafts").to_vec();
            let (_, want) = golden.f32(&format!("exact/{n}/mtp_logits_at_{}", n - 2));
            let (max, _) = distance(&draft, &want);
            assert!(max <= 5e-4, "{n} tokens in chunks of {chunk}: max {max}");
        }
    }
}

/// Records of one label, in order of computation.
fn all<'a>(records: &'a [Record], label: &str) -> Vec<&'a [f32]> {
    records.iter().filter(|r| r.label == label).map(|r| r.values.as_slice()).collect()
}

/// One position of the amplifying model, traced alone after everything before it.
fn trace(n: usize, pos: usize, rows: RowFormat, config: &oracle::Config) -> Vec<Record> {
    let golden = Golden::load(&config.name);
    let (_, tokens) = golden.i32(&format!("tokens/{n}"));
    let tokens: Vec<u32> = tokens.iter().map(|t| *t as u32).collect();
    let model = Model::new(config, Scheme::F32);
    let mut core = model.open(Reference::new(), options(n, 64, rows));
    run(&mut core, &tokens[..pos], 64);
    core.backend_mut().trace = Some(Trace { pos: pos as u32, ..Trace::default() });
    core.feed(&[Feed { slot: 0, tokens: &tokens[pos..=pos], wanted: Wanted::Last(1) }])
        .expect("feeds");
    core.backend_mut().trace.take().expect("it was set").records
}

#[test]
fn every_intermediate_of_position_255() {
    let config = A();
    let golden = Golden::load("tiny_a");
    let records = trace(300, 255, RowFormat::F32, &config);
    let n = config.hc;
    let hc_dim = config.hidden;
    let mut compared = 0;
    let mut compare = |layer: usize, name: &str, got: &[f32]| {
        let key = format!("exact/300/trace255/layer{layer}.{name}");
        let (_, want) = golden.f32(&key);
        let (max, _) = distance(got, &want);
        let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        assert!(max <= 2e-4 * scale, "{key}: max {max} of {scale}");
        compared += 1;
    };
    for layer in 0..config.ratios.len() {
        let at = |label: &str, i: usize| all(&records, label)[i].to_vec();
        for (site, name) in [(0, "attn"), (1, "ffn")] {
            let mix = at("hc_mix", 2 * layer + site);
            compare(layer, &format!("hc_{name}_post"), &mix[n..2 * n]);
            compare(layer, &format!("hc_{name}_comb"), &mix[2 * n..]);
            let collapsed = at("hc_collapsed", 2 * layer + site);
            compare(layer, &format!("hc_{name}_in"), &collapsed[..hc_dim]);
            compare(layer, &format!("{name}_norm"), &at("x", 2 * layer + site));
            compare(layer, &format!("after_{name}"), &at("streams", 2 * layer + site));
        }
        for (label, name) in [
            ("q_latent", "q_lora"),
            ("q", "q"),
            ("attn_heads", "attn_heads"),
            ("attn_low", "attn_low"),
            ("router_scores", "router_scores"),
            ("expert_ids", "expert_ids"),
            ("expert_weights", "expert_weights"),
            ("routed_out", "routed_out"),
        ] {
            compare(layer, name, &at(label, layer));
        }
        // A KV row is noted normed and again rotated; an output by its matrix and by the streams.
        compare(layer, "kv_row", &at("kv_row", 2 * layer + 1));
        compare(layer, "attn_out", &at("y", 3 * layer));
        compare(layer, "ffn_out", &at("y", 3 * layer + 2));
        for record in records.iter().filter(|r| r.layer == layer) {
            if ["comp_row", "index_row", "index_q", "index_w", "index_score", "index_sel"]
                .contains(&record.label)
            {
                compare(layer, record.label, &record.values);
            }
        }
    }
    let keys = golden.keys("exact/300/trace255/");
    assert_eq!(compared, keys.len(), "every golden intermediate has its counterpart");
}

#[test]
fn streams_after_every_layer_and_rows_chosen_by_the_indexer() {
    let config = A();
    let golden = Golden::load("tiny_a");
    let mut compared = 0;
    for (n, pos) in [(130, 65), (130, 129), (300, 35), (300, 120), (300, 299), (700, 699)] {
        let records = trace(n, pos, RowFormat::F32, &config);
        let key = format!("exact/{n}/streams_at_{pos}");
        if golden.contains(&key) {
            let (_, want) = golden.f32(&key);
            let got: Vec<f32> = all(&records, "streams")
                .iter()
                .skip(1)
                .step_by(2)
                .flat_map(|s| s.to_vec())
                .collect();
            let (max, _) = distance(&got, &want);
            assert!(max <= 2e-3, "{key}: max {max}");
            compared += 1;
        }
        for (j, picked) in all(&records, "index_sel").iter().enumerate() {
            let key = format!("exact/{n}/index_topk_at_{pos}/csa{j}");
            if golden.contains(&key) {
                let (_, want) = golden.i32(&key);
                assert_eq!(*picked, want.iter().map(|v| *v as f32).collect::<Vec<_>>(), "{key}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 12, "only {compared} golden arrays were compared");
}
