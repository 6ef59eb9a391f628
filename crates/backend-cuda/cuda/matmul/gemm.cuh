// A block's part of a product with many rows of activations: 8 panels of weights times COLUMNS
// activation rows.
//
// Chunks of weights and of activations are copied to shared memory ahead of use. Warps are 4 along
// the weights, two panels each, and 2 along the activations. What is added in which order is as in
// product.cuh but for the panels' division among warps, so that a row's bits do not depend on the
// other rows.
#pragma once
#include "copy.cuh"
#include "formats.cuh"

#define GEMM_PANELS 8
#define GEMM_THREADS 256
#define STAGES 2

// Eight columns of results are one tile of the tensor cores; a warp has N of them.
template <class F, int N>
struct Gemm {
    enum {
        COLUMNS = 16 * N,
        RECORD = F::KIND == PER_TILE ? ACT32_RECORD : ACT256_RECORD,
        WEIGHTS = GEMM_PANELS * F::CHUNK,
        CODES = COLUMNS * CHUNK_COLS,
        // PER_TILE: scales as [tile][column]; else [column] scales, then [column][32] sums.
        REST = COLUMNS * (F::KIND == PER_TILE ? 4 * TILES : 4 + 32),
        STAGE = WEIGHTS + CODES + REST,
        SHARED_BYTES = STAGES * STAGE,
    };

    // Where a block's operands come from.
    struct Operands {
        // The panels, each a run of chunks.
        const uint8_t* panels[GEMM_PANELS];
        // The record of every column's first chunk: in shared memory.
        const uint8_t* const* columns;
        uint32_t chunks;
    };

    float acc[2][N][4];

    static MEMBER void copy_chunk(uint8_t* stage, const Operands& in, uint32_t chunk) {
        const uint32_t per_panel = F::CHUNK / 16;
#pragma unroll
        for (uint32_t p = 0; p < GEMM_PANELS; p++) {
            const uint8_t* from = in.panels[p] + uint64_t(chunk) * F::CHUNK;
            for (uint32_t i = threadIdx.x; i < per_panel; i += GEMM_THREADS) {
                copy_16(stage + p * F::CHUNK + 16 * i, from + 16 * i);
            }
        }
        uint8_t* codes = stage + WEIGHTS;
        uint8_t* rest = codes + CODES;
        for (uint32_t i = threadIdx.x; i < COLUMNS * 16; i += GEMM_THREADS) {
            const uint32_t column = i / 16, at = i % 16;
            const uint8_t* from = in.columns[column] + uint64_t(chunk) * RECORD;
            // Odd columns are turned by 64 bytes, so that eight lanes meet in no bank.
            copy_16(codes + column * CHUNK_COLS + 16 * (at ^ (column % 2 * 4)), from + 16 * at);
        }
        if constexpr (F::KIND == PER_TILE) {
            for (uint32_t i = threadIdx.x; i < COLUMNS * TILES; i += GEMM_THREADS) {
                const uint32_t column = i / TILES, tile = i % TILES;
                const uint8_t* from = in.columns[column] + uint64_t(chunk) * RECORD;
                copy_4(rest + 4 * (tile * COLUMNS + column), from + ACT_SCALES + 4 * tile);
            }
        } else {
            for (uint32_t i = threadIdx.x; i < COLUMNS; i += GEMM_THREADS) {
                const uint8_t* from = in.columns[i] + uint64_t(chunk) * RECORD;
                copy_4(rest + 4 * i, from + ACT256_SCALE);
                if constexpr (F::MINS) {
                    copy_16(rest + 4 * COLUMNS + 32 * i, from + ACT_SCALES);
                    copy_16(rest + 4 * COLUMNS + 32 * i + 16, from + ACT_SCALES + 16);
                }
            }
        }
    }

    // The lane's codes of tiles 2 pair and 2 pair + 1, for the warp's n-th eight columns.
    static MEMBER uint4 codes_of(const uint8_t* codes, uint32_t first, uint32_t n, uint32_t pair) {
        const uint32_t column = first + 8 * n + threadIdx.x % 32 / 4;
        const uint32_t at = (4 * pair + threadIdx.x % 4) ^ (column % 2 * 4);
        return load16(codes + column * CHUNK_COLS + 16 * at);
    }

    MEMBER void multiply_per_tile(const typename F::Raw (&w)[2], const uint8_t* codes,
                                  uint32_t first, const uint32_t* grid) {
        const float* scales = reinterpret_cast<const float*>(codes + CODES);
#pragma unroll
        for (int pair = 0; pair < TILES / 2; pair++) {
            uint4 x[N];
#pragma unroll
            for (int n = 0; n < N; n++) x[n] = codes_of(codes, first, n, pair);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int i = 2 * pair + j;
                uint32_t a[2][4];
                float d[2][2];
#pragma unroll
                for (int p = 0; p < 2; p++) {
                    F::tile(a[p], w[p], i, grid);
                    d[p][0] = F::scale(w[p], i, 0), d[p][1] = F::scale(w[p], i, 1);
                }
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const float2 s = *reinterpret_cast<const float2*>(
                        scales + i * COLUMNS + first + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
                    for (int p = 0; p < 2; p++) {
                        int c[4] = {INT_IN_FLOAT, INT_IN_FLOAT, INT_IN_FLOAT, INT_IN_FLOAT};
                        mma_s8(c, a[p], word(x[n], 2 * j), word(x[n], 2 * j + 1));
#pragma unroll
                        for (int r = 0; r < 4; r++) {
                            const float scale = d[p][r / 2] * (r % 2 ? s.y : s.x);
                            acc[p][n][r] = fmaf(float_of_sum(c[r]), scale, acc[p][n][r]);
                        }
                    }
                }
            }
        }
    }

    static MEMBER void multiply_tile(int (&total)[4], const typename F::Raw& w,
                                     const uint32_t (&a)[4], int i, uint32_t b0, uint32_t b1) {
        if constexpr (F::KIND == CHAINED) {
            mma_s8(total, a, b0, b1);
        } else if constexpr (F::KIND == SCALED) {
            int c[4] = {0, 0, 0, 0};
            mma_s8(c, a, b0, b1);
#pragma unroll
            for (int r = 0; r < 4; r++) total[r] += F::factor(w, i, r / 2) * c[r];
        } else {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint32_t keep = (threadIdx.x % 4 / 2 == uint32_t(part)) ? 0xffffffffu : 0;
                const uint32_t own[4] = {a[0] & keep, a[1] & keep, a[2] & keep, a[3] & keep};
                int c[4] = {0, 0, 0, 0};
                mma_s8(c, own, b0, b1);
#pragma unroll
                for (int r = 0; r < 4; r++) total[r] += F::factor(w, i, r / 2, part) * c[r];
            }
        }
    }

    MEMBER void multiply_per_chunk(const typename F::Raw (&w)[2], const uint8_t* codes,
                                   uint32_t first, const uint32_t* grid) {
        int total[2][N][4];
#pragma unroll
        for (int i = 0; i < 2 * N * 4; i++) total[i / (4 * N)][i / 4 % N][i % 4] = 0;
#pragma unroll
        for (int pair = 0; pair < TILES / 2; pair++) {
            uint4 x[N];
#pragma unroll
            for (int n = 0; n < N; n++) x[n] = codes_of(codes, first, n, pair);
#pragma unroll
            for (int j = 0; j < 2; j++) {
#pragma unroll
                for (int p = 0; p < 2; p++) {
                    uint32_t a[4];
                    F::tile(a, w[p], 2 * pair + j, grid);
#pragma unroll
                    for (int n = 0; n < N; n++) {
                        multiply_tile(total[p][n], w[p], a, 2 * pair + j, word(x[n], 2 * j),
                                      word(x[n], 2 * j + 1));
                    }
                }
            }
        }
        add_totals(w, total, codes, first);
    }

    MEMBER void add_totals(const typename F::Raw (&w)[2], const int (&total)[2][N][4],
                           const uint8_t* codes, uint32_t first) {
        const uint8_t* rest = codes + CODES;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float2 s = *reinterpret_cast<const float2*>(
                rest + 4 * (first + 8 * n + threadIdx.x % 4 * 2));
            uint32_t high_sums = 0, rest_sums = 0;
            if constexpr (F::MINS) {
                const uint8_t* sums = rest + 4 * COLUMNS + 4 * (threadIdx.x % 4) +
                                      32 * (first + 8 * n + threadIdx.x % 32 / 4);
                high_sums = load4(sums), rest_sums = load4(sums + 16);
            }
#pragma unroll
            for (int p = 0; p < 2; p++) {
                int high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
                if constexpr (F::MINS) {
                    uint32_t mins[2];
                    F::mins(mins, w[p]);
                    mma_s8_k16(high, mins, high_sums);
                    mma_s8_k16(low, mins, rest_sums);
                }
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const float scale = r % 2 ? s.y : s.x;
                    float& sum = acc[p][n][r];
                    sum = fmaf(float(total[p][n][r]), F::d(w[p], r / 2) * scale, sum);
                    if constexpr (F::MINS) {
                        const float min_total = float(16 * high[r] + low[r]);
                        sum = fmaf(-min_total, F::dmin(w[p], r / 2) * scale, sum);
                    }
                }
            }
        }
    }

    // All chunks. `grid` is the lane's copy of the grid, for formats that have one.
    MEMBER void run(uint8_t* shared, const Operands& in, const uint32_t* grid) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2 * N * 4; i++) acc[i / (4 * N)][i / 4 % N][i % 4] = 0;
        copy_chunk(shared, in, 0);
        copies_begin();
        for (uint32_t chunk = 0; chunk < in.chunks; chunk++) {
            if (chunk + 1 < in.chunks) {
                copy_chunk(shared + (chunk + 1) % STAGES * STAGE, in, chunk + 1);
            }
            copies_begin();
            copies_wait<1>();
            __syncthreads();
            const uint8_t* stage = shared + chunk % STAGES * STAGE;
            typename F::Raw w[2];
#pragma unroll
            for (int p = 0; p < 2; p++) {
                F::load(w[p], stage + (warp % 4 * 2 + p) * F::CHUNK, lane);
            }
            const uint32_t first = warp / 4 * (8 * N);
            if constexpr (F::KIND == PER_TILE) {
                multiply_per_tile(w, stage + WEIGHTS, first, grid);
            } else {
                multiply_per_chunk(w, stage + WEIGHTS, first, grid);
            }
            __syncthreads();
        }
    }
};
