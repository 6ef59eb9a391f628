// Choosing the k-th largest of many values by histograms.
#pragma once
#include "common.cuh"

// The sum of what comes before this thread, and of everything. The block comes here; `sums` holds a
// number a warp.
OUTLINE uint32_t sum_before(uint32_t own, uint32_t* sums, uint32_t& total) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t sum = own;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const uint32_t other = __shfl_up_sync(FULL_WARP, sum, o);
        if (lane >= uint32_t(o)) sum += other;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    total = 0;
    uint32_t before = sum - own;
#pragma unroll 4
    for (uint32_t w = 0; w < blockDim.x / 32; w++) {
        if (w < warp) before += sums[w];
        total += sums[w];
    }
    return before;
}

// The highest bin such that it and those above hold at least `wanted`; `above` are in those above. A
// thread has EACH neighbouring bins, so that there are EACH for every one of the block. `chosen` holds two
// numbers.
template <int EACH>
DEVICE uint32_t threshold_bin(const uint32_t* bins, uint32_t wanted, uint32_t* sums, uint32_t* chosen,
                              uint32_t& above) {
    const uint32_t first = (blockDim.x - 1 - threadIdx.x) * EACH;
    uint32_t own[EACH], all = 0, total;
#pragma unroll
    for (int i = 0; i < EACH; i++) own[i] = bins[first + i];
#pragma unroll
    for (int i = 0; i < EACH; i++) all += own[i];
    uint32_t before = sum_before(all, sums, total);
#pragma unroll
    for (int i = EACH - 1; i >= 0; i--) {
        if (before < wanted && before + own[i] >= wanted) {
            chosen[0] = first + i;
            chosen[1] = before;
        }
        before += own[i];
    }
    __syncthreads();
    above = chosen[1];
    return chosen[0];
}
