// Clamped SwiGLU and the sum of two activations.
#include "common.cuh"

struct ElementArgs {
    float* to;
    const float* from;
    uint64_t n;
    float clamp;
    uint32_t pad;
};

KERNEL(256, swiglu, ElementArgs) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.n) a.to[i] = swiglu_value(a.to[i], a.from[i], a.clamp);
}

KERNEL(256, add, ElementArgs) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.n) a.to[i] += a.from[i];
}
