// The chosen experts of many rows: pairs sorted by expert, so that an expert's weights are read once
// for up to a tile of pairs.
#include "gemm.cuh"
#include "panel.cuh"
#include "tile.cuh"

struct ExpertsArgs {
    // The gate, or what its result goes through; the other matrix of the first product.
    Matrix m, up;
    const uint8_t* x;
    const Tile* tiles;
    // Pair by place.
    const uint32_t* pairs;
    const float* weights;
    const uint32_t* grid;
    // [places, rows of m]
    float* out;
    uint32_t x_row_bytes, used;
    float clamp;
    uint32_t unused;
};

// Where the records of a tile's columns are, in units of 16 bytes: by their places, or by the rows of
// their pairs. Columns behind the end repeat the last.
template <bool BY_PLACE>
DEVICE void find_columns(uint32_t* columns, uint32_t n, const ExpertsArgs& a, const Tile& tile) {
    for (uint32_t i = threadIdx.x; i < n; i += GEMM_THREADS) {
        const uint32_t place = tile.first + min(i, tile.count - 1);
        columns[i] = (BY_PLACE ? place : a.pairs[place] / a.used) * (a.x_row_bytes / 16);
    }
}

// The results of a tile: panels `panel` of either matrix, or 8 panels of one.
template <class F, int N>
DEVICE void expert_product(Gemm<F, N>& product, const ExpertsArgs& a, const Tile& tile, bool gated) {
    typedef Gemm<F, N> Product;
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED uint32_t columns[Product::COLUMNS];
    SHARED uint4 levels[64];
    uint32_t* const grid = reinterpret_cast<uint32_t*>(levels);
    const uint32_t warp = threadIdx.x / 32;
    if (gated) {
        find_columns<false>(columns, Product::COLUMNS, a, tile);
    } else {
        find_columns<true>(columns, Product::COLUMNS, a, tile);
    }
    copy_grid(grid, a.grid);
    __syncthreads();
    // Gate and up take turns, so that a warp has a panel of each.
    const Matrix& m = gated && warp % 2 ? a.up : a.m;
    const uint32_t panel = gated ? blockIdx.y * (GEMM_PANELS / 2) + warp / 2
                                 : blockIdx.y * GEMM_PANELS + warp;
    Operands in;
    in.chunks = chunks_of(m.cols);
    in.panel = m.w + tile.expert * m.expert_bytes +
               uint64_t(min(panel, (m.rows - 1) / CHUNK_ROWS)) * in.chunks * F::CHUNK;
    in.records = a.x;
    in.columns = columns;
    in.n_columns = (tile.count + 7) / 8 * 8;
    product.run(shared, in, grid);
}

// out = weight * silu(min(gate, clamp)) * clamp(up): a warp has a panel of each, of the same rows.
template <class F, int N>
DEVICE void experts_gemm_up(const ExpertsArgs& a) {
    typedef Gemm<F, N> Product;
    const Tile tile = a.tiles[blockIdx.x];
    const uint32_t first_panel = blockIdx.y * (GEMM_PANELS / 2), lane = threadIdx.x % 32;
    if (tile.count == 0 || first_panel * CHUNK_ROWS >= a.m.rows) return;
    Product product;
    expert_product(product, a, tile, true);
    const uint32_t panel = first_panel + threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < N * 4; i++) {
        const int n = i / 4, r = i % 4;
        const uint32_t row = panel * CHUNK_ROWS + lane / 4 + r / 2 * 8;
        const uint32_t column = Product::eight(n) + lane % 4 * 2 + r % 2;
        if (column >= tile.count || row >= a.m.rows) continue;
        const uint32_t place = tile.first + column;
        const float value = swiglu_value(product.acc[0][n][r], product.acc[1][n][r], a.clamp);
        a.out[uint64_t(place) * a.m.rows + row] = a.weights[a.pairs[place]] * value;
    }
}

template <class F, int N>
DEVICE void experts_gemm_down(const ExpertsArgs& a) {
    typedef Gemm<F, N> Product;
    const Tile tile = a.tiles[blockIdx.x];
    const uint32_t first_panel = blockIdx.y * GEMM_PANELS, lane = threadIdx.x % 32;
    if (tile.count == 0 || first_panel * CHUNK_ROWS >= a.m.rows) return;
    Product product;
    expert_product(product, a, tile, false);
#pragma unroll
    for (int i = 0; i < 2 * N * 4; i++) {
        const int p = i / (4 * N), n = i / 4 % N, r = i % 4;
        const uint32_t panel = first_panel + threadIdx.x / 32 % 4 * 2 + p;
        const uint32_t row = panel * CHUNK_ROWS + lane / 4 + r / 2 * 8;
        const uint32_t column = Product::eight(n) + lane % 4 * 2 + r % 2;
        if (column >= tile.count || row >= a.m.rows) continue;
        a.out[uint64_t(tile.first + column) * a.m.rows + row] = product.acc[p][n][r];
    }
}

// A few bytes spill on sm_120, where the compiler packs less well:
// spills: up_q4_k
// spills: up_q6_k
#define EXPERTS(name, F, N)                                                                         \
    KERNEL_OCC(GEMM_THREADS, 1, up_##name, ExpertsArgs) { experts_gemm_up<F, N>(a); }               \
    KERNEL_OCC(GEMM_THREADS, 1, down_##name, ExpertsArgs) { experts_gemm_down<F, N>(a); }

EXPERTS(q8_0, Q8_0, 2)
EXPERTS(mxfp4, Mxfp4, 4)
EXPERTS(q2_k, Q2K, 4)
EXPERTS(q4_k, Q4K, 4)
EXPERTS(q6_k, Q6K, 4)
EXPERTS(iq2_xxs, Iq2Xxs, 4)
