//! The operations, each in the file of its name. Coarse operations without a file keep their default bodies.

use backend::{
    Act, AttentionBuffers, AttentionWeights, CompressorWeights, Count, Draw, ExpertWeights,
    HcWeights, HostKv, Ids, MoeWeights, Ops, PoolInput, Pooled, Result, Routing, Scratch, Selected,
    SiteWeights, Step,
};
use model::Rope;

use crate::attend::Keys;
use crate::compress::Target;
use crate::{
    Cpu, Floats, Weight, attend, attn_in, attn_out, compress, embed, hyper_connection, index_top_k,
    matmul, moe, norm, rope_tail, route, routed_experts, sample, swiglu,
};

impl Ops for Cpu {
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
        matmul::matmul(self.parts(), out, x, w, step.count(count));
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
        matmul::grouped(self.parts(), out, x, w, n_groups, step.rows.len());
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
        norm::weighted(self.parts(), out, x, w, step.count(count))
    }

    fn rms_norm_plain(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        group: usize,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        norm::plain(self.parts(), out, x, group, step.count(count));
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
        rope_tail::rope_tail(self.parts(), x, head_dim, rope, inverse, step);
        Ok(())
    }

    fn hc_mix(
        &mut self,
        mix: &mut Act<Floats>,
        logits: &Act<Floats>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::mix(self.parts(), mix, logits, w, step)
    }

    fn hc_collapse(
        &mut self,
        out: &mut Act<Floats>,
        streams: &Act<Floats>,
        mix: &Act<Floats>,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        hyper_connection::collapse(self.parts(), out, streams, mix, step.count(count));
        Ok(())
    }

    fn hc_expand(
        &mut self,
        streams: &mut Act<Floats>,
        y: &Act<Floats>,
        mix: &Act<Floats>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::expand(self.parts(), streams, y, mix, step);
        Ok(())
    }

    fn hc_head_mix(
        &mut self,
        mix: &mut Act<Floats>,
        logits: &Act<Floats>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::head_mix(self.parts(), mix, logits, w, step)
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
        compress::stage_window(self.parts(), kv, layer, rows, step);
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
        compress::compress(self.parts(), kv, &Target { layer, pooled, rope }, input, w, step)
    }

    fn index_top_k(
        &mut self,
        ids: &mut Ids<Vec<u32>>,
        kv: &HostKv,
        layer: usize,
        queries: (&Act<Floats>, &Act<Floats>),
        step: &Step,
    ) -> Result<()> {
        index_top_k::index_top_k(self.parts(), ids, (kv, layer), queries, step);
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
        let keys = Keys { kv, layer, selected, sinks: &sinks.values()? };
        attend::attend(self.parts(), out, q, &keys, step);
        Ok(())
    }

    fn route_top_k(
        &mut self,
        routing: &mut Routing<Floats, Vec<u32>>,
        logits: &Act<Floats>,
        bias: &Weight,
        step: &Step,
    ) -> Result<()> {
        route::top_k(self.parts(), routing, logits, bias, step)
    }

    fn route_hash(
        &mut self,
        routing: &mut Routing<Floats, Vec<u32>>,
        logits: &Act<Floats>,
        table: &Weight,
        step: &Step,
    ) -> Result<()> {
        route::hash(self.parts(), routing, logits, table, step)
    }

    fn routed_experts(
        &mut self,
        out: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &ExpertWeights<Self>,
        routing: &Routing<Floats, Vec<u32>>,
        step: &Step,
    ) -> Result<()> {
        routed_experts::routed_experts(self.parts(), out, (x, None), w, routing, step)
    }

    fn swiglu(
        &mut self,
        gate: &mut Act<Floats>,
        up: &Act<Floats>,
        clamp: f32,
        step: &Step,
    ) -> Result<()> {
        swiglu::swiglu(self.parts(), gate, up, clamp, step);
        Ok(())
    }

    fn add(&mut self, acc: &mut Act<Floats>, x: &Act<Floats>, step: &Step) -> Result<()> {
        swiglu::add(self.parts(), acc, x, step);
        Ok(())
    }

    fn hc_next(
        &mut self,
        x: &mut Act<Floats>,
        mix: &mut Act<Floats>,
        streams: &mut Act<Floats>,
        y: &Act<Floats>,
        next: &SiteWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::next(self, (x, mix), (streams, y), next, step)
    }

    fn attn_in(
        &mut self,
        out: &mut AttentionBuffers<Floats>,
        x: &Act<Floats>,
        w: &AttentionWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        attn_in::attn_in(self, out, (x, attn_in::Of::All), w, step)
    }

    fn attn_kv(
        &mut self,
        out: &mut AttentionBuffers<Floats>,
        x: &Act<Floats>,
        w: &AttentionWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        attn_in::attn_in(self, out, (x, attn_in::Of::Staged), w, step)
    }

    fn attn_out(
        &mut self,
        y: &mut Act<Floats>,
        heads: &mut Act<Floats>,
        w: &AttentionWeights<Self>,
        shape: (usize, usize),
        step: &Step,
    ) -> Result<()> {
        attn_out::attn_out(self, y, heads, w, shape, step);
        Ok(())
    }

    fn narrows(&self) -> bool {
        true
    }

    fn keep_wanted(&mut self, x: &mut Act<Floats>, step: &Step) -> Result<()> {
        embed::keep_wanted(x, step);
        Ok(())
    }

    fn moe(
        &mut self,
        y: &mut Act<Floats>,
        x: &Act<Floats>,
        w: &MoeWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        moe::moe(self, y, x, w, step)
    }

    fn sample(
        &mut self,
        logits: &Act<Floats>,
        draws: &[(u32, Draw)],
        tokens: &mut [u32],
    ) -> Result<()> {
        sample::sample(self.parts(), logits, draws, tokens);
        Ok(())
    }

    fn samples(&self) -> bool {
        true
    }

    fn scratch(&mut self) -> &mut Option<Box<Scratch<Floats, Vec<u32>>>> {
        &mut self.scratch
    }
}
