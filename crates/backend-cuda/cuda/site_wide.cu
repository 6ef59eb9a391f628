// From one site to the next for many rows of four streams. The first kernel expands and leaves sums over a
// chunk of channels: those of the mixing projection, on the tensor cores (floats.cuh), and the streams'
// products with each other, which hold both norms. The second mixes, collapses and norms.
#include "common.cuh"
#include "matmul/floats.cuh"
#include "sinkhorn.cuh"

#define STREAMS 4
#define PROJECTED 24
#define PRODUCTS 10
#define SUMS (PROJECTED + PRODUCTS)
// Rows and channels of a block; floats of a row in shared memory, so that eight lanes that read sixteen
// bytes each meet in no bank.
#define ROWS 16
#define CHUNK 256
#define STRIDE (STREAMS * CHUNK + 4)
#define WARPS 8

struct SiteArgs {
    float* streams;
    const float* y;           // null: nothing to expand
    const float* old_mix;
    const void* project;      // [24, 4 * hidden]
    const float* base;
    const float* scale;
    const float* norm;
    float* sums;              // [rows, chunks, SUMS]
    float* mix;
    float* x;
    uint32_t hidden, project_type, rounds, n_chunks;
    float hc_eps, rms_eps;
    uint32_t n_rows, unused;
};

// Rows that a thread loads before it stores the first.
#define AHEAD 4

// The block's rows after the expansion, to shared memory, and back where they have changed. A thread has a
// channel of every stream.
DEVICE void expand_rows(const SiteArgs& a, float* z) {
    const uint32_t channel = blockIdx.x * CHUNK + threadIdx.x;
    const bool exists = channel < a.hidden;
    for (uint32_t first = 0; first < ROWS; first += AHEAD) {
        float old[AHEAD][STREAMS], y[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const uint32_t r = blockIdx.y * ROWS + first + i;
            const bool has = exists && r < a.n_rows;
            const float* stream = a.streams + uint64_t(r) * STREAMS * a.hidden + channel;
            y[i] = has && a.y ? a.y[uint64_t(r) * a.hidden + channel] : 0.0f;
#pragma unroll
            for (int s = 0; s < STREAMS; s++) old[i][s] = has ? stream[uint64_t(s) * a.hidden] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const uint32_t r = blockIdx.y * ROWS + first + i;
            float* to = z + (first + i) * STRIDE + threadIdx.x;
            if (!a.y || !exists || r >= a.n_rows) {
#pragma unroll
                for (int s = 0; s < STREAMS; s++) to[s * CHUNK] = old[i][s];
                continue;
            }
            float* stream = a.streams + uint64_t(r) * STREAMS * a.hidden + channel;
            const float* post = a.old_mix + uint64_t(r) * PROJECTED + STREAMS;
            const float* comb = post + STREAMS;
#pragma unroll
            for (int s = 0; s < STREAMS; s++) {
                float sum = 0.0f;
#pragma unroll
                for (int j = 0; j < STREAMS; j++) sum += comb[j * STREAMS + s] * old[i][j];
                const float v = post[s] * y[i] + sum;
                stream[uint64_t(s) * a.hidden] = v;
                to[s * CHUNK] = v;
            }
        }
    }
}

// The warp's part of the projection: half a chunk of one stream.
template <int TYPE>
DEVICE void project_rows(const SiteArgs& a, const float* z, float (&acc)[2][2][4]) {
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t stream = warp / 2, first = warp % 2 * (CHUNK / 2);
    const uint32_t size = TYPE == FLOAT_F32 ? 4 : 2, channel = blockIdx.x * CHUNK;
    const uint64_t before = uint64_t(stream) * a.hidden + channel;
    const uint32_t channels = a.hidden - channel < CHUNK ? a.hidden - channel : CHUNK;
    const FloatRows w = {static_cast<const uint8_t*>(a.project) + before * size, STREAMS * a.hidden * size,
                         PROJECTED, channels, a.hidden % 8 == 0};
    const FloatRows x = {reinterpret_cast<const uint8_t*>(z + stream * CHUNK), STRIDE * 4, ROWS, CHUNK, true};
    for (uint32_t k = first; k < first + CHUNK / 2 && k < channels; k += 32) {
        float v[3][8];
#pragma unroll
        for (int i = 0; i < 3; i++) load_eight<TYPE>(v[i], w, g + 8 * i, k + 8 * t);
        add_columns<TYPE, 2>(acc[0], v[0], v[1], x, k + 8 * t);
        add_columns<TYPE, 2>(acc[1], v[2], v[2], x, k + 8 * t);
    }
}

// The products of the streams of rows `warp` and `warp` + 8: 00 01 02 03 11 12 13 22 23 33.
DEVICE void multiply_streams(const float* z, float (&parts)[WARPS][SUMS][ROWS]) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (uint32_t row = warp; row < ROWS; row += WARPS) {
        const float* x = z + row * STRIDE + lane;
        float sums[PRODUCTS] = {};
#pragma unroll
        for (int i = 0; i < CHUNK; i += 32) {
            float v[STREAMS];
#pragma unroll
            for (int s = 0; s < STREAMS; s++) v[s] = x[s * CHUNK + i];
#pragma unroll
            for (int p = 0, n = 0; p < STREAMS; p++) {
#pragma unroll
                for (int q = p; q < STREAMS; q++, n++) sums[n] += v[p] * v[q];
            }
        }
#pragma unroll
        for (int n = 0; n < PRODUCTS; n++) {
            const float sum = warp_sum(sums[n]);
            if (lane == 0) parts[0][PROJECTED + n][row] = sum;
        }
    }
}

// grid: (chunks, rows / ROWS). Shared: the block's rows.
KERNEL_OCC(256, 2, site_sums, SiteArgs) {
    DYNAMIC_SHARED(float, z);
    SHARED float parts[WARPS][SUMS][ROWS];
    expand_rows(a, z);
    __syncthreads();
    float acc[2][2][4];
#pragma unroll
    for (int i = 0; i < 16; i++) acc[i / 8][i / 4 % 2][i % 4] = 0.0f;
    if (a.project_type == FLOAT_F32) project_rows<FLOAT_F32>(a, z, acc);
    if (a.project_type == FLOAT_F16) project_rows<FLOAT_F16>(a, z, acc);
    if (a.project_type == FLOAT_BF16) project_rows<FLOAT_BF16>(a, z, acc);
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t m = i / 8 * 16 + i % 4 / 2 * 8 + g;
        if (m < PROJECTED) parts[warp][m][i / 4 % 2 * 8 + 2 * t + i % 2] = acc[i / 8][i / 4 % 2][i % 4];
    }
    multiply_streams(z, parts);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < SUMS * ROWS; i += blockDim.x) {
        const uint32_t m = i % SUMS, r = blockIdx.y * ROWS + i / SUMS;
        float sum = parts[0][m][i / SUMS];
        for (uint32_t w = 1; m < PROJECTED && w < WARPS; w++) sum += parts[w][m][i / SUMS];
        if (r < a.n_rows) a.sums[(uint64_t(r) * a.n_chunks + blockIdx.x) * SUMS + m] = sum;
    }
}

// grid: rows.
KERNEL(256, site_mix, SiteArgs) {
    SHARED float total[SUMS];
    SHARED float pre[STREAMS];
    SHARED float norm_factor;
    const uint32_t r = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* sums = a.sums + uint64_t(r) * a.n_chunks * SUMS;
    if (threadIdx.x < SUMS) {
        float sum = 0.0f;
        for (uint32_t chunk = 0; chunk < a.n_chunks; chunk++) sum += sums[chunk * SUMS + threadIdx.x];
        total[threadIdx.x] = sum;
    }
    __syncthreads();
    if (warp == 0) {
        const float* g = total + PROJECTED;
        const float square = (g[0] + g[4]) + (g[7] + g[9]);
        const float inverse = 1.0f / sqrtf(square / float(STREAMS * a.hidden) + a.rms_eps);
        float p[STREAMS];
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
            p[s] = sigmoid(total[s] * inverse * a.scale[0] + a.base[s]) + a.hc_eps;
        }
        // Σᵢ (Σₛ preₛ Xₛᵢ)², from the products of the streams.
        float collapsed = p[0] * p[0] * g[0] + p[1] * p[1] * g[4] + p[2] * p[2] * g[7] + p[3] * p[3] * g[9];
        collapsed += 2.0f * (p[0] * (p[1] * g[1] + p[2] * g[2] + p[3] * g[3])
                             + p[1] * (p[2] * g[5] + p[3] * g[6]) + p[2] * p[3] * g[8]);
        if (lane == 0) {
            norm_factor = 1.0f / sqrtf(fmaxf(collapsed, 0.0f) / float(a.hidden) + a.rms_eps);
#pragma unroll
            for (int s = 0; s < STREAMS; s++) pre[s] = p[s];
        }
    }
    __syncthreads();
    const float* streams = a.streams + uint64_t(r) * STREAMS * a.hidden;
    for (uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll
        for (int s = 0; s < STREAMS; s++) sum += pre[s] * streams[uint64_t(s) * a.hidden + i];
        a.x[uint64_t(r) * a.hidden + i] = a.norm[i] * (sum * norm_factor);
    }
    if (warp > 0) return;
    const float* g = total + PROJECTED;
    const float square = (g[0] + g[4]) + (g[7] + g[9]);
    const float inverse = 1.0f / sqrtf(square / float(STREAMS * a.hidden) + a.rms_eps);
    float c[16];
#pragma unroll
    for (int k = 0; k < 16; k++) c[k] = total[8 + k] * inverse * a.scale[2] + a.base[8 + k];
    sinkhorn_4(c, a.hc_eps, a.rounds);
    float* mix = a.mix + uint64_t(r) * PROJECTED;
    if (lane < STREAMS) {
        mix[lane] = pre[lane];
        const float m = total[STREAMS + lane] * inverse * a.scale[1] + a.base[STREAMS + lane];
        mix[STREAMS + lane] = 2.0f * sigmoid(m);
    }
    if (lane == 0) {
#pragma unroll
        for (int k = 0; k < 16; k++) mix[8 + k] = c[k];
    }
}
