// The same products with F32, F16 and BF16 weights, row-major, and unrounded activations.
//
// The tensor cores take 11 significant bits of an operand (tf32). F16 and BF16 weights have no more;
// an activation is the sum of two such numbers to 22 bits. F32 weights are split the same way, and
// the product of the two small parts is left out. Each 32 columns are summed on the tensor cores,
// which cut sums off, and added in f32, which rounds.
#pragma once
#include "product.cuh"

// Row-major values of a matrix, or of activations.
struct FloatRows {
    const uint8_t* values;
    uint32_t row_bytes, n_rows, cols;
    // Rows begin at multiples of 16 bytes, and are whole groups of eight.
    bool aligned;
};

// Eight values of a row from column k on; zeros behind its end.
template <int TYPE>
DEVICE void load_eight(float (&v)[8], const FloatRows& m, uint32_t row, uint32_t k) {
    const uint8_t* values = m.values + uint64_t(row) * m.row_bytes;
    if (!m.aligned || k >= m.cols) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k + i < m.cols ? load_float(values, k + i, TYPE) : 0.0f;
    } else if constexpr (TYPE == FLOAT_F32) {
        const float4 low = *reinterpret_cast<const float4*>(values + 4 * k);
        const float4 high = *reinterpret_cast<const float4*>(values + 4 * k + 16);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
        const uint4 pairs = load16(values + 2 * k);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t pair = word(pairs, i);
            if constexpr (TYPE == FLOAT_F16) {
                v[2 * i] = low_half(pair), v[2 * i + 1] = high_half(pair);
            } else {
                v[2 * i] = __uint_as_float(pair << 16);
                v[2 * i + 1] = __uint_as_float(pair & 0xffff0000u);
            }
        }
    }
}

DEVICE uint32_t upper_bits(float v) { return __float_as_uint(v) & 0xffffe000u; }
DEVICE uint32_t lower_bits(float v) {
    return __float_as_uint(v - __uint_as_float(upper_bits(v)));
}

// Two of the eight values of rows g and g + 8 against two of an activation row.
template <int TYPE>
DEVICE void add_pair(float (&c)[4], const float* g, const float* g8, const float* x) {
    uint32_t a[4] = {__float_as_uint(g[0]), __float_as_uint(g8[0]), __float_as_uint(g[1]),
                     __float_as_uint(g8[1])};
    const uint32_t x0 = upper_bits(x[0]), x1 = upper_bits(x[1]);
    if constexpr (TYPE == FLOAT_F32) {
        uint32_t rest[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float v = __uint_as_float(a[i]);
            a[i] = upper_bits(v), rest[i] = lower_bits(v);
        }
        mma_tf32(c, rest, x0, x1);
    }
    mma_tf32(c, a, lower_bits(x[0]), lower_bits(x[1]));
    mma_tf32(c, a, x0, x1);
}

// Eight values of a row as they are stored, from column k on.
template <int TYPE>
struct Eight {
    uint4 bits[TYPE == FLOAT_F32 ? 2 : 1];

    MEMBER void load(const FloatRows& m, uint32_t row, uint32_t k) {
        const uint8_t* at = m.values + uint64_t(row) * m.row_bytes + k * (TYPE == FLOAT_F32 ? 4 : 2);
        bits[0] = stream16(at);
        if constexpr (TYPE == FLOAT_F32) bits[1] = stream16(at + 16);
    }

    // From shared memory.
    MEMBER void near(const uint8_t* at) {
        bits[0] = load16(at);
        if constexpr (TYPE == FLOAT_F32) bits[1] = load16(at + 16);
    }

    MEMBER void values(float (&v)[8]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (TYPE == FLOAT_F32) {
                v[i] = __uint_as_float(word(bits[0], i));
                v[4 + i] = __uint_as_float(word(bits[1], i));
            } else if constexpr (TYPE == FLOAT_F16) {
                v[2 * i] = low_half(word(bits[0], i)), v[2 * i + 1] = high_half(word(bits[0], i));
            } else {
                v[2 * i] = __uint_as_float(word(bits[0], i) << 16);
                v[2 * i + 1] = __uint_as_float(word(bits[0], i) & 0xffff0000u);
            }
        }
    }
};

// 32 columns: eight of rows g and g + 8 a lane.
template <int TYPE, int GROUPS>
DEVICE void add_columns(float (&acc)[GROUPS][4], const float (&a)[8], const float (&a8)[8],
                        const FloatRows& x, uint32_t k) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const uint32_t row = 8 * group + threadIdx.x % 32 / 4;
        if (group > 0 && uint32_t(8 * group) >= x.n_rows) break;
        float b[8] = {0, 0, 0, 0, 0, 0, 0, 0}, c[4] = {0, 0, 0, 0};
        if (row < x.n_rows) load_eight<FLOAT_F32>(b, x, row, k);
#pragma unroll
        for (int i = 0; i < 8; i += 2) add_pair<TYPE>(c, a + i, a8 + i, b + i);
#pragma unroll
        for (int i = 0; i < 4; i++) acc[group][i] += c[i];
    }
}

// Columns of chunks `first`, `first + step`, ... of the 16 rows from `row` on.
template <int TYPE, int GROUPS>
DEVICE void add_float_chunks(float (&acc)[GROUPS][4], const FloatRows& w, uint32_t row, const FloatRows& x,
                             uint32_t first, uint32_t step) {
    const uint32_t g = threadIdx.x % 32 / 4, own = 8 * (threadIdx.x % 4);
    const uint32_t row_g = min(row + g, w.n_rows - 1), row_g8 = min(row + g + 8, w.n_rows - 1);
    const uint32_t chunks = (w.cols + CHUNK_COLS - 1) / CHUNK_COLS;
    // Steps of 32 columns that are loaded before the first is used.
    const int depth = TYPE == FLOAT_F32 ? 2 : 4;
    for (uint32_t chunk = first; chunk < chunks; chunk += step) {
        const uint32_t begin = chunk * CHUNK_COLS, end = min(w.cols, begin + CHUNK_COLS);
        if (w.aligned && end == begin + CHUNK_COLS) {
#pragma unroll 1
            for (uint32_t k = begin; k < end; k += 32 * depth) {
                Eight<TYPE> g_bits[depth], g8_bits[depth];
#pragma unroll
                for (int i = 0; i < depth; i++) {
                    g_bits[i].load(w, row_g, k + 32 * i + own);
                    g8_bits[i].load(w, row_g8, k + 32 * i + own);
                }
#pragma unroll
                for (int i = 0; i < depth; i++) {
                    float a[8], a8[8];
                    g_bits[i].values(a);
                    g8_bits[i].values(a8);
                    add_columns<TYPE, GROUPS>(acc, a, a8, x, k + 32 * i + own);
                }
            }
            continue;
        }
#pragma unroll 1
        for (uint32_t k = begin; k < end; k += 32) {
            float a[8], a8[8];
            load_eight<TYPE>(a, w, row_g, k + own);
            load_eight<TYPE>(a8, w, row_g8, k + own);
            add_columns<TYPE, GROUPS>(acc, a, a8, x, k + own);
        }
    }
}
