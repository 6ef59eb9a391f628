// Attention of few rows on the tensor cores, for rows in the Model format: a block has sixteen heads and
// a share of the keys, which it decodes to f16 in shared memory, a tile at a time. A warp has 64 of the
// channels, of the scores as of the result.
//
// Queries are normed and rotated in f32 and rounded to f16; scores are sums over f16 products, softmax is
// f32, its weights are rounded to f16.
#include "attend.cuh"
#include "kv_half.cuh"
#include "matmul/mma.cuh"

#define DIM 512
#define HEADS 16
#define TILE 32
#define WARPS 8
// Words of two halves, of a decoded key and of a head's scores: eight more than whole turns of the banks,
// so that neighbouring rows fall into different ones.
#define KEY_WORDS (DIM / 2 + 8)
#define SCORE_WORDS (TILE + 8)
#define WEIGHT_HALVES (TILE + 8)
#define KEYS_EACH (TILE / WARPS)

struct Shared {
    uint32_t keys[TILE * KEY_WORDS];
    float scores[WARPS][HEADS * SCORE_WORDS];
    float squares[WARPS][HEADS];
    // [head, sixteen keys, t, key t + 4 i]: as a lane wants them.
    uint16_t weights[HEADS * WEIGHT_HALVES];
    float shrink[HEADS];
};

// Where a lane is: the rows g and g + 8 of the block's heads, and the warp's channels from 4 t on.
struct Place {
    uint32_t warp, lane, g, t, r, first_head;
};

// A lane's rotations: of two pairs of channels in each of four steps.
struct Angles {
    float sine[8], cosine[8];
};

DEVICE uint32_t channel_of(const Place& p, uint32_t step) { return 64 * p.warp + 16 * step + 4 * p.t; }

DEVICE void query_angles(Angles& angles, const AttendArgs& a, const Place& p, uint32_t pos) {
    const uint32_t tail = DIM - 2 * a.rope.n_pairs;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t channel = channel_of(p, i / 2) + i % 2 * 2;
        angles.sine[i] = 0.0f, angles.cosine[i] = 1.0f;
        if (a.raw && channel >= tail) {
            rope_angle(a.rope, (channel - tail) / 2, pos, angles.sine[i], angles.cosine[i]);
        }
    }
}

DEVICE uint32_t two_halves(float low, float high) {
    return float_to_half(low) | uint32_t(float_to_half(high)) << 16;
}

DEVICE float sum_over_four(float v) {
    v += __shfl_xor_sync(FULL_WARP, v, 1);
    return v + __shfl_xor_sync(FULL_WARP, v, 2);
}

// The queries of rows g and g + 8, as they are.
DEVICE void load_queries(const AttendArgs& a, const Place& p, float4 (&q)[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint64_t row = uint64_t(p.r) * a.n_heads + p.first_head + p.g + 8 * half;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            q[half][k] = *reinterpret_cast<const float4*>(a.q + row * DIM + channel_of(p, k));
        }
    }
}

// A warp's part of the heads' squares.
DEVICE void leave_squares(const Place& p, const float4 (&q)[2][4], Shared& s) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float4& v = q[half][k];
            sum += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        }
        sum = sum_over_four(sum);
        if (p.t == 0) s.squares[p.warp][p.g + 8 * half] = sum;
    }
}

// Normed, rotated and rounded: the left operands of four steps.
DEVICE void finish_queries(const AttendArgs& a, const Place& p, const Angles& angles, float4 (&q)[2][4],
                           const Shared& s, uint32_t (&left)[4][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += s.squares[w][p.g + 8 * half];
        const float scale = a.raw ? 1.0f / sqrtf(sum / float(DIM) + a.eps) : 1.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float4& v = q[half][k];
            v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
            rope_turn(angles.sine[2 * k], angles.cosine[2 * k], v.x, v.y);
            rope_turn(angles.sine[2 * k + 1], angles.cosine[2 * k + 1], v.z, v.w);
            left[k][half] = two_halves(v.x, v.y);
            left[k][half + 2] = two_halves(v.z, v.w);
        }
    }
}

// Keys that lay there before the step did: no kernel of the step writes them. The others were staged or
// picked in it.
#define OLD_KEYS 1
#define NEW_KEYS 2

DEVICE bool is_old(const AttendArgs& a, const StepRow& row, const Visible& v, uint32_t i) {
    if (i < v.n_window) return v.first_pos + i < row.committed;
    return !v.picked && i - v.n_window < row.committed / a.pooled.ratio;
}

// A warp's keys of a tile, as far as they are of these kinds. Each of its lanes finds the place of one of
// all keys; the last visible one stands in for those behind it.
DEVICE void load_pieces(const AttendArgs& a, const StepRow& row, const Place& p, const Visible& v,
                        uint32_t first, uint32_t kinds, Piece (&pieces)[KEYS_EACH]) {
    const uint32_t key = min(first + p.lane, v.n_window + v.n_rows - 1);
    const uint32_t kind = is_old(a, row, v, key) ? OLD_KEYS : NEW_KEYS;
    const uint64_t mine =
        (kind & kinds) != 0 ? reinterpret_cast<uint64_t>(key_row(a, row, p.r, v, key)) : 0;
#pragma unroll
    for (uint32_t k = 0; k < KEYS_EACH; k++) {
        const uint64_t at = __shfl_sync(FULL_WARP, mine, KEYS_EACH * p.warp + k);
        if (at != 0) load_piece(pieces[k], a.format, reinterpret_cast<const uint8_t*>(at), p.lane);
    }
}

DEVICE void store_pieces(const AttendArgs& a, const Place& p, const Piece (&pieces)[KEYS_EACH], Shared& s) {
#pragma unroll
    for (uint32_t k = 0; k < KEYS_EACH; k++) {
        uint4 low, high;
        piece_halves(pieces[k], 16 * p.lane < a.format.coded, low, high);
        uint4* to =
            reinterpret_cast<uint4*>(s.keys + (KEYS_EACH * p.warp + k) * KEY_WORDS + 8 * p.lane);
        to[0] = low, to[1] = high;
    }
}

// The warp's part of the tile's scores.
DEVICE void score_tile(const Place& p, const uint32_t (&left)[4][4], Shared& s) {
    float c[TILE / 8][4];
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
            const uint32_t at = (8 * n + p.g) * KEY_WORDS + channel_of(p, k) / 2;
            const uint2 key = *reinterpret_cast<const uint2*>(s.keys + at);
            mma_f16(c[n], left[k], key.x, key.y);
        }
    }
    float* scores = s.scores[p.warp] + p.g * SCORE_WORDS + 2 * p.t;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        *reinterpret_cast<float2*>(scores + 8 * n) = make_float2(c[n][0], c[n][1]);
        *reinterpret_cast<float2*>(scores + 8 * SCORE_WORDS + 8 * n) = make_float2(c[n][2], c[n][3]);
    }
}

// The running softmax of the head that sixteen threads share.
struct Running {
    float largest, weight;
};

// Scores become weights; a thread has two keys of a head. `left`: keys of the tile that are there.
DEVICE void weigh_tile(Running& run, float scale, uint32_t left, Shared& s) {
    const uint32_t head = threadIdx.x / 16, key = threadIdx.x % 16 * 2;
    float low = 0.0f, high = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float2 part = *reinterpret_cast<const float2*>(s.scores[w] + head * SCORE_WORDS + key);
        low += part.x;
        high += part.y;
    }
    low = key < left ? low * scale : -INFINITY;
    high = key + 1 < left ? high * scale : -INFINITY;
    float largest = fmaxf(low, high);
#pragma unroll
    for (int o = 8; o > 0; o >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, o));
    largest = fmaxf(largest, run.largest);
    const float shrink = expf(run.largest - largest);
    low = expf(low - largest);
    high = expf(high - largest);
    float sum = low + high;
#pragma unroll
    for (int o = 8; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
    run.largest = largest;
    run.weight = run.weight * shrink + sum;
    uint16_t* to = s.weights + head * WEIGHT_HALVES + key / 16 * 16 + key % 16 / 4;
    to[key % 4 * 4] = float_to_half(low);
    to[key % 4 * 4 + 4] = float_to_half(high);
    if (key == 0) s.shrink[head] = shrink;
}

// Adds the tile's keys: of sixteen channels, even ones are the columns of one product and odd ones of
// another, so that a lane gets four neighbours.
DEVICE void add_tile(const Place& p, float (&sums)[4][2][4], const Shared& s) {
    const float shrink[2] = {s.shrink[p.g], s.shrink[p.g + 8]};
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) sums[j][i / 4][i % 4] *= shrink[i % 4 / 2];
    }
#pragma unroll
    for (int step = 0; step < TILE / 16; step++) {
        const uint16_t* weights = s.weights + p.g * WEIGHT_HALVES + 16 * step + 4 * p.t;
        const uint2 low = *reinterpret_cast<const uint2*>(weights);
        const uint2 high = *reinterpret_cast<const uint2*>(weights + 8 * WEIGHT_HALVES);
        const uint32_t left[4] = {low.x, high.x, low.y, high.y};
        const uint32_t* keys = s.keys + (16 * step + p.t) * KEY_WORDS + 32 * p.warp + p.g;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t key[4];
#pragma unroll
            for (int i = 0; i < 4; i++) key[i] = keys[4 * i * KEY_WORDS + 8 * j];
            mma_f16(sums[j][0], left, __byte_perm(key[0], key[1], 0x5410),
                    __byte_perm(key[2], key[3], 0x5410));
            mma_f16(sums[j][1], left, __byte_perm(key[0], key[1], 0x7632),
                    __byte_perm(key[2], key[3], 0x7632));
        }
    }
}

DEVICE void leave_part(const AttendArgs& a, const Place& p, const float (&sums)[4][2][4], const Running& run) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint64_t split = uint64_t(p.r) * a.n_splits + blockIdx.z;
        float* part = a.parts + (split * a.n_heads + p.first_head + p.g + 8 * half) * DIM;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *even = sums[j][0] + 2 * half, *odd = sums[j][1] + 2 * half;
            *reinterpret_cast<float4*>(part + channel_of(p, j)) =
                make_float4(even[0], odd[0], even[1], odd[1]);
        }
    }
    if (threadIdx.x % 16 == 0) {
        const uint64_t head = uint64_t(p.r) * a.n_heads + p.first_head + threadIdx.x / 16;
        a.stats[head * a.n_splits + blockIdx.z] = make_float2(run.largest, run.weight);
    }
}

// grid: (heads / 16, rows, splits). Shared: `Shared`.
KERNEL_EARLY(32 * WARPS, 2, attend_few, AttendArgs) {
    DYNAMIC_SHARED(Shared, shared);
    Shared& s = *shared;
    const uint32_t lane = threadIdx.x % 32;
    const Place p = {threadIdx.x / 32, lane, lane / 4, lane % 4, blockIdx.y, blockIdx.x * HEADS};
    const StepRow& row = a.step.row(p.r);
    const Visible v = visible(a, row);
    const uint32_t total = v.n_window + v.n_rows, tiles = (total + TILE - 1) / TILE;
    const uint32_t share = (tiles + a.n_splits - 1) / a.n_splits * TILE;
    const uint32_t begin = blockIdx.z * share, end = min(begin + share, total);
    Angles angles;
    query_angles(angles, a, p, row.pos);
    Piece pieces[KEYS_EACH];
    if (begin < end) load_pieces(a, row, p, v, begin, OLD_KEYS, pieces);
    await_previous();
    float sums[4][2][4];
#pragma unroll
    for (int i = 0; i < 32; i++) sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
    Running run = {-3.0e38f, 0.0f};
    if (begin < end) {
        load_pieces(a, row, p, v, begin, NEW_KEYS, pieces);
        uint32_t left[4][4];
        {
            float4 q[2][4];
            load_queries(a, p, q);
            leave_squares(p, q, s);
            __syncthreads();
            finish_queries(a, p, angles, q, s, left);
        }
#pragma unroll 1
        for (uint32_t first = begin; first < end; first += TILE) {
            store_pieces(a, p, pieces, s);
            if (first + TILE < end) {
                load_pieces(a, row, p, v, first + TILE, OLD_KEYS | NEW_KEYS, pieces);
            }
            __syncthreads();
            score_tile(p, left, s);
            __syncthreads();
            weigh_tile(run, a.scale, end - first, s);
            __syncthreads();
            add_tile(p, sums, s);
            __syncthreads();
        }
    }
    leave_part(a, p, sums, run);
}
