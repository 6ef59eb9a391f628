// What lies between the projections of a layer's input and those of the query latent, for few rows; and, off
// the way to what waits for these, the mixing values of the site that the input came from.
#include "compress.cuh"
#include "matmul/round.cuh"
#include "site_few.cuh"

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
    float* pooled;            // [compressors, spans, pooled_cols]
    uint32_t* done;           // [compressors, spans]
    StepView step;
    uint32_t latent_cols, n_rows, n_spans, pooled_cols;
    float eps;
    uint32_t mixes;           // whether `site` has mixing values to write
    NextArgs site;
};

#define THREADS 512
// Channels that a thread holds, of a latent of up to 2048 and of a row of up to 1024.
#define HELD 4

// The query latent of row r: normed, and rounded.
DEVICE void finish_latent(const LatentArgs& a, uint32_t r, float* part) {
    const uint32_t n = a.latent_cols, t = threadIdx.x;
    const float* raw = a.latent_raw + uint64_t(r) * n;
    float weight[HELD], held[HELD], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; k++) weight[k] = t + THREADS * k < n ? a.latent_norm[t + THREADS * k] : 0.0f;
    await_previous();
#pragma unroll
    for (int k = 0; k < HELD; k++) held[k] = t + THREADS * k < n ? raw[t + THREADS * k] : 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; k++) sum += held[k] * held[k];
    for (uint32_t i = t + THREADS * HELD; i < n; i += THREADS) sum += raw[i] * raw[i];
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(n) + a.eps);
    const uint32_t chunks = (n + 255) / 256;
    const auto put = [&](uint32_t i, float v) {
        if (i < n) a.latent[uint64_t(r) * n + i] = v;
        a.rounded.put(uint64_t(r) * chunks + i / 256, i / 256 < chunks, v, part);
    };
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        if (THREADS * k < n) put(t + THREADS * k, weight[k] * (held[k] * scale));
    }
    for (uint32_t first = THREADS * HELD; first < n; first += THREADS) {
        const uint32_t i = first + t;
        put(i, i < n ? a.latent_norm[i] * (raw[i] * scale) : 0.0f);
    }
}

// The KV row of row r: normed, rotated, stored as the row format says.
DEVICE void finish_kv(const LatentArgs& a, uint32_t r, float* row, float* part) {
    const uint32_t dim = a.format.dim, n = a.rope.n_pairs, t = threadIdx.x;
    const float* raw = a.kv_raw + uint64_t(r) * dim;
    float weight[HELD / 2], held[HELD / 2], sum = 0.0f, sine = 0.0f, cosine = 1.0f;
#pragma unroll
    for (int k = 0; k < HELD / 2; k++) weight[k] = t + THREADS * k < dim ? a.kv_norm[t + THREADS * k] : 0.0f;
    // There are fewer pairs than threads.
    if (t < n) rope_angle(a.rope, t, a.step.row(r).pos, sine, cosine);
    await_previous();
#pragma unroll
    for (int k = 0; k < HELD / 2; k++) {
        held[k] = t + THREADS * k < dim ? raw[t + THREADS * k] : 0.0f;
        sum += held[k] * held[k];
    }
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(dim) + a.eps);
#pragma unroll
    for (int k = 0; k < HELD / 2; k++) {
        if (t + THREADS * k < dim) row[t + THREADS * k] = weight[k] * (held[k] * scale);
    }
    __syncthreads();
    float* pair = row + dim - 2 * n + 2 * t;
    if (t < n) rope_turn(sine, cosine, pair[0], pair[1]);
    __syncthreads();
    encode_row(a.format, row, a.staged + uint64_t(r) * a.format.bytes);
}

// grid: rows for the latents, rows for the KV rows, rows for mixing values if there are any to write, SHARES for
// each span of each compressor. Shared: a row.
KERNEL_EARLY(THREADS, 1, attention_in, LatentArgs) {
    DYNAMIC_SHARED(float, row);
    SHARED float part[32];
    SHARED SiteTotals totals;
    uint32_t at = blockIdx.x;
    if (at < a.n_rows) return finish_latent(a, at, part);
    at -= a.n_rows;
    if (at < a.n_rows) return finish_kv(a, at, row, part);
    at -= a.n_rows;
    if (a.mixes && at < a.n_rows) return mix_row(a.site, at, totals);
    if (a.mixes) at -= a.n_rows;
    await_previous();
    const Closing all = {a.rope, a.step, a.eps};
    const uint32_t span = at / SHARES;
    const Meeting meeting = {a.pooled + uint64_t(span) * a.pooled_cols, a.done + span};
    const StepRow& r = a.step.span(span % a.n_spans);
    compress_rows(a.compressors[span / a.n_spans], all, r, at % SHARES, meeting, row, part);
}
