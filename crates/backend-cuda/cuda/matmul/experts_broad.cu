// The chosen experts of many rows on sm_90, with tiles of up to 256 pairs, whose products are as wide as a tile
// has pairs.
#include "experts_wide.cuh"

#define TILE 256
#define X_STAGES 4

#if WGMMA

// Block x: four panels of gate and of up, or eight of one matrix; y: tiles.
template <class F, int N>
DEVICE void expert_broad(Broad<F, N, X_STAGES>& product, const ExpertsWideArgs& a, const Tile& tile, uint8_t* x,
                         const uint32_t* grid, bool gated) {
    WideOperands in;
    in.chunks = chunks_of(a.m.cols);
    const uint64_t before = tile.expert * a.m.expert_bytes;
    in.weights[0] = a.m.w + before;
    in.weights[1] = (gated ? a.up.w : a.m.w) + before;
    in.group_panels = 4;
    in.first[0] = blockIdx.x * (gated ? 4 : 8);
    in.first[1] = in.first[0] + (gated ? 0 : 4);
    in.last = (a.m.rows - 1) / CHUNK_ROWS;
    in.x = a.x + uint64_t(tile.slot) * 128;
    in.x_step = a.x_step;
    product.run(in, x, grid);
}

template <class F, int N>
DEVICE void broad_up(const ExpertsWideArgs& a, const Tile& tile, uint8_t* x, const uint32_t* grid) {
    Broad<F, N, X_STAGES> product;
    expert_broad(product, a, tile, x, grid, true);
    // The first warpgroup has gates; the activations' place takes them to the other.
    float* const gates = reinterpret_cast<float*>(x) + threadIdx.x % 128;
    __syncthreads();
    if (threadIdx.x < 128) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) gates[128 * i] = product.acc[i];
    }
    __syncthreads();
    if (threadIdx.x < 128) return;
    const uint32_t t = threadIdx.x % 4;
    GatedPlace place;
    place.find(a, blockIdx.x * 4 + threadIdx.x / 32 % 4);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const uint32_t column = 8 * j + 2 * t, slot = tile.slot + column;
        const float2 factor = *reinterpret_cast<const float2*>(a.factors + slot);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float gate[2] = {gates[128 * (4 * j + i)], gates[128 * (4 * j + 2 + i)]};
            const float up[2] = {product.acc[4 * j + i], product.acc[4 * j + 2 + i]};
            place.put(a, gate, up, i ? factor.y : factor.x, slot + i, column + i < tile.count);
        }
    }
}

template <class F, int N>
DEVICE void broad_down(const ExpertsWideArgs& a, const Tile& tile, uint8_t* x, const uint32_t* grid) {
    Broad<F, N, X_STAGES> product;
    expert_broad(product, a, tile, x, grid, false);
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t row = (blockIdx.x * 8 + threadIdx.x / 32) * CHUNK_ROWS + g;
    float* const out = reinterpret_cast<float*>(a.out);
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t column = 8 * j + 2 * t + r % 2, at = row + r / 2 * 8;
            if (column < tile.count && at < a.m.rows) {
                out[uint64_t(tile.first + column) * a.m.rows + at] = product.acc[4 * j + r] * a.scale;
            }
        }
    }
}

template <class F, bool UP, int N>
DEVICE void broad_part(const ExpertsWideArgs& a, const Tile& tile, uint8_t* x, const uint32_t* grid) {
    if constexpr (UP) {
        broad_up<F, N>(a, tile, x, grid);
    } else {
        broad_down<F, N>(a, tile, x, grid);
    }
}

template <class F, bool UP>
DEVICE void broad(const ExpertsWideArgs& a) {
    DYNAMIC_SHARED(uint8_t, shared);
    SHARED uint4 levels[64];
    uint32_t* const grid = reinterpret_cast<uint32_t*>(levels);
    const Tile tile = tile_of<TILE>(a);
    if (tile.count == 0) return;
    copy_grid(grid, a.grid);
    copies_wait<0>();
    uint8_t* const x = Wide<F, 64, X_STAGES>::aligned(shared);
    if (tile.count <= 64) {
        broad_part<F, UP, 64>(a, tile, x, grid);
    } else if (tile.count <= 96) {
        broad_part<F, UP, 96>(a, tile, x, grid);
    } else if (tile.count <= 128) {
        broad_part<F, UP, 128>(a, tile, x, grid);
    } else if (tile.count <= 160) {
        broad_part<F, UP, 160>(a, tile, x, grid);
    } else if (tile.count <= 192) {
        broad_part<F, UP, 192>(a, tile, x, grid);
    } else if (tile.count <= 224) {
        broad_part<F, UP, 224>(a, tile, x, grid);
    } else {
        broad_part<F, UP, 256>(a, tile, x, grid);
    }
}

#endif

// The layouts of published files.
#define EXPERTS(name, F)                                                                                  \
    KERNEL_OCC(WIDE_THREADS, 1, up_##name##_256, ExpertsWideArgs) { WGMMA_BODY((broad<F, true>(a));) }    \
    KERNEL_OCC(WIDE_THREADS, 1, down_##name##_256, ExpertsWideArgs) { WGMMA_BODY((broad<F, false>(a));) }

EXPERTS(mxfp4, Mxfp4)
EXPERTS(q2_k, Q2K)
EXPERTS(q4_k, Q4K)
EXPERTS(iq2_xxs, Iq2Xxs)
EXPERTS(q8_0, Q8_0)
