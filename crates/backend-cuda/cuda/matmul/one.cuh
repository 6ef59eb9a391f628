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
        from = record;
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const uint2 codes = load8(record + codes_at(g, t));
        scales = *reinterpret_cast<const float2*>(record + ACT_SCALES + 8 * t);
        spread(b, codes, g);
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
