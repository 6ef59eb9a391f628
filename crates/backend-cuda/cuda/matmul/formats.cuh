// From chunks (layout.cuh) to operands of the tensor cores, format by format.
//
// A format has `Raw`, what one lane loads of a chunk; `tile`, the operand of one tile of 32 columns;
// and what its sums are multiplied with. By `KIND`:
//   PER_TILE   rounded activations have a scale a tile; `scale` is that of row g or g + 8 (half 1);
//   CHAINED    one scale a chunk: the tiles of a chunk add up on the tensor cores;
//   SCALED     one scale a chunk, and every tile is multiplied with the integer `factor`;
//   HALVES     as SCALED, with another factor for either half of a tile.
// Formats with `MINS` also subtract `dmin` times a product of minima with the activations' sums;
// `minimum` is one of the 16 of a row. `DEPTH` chunks are loaded before the first is used where
// nothing else keeps memory busy.
#pragma once
#include "layout.cuh"
#include "mma.cuh"

#define PER_TILE 0
#define CHAINED 1
#define SCALED 2
#define HALVES 3

DEVICE uint4 load16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
DEVICE uint2 load8(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
DEVICE uint32_t load4(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }

// Weights that are read once leave the first cache to the activations.
DEVICE uint4 stream16(const uint8_t* p) {
#ifdef KEID_EMULATE
    return load16(p);
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
#endif
}
DEVICE uint2 stream8(const uint8_t* p) {
#ifdef KEID_EMULATE
    return load8(p);
#else
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(p));
    return v;
#endif
}
DEVICE uint32_t stream4(const uint8_t* p) {
#ifdef KEID_EMULATE
    return load4(p);
#else
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
#endif
}

// A chunk in shared memory, or anywhere.
struct Near {
    const uint8_t* chunk;
    MEMBER uint4 get16(uint32_t at) const { return load16(chunk + at); }
    MEMBER uint2 get8(uint32_t at) const { return load8(chunk + at); }
    MEMBER uint32_t get4(uint32_t at) const { return load4(chunk + at); }
};

// A chunk in device memory that is read once.
struct Streamed {
    const uint8_t* chunk;
    MEMBER uint4 get16(uint32_t at) const { return stream16(chunk + at); }
    MEMBER uint2 get8(uint32_t at) const { return stream8(chunk + at); }
    MEMBER uint32_t get4(uint32_t at) const { return stream4(chunk + at); }
};

DEVICE uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
DEVICE uint32_t word(const uint2& v, int i) { return i == 0 ? v.x : v.y; }
DEVICE float low_half(uint32_t bits) { return half_to_float(uint16_t(bits & 0xffff)); }
DEVICE float high_half(uint32_t bits) { return half_to_float(uint16_t(bits >> 16)); }
DEVICE float pick_half(uint32_t bits, int i) { return i == 0 ? low_half(bits) : high_half(bits); }

// Byte i of the result is the one among eight that bits 4i to 4i + 2 of `selectors` name; bit 4i + 3
// must be clear, and the upper half is ignored.
DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
#ifdef KEID_EMULATE
    return __byte_perm(low, high, selectors);
#else
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selectors));
    return bytes;
#endif
}

struct Q8_0 {
    enum { CHUNK = Q8_0_CHUNK, KIND = PER_TILE, MINS = 0, DEPTH = 1 };
    // Two tiles and their scales.
    struct Pair {
        uint4 q[2];
        uint2 d;
    };
    struct Raw {
        Pair pairs[TILES / 2];
    };
    template <class From>
    static MEMBER void load_pair(Pair& p, const From& from, uint32_t lane, uint32_t pair) {
        p.q[0] = from.get16(1024 * pair + 16 * lane);
        p.q[1] = from.get16(1024 * pair + 512 + 16 * lane);
        p.d = from.get8(Q8_0_SCALES + 32 * (lane / 4) + 8 * pair);
    }
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
#pragma unroll
        for (int i = 0; i < TILES; i++) r.pairs[i / 2].q[i % 2] = from.get16(512 * i + 16 * lane);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 d = from.get16(Q8_0_SCALES + 32 * (lane / 4) + 16 * i);
            r.pairs[2 * i].d = make_uint2(d.x, d.y);
            r.pairs[2 * i + 1].d = make_uint2(d.z, d.w);
        }
    }
    static MEMBER void tile(uint32_t (&a)[4], const Pair& p, int j) {
        a[0] = p.q[j].x, a[1] = p.q[j].y, a[2] = p.q[j].z, a[3] = p.q[j].w;
    }
    static MEMBER float scale(const Pair& p, int j, int half) {
        return pick_half(word(p.d, j), half);
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t*) {
        tile(a, r.pairs[i / 2], i % 2);
    }
    static MEMBER float scale(const Raw& r, int i, int half) {
        return scale(r.pairs[i / 2], i % 2, half);
    }
};

struct Mxfp4 {
    enum { CHUNK = MXFP4_CHUNK, KIND = PER_TILE, MINS = 0, DEPTH = 2 };
    struct Pair {
        uint4 q;
        uint32_t e;
    };
    struct Raw {
        Pair pairs[TILES / 2];
    };
    template <class From>
    static MEMBER void load_pair(Pair& p, const From& from, uint32_t lane, uint32_t pair) {
        p.q = from.get16(512 * pair + 16 * lane);
        p.e = from.get4(MXFP4_SCALES + 16 * (lane / 4) + 4 * pair);
    }
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
        const uint4 e = from.get16(MXFP4_SCALES + 16 * (lane / 4));
#pragma unroll
        for (int i = 0; i < TILES / 2; i++) {
            r.pairs[i].q = from.get16(512 * i + 16 * lane);
            r.pairs[i].e = word(e, i);
        }
    }
    // Four codes of E2M1 as twice their values.
    static MEMBER uint32_t values(uint32_t codes) {
        const uint32_t magnitudes = codes & 0x7777;
        const uint32_t plus = pick_bytes(0x03020100, 0x0c080604, magnitudes);
        const uint32_t minus = pick_bytes(0xfdfeff00, 0xf4f8fafc, magnitudes);
        return pick_bytes(plus, minus, 0x3210 | (codes >> 1 & 0x4444));
    }
    static MEMBER void tile(uint32_t (&a)[4], const Pair& p, int j) {
        const uint32_t g = word(p.q, 2 * j), g8 = word(p.q, 2 * j + 1);
        a[0] = values(g), a[2] = values(g >> 16), a[1] = values(g8), a[3] = values(g8 >> 16);
    }
    // Half of 2^(e - 127); e of 0 and 1 make subnormal numbers.
    static MEMBER float scale(const Pair& p, int j, int half) {
        const uint32_t e = p.e >> (16 * half + 8 * j) & 255;
        return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t*) {
        tile(a, r.pairs[i / 2], i % 2);
    }
    static MEMBER float scale(const Raw& r, int i, int half) {
        return scale(r.pairs[i / 2], i % 2, half);
    }
};

struct Q2K {
    enum { CHUNK = Q2_K_CHUNK, KIND = CHAINED, MINS = 1, DEPTH = 4 };
    struct Raw {
        uint4 q[2];
        uint2 scales, d;
        uint32_t mins;
    };
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
        r.q[0] = from.get16(16 * lane);
        r.q[1] = from.get16(512 + 16 * lane);
        r.scales = from.get8(Q2_K_SCALES + 8 * (lane / 2));
        r.mins = from.get4(Q2_K_MINS + 4 * lane);
        r.d = from.get8(Q2_K_D + 8 * (lane / 4));
    }
    // Two bits times four bits fit in a byte, so that the scale is in the operand.
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t*) {
        const uint32_t g = r.scales.x >> 4 * i & 15, g8 = r.scales.y >> 4 * i & 15;
        const uint4& q = r.q[i / 4];
        const int shift = i % 4 * 2;
        a[0] = (q.x >> shift & 0x03030303) * g, a[2] = (q.y >> shift & 0x03030303) * g;
        a[1] = (q.z >> shift & 0x03030303) * g8, a[3] = (q.w >> shift & 0x03030303) * g8;
    }
    static MEMBER void mins(uint32_t (&a)[2], const Raw& r) {
        a[0] = r.mins & 0x0f0f0f0f, a[1] = r.mins >> 4 & 0x0f0f0f0f;
    }
    static MEMBER int minimum(const uint8_t* chunk, uint32_t g, int half, int part) {
        return chunk[Q2_K_MINS + 16 * g + part] >> 4 * half & 15;
    }
    static MEMBER float d(const Raw& r, int half) { return low_half(word(r.d, half)); }
    static MEMBER float dmin(const Raw& r, int half) { return high_half(word(r.d, half)); }
};

struct Q4K {
    enum { CHUNK = Q4_K_CHUNK, KIND = SCALED, MINS = 1, DEPTH = 2 };
    struct Raw {
        uint4 q[4], scales;
        uint2 d;
        uint32_t mins;
    };
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) r.q[i] = from.get16(512 * i + 16 * lane);
        r.scales = from.get16(Q4_K_SCALES + 16 * (lane / 4));
        r.mins = from.get4(Q4_K_MINS + 4 * lane);
        r.d = from.get8(Q4_K_D + 8 * (lane / 4));
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t*) {
        const uint4& q = r.q[i / 2];
        const int shift = i % 2 * 4;
        a[0] = q.x >> shift & 0x0f0f0f0f, a[2] = q.y >> shift & 0x0f0f0f0f;
        a[1] = q.z >> shift & 0x0f0f0f0f, a[3] = q.w >> shift & 0x0f0f0f0f;
    }
    static MEMBER int factor(const Raw& r, int i, int half) {
        return int(word(r.scales, half * 2 + i / 4) >> (i % 4 * 8) & 255);
    }
    // A minimum serves both sums of its tile.
    static MEMBER void mins(uint32_t (&a)[2], const Raw& r) {
        a[0] = __byte_perm(r.mins, 0, 0x1100), a[1] = __byte_perm(r.mins, 0, 0x3322);
    }
    static MEMBER int minimum(const uint8_t* chunk, uint32_t g, int half, int part) {
        return chunk[Q4_K_MINS + 16 * g + part / 4 * 4 + 2 * half + part / 2 % 2];
    }
    static MEMBER float d(const Raw& r, int half) { return low_half(word(r.d, half)); }
    static MEMBER float dmin(const Raw& r, int half) { return high_half(word(r.d, half)); }
};

struct Q6K {
    enum { CHUNK = Q6_K_CHUNK, KIND = HALVES, MINS = 0, DEPTH = 1 };
    struct Raw {
        uint4 low[4], high[2], scales[2];
        uint32_t d;
    };
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) r.low[i] = from.get16(512 * i + 16 * lane);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            r.high[i] = from.get16(Q6_K_HIGH + 512 * i + 16 * lane);
            r.scales[i] = from.get16(Q6_K_SCALES + 32 * (lane / 4) + 16 * i);
        }
        r.d = from.get4(Q6_K_D + 4 * (lane / 4));
    }
    // Bytes of 0..64 become bytes of -32..32: the upper bit keeps borrows inside a byte.
    static MEMBER uint32_t centred(uint32_t low, uint32_t high) {
        const uint32_t q = (low & 0x0f0f0f0f) | (high & 0x03030303) << 4;
        return ((q | 0x80808080) - 0x20202020) ^ 0x80808080;
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t*) {
        const uint4 &l = r.low[i / 2], &h = r.high[i / 4];
        const int low = i % 2 * 4, high = i % 4 * 2;
        a[0] = centred(l.x >> low, h.x >> high), a[2] = centred(l.y >> low, h.y >> high);
        a[1] = centred(l.z >> low, h.z >> high), a[3] = centred(l.w >> low, h.w >> high);
    }
    static MEMBER int factor(const Raw& r, int i, int half, int part) {
        const uint32_t bytes = word(r.scales[half], i / 2);
        return int(int8_t(bytes >> ((i % 2 * 2 + part) * 8)));
    }
    static MEMBER float d(const Raw& r, int half) { return pick_half(r.d, half); }
};

// The grid is a table of 256 words in shared memory: bits 4i, 4i + 1 are the level of weight i.
struct Iq2Xxs {
    enum { CHUNK = IQ2_XXS_CHUNK, KIND = SCALED, MINS = 0, DEPTH = 4 };
    struct Raw {
        uint4 index, signs;
        uint2 scales;
        uint32_t d;
    };
    template <class From>
    static MEMBER void load(Raw& r, const From& from, uint32_t lane) {
        r.index = from.get16(16 * lane);
        r.signs = from.get16(IQ2_XXS_SIGNS + 16 * lane);
        r.scales = from.get8(IQ2_XXS_SCALES + 8 * (lane / 4));
        r.d = from.get4(IQ2_XXS_D + 4 * (lane / 4));
    }
    // Eight weights as selectors of a byte among {8, 25, 43} and their negatives.
    static MEMBER uint32_t selectors(const Raw& r, int i, int half, const uint32_t* grid) {
        const uint32_t index = word(r.index, half * 2 + i / 4);
        const uint32_t signs = word(r.signs, half * 2 + i / 4);
        const int j = i % 4;
        // Four times the index, which is the word's address.
        const uint32_t at = (j == 0 ? index << 2 : index >> (8 * j - 2)) & 0x3fc;
        const uint32_t levels = load4(reinterpret_cast<const uint8_t*>(grid) + at);
        return levels | ((j < 3 ? signs << (2 - j) : signs >> 1) & 0x44444444);
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t* grid) {
        const uint32_t g = selectors(r, i, 0, grid), g8 = selectors(r, i, 1, grid);
        const uint32_t plus = 0x002b1908, minus = 0x00d5e7f8;
        a[0] = pick_bytes(plus, minus, g), a[2] = pick_bytes(plus, minus, g >> 16);
        a[1] = pick_bytes(plus, minus, g8), a[3] = pick_bytes(plus, minus, g8 >> 16);
    }
    // Twice the factor: d holds an eighth, not a quarter.
    static MEMBER int factor(const Raw& r, int i, int half) {
        return int((i == 0 ? word(r.scales, half) << 1 : word(r.scales, half) >> (4 * i - 1)) & 30) | 1;
    }
    static MEMBER float d(const Raw& r, int half) { return 0.125f * pick_half(r.d, half); }
};

// The same with a grid for every lane, so that 32 lanes never meet in a bank: the levels of index i lie GRID_STRIDE
// bytes behind those of i - 1, so that one instruction puts an index and the lane together to an address.
#define GRID_STRIDE 256
#define SPREAD_GRID (256 * GRID_STRIDE)

struct Iq2XxsSpread : Iq2Xxs {
    // The levels of index j of a word.
    static MEMBER uint32_t levels(const uint32_t* grid, uint32_t indices, int j) {
        const uint32_t place = threadIdx.x % 32 * 4;
        return load4(reinterpret_cast<const uint8_t*>(grid) + __byte_perm(indices, place, 0x7704 | j << 4));
    }
    static MEMBER void tile(uint32_t (&a)[4], const Raw& r, int i, const uint32_t* grid) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t signs = word(r.signs, half * 2 + i / 4);
            const int j = i % 4;
            const uint32_t which = levels(grid, word(r.index, half * 2 + i / 4), j)
                | ((j < 3 ? signs << (2 - j) : signs >> 1) & 0x44444444);
            const uint32_t plus = 0x002b1908, minus = 0x00d5e7f8;
            a[half] = pick_bytes(plus, minus, which);
            a[half + 2] = pick_bytes(plus, minus, which >> 16);
        }
    }
};

// Puts a grid for every lane into shared memory, by N_WARPS warps.
template <uint32_t N_WARPS>
DEVICE void spread_grid(uint32_t* to, const uint32_t* from) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t levels[256 / N_WARPS];
#pragma unroll
    for (uint32_t i = 0; i < 256 / N_WARPS; i++) levels[i] = from[N_WARPS * i + warp];
#pragma unroll
    for (uint32_t i = 0; i < 256 / N_WARPS; i++) to[(N_WARPS * i + warp) * (GRID_STRIDE / 4) + lane] = levels[i];
}
