// Products of one row on the tensor cores.
//
// A product of a tile has eight columns, of which one row of activations would fill one. So a tile of 32
// columns of a chunk has its own column of the result, number i for tile i, where other tiles meet zeros: the
// sums of all eight tiles come out of one chain of products side by side, and are scaled once a chunk. Lane
// 4 g + t gets those of tiles 2 t and 2 t + 1, for rows g and g + 8. The operands of a chunk of
// activations stay in registers as long as a warp meets the same columns.
//
// A row's bits differ from those of the same row in a batch: the order of additions does.
#pragma once
#include "halves.cuh"
#include "ring.cuh"

// Eight codes of tile g to the place of that tile among the operands of a chunk, which are zeros otherwise.
DEVICE void spread(uint32_t* b, const uint2& codes, uint32_t g) {
#pragma unroll
    for (uint32_t i = 0; i < TILES; i++) {
        b[2 * i] = g == i ? codes.x : 0u;
        b[2 * i + 1] = g == i ? codes.y : 0u;
    }
}

// Where a lane finds eight codes of tile g in a record.
DEVICE uint32_t codes_at(uint32_t g, uint32_t t) { return g / 2 * 64 + t * 16 + g % 2 * 8; }

// A lane's share of a record with a scale for every 32 columns, as it is stored.
struct Kept {
    const uint8_t* from;
    uint2 codes;
    float2 scales;

    MEMBER void load(const uint8_t* record) {
        const uint32_t lane = threadIdx.x % 32, t = lane % 4;
        from = record;
        codes = load8(record + codes_at(lane / 4, t));
        scales = *reinterpret_cast<const float2*>(record + ACT_SCALES + 8 * t);
    }
};

// A lane's operands of one slot's activations.
struct Operands {
    // Where they come from; null before the first.
    const uint8_t* from;
    uint32_t b[2 * TILES];
    // Scales of tiles 2 t and 2 t + 1.
    float2 scales;

    // Of a record with a scale for every 32 columns.
    MEMBER void load_32(const uint8_t* record) {
        if (from == record) return;
        Kept kept;
        kept.load(record);
        take(kept);
    }
    MEMBER void take(const Kept& kept) {
        from = kept.from;
        scales = kept.scales;
        spread(b, kept.codes, threadIdx.x % 32 / 4);
    }

    // Of 128 columns of halves: the first of them are column 0, the rest column 1.
    MEMBER void load_halves(const uint8_t* records) {
        if (from == records) return;
        from = records;
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            uint4 h = make_uint4(0, 0, 0, 0);
            if (g < 2) h = load16(records + (4 * j + t) * 32 + 16 * g);
            b[4 * j] = h.x, b[4 * j + 1] = h.y, b[4 * j + 2] = h.z, b[4 * j + 3] = h.w;
        }
    }
};

// Adds the products of a chunk of Q8_0 to the sums of rows g and g + 8.
DEVICE void add_one_q8_0(float (&acc)[2], const uint8_t* chunk, const Operands& x) {
    const uint32_t lane = threadIdx.x % 32;
    // Two chains, of which one begins with bits that make a float of the sum.
    int even[4], odd[4] = {0, 0, 0, 0};
    sums_in_floats(even);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const uint4 q = load16(chunk + 512 * i + 16 * lane);
        const uint32_t a[4] = {q.x, q.y, q.z, q.w};
        mma_s8(i % 2 == 0 ? even : odd, a, x.b[2 * i], x.b[2 * i + 1]);
    }
    const uint2 d = load8(chunk + Q8_0_SCALES + 8 * lane);
    acc[0] = fmaf(float_of_sum(even[0] + odd[0]), low_half(d.x) * x.scales.x, acc[0]);
    acc[0] = fmaf(float_of_sum(even[1] + odd[1]), low_half(d.y) * x.scales.y, acc[0]);
    acc[1] = fmaf(float_of_sum(even[2] + odd[2]), high_half(d.x) * x.scales.x, acc[1]);
    acc[1] = fmaf(float_of_sum(even[3] + odd[3]), high_half(d.y) * x.scales.y, acc[1]);
}

// The same of a slot of F16.
DEVICE void add_one_f16(float (&acc)[2], const uint8_t* slot, const Operands& x) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float sums[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint4 low = load16(slot + g * SLOT_STRIDE + (32 * j + 8 * t) * 2);
        const uint4 high = load16(slot + (g + 8) * SLOT_STRIDE + (32 * j + 8 * t) * 2);
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const uint32_t a[4] = {word(low, i), word(high, i), word(low, i + 1), word(high, i + 1)};
            mma_f16(sums[i / 2], a, x.b[4 * j + i], x.b[4 * j + i + 1]);
        }
    }
    // Columns behind the second are zeros.
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float main = sums[0][2 * half] + sums[1][2 * half];
        const float rest = sums[0][2 * half + 1] + sums[1][2 * half + 1];
        acc[half] += (main + rest * (1.0f / REST_SCALE)) * (1.0f / HALF_SCALE);
    }
}

// What a lane needs of 256 activations with a scale for every 16 columns, as they are stored. The sums of a tile's
// halves are two columns of the result then: those of tiles 0 to 3 in one chain of products, of 4 to 7 in another, so
// that lane 4 g + t gets those of tiles t and 4 + t.
struct Act16 {
    uint2 low, high;
    float2 low_scales, high_scales;
    // Of the sums of 16 columns, numbers 4 t to 4 t + 3: in lanes of column 0 their first f16 numbers, of 1 the rest.
    uint2 sums;

    MEMBER void load(const uint8_t* record) {
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tile = g / 2;
        low = high = sums = make_uint2(0, 0);
        if (g % 2 == t / 2) low = load8(record + codes_at(tile, t)), high = load8(record + codes_at(4 + tile, t));
        low_scales = *reinterpret_cast<const float2*>(record + ACT16_SCALES + 8 * t);
        high_scales = *reinterpret_cast<const float2*>(record + ACT16_SCALES + 32 + 8 * t);
        if (g < 2) sums = load8(record + ACT16_SUMS + 32 * g + 8 * t);
    }
    // The operands of tile j of a chain, or zeros.
    MEMBER uint2 of_tile(const uint2& codes, uint32_t j) const {
        return threadIdx.x % 32 / 8 == j ? codes : make_uint2(0, 0);
    }
};

// Adds the products of a chunk of Q8_0 to the sums of rows g and g + 8.
DEVICE void add_sixteens_q8_0(float (&acc)[2], const uint8_t* chunk, const Act16& x) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int low[4], high[4];
    sums_in_floats(low);
    sums_in_floats(high);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const uint4 q = load16(chunk + 512 * i + 16 * lane);
        const uint32_t a[4] = {q.x, q.y, q.z, q.w};
        const uint2 b = x.of_tile(i < 4 ? x.low : x.high, i % 4);
        mma_s8(i < 4 ? low : high, a, b.x, b.y);
    }
    const uint32_t d_low = load4(chunk + Q8_0_SCALES + 32 * g + 4 * t);
    const uint32_t d_high = load4(chunk + Q8_0_SCALES + 32 * g + 4 * (4 + t));
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float of_low = float_of_sum(low[2 * half]) * x.low_scales.x + float_of_sum(low[2 * half + 1]) * x.low_scales.y;
        const float of_high =
            float_of_sum(high[2 * half]) * x.high_scales.x + float_of_sum(high[2 * half + 1]) * x.high_scales.y;
        acc[half] = fmaf(of_low, half == 0 ? low_half(d_low) : high_half(d_low), acc[half]);
        acc[half] = fmaf(of_high, half == 0 ? low_half(d_high) : high_half(d_high), acc[half]);
    }
}

// Four bits in each byte of a word, as f16 numbers.
DEVICE void nibbles_in_halves(uint32_t (&a)[2], uint32_t nibbles) {
    // A half of 1,024 and more has no room for fractions.
    a[0] = half2_sub(__byte_perm(nibbles, 0x64646464, 0x4140), 0x64006400);
    a[1] = half2_sub(__byte_perm(nibbles, 0x64646464, 0x4342), 0x64006400);
}

// The same of Q2_K: tile j of a chain lies in bits 2 j, and counts 4^j.
DEVICE void add_sixteens_q2_k(float (&acc)[2], const uint8_t* chunk, const Act16& x) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 q = load16(chunk + 512 * i + 16 * lane);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t mask = 0x03030303u << 2 * j, a[4] = {q.x & mask, q.z & mask, q.y & mask, q.w & mask};
            const uint2 b = x.of_tile(i == 0 ? x.low : x.high, j);
            mma_u8_s8(i == 0 ? low : high, a, b.x, b.y);
        }
    }
    const uint4 scales = load16(chunk + Q2_K_SCALES + 16 * g);
    const uint2 d = load8(chunk + Q2_K_D + 8 * g);
    const uint32_t mins = load4(chunk + Q2_K_MINS + 4 * lane);
    float minima[4] = {0, 0, 0, 0};
    uint32_t g_mins[2], g8_mins[2];
    nibbles_in_halves(g_mins, mins & 0x0f0f0f0f);
    nibbles_in_halves(g8_mins, mins >> 4 & 0x0f0f0f0f);
    const uint32_t a[4] = {g_mins[0], g8_mins[0], g_mins[1], g8_mins[1]};
    mma_f16(minima, a, x.sums.x, x.sums.y);
    const float fraction = __uint_as_float((127 - 2 * t) << 23);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Those of tile t and, 16 bits up, of tile 4 + t: for the first and the second 16 columns.
        const uint32_t first = word(scales, half) >> 4 * t, second = word(scales, 2 + half) >> 4 * t;
        float sum = float(int(first & 15) * low[2 * half]) * x.low_scales.x;
        sum = fmaf(float(int(second & 15) * low[2 * half + 1]), x.low_scales.y, sum);
        sum = fmaf(float(int(first >> 16 & 15) * high[2 * half]), x.high_scales.x, sum);
        sum = fmaf(float(int(second >> 16 & 15) * high[2 * half + 1]), x.high_scales.y, sum);
        const float least = (minima[2 * half] + minima[2 * half + 1] * (1.0f / REST_SCALE)) * (1.0f / HALF_SCALE);
        acc[half] = fmaf(low_half(word(d, half)) * fraction, sum, acc[half]);
        acc[half] = fmaf(-high_half(word(d, half)), least, acc[half]);
    }
}

// Warps of a block; the sums of a warp for one unit of work, and of all warps.
#define WARPS 16
#define WARP_SUMS CHUNK_ROWS
#define UNIT_SUMS (WARPS * WARP_SUMS)

// Adds up a row's four lanes and leaves the warp's sums among those of its unit.
DEVICE void leave_sums(float (&acc)[2], float* unit) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        acc[half] += __shfl_xor_sync(FULL_WARP, acc[half], 1);
        acc[half] += __shfl_xor_sync(FULL_WARP, acc[half], 2);
    }
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane % 4 != 0) return;
    float* sums = unit + warp * WARP_SUMS + lane / 4;
    sums[0] = acc[0];
    sums[8] = acc[1];
}
