// Attention over window and selected rows, any head size and row format: two heads for each warp, keys
// decoded once for sixteen heads, softmax computed while they pass. The keys of a row can be divided
// among blocks, whose parts are put together in a fixed order.
#include "attend.cuh"
#include "matmul/round.cuh"

#define KEYS 16
#define WARPS 8
#define WARP_HEADS 2
#define HEADS (WARPS * WARP_HEADS)

// Eight channels of a row in the Model format, where eight lie side by side under one scale.
DEVICE void decode_eight(const RowFormat& f, const uint8_t* row, uint32_t channel, float* out) {
    float4 low, high;
    if (channel < f.coded) {
        const uint2 codes = *reinterpret_cast<const uint2*>(row + channel);
        const float scale = power_of_two(row[f.code_bytes + channel / 64]);
        low = make_float4(e4m3_value(codes.x & 255u, scale), e4m3_value(codes.x >> 8 & 255u, scale),
                          e4m3_value(codes.x >> 16 & 255u, scale), e4m3_value(codes.x >> 24, scale));
        high = make_float4(e4m3_value(codes.y & 255u, scale), e4m3_value(codes.y >> 8 & 255u, scale),
                           e4m3_value(codes.y >> 16 & 255u, scale), e4m3_value(codes.y >> 24, scale));
    } else {
        const uint2* tail = reinterpret_cast<const uint2*>(row + f.tail_offset + 2 * (channel - f.coded));
        const uint2 one = tail[0], two = tail[1];
        low = make_float4(half_to_float(uint16_t(one.x)), half_to_float(uint16_t(one.x >> 16)),
                          half_to_float(uint16_t(one.y)), half_to_float(uint16_t(one.y >> 16)));
        high = make_float4(half_to_float(uint16_t(two.x)), half_to_float(uint16_t(two.x >> 16)),
                           half_to_float(uint16_t(two.y)), half_to_float(uint16_t(two.y >> 16)));
    }
    reinterpret_cast<float4*>(out)[0] = low;
    reinterpret_cast<float4*>(out)[1] = high;
}

// One warp decodes a row; channels up to the stride become zeros.
DEVICE void decode_key(const RowFormat& f, const uint8_t* row, uint32_t stride, bool eights, float* out) {
    const uint32_t lane = threadIdx.x % 32;
    if (eights) {
        for (uint32_t i = 8 * lane; i < f.dim; i += 256) decode_eight(f, row, i, out + i);
        return;
    }
    for (uint32_t i = lane; i < stride; i += 32) out[i] = i < f.dim ? row_value(f, row, i) : 0.0f;
}

// The running softmax of a warp's heads; QUADS times four channels of each in every lane.
template <int QUADS>
struct Running {
    float4 q[WARP_HEADS][QUADS];
    float4 sums[WARP_HEADS][QUADS];
    float largest[WARP_HEADS], weight[WARP_HEADS];
};

DEVICE float dot4(const float4& x, const float4& y) {
    return x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}

DEVICE void add_scaled(float4& sum, float weight, const float4& v) {
    sum.x += weight * v.x;
    sum.y += weight * v.y;
    sum.z += weight * v.z;
    sum.w += weight * v.w;
}

// Key t's four channels of a lane; beyond the row they are zeros of the query, whatever lies there.
DEVICE const float4& quad(const float* keys, uint32_t stride, uint32_t t, uint32_t at) {
    return *reinterpret_cast<const float4*>(keys + t * stride + at);
}

template <int QUADS>
DEVICE void score_keys(const Running<QUADS>& s, const float* keys, uint32_t stride, uint32_t n,
                       float scale, float (&score)[WARP_HEADS]) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < WARP_HEADS; h++) score[h] = -INFINITY;
    for (uint32_t first = 0; first < n; first += 4) {
        float dots[WARP_HEADS][4];
#pragma unroll
        for (int t = 0; t < 4; t++) {
#pragma unroll
            for (int h = 0; h < WARP_HEADS; h++) dots[h][t] = 0.0f;
#pragma unroll
            for (int j = 0; j < QUADS; j++) {
                const uint32_t at = 4 * lane + 128 * j;
                if (at >= stride) continue;
                const float4 key = quad(keys, stride, first + t, at);
#pragma unroll
                for (int h = 0; h < WARP_HEADS; h++) dots[h][t] += dot4(s.q[h][j], key);
            }
        }
#pragma unroll
        for (int t = 0; t < 4; t++) {
#pragma unroll
            for (int h = 0; h < WARP_HEADS; h++) {
                const float dot = warp_sum(dots[h][t]) * scale;
                if (lane == first + t && lane < n) score[h] = dot;
            }
        }
    }
}

template <int QUADS>
DEVICE void take_keys(Running<QUADS>& s, const float* keys, uint32_t stride, uint32_t n, float scale) {
    const uint32_t lane = threadIdx.x % 32;
    float score[WARP_HEADS], p[WARP_HEADS];
    score_keys<QUADS>(s, keys, stride, n, scale, score);
#pragma unroll
    for (int h = 0; h < WARP_HEADS; h++) {
        const float largest = fmaxf(s.largest[h], warp_max(score[h]));
        const float shrink = expf(s.largest[h] - largest);
        p[h] = lane < n ? expf(score[h] - largest) : 0.0f;
        s.weight[h] = s.weight[h] * shrink + warp_sum(p[h]);
        s.largest[h] = largest;
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            float4& sum = s.sums[h][j];
            sum = make_float4(sum.x * shrink, sum.y * shrink, sum.z * shrink, sum.w * shrink);
        }
    }
    for (uint32_t t = 0; t < n; t++) {
        float weight[WARP_HEADS];
#pragma unroll
        for (int h = 0; h < WARP_HEADS; h++) weight[h] = __shfl_sync(FULL_WARP, p[h], t);
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            const uint32_t at = 4 * lane + 128 * j;
            if (at >= stride) continue;
            const float4 key = quad(keys, stride, t, at);
#pragma unroll
            for (int h = 0; h < WARP_HEADS; h++) add_scaled(s.sums[h][j], weight[h], key);
        }
    }
}

// Where a head's channel lies in an output row of `dim`, or nowhere.
template <int QUADS>
DEVICE void store_head(const float4 (&sums)[QUADS], float factor, uint32_t dim, float* out) {
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const uint32_t at = 4 * (threadIdx.x % 32) + 128 * j;
        if (at < dim) out[at] = sums[j].x * factor;
        if (at + 1 < dim) out[at + 1] = sums[j].y * factor;
        if (at + 2 < dim) out[at + 2] = sums[j].z * factor;
        if (at + 3 < dim) out[at + 3] = sums[j].w * factor;
    }
}

// The norm of a head and the rotation of its tail.
template <int QUADS>
DEVICE void finish_query(float4 (&q)[QUADS], const AttendArgs& a, uint32_t pos) {
    const uint32_t dim = a.format.dim, tail = dim - 2 * a.rope.n_pairs;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < QUADS; j++) sum += dot4(q[j], q[j]);
    const float scale = 1.0f / sqrtf(warp_sum(sum) / float(dim) + a.eps);
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const uint32_t at = 4 * (threadIdx.x % 32) + 128 * j;
        q[j] = make_float4(q[j].x * scale, q[j].y * scale, q[j].z * scale, q[j].w * scale);
        if (at >= tail && at < dim) rope_pair(a.rope, (at - tail) / 2, pos, q[j].x, q[j].y);
        if (at + 2 >= tail && at + 2 < dim) rope_pair(a.rope, (at + 2 - tail) / 2, pos, q[j].z, q[j].w);
    }
}

template <int QUADS>
DEVICE void start(Running<QUADS>& s, const AttendArgs& a, uint32_t r, uint32_t first_head) {
    const uint32_t dim = a.format.dim;
#pragma unroll
    for (int h = 0; h < WARP_HEADS; h++) {
        const uint32_t head = first_head + h;
        const float* q = a.q + (uint64_t(r) * a.n_heads + head) * dim;
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            const uint32_t at = 4 * (threadIdx.x % 32) + 128 * j;
            const bool is_head = head < a.n_heads;
            s.q[h][j] = make_float4(is_head && at < dim ? q[at] : 0.0f,
                                    is_head && at + 1 < dim ? q[at + 1] : 0.0f,
                                    is_head && at + 2 < dim ? q[at + 2] : 0.0f,
                                    is_head && at + 3 < dim ? q[at + 3] : 0.0f);
            s.sums[h][j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        s.largest[h] = -3.0e38f;
        s.weight[h] = 0.0f;
        if (a.raw) finish_query<QUADS>(s.q[h], a, a.step.row(r).pos);
    }
}

template <int QUADS>
DEVICE void finish(const Running<QUADS>& s, const AttendArgs& a, uint32_t r, uint32_t first_head) {
    const uint32_t dim = a.format.dim;
#pragma unroll
    for (int h = 0; h < WARP_HEADS; h++) {
        const uint32_t head = first_head + h;
        if (head >= a.n_heads) return;
        if (!a.leaves_parts) {
            // The sink weighs in the denominator only.
            const float largest = fmaxf(s.largest[h], a.sinks[head]);
            const float shrink = expf(s.largest[h] - largest);
            const float factor = shrink / (s.weight[h] * shrink + expf(a.sinks[head] - largest));
            store_head<QUADS>(s.sums[h], factor, dim, a.out + (uint64_t(r) * a.n_heads + head) * dim);
            continue;
        }
        const uint64_t place = (uint64_t(r) * a.n_splits + blockIdx.z) * a.n_heads + head;
        store_head<QUADS>(s.sums[h], 1.0f, dim, a.parts + place * dim);
        if (threadIdx.x % 32 == 0) {
            const uint64_t row = uint64_t(r) * a.n_heads + head;
            a.stats[row * a.n_splits + blockIdx.z] = make_float2(s.largest[h], s.weight[h]);
        }
    }
}

template <int QUADS>
DEVICE void attend_body(const AttendArgs& a, float* keys) {
    const uint32_t r = blockIdx.y, dim = a.format.dim, stride = (dim + 3) / 4 * 4;
    const uint32_t first_head = (blockIdx.x * WARPS + threadIdx.x / 32) * WARP_HEADS;
    const StepRow& row = a.step.row(r);
    const Visible v = visible(a, row);
    const uint32_t total = v.n_window + v.n_rows;
    const uint32_t tiles = (total + KEYS - 1) / KEYS;
    const uint32_t share = (tiles + a.n_splits - 1) / a.n_splits * KEYS;
    const uint32_t begin = blockIdx.z * share;
    const uint32_t end = begin + share < total ? begin + share : total;
    const bool eights = a.format.format == ROWS_MODEL && dim % 8 == 0 && a.format.coded % 8 == 0
        && a.format.bytes % 8 == 0 && a.format.tail_offset % 8 == 0;
    Running<QUADS> s;
    start<QUADS>(s, a, r, first_head);
    for (uint32_t first = begin; first < end; first += KEYS) {
        const uint32_t n = end - first < KEYS ? end - first : KEYS;
        __syncthreads();
        for (uint32_t t = threadIdx.x / 32; t < KEYS; t += WARPS) {
            // The last key stands in for those that are missing: finite, and weighed with nothing.
            const uint32_t i = first + (t < n ? t : n - 1);
            decode_key(a.format, key_row(a, row, r, v, i), stride, eights, keys + t * stride);
        }
        __syncthreads();
        take_keys<QUADS>(s, keys, stride, n, a.scale);
    }
    finish<QUADS>(s, a, r, first_head);
}

// grid: (heads / 16, rows, splits). Shared: KEYS decoded keys. The number is quads of channels a lane.
KERNEL_OCC(256, 2, attend_2, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<2>(a, keys);
}

KERNEL_OCC(256, 2, attend_4, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<4>(a, keys);
}

KERNEL_OCC(256, 1, attend_8, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<8>(a, keys);
}

struct CombineArgs {
    Rope rope;                // that turns the heads back
    const float* parts;       // [rows, splits, heads, dim]
    const float2* stats;      // [rows, heads, splits]
    const float* sinks;
    float* out;               // may be null
    Records rounded;          // of whole rows of heads, where a head is made of 256s
    StepView step;
    uint32_t n_heads, dim, n_splits, turn;
};

#define SPLITS_MAX 64
// Splits whose values a thread has on their way at once.
#define AT_ONCE 16

// What each split's sums are multiplied with; a lane has those of splits `lane` and `lane` + 32.
DEVICE void split_shares(const float2* stats, float sink, uint32_t n_splits, float (&share)[2]) {
    const uint32_t lane = threadIdx.x % 32;
    float2 s[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        s[i] = make_float2(-INFINITY, 0.0f);
        if (lane + 32 * i < n_splits) s[i] = stats[lane + 32 * i];
    }
    const float largest = warp_max(fmaxf(fmaxf(s[0].x, s[1].x), sink));
#pragma unroll
    for (int i = 0; i < 2; i++) share[i] = expf(s[i].x - largest);
    // The sink weighs in the denominator only.
    const float weight = warp_sum(s[0].y * share[0] + s[1].y * share[1]) + expf(sink - largest);
#pragma unroll
    for (int i = 0; i < 2; i++) share[i] /= weight;
}

// One channel of a head from all splits. Whole warps come here.
DEVICE float combined(const CombineArgs& a, const float* parts, const float2* stats, float sink,
                      bool exists) {
    const uint64_t stride = uint64_t(a.n_heads) * a.dim;
    float share[2], sum = 0.0f;
    for (uint32_t first = 0; first < a.n_splits; first += AT_ONCE) {
        float v[AT_ONCE];
#pragma unroll
        for (int s = 0; s < AT_ONCE; s++) {
            v[s] = exists && first + s < a.n_splits ? parts[(first + s) * stride] : 0.0f;
        }
        if (first == 0) split_shares(stats, sink, a.n_splits, share);
#pragma unroll
        for (int s = 0; s < AT_ONCE; s++) {
            const uint32_t at = first + s;
            const float of_split = __shfl_sync(FULL_WARP, at < 32 ? share[0] : share[1], at % 32);
            if (at < a.n_splits) sum += v[s] * of_split;
        }
    }
    return sum;
}

// grid: (256 channels of a head, rows). Puts the parts of a head together and turns it back, if that is wanted:
// heads that are not made of 256s, whose records nobody leaves.
KERNEL_EARLY(256, 4, attend_combine, CombineArgs) {
    const uint32_t chunks = (a.dim + 255) / 256, head = blockIdx.x / chunks, r = blockIdx.y;
    const uint32_t i = blockIdx.x % chunks * 256 + threadIdx.x, tail = a.dim - 2 * a.rope.n_pairs;
    const bool exists = i < a.dim, turns = a.turn && exists && i >= tail;
    const float sink = a.sinks[head];
    float sine = 0.0f, cosine = 1.0f;
    if (turns) rope_angle(a.rope, (i - tail) / 2, a.step.row(r).pos, sine, cosine);
    await_previous();
    const float* parts = a.parts + (uint64_t(r) * a.n_splits * a.n_heads + head) * a.dim;
    const float2* stats = a.stats + (uint64_t(r) * a.n_heads + head) * a.n_splits;
    float v = combined(a, parts + i, stats, sink, exists);
    if (a.turn) {
        // The other channel of the pair is the neighbour's, unless pairs lie across warps.
        const bool second = (i - tail) % 2 != 0;
        const uint32_t other_at = second ? i - 1 : i + 1;
        float other = __shfl_xor_sync(FULL_WARP, v, 1);
        if (tail % 2 != 0) other = combined(a, parts + other_at, stats, sink, turns);
        float p = second ? other : v, q = second ? v : other;
        rope_turn(sine, cosine, p, q);
        if (turns) v = second ? q : p;
    }
    if (a.out && exists) a.out[(uint64_t(r) * a.n_heads + head) * a.dim + i] = v;
}

// Warps of a block of attend_join, and splits whose values a lane has on their way at once.
#define JOIN_WARPS 4
#define JOIN_AT_ONCE 4

// Eight neighbouring channels of a head from all splits.
DEVICE void join_eight(const CombineArgs& a, const float* parts, const float2* stats, float sink, float (&v)[8]) {
    const uint64_t stride = uint64_t(a.n_heads) * a.dim;
    float share[2];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = 0.0f;
    for (uint32_t first = 0; first < a.n_splits; first += JOIN_AT_ONCE) {
        float4 own[JOIN_AT_ONCE][2];
#pragma unroll
        for (int s = 0; s < JOIN_AT_ONCE; s++) {
            const float4* from = reinterpret_cast<const float4*>(parts + (first + s) * stride);
            const bool exists = first + s < a.n_splits;
            own[s][0] = exists ? from[0] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            own[s][1] = exists ? from[1] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        if (first == 0) split_shares(stats, sink, a.n_splits, share);
#pragma unroll
        for (int s = 0; s < JOIN_AT_ONCE; s++) {
            const uint32_t at = first + s;
            const float of_split = __shfl_sync(FULL_WARP, at < 32 ? share[0] : share[1], at % 32);
            if (at >= a.n_splits) break;
            const float4 &low = own[s][0], &high = own[s][1];
            v[0] += low.x * of_split, v[1] += low.y * of_split, v[2] += low.z * of_split, v[3] += low.w * of_split;
            v[4] += high.x * of_split, v[5] += high.y * of_split, v[6] += high.z * of_split, v[7] += high.w * of_split;
        }
    }
}

// The same as attend_combine by warps, for heads of whole 256s and an even number of channels before those that
// turn. grid: (fours of 256 channels of a row, rows).
KERNEL_EARLY(32 * JOIN_WARPS, 4, attend_join, CombineArgs) {
    const uint32_t lane = threadIdx.x % 32, chunk = blockIdx.x * JOIN_WARPS + threadIdx.x / 32, r = blockIdx.y;
    const uint32_t chunks = a.dim / 256, head = chunk / chunks, i = chunk % chunks * 256 + 8 * lane;
    if (head >= a.n_heads) return await_previous();
    const uint32_t tail = a.dim - 2 * a.rope.n_pairs;
    const float sink = a.sinks[head];
    float sine[4], cosine[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        sine[k] = 0.0f, cosine[k] = 1.0f;
        if (a.turn && i + 2 * k >= tail) rope_angle(a.rope, (i + 2 * k - tail) / 2, a.step.row(r).pos, sine[k], cosine[k]);
    }
    await_previous();
    const float* parts = a.parts + (uint64_t(r) * a.n_splits * a.n_heads + head) * a.dim + i;
    float v[8];
    join_eight(a, parts, a.stats + (uint64_t(r) * a.n_heads + head) * a.n_splits, sink, v);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (a.turn && i + 2 * k >= tail) rope_turn(sine[k], cosine[k], v[2 * k], v[2 * k + 1]);
    }
    const uint64_t row = uint64_t(r) * a.n_heads + head, record = row * chunks + chunk % chunks;
    if (a.out) {
        float4* to = reinterpret_cast<float4*>(a.out + row * a.dim + i);
        to[0] = make_float4(v[0], v[1], v[2], v[3]);
        to[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
    const Records& to = a.rounded;
    round_chunk(v, to.by_32 ? to.by_32 + record * ACT32_RECORD : nullptr,
                to.by_256 ? to.by_256 + record * ACT256_RECORD : nullptr,
                to.by_halves ? to.by_halves + record * HALVES_RECORD : nullptr);
}
