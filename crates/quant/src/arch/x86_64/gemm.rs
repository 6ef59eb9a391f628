//! Many activation rows: weights are unpacked once per panel of 128 rows and 1024 columns, then every
//! activation row meets the panel while it is in the cache.
//!
//! A panel holds 16 rows side by side, four weights of each in turn (two, widened, for Q8_0), so that
//! a broadcast of the matching activations serves 16 rows and no sum over lanes is ever needed.

use std::arch::x86_64::*;
use std::ops::Range;

use super::formats::{Format, Header};
use super::lanes::transpose;
use crate::dot::{Line, Out, PANEL_COLS, PANEL_ROWS, RoundedRows, Scratch, Weights, picked};

/// Up to so many activation rows are few: unpacking weights takes longer than their products.
pub(super) const FEW_ROWS: usize = 16;
/// Rows side by side in a panel.
pub(super) const SIDE: usize = 16;

/// Part of the weight matrix that is unpacked together.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) first_col: usize,
    pub(super) cols: usize,
}

impl Panel {
    /// Cuts a matrix into panels, along rows first.
    pub(super) fn each(w: &Weights<'_>, mut visit: impl FnMut(Self)) {
        for first_row in (0..w.rows()).step_by(PANEL_ROWS) {
            for first_col in (0..w.cols()).step_by(PANEL_COLS) {
                let rows = PANEL_ROWS.min(w.rows() - first_row);
                let cols = PANEL_COLS.min(w.cols() - first_col);
                visit(Self { first_row, rows, first_col, cols });
            }
        }
    }

    /// Asks for a share of the panel that comes next, where a panel's products take long: for all of it when the parts of `0..n` have been named. Rows
    /// of a panel are too short for the processor to see where they go.
    pub(super) fn fetch_next(&self, w: &Weights<'_>, part: Range<usize>, n: usize) {
        if n <= FEW_ROWS {
            return;
        }
        let mut next = Self { first_col: self.first_col + self.cols, ..*self };
        if next.first_col == w.cols() {
            next = Self { first_row: self.first_row + self.rows, first_col: 0, ..*self };
        }
        next.cols = PANEL_COLS.min(w.cols() - next.first_col);
        next.rows = PANEL_ROWS.min(w.rows() - next.first_row);
        let bytes = |cols: usize| cols / w.ty().block_len() * w.ty().block_bytes();
        for row in next.rows * part.start / n..next.rows * part.end / n {
            let at = w.row(next.first_row + row).as_ptr().wrapping_add(bytes(next.first_col));
            for line in (0..bytes(next.cols)).step_by(64) {
                // SAFETY: a request, which may fail; every x86-64 processor knows it.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(line).cast()) };
            }
        }
    }

    /// Pointers to sixteen of the panel's rows at its first block; the last row stands in past the end.
    pub(super) fn sixteen(&self, w: &Weights<'_>, side: usize) -> [*const u8; SIDE] {
        let (low, high) = (self.eight(w, side, 0), self.eight(w, side, 1));
        std::array::from_fn(|r| if r < 8 { low[r] } else { high[r - 8] })
    }

    /// Asks for a part of the 16 rows that are unpacked after those of `side`, if the panel is as wide as the
    /// matrix, so that rows lie side by side. Requests past the end do nothing.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn fetch_side(&self, w: &Weights<'_>, side: usize, bytes: Range<usize>) {
        if self.cols < w.cols() {
            return;
        }
        let next = w.row(self.first_row + side * SIDE).as_ptr();
        let next = next.wrapping_add(SIDE * w.row_bytes());
        for at in bytes.step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(at).cast());
        }
    }

    /// Pointers to eight of the panel's rows at its first block; the last row stands in past the end.
    pub(super) fn eight(&self, w: &Weights<'_>, side: usize, half: usize) -> [*const u8; 8] {
        let skip = self.first_col / w.ty().block_len() * w.ty().block_bytes();
        std::array::from_fn(|r| {
            let row = self.first_row + side * SIDE + half * 8 + r;
            w.row(row.min(self.first_row + self.rows - 1))[skip..].as_ptr()
        })
    }
}

/// Activation rows that are multiplied together: `n`-th and following of those in use.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) index: Option<&'a [u32]>,
    pub(super) n: usize,
    pub(super) n_rows: usize,
}

impl Tile<'_> {
    /// Where the tile's rows lie; the last one in use stands in past the end.
    pub(super) fn rows<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|i| picked(self.index, (self.n + i).min(self.n_rows - 1)))
    }

    /// Where the following rows lie, to be fetched ahead; the last one stands in past the end.
    pub(super) fn next_rows<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|i| picked(self.index, (self.n + N + i).min(self.n_rows - 1)))
    }
}

/// Cuts `n_rows` into tiles of the given lengths, the longest first.
pub(super) fn for_tiles(n_rows: usize, lengths: [usize; 3], mut visit: impl FnMut(usize, usize)) {
    let mut n = 0;
    for len in lengths {
        while n + len <= n_rows {
            visit(n, len);
            n += len;
        }
    }
}

/// Outputs of up to `N` activation rows and 16 weight rows, kept between panels in the output itself.
pub(super) struct Accumulators<const N: usize>(pub(super) [[f32; SIDE]; N]);

impl<const N: usize> Accumulators<N> {
    #[inline]
    pub(super) fn load(panel: &Panel, side: usize, out: &mut Out<'_>, n: usize) -> Self {
        let mut acc = [[0f32; SIDE]; N];
        if panel.first_col > 0 {
            let len = SIDE.min(panel.rows - side * SIDE);
            for (i, acc) in acc.iter_mut().enumerate() {
                let col = panel.first_row + side * SIDE;
                acc[..len].copy_from_slice(out.part(n + i, col, len));
            }
        }
        Self(acc)
    }

    #[inline]
    pub(super) fn store(&self, panel: &Panel, side: usize, out: &mut Out<'_>, n: usize) {
        let len = SIDE.min(panel.rows - side * SIDE);
        for (i, acc) in self.0.iter().enumerate() {
            let col = panel.first_row + side * SIDE;
            out.part(n + i, col, len).copy_from_slice(&acc[..len]);
        }
    }

    /// `acc = fma(sums, d * scale, acc)` for half `h` of activation row `n`; the sums are negated
    /// where `negative`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add(
        &mut self,
        (n, h): (usize, usize),
        sums: __m256i,
        scale: __m256,
        negative: bool,
    ) {
        let acc = &mut self.0[n][8 * h..8 * h + 8];
        let sums = _mm256_cvtepi32_ps(sums);
        // SAFETY: the slice has eight floats.
        unsafe {
            let old = _mm256_loadu_ps(acc.as_ptr());
            let new = if negative {
                _mm256_fnmadd_ps(sums, scale, old)
            } else {
                _mm256_fmadd_ps(sums, scale, old)
            };
            _mm256_storeu_ps(acc.as_mut_ptr(), new);
        }
    }
}

/// Bytes that belong to one block of 16 rows beside its weights: scales (a pair of words for every 16
/// or 32 weights and row) unless they are folded into these, minima (a pair for every 32), `d` and `dmin`.
pub(super) const fn meta_bytes<F: Format>() -> usize {
    mins_at::<F>() + if F::MINS { 8 * 64 } else { 0 } + 128
}

pub(super) const fn mins_at<F: Format>() -> usize {
    if F::LEN == 32 || F::FOLDED {
        0
    } else if F::SCALES_OF_32 {
        8 * 64
    } else {
        16 * 64
    }
}

/// Any format but Q8_0.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocks<F: Format>(
    w: &Weights<'_>,
    acts: &RoundedRows,
    index: Option<&[u32]>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_rows = out.rows();
    Panel::each(w, |panel| {
        // SAFETY: the panel lies in `w`, whose format this is, and `acts` is as wide; the scratch has
        // room for the largest panel.
        unsafe {
            pack::<F>(w, &panel, scratch);
            for_tiles(n_rows, [3, 2, 1], |n, len| {
                let tile = Tile { index, n, n_rows };
                match len {
                    3 => multiply::<F, 3>(&panel, acts, tile, out, scratch),
                    2 => multiply::<F, 2>(&panel, acts, tile, out, scratch),
                    _ => multiply::<F, 1>(&panel, acts, tile, out, scratch),
                }
            });
        }
    });
}

/// Unpacks a panel.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack<F: Format>(w: &Weights<'_>, panel: &Panel, scratch: &mut Scratch) {
    let n_blocks = panel.cols / F::LEN;
    let (weights, meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        for half in 0..2 {
            let rows = panel.eight(w, side, half);
            for b in 0..n_blocks {
                let at = side * n_blocks + b;
                let next = 2 * b + half;
                panel.fetch_side(w, side, next * 8 * F::BYTES..(next + 1) * 8 * F::BYTES);
                // SAFETY: whole blocks on one side; on the other `at` counts blocks of 16 rows, of
                // which the buffers hold `PANEL_ROWS / 16 * PANEL_COLS / LEN`.
                unsafe {
                    let mut blocks = rows;
                    for block in &mut blocks {
                        *block = block.add(b * F::BYTES);
                    }
                    let weights = weights.add(at * F::LEN * SIDE + 32 * half);
                    let meta = meta.add(at * meta_bytes::<F>());
                    pack_eight::<F>(blocks, weights, meta, half);
                }
            }
        }
    }
}

/// Unpacks one block of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_eight<F: Format>(
    blocks: [*const u8; 8],
    weights: *mut u8,
    meta: *mut u8,
    half: usize,
) {
    // SAFETY: blocks of this format; `weights` and `meta` have room for a block of 16 rows.
    unsafe {
        let mut headers = [Header::ZERO; 8];
        for (header, block) in headers.iter_mut().zip(blocks) {
            *header = F::header(block);
        }
        let mut rows = [_mm256_setzero_si256(); 8];
        for g in 0..F::LEN / 32 {
            for (r, row) in rows.iter_mut().enumerate() {
                *row = F::weights(blocks[r], &headers[r], g);
            }
            for (quad, column) in transpose(&rows).into_iter().enumerate() {
                _mm256_storeu_si256(weights.add((8 * g + quad) * 64).cast(), column);
            }
        }
        if F::LEN == 256 {
            pack_scales::<F>(&headers, meta.add(32 * half));
        }
        let d_at = meta.add(meta_bytes::<F>() - 128 + 32 * half).cast::<f32>();
        for (r, block) in blocks.into_iter().enumerate() {
            let (d, dmin) = F::d(block);
            d_at.add(r).write(d);
            d_at.add(16 + r).write(dmin);
        }
    }
}

/// Scales and minima of eight rows, a dword (a pair of words) each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_scales<F: Format>(headers: &[Header; 8], meta: *mut u8) {
    let (mut low, mut high, mut mins) =
        ([_mm256_setzero_si256(); 8], [_mm256_setzero_si256(); 8], [_mm256_setzero_si256(); 8]);
    for (r, header) in headers.iter().enumerate() {
        let scales = header.scales;
        if F::SCALES_OF_32 {
            // Adjacent scales are equal, so that pairs of them are in place.
            low[r] = _mm256_cvtepi8_epi16(scales);
        } else {
            low[r] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(scales, scales));
            high[r] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(scales, scales));
        }
        mins[r] = _mm256_cvtepi8_epi16(header.mins);
    }
    // SAFETY: the caller has room for a block of 16 rows.
    unsafe {
        if !F::FOLDED {
            put(low, meta);
            if !F::SCALES_OF_32 {
                put(high, meta.add(8 * 64));
            }
        }
        if F::MINS {
            put(mins, meta.add(mins_at::<F>()));
        }
    }
}

/// Eight dwords of eight rows, the first of all rows first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn put(rows: [__m256i; 8], at: *mut u8) {
    for (i, column) in transpose(&rows).into_iter().enumerate() {
        // SAFETY: the caller has room for eight columns, 64 bytes apart.
        unsafe { _mm256_storeu_si256(at.add(64 * i).cast(), column) };
    }
}

/// All rows of the panel times `N` activation rows.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<F: Format, const N: usize>(
    panel: &Panel,
    acts: &RoundedRows,
    tile: Tile<'_>,
    out: &mut Out<'_>,
    scratch: &mut Scratch,
) {
    let n_blocks = panel.cols / F::LEN;
    let (rows, next) = (tile.rows::<N>(), tile.next_rows::<N>());
    let next = next.map(|row| acts.codes(row)[panel.first_col..].as_ptr());
    let codes = rows.map(|row| acts.codes(row)[panel.first_col..].as_ptr());
    let near = bytes_of(&mut scratch.acts);
    // SAFETY: the rows go on for the panel's width; a quarter of the buffer holds their codes.
    let corrections = unsafe {
        gather(codes.map(|row| row.cast()), panel.cols, near);
        near.add(8 * PANEL_COLS).cast::<i32>()
    };
    if F::OFFSET != 0 {
        for (i, codes) in codes.into_iter().enumerate() {
            for g in 0..panel.cols / 32 {
                // SAFETY: the row goes on for the panel's width; four dwords per 32 codes fit.
                unsafe {
                    let corrections = corrections.add(i * PANEL_COLS / 8 + 4 * g);
                    correct::<F>(codes.add(32 * g), corrections);
                }
            }
        }
    }
    let acts = ActTile::<N> {
        codes: near,
        scales: rows.map(|row| acts.scales(row)[panel.first_col / F::LEN..].as_ptr()),
        sums: rows.map(|row| acts.sums(row)[panel.first_col / 16..].as_ptr()),
        corrections,
    };
    let (weights, meta) = (bytes_of(&mut scratch.panel), bytes_of(&mut scratch.scales));
    for side in 0..panel.rows.div_ceil(SIDE) {
        let mut acc = Accumulators::<N>::load(panel, side, out, tile.n);
        for b in 0..n_blocks {
            let at = side * n_blocks + b;
            if side == 0 {
                // As many bytes of the rows that come next as this block takes.
                for line in (b * F::LEN..(b + 1) * F::LEN).step_by(64) {
                    for row in next {
                        _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(line));
                    }
                }
            }
            // SAFETY: `pack` has filled this block.
            unsafe {
                let meta = meta.add(at * meta_bytes::<F>());
                acts.block::<F>(weights.add(at * F::LEN * SIDE), meta, b, &mut acc);
            }
        }
        acc.store(panel, side, out, tile.n);
    }
}

/// Copies `bytes` of every row, 64 of each in turn: rows that lie a power of two apart would contend for
/// the same few lines of the cache.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn gather<const N: usize>(rows: [*const u8; N], bytes: usize, near: *mut u8) {
    for at in (0..bytes).step_by(64) {
        for (i, row) in rows.into_iter().enumerate() {
            // SAFETY: the caller has so many bytes on both sides. The last copy of a row of 32 codes may
            // take only half a line.
            unsafe {
                let (from, to) = (row.add(at), near.add(at * N + 64 * i));
                _mm256_storeu_si256(to.cast(), _mm256_loadu_si256(from.cast()));
                if at + 32 < bytes {
                    let high = _mm256_loadu_si256(from.add(32).cast());
                    _mm256_storeu_si256(to.add(32).cast(), high);
                }
            }
        }
    }
}

/// What is to be added to each run's products so that the offset of the weights is gone: dwords of
/// two words, as the products are.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn correct<F: Format>(codes: *const i8, corrections: *mut i32) {
    // SAFETY: 32 codes are the caller's.
    let codes = unsafe { _mm256_loadu_si256(codes.cast()) };
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let quads = _mm256_mullo_epi16(pairs, _mm256_set1_epi16(-F::OFFSET));
    let mut sums = _mm256_setzero_si256();
    // Lane `run` of step `i` takes the run's `i`-th quad, or none.
    for i in 0..F::RUNS[0] {
        let mut lanes = [-1i32; 8];
        let mut first = 0;
        for (run, &len) in F::RUNS.iter().enumerate() {
            if i < len {
                lanes[run] = (first + i) as i32;
            }
            first += len;
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let lanes = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
        let present = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(-1));
        let picked = _mm256_permutevar8x32_epi32(quads, lanes);
        sums = _mm256_add_epi16(sums, _mm256_and_si256(picked, present));
    }
    // SAFETY: four dwords are the caller's.
    unsafe { _mm_storeu_si128(corrections.cast(), _mm256_castsi256_si128(sums)) };
}

/// `N` activation rows at a panel's first column.
struct ActTile<const N: usize> {
    /// 64 codes of every row in turn.
    codes: *const u8,
    scales: [*const f32; N],
    sums: [*const i16; N],
    corrections: *const i32,
}

impl<const N: usize> ActTile<N> {
    /// One block of 16 rows.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn block<F: Format>(
        &self,
        weights: *const u8,
        meta: *const u8,
        b: usize,
        acc: &mut Accumulators<N>,
    ) {
        let zero = _mm256_setzero_si256();
        let mut totals = [[zero; 2]; N];
        // SAFETY: the caller's block, of which every offset below is a part.
        unsafe {
            for g in 0..F::LEN / 32 {
                let group = weights.add(g * 8 * 64);
                self.group::<F>(group, meta, (b, g), &mut totals);
            }
            let d_at = meta.add(meta_bytes::<F>() - 128).cast::<f32>();
            let d = [_mm256_loadu_ps(d_at), _mm256_loadu_ps(d_at.add(8))];
            for n in 0..N {
                let scale = _mm256_set1_ps(*self.scales[n].add(b));
                for h in 0..2 {
                    acc.add((n, h), totals[n][h], _mm256_mul_ps(d[h], scale), false);
                }
            }
            if F::MINS {
                self.mins::<F>(meta, b, acc);
            }
        }
    }

    /// Adds 32 weights of 16 rows, times their scales.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn group<F: Format>(
        &self,
        weights: *const u8,
        meta: *const u8,
        (b, g): (usize, usize),
        totals: &mut [[__m256i; 2]; N],
    ) {
        let at = b * F::LEN + 32 * g;
        let mut quad = 0;
        for (run, &len) in F::RUNS.iter().enumerate() {
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            // SAFETY: offsets stay in the caller's block, its activations and their corrections.
            unsafe {
                if F::OFFSET != 0 {
                    for n in 0..N {
                        let at = n * PANEL_COLS / 8 + at / 8 + run;
                        sums[n] = [_mm256_set1_epi32(*self.corrections.add(at)); 2];
                    }
                }
                let codes = self.codes.add(at / 64 * N * 64 + at % 64);
                for q in quad..quad + len {
                    let low = _mm256_loadu_si256(weights.add(64 * q).cast());
                    let high = _mm256_loadu_si256(weights.add(64 * q + 32).cast());
                    for n in 0..N {
                        let codes = codes.add(64 * n + 4 * q).cast::<i32>();
                        let codes = _mm256_set1_epi32(*codes);
                        let products = _mm256_maddubs_epi16(low, codes);
                        sums[n][0] = _mm256_add_epi16(sums[n][0], products);
                        let products = _mm256_maddubs_epi16(high, codes);
                        sums[n][1] = _mm256_add_epi16(sums[n][1], products);
                    }
                }
                let sub = if F::SCALES_OF_32 { g } else { 2 * g + run };
                for h in 0..2 {
                    let scale = if F::LEN == 32 {
                        _mm256_set1_epi16(1)
                    } else {
                        _mm256_loadu_si256(meta.add(64 * sub + 32 * h).cast())
                    };
                    for n in 0..N {
                        let scaled = _mm256_madd_epi16(sums[n][h], scale);
                        totals[n][h] = _mm256_add_epi32(totals[n][h], scaled);
                    }
                }
            }
            quad += len;
        }
    }

    /// Subtracts the minima of one block of 16 rows.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn mins<F: Format>(&self, meta: *const u8, b: usize, acc: &mut Accumulators<N>) {
        let mut totals = [[_mm256_setzero_si256(); 2]; N];
        // SAFETY: minima and `dmin` are parts of the caller's block; it has 16 sums.
        unsafe {
            for pair in 0..8 {
                let mins = meta.add(mins_at::<F>() + 64 * pair);
                for n in 0..N {
                    let sums = self.sums[n].add(16 * b + 2 * pair).cast::<i32>().read_unaligned();
                    for h in 0..2 {
                        let mins = _mm256_loadu_si256(mins.add(32 * h).cast());
                        let products = _mm256_madd_epi16(mins, _mm256_set1_epi32(sums));
                        totals[n][h] = _mm256_add_epi32(totals[n][h], products);
                    }
                }
            }
            let dmin_at = meta.add(meta_bytes::<F>() - 64).cast::<f32>();
            for n in 0..N {
                let scale = _mm256_set1_ps(*self.scales[n].add(b));
                for h in 0..2 {
                    let dmin = _mm256_loadu_ps(dmin_at.add(8 * h));
                    acc.add((n, h), totals[n][h], _mm256_mul_ps(dmin, scale), true);
                }
            }
        }
    }
}

pub(super) fn bytes_of(lines: &mut [Line]) -> *mut u8 {
    lines.as_mut_ptr().cast()
}
