// The indexer's choice for few rows, in two launches of many blocks: queries of 64 heads and 128 channels
// rounded to FP4, with keys in the Model format.
//
// The first scores with tensor cores, of which every block rounds the queries for itself, and counts the
// scores by their upper bits. The second lets every block keep what may be among the best of a part of
// the scores, and the block that is done last choose from what all have kept.
#include "index_keys.cuh"
#include "index_top_k.cuh"
#include "matmul/mma.cuh"
#include "select.cuh"

#define DIM 128
#define HEADS 64
// Scores are counted by so many of their bits.
#define BIN_BITS 12
#define BINS (1 << BIN_BITS)
#define REST_BITS (32 - BIN_BITS)
// Scores of a block that selects, and such blocks of a row, at most.
#define PART 2048
#define PARTS_MAX 512

struct IndexFewArgs {
    IndexArgs index;
    uint32_t* bins;           // [tile rows, BINS]: zeros before and after
    uint32_t* kept;           // [tile rows, PARTS_MAX]: how many each part has kept
    uint32_t* done;           // [tile rows]: parts that are done, zeros before and after
};

// Words of a head's query, in which [pair of steps][t][step][even channels, odd channels] lie; neighbours
// fall into different banks.
#define QUERY_WORDS (DIM / 2 + 16)
#define SCORE_WARPS 8
// Keys of a warp: two tiles of 16.
#define WARP_KEYS 32
#define BLOCK_KEYS (SCORE_WARPS * WARP_KEYS)

struct alignas(16) Queries {
    uint32_t words[HEADS * QUERY_WORDS];
    float weights[HEADS];
};

// The orthonormal Walsh-Hadamard transform of a warp's 128 values, four neighbours a lane.
DEVICE void transform(float4& v) {
    const uint32_t lane = threadIdx.x % 32;
    v = make_float4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    v = make_float4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const float sign = (lane & o) != 0 ? -1.0f : 1.0f;
        v.x = __shfl_xor_sync(FULL_WARP, v.x, o) + sign * v.x;
        v.y = __shfl_xor_sync(FULL_WARP, v.y, o) + sign * v.y;
        v.z = __shfl_xor_sync(FULL_WARP, v.z, o) + sign * v.z;
        v.w = __shfl_xor_sync(FULL_WARP, v.w, o) + sign * v.w;
    }
    const float norm = 1.0f / sqrtf(float(DIM));
    v = make_float4(v.x * norm, v.y * norm, v.z * norm, v.w * norm);
}

DEVICE uint32_t max_over(uint32_t v, uint32_t first, uint32_t end) {
    for (uint32_t o = first; o < end; o *= 2) v = max(v, __shfl_xor_sync(FULL_WARP, v, o));
    return v;
}

// A warp rounds a head: lane 8 t + step has the four channels of that step of block t.
DEVICE void round_query(const IndexArgs& a, float4 v, uint32_t r, uint32_t head, Queries& s) {
    const uint32_t lane = threadIdx.x % 32, t = lane / 8, step = lane % 8;
    transform(v);
    const uint32_t magnitude = max(max(magnitude_bits(v.x), magnitude_bits(v.y)),
                                   max(magnitude_bits(v.z), magnitude_bits(v.w)));
    const uint32_t e =
        block_scale(max_over(magnitude, 1, 8), 6.0f * 1.17549435e-38f, 1.0f / 6.0f);
    const uint32_t largest = max_over(e, 8, 32);
    const float inverse = inverse_scale(e);
    const uint32_t even = e2m1_code(v.x * inverse) | e2m1_code(v.z * inverse) << 16;
    const uint32_t odd = e2m1_code(v.y * inverse) | e2m1_code(v.w * inverse) << 16;
    const uint32_t scale = relative_scale(e, largest) * 0x10001u;
    uint32_t* to = s.words + head * QUERY_WORDS + step / 2 * 16 + 4 * t + step % 2 * 2;
    to[0] = half2_mul((even & 0x00070007u) << 9 | (even & 0x00080008u) << 12, scale);
    to[1] = half2_mul((odd & 0x00070007u) << 9 | (odd & 0x00080008u) << 12, scale);
    if (lane == 0) {
        s.weights[head] = a.weights[uint64_t(r) * HEADS + head] * a.factor * power_of_two(largest);
    }
}

// A warp rounds eight of the row's heads.
DEVICE void round_queries(const IndexArgs& a, uint32_t r, const float (&sine)[2], const float (&cosine)[2],
                          Queries& s) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, each = HEADS / SCORE_WARPS;
    float4 v[each];
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const uint64_t row = uint64_t(r) * HEADS + warp * each + i;
        v[i] = *reinterpret_cast<const float4*>(a.q + row * DIM + 4 * lane);
    }
    // Two at a time: code that is fetched once takes longer than what it computes.
#pragma unroll 1
    for (uint32_t i = 0; i < each; i += 2) {
#pragma unroll
        for (uint32_t k = 0; k < 2; k++) {
            rope_turn(sine[0], cosine[0], v[k].x, v[k].y);
            rope_turn(sine[1], cosine[1], v[k].z, v[k].w);
            round_query(a, v[k], r, warp * each + i + k, s);
        }
#pragma unroll
        for (uint32_t k = 0; k + 2 < each; k++) v[k] = v[k + 2];
    }
}

// Scores of two tiles of keys: sums[tile][half] of row g + 8 half, in all four lanes of the row.
DEVICE void score_keys(const Keys (&keys)[2], const Queries& s, float (&sums)[2][2]) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t left[2][8][4], largest[2][2];
#pragma unroll
    for (int m = 0; m < 2; m++) {
        left_keys(keys[m], left[m], largest[m]);
        sums[m][0] = sums[m][1] = 0.0f;
    }
#pragma unroll 2
    for (uint32_t n = 0; n < HEADS; n += 8) {
        float dots[2][4];
#pragma unroll
        for (int i = 0; i < 8; i++) dots[i / 4][i % 4] = 0.0f;
        const uint32_t* query = s.words + (n + g) * QUERY_WORDS + 4 * t;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint4 q = *reinterpret_cast<const uint4*>(query + 16 * j);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma_f16(dots[m], left[m][2 * j], q.x, q.y);
                mma_f16(dots[m], left[m][2 * j + 1], q.z, q.w);
            }
        }
        const float2 weight = *reinterpret_cast<const float2*>(s.weights + n + 2 * t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float* two = dots[i / 2] + i % 2 * 2;
            sums[i / 2][i % 2] += fmaxf(two[0], 0.0f) * weight.x + fmaxf(two[1], 0.0f) * weight.y;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float& sum = sums[i / 2][i % 2];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        sum *= power_of_two(largest[i / 2][i % 2]);
    }
}

// grid: (blocks that share the keys, tile rows).
KERNEL_EARLY(32 * SCORE_WARPS, 1, index_scores_few, IndexFewArgs) {
    SHARED Queries queries;
    SHARED uint32_t bins[BINS];
    const IndexArgs& index = a.index;
    const uint32_t r = index.first_row + blockIdx.y, visible = visible_rows(index, r);
    uint32_t first = blockIdx.x * BLOCK_KEYS;
    const uint32_t lane = threadIdx.x % 32;
    // The tail is made of pairs, and so is what lies before.
    const uint32_t tail = DIM - 2 * index.rope.n_pairs, pos = index.step.row(r).pos;
    float sine[2] = {0.0f, 0.0f}, cosine[2] = {1.0f, 1.0f};
#pragma unroll
    for (uint32_t j = 0; j < 2; j++) {
        const uint32_t channel = 4 * lane + 2 * j;
        if (channel >= tail) rope_angle(index.rope, (channel - tail) / 2, pos, sine[j], cosine[j]);
    }
    for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
    await_previous();
    if (visible <= index.top_k || first >= visible) return;
    const uint32_t own = threadIdx.x / 32 * WARP_KEYS;
    // Lane 4 g + t stores the score of row g + 8 (t % 2) of tile t / 2.
    const uint32_t mine = own + lane / 4 + lane % 2 * 8 + lane / 2 % 2 * 16;
    const StepRow& row = index.step.row(r);
    float* scores = index.scores + uint64_t(blockIdx.y) * index.score_cols;
    Keys keys[2];
    const auto load = [&](uint32_t at) {
        load_keys(keys[0], index.pooled, index.format, index.step, row, at, visible);
        load_keys(keys[1], index.pooled, index.format, index.step, row, at + 16, visible);
    };
    load(first + own);
    round_queries(index, r, sine, cosine, queries);
    __syncthreads();
    for (; first < visible; first += gridDim.x * BLOCK_KEYS) {
        const Keys now[2] = {keys[0], keys[1]};
        if (first + gridDim.x * BLOCK_KEYS < visible) load(first + gridDim.x * BLOCK_KEYS + own);
        float sums[2][2];
        score_keys(now, queries, sums);
        const float low = lane % 2 == 0 ? sums[0][0] : sums[0][1];
        const float high = lane % 2 == 0 ? sums[1][0] : sums[1][1];
        const float score = lane / 2 % 2 == 0 ? low : high;
        if (first + mine < visible) {
            scores[first + mine] = score;
            atomicAdd(&bins[ordered(score) >> REST_BITS], 1u);
        }
    }
    __syncthreads();
    uint32_t* all = a.bins + uint64_t(blockIdx.y) * BINS;
    for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x) {
        if (bins[i] > 0) atomicAdd(&all[i], bins[i]);
    }
}

#define SELECT_THREADS 512
#define SELECT_WARPS (SELECT_THREADS / 32)
// Kept scores that the last block holds in shared memory, at most.
#define LIST_MAX 4096
// The rest of a kept score is looked at in two digits.
#define DIGIT_BITS (REST_BITS / 2)
#define DIGITS (1 << DIGIT_BITS)

// A kept score: its place in its part | whether its bin is above the threshold's | the bits below the bin.
#define SURE (1u << REST_BITS)
#define PLACE_SHIFT (REST_BITS + 1)

struct Select {
    uint32_t bins[DIGITS];
    uint32_t list[LIST_MAX];
    uint32_t kept[PARTS_MAX], offset[PARTS_MAX], higher[PARTS_MAX], equal[PARTS_MAX];
    uint32_t sums[SELECT_WARPS];
    uint32_t chosen[2], last;
};

// What all parts of a row have kept.
struct Kept {
    const uint32_t* parts;    // [parts, PART]
    uint32_t n_parts, total;
    bool listed;              // in shared memory

    // Number i of a part.
    MEMBER uint32_t word(uint32_t part, uint32_t i) const { return __ldcg(parts + uint64_t(part) * PART + i); }

    // The part of number `at` of all: the last that begins there or before.
    MEMBER uint32_t part_of(const Select& s, uint32_t at) const {
        uint32_t low = 0, high = n_parts;
        while (high - low > 1) {
            const uint32_t middle = (low + high) / 2;
            if (s.offset[middle] <= at) low = middle;
            else high = middle;
        }
        return low;
    }
};

DEVICE uint32_t rank_of(uint32_t word) { return word & (2 * SURE - 1); }

// Keeps those of the block's part that may be chosen, in order and in place of the scores.
DEVICE void keep_part(const IndexFewArgs& a, uint32_t r, uint32_t visible, uint32_t threshold, Select& s) {
    float* scores = a.index.scores + uint64_t(r) * a.index.score_cols + blockIdx.x * PART;
    const uint32_t each = PART / SELECT_THREADS, first = each * threadIdx.x, n = visible - blockIdx.x * PART;
    uint32_t words[each], own = 0, total;
    bool keeps[each];
#pragma unroll
    for (uint32_t i = 0; i < each; i++) words[i] = first + i < n ? ordered(scores[first + i]) : 0u;
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const uint32_t bin = words[i] >> REST_BITS;
        keeps[i] = first + i < n && bin >= threshold;
        own += keeps[i] ? 1 : 0;
        words[i] = (first + i) << PLACE_SHIFT | (bin > threshold ? SURE : words[i] & (SURE - 1));
    }
    // Every thread has its scores before any is written over.
    uint32_t place = sum_before(own, s.sums, total);
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        if (keeps[i]) reinterpret_cast<uint32_t*>(scores)[place++] = words[i];
    }
    if (threadIdx.x == 0) a.kept[uint64_t(r) * PARTS_MAX + blockIdx.x] = total;
}

// Finds what was kept, and takes it to shared memory if there is room.
DEVICE Kept gather(const IndexFewArgs& a, uint32_t r, uint32_t n_parts, Select& s) {
    const uint32_t part = threadIdx.x;
    const uint32_t own = part < n_parts ? __ldcg(a.kept + uint64_t(r) * PARTS_MAX + part) : 0u;
    uint32_t total;
    s.kept[part] = own;
    s.offset[part] = sum_before(own, s.sums, total);
    const float* scores = a.index.scores + uint64_t(r) * a.index.score_cols;
    const Kept kept = {reinterpret_cast<const uint32_t*>(scores), n_parts, total, total <= LIST_MAX};
    __syncthreads();
    if (!kept.listed) return kept;
#pragma unroll 2
    for (uint32_t at = threadIdx.x; at < total; at += SELECT_THREADS) {
        const uint32_t p = kept.part_of(s, at);
        s.list[at] = kept.word(p, at - s.offset[p]);
    }
    __syncthreads();
    return kept;
}

// A warp comes to each of the parts' kept scores, 32 at a time: number `first` of a part and on.
template <class Visit>
DEVICE void for_kept(const Kept& kept, const Select& s, Visit visit) {
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t part = threadIdx.x / 32; part < kept.n_parts; part += SELECT_WARPS) {
        const uint32_t n = s.kept[part];
        for (uint32_t first = 0; first < n; first += 32) {
            const bool exists = first + lane < n;
            visit(part, first, exists, exists ? kept.word(part, first + lane) : 0u);
        }
    }
}

// The rank of the last that is chosen, where `wanted` of the threshold's bin are; `equal` of that rank are.
DEVICE uint32_t last_rank(const Kept& kept, uint32_t wanted, Select& s, uint32_t& equal) {
    uint32_t prefix = 0;
#pragma unroll 1
    for (int digit = 1; digit >= 0; digit--) {
        for (uint32_t i = threadIdx.x; i < DIGITS; i += SELECT_THREADS) s.bins[i] = 0;
        __syncthreads();
        const auto count = [&](uint32_t word) {
            const uint32_t rank = rank_of(word);
            const bool counts = rank < SURE && (digit == 1 || rank >> DIGIT_BITS == prefix);
            if (counts) atomicAdd(&s.bins[digit == 1 ? rank >> DIGIT_BITS : rank % DIGITS], 1u);
        };
        if (kept.listed) {
#pragma unroll 1
            for (uint32_t i = threadIdx.x; i < kept.total; i += SELECT_THREADS) count(s.list[i]);
        } else {
            for_kept(kept, s, [&](uint32_t, uint32_t, bool exists, uint32_t word) {
                if (exists) count(word);
            });
        }
        __syncthreads();
        uint32_t above;
        const uint32_t found =
            threshold_bin<DIGITS / SELECT_THREADS>(s.bins, wanted, s.sums, s.chosen, above);
        prefix = prefix << DIGIT_BITS | found;
        wanted -= above;
        __syncthreads();
    }
    equal = wanted;
    return prefix;
}

// Ascending ids of those above the last rank, and of the first `n_equal` of it.
DEVICE void write_ids(const Kept& kept, uint32_t last, uint32_t n_equal, uint32_t* ids, Select& s) {
    const uint32_t lane = threadIdx.x % 32;
    s.higher[threadIdx.x] = s.equal[threadIdx.x] = 0;
    __syncthreads();
    uint32_t above = 0, same = 0;
    for_kept(kept, s, [&](uint32_t part, uint32_t first, bool exists, uint32_t word) {
        if (first == 0) above = same = 0;
        above += __popc(__ballot_sync(FULL_WARP, exists && rank_of(word) > last));
        same += __popc(__ballot_sync(FULL_WARP, exists && rank_of(word) == last));
        if (lane == 0) s.higher[part] = above, s.equal[part] = same;
    });
    __syncthreads();
    uint32_t total;
    const uint32_t higher_before = sum_before(s.higher[threadIdx.x], s.sums, total);
    const uint32_t equal_before = sum_before(s.equal[threadIdx.x], s.sums, total);
    __syncthreads();
    s.higher[threadIdx.x] = higher_before;
    s.equal[threadIdx.x] = equal_before;
    __syncthreads();
    for_kept(kept, s, [&](uint32_t part, uint32_t first, bool exists, uint32_t word) {
        if (first == 0) above = s.higher[part], same = s.equal[part];
        const uint32_t rank = rank_of(word), before = (1u << lane) - 1;
        const uint32_t higher = __ballot_sync(FULL_WARP, exists && rank > last);
        const uint32_t equal = __ballot_sync(FULL_WARP, exists && rank == last);
        const uint32_t own_same = same + __popc(equal & before);
        const bool takes = exists && (rank > last || (rank == last && own_same < n_equal));
        const uint32_t place = above + __popc(higher & before) + min(own_same, n_equal);
        if (takes) ids[place] = part * PART + (word >> PLACE_SHIFT);
        above += __popc(higher);
        same += __popc(equal);
    });
}

// The same from the list, in which a thread has neighbours.
DEVICE void write_listed(const Kept& kept, uint32_t last, uint32_t n_equal, uint32_t* ids, Select& s) {
    const uint32_t each = (kept.total + SELECT_THREADS - 1) / SELECT_THREADS, first = each * threadIdx.x;
    const uint32_t end = min(first + each, kept.total);
    uint32_t above = 0, same = 0, total;
#pragma unroll 1
    for (uint32_t i = first; i < end; i++) {
        const uint32_t rank = rank_of(s.list[i]);
        above += rank > last ? 1 : 0;
        same += rank == last ? 1 : 0;
    }
    uint32_t higher = sum_before(above, s.sums, total), equal = sum_before(same, s.sums, total);
#pragma unroll 1
    for (uint32_t i = first; i < end; i++) {
        const uint32_t word = s.list[i];
        const bool is_above = rank_of(word) > last, is_equal = rank_of(word) == last;
        if (is_above || (is_equal && equal < n_equal)) {
            ids[higher + min(equal, n_equal)] = kept.part_of(s, i) * PART + (word >> PLACE_SHIFT);
        }
        higher += is_above ? 1 : 0;
        equal += is_equal ? 1 : 0;
    }
}

// grid: (parts, tile rows). The best rows, ascending; ties go to the lowest index.
KERNEL_OCC(SELECT_THREADS, 1, index_select_few, IndexFewArgs) {
    SHARED Select s;
    const uint32_t r = blockIdx.y, row = a.index.first_row + r, visible = visible_rows(a.index, row);
    const uint32_t top_k = a.index.top_k, n_parts = (visible + PART - 1) / PART;
    uint32_t* ids = a.index.ids + uint64_t(row) * top_k;
    if (visible <= top_k) {
        if (blockIdx.x > 0) return;
        for (uint32_t i = threadIdx.x; i < visible; i += blockDim.x) ids[i] = i;
        return;
    }
    if (blockIdx.x >= n_parts) return;
    uint32_t* bins = a.bins + uint64_t(r) * BINS;
    uint32_t above;
    const uint32_t threshold =
        threshold_bin<BINS / SELECT_THREADS>(bins, top_k, s.sums, s.chosen, above);
    keep_part(a, r, visible, threshold, s);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) s.last = atomicAdd(a.done + r, 1u) + 1 == n_parts;
    __syncthreads();
    if (!s.last) return;
    __threadfence();
    if (threadIdx.x == 0) a.done[r] = 0;
    for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
    const Kept kept = gather(a, r, n_parts, s);
    uint32_t n_equal;
    const uint32_t last = last_rank(kept, top_k - above, s, n_equal);
    if (kept.listed) {
        write_listed(kept, last, n_equal, ids, s);
    } else {
        write_ids(kept, last, n_equal, ids, s);
    }
}
