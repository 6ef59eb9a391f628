// Hyper-connections: mixing values, collapse and expand.
#include "matmul/copy.cuh"
#include "matmul/round.cuh"
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
#define CHUNK 64
#define PROJECTED 24
#define HEAD_PROJECTED 4
#define PRODUCTS 10
#define SUMS (PROJECTED + PRODUCTS)

struct NextArgs {
    float* streams;
    const float* y;           // null: nothing to expand
    const float* old_mix;
    const void* project;      // [24, 4 * hidden], of the head [4, 4 * hidden]
    const float* base;
    const float* scale;
    const float* norm;
    float* sums;              // [rows, chunks, SUMS]
    float* mix;               // null: the head's, whose rows are those that want logits
    float* x;
    Records rounded;          // of x
    StepView step;
    uint32_t hidden, project_type, rounds, n_chunks;
    float hc_eps, rms_eps;

    // Where the streams of the launch's row r lie.
    MEMBER float* row(uint32_t r) const {
        return streams + uint64_t(mix ? r : step.logit_row(r)) * 4 * hidden;
    }
};

// The sums of a chunk whose streams lie in z: the projected ones, then pairs of streams
// 00 01 02 03 11 12 13 22 23 33.
DEVICE void sum_chunk(const NextArgs& a, const float* z, uint32_t n_projected, float* sums) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (uint32_t m = warp; m < n_projected + PRODUCTS; m += 8) {
        float sum = 0.0f;
        if (m < n_projected) {
            const uint64_t row = uint64_t(m) * 4 * a.hidden;
#pragma unroll
            for (uint32_t k = lane; k < 4 * CHUNK; k += 32) {
                const uint32_t channel = blockIdx.x * CHUNK + k % CHUNK;
                if (channel < a.hidden) {
                    const uint64_t at = row + uint64_t(k / CHUNK) * a.hidden + channel;
                    sum += z[k] * load_float(a.project, at, a.project_type);
                }
            }
        } else {
            uint32_t p = m - n_projected, first = 0;
            while (p >= 4 - first) p -= 4 - first++;
            const float* one = z + first * CHUNK;
            const float* other = one + p * CHUNK;
            sum = one[lane] * other[lane] + one[lane + 32] * other[lane + 32];
        }
        sum = warp_sum(sum);
        if (lane == 0) sums[m] = sum;
    }
}

// Begins to bring a chunk's part of the projection to the second cache: 64 values of every stream.
DEVICE void fetch_project(const NextArgs& a, uint32_t n_projected) {
    const uint32_t size = a.project_type == FLOAT_F32 ? 4 : 2, n = n_projected * 4;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const uint64_t at = uint64_t(i) * a.hidden + blockIdx.x * CHUNK;
        fetch_line(static_cast<const uint8_t*>(a.project) + at * size);
        if (size == 4) fetch_line(static_cast<const uint8_t*>(a.project) + at * size + 128);
    }
}

// grid: (chunks, rows)
KERNEL_EARLY(256, 2, hc_expand_sums, NextArgs) {
    SHARED float old[4 * CHUNK];
    SHARED float z[4 * CHUNK];
    if (blockIdx.y == 0) fetch_project(a, a.mix ? PROJECTED : HEAD_PROJECTED);
    await_previous();
    const uint32_t t = threadIdx.x, s = t / CHUNK, i = blockIdx.x * CHUNK + t % CHUNK, r = blockIdx.y;
    float* stream = a.row(r) + uint64_t(s) * a.hidden + i;
    float v = i < a.hidden ? *stream : 0.0f;
    if (a.y) {
        old[t] = v;
        __syncthreads();
        const float* post = a.old_mix + uint64_t(r) * PROJECTED + 4;
        const float* comb = post + 4;
        float sum = 0.0f;
        for (uint32_t j = 0; j < 4; j++) sum += comb[j * 4 + s] * old[j * CHUNK + t % CHUNK];
        v = 0.0f;
        if (i < a.hidden) {
            v = post[s] * a.y[uint64_t(r) * a.hidden + i] + sum;
            *stream = v;
        }
    }
    z[t] = v;
    __syncthreads();
    float* sums = a.sums + (uint64_t(r) * a.n_chunks + blockIdx.x) * SUMS;
    sum_chunk(a, z, a.mix ? PROJECTED : HEAD_PROJECTED, sums);
}

// The matrix of a site in every lane's registers: one pass over rows, one over columns, many times.
DEVICE void sinkhorn_4(float (&c)[16], float eps, uint32_t rounds) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float largest = fmaxf(fmaxf(c[4 * j], c[4 * j + 1]), fmaxf(c[4 * j + 2], c[4 * j + 3]));
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            c[4 * j + k] = expf(c[4 * j + k] - largest);
            sum += c[4 * j + k];
        }
#pragma unroll
        for (int k = 0; k < 4; k++) c[4 * j + k] = c[4 * j + k] / sum + eps;
    }
    for (uint32_t round = 0; round < rounds; round++) {
        if (round > 0) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float* row = c + 4 * j;
                const float inverse = __fdividef(1.0f, (row[0] + row[1]) + (row[2] + row[3]) + eps);
#pragma unroll
                for (int k = 0; k < 4; k++) row[k] *= inverse;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float inverse = __fdividef(1.0f, (c[k] + c[4 + k]) + (c[8 + k] + c[12 + k]) + eps);
#pragma unroll
            for (int j = 0; j < 4; j++) c[4 * j + k] *= inverse;
        }
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
#pragma unroll
    for (int k = 0; k < 4; k++) mix[k] = pre[k];
#pragma unroll
    for (int k = 0; k < 16; k++) mix[8 + k] = c[k];
}

// The norm of the collapsed row, Σᵢ (Σₛ preₛ Xₛᵢ)², from the products of the streams.
DEVICE float collapsed_factor(const NextArgs& a, const float* g, const float (&pre)[4]) {
    float sum = pre[0] * pre[0] * g[0] + pre[1] * pre[1] * g[4] + pre[2] * pre[2] * g[7]
        + pre[3] * pre[3] * g[9];
    sum += 2.0f * (pre[0] * (pre[1] * g[1] + pre[2] * g[2] + pre[3] * g[3])
                   + pre[1] * (pre[2] * g[5] + pre[3] * g[6]) + pre[2] * pre[3] * g[8]);
    return 1.0f / sqrtf(fmaxf(sum, 0.0f) / float(a.hidden) + a.rms_eps);
}

// grid: (parts of 256 channels, and at a site one more, rows). The one more writes the mixing values.
KERNEL(256, hc_mix_norm, NextArgs) {
    SHARED float total[SUMS];
    SHARED float part[32];
    const uint32_t r = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t n_projected = a.mix ? PROJECTED : HEAD_PROJECTED;
    const float* sums = a.sums + uint64_t(r) * a.n_chunks * SUMS;
    for (uint32_t m = warp; m < n_projected + PRODUCTS; m += 8) {
        float sum = 0.0f;
        for (uint32_t chunk = lane; chunk < a.n_chunks; chunk += 32) sum += sums[chunk * SUMS + m];
        sum = warp_sum(sum);
        if (lane == 0) total[m] = sum;
    }
    __syncthreads();
    const float* g = total + n_projected;
    const float square = (g[0] + g[4]) + (g[7] + g[9]);
    const float inverse = 1.0f / sqrtf(square / float(4 * a.hidden) + a.rms_eps);
    float pre[4];
    for (uint32_t s = 0; s < 4; s++) {
        pre[s] = sigmoid(total[s] * inverse * a.scale[0] + a.base[s]) + a.hc_eps;
    }
    if (a.mix && blockIdx.x + 1 == gridDim.x) {
        if (warp == 0) write_mix(a, total, pre, inverse);
        return;
    }
    const float factor = collapsed_factor(a, g, pre);
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = 0.0f;
    if (i < a.hidden) {
        const float* streams = a.row(r) + i;
        float sum = 0.0f;
#pragma unroll
        for (int s = 0; s < 4; s++) sum += pre[s] * streams[s * a.hidden];
        v = a.norm[i] * (sum * factor);
        a.x[uint64_t(r) * a.hidden + i] = v;
    }
    a.rounded.put(uint64_t(r) * ((a.hidden + 255) / 256) + blockIdx.x, true, v, part);
}
