// Products of F16 weights, row-major, with many rows of activations on sm_90, several matrices in a launch.
//
// An activation is the sum of two f16 numbers under the power of two of its row (round.cu), to 22 bits. Each
// 64 columns are summed on the tensor cores, which cut sums off, and added in f32, which rounds.
#include "wide.cuh"

struct F16Job {
    const uint8_t* w;
    float* out;
    uint32_t rows, out_stride;
    // Blocks before this job's.
    uint32_t first_block, unused;
};

#define MAX_JOBS 8

struct F16Args {
    F16Job jobs[MAX_JOBS];
    // The larger and the smaller part of f16 rows, and their factors.
    const uint8_t *x, *rest;
    const float* factors;
    uint64_t x_step;
    uint32_t n_jobs, cols, n_rows, unused;
};

// Weight rows and activation rows of a block, and stages of the latter.
#define BLOCK_ROWS 128
#define N 64
#define X_STAGES 5
#define HALF_STAGE (N * 128)
#define STAGE (2 * HALF_STAGE)
// A stage is filled again so many steps after its use.
#define LAG 2

#if WGMMA

struct Barriers {
    Barrier full[X_STAGES], empty[X_STAGES];
};

// Columns of a step: of every 32 the eight from 8 t on, of rows g and g + 8.
struct Raw {
    uint4 row[2][2];
};

DEVICE void load_raw(Raw& raw, const uint8_t* row_g, const uint8_t* row_g8, uint32_t step) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
        raw.row[0][tile] = load16(row_g + step * 128 + tile * 64);
        raw.row[1][tile] = load16(row_g8 + step * 128 + tile * 64);
    }
}

// The operands of a tile's two steps: columns 0 and 2 of four are neighbours, and 1 and 3.
DEVICE void put_raw(Steps& a, const Raw& raw, int tile) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int half = i / 2, s = i % 2;
        const uint4& v = raw.row[half][tile];
        const uint32_t low = word(v, 2 * s), high = word(v, 2 * s + 1);
        a[s][half] = __byte_perm(low, high, 0x5410);
        a[s][half + 2] = __byte_perm(low, high, 0x7632);
    }
}

DEVICE void copy_x(const F16Args& a, uint8_t* x, Barriers& b, uint32_t step) {
    const uint32_t s = step % X_STAGES;
    const uint64_t from = step * a.x_step + blockIdx.x * HALF_STAGE;
    barrier_expect(&b.full[s], STAGE);
    copy_bulk(x + s * STAGE, a.x + from, HALF_STAGE, &b.full[s]);
    copy_bulk(x + s * STAGE + HALF_STAGE, a.rest + from, HALF_STAGE, &b.full[s]);
}

// One step: the sum of its 64 columns.
DEVICE void multiply(float (&sum)[N / 2], const Raw& raw, const uint8_t* x) {
    Steps left[2];
    put_raw(left[0], raw, 0);
    put_raw(left[1], raw, 1);
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma_made(left[i / 2][i % 2]);
    const RightTile right = right_tile(x), rest = right_tile(x + HALF_STAGE);
    wgmma_hold(sum);
    wgmma_fence();
    wgmma<N, 0>(sum, left[0][0], rest);
#pragma unroll
    for (int i = 1; i < 4; i++) wgmma<N>(sum, left[i / 2][i % 2], right_step(rest, i));
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma<N>(sum, left[i / 2][i % 2], right_step(right, i));
    wgmma_commit();
}

DEVICE void gemm(const F16Args& a) {
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED Barriers b;
    uint32_t which = 0;
    while (which + 1 < a.n_jobs && blockIdx.y >= a.jobs[which + 1].first_block) which++;
    const F16Job& job = a.jobs[which];
    uint8_t* const x = Wide<Q8_0, N, X_STAGES>::aligned(shared);
    const uint32_t steps = a.cols / 64, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (threadIdx.x == 0) {
        for (int i = 0; i < X_STAGES; i++) {
            barrier_init(&b.full[i], 1);
            barrier_init(&b.empty[i], 8);
        }
        barriers_ready();
        for (uint32_t i = 0; i < X_STAGES && i < steps; i++) copy_x(a, x, b, i);
    }
    __syncthreads();
    const uint32_t row = (blockIdx.y - job.first_block) * BLOCK_ROWS + threadIdx.x / 32 * 16 + g;
    // Rows behind the end repeat the last and are not stored.
    const uint8_t* row_g = job.w + uint64_t(min(row, job.rows - 1)) * a.cols * 2 + 16 * t;
    const uint8_t* row_g8 = job.w + uint64_t(min(row + 8, job.rows - 1)) * a.cols * 2 + 16 * t;
    float acc[N / 2], sum[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = sum[i] = 0.0f;
    Raw raw;
    load_raw(raw, row_g, row_g8, 0);
    for (uint32_t step = 0; step < steps; step++) {
        const uint32_t s = step % X_STAGES;
        barrier_wait(&b.full[s], step / X_STAGES % 2);
        multiply(sum, raw, x + s * STAGE);
        if (step + 1 < steps) load_raw(raw, row_g, row_g8, step + 1);
        if (threadIdx.x == 0 && step >= LAG && step - LAG + X_STAGES < steps) {
            const uint32_t used = step - LAG;
            barrier_wait(&b.empty[used % X_STAGES], used / X_STAGES % 2);
            copy_x(a, x, b, used + X_STAGES);
        }
        __syncwarp();
        wgmma_wait<0>();
        wgmma_hold(sum);
        if (lane == 0) barrier_arrive(&b.empty[s]);
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[i] += sum[i];
    }
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint32_t column = blockIdx.x * N + 8 * j + 2 * t;
        const float2 factor = *reinterpret_cast<const float2*>(a.factors + column);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t at = row + r / 2 * 8, to = column + r % 2;
            if (at < job.rows && to < a.n_rows) {
                job.out[uint64_t(to) * job.out_stride + at] = acc[4 * j + r] * (r % 2 ? factor.y : factor.x) * GAIN;
            }
        }
    }
}

#endif

// grid: (activation rows / N, blocks of all jobs).
KERNEL_OCC(256, 2, wide_f16, F16Args) { WGMMA_BODY(gemm(a);) }
