//! The reference backend: scalar, safe, slow, obviously right. f32 maths on dequantised weights.
//!
//! One file an operation. A row's bits depend on nothing but that row: every sum runs in one
//! fixed order. It is never optimised; it is what the others are compared with.

mod attend;
mod compress;
mod device;
mod embed;
mod hyper_connection;
mod index_top_k;
mod matmul;
mod norm;
mod rope_tail;
mod round;
mod route;
mod routed_experts;
mod swiglu;
mod trace;

use model::{HostTensor, Rope};

use crate::device::{Act, Ids, Shape};
use crate::error::Result;
use crate::host_kv::HostKv;
use crate::ops::{Ops, PoolInput, Pooled, Routing, Selected};
use crate::scratch::Scratch;
use crate::step::{Count, Step};
use crate::weights::{CompressorWeights, ExpertWeights, HcWeights, LayerWeights};

pub use round::{Rounding, Rounds};
pub use trace::{Record, Trace};

/// A buffer of the reference backend.
pub type Floats = Vec<f32>;

/// The scalar backend.
#[derive(Debug, Default)]
pub struct Reference {
    shape: Option<Shape>,
    scratch: Option<Box<Scratch<Floats, Vec<u32>>>>,
    /// When set, every operation's output for one row is recorded.
    pub trace: Option<Trace>,
    rounds: Option<Rounds>,
}

impl Reference {
    /// A backend that `prepare` has not sized yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with the activations of products rounded first, as `rounds` says.
    pub fn rounding(rounds: Rounds) -> Self {
        Self { rounds: Some(rounds), ..Self::default() }
    }

    fn shape(&self) -> &Shape {
        self.shape.as_ref().unwrap_or_else(|| panic!("prepare comes first"))
    }

    fn note(&mut self, act: &Act<Floats>, step: &Step) {
        if let Some(trace) = &mut self.trace {
            trace.note(act.label, &act.buf, act.cols, step);
        }
    }
}

/// A weight, left in the file's types and decoded row by row when it is used.
#[derive(Clone, Debug)]
pub struct Weight {
    tensor: HostTensor,
    /// Of the activations that it meets.
    rounding: Option<Rounding>,
}

impl Weight {
    /// All values of a small weight: norms, biases, sinks.
    fn values(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.tensor.rows * self.tensor.cols];
        self.decode(self.tensor.data.bytes(), &mut out)?;
        Ok(out)
    }

    /// Row `row` of matrix `expert`.
    fn row(&self, expert: usize, row: usize, out: &mut [f32]) -> Result<()> {
        let t = &self.tensor;
        let bytes = t.ty.row_bytes(t.cols).unwrap_or_else(|| panic!("checked by load"));
        let at = (expert * t.rows + row) * bytes;
        self.decode(&t.data.bytes()[at..at + bytes], out)
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        quant::decode(self.tensor.ty, bytes, out)
            .map_err(|source| crate::Error::Decode { name: self.tensor.name.clone(), source })
    }
}

/// Σ a·b in a fixed order: sixteen partial sums, then pairwise.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    for (i, (x, y)) in a_blocks.remainder().iter().zip(b_blocks.remainder()).enumerate() {
        lanes[i] += x * y;
    }
    for (x, y) in a_blocks.zip(b_blocks) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

impl Ops for Reference {
    fn embed(&mut self, streams: &mut Act<Floats>, table: &Weight, step: &Step) -> Result<()> {
        embed::embed(streams, table, step)
    }

    fn matmul(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &Weight,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        matmul::matmul(out, x, w, step.count(count))?;
        self.note(out, step);
        Ok(())
    }

    fn grouped_matmul(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &Weight,
        n_groups: usize,
        step: &Step,
    ) -> Result<()> {
        matmul::grouped(out, x, w, n_groups, step.rows.len())?;
        self.note(out, step);
        Ok(())
    }

    fn rms_norm(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &Weight,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        norm::weighted(out, x, w, self.shape().config.rms_eps, step.count(count))?;
        self.note(out, step);
        Ok(())
    }

    fn rms_norm_plain(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        group: usize,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        norm::plain(out, x, group, self.shape().config.rms_eps, step.count(count));
        Ok(())
    }

    fn rope_tail(
        &mut self,
        x: &mut Act<Floats>,
        head_dim: usize,
        rope: &Rope,
        inverse: bool,
        step: &Step,
    ) -> Result<()> {
        rope_tail::rope_tail(x, head_dim, rope, inverse, step);
        if !inverse {
            self.note(x, step);
        }
        Ok(())
    }

    fn hc_mix(
        &mut self,
        mix: &mut Act<Floats>,
        logits: &Act<Floats>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::mix(mix, logits, w, &self.shape().config.hc, step)?;
        self.note(mix, step);
        Ok(())
    }

    fn hc_collapse(
        &mut self,
        out: &mut Act<Floats>,
        streams: &Act<Floats>,
        mix: &Act<Floats>,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        let n_streams = self.shape().config.hc.n_streams;
        hyper_connection::collapse(out, streams, mix, n_streams, step.count(count));
        self.note(out, step);
        Ok(())
    }

    fn hc_expand(
        &mut self,
        streams: &mut Act<Floats>,
        y: &Act<Floats>,
        mix: &Act<Floats>,
        step: &Step,
    ) -> Result<()> {
        self.note(y, step);
        hyper_connection::expand(streams, y, mix, self.shape().config.hc.n_streams, step);
        self.note(streams, step);
        Ok(())
    }

    fn hc_head_mix(
        &mut self,
        mix: &mut Act<Floats>,
        logits: &Act<Floats>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::head_mix(mix, logits, w, &self.shape().config.hc, step)
    }

    fn gather_rows(&mut self, out: &mut Act<Floats>, x: &Act<Floats>, step: &Step) -> Result<()> {
        embed::gather_rows(out, x, step);
        Ok(())
    }

    fn stage_window(
        &mut self,
        kv: &mut HostKv,
        layer: usize,
        rows: &Act<Floats>,
        step: &Step,
    ) -> Result<()> {
        compress::stage_window(kv, layer, rows, step);
        Ok(())
    }

    fn compress(
        &mut self,
        kv: &mut HostKv,
        layer: usize,
        pooled: Pooled,
        input: &PoolInput<Floats>,
        w: &CompressorWeights<Self>,
        rope: &Rope,
        step: &Step,
    ) -> Result<()> {
        let pool = compress::Pool { layer, pooled, rope, eps: self.shape().config.rms_eps };
        compress::compress(kv, &pool, input, w, step, &mut self.trace)
    }

    fn index_top_k(
        &mut self,
        ids: &mut Ids<Vec<u32>>,
        kv: &HostKv,
        layer: usize,
        queries: (&Act<Floats>, &Act<Floats>),
        step: &Step,
    ) -> Result<()> {
        let indexer = self.shape().config.indexer;
        index_top_k::index_top_k(ids, kv, layer, queries, indexer, step, &mut self.trace);
        Ok(())
    }

    fn attend(
        &mut self,
        out: &mut Act<Floats>,
        q: &Act<Floats>,
        kv: &HostKv,
        layer: usize,
        selected: Selected<'_, Vec<u32>>,
        sinks: &Weight,
        step: &Step,
    ) -> Result<()> {
        attend::attend(out, q, kv, layer, &selected, &sinks.values()?, step);
        self.note(out, step);
        Ok(())
    }

    fn route_top_k(
        &mut self,
        routing: &mut Routing<Floats, Vec<u32>>,
        logits: &Act<Floats>,
        bias: &Weight,
        step: &Step,
    ) -> Result<()> {
        let scale = self.shape().config.route_scale;
        route::top_k(routing, logits, &bias.values()?, scale, step, &mut self.trace);
        Ok(())
    }

    fn route_hash(
        &mut self,
        routing: &mut Routing<Floats, Vec<u32>>,
        logits: &Act<Floats>,
        table: &Weight,
        step: &Step,
    ) -> Result<()> {
        let scale = self.shape().config.route_scale;
        route::hash(routing, logits, table, scale, step, &mut self.trace);
        Ok(())
    }

    fn routed_experts(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &ExpertWeights<Self>,
        routing: &Routing<Floats, Vec<u32>>,
        step: &Step,
    ) -> Result<()> {
        routed_experts::routed_experts(out, x, w, routing, step)?;
        if let Some(trace) = &mut self.trace {
            trace.note("routed_out", &out.buf, out.cols, step);
        }
        Ok(())
    }

    fn swiglu(
        &mut self,
        gate: &mut Act<Floats>,
        up: &Act<Floats>,
        clamp: f32,
        step: &Step,
    ) -> Result<()> {
        swiglu::swiglu(gate, up, clamp, step);
        Ok(())
    }

    fn add(&mut self, acc: &mut Act<Floats>, x: &Act<Floats>, step: &Step) -> Result<()> {
        swiglu::add(acc, x, step);
        Ok(())
    }

    fn scratch(&mut self) -> &mut Option<Box<Scratch<Floats, Vec<u32>>>> {
        &mut self.scratch
    }

    fn enter_layer(&mut self, layer: usize, _weights: &LayerWeights<Self>) -> Result<()> {
        if let Some(trace) = &mut self.trace {
            trace.layer = layer;
        }
        Ok(())
    }
}
