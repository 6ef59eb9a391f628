// The chosen experts of many rows on sm_90, with tiles of up to 128 pairs.
#include "experts_wide.cuh"

#if WGMMA

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
    const uint32_t t = threadIdx.x % 4;
    GatedPlace place;
    place.find(a, blockIdx.x * 8 + threadIdx.x / 32);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint32_t column = 8 * j + 2 * t, slot = tile.slot + column;
        const float2 factor = *reinterpret_cast<const float2*>(a.factors + slot);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float gate[2] = {product.acc[0][4 * j + i], product.acc[0][4 * j + 2 + i]};
            const float up[2] = {product.acc[1][4 * j + i], product.acc[1][4 * j + 2 + i]};
            place.put(a, gate, up, i ? factor.y : factor.x, slot + i, column + i < tile.count);
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
