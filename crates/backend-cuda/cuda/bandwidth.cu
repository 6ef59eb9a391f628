// How fast memory can be read.
#include "common.cuh"

struct ReadArgs {
    const uint4* from;
    uint32_t* sums;           // one word a block, so that no read is left out
    uint64_t n;               // 16-byte words
};

KERNEL(512, read_words, ReadArgs) {
    const uint64_t stride = uint64_t(gridDim.x) * blockDim.x;
    const uint64_t first = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    uint4 sum = make_uint4(0, 0, 0, 0);
#pragma unroll 8
    for (uint64_t i = first; i < a.n; i += stride) {
        const uint4 v = a.from[i];
        sum.x ^= v.x;
        sum.y ^= v.y;
        sum.z ^= v.z;
        sum.w ^= v.w;
    }
    const uint32_t folded = sum.x ^ sum.y ^ sum.z ^ sum.w;
    if (folded == 0x9e3779b9u) a.sums[blockIdx.x] = folded;
}
