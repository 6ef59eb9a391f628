// Products with many rows of activations.
#include "gemm.cuh"
#include "panel.cuh"

struct GemmArgs {
    Matrix m;
    const uint8_t* x;
    float* out;
    const uint32_t* grid;
    // Bytes between rows and between slices of x; floats between rows of out.
    uint32_t x_row_bytes, x_slice_bytes, out_stride;
    // Equal parts of the matrix' rows: slice i of x meets part `first_group` + i.
    uint32_t groups, first_group, n_rows;
};

// Block x: activation rows, y: panels of a group, z: group.
template <class F, int N>
DEVICE void gemm(const GemmArgs& a) {
    typedef Gemm<F, N> Product;
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED uint32_t columns[Product::COLUMNS];
    SHARED uint4 levels[64];
    uint32_t* const grid = reinterpret_cast<uint32_t*>(levels);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t group_rows = a.m.rows / a.groups;
    const uint32_t first_row = (a.first_group + blockIdx.z) * group_rows;
    const uint32_t end_row = first_row + group_rows, first_column = blockIdx.x * Product::COLUMNS;
    const uint32_t first_panel = first_row / CHUNK_ROWS + blockIdx.y * GEMM_PANELS;
    if (first_panel * CHUNK_ROWS >= end_row) return;
    for (uint32_t i = threadIdx.x; i < Product::COLUMNS; i += GEMM_THREADS) {
        // Columns behind the end repeat the last and are not stored.
        columns[i] = min(first_column + i, a.n_rows - 1) * (a.x_row_bytes / 16);
    }
    copy_grid(grid, a.grid);
    __syncthreads();

    const uint32_t panel = min(first_panel + warp, (end_row - 1) / CHUNK_ROWS);
    Operands in;
    in.chunks = chunks_of(a.m.cols);
    in.panel = a.m.w + uint64_t(panel) * in.chunks * F::CHUNK;
    in.records = a.x + uint64_t(blockIdx.z) * a.x_slice_bytes;
    in.columns = columns;
    in.n_columns = min((a.n_rows - first_column + 7) / 8 * 8, uint32_t(Product::COLUMNS));
    Product product;
    product.run(shared, in, grid);
#pragma unroll
    for (int i = 0; i < 2 * N * 4; i++) {
        const int p = i / (4 * N), n = i / 4 % N, r = i % 4;
        const uint32_t row = (first_panel + warp % 4 * 2 + p) * CHUNK_ROWS + lane / 4 + r / 2 * 8;
        const uint32_t column = first_column + Product::eight(n) + lane % 4 * 2 + r % 2;
        if (row >= first_row && row < end_row && column < a.n_rows) {
            a.out[uint64_t(column) * a.out_stride + row] = product.acc[p][n][r];
        }
    }
}

// The widest that fits into the shared memory of a block is best; the host knows their sizes. A few
// bytes spill on sm_120, where the compiler packs less well:
// spills: gemm_q4_k
// spills: gemm_q6_k
KERNEL_OCC(GEMM_THREADS, 1, gemm_q8_0, GemmArgs) { gemm<Q8_0, 8>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_q8_0_narrow, GemmArgs) { gemm<Q8_0, 2>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_mxfp4, GemmArgs) { gemm<Mxfp4, 4>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_q2_k, GemmArgs) { gemm<Q2K, 4>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_q4_k, GemmArgs) { gemm<Q4K, 4>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_q6_k, GemmArgs) { gemm<Q6K, 4>(a); }
KERNEL_OCC(GEMM_THREADS, 1, gemm_iq2_xxs, GemmArgs) { gemm<Iq2Xxs, 4>(a); }
