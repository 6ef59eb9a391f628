//! Every tensor of a model under its official name, filled from a hash of that name.
//!
//! A matrix entry is q · 2^-k with integer |q| <= 127, hence exact in F32, F16 and BF16 alike; k is
//! chosen so that outputs keep the scale of inputs.

use super::{
    Config,
    hash::{fnv1a64, splitmix64_at},
};

/// A tensor in row-major order, the last dimension the fan-in.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Values,
}

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Weights.
    F32(Vec<f32>),
    /// Expert ids of the hash-routed layers.
    I32(Vec<i32>),
}

impl Tensor {
    /// The weights.
    ///
    /// # Panics
    ///
    /// When the tensor holds expert ids.
    #[must_use]
    pub fn f32(&self) -> &[f32] {
        match &self.values {
            Values::F32(v) => v,
            Values::I32(_) => panic!("a table of expert ids holds no weights"),
        }
    }

    /// Length of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("every tensor has a dimension")
    }
}

/// All tensors of a model in the official order: root, layers, MTP block.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights(pub Vec<(String, Tensor)>);

impl Weights {
    /// Makes all tensors of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let table = Table::new(config);
        Self(table.0.into_iter().map(|spec| (spec.name.clone(), fill(config, &spec))).collect())
    }

    /// The tensor with the official name `name`.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &Tensor {
        let found = self.0.iter().find(|(n, _)| n == name);
        &found.unwrap_or_else(|| panic!("no tensor {name:?}")).1
    }
}

/// How a tensor is filled from its integers q.
#[derive(Clone, Copy)]
enum Fill {
    /// q · 2^-k with a standard deviation near gain / sqrt(fan-in).
    Matrix(f64),
    /// q · 2^-k for this k.
    Shift(i32),
    /// gain · (1 + small), exact in BF16.
    Norm(f64),
    /// 0.5 + |q| / 128.
    Scale,
    /// Distinct experts for each token.
    ExpertIds,
}

struct Spec {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

struct Table(Vec<Spec>);

impl Table {
    fn new(c: &Config) -> Self {
        let mut t = Self(Vec::new());
        t.add("embed.weight", &[c.vocab, c.hidden], Fill::Shift(6));
        t.add("norm.weight", &[c.hidden], Fill::Norm(1.0));
        t.add("head.weight", &[c.vocab, c.hidden], Fill::Matrix(4.0));
        t.hc_head(c, "");
        for (i, &ratio) in c.ratios.iter().enumerate() {
            t.block(c, &format!("layers.{i}."), ratio as usize, i < c.hash_layers);
        }
        t.block(c, "mtp.0.", 0, false);
        t.add("mtp.0.e_proj.weight", &[c.hidden, c.hidden], Fill::Matrix(1.0));
        t.add("mtp.0.h_proj.weight", &[c.hidden, c.hidden], Fill::Matrix(1.0));
        for norm in ["enorm", "hnorm", "norm"] {
            t.add(&format!("mtp.0.{norm}.weight"), &[c.hidden], Fill::Norm(1.0));
        }
        t.hc_head(c, "mtp.0.");
        t
    }

    fn add(&mut self, name: &str, shape: &[usize], fill: Fill) {
        self.0.push(Spec { name: name.to_owned(), shape: shape.to_vec(), fill });
    }

    fn hc_head(&mut self, c: &Config, p: &str) {
        self.add(&format!("{p}hc_head_fn"), &[c.hc, c.hc * c.hidden], Fill::Matrix(1.0));
        self.add(&format!("{p}hc_head_base"), &[c.hc], Fill::Shift(7));
        self.add(&format!("{p}hc_head_scale"), &[1], Fill::Scale);
    }

    fn block(&mut self, c: &Config, p: &str, ratio: usize, hash_routed: bool) {
        self.add(&format!("{p}attn_norm.weight"), &[c.hidden], Fill::Norm(1.0));
        self.add(&format!("{p}ffn_norm.weight"), &[c.hidden], Fill::Norm(1.0));
        let mixes = (2 + c.hc) * c.hc;
        for site in ["attn", "ffn"] {
            let hc = format!("{p}hc_{site}_");
            self.add(&format!("{hc}fn"), &[mixes, c.hc * c.hidden], Fill::Matrix(1.0));
            self.add(&format!("{hc}base"), &[mixes], Fill::Shift(7));
            self.add(&format!("{hc}scale"), &[3], Fill::Scale);
        }
        self.attention(c, &format!("{p}attn."), ratio);
        self.moe(c, &format!("{p}ffn."), hash_routed);
    }

    fn attention(&mut self, c: &Config, a: &str, ratio: usize) {
        let queries = c.heads * c.head_dim;
        self.add(&format!("{a}attn_sink"), &[c.heads], Fill::Shift(6));
        self.add(&format!("{a}wq_a.weight"), &[c.q_lora, c.hidden], Fill::Matrix(1.0));
        self.add(&format!("{a}q_norm.weight"), &[c.q_lora], Fill::Norm(1.0));
        self.add(&format!("{a}wq_b.weight"), &[queries, c.q_lora], Fill::Matrix(1.0));
        self.add(&format!("{a}wkv.weight"), &[c.head_dim, c.hidden], Fill::Matrix(1.0));
        self.add(&format!("{a}kv_norm.weight"), &[c.head_dim], Fill::Norm(2.0));
        let low = c.o_groups * c.o_lora;
        self.add(&format!("{a}wo_a.weight"), &[low, queries / c.o_groups], Fill::Matrix(1.0));
        self.add(&format!("{a}wo_b.weight"), &[c.hidden, low], Fill::Matrix(1.5 * c.out_gain));
        if ratio != 0 {
            self.compressor(c, &format!("{a}compressor."), ratio, c.head_dim);
        }
        if ratio == 4 {
            let i = format!("{a}indexer.");
            let queries = c.index_heads * c.index_dim;
            self.add(&format!("{i}wq_b.weight"), &[queries, c.q_lora], Fill::Matrix(1.0));
            let weights = format!("{i}weights_proj.weight");
            self.add(&weights, &[c.index_heads, c.hidden], Fill::Matrix(1.0));
            self.compressor(c, &format!("{i}compressor."), ratio, c.index_dim);
        }
    }

    fn compressor(&mut self, c: &Config, p: &str, ratio: usize, dim: usize) {
        let width = if ratio == 4 { 2 * dim } else { dim };
        self.add(&format!("{p}ape"), &[ratio, width], Fill::Shift(6));
        self.add(&format!("{p}wkv.weight"), &[width, c.hidden], Fill::Matrix(1.0));
        self.add(&format!("{p}wgate.weight"), &[width, c.hidden], Fill::Matrix(2.0));
        self.add(&format!("{p}norm.weight"), &[dim], Fill::Norm(2.0));
    }

    fn moe(&mut self, c: &Config, f: &str, hash_routed: bool) {
        self.add(&format!("{f}gate.weight"), &[c.experts, c.hidden], Fill::Matrix(2.0));
        if hash_routed {
            self.add(&format!("{f}gate.tid2eid"), &[c.vocab, c.experts_used], Fill::ExpertIds);
        } else {
            self.add(&format!("{f}gate.bias"), &[c.experts], Fill::Shift(9));
        }
        let routed = (0..c.experts).map(|e| format!("experts.{e}"));
        for e in routed.chain(["shared_experts".to_owned()]) {
            let (up, down) = ([c.moe_inter, c.hidden], [c.hidden, c.moe_inter]);
            self.add(&format!("{f}{e}.w1.weight"), &up, Fill::Matrix(4.6));
            self.add(&format!("{f}{e}.w3.weight"), &up, Fill::Matrix(4.6));
            self.add(&format!("{f}{e}.w2.weight"), &down, Fill::Matrix(0.12 * c.out_gain));
        }
    }
}

fn fill(c: &Config, spec: &Spec) -> Tensor {
    let state = fnv1a64(&format!("{}/{}", c.seed, spec.name));
    let n: usize = spec.shape.iter().product();
    let integer = |i: u64| ((splitmix64_at(state, i) >> 56) as i32 - 128).max(-127);
    let weights = |value: &dyn Fn(i32) -> f64| {
        // 255 possible integers, so a table replaces the arithmetic for every element.
        let table: Vec<f32> = (-127..=127).map(|q| value(q) as f32).collect();
        Values::F32((1..=n as u64).map(|i| table[(integer(i) + 127) as usize]).collect())
    };
    let scaled = |k: i32| weights(&|q| f64::from(q) * 2f64.powi(-k));
    let values = match spec.fill {
        Fill::Matrix(gain) => scaled(shift_for(spec.shape[spec.shape.len() - 1], gain)),
        Fill::Shift(k) => scaled(k),
        Fill::Norm(gain) => weights(&|q| gain * (1.0 + f64::from(q >> 2) / 128.0)),
        Fill::Scale => weights(&|q| 0.5 + f64::from(q.abs()) / 128.0),
        Fill::ExpertIds => Values::I32(expert_ids(c, state)),
    };
    Tensor { shape: spec.shape.clone(), values }
}

/// The k for which q · 2^-k has a standard deviation near gain / sqrt(fan-in).
fn shift_for(fan_in: usize, gain: f64) -> i32 {
    /// Standard deviation of a uniform integer in [-127, 127].
    const STANDARD_DEVIATION: f64 = 73.6;
    let ratio = STANDARD_DEVIATION * (fan_in as f64).sqrt() / gain;
    ratio.log2().round_ties_even() as i32
}

/// For each token the experts with the largest hashes, largest first.
fn expert_ids(c: &Config, state: u64) -> Vec<i32> {
    let mut ids = Vec::with_capacity(c.vocab * c.experts_used);
    for token in 0..c.vocab {
        let hash = |e: usize| splitmix64_at(state, (token * c.experts + e) as u64 + 1);
        let mut order: Vec<usize> = (0..c.experts).collect();
        order.sort_by_key(|&e| std::cmp::Reverse((hash(e), e)));
        ids.extend(order[..c.experts_used].iter().map(|&e| e as i32));
    }
    ids
}
