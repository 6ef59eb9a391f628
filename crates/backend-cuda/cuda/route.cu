// Which experts a row uses and with what weight: the choice alone, or the logits too.
#include "route.cuh"

// grid: rows, or eighths of them where a warp chooses. Shared: two values an expert, for each row of the
// block.
KERNEL(256, route, RouteArgs) {
    DYNAMIC_SHARED(float, scores);
    if (!has_few_experts(a)) return choose(a, blockIdx.x, scores);
    const uint32_t first = blockIdx.x * CHOICE_ROWS;
    choose_rows(a, first, min(a.n_rows - first, uint32_t(CHOICE_ROWS)), reinterpret_cast<Candidate*>(scores));
}

// The logits of two experts a block, for all rows; the block that is done last chooses. Blocks more write mixing
// values. grid: experts / 2, and a block for each row of mixing values. Shared: as `route`; there are CHOICE_ROWS
// rows at most. The width is made of eights. The next kernel begins only when x is there.
KERNEL_HOLDING(32 * ROUTER_WARPS, 1, router, RouterArgs) {
    DYNAMIC_SHARED(float, scores);
    SHARED float sums[ROUTER_WARPS];
    SHARED SiteTotals totals;
    SHARED uint32_t last;
    const uint32_t routers = gridDim.x - a.n_mixes;
    if (blockIdx.x >= routers) {
        let_next_begin();
        return mix_row(a.site, blockIdx.x - routers, totals);
    }
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_experts = a.route.n_experts;
    const uint32_t expert = blockIdx.x * ROUTER_EXPERTS + warp / SHARE;
    const uint32_t first = 8 * (lane + 32 * (warp % SHARE)), step = 8 * 32 * SHARE;
    const uint64_t row = uint64_t(expert) * a.hidden;
    const bool exists = expert < n_experts, held = a.gate_type != FLOAT_F32;
    uint4 weights[PIECES];
#pragma unroll
    for (int k = 0; k < PIECES; k++) {
        const uint32_t at = first + k * step;
        weights[k] = make_uint4(0, 0, 0, 0);
        if (exists && held && at < a.hidden) {
            const uint16_t* from = static_cast<const uint16_t*>(a.gate) + row + at;
            weights[k] = *reinterpret_cast<const uint4*>(from);
        }
    }
    await_previous();
    let_next_begin();
    for (uint32_t r = 0; r < a.route.n_rows; r++) {
        const float* x = a.x + uint64_t(r) * a.hidden;
        float sum = 0.0f;
        if (held) sum = held_product(weights, a.gate_type, x, first, step, a.hidden);
        if (exists) sum += read_product(a, row, x, first + (held ? PIECES * step : 0), step);
        sum = warp_sum(sum);
        __syncthreads();
        if (lane == 0) sums[warp] = sum;
        __syncthreads();
        if (lane == 0 && warp % SHARE == 0 && exists) {
            float all = sum;
            for (uint32_t w = 1; w < SHARE; w++) all += sums[warp + w];
            const_cast<float*>(a.route.logits)[uint64_t(r) * n_experts + expert] = all;
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(a.done, 1u) + 1 == routers;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *a.done = 0;
    if (has_few_experts(a.route)) {
        return choose_rows(a.route, 0, a.route.n_rows, reinterpret_cast<Candidate*>(scores));
    }
    for (uint32_t r = 0; r < a.route.n_rows; r++) choose(a.route, r, scores);
}
