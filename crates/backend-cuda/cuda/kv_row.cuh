// KV rows: their bytes, and where they lie (crates/backend/src/kv_row.rs and host_kv.rs say the same
// for the host). Rounding follows the model's definition bit for bit.
#pragma once
#include "step.cuh"

#define ROWS_F32 0
#define ROWS_MODEL 1
#define ROWS_WIDE_TAIL 2

struct RowFormat {
    uint32_t dim, coded;      // channels, and those stored as codes with scales
    uint32_t bytes;           // of a row
    uint32_t code_bytes;
    uint32_t tail_offset;
    uint32_t format;          // ROWS_*
    uint32_t index;           // an index row: FP4 after a Hadamard transform
    uint32_t pad;
};

// Window rows of one layer: a ring for every slot, and the step's rows.
struct WindowRows {
    uint8_t* ring;
    uint8_t* staged;
    uint32_t window, pad;
};

// Rows of one compressor: committed in pages, closed in this step; and the inputs of open ones.
struct PooledRows {
    uint8_t* pages;
    uint8_t* staged;
    float* open;
    float* staged_open;
    uint32_t ratio, per_page, n_open, open_len;
};

DEVICE uint8_t* window_row(const WindowRows& w, uint32_t bytes, const StepRow& r, uint32_t pos) {
    if (pos < r.committed) return w.ring + (uint64_t(r.slot) * w.window + pos % w.window) * bytes;
    return w.staged + uint64_t(r.first_row + pos - r.committed) * bytes;
}

DEVICE uint8_t* pooled_row(const PooledRows& p, uint32_t bytes, const StepView& step,
                           const StepRow& r, uint32_t index) {
    const uint32_t committed = r.committed / p.ratio;
    if (index < committed) {
        const uint64_t page = step.page(r, index / p.per_page);
        return p.pages + (page * p.per_page + index % p.per_page) * bytes;
    }
    const uint32_t first = p.ratio == 4 ? r.closed_csa : r.closed_hca;
    return p.staged + uint64_t(first + index - committed) * bytes;
}

// k | z of a position.
DEVICE const float* open_input(const PooledRows& p, const StepRow& r, uint32_t pos) {
    if (pos < r.committed) return p.open + (uint64_t(r.slot) * p.n_open + pos % p.n_open) * p.open_len;
    return p.staged_open + uint64_t(r.first_row + pos - r.committed) * p.open_len;
}

// 2^(e - 127); NaN for 255.
DEVICE float power_of_two(uint32_t e) {
    if (e == 0) return __uint_as_float(0x00400000u);
    return __uint_as_float(e == 255 ? 0x7fc00000u : e << 23);
}

// The exponent byte of the smallest power of two that is not less than v.
DEVICE uint32_t scale_of(float v) {
    const uint32_t bits = __float_as_uint(v);
    const uint32_t e = (bits >> 23 & 255u) + ((bits & 0x7fffffu) != 0 ? 1u : 0u);
    return e < 255u ? e : 255u;
}

// The scale byte of a block whose largest magnitude has these bits. A fault upstream stays visible.
DEVICE uint32_t block_scale(uint32_t magnitude, float least, float inverse_max) {
    const uint32_t floor_bits = __float_as_uint(least);
    if (magnitude < floor_bits) magnitude = floor_bits;
    return magnitude >= 0x7f800000u ? 255u : scale_of(__uint_as_float(magnitude) * inverse_max);
}

DEVICE float inverse_scale(uint32_t e) {
    return e == 255 ? __uint_as_float(0x7fc00000u) : power_of_two(254 - e);
}

// An E4M3 code times 2^(scale - 127). The code's bits, seen as a float's, are 2^-120 of its value.
DEVICE float e4m3_value(uint32_t code, float scale) {
    const uint32_t bits = (code & 0x7fu) << 20 | (code & 0x80u) << 24;
    return __uint_as_float(bits) * 1.329227995784916e36f * scale;
}

// The nearest code, ties to even, saturating at 448.
DEVICE uint32_t e4m3_code(float v) {
    const uint32_t sign = __float_as_uint(v) >> 24 & 0x80u;
    const float magnitude = fminf(fabsf(v), 448.0f);
    const uint32_t m = __float_as_uint(magnitude);
    const uint32_t normal = (m + 0x7ffffu + (m >> 20 & 1u) - (120u << 23)) >> 20;
    // Floats near 2^14 step by 2^-9, as subnormal codes do.
    const uint32_t subnormal = __float_as_uint(magnitude + 16384.0f) - __float_as_uint(16384.0f);
    const uint32_t code = magnitude < 0.015625f ? subnormal : normal;
    return sign | (v != v ? 0x7fu : code);
}

DEVICE float e2m1_value(uint32_t code) {
    const uint32_t m = code & 7u;
    const float magnitude = m < 2 ? 0.5f * float(m) : __uint_as_float((m << 22) + (126u << 23));
    return (code & 8u) != 0 ? -magnitude : magnitude;
}

DEVICE uint32_t e2m1_code(float v) {
    const float m = fabsf(v);
    // A tie goes up where the code above is even.
    const uint32_t code = uint32_t(m > 0.25f) + uint32_t(m >= 0.75f) + uint32_t(m > 1.25f)
        + uint32_t(m >= 1.75f) + uint32_t(m > 2.5f) + uint32_t(m >= 3.5f) + uint32_t(m > 5.0f);
    return code | (__float_as_uint(v) >> 28 & 8u);
}

// Channel i of a stored row.
DEVICE float row_value(const RowFormat& f, const uint8_t* row, uint32_t i) {
    if (f.format == ROWS_F32) return reinterpret_cast<const float*>(row)[i];
    if (f.index) {
        const uint32_t code = uint32_t(row[i / 2]) >> (4 * (i & 1u));
        return e2m1_value(code) * power_of_two(row[f.code_bytes + i / 32]);
    }
    if (i < f.coded) return e4m3_value(row[i], power_of_two(row[f.code_bytes + i / 64]));
    if (f.format == ROWS_MODEL) {
        return half_to_float(reinterpret_cast<const uint16_t*>(row + f.tail_offset)[i - f.coded]);
    }
    return reinterpret_cast<const float*>(row + f.tail_offset)[i - f.coded];
}

DEVICE uint32_t magnitude_bits(float v) { return __float_as_uint(v) & 0x7fffffffu; }

// The orthonormal Walsh-Hadamard transform of n values in shared memory, by `n_threads` threads that
// all come here; n is a power of two.
DEVICE void hadamard(float* x, uint32_t n, uint32_t thread, uint32_t n_threads) {
    for (uint32_t half = 1; half < n; half *= 2) {
        __syncthreads();
        for (uint32_t i = thread; i < n / 2; i += n_threads) {
            const uint32_t at = i / half * 2 * half + i % half;
            const float p = x[at], q = x[at + half];
            x[at] = p + q;
            x[at + half] = p - q;
        }
    }
    __syncthreads();
    const float norm = 1.0f / sqrtf(float(n));
    for (uint32_t i = thread; i < n; i += n_threads) x[i] *= norm;
    __syncthreads();
}

// One warp encodes a block of up to 64 channels to E4M3.
DEVICE void encode_e4m3(const float* x, uint32_t n, uint8_t* codes, uint8_t* scale) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t largest = 0;
    for (uint32_t i = lane; i < n; i += 32) {
        const uint32_t m = magnitude_bits(x[i]);
        largest = largest > m ? largest : m;
    }
    const uint32_t e = block_scale(warp_max_bits(largest), 1e-4f, 1.0f / 448.0f);
    const float inverse = inverse_scale(e);
    for (uint32_t i = lane; i < n; i += 32) codes[i] = uint8_t(e4m3_code(x[i] * inverse));
    if (lane == 0) *scale = uint8_t(e);
}

// One warp encodes 32 channels to E2M1.
DEVICE void encode_e2m1(const float* x, uint8_t* codes, uint8_t* scale) {
    const uint32_t lane = threadIdx.x % 32;
    const float v = x[lane];
    const uint32_t e =
        block_scale(warp_max_bits(magnitude_bits(v)), 6.0f * 1.17549435e-38f, 1.0f / 6.0f);
    const uint32_t code = e2m1_code(v * inverse_scale(e));
    const uint32_t above = __shfl_down_sync(FULL_WARP, code, 1);
    if (lane % 2 == 0) codes[lane / 2] = uint8_t(code | above << 4);
    if (lane == 0) *scale = uint8_t(e);
}

// A block of whole warps writes the row x, which lies in shared memory and is overwritten.
DEVICE void encode_row(const RowFormat& f, float* x, uint8_t* out) {
    const uint32_t thread = threadIdx.x, n_threads = blockDim.x;
    const uint32_t warp = thread / 32, n_warps = n_threads / 32;
    if (f.format == ROWS_F32) {
        for (uint32_t i = thread; i < f.dim; i += n_threads) reinterpret_cast<float*>(out)[i] = x[i];
        return;
    }
    if (f.index) {
        hadamard(x, f.dim, thread, n_threads);
        for (uint32_t b = warp; b < f.dim / 32; b += n_warps) {
            encode_e2m1(x + 32 * b, out + 16 * b, out + f.code_bytes + b);
        }
        return;
    }
    for (uint32_t b = warp; 64 * b < f.coded; b += n_warps) {
        const uint32_t n = f.coded - 64 * b < 64 ? f.coded - 64 * b : 64;
        encode_e4m3(x + 64 * b, n, out + 64 * b, out + f.code_bytes + b);
    }
    for (uint32_t i = f.coded + thread; i < f.dim; i += n_threads) {
        if (f.format == ROWS_MODEL) {
            reinterpret_cast<uint16_t*>(out + f.tail_offset)[i - f.coded] = float_to_half(x[i]);
        } else {
            reinterpret_cast<float*>(out + f.tail_offset)[i - f.coded] = x[i];
        }
    }
}
