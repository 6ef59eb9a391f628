// KV rows of the Model format as f16, in pieces of sixteen channels: 64 channels a scale, and places that
// are multiples of eight bytes.
#pragma once
#include "kv_row.cuh"
#include "matmul/halves.cuh"

// The largest scale whose products with codes f16 holds, times 2^8: code bits seen as f16 are 2^-8 of the
// code. A fault (255) stays visible.
DEVICE uint32_t half_scale(uint32_t e) {
    const int exponent = min(int(e) - 127 + 8 + 15, 30);
    const uint32_t bits = exponent > 0 ? uint32_t(exponent) << 10 : exponent > -10 ? 512u >> -exponent : 0u;
    return (e == 255 ? 0x7e00u : bits) * 0x10001u;
}

// Bytes 0 and 1 of a word, E4M3 codes, as f16.
DEVICE uint32_t code_halves(uint32_t word, uint32_t selector, uint32_t scale) {
    const uint32_t high = __byte_perm(word, 0, selector);
    return half2_mul((high & 0x80008000u) | (high >> 1 & 0x3f803f80u), scale);
}

// Sixteen channels of a row, as stored: codes in the first two, or f16.
struct Piece {
    uint2 words[4];
    uint32_t scale;
};

DEVICE void load_piece(Piece& p, const RowFormat& f, const uint8_t* row, uint32_t lane) {
    const bool coded = 16 * lane < f.coded;
    const uint8_t* at = coded ? row + 16 * lane : row + f.tail_offset + 2 * (16 * lane - f.coded);
    p.words[0] = load8(at), p.words[1] = load8(at + 8);
    p.scale = row[f.code_bytes + (coded ? lane / 4 : 0)];
    if (!coded) p.words[2] = load8(at + 16), p.words[3] = load8(at + 24);
}

// A piece's channels as f16, the first eight in `low`.
DEVICE void piece_halves(const Piece& p, bool coded, uint4& low, uint4& high) {
    if (coded) {
        const uint32_t scale = half_scale(p.scale);
        low.x = code_halves(p.words[0].x, 0x1404, scale), low.y = code_halves(p.words[0].x, 0x3424, scale);
        low.z = code_halves(p.words[0].y, 0x1404, scale), low.w = code_halves(p.words[0].y, 0x3424, scale);
        high.x = code_halves(p.words[1].x, 0x1404, scale), high.y = code_halves(p.words[1].x, 0x3424, scale);
        high.z = code_halves(p.words[1].y, 0x1404, scale), high.w = code_halves(p.words[1].y, 0x3424, scale);
    } else {
        low = make_uint4(p.words[0].x, p.words[0].y, p.words[1].x, p.words[1].y);
        high = make_uint4(p.words[2].x, p.words[2].y, p.words[3].x, p.words[3].y);
    }
}
