// Rounds activations to int8, once for all matrices that read them. A warp takes 256 columns of a row,
// a lane eight of them.
#include "rope.cuh"
#include "step.cuh"
#include "wgmma.cuh"
#include "halves.cuh"
#include "round.cuh"

struct RoundArgs {
    const float* x;
    // Where the records go; any may be null.
    uint8_t *by_32, *by_256, *by_halves;
    // Floats between rows of x; slices of a row that are rounded as rows of their own, their columns
    // and the 256s of these.
    uint32_t stride, n_slices, cols, chunks;
    uint32_t n_rows, unused;
};

KERNEL(256, round_rows, RoundArgs) {
    const uint32_t warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t chunk = warp % a.chunks, slice = warp / a.chunks % a.n_slices;
    const uint32_t row = warp / a.chunks / a.n_slices;
    if (row >= a.n_rows) return;
    const uint32_t column = chunk * CHUNK_COLS + 8 * lane;
    const float* x = a.x + uint64_t(row) * a.stride + uint64_t(slice) * a.cols;
    float v[8];
    if (a.stride % 4 == 0 && a.cols % 4 == 0 && column + 8 <= a.cols) {
        const float4 low = *reinterpret_cast<const float4*>(x + column);
        const float4 high = *reinterpret_cast<const float4*>(x + column + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = column + i < a.cols ? x[column + i] : 0.0f;
    }
    round_chunk(v, a.by_32 ? a.by_32 + uint64_t(warp) * ACT32_RECORD : nullptr,
                a.by_256 ? a.by_256 + uint64_t(warp) * ACT256_RECORD : nullptr,
                a.by_halves ? a.by_halves + uint64_t(warp) * HALVES_RECORD : nullptr);
}

// Rows as f16, each times a power of two of its own, in the order and place that halves.cuh and
// wgmma.cuh want: [slice][64 columns][row: 128 bytes].
struct HalvesArgs {
    const float* x;
    uint8_t* out;
    // What the rounding took away, as f16 too; may be null.
    uint8_t* rest;
    // What a row's products are multiplied with: [slice][row].
    float* factors;
    // Null, or where each of the `used` pairs of a row goes: its place, and how many rows further on the
    // expert's rows lie.
    const uint32_t *places, *ids, *gaps;
    uint32_t stride, cols, steps, rows;
    uint32_t used, unused;
};

// The power of two that brings a row's largest magnitude to 2^14, and its inverse over GAIN.
DEVICE float row_scale(float largest, float& factor) {
    const uint32_t e = __float_as_uint(largest) >> 23;
    // Below 2^-113 the scale would overflow.
    const uint32_t shift = e < 14 ? 14 : e;
    factor = __uint_as_float((shift - 13) << 23) * (0.5f / GAIN);
    return __uint_as_float((268 - shift) << 23);
}

DEVICE uint32_t two_halves(float low, float high) {
    return float_to_half(low) | uint32_t(float_to_half(high)) << 16;
}

// The rotation of heads at a row's position; without pairs there is none.
struct Turned {
    const float *cosines, *sines;
    uint32_t head_dim, tail;
};

DEVICE void turn_eight(float (&v)[8], const Turned& turned, uint32_t column) {
    const uint32_t channel = column % turned.head_dim;
    if (channel < turned.tail) return;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const uint32_t pair = (channel - turned.tail + i) / 2;
        const float p = v[i], q = v[i + 1];
        v[i] = p * turned.cosines[pair] - q * turned.sines[pair];
        v[i + 1] = p * turned.sines[pair] + q * turned.cosines[pair];
    }
}

template <bool TURN>
DEVICE void round_halves(const HalvesArgs& a, const Turned& turned) {
    SHARED float part[32];
    const uint32_t row = blockIdx.x, slice = blockIdx.y;
    const float* x = a.x + uint64_t(row) * a.stride + uint64_t(slice) * a.cols;
    const bool eights = a.stride % 4 == 0 && a.cols % 8 == 0;
    float largest = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.cols; i += blockDim.x) largest = fmaxf(largest, fabsf(x[i]));
    float factor;
    const float scale = row_scale(block_max(largest, part), factor);
    const uint32_t copies = a.places ? a.used : 1;
    for (uint32_t first = 8 * threadIdx.x; first < 64 * a.steps; first += 8 * blockDim.x) {
        float v[8];
        if (eights && first < a.cols) {
            const float4 low = *reinterpret_cast<const float4*>(x + first);
            const float4 high = *reinterpret_cast<const float4*>(x + first + 4);
            v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
            v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
        } else {
            for (uint32_t i = 0; i < 8; i++) v[i] = first + i < a.cols ? x[first + i] : 0.0f;
        }
        // What was at most 2^15 stays below twice that.
        if constexpr (TURN) turn_eight(v, turned, first);
        uint32_t words[4], rest[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int c = i / 2 * 4 + i % 2;
            const float low = v[c] * scale, high = v[c + 2] * scale;
            words[i] = two_halves(low, high);
            rest[i] = two_halves(low - low_half(words[i]), high - high_half(words[i]));
        }
        for (uint32_t copy = 0; copy < copies; copy++) {
            uint32_t place = row;
            if (a.places) {
                const uint32_t pair = row * a.used + copy;
                place = a.places[pair];
                if (place == 0xffffffffu) continue;
                place += a.gaps[a.ids[pair]];
            }
            const uint64_t step = (uint64_t(slice) * a.steps + first / 64) * a.rows * 128;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t at = first % 64 / 32 * 32 + half_place(first % 32 + i / 2 * 4 + i % 2);
                const uint64_t to = step + uint64_t(place) / 8 * 1024 + swizzled(place % 8, at);
                *reinterpret_cast<uint32_t*>(a.out + to) = words[i];
                if (a.rest) *reinterpret_cast<uint32_t*>(a.rest + to) = rest[i];
            }
            if (first == 0) a.factors[uint64_t(slice) * a.rows + place] = factor;
        }
    }
}

// grid: (rows, slices).
KERNEL(256, halves_rows, HalvesArgs) { round_halves<false>(a, {nullptr, nullptr, 1, 1}); }

struct TurnedArgs {
    HalvesArgs halves;
    Rope rope;
    StepView step;
    uint32_t head_dim, unused;
};

// The same with the tails of heads rotated; a slice is whole heads, and tails are whole eights.
KERNEL(256, halves_turned, TurnedArgs) {
    SHARED float cosines[ROPE_PAIRS], sines[ROPE_PAIRS];
    const uint32_t n = a.rope.n_pairs;
    if (threadIdx.x < n) {
        // The rotation of (1, 0).
        float p = 1.0f, q = 0.0f;
        rope_pair(a.rope, threadIdx.x, a.step.row(blockIdx.x).pos, p, q);
        cosines[threadIdx.x] = p, sines[threadIdx.x] = q;
    }
    __syncthreads();
    round_halves<true>(a.halves, {cosines, sines, a.head_dim, a.head_dim - 2 * n});
}
