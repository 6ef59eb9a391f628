// Hyper-connections: mixing values, collapse and expand.
#include "matmul/copy.cuh"
#include "matmul/round.cuh"
#include "sinkhorn.cuh"
#include "step.cuh"

struct MixArgs {
    const float* logits;
    const float* base;
    const float* scale;
    float* mix;
    uint32_t n_streams, rounds;
    float eps;
    uint32_t pad;
};

// Each row of the matrix over the sum of its row or column, with eps in the sum.
DEVICE void normalise(float* comb, uint32_t n, float eps, bool columns) {
    const uint32_t lane = threadIdx.x;
    float values[2];
    for (uint32_t part = 0; part < 2; part++) {
        const uint32_t i = lane + 32 * part;
        values[part] = 0.0f;
        if (i < n * n) {
            float sum = 0.0f;
            for (uint32_t k = 0; k < n; k++) sum += columns ? comb[k * n + i % n] : comb[i / n * n + k];
            values[part] = comb[i] / (sum + eps);
        }
    }
    __syncwarp();
    for (uint32_t part = 0; part < 2; part++) {
        if (lane + 32 * part < n * n) comb[lane + 32 * part] = values[part];
    }
    __syncwarp();
}

// Softmax over rows and a column norm, then rounds of row and column norms: one warp. Up to eight
// streams, so that a lane holds two entries at most.
DEVICE void sinkhorn(float* comb, uint32_t n, float eps, uint32_t rounds) {
    const uint32_t lane = threadIdx.x;
    float values[2];
    for (uint32_t part = 0; part < 2; part++) {
        const uint32_t i = lane + 32 * part;
        values[part] = 0.0f;
        if (i < n * n) {
            const float* row = comb + i / n * n;
            float largest = row[0], sum = 0.0f;
            for (uint32_t k = 1; k < n; k++) largest = fmaxf(largest, row[k]);
            for (uint32_t k = 0; k < n; k++) sum += expf(row[k] - largest);
            values[part] = expf(comb[i] - largest) / sum + eps;
        }
    }
    __syncwarp();
    for (uint32_t part = 0; part < 2; part++) {
        if (lane + 32 * part < n * n) comb[lane + 32 * part] = values[part];
    }
    __syncwarp();
    normalise(comb, n, eps, true);
    for (uint32_t round = 1; round < rounds; round++) {
        normalise(comb, n, eps, false);
        normalise(comb, n, eps, true);
    }
}

// grid: rows; one warp. pre | post | comb.
KERNEL(32, hc_mix, MixArgs) {
    SHARED float comb[64];
    const uint32_t n = a.n_streams, lane = threadIdx.x, length = (2 + n) * n;
    const float* m = a.logits + uint64_t(blockIdx.x) * length;
    float* out = a.mix + uint64_t(blockIdx.x) * length;
    if (lane < n) {
        out[lane] = sigmoid(m[lane] * a.scale[0] + a.base[lane]) + a.eps;
        out[n + lane] = 2.0f * sigmoid(m[n + lane] * a.scale[1] + a.base[n + lane]);
    }
    for (uint32_t i = lane; i < n * n; i += 32) {
        comb[i] = m[2 * n + i] * a.scale[2] + a.base[2 * n + i];
    }
    __syncwarp();
    sinkhorn(comb, n, a.eps, a.rounds);
    for (uint32_t i = lane; i < n * n; i += 32) out[2 * n + i] = comb[i];
}

// grid: rows; one warp.
KERNEL(32, hc_head_mix, MixArgs) {
    const uint32_t n = a.n_streams, at = blockIdx.x * n + threadIdx.x;
    if (threadIdx.x < n) {
        a.mix[at] = sigmoid(a.logits[at] * a.scale[0] + a.base[threadIdx.x]) + a.eps;
    }
}

struct StreamArgs {
    float* streams;
    const float* y;
    float* out;
    const float* mix;
    uint32_t n_streams, hidden, mix_len, pad;
};

// grid: (parts of a row, rows)
KERNEL(256, hc_collapse, StreamArgs) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.hidden) return;
    const float* pre = a.mix + uint64_t(blockIdx.y) * a.mix_len;
    const float* streams = a.streams + uint64_t(blockIdx.y) * a.n_streams * a.hidden;
    float sum = 0.0f;
    for (uint32_t s = 0; s < a.n_streams; s++) sum += pre[s] * streams[s * a.hidden + i];
    a.out[uint64_t(blockIdx.y) * a.hidden + i] = sum;
}

// grid: (parts of a row, rows)
KERNEL(256, hc_expand, StreamArgs) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, n = a.n_streams;
    if (i >= a.hidden) return;
    const float* post = a.mix + uint64_t(blockIdx.y) * a.mix_len + n;
    const float* comb = post + n;
    float* streams = a.streams + uint64_t(blockIdx.y) * n * a.hidden + i;
    const float y = a.y[uint64_t(blockIdx.y) * a.hidden + i];
    float old[8];
    for (uint32_t s = 0; s < 8; s++) old[s] = s < n ? streams[s * a.hidden] : 0.0f;
    for (uint32_t k = 0; k < n; k++) {
        float sum = 0.0f;
        for (uint32_t j = 0; j < 8; j++) {
            if (j < n) sum += comb[j * n + k] * old[j];
        }
        streams[k * a.hidden] = post[k] * y + sum;
    }
}

// From one site to the next in two launches, for few rows of four streams, and from the last site to
// the head. The first expands and leaves sums over a chunk of channels: the mixing projection's, and
// the streams' products with each other, which hold both norms. The second mixes, collapses, norms and
// rounds.
#define CHUNK 32
#define PROJECTED 24
#define HEAD_PROJECTED 4
#define PRODUCTS 10
#define SUMS (PROJECTED + PRODUCTS)
// Projected sums of a warp, and all that it has.
#define EACH (PROJECTED / 2)
#define SLOTS 16

struct NextArgs {
    float* streams;
    const float* y;           // null: nothing to expand
    const float* old_mix;
    const void* project;      // [24, 4 * hidden], of the head [4, 4 * hidden]
    const float* base;
    const float* scale;
    const float* norm;
    float* sums;              // [rows, SUMS, chunks]
    float* mix;               // null: the head's, whose rows are those that want logits
    float* x;
    Records rounded;          // of x
    StepView step;
    uint32_t hidden, project_type, rounds, n_chunks;
    float hc_eps, rms_eps;
    uint32_t n_rows, pad;

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

// A channel of all streams, expanded if there is something to expand.
DEVICE void expand_channel(const NextArgs& a, const float* stream, uint32_t r, uint32_t i, float (&z)[4]) {
    const bool exists = i < a.hidden;
#pragma unroll
    for (int j = 0; j < 4; j++) z[j] = exists ? stream[j * a.hidden] : 0.0f;
    if (!a.y) return;
    const float4* mix = reinterpret_cast<const float4*>(a.old_mix + uint64_t(r) * PROJECTED);
    const float y = exists ? a.y[uint64_t(r) * a.hidden + i] : 0.0f;
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
DEVICE void halve(float (&v)[SLOTS]) {
    const bool upper = (threadIdx.x & (2 * N)) != 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float low = v[i], high = v[i + N];
        v[i] = (upper ? high : low) + __shfl_xor_sync(FULL_WARP, upper ? low : high, 2 * N);
    }
}

// Sums over a warp of as many values as SLOTS: lanes 2 i and 2 i + 1 get that of value i.
DEVICE float sum_slots(float (&v)[SLOTS]) {
    halve<8>(v);
    halve<4>(v);
    halve<2>(v);
    halve<1>(v);
    return v[0] + __shfl_xor_sync(FULL_WARP, v[0], 1);
}

// grid: (chunks, blocks that share the rows). A warp has a channel of the chunk in every lane, projects
// one stream of it to half of the sums, and has one or two of the products.
KERNEL_EARLY(256, 4, hc_expand_sums, NextArgs) {
    SHARED float part[8][SLOTS];
    const uint32_t t = threadIdx.x, warp = t / 32, lane = t % 32, s = warp % 4;
    const uint32_t first = warp / 4 * EACH, i = blockIdx.x * CHUNK + lane;
    const uint32_t n_projected = a.mix ? PROJECTED : HEAD_PROJECTED;
    const bool exists = i < a.hidden;
    uint32_t raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const uint64_t at = uint64_t((first + k) * 4 + s) * a.hidden + i;
        raw[k] = exists && first + k < n_projected ? load_raw(a.project, at, a.project_type) : 0u;
    }
    await_previous();
    for (uint32_t r = blockIdx.y; r < a.n_rows; r += gridDim.y) {
        float* stream = a.row(r) + i;
        float z[4];
        expand_channel(a, stream, r, i, z);
        const float own = pick(z, s);
        float v[SLOTS];
#pragma unroll
        for (int k = 0; k < EACH; k++) v[k] = own * raw_value(raw[k], a.project_type);
        v[EACH] = product(z, warp);
        v[EACH + 1] = warp < PRODUCTS - 8 ? product(z, 8 + warp) : 0.0f;
        v[EACH + 2] = v[EACH + 3] = 0.0f;
        const float sum = sum_slots(v);
        if (lane % 2 == 0) part[warp][lane / 2] = sum;
        // Also: every warp has read the streams that are written now.
        __syncthreads();
        if (a.y && warp < 4 && exists) stream[s * a.hidden] = own;
        if (t < SUMS) {
            float* to = a.sums + (uint64_t(r) * SUMS + t) * a.n_chunks + blockIdx.x;
            const uint32_t n = t - PROJECTED;
            if (t >= PROJECTED) {
                *to = n < 8 ? part[n][EACH] : part[n - 8][EACH + 1];
            } else {
                const float(*rows)[SLOTS] = part + t / EACH * 4;
                const uint32_t k = t % EACH;
                *to = (rows[0][k] + rows[1][k]) + (rows[2][k] + rows[3][k]);
            }
        }
        __syncthreads();
    }
}

// pre | post | comb of a row, from all sums. One warp.
DEVICE void write_mix(const NextArgs& a, const float* total, const float (&pre)[4], float inverse) {
    const uint32_t lane = threadIdx.x % 32;
    float c[16];
#pragma unroll
    for (int k = 0; k < 16; k++) c[k] = total[8 + k] * inverse * a.scale[2] + a.base[8 + k];
    sinkhorn_4(c, a.hc_eps, a.rounds);
    float* mix = a.mix + uint64_t(blockIdx.y) * PROJECTED;
    if (lane < 4) {
        const float m = total[4 + lane] * inverse * a.scale[1] + a.base[4 + lane];
        mix[4 + lane] = 2.0f * sigmoid(m);
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
    return 1.0f / sqrtf(fmaxf(sum, 0.0f) / float(a.hidden) + a.rms_eps);
}

// A warp adds up every eighth of a row's sums over the chunks; four chunks of all of them are on their
// way at once.
DEVICE void add_chunks(const NextArgs& a, uint32_t r, float* total) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t n_projected = a.mix ? PROJECTED : HEAD_PROJECTED;
    const float* sums = a.sums + uint64_t(r) * SUMS * a.n_chunks;
    float sum[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t first = lane; first < a.n_chunks; first += 128) {
        float v[5][4];
#pragma unroll
        for (int k = 0; k < 5; k++) {
            const uint32_t m = warp + 8 * k;
            const bool wanted = m < n_projected || (m >= PROJECTED && m < SUMS);
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const uint32_t chunk = first + 32 * q;
                v[k][q] = wanted && chunk < a.n_chunks ? sums[m * a.n_chunks + chunk] : 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < 5; k++) sum[k] += (v[k][0] + v[k][1]) + (v[k][2] + v[k][3]);
    }
#pragma unroll
    for (int k = 0; k < 5; k++) {
        const float all = warp_sum(sum[k]);
        if (lane == 0 && warp + 8 * k < SUMS) total[warp + 8 * k] = all;
    }
}

// grid: (parts of 256 channels, and at a site one more, rows). The one more writes the mixing values.
KERNEL_EARLY(256, 2, hc_mix_norm, NextArgs) {
    SHARED float total[SUMS];
    SHARED float part[32];
    const uint32_t r = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool mixes = a.mix && blockIdx.x + 1 == gridDim.x, exists = !mixes && i < a.hidden;
    const float weight = exists ? a.norm[i] : 0.0f, scale = a.scale[0];
    float base[4], x[4];
#pragma unroll
    for (int s = 0; s < 4; s++) base[s] = a.base[s];
    // The rest of it, for the block that mixes.
    if (mixes) fetch_line(a.base + PROJECTED - 1);
    await_previous();
    const float* streams = a.row(r) + i;
#pragma unroll
    for (int s = 0; s < 4; s++) x[s] = exists ? streams[s * a.hidden] : 0.0f;
    add_chunks(a, r, total);
    __syncthreads();
    const float* g = total + PROJECTED;
    const float square = (g[0] + g[4]) + (g[7] + g[9]);
    const float inverse = 1.0f / sqrtf(square / float(4 * a.hidden) + a.rms_eps);
    float pre[4];
#pragma unroll
    for (int s = 0; s < 4; s++) pre[s] = sigmoid(total[s] * inverse * scale + base[s]) + a.hc_eps;
    if (mixes) {
        if (threadIdx.x < 32) write_mix(a, total, pre, inverse);
        return;
    }
    const float factor = collapsed_factor(a, g, pre);
    float v = 0.0f;
    if (exists) {
        const float sum = (pre[0] * x[0] + pre[1] * x[1]) + (pre[2] * x[2] + pre[3] * x[3]);
        v = weight * (sum * factor);
        a.x[uint64_t(r) * a.hidden + i] = v;
    }
    a.rounded.put(uint64_t(r) * ((a.hidden + 255) / 256) + blockIdx.x, true, v, part);
}
