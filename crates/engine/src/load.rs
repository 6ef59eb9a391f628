//! From bound tensors to a device's weights.

use backend::{
    AttentionWeights, CompressorWeights, ExpertWeights, HcWeights, HeadWeights, IndexerWeights,
    LayerWeights, MoeWeights, Ops, RouterWeights, SiteWeights,
};
use model::{
    AttentionTensors, CompressorTensors, Config, ExpertTensors, HcTensors, HostTensor,
    LayerTensors, MoeTensors, RouterTensors,
};

use crate::error::Result;

/// Loads one layer. `clamps` limit SwiGLU in the routed experts and in the shared one.
pub(crate) fn layer<B: Ops>(
    be: &mut B,
    t: &LayerTensors,
    config: &Config,
    clamps: (f32, f32),
) -> Result<LayerWeights<B>> {
    Ok(LayerWeights {
        attn_site: site(be, &t.attn_hc, &t.attn_norm)?,
        attn: attention(be, &t.attn, t.kind, config)?,
        ffn_site: site(be, &t.ffn_hc, &t.ffn_norm)?,
        moe: moe(be, &t.moe, clamps)?,
    })
}

pub(crate) fn head<B: Ops>(
    be: &mut B,
    hc: &HcTensors,
    norm: &HostTensor,
) -> Result<HeadWeights<B>> {
    Ok(HeadWeights { hc: hc_weights(be, hc)?, norm: be.load_vector(norm)? })
}

fn hc_weights<B: Ops>(be: &mut B, t: &HcTensors) -> Result<HcWeights<B>> {
    Ok(HcWeights {
        project: be.load(&t.project)?,
        base: be.load_vector(&t.base)?,
        scale: be.load_vector(&t.scale)?,
    })
}

fn site<B: Ops>(be: &mut B, hc: &HcTensors, norm: &HostTensor) -> Result<SiteWeights<B>> {
    Ok(SiteWeights { hc: hc_weights(be, hc)?, norm: be.load_vector(norm)? })
}

fn attention<B: Ops>(
    be: &mut B,
    t: &AttentionTensors,
    kind: model::LayerKind,
    config: &Config,
) -> Result<AttentionWeights<B>> {
    let [q_a, kv] = be.load_group([&t.q_a, &t.kv])?;
    let ratio = kind.ratio().unwrap_or(0);
    let compressor = match &t.compressor {
        Some(c) => Some(compressor(be, c, ratio)?),
        None => None,
    };
    let indexer = match &t.indexer {
        Some(i) => Some(IndexerWeights {
            q_b: be.load(&i.q_b)?,
            proj: be.load(&i.proj)?,
            compressor: self::compressor(be, &i.compressor, ratio)?,
        }),
        None => None,
    };
    Ok(AttentionWeights {
        kind,
        rope: config.rope(kind).clone(),
        q_a,
        q_a_norm: be.load_vector(&t.q_a_norm)?,
        q_b: be.load(&t.q_b)?,
        kv,
        kv_norm: be.load_vector(&t.kv_norm)?,
        sinks: be.load_vector(&t.sinks)?,
        out_a: be.load(&t.out_a)?,
        out_b: be.load(&t.out_b)?,
        compressor,
        indexer,
    })
}

fn compressor<B: Ops>(
    be: &mut B,
    t: &CompressorTensors,
    ratio: usize,
) -> Result<CompressorWeights<B>> {
    let [kv, gate] = be.load_group([&t.kv, &t.gate])?;
    Ok(CompressorWeights {
        kv,
        gate,
        position_bias: be.load_vector(&t.position_bias)?,
        norm: be.load_vector(&t.norm)?,
        width: t.norm.cols,
        ratio,
    })
}

fn moe<B: Ops>(be: &mut B, t: &MoeTensors, clamps: (f32, f32)) -> Result<MoeWeights<B>> {
    Ok(MoeWeights {
        gate: be.load(&t.gate)?,
        router: match &t.router {
            RouterTensors::TopK { bias } => RouterWeights::TopK { bias: be.load_vector(bias)? },
            RouterTensors::Hash { table } => RouterWeights::Hash { table: be.load(table)? },
        },
        routed: experts(be, &t.routed, clamps.0)?,
        shared: experts(be, &t.shared, clamps.1)?,
    })
}

fn experts<B: Ops>(be: &mut B, t: &ExpertTensors, clamp: f32) -> Result<ExpertWeights<B>> {
    let [gate, up] = be.load_group([&t.gate, &t.up])?;
    Ok(ExpertWeights { gate, up, down: be.load(&t.down)?, clamp })
}
