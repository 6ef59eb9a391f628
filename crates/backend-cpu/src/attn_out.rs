//! The output of attention: heads are turned back where they are rounded for the first product.

use backend::{Act, AttentionWeights, Step};
use quant::dot::ActFormat;

use crate::matmul::{grouped_rounded, matmul};
use crate::parallel::{SharedRows, for_rows};
use crate::rope_tail::rotate_tail;
use crate::{Cpu, CpuScratch, Floats, Parts};

/// The coarse operation `attn_out`; its default body is the specification.
pub(crate) fn attn_out(
    cpu: &mut Cpu,
    y: &mut Act<Floats>,
    heads: &mut Act<Floats>,
    w: &AttentionWeights<Cpu>,
    (head_dim, n_groups): (usize, usize),
    step: &Step,
) {
    // It goes back below.
    let Some(mut scratch) = cpu.scratch.take() else { panic!("prepare comes first") };
    let CpuScratch { out_low, .. } = &mut *scratch;
    let n_rows = step.rows.len();
    turn_back(cpu.parts(), heads, w, (head_dim, n_groups), step);
    grouped_rounded(cpu.parts(), out_low, heads, &w.out_a, n_groups, n_rows);
    matmul(cpu.parts(), y, out_low, &w.out_b, n_rows);
    cpu.scratch = Some(scratch);
}

/// Turns heads back, a group of them in turn, and rounds each group.
fn turn_back(
    cpu: Parts<'_>,
    heads: &mut Act<Floats>,
    w: &AttentionWeights<Cpu>,
    (head_dim, n_groups): (usize, usize),
    step: &Step,
) {
    let Parts { pool, kernels, work, .. } = cpu;
    let (n_rows, cols, dim) = (step.rows.len(), heads.cols / n_groups, w.rope.dim());
    let angles = work.angles.of(pool, &w.rope, step);
    let rounded = work.rounded.of(ActFormat::of(w.out_a.tensor.ty));
    let rounded = rounded.map(|rows| {
        rows.reset(n_rows * n_groups, cols);
        rows.shared()
    });
    let heads = SharedRows::new(&mut heads.buf);
    for_rows(pool, n_rows * n_groups, |group| {
        // SAFETY: threads have different groups.
        let values = unsafe { heads.get(group * cols, cols) };
        let angles = &angles[group / n_groups * dim..][..dim];
        values.chunks_exact_mut(head_dim).for_each(|head| rotate_tail(head, angles, -1.0));
        if let Some(rounded) = &rounded {
            // SAFETY: as above.
            kernels.quantize(values, &mut unsafe { rounded.row(group) });
        }
    });
}
