// The chosen experts of many rows on sm_90: pairs sorted by expert (experts_sort.cu).
//
// Gate and up end as f16 in the order that down wants, times a power of two that keeps the largest value
// which the clamp lets through; the weight of a pair comes with the sum (experts_sum).
#include "panel.cuh"
#include "wide.cuh"

// As in experts_sort.cu; `slot` is where the tile's f16 rows begin. Without tiles there is one expert, and
// places and slots are rows.
struct Tile {
    uint32_t expert, first, count, slot;
};

struct ExpertsWideArgs {
    // The gate, or what its result goes through; the other matrix of the first product.
    Matrix m, up;
    const uint8_t* x;
    const float* factors;
    const Tile* tiles;
    const uint32_t* grid;
    // f16 rows by slots, or f32 rows by places.
    uint8_t* out;
    uint64_t x_step, out_step;
    float clamp, scale;
    uint32_t n_rows, unused;
};

#if WGMMA

template <int N>
DEVICE Tile tile_of(const ExpertsWideArgs& a) {
    if (a.tiles) return a.tiles[blockIdx.y];
    const uint32_t first = blockIdx.y * N;
    return {0, first, min(uint32_t(N), a.n_rows - first), first};
}

// The results of a tile: eight panels of either matrix, or 16 of one. Block x: panels, y: tiles.
template <class F, int N, int X_STAGES>
DEVICE void expert_wide(Wide<F, N, X_STAGES>& product, const ExpertsWideArgs& a, const Tile& tile,
                        bool gated) {
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED uint4 levels[64];
    uint32_t* const grid = reinterpret_cast<uint32_t*>(levels);
    copy_grid(grid, a.grid);
    copies_wait<0>();
    WideOperands in;
    in.chunks = chunks_of(a.m.cols);
    const uint64_t before = tile.expert * a.m.expert_bytes;
    in.weights[0] = a.m.w + before;
    in.weights[1] = (gated ? a.up.w : a.m.w) + before;
    in.group_panels = gated ? 4 : 8;
    in.first[0] = blockIdx.x * 2 * in.group_panels;
    in.first[1] = in.first[0] + (gated ? 0 : 4);
    in.last = (a.m.rows - 1) / CHUNK_ROWS;
    in.x = a.x + uint64_t(tile.slot) * 128;
    in.x_step = a.x_step;
    product.run(in, shared, grid);
}

template <class F, int N, int X_STAGES>
DEVICE void experts_wide_up(const ExpertsWideArgs& a) {
    const Tile tile = tile_of<N>(a);
    if (tile.count == 0) return;
    Wide<F, N, X_STAGES> product;
    expert_wide(product, a, tile, true);
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t panel = blockIdx.x * 8 + warp;
    // Lanes g and g + 2 have what lies side by side, for two rows sixteen bits apart.
    const bool second = g / 2 % 2 != 0;
    const uint32_t row = panel * CHUNK_ROWS + g + (second ? 6 : 0);
    uint8_t* const out = a.out + row / 64 * a.out_step;
    const uint32_t at = row % 64 / 32 * 32 + half_place(row % 32);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint32_t slot = tile.slot + 8 * j + 2 * t;
        const float2 factor = *reinterpret_cast<const float2*>(a.factors + slot);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float own = i ? factor.y : factor.x;
            float v[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int r = 4 * j + 2 * half + i;
                const bool exists = panel * CHUNK_ROWS + g + 8 * half < a.m.rows;
                v[half] = exists ? swiglu_value(product.acc[0][r] * own, product.acc[1][r] * own, a.clamp) : 0.0f;
            }
            const float other = __shfl_xor_sync(FULL_WARP, second ? v[0] : v[1], 8);
            const float low = second ? other : v[0], high = second ? v[1] : other;
            const uint32_t bits = float_to_half(low * a.scale) | uint32_t(float_to_half(high * a.scale)) << 16;
            if (8 * j + 2 * t + i < tile.count) {
                const uint32_t place = slot + i;
                *reinterpret_cast<uint32_t*>(out + uint64_t(place) / 8 * 1024 + swizzled(place % 8, at)) = bits;
            }
        }
    }
}

template <class F, int N, int X_STAGES>
DEVICE void experts_wide_down(const ExpertsWideArgs& a) {
    const Tile tile = tile_of<N>(a);
    if (tile.count == 0) return;
    Wide<F, N, X_STAGES> product;
    expert_wide(product, a, tile, false);
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float* const out = reinterpret_cast<float*>(a.out);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int p = i / 4, r = i % 4;
            const uint32_t panel = blockIdx.x * WIDE_PANELS + warp / 4 * 8 + p * 4 + warp % 4;
            const uint32_t row = panel * CHUNK_ROWS + g + r / 2 * 8;
            const uint32_t column = 8 * j + 2 * t + r % 2;
            if (column < tile.count && row < a.m.rows) {
                out[uint64_t(tile.first + column) * a.m.rows + row] = product.acc[p][4 * j + r] * a.scale;
            }
        }
    }
}

#endif

#define EXPERTS(name, F, blocks, stages)                                                                      \
    KERNEL_OCC(WIDE_THREADS, 1, up_##name##_128, ExpertsWideArgs) { WGMMA_BODY(experts_wide_up<F, 128, 4>(a);) }          \
    KERNEL_OCC(WIDE_THREADS, 1, down_##name##_128, ExpertsWideArgs) { WGMMA_BODY(experts_wide_down<F, 128, 4>(a);) }      \
    KERNEL_OCC(WIDE_THREADS, blocks, up_##name##_64, ExpertsWideArgs) { WGMMA_BODY(experts_wide_up<F, 64, stages>(a);) }  \
    KERNEL_OCC(WIDE_THREADS, blocks, down_##name##_64, ExpertsWideArgs) {                                     \
        WGMMA_BODY(experts_wide_down<F, 64, stages>(a);)                                                                  \
    }

EXPERTS(q8_0, Q8_0, 1, 4)
EXPERTS(mxfp4, Mxfp4, 2, 4)
EXPERTS(q2_k, Q2K, 2, 8)
EXPERTS(q4_k, Q4K, 2, 4)
EXPERTS(q6_k, Q6K, 1, 4)
EXPERTS(iq2_xxs, Iq2Xxs, 2, 8)
