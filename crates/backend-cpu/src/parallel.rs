//! Dividing rows and columns among threads: the one place where outputs are shared.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use quant::TensorType;
use quant::dot::{ActFormat, Acts, Kernels, RoundedRows};

use crate::pool::Pool;

/// The `i`-th of `n` nearly equal parts of `0..len`, cut at multiples of `unit`.
pub(crate) fn part(len: usize, unit: usize, i: usize, n: usize) -> Range<usize> {
    let units = len.div_ceil(unit);
    let cut = |i: usize| (units * i / n * unit).min(len);
    cut(i)..cut(i + 1)
}

/// Weight rows that are given out for many activation rows: half of what their kernels unpack together.
pub(crate) const PANEL: usize = 64;

/// Whether so many activation rows take the kernels for many: weight rows are then given out by [`Stretches`].
pub(crate) fn is_many(act_rows: usize) -> bool {
    act_rows > 16
}

/// Units of work that threads take in stretches: large ones first, within which weights are fetched ahead, then
/// ever smaller ones, so that nobody waits long for a thread with slower units or less of a processor.
pub(crate) struct Stretches {
    next: AtomicUsize,
    units: usize,
    threads: usize,
}

impl Stretches {
    pub(crate) fn new(units: usize, threads: usize) -> Self {
        Self { next: AtomicUsize::new(0), units, threads }
    }

    /// The next units that nobody has; `None` when there are no more.
    pub(crate) fn take(&self) -> Option<Range<usize>> {
        let end = |first: usize| {
            let left = self.units.checked_sub(first).filter(|left| *left > 0)?;
            let units = left / (2 * self.threads);
            // Whole panels until little is left.
            Some(first + (units - units % 2).max(1))
        };
        let first = self.next.fetch_update(Relaxed, Relaxed, end).ok()?;
        Some(first..end(first)?)
    }
}

/// Bytes of weights that a thread takes at least: some microseconds of work.
const LEAST_BYTES: usize = 64 << 10;

/// Weight rows for few activation rows, as bytes of one list: each thread has a share of its own, which it takes from
/// the front in ever smaller pieces, so that it reads one stretch of memory. Who is done takes from the others what
/// nobody has begun.
pub(crate) struct Shares {
    bytes: usize,
    /// What is taken of each thread's share.
    taken: Vec<Cursor>,
}

/// Alone in its line: the other threads write theirs.
#[derive(Default)]
#[repr(align(64))]
struct Cursor(AtomicUsize);

impl Shares {
    pub(crate) fn new(threads: usize) -> Self {
        Self { bytes: 0, taken: (0..threads).map(|_| Cursor::default()).collect() }
    }

    /// Bytes that [`Shares::new`] allocates.
    pub(crate) fn bytes(threads: usize) -> usize {
        threads * size_of::<Cursor>()
    }

    /// Threads that take from it.
    pub(crate) fn threads(&self) -> usize {
        self.taken.len()
    }

    /// Of a list of `bytes` nobody has taken anything.
    pub(crate) fn of(&mut self, bytes: usize) -> &Self {
        self.bytes = bytes;
        self.taken.iter_mut().for_each(|taken| *taken.0.get_mut() = 0);
        self
    }

    /// The next bytes for `thread`; `None` when all are taken.
    pub(crate) fn take(&self, thread: usize) -> Option<Range<usize>> {
        let n = self.taken.len();
        (0..n).find_map(|i| self.take_from((thread + i) % n))
    }

    fn take_from(&self, owner: usize) -> Option<Range<usize>> {
        let share = part(self.bytes, 1, owner, self.taken.len());
        let end = |first: usize| {
            let left = share.len().checked_sub(first).filter(|left| *left > 0)?;
            Some(first + (left / 4).max(LEAST_BYTES).min(left))
        };
        let first = self.taken[owner].0.fetch_update(Relaxed, Relaxed, end).ok()?;
        Some(share.start + first..share.start + end(first)?)
    }
}

/// The weight rows whose bytes lie in `taken` of a list, of those that stand from byte `first` on for `rows` rows,
/// cut at multiples of `unit`.
pub(crate) fn rows_in(
    taken: &Range<usize>,
    first: usize,
    (rows, row_bytes): (usize, usize),
    unit: usize,
) -> Range<usize> {
    let cut = |at: usize| {
        let row = (at.saturating_sub(first) / row_bytes.max(1)).min(rows);
        if row == rows { rows } else { row / unit * unit }
    };
    cut(taken.start)..cut(taken.end)
}

/// The weight rows of `units` panels, of those that stand from `first_unit` on for `rows` rows.
pub(crate) fn panels(units: &Range<usize>, first_unit: usize, rows: usize) -> Range<usize> {
    let row = |unit: usize| (unit.saturating_sub(first_unit) * PANEL).min(rows);
    row(units.start)..row(units.end)
}

/// A slice of which every thread takes other rows.
pub(crate) struct SharedRows<'a, T> {
    ptr: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: `get` obliges its callers to keep the ranges of different threads apart.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { ptr: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// `len` values from `at` on.
    ///
    /// # Safety
    /// No two live results may overlap.
    #[allow(clippy::mut_from_ref)] // That is what the type is for; the caller keeps ranges apart.
    pub(crate) unsafe fn get(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "{at}+{len} of {}", self.len);
        // SAFETY: in bounds, borrowed by `owner`, and apart from other results as promised.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at), len) }
    }
}

/// Calls `work(row, values)` for the first `n_rows` rows of `values`, `cols` values each. Rows are
/// divided among threads; a single row stays with the caller.
pub(crate) fn each_row<T: Send>(
    pool: &mut Pool,
    values: &mut [T],
    cols: usize,
    n_rows: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let shared = SharedRows::new(values);
    for_rows(pool, n_rows, |row| {
        // SAFETY: threads have different rows.
        work(row, unsafe { shared.get(row * cols, cols) });
    });
}

/// Calls `work(row)` for every row, divided among threads; a single row stays with the caller.
pub(crate) fn for_rows(pool: &mut Pool, n_rows: usize, work: impl Fn(usize) + Sync) {
    if n_rows <= 1 {
        return (0..n_rows).for_each(work);
    }
    let threads = pool.threads();
    pool.run(|thread| part(n_rows, 1, thread, threads).for_each(&work));
}

/// Calls `work(thread, rows)` with each thread's part of `0..n_rows`; a single row stays with the caller.
pub(crate) fn for_parts(pool: &mut Pool, n_rows: usize, work: impl Fn(usize, Range<usize>) + Sync) {
    if n_rows <= 1 {
        return work(0, 0..n_rows);
    }
    let threads = pool.threads();
    pool.run(|thread| work(thread, part(n_rows, 1, thread, threads)));
}

/// Rows of activations, rounded as the weights that they meet ask for.
pub(crate) struct Inputs<'a> {
    /// `[rows, cols]`
    pub(crate) values: &'a [f32],
    pub(crate) cols: usize,
    /// Filled by [`Inputs::round`] where a format wants them.
    pub(crate) rounded: &'a mut Rounded,
}

impl<'a> Inputs<'a> {
    /// Rounds all rows for weights of the given types.
    pub(crate) fn round(&mut self, pool: &mut Pool, kernels: Kernels, types: &[TensorType]) {
        let (values, cols) = (self.values, self.cols);
        let n_rows = values.len() / cols;
        for rows in &mut self.rounded.0 {
            if types.iter().all(|&ty| ActFormat::of(ty) != rows.format()) {
                continue;
            }
            rows.reset(n_rows, cols);
            let shared = rows.shared();
            let fill = |row: usize| {
                let values = &values[row * cols..][..cols];
                // SAFETY: each row is filled once, by one thread.
                kernels.quantize(values, &mut unsafe { shared.row(row) });
            };
            for_rows(pool, n_rows, fill);
        }
    }

    /// The rows of `index`, in the form that weights of type `ty` take.
    pub(crate) fn acts<'b>(&'b self, ty: TensorType, index: &'b [u32]) -> Acts<'b> {
        let index = Some(index);
        let (values, cols) = (self.values, self.cols);
        self.rounded.0.iter().find(|rows| rows.format() == ActFormat::of(ty)).map_or(
            Acts::F32 { values, cols, stride: cols, index },
            |rows| Acts::Rounded { rows, index },
        )
    }
}

/// Room for the same inputs in every rounded form; an input usually takes one of them.
pub(crate) struct Rounded([RoundedRows; 3]);

impl Rounded {
    const FORMATS: [ActFormat; 3] = [ActFormat::Q16x32, ActFormat::Q8x32, ActFormat::Q8x256];

    pub(crate) fn with_capacity(values: usize) -> Self {
        Self(Self::FORMATS.map(|format| RoundedRows::with_capacity(format, values)))
    }

    /// The rows of one format; none for unrounded inputs.
    pub(crate) fn of(&mut self, format: ActFormat) -> Option<&mut RoundedRows> {
        self.0.iter_mut().find(|rows| rows.format() == format)
    }

    /// Bytes that [`Rounded::with_capacity`] allocates.
    pub(crate) fn bytes(values: usize) -> usize {
        Self::FORMATS.iter().map(|&format| RoundedRows::bytes(format, values)).sum()
    }
}

/// Where to cut weight rows: kernels for one activation row take 8 at a time, or 4 of floats, of which matrices of few
/// rows are, those for a few 16, and those for many unpack panels of up to 128, halves of which are too coarse to
/// divide small matrices evenly.
pub(crate) fn unit(weight_rows: usize, act_rows: usize, threads: usize) -> usize {
    if act_rows < 2 {
        if weight_rows < 16 * threads { 4 } else { 8 }
    } else if weight_rows >= 64 * 8 * threads {
        64
    } else {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::{PANEL, Shares, Stretches, panels, part, rows_in};

    #[test]
    fn shares_cover_every_row_once() {
        // Two matrices, one after another.
        for (a, b, n_threads) in [(1000, 128, 2), (1, 0, 3), (129, 4096, 1), (5000, 5000, 8)] {
            let (a_bytes, b_bytes, unit) = (1088, 68, 8);
            let mut shares = Shares::new(n_threads);
            // Every thread takes all that is left at its turn, the last one first.
            for turn in [0, n_threads - 1] {
                let shares = shares.of(a * a_bytes + b * b_bytes);
                let (mut of_a, mut of_b) = (vec![0; a], vec![0; b]);
                while let Some(taken) = shares.take(turn) {
                    assert!(!taken.is_empty());
                    let rows = rows_in(&taken, 0, (a, a_bytes), unit);
                    assert!(rows.end == a || rows.end.is_multiple_of(unit));
                    of_a[rows].iter_mut().for_each(|n| *n += 1);
                    let rows = rows_in(&taken, a * a_bytes, (b, b_bytes), unit);
                    of_b[rows].iter_mut().for_each(|n| *n += 1);
                }
                assert!(of_a.into_iter().chain(of_b).all(|n| n == 1));
            }
        }
    }

    #[test]
    fn stretches_of_panels_cover_every_row_once() {
        // Two matrices, one after another.
        for (a, b, threads) in [(1000, 128, 2), (1, 0, 3), (129, 4096, 1), (5000, 5000, 8)] {
            let second = usize::div_ceil(a, PANEL);
            let stretches = Stretches::new(second + usize::div_ceil(b, PANEL), threads);
            let (mut next_a, mut next_b) = (0, 0);
            while let Some(units) = stretches.take() {
                assert!(!units.is_empty());
                let (of_a, of_b) = (panels(&units, 0, a), panels(&units, second, b));
                assert_eq!(of_a.start, next_a);
                assert!(of_b.is_empty() || of_b.start == next_b);
                (next_a, next_b) = (of_a.end, next_b.max(of_b.end));
            }
            assert_eq!((next_a, next_b), (a, b));
        }
    }

    #[test]
    fn parts_cover_everything_once() {
        for (len, unit, n) in [(10, 1, 3), (100, 16, 2), (7, 8, 4), (0, 8, 2), (64, 64, 3)] {
            let mut next = 0;
            for i in 0..n {
                let range = part(len, unit, i, n);
                assert_eq!(range.start, next);
                assert!(range.end == len || range.end.is_multiple_of(unit));
                next = range.end;
            }
            assert_eq!(next, len);
        }
    }
}
