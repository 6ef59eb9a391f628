//! Many activation rows: weights are unpacked once per panel of 128 rows and 1024 columns, then every
//! activation row meets the panel while it is in the cache.
//!
//! A panel holds steps of eight rows and 16 columns as [`Mac::pack`] lays them. What belongs to a block
//! of eight rows lies apart: scales that are left to be applied, `d` and `dmin`, eight of each.

use std::arch::aarch64::*;

use super::formats::{Format, Header};
use super::lanes::transpose;
use super::mac::Mac;
use super::planes;
use crate::dot::{Line, Out, PANEL_COLS, PANEL_ROWS, RoundedRows, Scratch, Weights, picked};

/// Rows side by side in a panel.
const SIDE: usize = 8;
/// Columns of a step.
const STEP: usize = 16;
/// Bytes of eight numbers of 32 bits.
const EIGHT: usize = 32;

/// Part of the weight matrix that is unpacked together.
#[derive(Clone, Copy)]
struct Panel {
    first_row: usize,
    rows: usize,
    first_col: usize,
    cols: usize,
}

/// Bytes of one block of eight rows: weights, and minima as one more step.
const fn weight_bytes<F: Format>() -> usize {
    SIDE * F::LEN + if F::MINS { SIDE * STEP } else { 0 }
}

/// Bytes of what belongs to one block of eight rows.
const fn meta_bytes<F: Format>() -> usize {
    EIGHT * (F::SUBS + 2)
}

/// Steps to a block of activations: words take two, sums of codes take two more.
const fn act_steps<F: Format>() -> usize {
    F::LEN / STEP * if F::WIDE { 2 } else { 1 } + if F::MINS { 2 } else { 0 }
}

/// Bytes of a block of `P` pairs of activation rows: steps, and a scale for each row.
const fn act_bytes<F: Format, const P: usize>() -> usize {
    (act_steps::<F>() * STEP + 4) * 2 * P
}

/// Products of weights with three activation rows or more.
///
/// # Safety
/// The processor must have `M`'s instructions, `F` must be the format of `w`, and `acts` must be its
/// own and as wide as `w`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn blocks<F: Format, M: Mac>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    const {
        let blocks = PANEL_ROWS / SIDE * PANEL_COLS / F::LEN;
        assert!(blocks * weight_bytes::<F>() <= Scratch::PANEL_BYTES);
        assert!(blocks * meta_bytes::<F>() <= Scratch::SCALE_BYTES);
        assert!(PANEL_COLS / F::LEN * act_bytes::<F, 2>() <= Scratch::ACT_BYTES);
    }
    let n_rows = out.rows();
    for first_row in (0..w.rows()).step_by(PANEL_ROWS) {
        for first_col in (0..w.cols()).step_by(PANEL_COLS) {
            let rows = PANEL_ROWS.min(w.rows() - first_row);
            let cols = PANEL_COLS.min(w.cols() - first_col);
            let panel = Panel { first_row, rows, first_col, cols };
            // SAFETY: the panel lies in `w` and `acts` is as wide; the assertions above are on the
            // largest panel, with the largest number of activation rows.
            unsafe {
                pack::<F, M>(w, &panel, scratch);
                let mut n = 0;
                while n < n_rows {
                    // Past the end the last row stands in, and its results are dropped.
                    let row = |i: usize| picked(index, (n + i).min(n_rows - 1));
                    if n_rows - n > 2 {
                        let rows = [[row(0), row(1)], [row(2), row(3)]];
                        multiply::<F, M, 2>(&panel, acts, rows, n, out, scratch);
                        n += 4;
                    } else {
                        multiply::<F, M, 1>(&panel, acts, [[row(0), row(1)]], n, out, scratch);
                        n += 2;
                    }
                }
            }
        }
    }
}

/// Unpacks a panel.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn pack<F: Format, M: Mac>(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    let n_blocks = panel.cols / F::LEN;
    let skip = panel.first_col / F::LEN * F::BYTES;
    let (mut weights, mut meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in (0..panel.rows).step_by(SIDE) {
        // Past the end the last row stands in, and its results are dropped.
        let rows: [*const u8; SIDE] = std::array::from_fn(|r| {
            w.row(panel.first_row + (side + r).min(panel.rows - 1))[skip..].as_ptr()
        });
        for b in 0..n_blocks {
            // SAFETY: whole blocks on one side; on the other the caller has room for all of them.
            unsafe {
                let blocks = rows.map(|row| row.add(b * F::BYTES));
                pack_block::<F, M>(blocks, weights.cast(), meta);
                weights = weights.add(weight_bytes::<F>());
                meta = meta.add(meta_bytes::<F>());
            }
        }
    }
}

/// Unpacks one block of eight rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pack_block<F: Format, M: Mac>(
    blocks: [*const u8; SIDE],
    weights: *mut i8,
    meta: *mut u8,
) {
    // SAFETY: blocks of this format and the caller's instructions; `weights` and `meta` have room for
    // a block.
    unsafe {
        let put = |step: usize, rows: [int8x16_t; SIDE]| {
            for (i, v) in M::pack(rows).into_iter().enumerate() {
                vst1q_s8(weights.add(step * SIDE * STEP + 16 * i), v);
            }
        };
        let headers: [Header; SIDE] = std::array::from_fn(|r| F::header(blocks[r]));
        let put_group = |g: usize, rows: [[int8x16_t; 2]; SIDE]| {
            put(2 * g, std::array::from_fn(|r| rows[r][0]));
            put(2 * g + 1, std::array::from_fn(|r| rows[r][1]));
        };
        for half in 0..F::LEN.div_ceil(128) {
            put_group(4 * half, group::<F, 0>(blocks, &headers, half));
            if F::LEN > 32 {
                put_group(4 * half + 1, group::<F, 1>(blocks, &headers, half));
                put_group(4 * half + 2, group::<F, 2>(blocks, &headers, half));
                put_group(4 * half + 3, group::<F, 3>(blocks, &headers, half));
            }
        }
        if F::MINS {
            put(F::LEN / STEP, std::array::from_fn(|r| headers[r].mins));
        }
        for quad in 0..F::SUBS / 4 {
            for half in 0..2 {
                let rows = std::array::from_fn(|r| headers[4 * half + r].scales[quad]);
                for (i, column) in transpose(rows).into_iter().enumerate() {
                    let at = meta.add(EIGHT * (4 * quad + i) + 16 * half);
                    vst1q_s32(at.cast(), column);
                }
            }
        }
        for half in 0..2 {
            let [d, dmin] = F::d(std::array::from_fn(|r| blocks[4 * half + r]));
            let at = meta.add(EIGHT * F::SUBS + 16 * half);
            vst1q_f32(at.cast(), d);
            vst1q_f32(at.add(EIGHT).cast(), dmin);
        }
    }
}

/// A group of weights of eight rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn group<F: Format, const G: usize>(
    blocks: [*const u8; SIDE],
    headers: &[Header; SIDE],
    half: usize,
) -> [[int8x16_t; 2]; SIDE] {
    // SAFETY: blocks of this format with their headers, which have the group.
    std::array::from_fn(|r| unsafe { F::weights::<G>(blocks[r], &headers[r], half) })
}

/// All rows of the panel times `P` pairs of activation rows, whose outputs start at row `n`.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn multiply<F: Format, M: Mac, const P: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    rows: [[usize; 2]; P],
    n: usize,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / F::LEN;
    let near = bytes_of(&mut scratch.acts).cast::<i8>();
    // SAFETY: the rows go on for the panel's width, and the caller has room for their steps.
    unsafe { gather::<F, M, P>(panel, acts, rows, near) };
    let (mut weights, mut meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in (0..panel.rows).step_by(SIDE) {
        let at = Outputs { n, col: panel.first_row + side, len: SIDE.min(panel.rows - side) };
        // SAFETY: the caller's instructions; `pack` has filled these blocks and `gather` their
        // activations.
        unsafe {
            let mut acc =
                if panel.first_col > 0 { at.load::<M, P>(out) } else { [[vdupq_n_f32(0.0); 4]; P] };
            for b in 0..n_blocks {
                let acts = near.add(b * act_bytes::<F, P>());
                Block { weights: weights.cast(), meta, acts }.add_to::<F, M>(&mut acc);
                weights = weights.add(weight_bytes::<F>());
                meta = meta.add(meta_bytes::<F>());
            }
            at.store::<M, P>(acc, out);
        }
    }
}

/// Lays the activations of a panel step by step, pair by pair: per block its codes (of words first the
/// high, then the low bytes), then high and low bytes of its sums, then its scales.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gather<F: Format, M: Mac, const P: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    rows: [[usize; 2]; P],
    near: *mut i8,
) {
    for (p, pair) in rows.into_iter().enumerate() {
        for b in 0..panel.cols / F::LEN {
            let col = panel.first_col + b * F::LEN;
            // SAFETY: every step below is the block's; codes and sums are there for all columns.
            unsafe {
                let block = near.add(b * act_bytes::<F, P>());
                let put = |step: usize, rows: [int8x16_t; 2]| {
                    let at = block.add((step * P + p) * 2 * STEP);
                    let [first, last] = M::pair(rows);
                    vst1q_s8(at, first);
                    vst1q_s8(at.add(16), last);
                };
                if F::WIDE {
                    let [a, b] = pair.map(|row| planes::of_codes(acts.wide(row)[col..].as_ptr()));
                    for i in 0..4 {
                        put(i, [a[i], b[i]]);
                    }
                } else {
                    let [a, b] = pair.map(|row| acts.codes(row)[col..].as_ptr());
                    for i in 0..F::LEN / STEP {
                        put(i, [vld1q_s8(a.add(i * STEP)), vld1q_s8(b.add(i * STEP))]);
                    }
                }
                if F::MINS {
                    let [a, b] =
                        pair.map(|row| planes::of_sums(acts.sums(row)[col / 16..].as_ptr()));
                    for i in 0..2 {
                        put(F::LEN / STEP + i, [a[i], b[i]]);
                    }
                }
                let scales = block.add(act_steps::<F>() * P * 2 * STEP + 8 * p).cast::<[f32; 2]>();
                scales.write_unaligned(pair.map(|row| acts.scales(row)[col / F::LEN]));
            }
        }
    }
}

/// One block of eight weight rows and `P` pairs of activation rows.
struct Block<const P: usize> {
    weights: *const i8,
    meta: *const u8,
    acts: *const i8,
}

impl<const P: usize> Block<P> {
    /// `acc = fma(sum, d * scale, acc)`, and the same with the minima.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_to<F: Format, M: Mac>(&self, acc: &mut [[float32x4_t; 4]; P]) {
        // SAFETY: the caller's instructions, a packed block and its activations.
        unsafe {
            let totals = self.totals::<F, M>();
            let at = self.meta.add(EIGHT * F::SUBS).cast::<f32>();
            let d = M::spread([vld1q_f32(at), vld1q_f32(at.add(4))]);
            let scales: [[float32x4_t; 4]; P] = std::array::from_fn(|p| {
                let at = self.acts.add(act_steps::<F>() * P * 2 * STEP + 8 * p);
                M::spread_acts(vreinterpret_f32_s8(vld1_s8(at)))
            });
            for p in 0..P {
                for i in 0..4 {
                    let scale = vmulq_f32(d[i], scales[p][i]);
                    acc[p][i] = vfmaq_f32(acc[p][i], vcvtq_f32_s32(totals[p][i]), scale);
                }
            }
            if F::MINS {
                let sums = self.wide::<M>(F::LEN / STEP, F::LEN / STEP, 1);
                let at = at.add(8);
                let dmin = M::spread([vld1q_f32(at), vld1q_f32(at.add(4))]);
                for p in 0..P {
                    for i in 0..4 {
                        let scale = vmulq_f32(dmin[i], scales[p][i]);
                        acc[p][i] = vfmsq_f32(acc[p][i], vcvtq_f32_s32(sums[p][i]), scale);
                    }
                }
            }
        }
    }

    /// Exact sums of the block.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn totals<F: Format, M: Mac>(&self) -> [[int32x4_t; 4]; P] {
        let zero = vdupq_n_s32(0);
        let mut totals = [[zero; 4]; P];
        let steps = F::LEN / STEP;
        // SAFETY: the caller's instructions, block and activations.
        unsafe {
            if F::WIDE {
                return self.wide::<M>(0, 0, steps);
            }
            if F::SUBS == 0 {
                for s in 0..steps {
                    self.step::<M>(&mut totals, s, s);
                }
                return totals;
            }
            let steps = steps / F::SUBS;
            for sub in 0..F::SUBS {
                let mut sums = [[zero; 4]; P];
                for s in sub * steps..(sub + 1) * steps {
                    self.step::<M>(&mut sums, s, s);
                }
                let at = self.meta.add(EIGHT * sub).cast::<i32>();
                let scales = M::spread_s32([vld1q_s32(at), vld1q_s32(at.add(4))]);
                for p in 0..P {
                    for i in 0..4 {
                        totals[p][i] = vmlaq_s32(totals[p][i], sums[p][i], scales[i]);
                    }
                }
            }
        }
        totals
    }

    /// Sums of `len` steps of weights with as many of high bytes of activations, then of low ones.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn wide<M: Mac>(&self, weights: usize, acts: usize, len: usize) -> [[int32x4_t; 4]; P] {
        let mut sums = [[vdupq_n_s32(0); 4]; P];
        // SAFETY: the caller's instructions, and steps of this block.
        unsafe {
            for s in 0..len {
                self.step::<M>(&mut sums, weights + s, acts + s);
            }
            for sums in &mut sums {
                for sum in sums {
                    *sum = planes::raise(*sum);
                }
            }
            for s in 0..len {
                self.step::<M>(&mut sums, weights + s, acts + len + s);
            }
        }
        sums
    }

    /// Adds products of the block's `weights`-th step with its `acts`-th.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step<M: Mac>(&self, sums: &mut [[int32x4_t; 4]; P], weights: usize, acts: usize) {
        // SAFETY: the caller's instructions, and steps of this block.
        unsafe {
            let at = self.weights.add(weights * SIDE * STEP);
            let weights = std::array::from_fn(|i| vld1q_s8(at.add(16 * i)));
            for (p, sums) in sums.iter_mut().enumerate() {
                let at = self.acts.add((acts * P + p) * 2 * STEP);
                M::step(sums, &weights, [vld1q_s8(at), vld1q_s8(at.add(16))]);
            }
        }
    }
}

/// Where the results of eight weight rows go: columns `col..col + len` of the rows from `n` on.
#[derive(Clone, Copy)]
struct Outputs {
    n: usize,
    col: usize,
    len: usize,
}

impl Outputs {
    /// Sums over the panels before this one, which the output keeps.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load<M: Mac, const P: usize>(&self, out: &mut Out<'_>) -> [[float32x4_t; 4]; P] {
        std::array::from_fn(|p| {
            let rows: [[float32x4_t; 2]; 2] = std::array::from_fn(|i| {
                let mut lanes = [0f32; SIDE];
                let n = self.n + 2 * p + i;
                if n < out.rows() {
                    lanes[..self.len].copy_from_slice(out.part(n, self.col, self.len));
                }
                // SAFETY: the array has the floats of two vectors.
                unsafe { [vld1q_f32(lanes.as_ptr()), vld1q_f32(lanes.as_ptr().add(4))] }
            });
            // SAFETY: the caller's instructions.
            unsafe { M::split(rows) }
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store<M: Mac, const P: usize>(&self, acc: [[float32x4_t; 4]; P], out: &mut Out<'_>) {
        for (p, acc) in acc.into_iter().enumerate() {
            // SAFETY: the caller's instructions.
            let rows = unsafe { M::join(acc) };
            for (i, [low, high]) in rows.into_iter().enumerate() {
                let n = self.n + 2 * p + i;
                if n >= out.rows() {
                    continue;
                }
                let mut lanes = [0f32; SIDE];
                // SAFETY: the array has the floats of two vectors.
                unsafe {
                    vst1q_f32(lanes.as_mut_ptr(), low);
                    vst1q_f32(lanes.as_mut_ptr().add(4), high);
                }
                out.part(n, self.col, self.len).copy_from_slice(&lanes[..self.len]);
            }
        }
    }
}

fn bytes_of(lines: &mut [Line]) -> *mut u8 {
    lines.as_mut_ptr().cast()
}
