// The chosen experts of many rows: pairs sorted by expert, so that an expert's weights are read once
// for up to a tile of pairs.
#include "gemm.cuh"
#include "panel.cuh"

// As in experts_sort.cu.
struct Tile {
    uint32_t expert, first, count, unused;
};

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

template <class F, int N>
struct ExpertProduct {
    typedef Gemm<F, N> Product;

    // The records of a tile's columns; behind its end they repeat the last.
    template <bool BY_PLACE>
    static MEMBER void find_columns(const uint8_t** columns, const ExpertsArgs& a, const Tile& tile) {
        for (uint32_t i = threadIdx.x; i < Product::COLUMNS; i += GEMM_THREADS) {
            const uint32_t place = tile.first + min(i, tile.count - 1);
            const uint32_t row = BY_PLACE ? place : a.pairs[place] / a.used;
            columns[i] = a.x + uint64_t(row) * a.x_row_bytes;
        }
    }

    static MEMBER uint32_t panel_of(const Matrix& m, uint32_t panel) {
        return min(panel, (m.rows - 1) / CHUNK_ROWS);
    }

    // Column of the tile and row of a panel of the lane's r-th result of the n-th eight columns.
    static MEMBER uint32_t column_of(int n, int r) {
        return threadIdx.x / 128 * (8 * N) + 8 * n + threadIdx.x % 4 * 2 + r % 2;
    }
    static MEMBER uint32_t row_of(int r) { return threadIdx.x % 32 / 4 + r / 2 * 8; }
};

// out = weight * silu(min(gate, clamp)) * clamp(up): a warp has a panel of each, of the same rows.
template <class F, int N>
DEVICE void experts_gemm_up(const ExpertsArgs& a) {
    typedef ExpertProduct<F, N> Experts;
    typedef Gemm<F, N> Product;
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED const uint8_t* columns[Product::COLUMNS];
    SHARED uint32_t grid[F::GRID > 0 ? 256 * F::GRID : 1];
    const Tile tile = a.tiles[blockIdx.x];
    const uint32_t first_panel = blockIdx.y * (GEMM_PANELS / 2);
    if (tile.count == 0 || first_panel * CHUNK_ROWS >= a.m.rows) return;
    Experts::template find_columns<false>(columns, a, tile);
    if constexpr (F::GRID > 0) copy_grid<F::GRID>(grid, a.grid);
    __syncthreads();
    typename Product::Operands in;
    in.columns = columns;
    in.chunks = chunks_of(a.m.cols);
#pragma unroll
    for (uint32_t p = 0; p < GEMM_PANELS; p++) {
        const Matrix& m = p % 2 ? a.up : a.m;
        const uint32_t panel = Experts::panel_of(m, first_panel + p / 2);
        in.panels[p] = m.w + tile.expert * m.expert_bytes + uint64_t(panel) * in.chunks * F::CHUNK;
    }
    Product product;
    product.run(shared, in, grid + (F::GRID > 0 ? threadIdx.x % F::GRID : 0));
    const uint32_t panel = first_panel + threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < N * 4; i++) {
        const int n = i / 4, r = i % 4;
        const uint32_t row = panel * CHUNK_ROWS + Experts::row_of(r);
        const uint32_t column = Experts::column_of(n, r);
        if (column >= tile.count || row >= a.m.rows) continue;
        const uint32_t place = tile.first + column;
        const float value = swiglu_value(product.acc[0][n][r], product.acc[1][n][r], a.clamp);
        a.out[uint64_t(place) * a.m.rows + row] = a.weights[a.pairs[place]] * value;
    }
}

template <class F, int N>
DEVICE void experts_gemm_down(const ExpertsArgs& a) {
    typedef ExpertProduct<F, N> Experts;
    typedef Gemm<F, N> Product;
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED const uint8_t* columns[Product::COLUMNS];
    SHARED uint32_t grid[F::GRID > 0 ? 256 * F::GRID : 1];
    const Tile tile = a.tiles[blockIdx.x];
    const uint32_t first_panel = blockIdx.y * GEMM_PANELS;
    if (tile.count == 0 || first_panel * CHUNK_ROWS >= a.m.rows) return;
    Experts::template find_columns<true>(columns, a, tile);
    if constexpr (F::GRID > 0) copy_grid<F::GRID>(grid, a.grid);
    __syncthreads();
    typename Product::Operands in;
    in.columns = columns;
    in.chunks = chunks_of(a.m.cols);
#pragma unroll
    for (uint32_t p = 0; p < GEMM_PANELS; p++) {
        const uint32_t panel = Experts::panel_of(a.m, first_panel + p);
        in.panels[p] =
            a.m.w + tile.expert * a.m.expert_bytes + uint64_t(panel) * in.chunks * F::CHUNK;
    }
    Product product;
    product.run(shared, in, grid + (F::GRID > 0 ? threadIdx.x % F::GRID : 0));
#pragma unroll
    for (int i = 0; i < 2 * N * 4; i++) {
        const int p = i / (4 * N), n = i / 4 % N, r = i % 4;
        const uint32_t panel = first_panel + threadIdx.x / 32 % 4 * 2 + p;
        const uint32_t row = panel * CHUNK_ROWS + Experts::row_of(r);
        const uint32_t column = Experts::column_of(n, r);
        if (column >= tile.count || row >= a.m.rows) continue;
        a.out[uint64_t(tile.first + column) * a.m.rows + row] = product.acc[p][n][r];
    }
}

#define EXPERTS(name, F, N)                                                                         \
    KERNEL_OCC(GEMM_THREADS, 1, up_##name, ExpertsArgs) { experts_gemm_up<F, N>(a); }               \
    KERNEL_OCC(GEMM_THREADS, 1, down_##name, ExpertsArgs) { experts_gemm_down<F, N>(a); }

EXPERTS(q8_0, Q8_0, 2)
EXPERTS(mxfp4, Mxfp4, 4)
EXPERTS(q2_k, Q2K, 4)
EXPERTS(q4_k, Q4K, 4)
EXPERTS(q6_k, Q6K, 4)
EXPERTS(iq2_xxs, Iq2Xxs<GRID_COPIES>, 4)
