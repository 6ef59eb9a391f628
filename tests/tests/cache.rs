//! What a sequence's memory holds after 130 tokens, against the golden arrays: the last window
//! rows, every compressed row, and the inputs that the next compressed row will need. Read from a
//! saved session, so the file format's documentation (docs/kv-format.md) is held to as well.

use backend::reference::Reference;
use backend::{AnchorView, KvLayout, Ops, RowLayout, kv_row};
use backend_cpu::{Cpu, PoolOptions};
use engine::{Core, RowFormat};
use model::LayerKind;
use testkit::golden::Golden;
use testkit::oracle::{self, Scheme};
use tests::{Model, distance, options, run};

const N: usize = 130;
const WINDOW: usize = 128;

/// What is compared of one compressor.
struct Pool {
    rows: Vec<f32>,
    k: Vec<f32>,
    z: Vec<f32>,
}

/// What is compared of one layer.
struct Layer {
    last_two: Vec<f32>,
    pools: Vec<(&'static str, Pool)>,
}

/// Bytes read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        let (words, _) = self.take(4 * n).as_chunks();
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn rows(&mut self, layout: &RowLayout, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * layout.dim];
        for row in out.chunks_exact_mut(layout.dim) {
            kv_row::decode(layout, self.take(layout.bytes()), row);
        }
        out
    }
}

/// A saved session's layers.
fn saved<B: Ops>(core: &mut Core<B>, layout: &KvLayout) -> Vec<Layer> {
    let mut file = Vec::new();
    core.save(0, &mut file).expect("saves");
    let header = 8 + 32 + 4 + 1 + 1 + 8 + 4 * N;
    let checksum = 32;
    let mut bytes = Bytes(&file[header..file.len() - checksum]);
    let mut layers: Vec<Layer> =
        layout.layers.iter().map(|l| state(&mut bytes, l.kind, layout)).collect();
    for (layer, shape) in layers.iter_mut().zip(&layout.layers) {
        let Some(ratio) = shape.kind.ratio() else { continue };
        for (name, pool) in &mut layer.pools {
            let row = if *name == "idx" { &layout.index_row } else { &layout.row };
            let all = bytes.rows(row, backend::PAGE_TOKENS / ratio);
            pool.rows = all[..N / ratio * row.dim].to_vec();
        }
    }
    assert!(bytes.0.is_empty(), "{} bytes are left", bytes.0.len());
    layers
}

fn state(bytes: &mut Bytes<'_>, kind: LayerKind, layout: &KvLayout) -> Layer {
    let window = bytes.rows(&layout.row, WINDOW);
    let last_two = window[(WINDOW - 2) * layout.row.dim..].to_vec();
    let pools = match kind {
        LayerKind::SlidingWindow => vec![],
        LayerKind::Hca => vec![("comp", open(bytes, 128, layout.row.dim))],
        LayerKind::Csa => vec![
            ("comp", open(bytes, 4, layout.row.dim)),
            ("idx", open(bytes, 4, layout.index_row.dim)),
        ],
    };
    Layer { last_two, pools }
}

fn open(bytes: &mut Bytes<'_>, ratio: usize, dim: usize) -> Pool {
    let (previous, current) = AnchorView { len: N }.open(ratio);
    let mut pool = Pool { rows: vec![], k: vec![], z: vec![] };
    let whole = KvLayout::open_len(dim, ratio) / 2;
    for len in previous.map(|_| dim).chain(current.map(|_| whole)) {
        pool.k.extend(bytes.floats(len));
        pool.z.extend(bytes.floats(len));
    }
    pool
}

/// Of a golden state `[4 + open, 2 · dim]`, the previous window's first halves and the open rows.
fn kept(golden: &Golden, key: &str, ratio: usize) -> Vec<f32> {
    let (shape, values) = golden.f32(key);
    let width = shape[1];
    let previous = if ratio == 4 { 4 } else { 0 };
    let rows = values.chunks_exact(width).enumerate();
    rows.flat_map(|(i, row)| row[..if i < previous { width / 2 } else { width }].to_vec()).collect()
}

fn check<B: Ops>(
    config: &oracle::Config,
    scheme: Scheme,
    variant: &str,
    format: RowFormat,
    backend: B,
) {
    let golden = Golden::load(&config.name);
    let tokens: Vec<u32> = golden.i32(&format!("tokens/{N}")).1.iter().map(|t| *t as u32).collect();
    let model = Model::new(config, scheme);
    let sizes = options(N, 50, format);
    let layout = sizes.kv_layout(&model.config);
    let mut core = model.open(backend, sizes);
    run(&mut core, &tokens, 50);
    let mut compared = 0;
    let mut compare = |key: String, got: &[f32], want: &[f32]| {
        let (max, rms) = distance(got, want);
        let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        // With rounding, a value at a boundary lands one code away: an eighth for E4M3's three
        // bits of mantissa, half for E2M1.
        let (max_allowed, rms_allowed) =
            if format == RowFormat::F32 { (5e-4, 1e-4) } else { (0.5, 0.02) };
        assert!(
            max <= max_allowed * scale && rms <= rms_allowed * scale,
            "{variant} {key}: max {max}, rms {rms} of {scale}"
        );
        compared += 1;
    };
    for (l, layer) in saved(&mut core, &layout).iter().enumerate() {
        let key = |name: &str| format!("{variant}/{N}/cache/layer{l}/{name}");
        compare(key("ring_last2"), &layer.last_two, &golden.f32(&key("ring_last2")).1);
        let ratio = layout.layers[l].kind.ratio().unwrap_or(0);
        for (name, pool) in &layer.pools {
            let rows = key(&format!("{name}_rows"));
            compare(rows.clone(), &pool.rows, &golden.f32(&rows).1);
            for (part, got) in [("kv", &pool.k), ("score", &pool.z)] {
                let state = key(&format!("{name}_state_{part}"));
                compare(state.clone(), got, &kept(&golden, &state, ratio));
            }
        }
    }
    assert_eq!(compared, golden.keys(&format!("{variant}/{N}/cache/")).len());
}

#[test]
fn the_reference_keeps_what_the_model_defines() {
    let (a, c) = (oracle::Config::tiny_a(), oracle::Config::tiny_c());
    check(&a, Scheme::F32, "exact", RowFormat::F32, Reference::new());
    check(&c, Scheme::F32, "exact", RowFormat::F32, Reference::new());
    check(&c, Scheme::F32, "qat", RowFormat::ModelWideTail, Reference::new());
    check(&c, Scheme::Q2, "q2_qat", RowFormat::ModelWideTail, Reference::new());
}

#[test]
fn the_cpu_keeps_what_the_model_defines() {
    let cpu = || Cpu::new(PoolOptions { threads: Some(2), pin: false }).expect("threads start");
    let (a, c) = (oracle::Config::tiny_a(), oracle::Config::tiny_c());
    check(&a, Scheme::F32, "exact", RowFormat::F32, cpu());
    check(&c, Scheme::F32, "qat", RowFormat::ModelWideTail, cpu());
}
