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
#define SCORE_WARPS 16
// Keys of a warp: a tile.
#define WARP_KEYS 16
#define BLOCK_KEYS (SCORE_WARPS * WARP_KEYS)
// Eights of heads that a warp multiplies side by side.
#define HEADS_AT_ONCE 4

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

// A warp rounds four of the row's heads.
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

// Scores of a tile of keys: sums[half] of row g + 8 half, in all four lanes of the row.
DEVICE void score_keys(const Keys& keys, const Queries& s, float (&sums)[2]) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t left[8][4], largest[2];
    left_keys(keys, left, largest);
    sums[0] = sums[1] = 0.0f;
#pragma unroll 1
    for (uint32_t n = 0; n < HEADS; n += 8 * HEADS_AT_ONCE) {
        float dots[HEADS_AT_ONCE][4];
#pragma unroll
        for (int i = 0; i < 4 * HEADS_AT_ONCE; i++) dots[i / 4][i % 4] = 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int h = 0; h < HEADS_AT_ONCE; h++) {
                const uint32_t* query = s.words + (n + 8 * h + g) * QUERY_WORDS + 4 * t;
                const uint4 q = *reinterpret_cast<const uint4*>(query + 16 * j);
                mma_f16(dots[h], left[2 * j], q.x, q.y);
                mma_f16(dots[h], left[2 * j + 1], q.z, q.w);
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS_AT_ONCE; h++) {
            const float2 weight = *reinterpret_cast<const float2*>(s.weights + n + 8 * h + 2 * t);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float* two = dots[h] + 2 * i;
                sums[i] += fmaxf(two[0], 0.0f) * weight.x + fmaxf(two[1], 0.0f) * weight.y;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sums[i] += __shfl_xor_sync(FULL_WARP, sums[i], 1);
        sums[i] += __shfl_xor_sync(FULL_WARP, sums[i], 2);
        sums[i] *= power_of_two(largest[i]);
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
    // Lanes 4 g and 4 g + 1 store the scores of rows g and g + 8.
    const uint32_t mine = own + lane / 4 + lane % 2 * 8;
    // One block chooses among few without counts.
    const bool counts = visible > PART;
    const StepRow& row = index.step.row(r);
    float* scores = index.scores + uint64_t(blockIdx.y) * index.score_cols;
    Keys keys;
    const auto load = [&](uint32_t at) {
        load_keys(keys, index.pooled, index.format, index.step, row, at, visible);
    };
    load(first + own);
    round_queries(index, r, sine, cosine, queries);
    __syncthreads();
    for (; first < visible; first += gridDim.x * BLOCK_KEYS) {
        const Keys now = keys;
        if (first + gridDim.x * BLOCK_KEYS < visible) load(first + gridDim.x * BLOCK_KEYS + own);
        float sums[2];
        score_keys(now, queries, sums);
        const float score = lane % 2 == 0 ? sums[0] : sums[1];
        if (lane % 4 < 2 && first + mine < visible) {
            scores[first + mine] = score;
            if (counts) atomicAdd(&bins[ordered(score) >> REST_BITS], 1u);
        }
    }
    if (!counts) return;
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

// Scores of a thread where one block chooses among all of a row, neighbours.
#define OWN (PART / SELECT_THREADS)
#define PASS_BITS 8
#define PASS_BINS (1 << PASS_BITS)
#define PASSES (32 / PASS_BITS)

struct SelectOne {
    uint32_t bins[PASSES][PASS_BINS];
    uint32_t low[SELECT_WARPS], high[SELECT_WARPS], sums[SELECT_WARPS];
};

// The highest of PASS_BINS such that it and those above hold at least `wanted`; `above` are in those above, `own`
// in it. Every warp finds the same.
DEVICE uint32_t highest_bin(const uint32_t* bins, uint32_t wanted, uint32_t& above, uint32_t& own) {
    const uint32_t lane = threadIdx.x % 32, EACH = PASS_BINS / 32, first = (31 - lane) * EACH;
    uint32_t v[EACH], all = 0;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) v[i] = bins[first + i], all += v[i];
    uint32_t until = all;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const uint32_t other = __shfl_up_sync(FULL_WARP, until, o);
        if (lane >= uint32_t(o)) until += other;
    }
    uint32_t before = until - all, found = 0;
    above = own = 0;
    const bool here = before < wanted && until >= wanted;
#pragma unroll
    for (int i = int(EACH) - 1; i >= 0; i--) {
        if (before < wanted && before + v[i] >= wanted) found = first + i, above = before, own = v[i];
        before += v[i];
    }
    const int lane_of = __ffs(int(__ballot_sync(FULL_WARP, here))) - 1;
    above = __shfl_sync(FULL_WARP, above, lane_of);
    own = __shfl_sync(FULL_WARP, own, lane_of);
    return __shfl_sync(FULL_WARP, found, lane_of);
}

// The choice by one block from no more than PART scores: a digit at a time, from the first bit in which any two
// differ. Those whose upper bits are above `prefix` are chosen, and the first `wanted` of those that have it.
DEVICE void choose_from_one(const float* scores, uint32_t visible, uint32_t top_k, uint32_t* ids, SelectOne& s) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = OWN * threadIdx.x;
    uint32_t words[OWN], low = 0xffffffffu, high = 0;
#pragma unroll
    for (uint32_t i = 0; i < OWN; i++) words[i] = first + i < visible ? ordered(__ldcg(scores + first + i)) : 0u;
#pragma unroll
    for (uint32_t i = 0; i < OWN; i++) {
        if (first + i < visible) low = min(low, words[i]);
        high = max(high, words[i]);
    }
    low = warp_min_bits(low), high = warp_max_bits(high);
    if (lane == 0) s.low[warp] = low, s.high[warp] = high;
    __syncthreads();
    low = warp_min_bits(s.low[lane % SELECT_WARPS]), high = warp_max_bits(s.high[lane % SELECT_WARPS]);
    // Bits that are not yet looked at, and what lies above them.
    uint32_t bits = low == high ? 0u : 32u - __clz(int(low ^ high)), wanted = top_k;
    uint64_t prefix = uint64_t(high) >> bits;
#pragma unroll 1
    for (uint32_t pass = 0; bits > 0; pass++) {
        const uint32_t shift = bits > PASS_BITS ? bits - PASS_BITS : 0, mask = (1u << (bits - shift)) - 1;
#pragma unroll
        for (uint32_t i = 0; i < OWN; i++) {
            if (first + i < visible && uint64_t(words[i]) >> bits == prefix) {
                atomicAdd(&s.bins[pass][words[i] >> shift & mask], 1u);
            }
        }
        __syncthreads();
        uint32_t above, own;
        const uint32_t found = highest_bin(s.bins[pass], wanted, above, own);
        prefix = prefix << (bits - shift) | found;
        wanted -= above;
        bits = shift;
        if (own == wanted) break;
    }
    uint32_t counts = 0, total;
#pragma unroll
    for (uint32_t i = 0; i < OWN; i++) {
        const uint64_t upper = uint64_t(words[i]) >> bits;
        if (first + i < visible) counts += upper > prefix ? 1u : upper == prefix ? 0x10000u : 0u;
    }
    const uint32_t before = sum_before(counts, s.sums, total);
    uint32_t above = before & 0xffff, same = before >> 16;
#pragma unroll
    for (uint32_t i = 0; i < OWN; i++) {
        const uint64_t upper = uint64_t(words[i]) >> bits;
        const bool exists = first + i < visible, is_above = exists && upper > prefix;
        const bool is_same = exists && upper == prefix;
        if (is_above || (is_same && same < wanted)) ids[above + min(same, wanted)] = first + i;
        above += is_above ? 1 : 0;
        same += is_same ? 1 : 0;
    }
}

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
KERNEL_EARLY(SELECT_THREADS, 1, index_select_few, IndexFewArgs) {
    SHARED Select s;
    SHARED SelectOne one;
    const uint32_t r = blockIdx.y, row = a.index.first_row + r, visible = visible_rows(a.index, row);
    const uint32_t top_k = a.index.top_k, n_parts = (visible + PART - 1) / PART;
    uint32_t* ids = a.index.ids + uint64_t(row) * top_k;
    for (uint32_t i = threadIdx.x; i < PASSES * PASS_BINS; i += SELECT_THREADS) (&one.bins[0][0])[i] = 0;
    await_previous();
    if (visible <= top_k) {
        if (blockIdx.x > 0) return;
        for (uint32_t i = threadIdx.x; i < visible; i += blockDim.x) ids[i] = i;
        return;
    }
    if (blockIdx.x >= n_parts) return;
    if (n_parts == 1) {
        const float* scores = a.index.scores + uint64_t(r) * a.index.score_cols;
        return choose_from_one(scores, visible, top_k, ids, one);
    }
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
