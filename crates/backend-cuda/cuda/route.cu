// Which experts a row uses and with what weight.
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

// grid: rows. Shared: scores and biased scores of all experts.
KERNEL(256, route, RouteArgs) {
    DYNAMIC_SHARED(float, scores);
    SHARED float values[8];
    SHARED uint32_t indices[8];
    float* biased = scores + a.n_experts;
    const uint32_t r = blockIdx.x;
    const float* logits = a.logits + uint64_t(r) * a.n_experts;
    for (uint32_t e = threadIdx.x; e < a.n_experts; e += blockDim.x) {
        const float score = sqrtf(softplus(logits[e]));
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
}
