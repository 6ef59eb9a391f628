// Which experts a row uses and with what weight.
#pragma once
#include "site_few.cuh"

struct RouteArgs {
    const float* logits;
    const float* bias;        // for the choice only; unused with a table
    const uint32_t* table;    // experts by token, or null
    uint32_t* ids;
    float* weights;
    StepView step;
    uint32_t n_experts, used;
    float scale;
    uint32_t n_rows;
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

// Among so many experts a warp can choose by itself, from HELD of them in every lane.
#define HELD_MAX 16
#define EXPERTS_MAX (32 * HELD_MAX)

DEVICE bool has_few_experts(const RouteArgs& a) { return a.n_experts <= EXPERTS_MAX && a.used <= 32; }

// What an expert is chosen by, as an integer of the same order: zero where it is no number.
struct Candidate {
    float score;
    uint32_t key;
};

DEVICE Candidate candidate(const RouteArgs& a, uint32_t r, uint32_t e) {
    const float bias = a.table ? 0.0f : a.bias[e];
    const float score = sqrtf(softplus(__ldcg(a.logits + uint64_t(r) * a.n_experts + e)));
    const float biased = score + bias;
    return {score, biased == biased ? ordered(biased) : 0u};
}

// Lane k gets the k-th best of a row's candidates, and its score. `best` comes as what is chosen already.
template <int HELD>
DEVICE void choose_best(const RouteArgs& a, const Candidate* candidates, uint32_t& best, float& chosen) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t key[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        key[i] = lane + 32 * i < a.n_experts ? candidates[lane + 32 * i].key : 0u;
    }
    for (uint32_t k = 0; k < a.used; k++) {
        uint32_t largest = 0, at = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (key[i] > largest) largest = key[i], at = i;
        }
        const uint32_t top = warp_max_bits(largest);
        const uint32_t index = warp_min_bits(largest == top ? lane + 32 * at : 0xffffffffu);
        // Logits that are no numbers leave no candidate: any expert then, never a wild one.
        const uint32_t expert = top == 0 ? k : index;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (expert == lane + 32 * i) key[i] = 0;
        }
        if (lane == k) best = expert;
    }
    if (lane < a.used) chosen = candidates[best].score;
}

// The choice of row r by a warp, from its candidates, to `ids` and `weights`: the same as `choose`.
DEVICE void choose_by_warp(const RouteArgs& a, uint32_t r, const Candidate* candidates, uint32_t* ids,
                           float* weights) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t best = 0;
    float chosen = 0.0f;
    if (a.table) {
        if (lane < a.used) best = a.table[uint64_t(a.step.row(r).token) * a.used + lane];
        chosen = candidates[best].score;
    } else if (a.n_experts <= EXPERTS_MAX / 2) {
        choose_best<HELD_MAX / 2>(a, candidates, best, chosen);
    } else {
        choose_best<HELD_MAX>(a, candidates, best, chosen);
    }
    float sum = 0.0f;
    for (uint32_t k = 0; k < a.used; k++) sum += __shfl_sync(FULL_WARP, chosen, k);
    if (lane >= a.used) return;
    ids[lane] = best;
    weights[lane] = chosen / sum * a.scale;
}

// Rows that a block chooses for at once.
#define CHOICE_ROWS 8

// The choices of up to CHOICE_ROWS rows by a block of as many warps, for few experts. `candidates` holds
// those of all these rows.
DEVICE void choose_rows(const RouteArgs& a, uint32_t first, uint32_t n, Candidate* candidates) {
    for (uint32_t i = threadIdx.x; i < n * a.n_experts; i += blockDim.x) {
        candidates[i] = candidate(a, first + i / a.n_experts, i % a.n_experts);
    }
    __syncthreads();
    const uint32_t warp = threadIdx.x / 32, r = first + warp;
    if (warp >= n) return;
    const uint64_t at = uint64_t(r) * a.used;
    choose_by_warp(a, r, candidates + warp * a.n_experts, a.ids + at, a.weights + at);
}

struct RouterArgs {
    RouteArgs route;
    const float* x;           // [rows, hidden]
    const void* gate;         // [experts, hidden]
    uint32_t* done;           // blocks that are done: zero before and after
    uint32_t gate_type, hidden;
    NextArgs site;            // the site of x, whose mixing values are still to be written, if any are
    uint32_t n_mixes, pad;    // rows of them
};

#define ROUTER_WARPS 8
// Experts of a block, and warps that share one.
#define ROUTER_EXPERTS 2
#define SHARE (ROUTER_WARPS / ROUTER_EXPERTS)
// Pieces of eight columns a lane, whose 16-bit weights lie in registers, and those added at once.
#define PIECES 8
#define AT_ONCE 4

// Eight weights of 16 bits.
DEVICE void halves_to_floats(const uint4& bits, uint32_t type, float (&w)[8]) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint16_t even = uint16_t(words[i]), odd = uint16_t(words[i] >> 16);
        w[2 * i] = type == FLOAT_F16 ? half_to_float(even) : bf16_to_float(even);
        w[2 * i + 1] = type == FLOAT_F16 ? half_to_float(odd) : bf16_to_float(odd);
    }
}

DEVICE float dot_eight(const float (&w)[8], const float4& low, const float4& high) {
    return (w[0] * low.x + w[1] * low.y + w[2] * low.z + w[3] * low.w)
        + (w[4] * high.x + w[5] * high.y + w[6] * high.z + w[7] * high.w);
}

DEVICE float4 load_four(const float* at, bool exists) {
    return exists ? *reinterpret_cast<const float4*>(at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// A lane's part of the product with weights that it holds; all of them are 16-bit.
DEVICE float held_product(const uint4 (&held)[PIECES], uint32_t type, const float* x, uint32_t first,
                          uint32_t step, uint32_t hidden) {
    float sum = 0.0f;
#pragma unroll
    for (int begin = 0; begin < PIECES; begin += AT_ONCE) {
        if (first + begin * step >= hidden) break;
        float4 low[AT_ONCE], high[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const uint32_t at = first + (begin + k) * step;
            low[k] = load_four(x + at, at < hidden);
            high[k] = load_four(x + at + 4, at < hidden);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            float w[8];
            halves_to_floats(held[begin + k], type, w);
            sum += dot_eight(w, low[k], high[k]);
        }
    }
    return sum;
}

// The same from memory, from column `first` on.
DEVICE float read_product(const RouterArgs& a, uint64_t row, const float* x, uint32_t first, uint32_t step) {
    float sum = 0.0f;
#pragma unroll 2
    for (uint32_t at = first; at < a.hidden; at += step) {
        float w[8];
        if (a.gate_type == FLOAT_F32) {
            const float* from = static_cast<const float*>(a.gate) + row + at;
            const float4 low = load_four(from, true), high = load_four(from + 4, true);
            w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
            w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
        } else {
            const uint16_t* from = static_cast<const uint16_t*>(a.gate) + row + at;
            halves_to_floats(*reinterpret_cast<const uint4*>(from), a.gate_type, w);
        }
        sum += dot_eight(w, load_four(x + at, true), load_four(x + at + 4, true));
    }
    return sum;
}
