//! One layer, for one token or a whole chunk, for the MTP block too, on every backend.

mod attention;

use backend::{LayerWeights, Ops, SiteWeights, Step};
use model::Config;

use crate::activations::Activations;
use crate::error::Result;
pub(crate) use attention::attention;

/// All layers of `weights` in turn, from the streams to the streams. `first` is the index of the
/// first layer's KV.
pub(crate) fn layers<B: Ops>(
    be: &mut B,
    config: &Config,
    weights: &[LayerWeights<B>],
    first: usize,
    kv: &mut B::Kv,
    a: &mut Activations<B::Buf, B::IdBuf>,
    step: &Step,
) -> Result<()> {
    for (i, w) in weights.iter().enumerate() {
        be.enter_layer(first + i, w)?;
        if i == 0 {
            be.hc_enter(&mut a.x, &mut a.mix, &a.streams, &w.attn_site, step)?;
        }
        attention(be, config, &w.attn, first + i, kv, a, step)?;
        hand_over(be, a, &w.ffn_site, step)?;
        be.moe(&mut a.y, &a.x, &w.moe, step)?;
        match weights.get(i + 1) {
            Some(next) => hand_over(be, a, &next.attn_site, step)?,
            None => be.hc_expand(&mut a.streams, &a.y, &a.mix, step)?,
        }
    }
    Ok(())
}

/// From a sublayer's output to the next one's input.
fn hand_over<B: Ops>(
    be: &mut B,
    a: &mut Activations<B::Buf, B::IdBuf>,
    next: &SiteWeights<B>,
    step: &Step,
) -> Result<()> {
    Ok(be.hc_next(&mut a.x, &mut a.mix, &mut a.streams, &a.y, next, step)?)
}
