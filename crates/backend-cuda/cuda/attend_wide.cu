// Attention of many rows on sm_90: a block has a row's 64 heads of 512 channels, and goes through its keys
// in tiles of 64, which a warpgroup decodes to f16 in shared memory while two others multiply.
//
// Scores are sums over f16 products, softmax is f32, its weights are rounded to f16. Either of the two
// warpgroups has the scores of half a tile's keys, and half of the channels of the result.
#include "attend.cuh"
#include "matmul/halves.cuh"
#include "wgmma.cuh"

#define DIM 512
#define HEADS 64
#define TILE 64
#define BUFFERS 2
#define THREADS 384
// A tile of rows: blocks of 64 channels, in each 128 bytes a row.
#define BLOCK_BYTES (TILE * 128)
#define TILE_BYTES (DIM / 64 * BLOCK_BYTES)
#define LOG2_E 1.4426950408889634f
// What results are multiplied with as f16: a turned one can be larger than any value.
#define HALF_SCALE 0.5f
// Keys that a warp loads before it decodes the first.
#define AHEAD 4

// Queries come as they are projected, and results go to f16 rows in slices of heads, turned back (round.cu
// has the order).
struct AttendHalvesArgs {
    AttendArgs attend;
    uint8_t* out;
    float* factors;
    uint32_t rows, slice_heads;
};

#if WGMMA

struct Shared {
    uint8_t q[TILE_BYTES];
    uint8_t keys[BUFFERS][TILE_BYTES];
    uint8_t weights[BLOCK_BYTES];
    float largest[2][HEADS];
    float cosines[ROPE_PAIRS], sines[ROPE_PAIRS];
    Barrier full[BUFFERS], empty[BUFFERS], met;
};

// The largest scale whose products with codes f16 holds, times 2^8: code bits seen as f16 are 2^-8 of the
// code. A fault (255) stays visible.
DEVICE uint32_t half_scale(uint32_t e) {
    const int exponent = min(int(e) - 127 + 8 + 15, 30);
    const uint32_t bits = exponent > 0 ? uint32_t(exponent) << 10 : exponent > -10 ? 512u >> -exponent : 0u;
    return (e == 255 ? 0x7e00u : bits) * 0x10001u;
}

// Bytes 0 and 1 of a word, E4M3 codes, as f16.
DEVICE uint32_t code_halves(uint32_t word, uint32_t selector, uint32_t scale) {
    const uint32_t high = __byte_perm(word, 0, selector);
    return half2_mul((high & 0x80008000u) | (high >> 1 & 0x3f803f80u), scale);
}

// A lane's part of a row, as stored: sixteen codes under their scale, as far as there are, and two channels of
// the f16 tail.
struct Piece {
    uint2 codes[2];
    uint32_t scale, tail;
};

DEVICE void load_piece(Piece& p, const RowFormat& f, const uint8_t* row, uint32_t lane) {
    if (16 * lane < f.coded) {
        p.codes[0] = load8(row + 16 * lane), p.codes[1] = load8(row + 16 * lane + 8);
        p.scale = row[f.code_bytes + lane / 4];
    }
    p.tail = load4(row + f.tail_offset + 4 * lane);
}

DEVICE void store_piece(const Piece& p, const RowFormat& f, uint32_t lane, uint32_t key, uint8_t* tile) {
    if (16 * lane < f.coded) {
        const uint32_t scale = half_scale(p.scale);
        uint4 low, high;
        low.x = code_halves(p.codes[0].x, 0x1404, scale), low.y = code_halves(p.codes[0].x, 0x3424, scale);
        low.z = code_halves(p.codes[0].y, 0x1404, scale), low.w = code_halves(p.codes[0].y, 0x3424, scale);
        high.x = code_halves(p.codes[1].x, 0x1404, scale), high.y = code_halves(p.codes[1].x, 0x3424, scale);
        high.z = code_halves(p.codes[1].y, 0x1404, scale), high.w = code_halves(p.codes[1].y, 0x3424, scale);
        uint8_t* block = tile + lane / 4 * BLOCK_BYTES;
        *reinterpret_cast<uint4*>(block + swizzled(key, lane % 4 * 16)) = low;
        *reinterpret_cast<uint4*>(block + swizzled(key, lane % 4 * 16 + 8)) = high;
    }
    const uint32_t channel = f.coded + 2 * lane;
    *reinterpret_cast<uint32_t*>(tile + channel / 64 * BLOCK_BYTES + swizzled(key, channel % 64)) = p.tail;
}

// The decoding warpgroup: a warp takes 16 keys of every tile. Keys that do not exist become zeros.
struct Decoder {
    const AttendArgs& a;
    const StepRow& row;
    uint32_t r;
    const Visible& v;
    uint32_t total, warp, lane;

    // The row of a lane's key of a tile: lanes 16 on repeat the others.
    MEMBER const uint8_t* own_key(uint32_t tile) const {
        const uint32_t key = tile * TILE + warp * 16 + lane % 16;
        return key_row(a, row, r, v, min(key, total - 1));
    }

    MEMBER void load(Piece (&pieces)[AHEAD], const uint8_t* own, uint32_t batch) const {
#pragma unroll
        for (uint32_t k = 0; k < AHEAD; k++) {
            const uint64_t at = __shfl_sync(FULL_WARP, reinterpret_cast<uint64_t>(own), int(batch * AHEAD + k));
            load_piece(pieces[k], a.format, reinterpret_cast<const uint8_t*>(at), lane);
        }
    }

    MEMBER void store(Piece (&pieces)[AHEAD], uint32_t tile, uint32_t batch, uint8_t* to) const {
#pragma unroll
        for (uint32_t k = 0; k < AHEAD; k++) {
            const uint32_t key = warp * 16 + batch * AHEAD + k;
            if (tile * TILE + key >= total) {
                const uint2 zero = make_uint2(0, 0);
                pieces[k] = {{zero, zero}, 127, 0};
            }
            store_piece(pieces[k], a.format, lane, key, to);
        }
    }

    // What comes next is on its way while a batch is decoded, also from one tile to the next.
    MEMBER void run(Shared& s) const {
        const uint32_t tiles = (total + TILE - 1) / TILE;
        const uint8_t *own = own_key(0), *next = own_key(1);
        Piece pieces[2][AHEAD];
        load(pieces[0], own, 0);
        for (uint32_t i = 0; i < tiles; i++) {
            const uint32_t buffer = i % BUFFERS;
            const uint8_t* after = own_key(i + 2);
#pragma unroll
            for (uint32_t batch = 0; batch < 16 / AHEAD; batch++) {
                const bool last = batch + 1 == 16 / AHEAD;
                load(pieces[(batch + 1) % 2], last ? next : own, last ? 0 : batch + 1);
                if (batch == 0) barrier_wait(&s.empty[buffer], i / BUFFERS % 2 ^ 1);
                store(pieces[batch % 2], i, batch, s.keys[buffer]);
            }
            written_for_wgmma();
            __syncwarp();
            if (lane == 0) barrier_arrive(&s.full[buffer]);
            own = next, next = after;
        }
    }
};

// The row's queries, times the scale of scores, as f16: the threads that multiply.
DEVICE void load_queries(const AttendArgs& a, uint32_t r, uint32_t first_head, uint8_t* to) {
    const float* q = a.q + (uint64_t(r) * a.n_heads + first_head) * DIM;
    const float scale = a.scale * LOG2_E;
    for (uint32_t i = threadIdx.x; i < HEADS * DIM / 8; i += 256) {
        const uint32_t head = i / (DIM / 8), channel = i % (DIM / 8) * 8;
        const float4 x = *reinterpret_cast<const float4*>(q + head * DIM + channel);
        const float4 y = *reinterpret_cast<const float4*>(q + head * DIM + channel + 4);
        uint4 bits;
        bits.x = float_to_half(x.x * scale) | uint32_t(float_to_half(x.y * scale)) << 16;
        bits.y = float_to_half(x.z * scale) | uint32_t(float_to_half(x.w * scale)) << 16;
        bits.z = float_to_half(y.x * scale) | uint32_t(float_to_half(y.y * scale)) << 16;
        bits.w = float_to_half(y.z * scale) | uint32_t(float_to_half(y.w * scale)) << 16;
        *reinterpret_cast<uint4*>(to + channel / 64 * BLOCK_BYTES + swizzled(head, channel % 64)) = bits;
    }
}

// The same from queries as they are projected: a warp norms and rotates every eighth head.
DEVICE void load_raw_queries(const AttendArgs& a, uint32_t r, uint32_t first_head, Shared& s) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, tail = DIM - 2 * a.rope.n_pairs;
#pragma unroll 2
    for (uint32_t head = warp; head < HEADS; head += 8) {
        const float* q = a.q + (uint64_t(r) * a.n_heads + first_head + head) * DIM + 8 * lane;
        float v[2][8], sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 x = *reinterpret_cast<const float4*>(q + 256 * j);
            const float4 y = *reinterpret_cast<const float4*>(q + 256 * j + 4);
            v[j][0] = x.x, v[j][1] = x.y, v[j][2] = x.z, v[j][3] = x.w;
            v[j][4] = y.x, v[j][5] = y.y, v[j][6] = y.z, v[j][7] = y.w;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += v[j][i] * v[j][i];
        }
        const float norm = 1.0f / sqrtf(warp_sum(sum) / float(DIM) + a.eps);
        const float scale = norm * a.scale * LOG2_E;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t channel = 256 * j + 8 * lane;
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float low = v[j][2 * i] * scale, high = v[j][2 * i + 1] * scale;
                if (channel >= tail) {
                    const uint32_t pair = (channel - tail) / 2 + i;
                    const float old = low;
                    low = old * s.cosines[pair] - high * s.sines[pair];
                    high = old * s.sines[pair] + high * s.cosines[pair];
                }
                words[i] = float_to_half(low) | uint32_t(float_to_half(high)) << 16;
            }
            *reinterpret_cast<uint4*>(s.q + channel / 64 * BLOCK_BYTES + swizzled(head, channel % 64)) =
                make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

DEVICE float over_four(float v, bool sum) {
    const float other = __shfl_xor_sync(FULL_WARP, v, 1);
    v = sum ? v + other : fmaxf(v, other);
    const float more = __shfl_xor_sync(FULL_WARP, v, 2);
    return sum ? v + more : fmaxf(v, more);
}

// The running softmax of two heads, row g and g + 8 of the warp's sixteen.
struct Running {
    float largest[2], weight[2];
};

// Scores become weights in shared memory; `shrink` is what earlier sums are worth.
DEVICE void weigh(Running& run, float (&scores)[16], uint32_t left, Shared& s, uint32_t& phase,
                  float (&shrink)[2]) {
    const uint32_t group = threadIdx.x / 128, t = threadIdx.x % 4;
    const uint32_t head = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float& score = scores[i / 2 * 4 + 2 * half + i % 2];
            if (group * 32 + i / 2 * 8 + 2 * t + i % 2 >= left) score = -INFINITY;
            largest = fmaxf(largest, score);
        }
        largest = over_four(largest, false);
        if (t == 0) s.largest[group][head + 8 * half] = largest;
    }
    // Both warpgroups are also done with the weights of the tile before.
    meet(&s.met, phase, 1, 256);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = head + 8 * half;
        const float largest = fmaxf(run.largest[half], fmaxf(s.largest[0][row], s.largest[1][row]));
        shrink[half] = exp2f(run.largest[half] - largest);
        run.largest[half] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float low = exp2f(scores[4 * j + 2 * half] - largest);
            const float high = exp2f(scores[4 * j + 2 * half + 1] - largest);
            sum += low + high;
            *reinterpret_cast<uint32_t*>(s.weights + swizzled(row, group * 32 + 8 * j + 2 * t)) =
                float_to_half(low) | uint32_t(float_to_half(high)) << 16;
        }
        run.weight[half] = run.weight[half] * shrink[half] + sum;
    }
    written_for_wgmma();
    meet(&s.met, phase, 1, 256);
}

// What the sums of rows g and g + 8 are multiplied with: the other keys' weights and the sink's take part.
DEVICE void last_factors(const AttendArgs& a, const Running& run, uint32_t first_head, Shared& s, uint32_t& phase,
                         float (&factors)[2]) {
    const uint32_t group = threadIdx.x / 128, t = threadIdx.x % 4;
    const uint32_t head = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float own = over_four(run.weight[half], true);
        if (t == 0) s.largest[group][head + 8 * half] = own;
    }
    meet(&s.met, phase, 1, 256);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = head + 8 * half;
        const float sink = a.sinks[first_head + row] * LOG2_E;
        // The sink may be far above all scores.
        const float largest = fmaxf(run.largest[half], sink);
        const float shrink = exp2f(run.largest[half] - largest);
        const float weight = s.largest[0][row] + s.largest[1][row];
        factors[half] = shrink / (weight * shrink + exp2f(sink - largest));
    }
}

DEVICE void store_sums(const AttendArgs& a, const float (&sums)[128], const float (&factors)[2], uint32_t r,
                       uint32_t first_head) {
    const uint32_t group = threadIdx.x / 128, t = threadIdx.x % 4;
    const uint32_t head = first_head + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float* out = a.out + (uint64_t(r) * a.n_heads + head + 8 * half) * DIM + group * 256;
#pragma unroll
        for (int j = 0; j < 32; j++) {
            *reinterpret_cast<float2*>(out + 8 * j + 2 * t) = make_float2(
                sums[4 * j + 2 * half] * factors[half], sums[4 * j + 2 * half + 1] * factors[half]);
        }
    }
}

// Of a tile of 32 channels a lane has columns 2 t and 2 t + 1 of every eight, and stores what lies side by side
// in the order of f16 rows: those of the even columns, or of the odd ones, of lanes t and its neighbour.
DEVICE void store_halves(const AttendHalvesArgs& args, const float (&sums)[128], const float (&factors)[2],
                         uint32_t r, uint32_t first_head, const Shared& s) {
    const AttendArgs& a = args.attend;
    const uint32_t group = threadIdx.x / 128, t = threadIdx.x % 4, tail = DIM - 2 * a.rope.n_pairs;
    const uint32_t own_head = first_head + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t head = own_head + 8 * half, slice = head / args.slice_heads;
        const float factor = factors[half] * HALF_SCALE;
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = 4 * tile + i;
                const uint32_t channel = group * 256 + 8 * j + 2 * t;
                float even = sums[4 * j + 2 * half] * factor, odd = sums[4 * j + 2 * half + 1] * factor;
                if (channel >= tail) {
                    // Backwards.
                    const uint32_t pair = (channel - tail) / 2;
                    const float old = even;
                    even = old * s.cosines[pair] + odd * s.sines[pair];
                    odd = odd * s.cosines[pair] - old * s.sines[pair];
                }
                const float other = __shfl_xor_sync(FULL_WARP, t % 2 ? even : odd, 1);
                const float low = t % 2 ? other : even, high = t % 2 ? odd : other;
                words[i] = float_to_half(low) | uint32_t(float_to_half(high)) << 16;
            }
            const uint32_t column = head % args.slice_heads * DIM + group * 256 + 32 * tile;
            const uint64_t step = uint64_t(slice) * (args.slice_heads * DIM / 64) + column / 64;
            uint8_t* to = args.out + (step * args.rows + r / 8 * 8) * 128;
            *reinterpret_cast<uint4*>(to + swizzled(r % 8, column % 64 + 8 * t)) =
                make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

// Two warpgroups; `halves` is null where queries are finished and results are plain.
template <bool FUSED>
DEVICE void attend_tiles(const AttendArgs& a, const AttendHalvesArgs* halves, uint32_t r, uint32_t first_head,
                         uint32_t total, Shared& s) {
    const uint32_t group = threadIdx.x / 128, tiles = (total + TILE - 1) / TILE;
    uint32_t phase = 0;
    if constexpr (FUSED) {
        load_raw_queries(a, r, first_head, s);
    } else {
        load_queries(a, r, first_head, s.q);
    }
    written_for_wgmma();
    meet(&s.met, phase, 1, 256);
    Running run = {{-3.0e38f, -3.0e38f}, {0.0f, 0.0f}};
    float sums[128];
#pragma unroll
    for (int i = 0; i < 128; i++) sums[i] = 0.0f;
    for (uint32_t i = 0; i < tiles; i++) {
        const uint32_t buffer = i % BUFFERS;
        uint8_t* const keys = s.keys[buffer];
        barrier_wait(&s.full[buffer], i / BUFFERS % 2);
        float scores[16];
#pragma unroll
        for (int j = 0; j < 16; j++) scores[j] = 0.0f;
        wgmma_hold(scores);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            const RightTile q = left_tile(s.q + k / 4 * BLOCK_BYTES);
            const RightTile key = right_tile(keys + k / 4 * BLOCK_BYTES + group * 32 * 128);
            wgmma_shared<32>(scores, right_step(q, k % 4), right_step(key, k % 4));
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(scores);
        float shrink[2];
        weigh(run, scores, total - i * TILE, s, phase, shrink);
#pragma unroll
        for (int j = 0; j < 128; j++) sums[j] *= shrink[j / 2 % 2];
        wgmma_hold(sums);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < TILE / 16; k++) {
            const RightTile weights = left_tile(s.weights);
            const ValueTile values = value_tile(keys + group * 4 * BLOCK_BYTES, BLOCK_BYTES);
            wgmma_values<256>(sums, right_step(weights, k), value_step(values, k));
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(sums);
        if (threadIdx.x % 32 == 0) barrier_arrive(&s.empty[buffer]);
    }
    float factors[2];
    last_factors(a, run, first_head, s, phase, factors);
    if constexpr (FUSED) {
        store_halves(*halves, sums, factors, r, first_head, s);
    } else {
        store_sums(a, sums, factors, r, first_head);
    }
}

// grid: (heads / 64, rows).
template <bool FUSED>
DEVICE void attend_row(const AttendArgs& a, const AttendHalvesArgs* halves) {
    DYNAMIC_SHARED(uint8_t, bytes);
#ifdef KEID_EMULATE
    Shared& s = *reinterpret_cast<Shared*>(bytes);
#else
    Shared& s = *reinterpret_cast<Shared*>(bytes + (0u - shared_place(bytes)) % 1024);
#endif
    const uint32_t r = blockIdx.y, first_head = blockIdx.x * HEADS;
    const StepRow& row = a.step.row(r);
    const Visible v = visible(a, row);
    if (threadIdx.x == 0) {
        for (int i = 0; i < BUFFERS; i++) {
            barrier_init(&s.full[i], 4);
            barrier_init(&s.empty[i], 8);
        }
        barrier_init(&s.met, 256);
        barriers_ready();
    }
    if (FUSED && threadIdx.x < a.rope.n_pairs) {
        // The rotation of (1, 0).
        float p = 1.0f, q = 0.0f;
        rope_pair(a.rope, threadIdx.x, row.pos, p, q);
        s.cosines[threadIdx.x] = p, s.sines[threadIdx.x] = q;
    }
    if (FUSED && threadIdx.x % halves->slice_heads == 0 && threadIdx.x < HEADS) {
        const uint32_t slice = (first_head + threadIdx.x) / halves->slice_heads;
        halves->factors[uint64_t(slice) * halves->rows + r] = 1.0f / (HALF_SCALE * GAIN);
    }
    __syncthreads();
    const uint32_t total = v.n_window + v.n_rows;
    if (threadIdx.x >= 256) {
        registers_less<112>();
        const Decoder decoder = {a, row, r, v, total, threadIdx.x / 32 % 4, threadIdx.x % 32};
        decoder.run(s);
    } else {
        registers_more<192>();
        attend_tiles<FUSED>(a, halves, r, first_head, total, s);
    }
}

#endif

KERNEL_OCC(THREADS, 1, attend_wide, AttendArgs) { WGMMA_BODY(attend_row<false>(a, nullptr);) }

KERNEL_OCC(THREADS, 1, attend_wide_halves, AttendHalvesArgs) { WGMMA_BODY(attend_row<true>(a.attend, &a);) }
