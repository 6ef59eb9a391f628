// One warp's part of a product: a panel of 16 weight rows times few activation rows.
//
// A warp adds up chunks of 256 columns into `acc`, a result tile (mma.cuh). The order of additions
// depends on the matrix alone, and a column of the tile on its activation row alone, so that a row's
// bits are the same in every batch of few rows.
#pragma once
#include "copy.cuh"
#include "formats.cuh"

// Rounded activations of up to 8 rows, from the chunk that is multiplied on.
struct ActRows {
    const uint8_t* records;
    uint32_t row_bytes, n_rows;
};

// WIDE = 1: up to 8 rows, row i in column i. WIDE = 0: up to 4 rows, row i in column 2 i, which saves
// the arithmetic of the odd columns.
template <int WIDE>
DEVICE bool operand_row(uint32_t& row) {
    const uint32_t g = threadIdx.x % 32 / 4;
    row = WIDE ? g : g / 2;
    return WIDE || g % 2 == 0;
}

template <int WIDE>
DEVICE uint32_t result_row(int column) {
    return WIDE ? threadIdx.x % 4 * 2 + column : threadIdx.x % 4;
}

// The lane's operand of all tiles: eight codes a tile.
template <int WIDE>
DEVICE void load_codes(uint4 (&x)[4], const ActRows& acts) {
    uint32_t row;
    if (operand_row<WIDE>(row) && row < acts.n_rows) {
        const uint8_t* codes = acts.records + row * acts.row_bytes + 16 * (threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = load16(codes + 64 * i);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = make_uint4(0, 0, 0, 0);
    }
}

template <class F, int WIDE>
DEVICE void add_per_tile(float (&acc)[4], const typename F::Raw& w, const uint4 (&x)[4],
                         const ActRows& acts, const uint32_t* grid) {
    float scales[WIDE + 1][TILES];
    int start[4];
    sums_in_floats(start);
#pragma unroll
    for (int column = 0; column <= WIDE; column++) {
        const uint32_t row = result_row<WIDE>(column);
        const float* from = reinterpret_cast<const float*>(
            acts.records + (row < acts.n_rows ? row : 0) * acts.row_bytes + ACT_SCALES);
#pragma unroll
        for (int i = 0; i < TILES; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + i);
            scales[column][i] = four.x, scales[column][i + 1] = four.y;
            scales[column][i + 2] = four.z, scales[column][i + 3] = four.w;
        }
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        uint32_t a[4];
        F::tile(a, w, i, grid);
        int c[4];
        mma_s8_from(c, start, a, word(x[i / 2], i % 2 * 2), word(x[i / 2], i % 2 * 2 + 1));
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float d = F::scale(w, i, half);
#pragma unroll
            for (int column = 0; column <= WIDE; column++) {
                float& sum = acc[half * 2 + column];
                sum = fmaf(float_of_sum(c[half * 2 + column]), d * scales[column][i], sum);
            }
        }
    }
}

// One tile of a format with one activation scale a chunk.
template <class F, int WIDE>
DEVICE void add_tile(int (&total)[4], const typename F::Raw& w, int i, uint32_t b0, uint32_t b1,
                     const uint32_t* grid) {
    uint32_t a[4];
    F::tile(a, w, i, grid);
    if constexpr (F::KIND == CHAINED) {
        mma_s8(total, a, b0, b1);
    } else if constexpr (F::KIND == SCALED) {
        int c[4];
        mma_s8_zero(c, a, b0, b1);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int factor = F::factor(w, i, half);
#pragma unroll
            for (int column = 0; column <= WIDE; column++) {
                total[half * 2 + column] += factor * c[half * 2 + column];
            }
        }
    } else {
        // Lanes 0 and 1 of four hold one half of the tile's columns, lanes 2 and 3 the other.
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const uint32_t keep = (threadIdx.x % 4 / 2 == uint32_t(part)) ? 0xffffffffu : 0;
            const uint32_t own[4] = {a[0] & keep, a[1] & keep, a[2] & keep, a[3] & keep};
            int c[4];
            mma_s8_zero(c, own, b0, b1);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int factor = F::factor(w, i, half, part);
#pragma unroll
                for (int column = 0; column <= WIDE; column++) {
                    total[half * 2 + column] += factor * c[half * 2 + column];
                }
            }
        }
    }
}

// The products of minima with the sums of every 16 activations, which come as 16 high + rest.
template <class F, int WIDE>
DEVICE void min_totals(int (&total)[4], const typename F::Raw& w, const ActRows& acts) {
    uint32_t row, high_sums = 0, rest_sums = 0;
    if (operand_row<WIDE>(row) && row < acts.n_rows) {
        const uint8_t* sums =
            acts.records + row * acts.row_bytes + CHUNK_COLS + 4 * (threadIdx.x % 4);
        high_sums = load4(sums);
        rest_sums = load4(sums + 16);
    }
    uint32_t mins[2];
    F::mins(mins, w);
    int high[4] = {0, 0, 0, 0}, rest[4] = {0, 0, 0, 0};
    mma_s8_k16(high, mins, high_sums);
    mma_s8_k16(rest, mins, rest_sums);
#pragma unroll
    for (int i = 0; i < 4; i++) total[i] = 16 * high[i] + rest[i];
}

template <class F, int WIDE>
DEVICE void add_per_chunk(float (&acc)[4], const typename F::Raw& w, const uint4 (&x)[4],
                          const ActRows& acts, const uint32_t* grid) {
    int total[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        add_tile<F, WIDE>(total, w, i, word(x[i / 2], i % 2 * 2), word(x[i / 2], i % 2 * 2 + 1),
                          grid);
    }
    int mins[4] = {0, 0, 0, 0};
    if constexpr (F::MINS) min_totals<F, WIDE>(mins, w, acts);
#pragma unroll
    for (int column = 0; column <= WIDE; column++) {
        const uint32_t row = result_row<WIDE>(column);
        const float scale = *reinterpret_cast<const float*>(
            acts.records + (row < acts.n_rows ? row : 0) * acts.row_bytes + ACT256_SCALE);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = half * 2 + column;
            acc[at] = fmaf(float(total[at]), F::d(w, half) * scale, acc[at]);
            if constexpr (F::MINS) {
                acc[at] = fmaf(-float(mins[at]), F::dmin(w, half) * scale, acc[at]);
            }
        }
    }
}

// Called by every thread of a block between the loads of its first weights and their use: the
// activations are there, and what was copied to shared memory before.
DEVICE void await_inputs(bool grid_needed) {
    await_previous();
    if (!grid_needed) return;
    copies_wait<0>();
    __syncthreads();
}

// The eight rows from 8 group on.
DEVICE ActRows group_of(const ActRows& acts, int group) {
    const uint32_t before = 8 * group;
    return {acts.records + before * acts.row_bytes, acts.row_bytes,
            acts.n_rows > before ? acts.n_rows - before : 0};
}

// One chunk, for GROUPS times 8 rows, or 4; `acts` begins with the chunk's records.
template <class F, int WIDE, int GROUPS>
DEVICE void add_chunk(float (&acc)[GROUPS][4], const typename F::Raw& w, const ActRows& acts,
                      const uint32_t* grid) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const ActRows rows = group_of(acts, group);
        if (group > 0 && rows.n_rows == 0) break;
        uint4 x[4];
        load_codes<WIDE>(x, rows);
        if constexpr (F::KIND == PER_TILE) {
            add_per_tile<F, WIDE>(acc[group], w, x, rows, grid);
        } else {
            add_per_chunk<F, WIDE>(acc[group], w, x, rows, grid);
        }
    }
}

// Chunks `first`, `first + step`, ... of a panel, for GROUPS times 8 rows, or 4.
template <class F, int WIDE, int GROUPS>
DEVICE void add_chunks(float (&acc)[GROUPS][4], const uint8_t* panel, ActRows acts,
                       uint32_t n_chunks, uint32_t first, uint32_t step, const uint32_t* grid,
                       bool grid_needed) {
    const uint32_t record = F::KIND == PER_TILE ? ACT32_RECORD : ACT256_RECORD;
    const uint8_t* records = acts.records;
    bool awaited = false;
    for (uint32_t chunk = first; chunk < n_chunks; chunk += F::DEPTH * step) {
        typename F::Raw w[F::DEPTH];
#pragma unroll
        for (int i = 0; i < F::DEPTH; i++) {
            // What lies behind the end is loaded from the last chunk, and not used.
            const uint32_t at = min(chunk + i * step, n_chunks - 1);
            F::load(w[i], Streamed{panel + uint64_t(at) * F::CHUNK}, threadIdx.x % 32);
        }
        if (!awaited) await_inputs(grid_needed);
        awaited = true;
#pragma unroll
        for (int i = 0; i < F::DEPTH; i++) {
            if (chunk + i * step >= n_chunks) break;
            acts.records = records + (chunk + i * step) * record;
            add_chunk<F, WIDE, GROUPS>(acc, w[i], acts, grid);
        }
    }
    if (!awaited) await_inputs(grid_needed);
}

// Begins to put the magnitudes' levels of IQ2_XXS into shared memory.
DEVICE void copy_grid(uint32_t* to, const uint32_t* from) {
    for (uint32_t i = 4 * threadIdx.x; i < 256; i += 4 * blockDim.x) copy_16(to + i, from + i);
    copies_begin();
}
