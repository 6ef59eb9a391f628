// A block's part of a product with many rows of activations: 8 panels of weights times COLUMNS
// activation rows.
//
// Chunks of weights and of activations are copied to shared memory ahead of use, a panel by each
// warp. Warps are 4 along the weights, two panels each, and 2 along the activations, which take turns
// of eight columns. Chunks are added in ascending order, whatever the other columns are, so that a
// row's bits do not depend on the other rows.
#pragma once
#include "product.cuh"

#define GEMM_PANELS 8
#define GEMM_THREADS 256
#define STAGES 2

// Where a thread's operands come from.
struct Operands {
    // The warp's panel: a run of chunks.
    const uint8_t* panel;
    // Records of activations, and where every column's first one is, in units of 16 bytes; in shared
    // memory.
    const uint8_t* records;
    const uint32_t* columns;
    uint32_t chunks, n_columns;
};

// Eight columns of results are one tile of the tensor cores; a warp has up to N of them.
template <class F, int N>
struct Gemm {
    enum {
        COLUMNS = 16 * N,
        RECORD = F::KIND == PER_TILE ? ACT32_RECORD : ACT256_RECORD,
        WEIGHTS = GEMM_PANELS * F::CHUNK,
        CODES = COLUMNS * CHUNK_COLS,
        // What follows a record's codes.
        TAIL = RECORD - CHUNK_COLS,
        STAGE = WEIGHTS + CODES + COLUMNS * TAIL,
    };

    float acc[2][N][4];

    static MEMBER void copy_chunk(uint8_t* stage, const Operands& in, uint32_t chunk) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint8_t* from = in.panel + uint64_t(chunk) * F::CHUNK + 16 * lane;
        uint8_t* to = stage + warp * F::CHUNK + 16 * lane;
#pragma unroll
        for (uint32_t i = 0; i < F::CHUNK; i += 512) {
            if (i + 512 <= F::CHUNK || i + 16 * lane < F::CHUNK) copy_16(to + i, from + i);
        }
        const uint8_t* records = in.records + chunk * RECORD;
        uint8_t* codes = stage + WEIGHTS;
        const uint32_t at = threadIdx.x % 16;
#pragma unroll
        for (uint32_t i = 0; i < COLUMNS; i += GEMM_THREADS / 16) {
            const uint32_t column = i + threadIdx.x / 16;
            if (column >= in.n_columns) break;
            const uint8_t* record = records + uint64_t(in.columns[column]) * 16;
            // Odd columns are turned by 64 bytes, so that eight lanes meet in no bank.
            copy_16(codes + column * CHUNK_COLS + 16 * (at ^ (column % 2 * 4)), record + 16 * at);
        }
        for (uint32_t i = threadIdx.x; i < in.n_columns * (TAIL / 16); i += GEMM_THREADS) {
            const uint32_t column = i / (TAIL / 16), part = i % (TAIL / 16);
            const uint8_t* record = records + uint64_t(in.columns[column]) * 16;
            copy_16(codes + CODES + column * TAIL + 16 * part, record + CHUNK_COLS + 16 * part);
        }
    }

    // The first column of the warp's n-th eight.
    static MEMBER uint32_t eight(int n) { return (2 * n + threadIdx.x / 128) * 8; }

    // The lane's codes of tiles 2 pair and 2 pair + 1.
    static MEMBER uint4 codes_of(const uint8_t* codes, int n, uint32_t pair) {
        const uint32_t column = eight(n) + threadIdx.x % 32 / 4;
        const uint32_t at = (4 * pair + threadIdx.x % 4) ^ (column % 2 * 4);
        return load16(codes + column * CHUNK_COLS + 16 * at);
    }

    // What follows the codes of result column 2t.
    static MEMBER const uint8_t* tail_of(const uint8_t* codes, int n) {
        return codes + CODES + (eight(n) + threadIdx.x % 4 * 2) * TAIL;
    }

    template <int ACTIVE>
    MEMBER void multiply_per_tile(const Near (&from)[2], const uint8_t* codes) {
        const uint32_t lane = threadIdx.x % 32;
        int start[4];
        sums_in_floats(start);
        // Rolled: unrolled, more is loaded ahead than there are registers.
#pragma unroll 1
        for (uint32_t pair = 0; pair < TILES / 2; pair++) {
            uint32_t a[2][2][4];
            float d[2][2][2];
#pragma unroll
            for (int p = 0; p < 2; p++) {
                typename F::Pair w;
                F::load_pair(w, from[p], lane, pair);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    F::tile(a[j][p], w, j);
                    d[j][p][0] = F::scale(w, j, 0), d[j][p][1] = F::scale(w, j, 1);
                }
            }
#pragma unroll
            for (int n = 0; n < ACTIVE; n++) {
                const uint4 x = codes_of(codes, n, pair);
                // Scales of both tiles, of either column.
                const uint8_t* tail = tail_of(codes, n) + 8 * pair;
                const float2 even = *reinterpret_cast<const float2*>(tail);
                const float2 odd = *reinterpret_cast<const float2*>(tail + TAIL);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int j = i / 2, p = i % 2;
                    int c[4];
                    mma_s8_from(c, start, a[j][p], word(x, 2 * j), word(x, 2 * j + 1));
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        const float2& s = r % 2 ? odd : even;
                        const float scale = d[j][p][r / 2] * (j ? s.y : s.x);
                        acc[p][n][r] = fmaf(float_of_sum(c[r]), scale, acc[p][n][r]);
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
            int c[4];
            mma_s8_zero(c, a, b0, b1);
#pragma unroll
            for (int r = 0; r < 4; r++) total[r] += F::factor(w, i, r / 2) * c[r];
        } else {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint32_t keep = (threadIdx.x % 4 / 2 == uint32_t(part)) ? 0xffffffffu : 0;
                const uint32_t own[4] = {a[0] & keep, a[1] & keep, a[2] & keep, a[3] & keep};
                int c[4];
                mma_s8_zero(c, own, b0, b1);
#pragma unroll
                for (int r = 0; r < 4; r++) total[r] += F::factor(w, i, r / 2, part) * c[r];
            }
        }
    }

    template <int ACTIVE>
    MEMBER void multiply_per_chunk(const typename F::Raw (&w)[2], const uint8_t* codes,
                                   const uint32_t* grid) {
        int total[2][ACTIVE][4];
#pragma unroll
        for (int i = 0; i < 2 * ACTIVE * 4; i++) total[i / (4 * ACTIVE)][i / 4 % ACTIVE][i % 4] = 0;
#pragma unroll
        for (int pair = 0; pair < TILES / 2; pair++) {
            uint4 x[ACTIVE];
#pragma unroll
            for (int n = 0; n < ACTIVE; n++) x[n] = codes_of(codes, n, pair);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = i / 2, p = i % 2;
                uint32_t a[4];
                F::tile(a, w[p], 2 * pair + j, grid);
#pragma unroll
                for (int n = 0; n < ACTIVE; n++) {
                    multiply_tile(total[p][n], w[p], a, 2 * pair + j, word(x[n], 2 * j),
                                  word(x[n], 2 * j + 1));
                }
            }
        }
        add_totals<ACTIVE>(w, total, codes);
    }

    template <int ACTIVE>
    MEMBER void add_totals(const typename F::Raw (&w)[2], const int (&total)[2][ACTIVE][4],
                           const uint8_t* codes) {
#pragma unroll
        for (int n = 0; n < ACTIVE; n++) {
            const uint8_t* tail = tail_of(codes, n) + ACT256_SCALE - CHUNK_COLS;
            const float even = *reinterpret_cast<const float*>(tail);
            const float odd = *reinterpret_cast<const float*>(tail + TAIL);
            uint32_t high_sums = 0, rest_sums = 0;
            if constexpr (F::MINS) {
                const uint32_t column = eight(n) + threadIdx.x % 32 / 4;
                const uint8_t* sums = codes + CODES + column * TAIL + 4 * (threadIdx.x % 4);
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
                    const float scale = r % 2 ? odd : even;
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

    // One chunk, for the warp's first ACTIVE eights of columns.
    template <int ACTIVE>
    MEMBER void multiply(const uint8_t* stage, const uint32_t* grid) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint8_t* first = stage + warp % 4 * 2 * F::CHUNK;
        const Near from[2] = {{first}, {first + F::CHUNK}};
        if constexpr (F::KIND == PER_TILE) {
            multiply_per_tile<ACTIVE>(from, stage + WEIGHTS);
        } else {
            typename F::Raw w[2];
            F::load(w[0], from[0], lane);
            F::load(w[1], from[1], lane);
            multiply_per_chunk<ACTIVE>(w, stage + WEIGHTS, grid);
        }
    }

    // All chunks. `grid` may be on its way to shared memory.
    MEMBER void run(uint8_t* shared, const Operands& in, const uint32_t* grid) {
#pragma unroll
        for (int i = 0; i < 2 * N * 4; i++) acc[i / (4 * N)][i / 4 % N][i % 4] = 0;
        // Eights of columns that this warp has.
        const uint32_t eights = (in.n_columns + 7) / 8;
        const uint32_t active = (eights + 1 - threadIdx.x / 128) / 2;
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
            // Few widths: each is a copy of the code.
            if (active > N / 2) {
                multiply<N>(stage, grid);
            } else if (N >= 4 && active > N / 4) {
                multiply<(N + 1) / 2>(stage, grid);
            } else if (active > 0) {
                multiply<(N + 3) / 4>(stage, grid);
            }
            __syncthreads();
        }
    }
};
