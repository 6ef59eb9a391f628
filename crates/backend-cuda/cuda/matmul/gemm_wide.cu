// Products of chunked weights with many rows of activations on sm_90.
#include "panel.cuh"
#include "wide.cuh"

struct WideArgs {
    Matrix m;
    // f16 rows and their factors (round.cu), in slices.
    const uint8_t* x;
    const float* factors;
    float* out;
    const uint32_t* grid;
    // Bytes from 64 columns to the next; rows that those are for.
    uint64_t x_step;
    uint32_t x_rows, out_stride;
    // Equal parts of the matrix' rows: slice i of x meets part `first_group` + i.
    uint32_t groups, first_group, n_rows, unused;
};

#if WGMMA

// Block x: activation rows, y: panels of a group, z: group.
template <class F, int N, int X_STAGES>
DEVICE void gemm_wide(const WideArgs& a) {
    typedef Wide<F, N, X_STAGES> Product;
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED uint4 levels[64];
    uint32_t* const grid = reinterpret_cast<uint32_t*>(levels);
    const uint32_t group_rows = a.m.rows / a.groups;
    const uint32_t first_row = (a.first_group + blockIdx.z) * group_rows;
    const uint32_t end_row = first_row + group_rows, first_column = blockIdx.x * N;
    const uint32_t first_panel = first_row / CHUNK_ROWS + blockIdx.y * WIDE_PANELS;
    if (first_panel * CHUNK_ROWS >= end_row) return;
    copy_grid(grid, a.grid);
    copies_wait<0>();
    WideOperands in;
    in.chunks = chunks_of(a.m.cols);
    in.weights[0] = in.weights[1] = a.m.w;
    in.first[0] = first_panel, in.first[1] = first_panel + 4;
    in.group_panels = 8;
    in.last = (end_row - 1) / CHUNK_ROWS;
    in.x = a.x + blockIdx.z * (4 * in.chunks * a.x_step) + first_column * 128;
    in.x_step = a.x_step;
    Product product;
    product.run(in, shared, grid);
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* factors = a.factors + uint64_t(blockIdx.z) * a.x_rows + first_column;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const float2 factor = *reinterpret_cast<const float2*>(factors + 8 * j + 2 * t);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int p = i / 4, r = i % 4;
            const uint32_t panel = first_panel + warp / 4 * 8 + p * 4 + warp % 4;
            const uint32_t row = panel * CHUNK_ROWS + g + r / 2 * 8;
            const uint32_t column = first_column + 8 * j + 2 * t + r % 2;
            if (row >= first_row && row < end_row && column < a.n_rows) {
                a.out[uint64_t(column) * a.out_stride + row] =
                    product.acc[p][4 * j + r] * (r % 2 ? factor.y : factor.x);
            }
        }
    }
}

#endif

// The host knows the stages (wide.rs), by which two blocks of most narrow ones fit into a multiprocessor.
#define GEMM(name, F, blocks, stages)                                                                \
    KERNEL_OCC(WIDE_THREADS, 1, wide_##name##_128, WideArgs) { WGMMA_BODY(gemm_wide<F, 128, 4>(a);) }            \
    KERNEL_OCC(WIDE_THREADS, blocks, wide_##name##_64, WideArgs) { WGMMA_BODY(gemm_wide<F, 64, stages>(a);) }

GEMM(q8_0, Q8_0, 1, 4)
GEMM(mxfp4, Mxfp4, 2, 4)
GEMM(q2_k, Q2K, 2, 8)
GEMM(q4_k, Q4K, 2, 4)
GEMM(q6_k, Q6K, 1, 4)
GEMM(iq2_xxs, Iq2Xxs, 2, 8)
