// What lies between the projections of a layer's input and those of the query latent, for few rows.
#include "compress.cuh"
#include "matmul/round.cuh"

struct LatentArgs {
    Rope rope;
    Compressor compressors[2];
    RowFormat format;         // of window rows
    Records rounded;          // of the latent
    const float* latent_raw;
    const float* latent_norm;
    float* latent;
    const float* kv_raw;
    const float* kv_norm;
    uint8_t* staged;          // window rows
    StepView step;
    uint32_t latent_cols, n_rows, n_spans;
    float eps;
};

// The query latent of row r: normed, and rounded.
DEVICE void finish_latent(const LatentArgs& a, uint32_t r, float* part) {
    const uint32_t n = a.latent_cols;
    const float* raw = a.latent_raw + uint64_t(r) * n;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) sum += raw[i] * raw[i];
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(n) + a.eps);
    const uint32_t chunks = (n + 255) / 256, at_once = blockDim.x / 256;
    for (uint32_t chunk = threadIdx.x / 256; chunk < (chunks + at_once - 1) / at_once * at_once;
         chunk += at_once) {
        const uint32_t i = chunk * 256 + threadIdx.x % 256;
        float v = 0.0f;
        if (i < n) {
            v = a.latent_norm[i] * (raw[i] * scale);
            a.latent[uint64_t(r) * n + i] = v;
        }
        a.rounded.put(uint64_t(r) * chunks + chunk, chunk < chunks, v, part);
    }
}

// The KV row of row r: normed, rotated, stored as the row format says.
DEVICE void finish_kv(const LatentArgs& a, uint32_t r, float* row, float* part) {
    const uint32_t dim = a.format.dim, n = a.rope.n_pairs;
    const float* raw = a.kv_raw + uint64_t(r) * dim;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) sum += raw[i] * raw[i];
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(dim) + a.eps);
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) row[i] = a.kv_norm[i] * (raw[i] * scale);
    __syncthreads();
    float* tail = row + dim - 2 * n;
    const uint32_t pos = a.step.row(r).pos;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        rope_pair(a.rope, i, pos, tail[2 * i], tail[2 * i + 1]);
    }
    __syncthreads();
    encode_row(a.format, row, a.staged + uint64_t(r) * a.format.bytes);
}

// grid: rows for the latents, rows for the KV rows, spans for each compressor. Shared: a row.
KERNEL(512, attention_in, LatentArgs) {
    DYNAMIC_SHARED(float, row);
    SHARED float part[32];
    uint32_t at = blockIdx.x;
    if (at < a.n_rows) return finish_latent(a, at, part);
    at -= a.n_rows;
    if (at < a.n_rows) return finish_kv(a, at, row, part);
    at -= a.n_rows;
    const Closing all = {a.rope, a.step, a.eps};
    compress_rows(a.compressors[at / a.n_spans], all, a.step.span(at % a.n_spans), row, part);
}
