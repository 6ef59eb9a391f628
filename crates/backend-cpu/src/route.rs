//! Which experts a row uses and with what weight (spec: model §4.6).

use backend::{Act, Error, Result, Routing, Step};

use crate::device::NAME;
use crate::parallel::{SharedRows, for_parts};
use crate::work::Work;
use crate::{Floats, Parts, Weight};

pub(crate) fn top_k(
    cpu: Parts<'_>,
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    bias: &Weight,
    step: &Step,
) -> Result<()> {
    let bias = bias.values()?;
    route(cpu, routing, logits, step, |scores, _, order, ids| {
        let biased = |e: u32| scores[e as usize] + bias[e as usize];
        order.clear();
        order.extend(0..scores.len() as u32);
        // The order is total, so that sorting in place is as good as a stable sort.
        let better = |a: &u32, b: &u32| biased(*b).total_cmp(&biased(*a)).then(a.cmp(b));
        if ids.len() < order.len() {
            order.select_nth_unstable_by(ids.len(), better);
            order.truncate(ids.len());
        }
        order.sort_unstable_by(better);
        ids.copy_from_slice(order);
    });
    Ok(())
}

pub(crate) fn hash(
    cpu: Parts<'_>,
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    table: &Weight,
    step: &Step,
) -> Result<()> {
    let entries = table.tensor.data.bytes();
    let choice = |row: usize, used: usize| {
        let at = step.rows[row].token as usize * used * 4;
        entries[at..at + 4 * used].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))
    };
    // The table comes from the file.
    let (n_experts, used) = (logits.cols, routing.ids.cols);
    let mut ids = (0..step.rows.len()).flat_map(|row| choice(row, used));
    if let Some(id) = ids.find(|&id| id as usize >= n_experts) {
        return Err(Error::Unsupported {
            device: NAME,
            what: table.tensor.name.clone(),
            expected: format!("expert ids below {n_experts}"),
            found: id.to_string(),
        });
    }
    route(cpu, routing, logits, step, |_, row, _, ids| {
        ids.iter_mut().zip(choice(row, used)).for_each(|(id, chosen)| *id = chosen);
    });
    Ok(())
}

/// Scores, a choice, and weights that are the chosen scores normalised: the bias never enters.
fn route(
    cpu: Parts<'_>,
    routing: &mut Routing<Floats, Vec<u32>>,
    logits: &Act<Floats>,
    step: &Step,
    choose: impl Fn(&[f32], usize, &mut Vec<u32>, &mut [u32]) + Sync,
) {
    let (used, n_experts, scale) = (routing.ids.cols, logits.cols, cpu.shape.config.route_scale);
    let ids = SharedRows::new(&mut routing.ids.buf);
    let weights = SharedRows::new(&mut routing.weights.buf);
    let (works, n_rows) = (&cpu.work.threads, step.rows.len());
    for_parts(cpu.pool, n_rows, |thread, rows| {
        let mut work = Work::thread(works, thread);
        let work = &mut *work;
        for r in rows {
            // SAFETY: threads have different rows.
            let (ids, weights) = unsafe { (ids.get(r * used, used), weights.get(r * used, used)) };
            let scores = &mut work.row[..n_experts];
            for (s, g) in scores.iter_mut().zip(&logits.buf[r * n_experts..]) {
                *s = softplus(*g).sqrt();
            }
            choose(scores, r, &mut work.order, ids);
            let sum: f32 = ids.iter().map(|&e| scores[e as usize]).sum();
            for (w, &e) in weights.iter_mut().zip(ids.iter()) {
                *w = scores[e as usize] / sum * scale;
            }
        }
    });
}

fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
