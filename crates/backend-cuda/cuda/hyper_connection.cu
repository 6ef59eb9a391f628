// Hyper-connections: mixing values, collapse and expand.
#include "site_few.cuh"

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

// grid: (chunks, blocks that share the rows).
KERNEL_EARLY(256, 4, hc_expand_sums, NextArgs) {
    SHARED float part[8][SITE_SLOTS];
    Projection project;
    project.load(a, blockIdx.x);
    await_previous();
    for (uint32_t r = blockIdx.y; r < a.n_rows; r += gridDim.y) expand_sums(a, r, blockIdx.x, project, part);
}

// grid: (parts of 256 channels, and at a site one more, rows). The one more writes the mixing values; it is not
// there where another kernel does.
KERNEL_EARLY(256, 2, hc_mix_norm, NextArgs) {
    SHARED SiteTotals totals;
    SHARED float part[32];
    const uint32_t r = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool mixes = blockIdx.x >= (a.hidden + 255) / 256, exists = !mixes && i < a.hidden;
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
    add_site_sums(a, r, totals);
    const float* total = totals.total;
    Collapse c;
    c.of(a, total, scale, base);
    if (mixes) {
        if (threadIdx.x < 32) write_mix(a, r, total, c.pre, c.inverse);
        return;
    }
    collapse_channel(a, r, i, x, weight, c, total, part);
}
