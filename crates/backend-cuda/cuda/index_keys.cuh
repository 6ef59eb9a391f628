// Index rows in the Model format as operands of the tensor cores: 128 channels in four blocks of 32, a
// scale each. A row's scales become powers of two relative to its largest, so that its values are f16
// without loss; the largest multiplies the products.
#pragma once
#include "kv_row.cuh"
#include "matmul/halves.cuh"

// 2^(difference) of exponent bytes, at most 1, over 2^-14, by which four bits as f16 are too small.
DEVICE uint32_t relative_scale(uint32_t e, uint32_t largest) {
    const int exponent = 29 - int(largest - e);
    return exponent > 0 ? uint32_t(exponent) << 10 : exponent > -10 ? 512u >> -exponent : 0u;
}

// A lane's part of two keys: block t of rows g and g + 8.
struct Keys {
    uint32_t codes[2][4], scale[2];
};

DEVICE void load_keys(Keys& k, const PooledRows& rows, const RowFormat& f, const StepView& step,
                      const StepRow& row, uint32_t first, uint32_t visible) {
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // The last visible key stands in for those behind it.
        const uint32_t key = min(first + lane / 4 + 8 * half, visible - 1);
        const uint8_t* bytes = pooled_row(rows, f.bytes, step, row, key);
#pragma unroll
        for (int i = 0; i < 4; i++) k.codes[half][i] = load4(bytes + 16 * t + 4 * i);
        k.scale[half] = bytes[f.code_bytes + t];
    }
}

// The left operands of eight steps, and the largest scale of either row. Of four channels from 4 step on,
// the even ones are k = 2t, 2t + 1, and the odd ones k + 8.
DEVICE void left_keys(const Keys& keys, uint32_t (&left)[8][4], uint32_t (&largest)[2]) {
    uint32_t scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t e = keys.scale[half];
        const uint32_t other = __shfl_xor_sync(FULL_WARP, e, 1);
        e = e > other ? e : other;
        const uint32_t more = __shfl_xor_sync(FULL_WARP, e, 2);
        largest[half] = e > more ? e : more;
        scale[half] = relative_scale(keys.scale[half], largest[half]) * 0x10001u;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int step = i / 2, half = i % 2;
        const uint32_t codes = __byte_perm(keys.codes[half][step / 2], 0, step % 2 ? 0x4342 : 0x4140);
        left[step][half] = half2_mul((codes & 0x00070007u) << 9 | (codes & 0x00080008u) << 12, scale[half]);
        left[step][half + 2] = half2_mul((codes & 0x00700070u) << 5 | (codes & 0x00800080u) << 8, scale[half]);
    }
}
