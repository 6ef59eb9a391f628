// Norm and rotation of the heads of many rows, in place.
#include "rope.cuh"
#include "step.cuh"

struct HeadsArgs {
    Rope rope;
    float* x;
    StepView step;
    uint32_t n_heads, head_dim, normed;
    float eps;
};

#define THREADS 256
// Fours of channels of a lane.
#define QUADS_MAX 8

// grid: rows. A warp takes every eighth head; head_dim is a multiple of four, at most 1024.
KERNEL(THREADS, finish_heads_wide, HeadsArgs) {
    SHARED float cosines[ROPE_PAIRS], sines[ROPE_PAIRS];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = a.rope.n_pairs;
    if (threadIdx.x < n) {
        // The rotation of (1, 0).
        float p = 1.0f, q = 0.0f;
        rope_pair(a.rope, threadIdx.x, a.step.row(blockIdx.x).pos, p, q);
        cosines[threadIdx.x] = p, sines[threadIdx.x] = q;
    }
    __syncthreads();
    const uint32_t tail = a.head_dim - 2 * n;
    for (uint32_t head = warp; head < a.n_heads; head += THREADS / 32) {
        float* x = a.x + (uint64_t(blockIdx.x) * a.n_heads + head) * a.head_dim;
        float4 v[QUADS_MAX];
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < QUADS_MAX; j++) {
            const uint32_t channel = 4 * lane + 128 * j;
            if (channel >= a.head_dim) break;
            v[j] = *reinterpret_cast<const float4*>(x + channel);
            sum += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
        }
        const float scale = a.normed ? 1.0f / sqrtf(warp_sum(sum) / float(a.head_dim) + a.eps) : 1.0f;
#pragma unroll
        for (int j = 0; j < QUADS_MAX; j++) {
            const uint32_t channel = 4 * lane + 128 * j;
            if (channel >= a.head_dim) break;
            float4 r = make_float4(v[j].x * scale, v[j].y * scale, v[j].z * scale, v[j].w * scale);
            if (channel >= tail) {
                const uint32_t i = (channel - tail) / 2;
                const float4 old = r;
                r.x = old.x * cosines[i] - old.y * sines[i];
                r.y = old.x * sines[i] + old.y * cosines[i];
                r.z = old.z * cosines[i + 1] - old.w * sines[i + 1];
                r.w = old.z * sines[i + 1] + old.w * cosines[i + 1];
            }
            *reinterpret_cast<float4*>(x + channel) = r;
        }
    }
}
