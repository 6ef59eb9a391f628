// From blocks as they lie in the file to chunks (layout.cuh). A warp makes one chunk.
#include "layout.cuh"
#include "common.cuh"

struct RepackArgs {
    // Rows in the file's format, from the first row of a panel on; where its chunks go.
    const uint8_t* from;
    uint8_t* to;
    uint32_t rows, cols, chunks, panels;
    uint32_t layout, row_bytes;
};

// What a lane needs of the source: its two rows and the place of the chunk.
struct Source {
    const uint8_t* rows[2];
    uint32_t first_tile, n_tiles;

    // The block of `bytes` per 32 columns that holds tile i; null behind the end.
    MEMBER const uint8_t* tile(int half, uint32_t i, uint32_t bytes) const {
        const bool there = rows[half] && first_tile + i < n_tiles;
        return there ? rows[half] + uint64_t(first_tile + i) * bytes : nullptr;
    }
    // The block of 256 columns.
    MEMBER const uint8_t* block(int half, uint32_t bytes) const {
        return rows[half] ? rows[half] + uint64_t(first_tile / TILES) * bytes : nullptr;
    }
};

DEVICE uint32_t bytes4(const uint8_t* p) {
    return p ? p[0] | p[1] << 8 | p[2] << 16 | uint32_t(p[3]) << 24 : 0;
}
DEVICE uint16_t bytes2(const uint8_t* p) { return p ? uint16_t(p[0] | p[1] << 8) : uint16_t(0); }
DEVICE uint32_t byte(const uint8_t* p, uint32_t at) { return p ? p[at] : 0; }
DEVICE const uint8_t* offset(const uint8_t* p, uint32_t by) { return p ? p + by : nullptr; }
DEVICE void put4(uint8_t* to, uint32_t v) { *reinterpret_cast<uint32_t*>(to) = v; }
DEVICE void put2(uint8_t* to, uint16_t v) { *reinterpret_cast<uint16_t*>(to) = v; }

DEVICE void repack_q8_0(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    for (int half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < TILES; i++) {
            const uint8_t* block = s.tile(half, i, 34);
            uint8_t* codes = to + 512 * i + 16 * (4 * g + t) + 4 * half;
            put4(codes, bytes4(offset(block, 2 + 8 * t)));
            put4(codes + 8, bytes4(offset(block, 6 + 8 * t)));
            if (i / 2 == t) put2(to + Q8_0_SCALES + 32 * g + 4 * i + 2 * half, bytes2(block));
        }
    }
}

DEVICE void repack_mxfp4(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    for (int half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < TILES; i++) {
            const uint8_t* block = s.tile(half, i, 17);
            // Low nibbles are the first 16 weights, high ones the last.
            uint32_t codes = 0;
            for (int w = 0; w < 8; w++) {
                codes |= (byte(block, 1 + t % 2 * 8 + w) >> (t / 2 * 4) & 15) << (4 * w);
            }
            put4(to + 512 * (i / 2) + 16 * (4 * g + t) + 8 * (i % 2) + 4 * half, codes);
            const uint32_t at = MXFP4_SCALES + 16 * g + i / 2 * 4 + 2 * half + i % 2;
            if (i / 2 == t) to[at] = uint8_t(byte(block, 0));
        }
    }
}

// The four words of a lane: eight columns of row g, then of row g + 8.
DEVICE void put_words(uint8_t* to, const uint8_t* const (&rows)[2]) {
    for (int half = 0; half < 2; half++) {
        put4(to + 8 * half, bytes4(rows[half]));
        put4(to + 8 * half + 4, bytes4(offset(rows[half], 4)));
    }
}

DEVICE void repack_q2_k(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    const uint32_t lane = 4 * g + t;
    const uint8_t* blocks[2] = {s.block(0, 84), s.block(1, 84)};
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t at = 16 + 32 * i + 8 * t;
        const uint8_t* const rows[2] = {offset(blocks[0], at), offset(blocks[1], at)};
        put_words(to + 512 * i + 16 * lane, rows);
    }
    uint32_t mins = 0;
    for (int half = 0; half < 2; half++) {
        uint32_t scales = 0;
        for (uint32_t i = 0; i < TILES; i++) {
            scales |= (byte(blocks[half], 2 * i + t / 2) & 15) << (4 * i);
        }
        if (t % 2 == 0) put4(to + Q2_K_SCALES + 8 * (lane / 2) + 4 * half, scales);
        for (uint32_t i = 0; i < 4; i++) {
            mins |= (byte(blocks[half], 4 * t + i) >> 4) << (8 * i + 4 * half);
        }
        if (t == 0) put4(to + Q2_K_D + 8 * g + 4 * half, bytes4(offset(blocks[half], 80)));
    }
    put4(to + Q2_K_MINS + 4 * lane, mins);
}

// Scale (0) or minimum (1) of sub-block s: six bits, the upper two of s >= 4 in other bytes.
DEVICE uint32_t q4_k_pair(const uint8_t* block, uint32_t s, int which) {
    if (s < 4) return byte(block, 4 + s + 4 * which) & 63;
    const uint32_t low = byte(block, 8 + s) >> (4 * which) & 15;
    return low | byte(block, s + 4 * which) >> 6 << 4;
}

DEVICE void repack_q4_k(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    const uint32_t lane = 4 * g + t;
    const uint8_t* blocks[2] = {s.block(0, 144), s.block(1, 144)};
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t at = 16 + 32 * i + 8 * t;
        const uint8_t* const rows[2] = {offset(blocks[0], at), offset(blocks[1], at)};
        put_words(to + 512 * i + 16 * lane, rows);
    }
    uint32_t mins = 0;
    for (int half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t scale = q4_k_pair(blocks[half], 2 * t + i, 0);
            to[Q4_K_SCALES + 16 * g + 8 * half + 2 * t + i] = uint8_t(scale);
            mins |= q4_k_pair(blocks[half], 2 * t + i, 1) << (16 * half + 8 * i);
        }
        if (t == 0) put4(to + Q4_K_D + 8 * g + 4 * half, bytes4(blocks[half]));
    }
    put4(to + Q4_K_MINS + 4 * lane, mins);
}

DEVICE void repack_q6_k(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    const uint32_t lane = 4 * g + t;
    const uint8_t* blocks[2] = {s.block(0, 210), s.block(1, 210)};
    for (int half = 0; half < 2; half++) {
        // Tiles 0 and 2 of a half block share 32 bytes of low bits, tiles 1 and 3 the next.
        for (uint32_t i = 0; i < 4; i++) {
            for (uint32_t w = 0; w < 2; w++) {
                const uint32_t at = 64 * (i / 2) + 8 * t + 4 * w, shift = i % 2 * 4;
                const uint32_t even = bytes4(offset(blocks[half], at)) >> shift & 0x0f0f0f0f;
                const uint32_t odd = bytes4(offset(blocks[half], at + 32)) >> shift & 0x0f0f0f0f;
                put4(to + 512 * i + 16 * lane + 8 * half + 4 * w, even | odd << 4);
            }
        }
        const uint32_t scales = bytes4(offset(blocks[half], 192 + 4 * t));
        put4(to + Q6_K_SCALES + 32 * g + 16 * half + 4 * t, scales);
        if (t == 0) put2(to + Q6_K_D + 4 * g + 2 * half, bytes2(offset(blocks[half], 208)));
    }
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t at = 128 + 32 * i + 8 * t;
        const uint8_t* const rows[2] = {offset(blocks[0], at), offset(blocks[1], at)};
        put_words(to + Q6_K_HIGH + 512 * i + 16 * lane, rows);
    }
}

DEVICE void repack_iq2_xxs(uint8_t* to, const Source& s, uint32_t g, uint32_t t) {
    const uint32_t lane = 4 * g + t;
    for (int half = 0; half < 2; half++) {
        const uint8_t* block = s.block(half, 66);
        uint32_t index[2] = {0, 0}, signs[2] = {0, 0}, scales = 0;
        for (uint32_t i = 0; i < TILES; i++) {
            index[i / 4] |= byte(block, 2 + 8 * i + t) << (i % 4 * 8);
            const uint32_t rest = bytes4(offset(block, 6 + 8 * i));
            uint32_t mask = rest >> (7 * t) & 127;
            mask |= (__popc(mask) & 1) << 7;
            for (int w = 0; w < 8; w++) signs[i / 4] |= (mask >> w & 1) << (4 * w + i % 4);
            scales |= (rest >> 28) << (4 * i);
        }
        for (int i = 0; i < 2; i++) {
            put4(to + 16 * lane + 8 * half + 4 * i, index[i]);
            put4(to + IQ2_XXS_SIGNS + 16 * lane + 8 * half + 4 * i, signs[i]);
        }
        if (t == 0) {
            put4(to + IQ2_XXS_SCALES + 8 * g + 4 * half, scales);
            put2(to + IQ2_XXS_D + 4 * g + 2 * half, bytes2(block));
        }
    }
}

KERNEL(256, repack, RepackArgs) {
    const uint32_t warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t panel = warp / a.chunks, chunk = warp % a.chunks;
    if (panel >= a.panels) return;
    const uint32_t g = lane / 4, t = lane % 4;
    Source s = {{nullptr, nullptr}, chunk * TILES, a.cols / 32};
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t row = panel * CHUNK_ROWS + g + 8 * half;
        if (row < a.rows) s.rows[half] = a.from + uint64_t(row) * a.row_bytes;
    }
    switch (a.layout) {
        case LAYOUT_Q8_0: repack_q8_0(a.to + uint64_t(warp) * Q8_0_CHUNK, s, g, t); break;
        case LAYOUT_Q2_K: repack_q2_k(a.to + uint64_t(warp) * Q2_K_CHUNK, s, g, t); break;
        case LAYOUT_Q4_K: repack_q4_k(a.to + uint64_t(warp) * Q4_K_CHUNK, s, g, t); break;
        case LAYOUT_Q6_K: repack_q6_k(a.to + uint64_t(warp) * Q6_K_CHUNK, s, g, t); break;
        case LAYOUT_IQ2_XXS: repack_iq2_xxs(a.to + uint64_t(warp) * IQ2_XXS_CHUNK, s, g, t); break;
        default: repack_mxfp4(a.to + uint64_t(warp) * MXFP4_CHUNK, s, g, t); break;
    }
}
