//! The operations, each in the file of its name.

use backend::{
    Act, AttentionBuffers, AttentionWeights, AttentionWork, CompressorWeights, Count, Draw,
    ExpertWeights, HcWeights, HeadWeights, Ids, LayerBuffers, LayerWeights, MoeWeights, Ops,
    PoolInput, Pooled, Result, Routing, Scratch, Selected, SiteWeights, Step, defaults,
};
use model::Rope;

use crate::attend::Attention;
use crate::attention::Layer;
use crate::compress::Target;
use crate::gpu::{Buffer, DevicePtr};
use crate::kv::Kv;
use crate::rope_tail::RopeArgs;
use crate::route::Choice;
use crate::weight::Weight;
use crate::{
    Cuda, FEW_ROWS, attend, compress, embed, hyper_connection, index_top_k, layer, matmul, mixture,
    norm, projections, rope_tail, route, sample, site, swiglu,
};

impl Ops for Cuda {
    fn embed(&mut self, streams: &mut Act<Buffer>, table: &Weight, step: &Step) -> Result<()> {
        embed::embed(&self.parts(), streams, table, step.rows.len())
    }

    fn matmul(
        &mut self,
        out: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &Weight,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        let p = self.parts();
        matmul::matmul(p.gpu, p.products, out, x, w.matrix()?, step.count(count))
    }

    fn grouped_matmul(
        &mut self,
        out: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &Weight,
        n_groups: usize,
        step: &Step,
    ) -> Result<()> {
        let p = self.parts();
        matmul::grouped_matmul(p.gpu, p.products, out, x, w.matrix()?, n_groups, step.rows.len())
    }

    fn rms_norm(
        &mut self,
        out: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &Weight,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        let p = self.parts();
        let eps = p.shape.config.rms_eps;
        norm::rms_norm(p.gpu, out, x, w.values()?, (x.cols, eps), step.count(count))
    }

    fn rms_norm_plain(
        &mut self,
        out: &mut Act<Buffer>,
        x: &Act<Buffer>,
        group: usize,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        let p = self.parts();
        let eps = p.shape.config.rms_eps;
        norm::rms_norm(p.gpu, out, x, DevicePtr::NULL, (group, eps), step.count(count))
    }

    fn rope_tail(
        &mut self,
        x: &mut Act<Buffer>,
        head_dim: usize,
        rope: &Rope,
        inverse: bool,
        step: &Step,
    ) -> Result<()> {
        let rope = RopeArgs::new(rope, inverse);
        rope_tail::rope_tail(&self.parts(), x, head_dim, rope, step.rows.len())
    }

    fn hc_mix(
        &mut self,
        mix: &mut Act<Buffer>,
        logits: &Act<Buffer>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::mix(&self.parts(), mix, logits, w, step.rows.len())
    }

    fn hc_collapse(
        &mut self,
        out: &mut Act<Buffer>,
        streams: &Act<Buffer>,
        mix: &Act<Buffer>,
        step: &Step,
        count: Count,
    ) -> Result<()> {
        hyper_connection::collapse(&self.parts(), out, streams, mix, step.count(count))
    }

    fn hc_expand(
        &mut self,
        streams: &mut Act<Buffer>,
        y: &Act<Buffer>,
        mix: &Act<Buffer>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::expand(&self.parts(), streams, y, mix, step.rows.len())
    }

    fn hc_head_mix(
        &mut self,
        mix: &mut Act<Buffer>,
        logits: &Act<Buffer>,
        w: &HcWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        hyper_connection::head_mix(&self.parts(), mix, logits, w, step.logit_rows.len())
    }

    fn gather_rows(&mut self, out: &mut Act<Buffer>, x: &Act<Buffer>, step: &Step) -> Result<()> {
        embed::gather_rows(&self.parts(), out, x, step.logit_rows.len())
    }

    fn stage_window(
        &mut self,
        kv: &mut Kv,
        layer: usize,
        rows: &Act<Buffer>,
        step: &Step,
    ) -> Result<()> {
        compress::stage_window(&self.parts(), kv, layer, rows, step.rows.len())
    }

    fn compress(
        &mut self,
        kv: &mut Kv,
        layer: usize,
        pooled: Pooled,
        input: &PoolInput<Buffer>,
        w: &CompressorWeights<Self>,
        rope: &Rope,
        step: &Step,
    ) -> Result<()> {
        let target = Target { layer, pooled, rope: RopeArgs::new(rope, false) };
        let counts = (step.rows.len(), step.spans.len());
        compress::compress(&self.parts(), kv, target, input, w, counts)
    }

    fn index_top_k(
        &mut self,
        ids: &mut Ids<Buffer>,
        kv: &Kv,
        layer: usize,
        queries: (&Act<Buffer>, &Act<Buffer>),
        step: &Step,
    ) -> Result<()> {
        index_top_k::index_top_k(&self.parts(), ids, (kv, layer), queries, None, step.rows.len())
    }

    fn attend(
        &mut self,
        out: &mut Act<Buffer>,
        q: &Act<Buffer>,
        kv: &Kv,
        layer: usize,
        selected: Selected<'_, Buffer>,
        sinks: &Weight,
        step: &Step,
    ) -> Result<()> {
        let (sinks, n_rows) = (sinks.values()?, step.rows.len());
        let what = Attention { kv, layer, selected, sinks, n_rows };
        attend::attend(&self.parts(), (out, q), &what)
    }

    fn route_top_k(
        &mut self,
        routing: &mut Routing<Buffer, Buffer>,
        logits: &Act<Buffer>,
        bias: &Weight,
        step: &Step,
    ) -> Result<()> {
        let choice = Choice::Bias(bias.values()?);
        route::route(&self.parts(), routing, logits, &choice, step.rows.len())
    }

    fn route_hash(
        &mut self,
        routing: &mut Routing<Buffer, Buffer>,
        logits: &Act<Buffer>,
        table: &Weight,
        step: &Step,
    ) -> Result<()> {
        let choice = Choice::Table(table.table()?);
        route::route(&self.parts(), routing, logits, &choice, step.rows.len())
    }

    fn routed_experts(
        &mut self,
        out: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &ExpertWeights<Self>,
        routing: &Routing<Buffer, Buffer>,
        step: &Step,
    ) -> Result<()> {
        let p = self.parts();
        matmul::routed_experts(p.gpu, p.products, out, x, w, routing, step.rows.len())
    }

    fn swiglu(
        &mut self,
        gate: &mut Act<Buffer>,
        up: &Act<Buffer>,
        clamp: f32,
        step: &Step,
    ) -> Result<()> {
        swiglu::swiglu(self.parts().gpu, gate, up, clamp, step.rows.len())
    }

    fn add(&mut self, acc: &mut Act<Buffer>, x: &Act<Buffer>, step: &Step) -> Result<()> {
        swiglu::add(self.parts().gpu, acc, x, step.rows.len())
    }

    fn hc_enter(
        &mut self,
        x: &mut Act<Buffer>,
        mix: &mut Act<Buffer>,
        streams: &Act<Buffer>,
        site: &SiteWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        let (parts, n_rows) = (self.parts(), step.rows.len());
        if hyper_connection::is_fused(&parts, &site.hc, n_rows) {
            let site = hyper_connection::site(&parts, (x, mix), streams, site, n_rows)?;
            hyper_connection::leave_sums(&parts, &site, None)?;
            return hyper_connection::enter(&parts, &site, true);
        }
        if site::has_next(&parts, site, n_rows) {
            return site::next(&parts, (x, mix), streams, None, site, n_rows);
        }
        defaults::hc_enter(self, x, mix, streams, site, step)
    }

    fn hc_next(
        &mut self,
        x: &mut Act<Buffer>,
        mix: &mut Act<Buffer>,
        streams: &mut Act<Buffer>,
        y: &Act<Buffer>,
        next: &SiteWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        let (parts, n_rows) = (self.parts(), step.rows.len());
        if hyper_connection::is_fused(&parts, &next.hc, n_rows) {
            let site = hyper_connection::site(&parts, (x, mix), streams, next, n_rows)?;
            hyper_connection::leave_sums(&parts, &site, Some(y))?;
            return hyper_connection::enter(&parts, &site, true);
        }
        if site::has_next(&parts, next, n_rows) {
            return site::next(&parts, (x, mix), streams, Some(y), next, n_rows);
        }
        self.hc_expand(streams, y, mix, step)?;
        defaults::hc_enter(self, x, mix, streams, next, step)
    }

    fn attn_in(
        &mut self,
        out: &mut AttentionBuffers<Buffer>,
        x: &Act<Buffer>,
        w: &AttentionWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        if step.rows.len() > FEW_ROWS && matmul::has_wide(&self.gpu) {
            return projections::attn_in(&self.parts(), out, x, w, step.rows.len());
        }
        defaults::attn_in(self, out, x, w, step)
    }

    fn attention(
        &mut self,
        y: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &AttentionWeights<Self>,
        (kv, layer): (&mut Kv, usize),
        work: AttentionWork<'_, Buffer, Buffer>,
        shape: (usize, usize),
        step: &Step,
    ) -> Result<()> {
        let sizes = (step.rows.len(), step.spans.len());
        if sizes.0 > FEW_ROWS {
            let (at, parts) = ((&*kv, layer), self.parts());
            if projections::attention(&parts, (y, x), w, at, &work, shape.1, sizes)? {
                return Ok(());
            }
            return defaults::attention(self, y, x, w, (kv, layer), work, shape, step);
        }
        let layer = Layer { parts: &self.parts(), w, kv, layer, step };
        layer.run(y, x, &work, shape.1, (None, None)).map(|_| ())
    }

    fn layer(
        &mut self,
        buffers: LayerBuffers<'_, Buffer, Buffer>,
        w: &LayerWeights<Self>,
        next: Option<&SiteWeights<Self>>,
        (kv, at): (&mut Kv, usize),
        shape: (usize, usize),
        step: &Step,
    ) -> Result<bool> {
        layer::layer(&self.parts(), &buffers, w, next, (kv, at), shape.1, step)
    }

    fn head(
        &mut self,
        logits: &mut Act<Buffer>,
        streams: &Act<Buffer>,
        w: &HeadWeights<Self>,
        output: &Weight,
        step: &Step,
    ) -> Result<()> {
        let n_rows = step.logit_rows.len();
        if !hyper_connection::is_fused(&self.parts(), &w.hc, n_rows) {
            return defaults::head(self, logits, streams, w, output, step);
        }
        let parts = self.parts();
        let x = &parts.mixture.head_x;
        hyper_connection::head(&parts, x, streams, w, n_rows)?;
        matmul::matmul(parts.gpu, parts.products, logits, x, output.matrix()?, n_rows)
    }

    fn attn_out(
        &mut self,
        y: &mut Act<Buffer>,
        heads: &mut Act<Buffer>,
        w: &AttentionWeights<Self>,
        shape: (usize, usize),
        step: &Step,
    ) -> Result<()> {
        let n_rows = step.rows.len();
        if n_rows > FEW_ROWS && projections::attn_out(&self.parts(), y, heads, w, shape, n_rows)? {
            return Ok(());
        }
        defaults::attn_out(self, y, heads, w, shape, step)
    }

    fn moe(
        &mut self,
        y: &mut Act<Buffer>,
        x: &Act<Buffer>,
        w: &MoeWeights<Self>,
        step: &Step,
    ) -> Result<()> {
        if step.rows.len() > FEW_ROWS && !matmul::has_wide(&self.gpu) {
            return defaults::moe(self, y, x, w, step);
        }
        mixture::moe(&self.parts(), y, x, w, step.rows.len(), (None, None)).map(|_| ())
    }

    fn samples(&self) -> bool {
        true
    }

    fn sample(
        &mut self,
        logits: &Act<Buffer>,
        draws: &[(u32, Draw)],
        tokens: &mut [u32],
    ) -> Result<()> {
        // Forgetting `prepare` is a programmer's error.
        let Some(prepared) = &self.prepared else { panic!("prepare comes first") };
        sample::sample(&self.gpu, &prepared.sample, logits, draws, tokens)
    }

    fn scratch(&mut self) -> &mut Option<Box<Scratch<Buffer, Buffer>>> {
        &mut self.scratch
    }
}
