// A compressor's inputs and the rows that close (spec: model §5).
#pragma once
#include "kv_row.cuh"
#include "rope.cuh"

struct Compressor {
    const float* k;
    const float* z;
    const float* position_bias;
    const float* norm;
    PooledRows pooled;
    RowFormat format;
    uint32_t cols, width;
};

// What compressors of one layer share.
struct Closing {
    const Rope& rope;
    const StepView& step;
    float eps;
};

// The step's inputs of row r with the position bias, so that they can be kept: channel i.
DEVICE void stage_channel(const Compressor& a, const StepView& step, uint32_t r, uint32_t i) {
    const float* bias = a.position_bias + uint64_t(step.row(r).pos % a.pooled.ratio) * a.cols;
    float* staged = a.pooled.staged_open + uint64_t(r) * a.pooled.open_len;
    staged[i] = a.k[uint64_t(r) * a.cols + i];
    staged[a.cols + i] = a.z[uint64_t(r) * a.cols + i] + bias[i];
}

// k | z of one position as the closing of a row sees it, from the step's own rows or from before.
struct Entry {
    const float* k;
    const float* z;
};

DEVICE Entry entry(const Compressor& a, const StepRow& r, uint32_t pos, uint32_t offset) {
    const float* input = open_input(a.pooled, r, pos) + offset;
    return {input, input + a.cols};
}

// Softmax pooling, channel by channel, of the window that row `index` closes. At ratio 4 the previous
// window takes part with the first half of its channels.
DEVICE float pooled_channel(const Compressor& a, const StepRow& r, uint32_t index, uint32_t channel) {
    const uint32_t ratio = a.pooled.ratio, first = index * ratio;
    const uint32_t n_previous = ratio == 4 && index > 0 ? ratio : 0;
    float largest = -INFINITY;
    for (uint32_t e = 0; e < n_previous + ratio; e++) {
        const uint32_t offset = e < n_previous ? 0 : a.cols - a.width;
        largest = fmaxf(largest, entry(a, r, first - n_previous + e, offset).z[channel]);
    }
    float sum = 0.0f, weighted = 0.0f;
    for (uint32_t e = 0; e < n_previous + ratio; e++) {
        const uint32_t offset = e < n_previous ? 0 : a.cols - a.width;
        const Entry at = entry(a, r, first - n_previous + e, offset);
        const float weight = expf(at.z[channel] - largest);
        sum += weight;
        weighted += weight * at.k[channel];
    }
    return weighted / sum;
}

// Row `index` of a span: pooled, normed, rotated and stored. The whole block comes here.
DEVICE void close_row(const Compressor& a, const Closing& all, const StepRow& r, uint32_t index,
                      float* row, float* part) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) {
        const float v = pooled_channel(a, r, index, i);
        row[i] = v;
        sum += v * v;
    }
    const float scale = 1.0f / sqrtf(block_sum(sum, part) / float(a.width) + all.eps);
    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) row[i] = a.norm[i] * (row[i] * scale);
    __syncthreads();
    // A row sits at the position of its window's first token.
    float* tail = row + a.width - 2 * all.rope.n_pairs;
    for (uint32_t i = threadIdx.x; i < all.rope.n_pairs; i += blockDim.x) {
        rope_pair(all.rope, i, index * a.pooled.ratio, tail[2 * i], tail[2 * i + 1]);
    }
    __syncthreads();
    encode_row(a.format, row, pooled_row(a.pooled, a.format.bytes, all.step, r, index));
    __syncthreads();
}

// A span of few rows: a block stages its inputs and closes its rows. `row` holds one.
DEVICE void compress_rows(const Compressor& a, const Closing& all, const StepRow& r, float* row,
                          float* part) {
    for (uint32_t i = threadIdx.x; i < r.n_rows * a.cols; i += blockDim.x) {
        stage_channel(a, all.step, r.first_row + i / a.cols, i % a.cols);
    }
    __syncthreads();
    const uint32_t first = r.committed / a.pooled.ratio;
    const uint32_t end = (r.committed + r.n_rows) / a.pooled.ratio;
    for (uint32_t index = first; index < end; index++) close_row(a, all, r, index, row, part);
}
