// Rows that want logits, gathered.
#include "step.cuh"

struct GatherArgs {
    const float* x;
    float* out;
    StepView step;
    uint32_t cols, pad;
};

// grid: (parts of a row, logit rows)
KERNEL(256, gather_rows, GatherArgs) {
    const float* from = a.x + uint64_t(a.step.logit_row(blockIdx.y)) * a.cols;
    float* to = a.out + uint64_t(blockIdx.y) * a.cols;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.cols; i += gridDim.x * blockDim.x) {
        to[i] = from[i];
    }
}
