// Rotation of the last channels of every head.
#include "rope.cuh"
#include "step.cuh"

struct RopeTailArgs {
    Rope rope;
    float* x;
    StepView step;
    uint32_t n_heads, head_dim;
};

// grid: rows; threads over the pairs of all heads.
KERNEL(256, rope_tail, RopeTailArgs) {
    const uint32_t r = blockIdx.x, n = a.rope.n_pairs;
    const uint32_t pos = a.step.row(r).pos;
    float* row = a.x + uint64_t(r) * a.n_heads * a.head_dim;
    for (uint32_t i = threadIdx.x; i < a.n_heads * n; i += blockDim.x) {
        float* pair = row + uint64_t(i / n) * a.head_dim + a.head_dim - 2 * n + 2 * (i % n);
        rope_pair(a.rope, i % n, pos, pair[0], pair[1]);
    }
}
