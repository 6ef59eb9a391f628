//! A whole layer of few rows: what a sublayer leaves goes into the streams by the kernel that computes it, where
//! that can be, and mixing values are written where nothing waits for them.

use backend::{LayerBuffers, LayerWeights, Result, SiteWeights, Step};

use crate::attention::Layer;
use crate::gpu::Buffer;
use crate::kv::Kv;
use crate::{Cuda, Parts, hyper_connection, mixture};

/// See [`backend::Ops::layer`].
pub(crate) fn layer(
    parts: &Parts<'_>,
    a: &LayerBuffers<'_, Buffer, Buffer>,
    w: &LayerWeights<Cuda>,
    next: Option<&SiteWeights<Cuda>>,
    (kv, layer): (&Kv, usize),
    n_groups: usize,
    step: &Step,
) -> Result<bool> {
    let n_rows = step.rows.len();
    let mut sites = [&w.attn_site, &w.ffn_site].into_iter().chain(next);
    if !sites.all(|site| hyper_connection::is_fused(parts, &site.hc, n_rows)) {
        return Ok(false);
    }
    let (x, y, mix, streams) = (&*a.x, &*a.y, &*a.mix, &*a.streams);
    let site = |site| hyper_connection::site(parts, (x, mix), streams, site, n_rows);
    let (own, ffn) = (site(&w.attn_site)?, site(&w.ffn_site)?);
    let next = next.map(site).transpose()?;

    let attention = Layer { parts, w: &w.attn, kv, layer, step };
    if !attention.run(y, x, &a.attention, n_groups, (Some(&own), Some(&ffn)))? {
        hyper_connection::leave_sums(parts, &ffn, Some(y))?;
    }
    let mixes = mixture::mixes(x, &w.moe, n_rows);
    hyper_connection::enter(parts, &ffn, !mixes)?;
    let to = (mixes.then_some(&ffn), next.as_ref());
    let crossed = mixture::moe(parts, y, x, &w.moe, n_rows, to)?;
    let Some(next) = &next else {
        hyper_connection::expand(parts, streams, y, mix, n_rows)?;
        return Ok(true);
    };
    if !crossed {
        hyper_connection::leave_sums(parts, next, Some(y))?;
    }
    // The next layer writes the mixing values.
    hyper_connection::enter(parts, next, false)?;
    Ok(true)
}
