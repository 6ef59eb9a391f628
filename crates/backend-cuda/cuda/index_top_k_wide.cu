// The indexer's choice for many rows on sm_90: scores by tensor cores, of queries of 64 heads and 128
// channels rounded to FP4, with keys in the Model format.
//
// A head's four scales become powers of two relative to its largest, so that its values are f16 without
// loss; the largest goes to the head's weight. Keys likewise. Sums are f32.
#include "index_keys.cuh"
#include "rope.cuh"
#include "select.cuh"
#include "wgmma.cuh"

// As in index_top_k.cu, but for the queries.
struct IndexArgs {
    Rope rope;                // that queries still lack; of no pairs where they are rotated
    const float* q;
    const float* weights;
    // [tiles of ROWS rows][2 blocks of 64 channels][rows, heads]: 128 bytes; then weights of heads
    // [tile rows, heads].
    uint8_t* rounded;
    float* scores;
    uint32_t* ids;
    PooledRows pooled;
    RowFormat format;
    StepView step;
    uint32_t first_row, n_heads, dim, top_k, score_cols;
    float factor;
    float* head_weights;
    uint32_t n_rows, unused;
};

#define DIM 128
#define HEADS 64
// Queries of a block: their heads are the columns of a product.
#define ROWS 4
#define COLUMNS (ROWS * HEADS)
#define TILE_BYTES (COLUMNS * DIM * 2)
// Keys of a block, and of its warpgroups together.
#define BLOCK_KEYS 2048
#define GROUPS 2
#define KEYS (GROUPS * 64)

DEVICE uint32_t visible_rows(const IndexArgs& a, uint32_t r) {
    return (a.step.row(r).pos + 1) / a.pooled.ratio;
}

// grid: (heads, tile rows), a warp each: a lane has channels lane + 32 b.
KERNEL(32, index_query_wide, IndexArgs) {
    SHARED float head[DIM];
    const uint32_t r = a.first_row + blockIdx.y, h = blockIdx.x, lane = threadIdx.x;
    if (visible_rows(a, r) <= a.top_k) return;
    const float* q = a.q + (uint64_t(r) * HEADS + h) * DIM;
    for (uint32_t i = lane; i < DIM; i += 32) head[i] = q[i];
    __syncwarp();
    float* tail = head + DIM - 2 * a.rope.n_pairs;
    for (uint32_t i = lane; i < a.rope.n_pairs; i += 32) {
        rope_pair(a.rope, i, a.step.row(r).pos, tail[2 * i], tail[2 * i + 1]);
    }
    hadamard(head, DIM, lane, 32);
    uint32_t e[4], largest = 0;
#pragma unroll
    for (int b = 0; b < 4; b++) {
        const uint32_t m = warp_max_bits(magnitude_bits(head[32 * b + lane]));
        e[b] = block_scale(m, 6.0f * 1.17549435e-38f, 1.0f / 6.0f);
        largest = largest > e[b] ? largest : e[b];
    }
    const uint32_t column = blockIdx.y % ROWS * HEADS + h;
    uint8_t* tile = a.rounded + uint64_t(blockIdx.y / ROWS) * TILE_BYTES;
#pragma unroll
    for (int b = 0; b < 4; b++) {
        const uint32_t code = e2m1_code(head[32 * b + lane] * inverse_scale(e[b]));
        const uint32_t bits = (code & 7u) << 9 | (code & 8u) << 12;
        const uint32_t value = half2_mul(bits, relative_scale(e[b], largest));
        // Lane t of the keys has block t: step lane / 4, and there k = 2 t + lane / 2 % 2 + 8 (lane % 2).
        const uint32_t k = lane / 4 * 16 + 2 * b + lane / 2 % 2 + lane % 2 * 8;
        *reinterpret_cast<uint16_t*>(tile + k / 64 * (COLUMNS * 128) + swizzled(column, k % 64)) =
            uint16_t(value);
    }
    if (lane == 0) {
        const float weight = a.weights[uint64_t(r) * HEADS + h] * a.factor;
        a.head_weights[blockIdx.y * HEADS + h] = weight * power_of_two(largest);
    }
}

#if WGMMA

struct Shared {
    uint8_t queries[TILE_BYTES];
    float weights[COLUMNS];
    Barrier full;
};

// Sums over four lanes; lane t has that of row t.
DEVICE float row_of_lane(const float (&sums)[ROWS]) {
    const uint32_t t = threadIdx.x % 4;
    const bool high = t / 2 != 0, odd = t % 2 != 0;
    float two[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float other = __shfl_xor_sync(FULL_WARP, high ? sums[i] : sums[i + 2], 2);
        two[i] = (high ? sums[i + 2] : sums[i]) + other;
    }
    const float other = __shfl_xor_sync(FULL_WARP, odd ? two[0] : two[1], 1);
    return (odd ? two[1] : two[0]) + other;
}

// Scores of the warp's 16 keys with the block's queries, from their products.
DEVICE void store_scores(const IndexArgs& a, const float (&dots)[128], const float* weights,
                         const uint32_t (&largest)[2], uint32_t first, uint32_t tile_row, uint32_t end_row) {
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
    float sums[2][ROWS];
#pragma unroll
    for (int i = 0; i < 2 * ROWS; i++) sums[i / ROWS][i % ROWS] = 0.0f;
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++) {
        const float2 weight = *reinterpret_cast<const float2*>(weights + 8 * j + 2 * t);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float& sum = sums[half][j / 8];
            sum = fmaf(fmaxf(dots[4 * j + 2 * half], 0.0f), weight.x, sum);
            sum = fmaf(fmaxf(dots[4 * j + 2 * half + 1], 0.0f), weight.y, sum);
        }
    }
    const uint32_t row = tile_row + t;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float score = row_of_lane(sums[half]) * power_of_two(largest[half]);
        const uint32_t key = first + lane / 4 + 8 * half;
        if (row < end_row && key < visible_rows(a, a.first_row + row)) {
            a.scores[uint64_t(row) * a.score_cols + key] = score;
        }
    }
}

// Keys of one span from `begin` on, up to `end`, for its rows of the tile.
DEVICE void score_span(const IndexArgs& a, const Shared& s, uint32_t tile_row, uint32_t end_row,
                       uint32_t begin, uint32_t end) {
    const uint32_t own = threadIdx.x / 128 * 64 + threadIdx.x / 32 % 4 * 16;
    const StepRow& row = a.step.row(a.first_row + tile_row);
    Keys keys;
    load_keys(keys, a.pooled, a.format, a.step, row, begin + own, end);
    float dots[128];
    for (uint32_t first = begin; first < end; first += KEYS) {
        uint32_t left[8][4], largest[2];
        left_keys(keys, left, largest);
#pragma unroll
        for (int i = 0; i < 128; i++) dots[i] = 0.0f;
        wgmma_hold(dots);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 8; step++) {
            const RightTile right = right_tile(s.queries + step / 4 * (COLUMNS * 128));
            wgmma<COLUMNS>(dots, left[step], right_step(right, step % 4));
        }
        wgmma_commit();
        if (first + KEYS < end) load_keys(keys, a.pooled, a.format, a.step, row, first + KEYS + own, end);
        wgmma_wait<0>();
        wgmma_hold(dots);
        store_scores(a, dots, s.weights, largest, first + own, tile_row - tile_row % ROWS, end_row);
    }
}

// grid: (keys / BLOCK_KEYS, tile rows / ROWS).
DEVICE void index_scores(const IndexArgs& a) {
    DYNAMIC_SHARED(uint8_t, bytes);
#ifdef KEID_EMULATE
    Shared& s = *reinterpret_cast<Shared*>(bytes);
#else
    Shared& s = *reinterpret_cast<Shared*>(bytes + (0u - shared_place(bytes)) % 1024);
#endif
    const uint32_t first_row = blockIdx.y * ROWS, end_row = min(first_row + ROWS, a.n_rows);
    const uint32_t begin = blockIdx.x * BLOCK_KEYS;
    uint32_t visible = 0;
    for (uint32_t i = first_row; i < end_row; i++) visible = max(visible, visible_rows(a, a.first_row + i));
    if (visible <= a.top_k || begin >= visible) return;
    if (threadIdx.x == 0) {
        barrier_init(&s.full, 1);
        barriers_ready();
        barrier_expect(&s.full, TILE_BYTES);
        copy_bulk(s.queries, a.rounded + uint64_t(blockIdx.y) * TILE_BYTES, TILE_BYTES, &s.full);
    }
    for (uint32_t i = threadIdx.x; i < COLUMNS; i += blockDim.x) {
        s.weights[i] = first_row + i / HEADS < end_row ? a.head_weights[first_row * HEADS + i] : 0.0f;
    }
    __syncthreads();
    barrier_wait(&s.full, 0);
    // Rows of one span are neighbours; other spans have other keys.
    for (uint32_t row = first_row; row < end_row;) {
        const uint32_t span = a.step.row(a.first_row + row).first_row;
        uint32_t next = row, most = 0;
        while (next < end_row && a.step.row(a.first_row + next).first_row == span) {
            most = max(most, visible_rows(a, a.first_row + next));
            next++;
        }
        const uint32_t end = min(most, begin + BLOCK_KEYS);
        if (begin < end) score_span(a, s, row, next, begin, end);
        row = next;
    }
}

#endif

KERNEL_OCC(128 * GROUPS, 1, index_scores_wide, IndexArgs) { WGMMA_BODY(index_scores(a);) }

#define SELECT_THREADS 512
#define BINS 2048
// Candidates that are looked at closely, at most.
#define NEAR_MAX 4096
// Scores that a thread looks at in turn.
#define RUN 8

struct Select {
    uint32_t bins[BINS];
    uint32_t near[NEAR_MAX];
    uint32_t sums[SELECT_THREADS / 32];
    uint32_t chosen[3];
    float part[32];
};

// The k-th largest of n values, eleven, eleven and ten bits in turn; `above` of them are larger.
template <class Get>
DEVICE uint32_t kth_largest(Select& s, uint32_t n, uint32_t k, Get get, uint32_t& above) {
    uint32_t prefix = 0, mask = 0, wanted = k;
    above = 0;
    for (int shift = 21; shift >= 0; shift = shift > 10 ? shift - 11 : shift - 10) {
        const uint32_t width = shift > 0 ? 11 : 10;
        const int low = shift;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < BINS; i += SELECT_THREADS) s.bins[i] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += SELECT_THREADS) {
            const uint32_t v = get(i);
            if ((v & mask) == prefix) atomicAdd(&s.bins[v >> low & ((1u << width) - 1)], 1u);
        }
        __syncthreads();
        uint32_t higher;
        const uint32_t digit = threshold_bin<BINS / SELECT_THREADS>(s.bins, wanted, s.sums, s.chosen, higher);
        prefix |= digit << low;
        mask |= ((1u << width) - 1) << low;
        wanted -= higher;
        above += higher;
        if (shift == 0) break;
    }
    return prefix;
}

// The k-th largest score as an ordered integer: its bin among equal ones between the extremes, and then
// the scores of that bin. Too many in one bin are looked at with all others.
DEVICE uint32_t threshold_of(Select& s, const float* scores, uint32_t n, uint32_t k, uint32_t& above) {
    float least = INFINITY, most = -INFINITY;
    for (uint32_t i = threadIdx.x; i < n; i += SELECT_THREADS) {
        least = fminf(least, scores[i]);
        most = fmaxf(most, scores[i]);
    }
    least = -block_max(-least, s.part);
    __syncthreads();
    most = block_max(most, s.part);
    const float scale = float(BINS - 1) / (most - least);
    // Not so when all are equal, or some are not finite.
    bool usable = scale > 0.0f && scale < 1e30f;
    uint32_t bin = 0, count = 0;
    for (uint32_t i = threadIdx.x; i < BINS; i += SELECT_THREADS) s.bins[i] = 0;
    if (threadIdx.x == 0) s.chosen[2] = 0;
    __syncthreads();
    if (usable) {
        for (uint32_t i = threadIdx.x; i < n; i += SELECT_THREADS) {
            atomicAdd(&s.bins[min(uint32_t((scores[i] - least) * scale), uint32_t(BINS - 1))], 1u);
        }
        __syncthreads();
        bin = threshold_bin<BINS / SELECT_THREADS>(s.bins, k, s.sums, s.chosen, above);
        count = s.bins[bin];
        usable = count <= NEAR_MAX;
    }
    __syncthreads();
    if (!usable) {
        return kth_largest(s, n, k, [=](uint32_t i) { return ordered(scores[i]); }, above);
    }
    for (uint32_t i = threadIdx.x; i < n; i += SELECT_THREADS) {
        const float score = scores[i];
        if (min(uint32_t((score - least) * scale), uint32_t(BINS - 1)) == bin) {
            s.near[atomicAdd(&s.chosen[2], 1u)] = ordered(score);
        }
    }
    __syncthreads();
    const uint32_t* near = s.near;
    const uint32_t before = above;
    const uint32_t threshold = kth_largest(s, count, k - before, [=](uint32_t i) { return near[i]; }, above);
    above += before;
    return threshold;
}

// grid: tile rows. The best rows, ascending; ties go to the lowest index.
KERNEL(SELECT_THREADS, index_select_wide, IndexArgs) {
    SHARED Select s;
    const uint32_t r = a.first_row + blockIdx.x, visible = visible_rows(a, r);
    uint32_t* ids = a.ids + uint64_t(r) * a.top_k;
    if (visible <= a.top_k) {
        for (uint32_t i = threadIdx.x; i < visible; i += SELECT_THREADS) ids[i] = i;
        return;
    }
    const float* scores = a.scores + uint64_t(blockIdx.x) * a.score_cols;
    uint32_t above = 0;
    const uint32_t threshold = threshold_of(s, scores, visible, a.top_k, above);
    const uint32_t n_equal = a.top_k - above;
    uint32_t taken = 0, equal = 0;
    for (uint32_t begin = 0; begin < visible && taken < a.top_k; begin += RUN * SELECT_THREADS) {
        const uint32_t first = begin + RUN * threadIdx.x;
        // Larger ones count in the low half, equal ones in the high.
        uint32_t v[RUN], own = 0;
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            v[i] = first + i < visible ? ordered(scores[first + i]) : 0u;
            own += (v[i] > threshold ? 1u : 0u) + (v[i] == threshold && first + i < visible ? 65536u : 0u);
        }
        uint32_t total;
        const uint32_t before = sum_before(own, s.sums, total);
        uint32_t rank = equal + (before >> 16);
        uint32_t place = taken + (before & 65535u) + (min(rank, n_equal) - min(equal, n_equal));
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            const bool same = v[i] == threshold && first + i < visible;
            // Scores that are no numbers are not counted before.
            if ((v[i] > threshold || (same && rank < n_equal)) && place < a.top_k) ids[place++] = first + i;
            rank += same;
        }
        const uint32_t all_equal = equal + (total >> 16);
        taken += (total & 65535u) + (min(all_equal, n_equal) - min(equal, n_equal));
        equal = all_equal;
    }
}
