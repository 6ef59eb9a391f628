// What follows the projections of a layer's input: norms of heads, and rotations.
#include "rope.cuh"
#include "step.cuh"

struct AttentionInArgs {
    Rope rope;
    const float* q_raw;
    const float* kv_raw;
    const float* kv_norm;
    float* q;
    float* kv;
    float* index_q;
    StepView step;
    uint32_t n_heads, head_dim, n_index_heads, index_dim;
    float eps;
    uint32_t pad;
};

// grid: (heads, the KV row, index heads; rows). Shared: a head.
KERNEL(128, finish_heads, AttentionInArgs) {
    DYNAMIC_SHARED(float, head);
    SHARED float part[32];
    const uint32_t r = blockIdx.y, h = blockIdx.x, n = a.rope.n_pairs;
    const uint32_t pos = a.step.row(r).pos;
    if (h > a.n_heads) {
        const uint64_t at = uint64_t(r) * a.n_index_heads + (h - a.n_heads - 1);
        float* tail = a.index_q + (at + 1) * a.index_dim - 2 * n;
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            rope_pair(a.rope, i, pos, tail[2 * i], tail[2 * i + 1]);
        }
        return;
    }
    const bool is_kv = h == a.n_heads;
    const uint64_t at = is_kv ? uint64_t(r) * a.head_dim
                              : (uint64_t(r) * a.n_heads + h) * a.head_dim;
    const float* raw = (is_kv ? a.kv_raw : a.q_raw) + at;
    float* out = (is_kv ? a.kv : a.q) + at;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
        head[i] = raw[i];
        sum += head[i] * head[i];
    }
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(a.head_dim) + a.eps);
    for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
        head[i] = is_kv ? a.kv_norm[i] * (head[i] * scale) : head[i] * scale;
    }
    __syncthreads();
    float* tail = head + a.head_dim - 2 * n;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        rope_pair(a.rope, i, pos, tail[2 * i], tail[2 * i + 1]);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) out[i] = head[i];
}
