//! Every projection of a layer's input in two regions of products, with what a row needs behind each in one more.

use backend::{Act, AttentionBuffers, AttentionWeights, Result, Step};
use model::LayerKind;

use crate::index_top_k;
use crate::norm::{inverse_rms, normalise};
use crate::parallel::{SharedRows, for_rows, part};
use crate::products::of_one_input;
use crate::rope_tail::rotate_tail;
use crate::{Cpu, CpuScratch, Floats, Parts};

/// What comes of an input.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Of {
    All,
    /// What is staged, but no queries.
    Staged,
}

/// The coarse operations `attn_in` and `attn_kv`; the default body of the former is the specification.
pub(crate) fn attn_in(
    cpu: &mut Cpu,
    out: &mut AttentionBuffers<Floats>,
    (x, of): (&Act<Floats>, Of),
    w: &AttentionWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    // It goes back below, also when something fails.
    let Some(mut scratch) = cpu.scratch.take() else { panic!("prepare comes first") };
    let result = project(cpu, &mut scratch, out, (x, of), w, step);
    cpu.scratch = Some(scratch);
    result
}

fn project(
    cpu: &mut Cpu,
    s: &mut CpuScratch,
    out: &mut AttentionBuffers<Floats>,
    (x, of): (&Act<Floats>, Of),
    w: &AttentionWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let n_rows = step.rows.len();
    let queries = of == Of::All;
    let choosing = w.indexer.as_ref().filter(|_| queries && !sees_no_more(cpu, step));
    let pool = if w.kind == LayerKind::Csa { &mut out.csa } else { &mut out.hca };
    let (kv, gate) = (&mut pool.kv, &mut pool.gate);
    let (index_kv, index_gate) = (&mut out.index.kv, &mut out.index.gate);
    let (compressor, indexer) = (w.compressor.as_ref(), w.indexer.as_ref());
    let products = [
        queries.then_some((&mut s.q_latent_raw, &w.q_a)),
        Some((&mut s.kv_raw, &w.kv)),
        compressor.map(|c| (kv, &c.kv)),
        compressor.map(|c| (gate, &c.gate)),
        indexer.map(|i| (index_kv, &i.compressor.kv)),
        indexer.map(|i| (index_gate, &i.compressor.gate)),
        choosing.map(|i| (&mut out.index_weights, &i.proj)),
    ];
    of_one_input(cpu.parts(), x, products, n_rows);
    latents(cpu.parts(), s, out, (w, of), step)?;
    if queries {
        let products = [Some((&mut s.q_raw, &w.q_b)), choosing.map(|i| (&mut out.index_q, &i.q_b))];
        of_one_input(cpu.parts(), &out.q_latent, products, n_rows);
        turn_queries(cpu.parts(), s, out, w, choosing.is_some(), step);
    }
    Ok(())
}

/// Whether every row sees no more compressed rows than an indexer picks: it then picks all of them, whatever
/// its queries are.
fn sees_no_more(cpu: &mut Cpu, step: &Step) -> bool {
    let top_k = cpu.parts().shape.config.indexer.top_k;
    step.rows.iter().all(|row| index_top_k::visible(row) <= top_k)
}

/// The query latent and the KV row: norms, and the rotation of the latter's tail.
fn latents(
    cpu: Parts<'_>,
    s: &CpuScratch,
    out: &mut AttentionBuffers<Floats>,
    (w, of): (&AttentionWeights<Cpu>, Of),
    step: &Step,
) -> Result<()> {
    let (q_norm, kv_norm) = (w.q_a_norm.values()?, w.kv_norm.values()?);
    let (kernels, eps, dim) = (cpu.kernels, cpu.shape.config.rms_eps, w.rope.dim());
    let angles = cpu.work.angles.of(cpu.pool, &w.rope, step);
    let (q_cols, kv_cols) = (out.q_latent.cols, out.kv.cols);
    let (q, kv) = (SharedRows::new(&mut out.q_latent.buf), SharedRows::new(&mut out.kv.buf));
    for_rows(cpu.pool, step.rows.len(), |r| {
        // SAFETY: threads have different rows.
        let (q, kv) = unsafe { (q.get(r * q_cols, q_cols), kv.get(r * kv_cols, kv_cols)) };
        let both = [(q, &s.q_latent_raw, &q_norm), (&mut *kv, &s.kv_raw, &kv_norm)];
        for (out, raw, norm) in both.into_iter().skip(usize::from(of == Of::Staged)) {
            let raw = &raw.buf[r * raw.cols..][..raw.cols];
            let scale = inverse_rms(kernels, raw, eps);
            for ((o, v), w) in out.iter_mut().zip(raw).zip(&**norm) {
                *o = w * (v * scale);
            }
        }
        rotate_tail(kv, &angles[r * dim..][..dim], 1.0);
    });
    Ok(())
}

/// Queries: a norm for every head, and the rotation of tails.
fn turn_queries(
    cpu: Parts<'_>,
    s: &CpuScratch,
    out: &mut AttentionBuffers<Floats>,
    w: &AttentionWeights<Cpu>,
    choosing: bool,
    step: &Step,
) {
    let (kernels, eps, dim) = (cpu.kernels, cpu.shape.config.rms_eps, w.rope.dim());
    let angles = cpu.work.angles.of(cpu.pool, &w.rope, step);
    let (head_dim, cols, index_cols) = (out.kv.cols, out.q.cols, out.index_q.cols);
    let index_dim = w.indexer.as_ref().filter(|_| choosing).map(|i| i.compressor.width);
    let (q, index_q) = (SharedRows::new(&mut out.q.buf), SharedRows::new(&mut out.index_q.buf));
    // A row alone is divided by heads, as it is where these attend.
    let (n_rows, n_heads) = (step.rows.len(), cols / head_dim);
    let pieces = if n_rows == 1 { cpu.pool.threads().min(n_heads) } else { 1 };
    for_rows(cpu.pool, n_rows * pieces, |item| {
        let (r, piece) = (item / pieces, item % pieces);
        let angles = &angles[r * dim..][..dim];
        let heads = part(n_heads, 1, piece, pieces);
        let (at, len) = (r * cols + heads.start * head_dim, heads.len() * head_dim);
        // SAFETY: threads have different rows, or heads.
        let q = unsafe { q.get(at, len) };
        let raw = s.q_raw.buf[at..at + len].chunks_exact(head_dim);
        for (head, raw) in q.chunks_exact_mut(head_dim).zip(raw) {
            normalise(kernels, raw, eps, head);
            rotate_tail(head, angles, 1.0);
        }
        if let Some(width) = index_dim.filter(|_| piece == 0) {
            // SAFETY: as above.
            let index_q = unsafe { index_q.get(r * index_cols, index_cols) };
            index_q.chunks_exact_mut(width).for_each(|head| rotate_tail(head, angles, 1.0));
        }
    });
}
