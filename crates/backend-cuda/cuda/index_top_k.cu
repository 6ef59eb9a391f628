// The lightning indexer's choice of compressed rows, tile by tile of queries.
#include "index_top_k.cuh"

// grid: (heads, tile rows). The query meets its rows in the same basis and precision. Shared: a head.
KERNEL(64, index_query, IndexArgs) {
    DYNAMIC_SHARED(float, head);
    const uint32_t r = a.first_row + blockIdx.y;
    if (visible_rows(a, r) <= a.top_k) return;
    const uint64_t row = uint64_t(a.n_heads) * a.dim;
    const float* q = a.q + r * row + blockIdx.x * a.dim;
    for (uint32_t i = threadIdx.x; i < a.dim; i += blockDim.x) head[i] = q[i];
    if (a.rope.n_pairs > 0) {
        __syncthreads();
        float* tail = head + a.dim - 2 * a.rope.n_pairs;
        for (uint32_t i = threadIdx.x; i < a.rope.n_pairs; i += blockDim.x) {
            rope_pair(a.rope, i, a.step.row(r).pos, tail[2 * i], tail[2 * i + 1]);
        }
    }
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

// Keys of a block, heads looked at together, and channels of both that lie in shared memory.
#define SCORE_KEYS 64
#define SCORE_HEADS 64
#define SCORE_CHANNELS 64
// Rows of eight neighbouring threads fall into different banks.
#define SCORE_STRIDE (SCORE_CHANNELS + 4)

// Eight channels of an index row from `channel` on, where they exist: a word of the Model format.
DEVICE void decode_index(const RowFormat& f, const uint8_t* row, uint32_t channel, float* out) {
    if (f.format == ROWS_F32 || channel + 8 > f.dim) {
        for (uint32_t i = 0; i < 8; i++) {
            out[i] = channel + i < f.dim ? row_value(f, row, channel + i) : 0.0f;
        }
        return;
    }
    const uint32_t codes = *reinterpret_cast<const uint32_t*>(row + channel / 2);
    const float scale = power_of_two(row[f.code_bytes + channel / 32]);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = e2m1_value(codes >> (4 * i)) * scale;
}

// The block's keys, channels first..; keys that do not exist become zeros.
DEVICE void load_keys(const IndexArgs& a, const StepRow& row, uint32_t first_key, uint32_t visible,
                      uint32_t first, float* keys) {
    for (uint32_t i = threadIdx.x; i < SCORE_KEYS * SCORE_CHANNELS / 8; i += blockDim.x) {
        const uint32_t key = i / (SCORE_CHANNELS / 8), channel = i % (SCORE_CHANNELS / 8) * 8;
        float values[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        if (first_key + key < visible && first + channel < a.dim) {
            const uint8_t* bytes = pooled_row(a.pooled, a.format.bytes, a.step, row, first_key + key);
            decode_index(a.format, bytes, first + channel, values);
        }
        float4* to = reinterpret_cast<float4*>(keys + key * SCORE_STRIDE + channel);
        to[0] = make_float4(values[0], values[1], values[2], values[3]);
        to[1] = make_float4(values[4], values[5], values[6], values[7]);
    }
}

// The queries of a group of heads, channels first..; heads that do not exist become zeros.
DEVICE void load_queries(const IndexArgs& a, uint32_t group, uint32_t first, float* queries) {
    const float* rounded = a.rounded + uint64_t(blockIdx.y) * a.n_heads * a.dim;
    for (uint32_t i = threadIdx.x; i < SCORE_HEADS * SCORE_CHANNELS; i += blockDim.x) {
        const uint32_t head = group + i / SCORE_CHANNELS, channel = first + i % SCORE_CHANNELS;
        const bool exists = head < a.n_heads && channel < a.dim;
        queries[i / SCORE_CHANNELS * SCORE_STRIDE + i % SCORE_CHANNELS] =
            exists ? rounded[uint64_t(head) * a.dim + channel] : 0.0f;
    }
}

// grid: (tiles of keys, tile rows). A thread has four keys and four heads, sixteen apart; the sixteen
// threads that share keys are neighbours.
KERNEL_OCC(256, 2, index_scores, IndexArgs) {
    SHARED float4 keys_store[SCORE_KEYS * SCORE_STRIDE / 4];
    SHARED float4 queries_store[SCORE_HEADS * SCORE_STRIDE / 4];
    float* keys = reinterpret_cast<float*>(keys_store);
    float* queries = reinterpret_cast<float*>(queries_store);
    const uint32_t r = a.first_row + blockIdx.y, visible = visible_rows(a, r);
    const uint32_t first_key = blockIdx.x * SCORE_KEYS;
    if (visible <= a.top_k || first_key >= visible) return;
    const StepRow& row = a.step.row(r);
    const float* weights = a.weights + uint64_t(r) * a.n_heads;
    const uint32_t mine = threadIdx.x % 16, key = threadIdx.x / 16;
    float scores[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t group = 0; group < a.n_heads; group += SCORE_HEADS) {
        float dots[4][4] = {};
        for (uint32_t first = 0; first < a.dim; first += SCORE_CHANNELS) {
            __syncthreads();
            load_keys(a, row, first_key, visible, first, keys);
            load_queries(a, group, first, queries);
            __syncthreads();
#pragma unroll 4
            for (uint32_t c = 0; c < SCORE_CHANNELS; c += 4) {
                float4 q[4], k[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    q[i] = *reinterpret_cast<const float4*>(queries + (mine + 16 * i) * SCORE_STRIDE + c);
                    k[i] = *reinterpret_cast<const float4*>(keys + (key + 16 * i) * SCORE_STRIDE + c);
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        dots[j][i] += q[i].x * k[j].x;
                        dots[j][i] += q[i].y * k[j].y;
                        dots[j][i] += q[i].z * k[j].z;
                        dots[j][i] += q[i].w * k[j].w;
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t head = group + mine + 16 * i;
            const float weight = head < a.n_heads ? weights[head] * a.factor : 0.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) scores[j] += fmaxf(dots[j][i], 0.0f) * weight;
        }
    }
    float* out = a.scores + uint64_t(blockIdx.y) * a.score_cols + first_key;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float sum = scores[j];
#pragma unroll
        for (int o = 8; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
        if (mine == 0 && first_key + key + 16 * j < visible) out[key + 16 * j] = sum;
    }
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
