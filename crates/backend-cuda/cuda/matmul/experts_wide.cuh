// What the kernels for the experts of many rows on sm_90 have in common.
//
// Pairs are sorted by expert (experts_sort.cu). Gate and up end as f16 in the order that down wants, times a
// power of two that keeps the largest value which the clamp lets through; the weight of a pair comes with the
// sum (experts_sum).
#pragma once
#include "panel.cuh"
#include "tile.cuh"
#include "wide.cuh"

struct ExpertsWideArgs {
    // The gate, or what its result goes through; the other matrix of the first product.
    Matrix m, up;
    const uint8_t* x;
    const float* factors;
    // Without them there is one expert, and places and slots are rows.
    const Tile* tiles;
    const uint32_t* grid;
    // f16 rows by slots, or f32 rows by places.
    uint8_t* out;
    uint64_t x_step, out_step;
    float clamp, scale;
    uint32_t n_rows, unused;
};

template <int N>
DEVICE Tile tile_of(const ExpertsWideArgs& a) {
    if (a.tiles) return a.tiles[blockIdx.y];
    const uint32_t first = blockIdx.y * N;
    return {0, first, min(uint32_t(N), a.n_rows - first), first};
}

#if WGMMA

// Two neighbouring columns of gated values, rows g and g + 8 of a panel, as f16 to their places.
struct GatedPlace {
    uint8_t* out;
    uint32_t at;
    bool second, exists[2];

    MEMBER void find(const ExpertsWideArgs& a, uint32_t panel) {
        const uint32_t g = threadIdx.x % 32 / 4;
        // Lanes g and g + 2 have what lies side by side, for two rows sixteen bits apart.
        second = g / 2 % 2 != 0;
        const uint32_t row = panel * CHUNK_ROWS + g + (second ? 6 : 0);
        out = a.out + row / 64 * a.out_step;
        at = row % 64 / 32 * 32 + half_place(row % 32);
        exists[0] = panel * CHUNK_ROWS + g < a.m.rows;
        exists[1] = panel * CHUNK_ROWS + g + 8 < a.m.rows;
    }

    MEMBER void put(const ExpertsWideArgs& a, const float (&gate)[2], const float (&up)[2], float factor,
                    uint32_t slot, bool wanted) const {
        float v[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            v[half] = exists[half] ? swiglu_value(gate[half] * factor, up[half] * factor, a.clamp) : 0.0f;
        }
        const float other = __shfl_xor_sync(FULL_WARP, second ? v[0] : v[1], 8);
        const float low = second ? other : v[0], high = second ? v[1] : other;
        const uint32_t bits =
            float_to_half(low * a.scale) | uint32_t(float_to_half(high * a.scale)) << 16;
        if (wanted) {
            *reinterpret_cast<uint32_t*>(out + uint64_t(slot) / 8 * 1024 + swizzled(slot % 8, at)) = bits;
        }
    }
};

#endif
