// Which experts a row uses and with what weight.
#include "matmul/copy.cuh"
#include "step.cuh"

struct RouteArgs {
    const float* logits;
    const float* bias;        // for the choice only; unused with a table
    const uint32_t* table;    // experts by token, or null
    uint32_t* ids;
    float* weights;
    StepView step;
    uint32_t n_experts, used;
    float scale;
    uint32_t pad;
};

DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// The better of two candidates: the larger value, ties to the lower index.
DEVICE void better(float& value, uint32_t& index, float other, uint32_t at) {
    if (other > value || (other == value && at < index)) {
        value = other;
        index = at;
    }
}

// The best of a block's candidates; every thread gets its index.
DEVICE uint32_t block_best(float value, uint32_t index, float* values, uint32_t* indices) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const float v = __shfl_xor_sync(FULL_WARP, value, o);
        const uint32_t i = __shfl_xor_sync(FULL_WARP, index, o);
        better(value, index, v, i);
    }
    const uint32_t warp = threadIdx.x / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        values[warp] = value;
        indices[warp] = index;
    }
    __syncthreads();
    for (uint32_t w = 0; w < blockDim.x / 32; w++) better(value, index, values[w], indices[w]);
    return index;
}

// The choice of row r by a whole block, from its logits. `scores` holds two values an expert.
DEVICE void choose(const RouteArgs& a, uint32_t r, float* scores) {
    SHARED float values[8];
    SHARED uint32_t indices[8];
    float* biased = scores + a.n_experts;
    const float* logits = a.logits + uint64_t(r) * a.n_experts;
    for (uint32_t e = threadIdx.x; e < a.n_experts; e += blockDim.x) {
        const float score = sqrtf(softplus(__ldcg(logits + e)));
        scores[e] = score;
        biased[e] = a.table ? score : score + a.bias[e];
    }
    __syncthreads();
    uint32_t* ids = a.ids + uint64_t(r) * a.used;
    float sum = 0.0f;
    for (uint32_t k = 0; k < a.used; k++) {
        uint32_t best;
        if (a.table) {
            best = a.table[uint64_t(a.step.row(r).token) * a.used + k];
        } else {
            float value = -INFINITY;
            best = a.n_experts;
            for (uint32_t e = threadIdx.x; e < a.n_experts; e += blockDim.x) {
                better(value, best, biased[e], e);
            }
            best = block_best(value, best, values, indices);
            // Logits that are no numbers leave no candidate: any expert then, never a wild one.
            if (best >= a.n_experts) best = k;
        }
        sum += scores[best];
        __syncthreads();
        if (threadIdx.x == 0) {
            ids[k] = best;
            biased[best] = -INFINITY;
        }
        __syncthreads();
    }
    for (uint32_t k = threadIdx.x; k < a.used; k += blockDim.x) {
        a.weights[uint64_t(r) * a.used + k] = scores[ids[k]] / sum * a.scale;
    }
    __syncthreads();
}

// grid: rows. Shared: scores and biased scores of all experts.
KERNEL(256, route, RouteArgs) {
    DYNAMIC_SHARED(float, scores);
    choose(a, blockIdx.x, scores);
}

struct RouterArgs {
    RouteArgs route;
    const float* x;           // [rows, hidden]
    const void* gate;         // [experts, hidden]
    uint32_t* done;           // blocks that are done: zero before and after
    uint32_t gate_type, hidden, n_rows, pad;
};

#define ROUTER_WARPS 8

// Eight weights from column i on.
DEVICE void gate_weights(const RouterArgs& a, uint64_t at, float (&w)[8]) {
    if (a.gate_type == FLOAT_F32) {
        const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(a.gate) + at);
        const float4 low = from[0], high = from[1];
        w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
        w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
        return;
    }
    const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(a.gate) + at);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint16_t even = uint16_t(words[i]), odd = uint16_t(words[i] >> 16);
        w[2 * i] = a.gate_type == FLOAT_F16 ? half_to_float(even) : bf16_to_float(even);
        w[2 * i + 1] = a.gate_type == FLOAT_F16 ? half_to_float(odd) : bf16_to_float(odd);
    }
}

// The logits of an expert a warp, for all rows; the block that is done last chooses. grid: experts / 8.
// Shared: as `route`. The width is made of eights.
KERNEL_EARLY(32 * ROUTER_WARPS, 1, router, RouterArgs) {
    DYNAMIC_SHARED(float, scores);
    SHARED uint32_t last;
    const uint32_t lane = threadIdx.x % 32, n_experts = a.route.n_experts;
    const uint32_t expert = blockIdx.x * ROUTER_WARPS + threadIdx.x / 32;
    const uint64_t row_bytes = uint64_t(a.hidden) * (a.gate_type == FLOAT_F32 ? 4 : 2);
    if (lane == 0 && expert < n_experts) {
        fetch_to_cache(static_cast<const uint8_t*>(a.gate) + expert * row_bytes, row_bytes);
    }
    await_previous();
    for (uint32_t r = 0; expert < n_experts && r < a.n_rows; r++) {
        const float* x = a.x + uint64_t(r) * a.hidden;
        float sum = 0.0f;
#pragma unroll 4
        for (uint32_t i = 8 * lane; i < a.hidden; i += 256) {
            float w[8];
            gate_weights(a, uint64_t(expert) * a.hidden + i, w);
            const float4 low = *reinterpret_cast<const float4*>(x + i);
            const float4 high = *reinterpret_cast<const float4*>(x + i + 4);
            sum += w[0] * low.x + w[1] * low.y + w[2] * low.z + w[3] * low.w;
            sum += w[4] * high.x + w[5] * high.y + w[6] * high.z + w[7] * high.w;
        }
        sum = warp_sum(sum);
        if (lane == 0) const_cast<float*>(a.route.logits)[uint64_t(r) * n_experts + expert] = sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(a.done, 1u) + 1 == gridDim.x;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *a.done = 0;
    for (uint32_t r = 0; r < a.n_rows; r++) choose(a.route, r, scores);
}
