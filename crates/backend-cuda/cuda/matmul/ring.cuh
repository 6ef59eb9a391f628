// Weights on their way to the tensor cores: every warp has a ring of slots in shared memory, and keeps
// all of them filled or being filled by the bulk copy engine, whatever other warps do. A slot that a
// warp has used is filled again at once. The first slots are filled before the kernel waits for the one
// in front of it, since weights depend on nothing.
#pragma once
#include "panel.cuh"
#include "round.cuh"

// A chunk of Q8_0; two chunks of the formats of half the size; 16 rows of 256 bytes of plain values.
#define SLOT_BYTES 4352
// Bytes of plain values that a slot holds of a row, and between rows: neighbours in other banks.
#define SLOT_ROW 256
#define SLOT_STRIDE 272

// Columns of a slot.
DEVICE uint32_t slot_cols(uint32_t layout) {
    switch (layout) {
        case LAYOUT_Q2_K:
        case LAYOUT_IQ2_XXS:
        case LAYOUT_MXFP4: return 2 * CHUNK_COLS;
        case LAYOUT_F32: return SLOT_ROW / 4;
        case LAYOUT_F16:
        case LAYOUT_BF16: return SLOT_ROW / 2;
        default: return CHUNK_COLS;
    }
}

DEVICE uint32_t chunk_bytes(uint32_t layout) {
    switch (layout) {
        case LAYOUT_Q2_K: return Q2_K_CHUNK;
        case LAYOUT_Q4_K: return Q4_K_CHUNK;
        case LAYOUT_Q6_K: return Q6_K_CHUNK;
        case LAYOUT_IQ2_XXS: return IQ2_XXS_CHUNK;
        case LAYOUT_MXFP4: return MXFP4_CHUNK;
        default: return Q8_0_CHUNK;
    }
}

#ifdef KEID_EMULATE

DEVICE void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t*) {
    __builtin_memcpy(to, from, bytes);
}
DEVICE void barrier_expect(uint64_t*, uint32_t) {}
DEVICE void barrier_start(uint64_t*) {}
DEVICE void barrier_wait(uint64_t*, uint32_t) { __syncwarp(); }

#elif __CUDA_ARCH__ >= 900

// Begins a copy of whole pieces of 16 bytes whose end the barrier counts. Weights are used once a step and are
// more than the second cache holds: they are the first to leave it, so that instructions, constants and what
// kernels hand on stay there.
DEVICE void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
        : "memory");
}
// The barrier's next phase ends when so many bytes have come.
DEVICE void barrier_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
DEVICE void barrier_start(uint64_t* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

#else

// Older devices use other kernels; these are compiled for them all the same.
DEVICE void bulk_copy(void*, const void*, uint32_t, uint64_t*) {}
DEVICE void barrier_expect(uint64_t*, uint32_t) {}
DEVICE void barrier_start(uint64_t*) {}
DEVICE void barrier_wait(uint64_t*, uint32_t) {}

#endif

// What a warp needs to know of a matrix to fetch its slots, worked out once.
struct Slots {
    const uint8_t* w;
    // Bytes of a panel, of a slot, and of the last slot of a panel; 0 for plain values.
    uint32_t panel_bytes, slot_bytes, last_bytes;
    // Slots of a panel; of plain values also their rows and the bytes of a row.
    uint32_t n, rows, row_bytes;

    MEMBER void of(const Matrix& m) {
        const uint32_t cols = slot_cols(m.layout);
        n = (m.cols + cols - 1) / cols;
        w = m.w;
        rows = m.rows;
        if (m.layout >= LAYOUT_F32) {
            slot_bytes = 0;
            row_bytes = m.cols * (m.layout == LAYOUT_F32 ? 4 : 2);
            return;
        }
        const uint32_t bytes = chunk_bytes(m.layout), of_slot = cols / CHUNK_COLS, chunks = chunks_of(m.cols);
        panel_bytes = chunks * bytes;
        slot_bytes = of_slot * bytes;
        last_bytes = panel_bytes - (n - 1) * slot_bytes;
    }
};

// One warp's ring of places. A slot takes one of them, or two neighbours where places are smaller than it is; slots
// of either kind come in pairs then, so that the last place always has its neighbour.
template <int DEPTH, int PLACE_BYTES = SLOT_BYTES>
struct Ring {
    uint8_t* slots;
    uint64_t* barriers;
    // Where the next slot goes, and which is the oldest; places that are on their way or there; which phase
    // every place's barrier is in.
    uint32_t next, oldest, held, phases;

    // `memory` holds the places of all warps, `marks` their barriers.
    MEMBER void start(uint8_t* memory, uint64_t* marks) {
        const uint32_t warp = threadIdx.x / 32;
        slots = memory + warp * DEPTH * PLACE_BYTES;
        barriers = marks + warp * DEPTH;
        next = oldest = held = phases = 0;
        if (threadIdx.x % 32 == 0) {
            for (int i = 0; i < DEPTH; i++) barrier_start(barriers + i);
        }
        __syncwarp();
    }

    MEMBER bool full() const { return held == DEPTH; }

    // Whether there is no room for a slot of two places.
    MEMBER bool full_for_two() const { return held + 2 > DEPTH; }

    // Begins to fill a slot with bytes that lie together.
    MEMBER void begin_at(const uint8_t* from, uint32_t bytes) {
        if (threadIdx.x % 32 == 0) {
            barrier_expect(barriers + next, bytes);
            bulk_copy(slots + next * PLACE_BYTES, from, bytes, barriers + next);
        }
        next = next + 1 == DEPTH ? 0 : next + 1;
        held++;
    }

    // The same of a slot of two places.
    MEMBER void begin_two(const uint8_t* from, uint32_t bytes) {
        begin_at(from, bytes);
        next = next + 1 == DEPTH ? 0 : next + 1;
        held++;
    }

    // The same with plain values: SLOT_ROW bytes of each of a panel's rows, of which so many exist; one row a lane.
    MEMBER void begin_rows_at(const uint8_t* from, uint32_t row_bytes, uint32_t rows) {
        const uint32_t i = threadIdx.x % 32;
        if (i == 0) barrier_expect(barriers + next, CHUNK_ROWS * SLOT_ROW);
        __syncwarp();
        if (i < CHUNK_ROWS) {
            bulk_copy(slots + next * PLACE_BYTES + i * SLOT_STRIDE, from + uint64_t(min(i, rows - 1)) * row_bytes,
                      SLOT_ROW, barriers + next);
        }
        next = next + 1 == DEPTH ? 0 : next + 1;
        held++;
    }

    // The same from slot `at` of a panel of the matrix on.
    MEMBER void begin_rows(const uint8_t* w, uint32_t row_bytes, uint32_t rows, uint32_t panel, uint32_t at) {
        const uint32_t first = panel * CHUNK_ROWS;
        begin_rows_at(w + uint64_t(first) * row_bytes + at * SLOT_ROW, row_bytes, rows - first);
    }

    // Begins to fill a slot with slot `at` of a panel; `w` is where the matrix begins.
    MEMBER void begin(const Slots& m, const uint8_t* w, uint32_t panel, uint32_t at) {
        if (m.slot_bytes == 0) return begin_rows(w, m.row_bytes, m.rows, panel, at);
        const uint32_t size = at + 1 == m.n ? m.last_bytes : m.slot_bytes;
        begin_at(w + uint64_t(panel) * m.panel_bytes + at * m.slot_bytes, size);
    }

    // Waits for the oldest slot.
    MEMBER const uint8_t* front() const {
        barrier_wait(barriers + oldest, phases >> oldest & 1);
        return slots + oldest * PLACE_BYTES;
    }
    // The same of the place that follows the oldest by so many.
    MEMBER const uint8_t* place(uint32_t behind) const {
        const uint32_t at = oldest + behind < DEPTH ? oldest + behind : oldest + behind - DEPTH;
        barrier_wait(barriers + at, phases >> at & 1);
        return slots + at * PLACE_BYTES;
    }

    // Every lane is done with the oldest slot.
    MEMBER void pop() {
        __syncwarp();
        held--;
        phases ^= 1u << oldest;
        oldest = oldest + 1 == DEPTH ? 0 : oldest + 1;
    }
    MEMBER void pop_two() {
        pop();
        held--;
        oldest = oldest + 1 == DEPTH ? 0 : oldest + 1;
    }
};

// The products of a slot of a block format, whose first chunk is number `chunk` of its panel.
template <class F, int WIDE, int GROUPS>
DEVICE void add_slot_chunks(float (&acc)[GROUPS][4], const uint8_t* slot, const Matrix& m, const Input& in,
                            uint32_t at, const uint32_t* grid) {
    const uint32_t record = F::KIND == PER_TILE ? ACT32_RECORD : ACT256_RECORD;
    const uint32_t of_slot = F::CHUNK * 2 <= SLOT_BYTES ? 2 : 1, chunks = chunks_of(m.cols);
#pragma unroll
    for (uint32_t i = 0; i < of_slot; i++) {
        const uint32_t chunk = at * of_slot + i;
        if (chunk >= chunks) break;
        typename F::Raw w;
        F::load(w, Near{slot + i * F::CHUNK}, threadIdx.x % 32);
        const ActRows acts = {in.x + chunk * record, in.row_bytes, in.n_rows};
        add_chunk<F, WIDE, GROUPS>(acc, w, acts, grid);
    }
}

// The same of plain values: 128 or 64 columns.
template <int TYPE, int GROUPS>
DEVICE void add_slot_floats(float (&acc)[GROUPS][4], const uint8_t* slot, const Matrix& m, const Input& in,
                            uint32_t at) {
    const uint32_t g = threadIdx.x % 32 / 4, own = 8 * (threadIdx.x % 4);
    const uint32_t size = TYPE == FLOAT_F32 ? 4 : 2, cols = SLOT_ROW / size;
    const FloatRows x = {in.x, in.row_bytes, in.n_rows, m.cols, true};
#pragma unroll
    for (uint32_t k = 0; k < cols; k += 32) {
        Eight<TYPE> low, high;
        low.near(slot + g * SLOT_STRIDE + (k + own) * size);
        high.near(slot + (g + 8) * SLOT_STRIDE + (k + own) * size);
        float a[8], a8[8];
        low.values(a);
        high.values(a8);
        add_columns<TYPE, GROUPS>(acc, a, a8, x, at * cols + k + own);
    }
}

// The same of F16, with activations in records of halves.
template <int GROUPS>
DEVICE void add_slot_halves(float (&acc)[GROUPS][4], const uint8_t* slot, const Input& in, uint32_t at) {
    const uint32_t g = threadIdx.x % 32 / 4, own = 8 * (threadIdx.x % 4);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const uint32_t row = 8 * group + g;
        if (group > 0 && uint32_t(8 * group) >= in.n_rows) break;
        float main[4] = {0, 0, 0, 0}, rest[4] = {0, 0, 0, 0};
        const uint8_t* x = in.x + row * in.row_bytes + at * (2 * SLOT_ROW) + own * 4;
#pragma unroll
        for (uint32_t k = 0; k < SLOT_ROW / 2; k += 32) {
            uint4 halves = make_uint4(0, 0, 0, 0), rests = halves;
            if (row < in.n_rows) halves = load16(x + k * 4), rests = load16(x + k * 4 + 16);
            const uint4 low = load16(slot + g * SLOT_STRIDE + (k + own) * 2);
            const uint4 high = load16(slot + (g + 8) * SLOT_STRIDE + (k + own) * 2);
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const uint32_t a[4] = {word(low, i), word(high, i), word(low, i + 1), word(high, i + 1)};
                mma_f16(rest, a, word(rests, i), word(rests, i + 1));
                mma_f16(main, a, word(halves, i), word(halves, i + 1));
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) acc[group][i] += (main[i] + rest[i] * (1.0f / REST_SCALE)) * (1.0f / HALF_SCALE);
    }
}

// The products of slot `at` of a panel of any layout of a set.
template <int WIDE, uint32_t LAYOUTS, int GROUPS>
DEVICE void add_slot(float (&acc)[GROUPS][4], const uint8_t* slot, const Matrix& m, const Input& in, uint32_t at,
                     const uint32_t* grid) {
#define BLOCKS(tag, F)                                                                             \
    if constexpr ((LAYOUTS & SET(tag)) != 0) {                                                     \
        if (m.layout == tag) add_slot_chunks<F, WIDE, GROUPS>(acc, slot, m, in, at, grid);         \
    }
#define FLOATS(tag, TYPE)                                                                          \
    if constexpr ((LAYOUTS & SET(tag)) != 0) {                                                     \
        if (m.layout == tag) add_slot_floats<TYPE, GROUPS>(acc, slot, m, in, at);                  \
    }
    BLOCKS(LAYOUT_Q8_0, Q8_0)
    BLOCKS(LAYOUT_Q2_K, Q2K)
    BLOCKS(LAYOUT_Q4_K, Q4K)
    BLOCKS(LAYOUT_Q6_K, Q6K)
    BLOCKS(LAYOUT_IQ2_XXS, Iq2Xxs)
    BLOCKS(LAYOUT_MXFP4, Mxfp4)
    FLOATS(LAYOUT_F32, FLOAT_F32)
    if constexpr ((LAYOUTS & SET(LAYOUT_F16)) != 0) {
        if (m.layout == LAYOUT_F16) add_slot_halves<GROUPS>(acc, slot, in, at);
    }
    FLOATS(LAYOUT_BF16, FLOAT_BF16)
#undef BLOCKS
#undef FLOATS
}
