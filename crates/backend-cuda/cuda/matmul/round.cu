// Rounds activations to int8, once for all matrices that read them. A warp takes 256 columns of a row,
// a lane eight of them.
#include "round.cuh"

struct RoundArgs {
    const float* x;
    // Where the records go; either may be null.
    uint8_t *by_32, *by_256;
    // Floats between rows of x; slices of a row that are rounded as rows of their own, their columns
    // and the 256s of these.
    uint32_t stride, n_slices, cols, chunks;
    uint32_t n_rows, unused;
};

DEVICE uint32_t codes_of(const float* v, float inverse) {
    uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) bytes |= uint32_t(code_of(v[i], inverse) & 255) << (8 * i);
    return bytes;
}

DEVICE int sum_of_codes(uint32_t codes) {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) sum += int8_t(codes >> (8 * i));
    return sum;
}

struct Rounded {
    uint32_t low, high;
    float scale;
};

DEVICE Rounded round_eight(const float (&v)[8], float largest) {
    const CodeScale s = code_scale(largest);
    return {codes_of(v, s.inverse), codes_of(v + 4, s.inverse), s.scale};
}

KERNEL(256, round_rows, RoundArgs) {
    const uint32_t warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t chunk = warp % a.chunks, slice = warp / a.chunks % a.n_slices;
    const uint32_t row = warp / a.chunks / a.n_slices;
    if (row >= a.n_rows) return;
    const float* x = a.x + uint64_t(row) * a.stride + uint64_t(slice) * a.cols;
    const uint32_t column = chunk * CHUNK_COLS + 8 * lane;
    float v[8], largest = 0;
    if (a.stride % 4 == 0 && a.cols % 4 == 0 && column + 8 <= a.cols) {
        const float4 low = *reinterpret_cast<const float4*>(x + column);
        const float4 high = *reinterpret_cast<const float4*>(x + column + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = column + i < a.cols ? x[column + i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
    const uint32_t at = code_place(8 * lane);
    largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
    if (a.by_32) {
        uint8_t* record = a.by_32 + uint64_t(warp) * ACT32_RECORD;
        const Rounded r = round_eight(v, largest);
        *reinterpret_cast<uint2*>(record + at) = make_uint2(r.low, r.high);
        if (lane % 4 == 0) reinterpret_cast<float*>(record + ACT_SCALES)[lane / 4] = r.scale;
    }
    if (a.by_256) {
        uint8_t* record = a.by_256 + uint64_t(warp) * ACT256_RECORD;
        const Rounded r = round_eight(v, warp_max(largest));
        *reinterpret_cast<uint2*>(record + at) = make_uint2(r.low, r.high);
        int sum = sum_of_codes(r.low) + sum_of_codes(r.high);
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        if (lane % 2 == 0) store_sum(record, lane / 2, sum);
        if (lane == 0) *reinterpret_cast<float*>(record + ACT256_SCALE) = r.scale;
    }
}
