//! One layer, for one token or a whole chunk, for the MTP block too, on every backend.

use std::sync::atomic::{AtomicBool, Ordering};

use backend::{AttentionWork, LayerWeights, Ops, SiteWeights, Step, defaults};
use model::Config;

use crate::activations::Activations;
use crate::error::{Error, Result};

/// Steps of more rows can be stopped between two sublayers; shorter ones are over in a moment.
const STOPPABLE_ROWS: usize = 16;

/// All layers of `weights` in turn, from the streams to the streams. `first` is the index of the
/// first layer's KV, `stop` a flag that abandons a long step.
///
/// With the rows of `step` that are `wanted` as a step of their own, the last layer computes of the others only what
/// it stages, and the streams of those that are wanted lie at the front in the end.
pub(crate) fn layers<B: Ops>(
    be: &mut B,
    config: &Config,
    weights: &[LayerWeights<B>],
    (first, stop): (usize, Option<&AtomicBool>),
    kv: &mut B::Kv,
    a: &mut Activations<B::Buf, B::IdBuf>,
    (step, wanted): (&Step, Option<&Step>),
) -> Result<()> {
    let stop = stop.filter(|_| step.rows.len() > STOPPABLE_ROWS && be.interruptible());
    let check = || match stop {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Stopped),
        _ => Ok(()),
    };
    let heads = (config.head_dim, config.n_out_groups);
    let mut step = step;
    for (i, w) in weights.iter().enumerate() {
        check()?;
        be.enter_layer(first + i, w)?;
        if i == 0 {
            be.hc_enter(&mut a.x, &mut a.mix, &a.streams, &w.attn_site, step)?;
        }
        let next = weights.get(i + 1).map(|w| &w.attn_site);
        let narrowed = wanted.filter(|_| next.is_none());
        if narrowed.is_none() && be.layer(a.of_layer(), w, next, (kv, first + i), heads, step)? {
            continue;
        }
        match narrowed {
            Some(wanted) => {
                be.attn_kv(&mut a.attention, &a.x, &w.attn, step)?;
                defaults::stage(be, &w.attn, (kv, first + i), &a.attention, step)?;
                for act in [&mut a.x, &mut a.mix, &mut a.streams] {
                    be.keep_wanted(act, step)?;
                }
                if wanted.rows.is_empty() {
                    return Ok(());
                }
                step = wanted;
                be.attn_in(&mut a.attention, &a.x, &w.attn, step)?;
                let work = AttentionWork { buffers: &mut a.attention, picked: &mut a.picked };
                let kv = (&*kv, first + i);
                defaults::attend_staged(be, &mut a.y, &w.attn, kv, work, heads, step)?;
            }
            None => {
                let work = AttentionWork { buffers: &mut a.attention, picked: &mut a.picked };
                be.attention(&mut a.y, &a.x, &w.attn, (kv, first + i), work, heads, step)?;
            }
        }
        hand_over(be, a, &w.ffn_site, step)?;
        check()?;
        be.moe(&mut a.y, &a.x, &w.moe, step)?;
        match next {
            Some(site) => hand_over(be, a, site, step)?,
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
