// Rounding of activations to int8 (layout.cuh has the records). Codes are x * (127 / largest), to the
// nearest, ties to even; a block of magnitudes below 2^-100 becomes zeros. Many kernels do this on the way to what
// everybody waits for, so it is made of few instructions.
#pragma once
#include "layout.cuh"
#include "common.cuh"

// What values are multiplied with to become codes, and codes to become values.
struct CodeScale {
    float inverse, scale;
};

DEVICE CodeScale code_scale(float largest) {
    // Below 2^-100 the reciprocal would overflow.
    const bool tiny = largest < 7.8886090522101181e-31f;
    return {tiny ? 0.0f : 127.0f / largest, tiny ? 0.0f : largest / 127.0f};
}

// The code is the low byte: beside 1.5 * 2^23 a float has no room for fractions.
DEVICE uint32_t code_bits(float v, float inverse) {
    return __float_as_uint(__fadd_rn(__fmul_rn(v, inverse), 12582912.0f));
}
DEVICE int code_of(float v, float inverse) { return int8_t(code_bits(v, inverse)); }

// F16 weights are operands as they are. An activation is the sum of two halves, of which the second
// counts 2^-11; both are small enough for values up to 2^24, and hold 22 bits.
#define HALF_SCALE 0.00390625f
#define REST_SCALE 2048.0f

struct TwoHalves {
    uint16_t main, rest;
};

DEVICE TwoHalves halves_of(float v) {
    const float scaled = v * HALF_SCALE;
    const uint16_t main = float_to_half(scaled);
    return {main, float_to_half((scaled - half_to_float(main)) * REST_SCALE)};
}

// The place of a column's code in the record of its 256.
DEVICE uint32_t code_place(uint32_t column) {
    return column / 64 * 64 + column % 32 / 8 * 16 + column / 32 % 2 * 8 + column % 8;
}

// Sums of 16 columns are kept as 16 high + rest, with the rest from -8 to 7.
DEVICE void store_sum(uint8_t* record, uint32_t sixteen, int sum) {
    const int high = (sum + 8) >> 4;
    record[ACT_SCALES + sixteen] = uint8_t(high);
    record[ACT_SCALES + 16 + sixteen] = uint8_t(sum - 16 * high);
}

DEVICE uint32_t codes_of(const float* v, float inverse) {
    const uint32_t low = __byte_perm(code_bits(v[0], inverse), code_bits(v[1], inverse), 0x0040);
    const uint32_t high = __byte_perm(code_bits(v[2], inverse), code_bits(v[3], inverse), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

#ifdef KEID_EMULATE
DEVICE int sum_of_codes(uint32_t codes) {
    return int8_t(codes) + int8_t(codes >> 8) + int8_t(codes >> 16) + int8_t(codes >> 24);
}
#else
DEVICE int sum_of_codes(uint32_t codes) { return __dp4a(int(codes), 0x01010101, 0); }
#endif

struct Rounded {
    uint32_t low, high;
    float scale;
};

DEVICE Rounded round_eight(const float (&v)[8], float largest) {
    const CodeScale s = code_scale(largest);
    return {codes_of(v, s.inverse), codes_of(v + 4, s.inverse), s.scale};
}

DEVICE void store_halves(const float (&v)[8], uint8_t* to) {
    uint32_t words[8];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const TwoHalves low = halves_of(v[2 * i]), high = halves_of(v[2 * i + 1]);
        words[i] = low.main | uint32_t(high.main) << 16;
        words[4 + i] = low.rest | uint32_t(high.rest) << 16;
    }
    uint4* four = reinterpret_cast<uint4*>(to);
    four[0] = make_uint4(words[0], words[1], words[2], words[3]);
    four[1] = make_uint4(words[4], words[5], words[6], words[7]);
}

// Rounds the 256 columns that a warp holds, eight a lane, to a record of every kind; any may be null.
DEVICE void round_chunk(const float (&v)[8], uint8_t* by_32, uint8_t* by_256, uint8_t* by_halves) {
    const uint32_t lane = threadIdx.x % 32, at = code_place(8 * lane);
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
    largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
    if (by_halves) store_halves(v, by_halves + 32 * lane);
    if (by_32) {
        const Rounded r = round_eight(v, largest);
        *reinterpret_cast<uint2*>(by_32 + at) = make_uint2(r.low, r.high);
        if (lane % 4 == 0) reinterpret_cast<float*>(by_32 + ACT_SCALES)[lane / 4] = r.scale;
    }
    if (by_256) {
        const Rounded r = round_eight(v, __uint_as_float(warp_max_bits(__float_as_uint(largest))));
        *reinterpret_cast<uint2*>(by_256 + at) = make_uint2(r.low, r.high);
        int sum = sum_of_codes(r.low) + sum_of_codes(r.high);
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        if (lane % 2 == 0) store_sum(by_256, lane / 2, sum);
        if (lane == 0) *reinterpret_cast<float*>(by_256 + ACT256_SCALE) = r.scale;
    }
}

// Rounds 16 values that half a warp holds to columns `at` on, which are made of 16s, of a record with a scale for every
// 16. Every lane of the warp comes here.
DEVICE void round_sixteen(float v, uint8_t* record, uint32_t at) {
    float largest = fabsf(v);
#pragma unroll
    for (int o = 8; o > 0; o >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, o));
    const CodeScale s = code_scale(largest);
    const int code = code_of(v, s.inverse);
    int sum = code;
#pragma unroll
    for (int o = 8; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    record[code_place(at + threadIdx.x % 16)] = uint8_t(code);
    if (threadIdx.x % 16 != 0) return;
    const TwoHalves h = halves_of(float(sum) * s.scale);
    const uint32_t sixteen = at / 16;
    reinterpret_cast<float*>(record + ACT16_SCALES)[sixteen] = s.scale;
    reinterpret_cast<uint16_t*>(record + ACT16_SUMS)[sixteen] = h.main;
    reinterpret_cast<uint16_t*>(record + ACT16_SUMS)[16 + sixteen] = h.rest;
}

// A warp's eight columns a lane of COUNT chunks of a row, every STEP-th from `first` on: all are asked for
// before the first is there. Those from `end` on do not exist.
template <int COUNT>
struct Chunks {
    float4 low[COUNT], high[COUNT];

    MEMBER void load(const float* row, uint32_t first, uint32_t step, uint32_t end) {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const uint32_t i = min(first + k * step, end - 1);
            const float4* from = reinterpret_cast<const float4*>(row + i * CHUNK_COLS + 8 * (threadIdx.x % 32));
            low[k] = from[0], high[k] = from[1];
        }
    }
    MEMBER void values(float (&v)[8], int k) const {
        v[0] = low[k].x, v[1] = low[k].y, v[2] = low[k].z, v[3] = low[k].w;
        v[4] = high[k].x, v[5] = high[k].y, v[6] = high[k].z, v[7] = high[k].w;
    }
    // The first becomes the second, and so on: a loop that is there once goes through registers.
    MEMBER void shift() {
#pragma unroll
        for (int k = 0; k + 1 < COUNT; k++) low[k] = low[k + 1], high[k] = high[k + 1];
    }
};

// Records of rows, for formats with a scale for every 32 columns or for every 256, and for F16; any may be
// null.
struct Records {
    uint8_t *by_32, *by_256, *by_halves;

    // A block rounds columns, one a thread and 256 a record, of which this thread's is number
    // `record`, if there is one. Every thread of the block comes here; `part` holds 32 floats.
    MEMBER void put(uint64_t record, bool exists, float v, float* part) const {
        const uint32_t column = threadIdx.x % 256, lane = threadIdx.x % 32;
        const float of_tile = warp_max(fabsf(v));
        if (by_halves && exists) {
            const TwoHalves h = halves_of(v);
            uint16_t* to = reinterpret_cast<uint16_t*>(by_halves + record * HALVES_RECORD);
            to += column / 8 * 16 + column % 8;
            to[0] = h.main;
            to[8] = h.rest;
        }
        if (by_32 && exists) {
            uint8_t* to = by_32 + record * ACT32_RECORD;
            const CodeScale s = code_scale(of_tile);
            to[code_place(column)] = uint8_t(code_of(v, s.inverse));
            if (lane == 0) reinterpret_cast<float*>(to + ACT_SCALES)[column / 32] = s.scale;
        }
        if (by_256) {
            const uint32_t warp = threadIdx.x / 32;
            __syncthreads();
            if (lane == 0) part[warp] = of_tile;
            __syncthreads();
            float largest = 0.0f;
            for (uint32_t i = 0; i < 8; i++) largest = fmaxf(largest, part[warp / 8 * 8 + i]);
            const CodeScale s = code_scale(largest);
            const int code = code_of(v, s.inverse);
            int sum = code;
#pragma unroll
            for (int o = 8; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
            if (!exists) return;
            uint8_t* to = by_256 + record * ACT256_RECORD;
            to[code_place(column)] = uint8_t(code);
            if (column % 16 == 0) store_sum(to, column / 16, sum);
            if (column == 0) *reinterpret_cast<float*>(to + ACT256_SCALE) = s.scale;
        }
    }
};
