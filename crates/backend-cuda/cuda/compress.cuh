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

// A row's window is pooled by softmax, channel by channel; at ratio 4 the previous window takes part with
// the first half of its channels. Threads may share a channel's entries, and each has so many of them on
// their way at once.
#define SHARE_CHANNELS 64
#define SHARERS_MAX 8
#define ENTRIES_AT_ONCE 16

// Some entries of a channel: largest logit, weights and weighted sum.
struct Pooled {
    float largest, weight, sum;

    MEMBER void add(const Pooled& other) {
        const float most = fmaxf(largest, other.largest);
        const float own = expf(largest - most), theirs = expf(other.largest - most);
        weight = weight * own + other.weight * theirs;
        sum = sum * own + other.sum * theirs;
        largest = most;
    }
};

// Every step-th entry of a channel of row `index`, from number `begin` on.
DEVICE Pooled pool_entries(const Compressor& a, const StepRow& r, uint32_t index, uint32_t channel,
                           uint32_t begin, uint32_t step) {
    const uint32_t ratio = a.pooled.ratio, first = index * ratio;
    const uint32_t n_previous = ratio == 4 && index > 0 ? ratio : 0, n = n_previous + ratio;
    Pooled all = {-3.0e38f, 0.0f, 0.0f};
    for (; begin < n; begin += step * ENTRIES_AT_ONCE) {
        float k[ENTRIES_AT_ONCE], z[ENTRIES_AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < ENTRIES_AT_ONCE; i++) {
            const uint32_t e = begin + step * i;
            k[i] = 0.0f, z[i] = -INFINITY;
            if (e < n) {
                const Entry at = entry(a, r, first - n_previous + e, e < n_previous ? 0 : a.cols - a.width);
                k[i] = at.k[channel], z[i] = at.z[channel];
            }
        }
        Pooled some = {-3.0e38f, 0.0f, 0.0f};
#pragma unroll
        for (uint32_t i = 0; i < ENTRIES_AT_ONCE; i++) some.largest = fmaxf(some.largest, z[i]);
#pragma unroll
        for (uint32_t i = 0; i < ENTRIES_AT_ONCE; i++) {
            const float weight = expf(z[i] - some.largest);
            some.weight += weight;
            some.sum += weight * k[i];
        }
        all.add(some);
    }
    return all;
}

// Channels begin.. of row `index`, by a whole block: a thread a channel where it has room for all entries,
// or all threads for 64 channels at a time.
DEVICE void pool_channels(const Compressor& a, const StepRow& r, uint32_t index, uint32_t begin, uint32_t end,
                          bool shared, float* out) {
    SHARED Pooled pooled[SHARERS_MAX][SHARE_CHANNELS];
    if (!shared) {
        for (uint32_t channel = begin + threadIdx.x; channel < end; channel += blockDim.x) {
            const Pooled all = pool_entries(a, r, index, channel, 0, 1);
            out[channel] = all.sum / all.weight;
        }
        return;
    }
    const uint32_t sharers = blockDim.x / SHARE_CHANNELS;
    const uint32_t sharer = threadIdx.x / SHARE_CHANNELS, mine = threadIdx.x % SHARE_CHANNELS;
    for (uint32_t first = begin; first < end; first += SHARE_CHANNELS) {
        const uint32_t channel = first + mine;
        if (channel < end) pooled[sharer][mine] = pool_entries(a, r, index, channel, sharer, sharers);
        __syncthreads();
        if (sharer == 0 && channel < end) {
            Pooled all = pooled[0][mine];
            for (uint32_t i = 1; i < sharers; i++) all.add(pooled[i][mine]);
            out[channel] = all.sum / all.weight;
        }
        __syncthreads();
    }
}

// Row `index` of a span, whose pooled channels lie in `row`: normed, rotated and stored. The whole block
// comes here.
DEVICE void store_row(const Compressor& a, const Closing& all, const StepRow& r, uint32_t index, float* row,
                      float* part) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) sum += row[i] * row[i];
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

// A row by one block.
DEVICE void close_row(const Compressor& a, const Closing& all, const StepRow& r, uint32_t index,
                      float* row, float* part) {
    pool_channels(a, r, index, 0, a.width, 2 * a.pooled.ratio > ENTRIES_AT_ONCE, row);
    __syncthreads();
    store_row(a, all, r, index, row, part);
}

// Blocks that share a span of few rows, which closes one row at most: each has a part of the channels.
#define SHARES 8
#define SHARE_THREADS 512

// Where the blocks that share a span meet.
struct Meeting {
    float* pooled;            // [width]
    uint32_t* done;           // blocks that are done: zero before and after
};

// A span of few rows by SHARES blocks: each stages and pools its channels, and the one that is done last
// stores the row that closes, if one does. `row` holds one.
DEVICE void compress_rows(const Compressor& a, const Closing& all, const StepRow& r, uint32_t share,
                          const Meeting& meeting, float* row, float* part) {
    SHARED uint32_t last;
    const uint32_t each = (a.width + SHARES - 1) / SHARES, begin = share * each;
    const uint32_t end = min(begin + each, a.width), halves = a.cols / a.width;
    const uint32_t n = begin < end ? end - begin : 0;
    for (uint32_t i = threadIdx.x; i < r.n_rows * halves * n; i += blockDim.x) {
        const uint32_t channel = i / n % halves * a.width + begin + i % n;
        stage_channel(a, all.step, r.first_row + i / n / halves, channel);
    }
    const uint32_t index = r.committed / a.pooled.ratio;
    if ((r.committed + r.n_rows) / a.pooled.ratio == index) return;
    __syncthreads();
    pool_channels(a, r, index, begin, end, true, meeting.pooled);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(meeting.done, 1u) + 1 == SHARES;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *meeting.done = 0;
    for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) row[i] = __ldcg(meeting.pooled + i);
    store_row(a, all, r, index, row, part);
}
