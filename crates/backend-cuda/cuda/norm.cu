// RMS norms, with and without weights.
#include "common.cuh"

struct NormArgs {
    const float* x;
    const float* weights;     // null: none
    float* out;
    uint32_t cols;            // channels that are normed together
    float eps;
};

// grid: one block for each group of `cols` channels.
KERNEL(256, rms_norm, NormArgs) {
    SHARED float part[32];
    const float* x = a.x + uint64_t(blockIdx.x) * a.cols;
    float* out = a.out + uint64_t(blockIdx.x) * a.cols;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.cols; i += blockDim.x) sum += x[i] * x[i];
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(a.cols) + a.eps);
    for (uint32_t i = threadIdx.x; i < a.cols; i += blockDim.x) {
        const float v = x[i] * scale;
        out[i] = a.weights ? a.weights[i] * v : v;
    }
}
