// The lightning indexer's choice of compressed rows, tile by tile of queries.
#include "kv_row.cuh"

struct IndexArgs {
    const float* q;           // rotated queries of all rows
    const float* weights;     // head weights of all rows
    float* rounded;           // [tile rows, heads * dim]
    float* scores;            // [tile rows, score_cols]
    uint32_t* ids;            // [rows, top_k]
    PooledRows pooled;
    RowFormat format;
    StepView step;
    uint32_t first_row;       // of the tile
    uint32_t n_heads, dim, top_k, score_cols;
    float factor;
};

DEVICE uint32_t visible_rows(const IndexArgs& a, uint32_t r) {
    return (a.step.row(r).pos + 1) / a.pooled.ratio;
}

// grid: (heads, tile rows). The query meets its rows in the same basis and precision. Shared: a head.
KERNEL(64, index_query, IndexArgs) {
    DYNAMIC_SHARED(float, head);
    const uint32_t r = a.first_row + blockIdx.y;
    if (visible_rows(a, r) <= a.top_k) return;
    const uint64_t row = uint64_t(a.n_heads) * a.dim;
    const float* q = a.q + r * row + blockIdx.x * a.dim;
    for (uint32_t i = threadIdx.x; i < a.dim; i += blockDim.x) head[i] = q[i];
    if (a.format.format != ROWS_F32) {
        hadamard(head, a.dim, threadIdx.x, blockDim.x);
        for (uint32_t b = threadIdx.x / 32; b < a.dim / 32; b += blockDim.x / 32) {
            const float v = head[32 * b + threadIdx.x % 32];
            const uint32_t e = block_scale(warp_max_bits(magnitude_bits(v)), 6.0f * 1.17549435e-38f,
                                           1.0f / 6.0f);
            const float rounded = e2m1_value(e2m1_code(v * inverse_scale(e))) * power_of_two(e);
            head[32 * b + threadIdx.x % 32] = rounded;
        }
    }
    __syncthreads();
    float* out = a.rounded + blockIdx.y * row + blockIdx.x * a.dim;
    for (uint32_t i = threadIdx.x; i < a.dim; i += blockDim.x) out[i] = head[i];
}

// Keys of a block, channels looked at together, heads looked at together.
#define SCORE_KEYS 64
#define SCORE_CHANNELS 32
#define SCORE_HEADS 16

// grid: (tiles of keys, tile rows). A thread has one key and a quarter of the heads of a group.
// Shared: keys [SCORE_KEYS, dim + 1], queries [SCORE_HEADS, dim].
KERNEL(256, index_scores, IndexArgs) {
    DYNAMIC_SHARED(float, keys);
    SHARED float part[4][SCORE_KEYS];
    const uint32_t r = a.first_row + blockIdx.y, visible = visible_rows(a, r);
    const uint32_t first = blockIdx.x * SCORE_KEYS;
    if (visible <= a.top_k || first >= visible) return;
    const StepRow& row = a.step.row(r);
    const uint32_t stride = a.dim + 1;
    float* queries = keys + SCORE_KEYS * stride;
    for (uint32_t i = threadIdx.x; i < SCORE_KEYS * a.dim; i += blockDim.x) {
        const uint32_t key = i / a.dim, channel = i % a.dim;
        float v = 0.0f;
        if (first + key < visible) {
            const uint8_t* bytes = pooled_row(a.pooled, a.format.bytes, a.step, row, first + key);
            v = row_value(a.format, bytes, channel);
        }
        keys[key * stride + channel] = v;
    }
    const uint32_t key = threadIdx.x % SCORE_KEYS, quarter = threadIdx.x / SCORE_KEYS;
    const float* rounded = a.rounded + uint64_t(blockIdx.y) * a.n_heads * a.dim;
    const float* weights = a.weights + uint64_t(r) * a.n_heads;
    float score = 0.0f;
    for (uint32_t group = 0; group < a.n_heads; group += SCORE_HEADS) {
        const uint32_t n = a.n_heads - group < SCORE_HEADS ? a.n_heads - group : SCORE_HEADS;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n * a.dim; i += blockDim.x) {
            queries[i] = rounded[uint64_t(group) * a.dim + i];
        }
        __syncthreads();
        for (uint32_t h = quarter * (SCORE_HEADS / 4); h < (quarter + 1) * (SCORE_HEADS / 4); h++) {
            if (h >= n) break;
            float dot = 0.0f;
            for (uint32_t i = 0; i < a.dim; i++) dot += queries[h * a.dim + i] * keys[key * stride + i];
            score += fmaxf(dot, 0.0f) * (weights[group + h] * a.factor);
        }
    }
    part[quarter][key] = score;
    __syncthreads();
    if (quarter == 0 && first + key < visible) {
        const float sum = part[0][key] + part[1][key] + part[2][key] + part[3][key];
        a.scores[uint64_t(blockIdx.y) * a.score_cols + first + key] = sum;
    }
}

// Floats as unsigned integers of the same order.
DEVICE uint32_t ordered(float v) {
    const uint32_t bits = __float_as_uint(v);
    return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

// How many of the block's flags are set before this thread's, and in all. `counts` holds 32.
DEVICE uint32_t flags_before(bool flag, uint32_t* counts, uint32_t& total) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t ballot = __ballot_sync(FULL_WARP, flag);
    __syncthreads();
    if (lane == 0) counts[warp] = __popc(ballot);
    __syncthreads();
    uint32_t before = __popc(ballot & ((1u << lane) - 1));
    total = 0;
    for (uint32_t w = 0; w < blockDim.x / 32; w++) {
        if (w < warp) before += counts[w];
        total += counts[w];
    }
    return before;
}

// The k-th largest of n scores as an ordered integer, digit by digit; `above` of them are larger.
DEVICE uint32_t kth_largest(const float* scores, uint32_t n, uint32_t k, uint32_t* histogram,
                            uint32_t* chosen, uint32_t& above) {
    uint32_t prefix = 0, mask = 0, wanted = k;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            const uint32_t v = ordered(scores[i]);
            if ((v & mask) == prefix) atomicAdd(&histogram[v >> shift & 255u], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 255, left = wanted;
            while (digit > 0 && histogram[digit] < left) left -= histogram[digit--];
            chosen[0] = digit;
            chosen[1] = left;
        }
        __syncthreads();
        prefix |= chosen[0] << shift;
        mask |= 255u << shift;
        wanted = chosen[1];
        __syncthreads();
    }
    above = k - wanted;
    return prefix;
}

// grid: tile rows. The best rows, ascending; ties go to the lowest index.
KERNEL(512, index_select, IndexArgs) {
    SHARED uint32_t histogram[256];
    SHARED uint32_t counts[32];
    SHARED uint32_t chosen[2];
    const uint32_t r = a.first_row + blockIdx.x, visible = visible_rows(a, r);
    uint32_t* ids = a.ids + uint64_t(r) * a.top_k;
    if (visible <= a.top_k) {
        for (uint32_t i = threadIdx.x; i < visible; i += blockDim.x) ids[i] = i;
        return;
    }
    const float* scores = a.scores + uint64_t(blockIdx.x) * a.score_cols;
    uint32_t above = 0;
    const uint32_t threshold = kth_largest(scores, visible, a.top_k, histogram, chosen, above);
    const uint32_t n_equal = a.top_k - above;
    uint32_t taken = 0, equal = 0;
    for (uint32_t first = 0; first < visible && taken < a.top_k; first += blockDim.x) {
        const uint32_t i = first + threadIdx.x;
        const uint32_t v = i < visible ? ordered(scores[i]) : 0u;
        uint32_t total;
        const bool same = i < visible && v == threshold;
        const uint32_t rank = equal + flags_before(same, counts, total);
        equal += total;
        const bool take = i < visible && (v > threshold || (same && rank < n_equal));
        const uint32_t place = taken + flags_before(take, counts, total);
        taken += total;
        if (take) ids[place] = i;
    }
}
