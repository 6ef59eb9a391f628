// From chunks (layout.cuh) to the left operands of wgmma.cuh: weights as f16, in registers.
//
// A pair is two tiles of 32 columns, 64 columns. A tile takes two steps of k = 16: of the eight columns
// of a lane, 8 t + 4 s + {0, 2} are k = 2t, 2t + 1 of step s, and 8 t + 4 s + {1, 3} are k + 8; the
// activations are stored in that order (`half_place`). Weights are GAIN times their value, so that those
// of small magnitude keep their bits; above 1023 they would become infinite.
#pragma once
#include "formats.cuh"

#define GAIN 64.0f
#define GAIN_2 0x54005400u

// Two numbers in f16.
#ifdef KEID_EMULATE
template <class F>
DEVICE uint32_t each_half(uint32_t a, uint32_t b, uint32_t c, F f) {
    const float low = f(low_half(a), low_half(b), low_half(c));
    const float high = f(high_half(a), high_half(b), high_half(c));
    return float_to_half(low) | uint32_t(float_to_half(high)) << 16;
}
DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) {
    return each_half(a, b, 0, [](float x, float y, float) { return x * y; });
}
DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
    return each_half(a, b, 0, [](float x, float y, float) { return x - y; });
}
DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    return each_half(a, b, c, [](float x, float y, float z) { return x * y + z; });
}
#else
DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
#endif

// Where column c of a tile of 32 lies among the halves of its two steps.
DEVICE uint32_t half_place(uint32_t c) {
    return c % 8 / 4 * 16 + c % 2 * 8 + c / 8 * 2 + c % 4 / 2;
}

// The numbers 1024 + n of bytes 0 and 2 of a word, or of 1 and 3.
#define ONES 0x64006400u
DEVICE uint32_t even_bytes(uint32_t w) { return __byte_perm(w, 0x64646464u, 0x4240); }
DEVICE uint32_t odd_bytes(uint32_t w) { return __byte_perm(w, 0x64646464u, 0x4341); }
// Integers below 1024 in both halves.
DEVICE uint32_t half2_of(uint32_t low, uint32_t high) {
    return half2_sub(low | high << 16 | ONES, ONES);
}
DEVICE uint32_t both_low(uint32_t v) { return __byte_perm(v, 0, 0x1010); }
DEVICE uint32_t both_high(uint32_t v) { return __byte_perm(v, 0, 0x3232); }
DEVICE uint32_t load2(const uint8_t* p) { return *reinterpret_cast<const uint16_t*>(p); }

// The two steps of a tile.
typedef uint32_t Steps[2][4];

// Four weights of row g or g + 8 (half 1) from bytes that are `zero` more, times the scale.
DEVICE void put_bytes(uint32_t (&a)[4], int half, uint32_t w, uint32_t zero, uint32_t scale) {
    a[half] = half2_mul(half2_sub(even_bytes(w), zero), scale);
    a[half + 2] = half2_mul(half2_sub(odd_bytes(w), zero), scale);
}
// The same less a minimum, which comes negated.
DEVICE void put_bytes_less(uint32_t (&a)[4], int half, uint32_t w, uint32_t scale, uint32_t least) {
    a[half] = half2_fma(half2_sub(even_bytes(w), ONES), scale, least);
    a[half + 2] = half2_fma(half2_sub(odd_bytes(w), ONES), scale, least);
}

// `pair<PAIR>` makes the steps of tiles 2 PAIR and 2 PAIR + 1 of a chunk in shared memory.
template <class F>
struct Halves;

template <>
struct Halves<Q8_0> {
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t*) {
        const uint2 d = load8(chunk + Q8_0_SCALES + 32 * (lane / 4) + 8 * PAIR);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint4 q = load16(chunk + 512 * (2 * PAIR + j) + 16 * lane);
            const uint32_t scale = half2_mul(word(d, j), GAIN_2);
            // Codes from -128 on become bytes from 0 on.
            put_bytes(a[j][0], 0, q.x ^ 0x80808080u, 0x64806480u, both_low(scale));
            put_bytes(a[j][0], 1, q.y ^ 0x80808080u, 0x64806480u, both_high(scale));
            put_bytes(a[j][1], 0, q.z ^ 0x80808080u, 0x64806480u, both_low(scale));
            put_bytes(a[j][1], 1, q.w ^ 0x80808080u, 0x64806480u, both_high(scale));
        }
    }
};

// Two rows' codes of a tile, of which four columns are a word, in the bits of the mask, under scales and
// minima in both halves.
DEVICE void put_tile_less(Steps& a, const uint4& q, uint32_t mask, uint32_t scale, uint32_t least) {
    put_bytes_less(a[0], 0, q.x & mask, both_low(scale), both_low(least));
    put_bytes_less(a[1], 0, q.y & mask, both_low(scale), both_low(least));
    put_bytes_less(a[0], 1, q.z & mask, both_high(scale), both_high(least));
    put_bytes_less(a[1], 1, q.w & mask, both_high(scale), both_high(least));
}

// d and 2^-down in both halves.
DEVICE uint32_t scaled_down(uint32_t d, int down) {
    return down == 0 ? d : half2_mul(d, uint32_t(15 - down) << 10 | uint32_t(15 - down) << 26);
}

// d and dmin of rows g and g + 8, times GAIN, dmin negated.
DEVICE void block_scales(uint2 d, uint32_t& scale, uint32_t& least) {
    scale = half2_mul(__byte_perm(d.x, d.y, 0x5410), GAIN_2);
    least = half2_mul(__byte_perm(d.x, d.y, 0x7632), GAIN_2 | 0x80008000u);
}

template <>
struct Halves<Q2K> {
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t*) {
        const uint4 q = load16(chunk + PAIR / 2 * 512 + 16 * lane);
        const uint2 scales = load8(chunk + Q2_K_SCALES + 8 * (lane / 2));
        // Minima of both halves of both tiles, row g in the low bits.
        const uint32_t mins = load4(chunk + Q2_K_MINS + 16 * (lane / 4) + 4 * PAIR) >> (lane / 2 % 2 * 8);
        uint32_t d, dmin;
        block_scales(load8(chunk + Q2_K_D + 8 * (lane / 4)), d, dmin);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int i = 2 * PAIR + j;
            const uint32_t scale = half2_of(scales.x >> 4 * i & 15, scales.y >> 4 * i & 15);
            const uint32_t least = half2_of(mins >> 16 * j & 15, mins >> (16 * j + 4) & 15);
            // Codes stay where they are, and are four times as large a tile.
            const uint32_t own = half2_mul(scaled_down(d, i % 4 * 2), scale);
            put_tile_less(a[j], q, 0x03030303u << (i % 4 * 2), own, half2_mul(dmin, least));
        }
    }
};

template <>
struct Halves<Q4K> {
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t*) {
        const uint32_t g = lane / 4;
        const uint4 q = load16(chunk + PAIR * 512 + 16 * lane);
        const uint32_t scales = load2(chunk + Q4_K_SCALES + 16 * g + 2 * PAIR);
        const uint32_t scales8 = load2(chunk + Q4_K_SCALES + 16 * g + 8 + 2 * PAIR);
        const uint32_t mins = load4(chunk + Q4_K_MINS + 16 * g + 4 * PAIR);
        uint32_t d, dmin;
        block_scales(load8(chunk + Q4_K_D + 8 * g), d, dmin);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t scale = half2_of(scales >> 8 * j & 255, scales8 >> 8 * j & 255);
            const uint32_t least = half2_of(mins >> 8 * j & 255, mins >> (16 + 8 * j) & 255);
            // The upper codes stay where they are, sixteen times as large.
            const uint32_t own = half2_mul(scaled_down(d, 4 * j), scale);
            put_tile_less(a[j], q, 0x0f0f0f0fu << (4 * j), own, half2_mul(dmin, least));
        }
    }
};

template <>
struct Halves<Q6K> {
    static MEMBER uint32_t codes(uint32_t low, uint32_t high) {
        return (low & 0x0f0f0f0fu) | (high & 0x03030303u) << 4;
    }
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t*) {
        const uint32_t g = lane / 4, part = lane / 2 % 2;
        const uint4 low = load16(chunk + PAIR * 512 + 16 * lane);
        const uint4 high = load16(chunk + Q6_K_HIGH + PAIR / 2 * 512 + 16 * lane);
        // Four scales: both halves of both tiles; they are signed.
        const uint8_t* scales = chunk + Q6_K_SCALES + 32 * g + 4 * PAIR;
        const uint32_t own = (load4(scales) ^ 0x80808080u) >> 8 * part;
        const uint32_t own8 = (load4(scales + 16) ^ 0x80808080u) >> 8 * part;
        const uint32_t d = half2_mul(load4(chunk + Q6_K_D + 4 * g), GAIN_2);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t bytes = (own >> 16 * j & 255) | (own8 >> 16 * j & 255) << 16;
            const uint32_t scale = half2_mul(d, half2_sub(bytes | ONES, 0x64806480u));
            const int l = 4 * j, h = (2 * PAIR + j) % 4 * 2;
            const uint32_t zero = 0x64206420u;
            put_bytes(a[j][0], 0, codes(low.x >> l, high.x >> h), zero, both_low(scale));
            put_bytes(a[j][1], 0, codes(low.y >> l, high.y >> h), zero, both_low(scale));
            put_bytes(a[j][0], 1, codes(low.z >> l, high.z >> h), zero, both_high(scale));
            put_bytes(a[j][1], 1, codes(low.w >> l, high.w >> h), zero, both_high(scale));
        }
    }
};

template <>
struct Halves<Iq2Xxs> {
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t* grid) {
        Iq2Xxs::Raw raw;
        raw.index = load16(chunk + 16 * lane);
        raw.signs = load16(chunk + IQ2_XXS_SIGNS + 16 * lane);
        const uint2 scales = load8(chunk + IQ2_XXS_SCALES + 8 * (lane / 4));
        // An eighth of d, times GAIN.
        const uint32_t d = half2_mul(load4(chunk + IQ2_XXS_D + 4 * (lane / 4)), 0x48004800u);
        // The bytes of 8, 25, 43 and their negatives as f16.
        const uint32_t plus = 0x00514e48u, minus = 0x00d1cec8u, low = 0x00604000u;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int i = 2 * PAIR + j;
            const uint32_t factor =
                half2_of((scales.x >> 4 * i & 15) * 2 + 1, (scales.y >> 4 * i & 15) * 2 + 1);
            const uint32_t scale = half2_mul(d, factor);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t own = half == 0 ? both_low(scale) : both_high(scale);
                const uint32_t eight = Iq2Xxs::selectors(raw, i, half, grid);
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    const uint32_t four = s == 0 ? eight : eight >> 16;
                    const uint32_t upper = pick_bytes(plus, minus, four), lower = pick_bytes(low, low, four);
                    a[j][s][half] = half2_mul(__byte_perm(lower, upper, 0x6240), own);
                    a[j][s][half + 2] = half2_mul(__byte_perm(lower, upper, 0x7351), own);
                }
            }
        }
    }
};

template <>
struct Halves<Mxfp4> {
    // GAIN 2^(e - 127); what f16 cannot hold becomes its smallest or a large one.
    static MEMBER uint32_t scale(uint32_t e) {
        const int exponent = min(int(e) - 106, 28);
        return exponent > 0 ? uint32_t(exponent) << 10 : exponent > -10 ? 512u >> -exponent : 0u;
    }
    // Codes in bits 0 to 3 of both halves, as f16.
    static MEMBER uint32_t values(uint32_t codes, uint32_t scale) {
        const uint32_t bits = (codes & 0x00070007u) << 9 | (codes & 0x00080008u) << 12;
        // As f16 they are 2^-14 of their value.
        return half2_mul(half2_mul(bits, 0x74007400u), scale);
    }
    template <int PAIR>
    static MEMBER void pair(Steps (&a)[2], const uint8_t* chunk, uint32_t lane, const uint32_t*) {
        const uint4 q = load16(chunk + 512 * PAIR + 16 * lane);
        const uint32_t e = load4(chunk + MXFP4_SCALES + 16 * (lane / 4) + 4 * PAIR);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int j = i / 4, half = i / 2 % 2, s = i % 2;
            const uint32_t own = scale(e >> (16 * half + 8 * j) & 255) * 0x10001u;
            // Four codes: bytes 0 and 1 in either half.
            const uint32_t codes = __byte_perm(word(q, 2 * j + half), 0, s == 0 ? 0x4140 : 0x4342);
            a[j][s][half] = values(codes, own);
            a[j][s][half + 2] = values(codes >> 4, own);
        }
    }
};
