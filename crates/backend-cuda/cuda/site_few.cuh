// The parts of a step from one site to the next, for few rows.
#pragma once
#include "matmul/copy.cuh"
#include "matmul/round.cuh"
#include "sinkhorn.cuh"
#include "step.cuh"

// From one site to the next in two steps, for few rows of four streams, and from the last site to the
// head. The first expands and leaves sums over a chunk of channels: the mixing projection's, and
// the streams' products with each other, which hold both norms. The second mixes, collapses, norms and
// rounds.
#define SITE_CHUNK 32
#define PROJECTED 24
#define HEAD_PROJECTED 4
#define PRODUCTS 10
#define SITE_SUMS (PROJECTED + PRODUCTS)
// Those of a chunk lie together, in whole fours.
#define SITE_STRIDE 36
#define SITE_FOURS (SITE_STRIDE / 4)
// Projected sums of a warp, and all that it has.
#define SITE_EACH (PROJECTED / 2)
#define SITE_SLOTS 16

struct NextArgs {
    float* streams;
    const float* y;           // null: nothing to expand
    const float* old_mix;
    const void* project;      // [24, 4 * hidden], of the head [4, 4 * hidden]
    const float* base;
    const float* scale;
    const float* norm;
    float* sums;              // [rows, chunks, SITE_STRIDE]
    float* mix;               // null: the head's, whose rows are those that want logits
    float* x;
    Records rounded;          // of x
    StepView step;
    uint32_t hidden, project_type, rounds, n_chunks;
    float hc_eps, rms_eps;
    uint32_t n_rows;
    float over_hidden;        // 1 / hidden

    // Where the streams of the launch's row r lie.
    MEMBER float* row(uint32_t r) const {
        return streams + uint64_t(mix ? r : step.logit_row(r)) * 4 * hidden;
    }
};

// A stored value as it is, and what it means: the load does not wait.
DEVICE uint32_t load_raw(const void* data, uint64_t at, uint32_t type) {
    if (type == FLOAT_F32) return static_cast<const uint32_t*>(data)[at];
    return static_cast<const uint16_t*>(data)[at];
}

DEVICE float raw_value(uint32_t bits, uint32_t type) {
    if (type == FLOAT_F32) return __uint_as_float(bits);
    return type == FLOAT_F16 ? half_to_float(uint16_t(bits)) : bf16_to_float(uint16_t(bits));
}

// A channel of all streams.
DEVICE void load_channel(const NextArgs& a, uint32_t r, uint32_t i, float (&z)[4]) {
    const float* stream = a.row(r) + i;
#pragma unroll
    for (int j = 0; j < 4; j++) z[j] = i < a.hidden ? stream[j * a.hidden] : 0.0f;
}

// The same behind a sublayer whose output there is y; `mix` holds the mixing values of its site.
DEVICE void expand_channel(const float4* mix, float y, float (&z)[4]) {
    const float4 post = mix[1];
    const float4 rows[4] = {mix[2], mix[3], mix[4], mix[5]};
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        sum.x += rows[j].x * z[j];
        sum.y += rows[j].y * z[j];
        sum.z += rows[j].z * z[j];
        sum.w += rows[j].w * z[j];
    }
    z[0] = post.x * y + sum.x;
    z[1] = post.y * y + sum.y;
    z[2] = post.z * y + sum.z;
    z[3] = post.w * y + sum.w;
}

DEVICE float pick(const float (&z)[4], uint32_t i) {
    return i < 2 ? (i == 0 ? z[0] : z[1]) : (i == 2 ? z[2] : z[3]);
}

// A channel's product number n of two streams: 00 01 02 03 11 12 13 22 23 33.
DEVICE float product(const float (&z)[4], uint32_t n) {
    const uint32_t one = uint32_t(0x3221110000ull >> 4 * n) & 3u;
    const uint32_t other = uint32_t(0x3323213210ull >> 4 * n) & 3u;
    return pick(z, one) * pick(z, other);
}

// Half of the values go to the lane that differs in bit 2 N, for as many of its own.
template <int N>
DEVICE void halve(float (&v)[SITE_SLOTS]) {
    const bool upper = (threadIdx.x & (2 * N)) != 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float low = v[i], high = v[i + N];
        v[i] = (upper ? high : low) + __shfl_xor_sync(FULL_WARP, upper ? low : high, 2 * N);
    }
}

// Sums over a warp of as many values as SITE_SLOTS: lanes 2 i and 2 i + 1 get that of value i.
DEVICE float sum_slots(float (&v)[SITE_SLOTS]) {
    halve<8>(v);
    halve<4>(v);
    halve<2>(v);
    halve<1>(v);
    return v[0] + __shfl_xor_sync(FULL_WARP, v[0], 1);
}

// The projection's weights that a thread needs for a chunk of channels: a warp has a channel in every
// lane, one stream of it, and half of the sums. The first eight warps of a block take part.
struct Projection {
    uint32_t raw[SITE_EACH];

    MEMBER void load(const NextArgs& a, uint32_t chunk) {
        const uint32_t warp = threadIdx.x / 32, s = warp % 4, i = chunk * SITE_CHUNK + threadIdx.x % 32;
        const uint32_t first = warp / 4 * SITE_EACH, n_projected = a.mix ? PROJECTED : HEAD_PROJECTED;
        const bool exists = i < a.hidden && warp < 8;
#pragma unroll
        for (int k = 0; k < SITE_EACH; k++) {
            const uint64_t at = uint64_t((first + k) * 4 + s) * a.hidden + i;
            raw[k] = exists && first + k < n_projected ? load_raw(a.project, at, a.project_type) : 0u;
        }
    }
};

// Values of a chunk's weights, and the bytes that they take as floats.
#define PROJECT_ROWS (4 * PROJECTED)
#define PROJECT_BYTES (PROJECT_ROWS * SITE_CHUNK * 4)

// All weights of a chunk to shared memory, by all threads of a block, without waiting for them.
DEVICE void ask_weights(const NextArgs& a, uint32_t chunk, uint8_t* to) {
    // Bits of a value's size and of the pieces of a row's part.
    const uint32_t size = a.project_type == FLOAT_F32 ? 2 : 1, pieces = size + 1;
    const uint8_t* from = static_cast<const uint8_t*>(a.project) + (chunk * SITE_CHUNK << size);
    for (uint32_t i = threadIdx.x; i < PROJECT_ROWS << pieces; i += blockDim.x) {
        copy_16(to + 16 * i, from + ((i >> pieces) * a.hidden << size) + (i & ((1 << pieces) - 1)) * 16);
    }
    copies_begin();
}

// Leaves the sums of a chunk of row r, whose lanes have a channel of all streams; a warp has one or two of the
// products. `writes`: the streams too, which every warp has read then. Every thread of the block comes here.
DEVICE void leave_chunk(const NextArgs& a, uint32_t r, uint32_t chunk, bool writes, const float (&z)[4],
                        const Projection& project, float (*part)[SITE_SLOTS]) {
    const uint32_t t = threadIdx.x, warp = t / 32, lane = t % 32, s = warp % 4, i = chunk * SITE_CHUNK + lane;
    const float own = pick(z, s);
    if (warp < 8) {
        float v[SITE_SLOTS];
#pragma unroll
        for (int k = 0; k < SITE_EACH; k++) v[k] = own * raw_value(project.raw[k], a.project_type);
        v[SITE_EACH] = product(z, warp);
        v[SITE_EACH + 1] = warp < PRODUCTS - 8 ? product(z, 8 + warp) : 0.0f;
        v[SITE_EACH + 2] = v[SITE_EACH + 3] = 0.0f;
        const float sum = sum_slots(v);
        if (lane % 2 == 0) part[warp][lane / 2] = sum;
    }
    __syncthreads();
    if (writes && warp < 4 && i < a.hidden) a.row(r)[uint64_t(s) * a.hidden + i] = own;
    if (t < SITE_STRIDE) {
        float* to = a.sums + (uint64_t(r) * a.n_chunks + chunk) * SITE_STRIDE + t;
        const uint32_t n = t - PROJECTED;
        if (t >= SITE_SUMS) {
            *to = 0.0f;
        } else if (t >= PROJECTED) {
            *to = n < 8 ? part[n][SITE_EACH] : part[n - 8][SITE_EACH + 1];
        } else {
            const float(*rows)[SITE_SLOTS] = part + t / SITE_EACH * 4;
            const uint32_t k = t % SITE_EACH;
            *to = (rows[0][k] + rows[1][k]) + (rows[2][k] + rows[3][k]);
        }
    }
    __syncthreads();
}

// Expands a chunk of row r, if there is something to expand, and leaves its sums. Every thread of the block
// comes here.
DEVICE void expand_sums(const NextArgs& a, uint32_t r, uint32_t chunk, const Projection& project,
                        float (*part)[SITE_SLOTS]) {
    const uint32_t i = chunk * SITE_CHUNK + threadIdx.x % 32;
    float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (threadIdx.x / 32 < 8) {
        load_channel(a, r, i, z);
        if (a.y) {
            const float y = i < a.hidden ? a.y[uint64_t(r) * a.hidden + i] : 0.0f;
            expand_channel(reinterpret_cast<const float4*>(a.old_mix + uint64_t(r) * PROJECTED), y, z);
        }
    }
    leave_chunk(a, r, chunk, a.y != nullptr, z, project, part);
}

// What a block of a product's kernel shares for the site behind it.
struct alignas(16) Crossing {
    float4 mix[PROJECTED / 4];
    float y[SITE_CHUNK];
    float part[8][SITE_SLOTS];
};

// What a product's kernel does for the site behind it, when its results are a row's whole output: those of a chunk
// go into the streams, as expand_sums does. The chunk's weights are on their way to `weights` (`ask_weights`). Every
// thread of the block comes here, behind a barrier when the results lie in `c.y`.
DEVICE void cross_site(const NextArgs& a, uint32_t chunk, const uint8_t* weights, Crossing& c) {
    float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (threadIdx.x < 256) load_channel(a, 0, chunk * SITE_CHUNK + threadIdx.x % 32, z);
    if (threadIdx.x < PROJECTED / 4) c.mix[threadIdx.x] = reinterpret_cast<const float4*>(a.old_mix)[threadIdx.x];
    copies_wait<0>();
    __syncthreads();
    Projection project;
    const uint32_t warp = threadIdx.x / 32, first = warp / 4 * SITE_EACH;
#pragma unroll
    for (int k = 0; k < SITE_EACH; k++) {
        const uint32_t at = ((first + k) * 4 + warp % 4) * SITE_CHUNK + threadIdx.x % 32;
        project.raw[k] = warp < 8 ? load_raw(weights, at, a.project_type) : 0u;
    }
    expand_channel(c.mix, c.y[threadIdx.x % 32], z);
    leave_chunk(a, 0, chunk, true, z, project, c.part);
}

// pre | post | comb of a row, from all sums. One warp.
DEVICE void write_mix(const NextArgs& a, uint32_t r, const float* total, const float (&pre)[4], float inverse) {
    const uint32_t lane = threadIdx.x % 32;
    float c[16];
#pragma unroll
    for (int k = 0; k < 16; k++) c[k] = total[8 + k] * inverse * a.scale[2] + a.base[8 + k];
    sinkhorn_4(c, a.hc_eps, a.rounds);
    float* mix = a.mix + uint64_t(r) * PROJECTED;
    if (lane < 4) {
        const float m = total[4 + lane] * inverse * a.scale[1] + a.base[4 + lane];
        mix[4 + lane] = 2.0f * quick_sigmoid(m);
    }
    if (lane > 0) return;
    float4* to = reinterpret_cast<float4*>(mix);
    to[0] = make_float4(pre[0], pre[1], pre[2], pre[3]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        to[2 + k] = make_float4(c[4 * k], c[4 * k + 1], c[4 * k + 2], c[4 * k + 3]);
    }
}

// The norm of the collapsed row, Σᵢ (Σₛ preₛ Xₛᵢ)², from the products of the streams.
DEVICE float collapsed_factor(const NextArgs& a, const float* g, const float (&pre)[4]) {
    float sum = pre[0] * pre[0] * g[0] + pre[1] * pre[1] * g[4] + pre[2] * pre[2] * g[7]
        + pre[3] * pre[3] * g[9];
    sum += 2.0f * (pre[0] * (pre[1] * g[1] + pre[2] * g[2] + pre[3] * g[3])
                   + pre[1] * (pre[2] * g[5] + pre[3] * g[6]) + pre[2] * pre[3] * g[8]);
    return quick_rsqrt(fmaxf(sum, 0.0f) * a.over_hidden + a.rms_eps);
}

// Threads that add up sums, a four of neighbours each: of how many chunks at a time, and of how many at once.
#define SITE_ADDERS 252
#define SITE_GROUPS (SITE_ADDERS / SITE_FOURS)
#define SITE_AT_ONCE 5
// Groups whose sums a thread puts together.
#define SITE_JOINED 4

struct alignas(16) SiteTotals {
    float of_group[SITE_GROUPS][SITE_STRIDE];
    float joined[SITE_GROUPS / SITE_JOINED][SITE_STRIDE];
    float total[SITE_STRIDE];
};

DEVICE float4 add_fours(const float4& a, const float4& b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Adds up a row's sums over the chunks; a block of 256 threads.
DEVICE void add_site_sums(const NextArgs& a, uint32_t r, SiteTotals& s) {
    const uint32_t t = threadIdx.x, n = a.n_chunks * SITE_FOURS;
    const float4* sums = reinterpret_cast<const float4*>(a.sums) + uint64_t(r) * n;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (uint32_t first = t; t < SITE_ADDERS && first < n; first += SITE_ADDERS * SITE_AT_ONCE) {
        float4 v[SITE_AT_ONCE];
#pragma unroll
        for (uint32_t k = 0; k < SITE_AT_ONCE; k++) {
            const uint32_t at = first + SITE_ADDERS * k;
            v[k] = at < n ? sums[at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (uint32_t k = 0; k < SITE_AT_ONCE; k++) sum = add_fours(sum, v[k]);
    }
    if (t < SITE_ADDERS) reinterpret_cast<float4*>(&s.of_group[0][0])[t] = sum;
    __syncthreads();
    const uint32_t column = t % SITE_STRIDE, joined = t / SITE_STRIDE;
    if (t < SITE_ADDERS) {
        const float(*of)[SITE_STRIDE] = s.of_group + SITE_JOINED * joined;
        s.joined[joined][column] = (of[0][column] + of[1][column]) + (of[2][column] + of[3][column]);
    }
    __syncthreads();
    if (t < SITE_STRIDE) {
        float all = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < SITE_GROUPS / SITE_JOINED; k++) all += s.joined[k][t];
        s.total[t] = all;
    }
    __syncthreads();
}

// What a row's totals say: the factor of its norm, and the values that collapse it.
struct Collapse {
    float inverse, pre[4];

    MEMBER void of(const NextArgs& a, const float* total, float scale, const float (&base)[4]) {
        const float* g = total + PROJECTED;
        const float square = (g[0] + g[4]) + (g[7] + g[9]);
        inverse = quick_rsqrt(square * a.over_hidden * 0.25f + a.rms_eps);
#pragma unroll
        for (int s = 0; s < 4; s++) pre[s] = quick_sigmoid(total[s] * inverse * scale + base[s]) + a.hc_eps;
    }
};

// The mixing values of row r, by a block of 256 threads or more.
DEVICE void mix_row(const NextArgs& a, uint32_t r, SiteTotals& totals) {
    float base[4];
#pragma unroll
    for (int s = 0; s < 4; s++) base[s] = a.base[s];
    const float scale = a.scale[0];
    fetch_line(a.base + PROJECTED - 1);
    await_previous();
    add_site_sums(a, r, totals);
    if (threadIdx.x >= 32) return;
    Collapse c;
    c.of(a, totals.total, scale, base);
    write_mix(a, r, totals.total, c.pre, c.inverse);
}

// Collapses, norms and rounds channel i of row r, whose streams are x.
DEVICE void collapse_channel(const NextArgs& a, uint32_t r, uint32_t i, const float (&x)[4], float weight,
                             const Collapse& c, const float* total, float* part) {
    const bool exists = i < a.hidden;
    const float factor = collapsed_factor(a, total + PROJECTED, c.pre);
    float v = 0.0f;
    if (exists) {
        const float sum = (c.pre[0] * x[0] + c.pre[1] * x[1]) + (c.pre[2] * x[2] + c.pre[3] * x[3]);
        v = weight * (sum * factor);
        a.x[uint64_t(r) * a.hidden + i] = v;
    }
    const uint32_t records = (a.hidden + 255) / 256;
    a.rounded.put(uint64_t(r) * records + i / 256, i / 256 < records, v, part);
}
