// The records of one row's gated products, made by the kernel that adds them up.
#pragma once
#include "experts.cuh"
#include "round.cuh"

// Chunks of values that a warp has on their way at once.
#define PAIR_CHUNKS 4

// Rounds the pairs of one row to shared memory: those of the chosen experts with a scale for every 256
// columns, those of the shared one for every 32.
template <uint32_t N_WARPS>
DEVICE void round_pairs(const DownArgs& a, uint8_t* records) {
    const uint32_t of_pair = chunks_of(a.down.cols), chosen = a.used * of_pair;
    const uint32_t all = chosen + (a.shared_x ? of_pair : 0);
    Chunks<PAIR_CHUNKS> chunks;
#pragma unroll 1
    for (uint32_t i = threadIdx.x / 32, k = 0; i < all; i += N_WARPS, k++) {
        if (k % PAIR_CHUNKS == 0) chunks.load(a.raw, i, N_WARPS, all);
        float v[8];
        chunks.values(v, 0);
        chunks.shift();
        uint8_t* shared = records + chosen * ACT256_RECORD + (i - chosen) * ACT32_RECORD;
        const bool is_chosen = i < chosen;
        round_chunk(v, is_chosen ? nullptr : shared, is_chosen ? records + i * ACT256_RECORD : nullptr, nullptr);
    }
    __syncthreads();
}
