// A token for each row of logits: the best one, or a draw among those that the cuts leave. The choice
// is that of `backend::Sampler`: weights have its bits, and masses are sums of integers, which no order
// changes.
#include "common.cuh"

// Rows of a launch.
#define SAMPLE_ROWS 16
// Blocks that look for the best token of a row.
#define BEST_BLOCKS 32
#define BEST_THREADS 256
#define DRAW_THREADS 1024
// Weights as integers: the best weighs 2^45, and fewer than 2^18 of them fit into 64 bits.
#define ONE 35184372088832.0f
#define DIGIT_BITS 8
#define DIGITS 256

// `DrawArgs` of src/sample.rs.
struct Draw {
    uint32_t row;        // of the logits
    uint32_t greedy;
    uint32_t top_k;      // 0: all
    uint32_t share;      // of all mass, in 2^-24
    float scale;         // 1 / temperature
    float floor;         // logits below the best by more than this, times scale, are out
    float top_p;         // 1: all
    uint32_t unused;
};

struct SampleArgs {
    const float* logits;
    float* best;         // [rows][BEST_BLOCKS]
    uint32_t* best_ids;  // [rows][BEST_BLOCKS]
    uint32_t* tokens;    // [rows]
    uint32_t n_vocab;
    uint32_t unused;
    Draw draws[SAMPLE_ROWS];
};

#define NO_TOKEN 0xffffffffu

// The larger value, the lower id of equals; what is no number never comes here.
DEVICE void better(float& v, uint32_t& id, float other, uint32_t other_id) {
    const bool take = other_id != NO_TOKEN &&
                      (id == NO_TOKEN || other > v || (other == v && other_id < id));
    v = take ? other : v;
    id = take ? other_id : id;
}

DEVICE void warp_better(float& v, uint32_t& id) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const float other = __shfl_xor_sync(FULL_WARP, v, o);
        const uint32_t other_id = __shfl_xor_sync(FULL_WARP, id, o);
        better(v, id, other, other_id);
    }
}

// grid: BEST_BLOCKS, rows.
KERNEL(BEST_THREADS, sample_best, SampleArgs) {
    SHARED float values[BEST_THREADS / 32];
    SHARED uint32_t ids[BEST_THREADS / 32];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* x = a.logits + uint64_t(a.draws[blockIdx.y].row) * a.n_vocab;
    float best = 0.0f;
    uint32_t id = NO_TOKEN;
    const uint32_t step = BEST_BLOCKS * BEST_THREADS;
#pragma unroll 4
    for (uint32_t i = blockIdx.x * BEST_THREADS + threadIdx.x; i < a.n_vocab; i += step) {
        const float v = x[i];
        better(best, id, v, v == v ? i : NO_TOKEN);
    }
    warp_better(best, id);
    if (lane == 0) values[warp] = best, ids[warp] = id;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (uint32_t i = 1; i < BEST_THREADS / 32; i++) better(best, id, values[i], ids[i]);
    a.best[blockIdx.y * BEST_BLOCKS + blockIdx.x] = best;
    a.best_ids[blockIdx.y * BEST_BLOCKS + blockIdx.x] = id;
}

// Never contracted: the host's weights have these bits.
#ifdef KEID_EMULATE
DEVICE float times(float a, float b) { return a * b; }
DEVICE float plus(float a, float b) { return a + b; }
#else
DEVICE float times(float a, float b) { return __fmul_rn(a, b); }
DEVICE float plus(float a, float b) { return __fadd_rn(a, b); }
#endif

// e^x for x in [-80, 0], as `exp` of crates/backend/src/sampler/weights.rs.
DEVICE float weigh_exp(float x) {
    const float round = 12582912.0f;
    const float shifted = plus(times(x, 1.44269504088896341f), round);
    const float n = plus(shifted, -round);
    float r = plus(x, -times(n, 0.69314575f));
    r = plus(r, -times(n, 1.4286068e-6f));
    float s = plus(1.0f / 120.0f, times(r, plus(1.0f / 720.0f, times(r, 1.0f / 5040.0f))));
    s = plus(1.0f / 24.0f, times(r, s));
    s = plus(1.0f / 6.0f, times(r, s));
    s = plus(0.5f, times(r, s));
    s = plus(1.0f, times(r, s));
    s = plus(1.0f, times(r, s));
    const uint32_t power = (__float_as_uint(shifted) - __float_as_uint(round) + 127u) << 23;
    return times(s, __uint_as_float(power));
}

// What is left of a row.
struct Kept {
    const float* x;
    float best, scale, floor;
    float least;         // lighter ones are out,
    uint32_t last_tie;   // and those that weigh this with a higher id

    MEMBER float raw(uint32_t i) const {
        const float d = times(plus(x[i], -best), scale);
        return d >= floor ? weigh_exp(d) : 0.0f;
    }
    MEMBER float weight(uint32_t i) const {
        const float w = raw(i);
        return w > least || (w == least && i <= last_tie) ? w : 0.0f;
    }
};

DEVICE uint64_t mass(float w) { return uint64_t(w * ONE); }

DEVICE uint64_t warp_mass(uint64_t v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL_WARP, v, o);
    return v;
}

// Shared memory of a row's block.
struct Room {
    unsigned long long masses[DIGITS];   // the type that atomics have
    uint32_t counts[DIGITS];
    uint64_t of_warp[32];
    uint64_t above, target;
    uint32_t rank, bits;
};

// Every thread gets the sum.
DEVICE uint64_t block_mass(uint64_t v, Room& s) {
    v = warp_mass(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_mass(s.of_warp[threadIdx.x % 32]);
}

// All weight that is left.
DEVICE uint64_t total_mass(const Kept& kept, uint32_t n, Room& s) {
    uint64_t sum = 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < n; i += DRAW_THREADS) sum += mass(kept.weight(i));
    return block_mass(sum, s);
}

// The weight at which tokens, heaviest first, are `rank` or have `target` mass: digit by digit of its
// bits, from the top. Leaves what is heavier in `s.above`, and in `s.rank` the tokens at that weight
// that stay.
template <bool BY_MASS>
DEVICE float cut(const Kept& kept, uint32_t n, Room& s) {
    uint32_t bits = 0;
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        __syncthreads();
        if (threadIdx.x < DIGITS) s.masses[threadIdx.x] = 0, s.counts[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += DRAW_THREADS) {
            const float w = kept.weight(i);
            const uint32_t key = __float_as_uint(w);
            const bool here = shift == 32 - DIGIT_BITS || (key ^ bits) >> (shift + DIGIT_BITS) == 0;
            if (w > 0.0f && here) {
                const uint32_t digit = key >> shift & (DIGITS - 1);
                if (BY_MASS) atomicAdd(&s.masses[digit], static_cast<unsigned long long>(mass(w)));
                atomicAdd(&s.counts[digit], 1u);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = DIGITS;
            uint64_t above = s.above;
            uint32_t rank = s.rank;
            uint32_t lowest = DIGITS;
            while (digit-- > 0) {
                if (s.counts[digit] == 0) continue;
                lowest = digit;
                if (BY_MASS ? above + s.masses[digit] >= s.target : s.counts[digit] >= rank) break;
                above += s.masses[digit];
                rank -= s.counts[digit];
            }
            // What rounding hides lies among the lightest.
            if (digit == NO_TOKEN) {
                above -= s.masses[lowest];
                rank += s.counts[lowest];
            }
            s.above = above;
            s.rank = rank;
            s.bits = bits | lowest << shift;
        }
        __syncthreads();
        bits = s.bits;
    }
    return __uint_as_float(bits);
}

// The id of the `rank`-th token, counted from 1, that weighs `least`; the last one if there are fewer.
DEVICE uint32_t nth_tie(const Kept& kept, uint32_t n, float least, uint32_t rank, Room& s) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t part = (n + 31) / 32, start = warp * part, end = min(n, start + part);
    uint64_t count = 0;
    for (uint32_t i = start + lane; i < end; i += 32) count += kept.weight(i) == least;
    count = warp_mass(count);
    __syncthreads();
    if (lane == 0) s.of_warp[warp] = count;
    if (threadIdx.x == 0) s.bits = n - 1;
    __syncthreads();
    uint64_t before = 0;
    for (uint32_t w = 0; w < warp; w++) before += s.of_warp[w];
    // One warp has it; a lane finds it among the ties that come by.
    if (before < rank && rank <= before + count) {
        for (uint32_t i = start; i < end; i += 32) {
            const bool tie = i + lane < end && kept.weight(i + lane) == least;
            const uint32_t ballot = __ballot_sync(FULL_WARP, tie);
            const uint32_t mine = uint32_t(before) + __popc(ballot & ((2u << lane) - 1));
            if (tie && mine == rank) s.bits = i + lane;
            before += __popc(ballot);
        }
    }
    __syncthreads();
    return s.bits;
}

// The first token at which the mass of it and those before it passes `target`, looked for in [from, to)
// by all warps, each in a stretch of its own; narrows the range to a stretch, and the target with it.
DEVICE void narrow(const Kept& kept, uint32_t& from, uint32_t& to, uint64_t& target, Room& s) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t part = (to - from + 31) / 32;
    const uint32_t start = min(to, from + warp * part), end = min(to, start + part);
    uint64_t sum = 0;
#pragma unroll 4
    for (uint32_t i = start + lane; i < end; i += 32) sum += mass(kept.weight(i));
    sum = warp_mass(sum);
    __syncthreads();
    if (lane == 0) s.of_warp[warp] = sum;
    __syncthreads();
    uint32_t found = 0;
    while (found < 31 && target >= s.of_warp[found]) target -= s.of_warp[found++];
    from = min(to, from + found * part);
    to = min(to, from + part);
}

DEVICE uint32_t draw(const Kept& kept, uint32_t n, uint64_t target, Room& s) {
    uint32_t from = 0, to = n;
    while (to - from > 1) narrow(kept, from, to, target, s);
    return from;
}

// grid: rows.
KERNEL(DRAW_THREADS, sample_draw, SampleArgs) {
    SHARED Room s;
    const uint32_t lane = threadIdx.x % 32;
    const Draw& d = a.draws[blockIdx.x];
    float best = a.best[blockIdx.x * BEST_BLOCKS + lane];
    uint32_t id = a.best_ids[blockIdx.x * BEST_BLOCKS + lane];
    warp_better(best, id);
    // All threads agree: the same values in the same order.
    const bool finite = id != NO_TOKEN && best - best == 0.0f;
    if (d.greedy || !finite) {
        if (threadIdx.x == 0) a.tokens[blockIdx.x] = id == NO_TOKEN ? 0 : id;
        return;
    }
    const uint32_t n = a.n_vocab;
    Kept kept = {a.logits + uint64_t(d.row) * n, best, d.scale, d.floor, 0.0f, NO_TOKEN};
    uint64_t total = total_mass(kept, n, s);
    if (d.top_k != 0 && d.top_k < n) {
        if (threadIdx.x == 0) s.above = 0, s.rank = d.top_k;
        const float least = cut<false>(kept, n, s);
        const uint32_t tie = nth_tie(kept, n, least, s.rank, s);
        kept.least = least, kept.last_tie = tie;
        total = total_mass(kept, n, s);
    }
    if (d.top_p < 1.0f) {
        if (threadIdx.x == 0) {
            s.above = 0, s.rank = n;
            s.target = uint64_t(double(d.top_p) * double(total));
        }
        const float least = cut<true>(kept, n, s);
        const uint64_t one = max(mass(least), uint64_t(1));
        const uint64_t missing = s.target > s.above ? s.target - s.above : 0;
        const uint32_t rank = max(uint32_t((missing + one - 1) / one), 1u);
        const uint32_t tie = nth_tie(kept, n, least, rank, s);
        kept.least = least, kept.last_tie = tie;
        total = total_mass(kept, n, s);
    }
    if (total == 0) {
        // A temperature so small that its inverse is no number.
        if (threadIdx.x == 0) a.tokens[blockIdx.x] = id;
        return;
    }
    const uint64_t target = (total >> 24) * d.share + ((total & 0xffffff) * d.share >> 24);
    const uint32_t token = draw(kept, n, target, s);
    if (threadIdx.x == 0) a.tokens[blockIdx.x] = token;
}
