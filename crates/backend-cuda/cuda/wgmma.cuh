// Products of warpgroups on sm_90, and the copies and barriers that feed them.
//
// Four warps multiply 64 x 16 by 16 x N. Of the left operand a warp has 16 rows in registers, as in
// mma.cuh: with lane l = 4 g + t, a[0] holds two values of row g, a[1] of row g + 8 (k = 2t, 2t + 1),
// a[2] and a[3] those of k + 8. A result is c[4 j]: row g, columns 8 j + 2 t and the next; c[4 j + 2]:
// the same columns of row g + 8. The right operand lies in shared memory in rows of 128 bytes, whose
// pieces of 16 bytes are exchanged: piece p of row r is at p ^ (r % 8).
#pragma once
#include "common.cuh"

#if defined(KEID_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA 1
#define WGMMA_BODY(...) __VA_ARGS__
#else
// Kernels are there, and do nothing.
#define WGMMA 0
#define WGMMA_BODY(...)
#endif

// Where half k (of 64) of row r lies in a tile of such rows, in bytes.
DEVICE uint32_t swizzled(uint32_t row, uint32_t k) { return row * 128 + ((2 * k) ^ (row % 8 * 16)); }

#ifdef KEID_EMULATE

// A barrier counts arrivals and bytes; a phase ends when neither is missing.
struct Barrier {
    int32_t expected, missing, bytes;
    uint32_t phase;
    MEMBER void settle() {
        if (missing > 0 || bytes != 0) return;
        missing = expected;
        phase ^= 1;
    }
};
DEVICE void barrier_init(Barrier* b, uint32_t arrivals) { *b = {int32_t(arrivals), int32_t(arrivals), 0, 0}; }
DEVICE void barriers_ready() {}
DEVICE void barrier_arrive(Barrier* b) { b->missing--, b->settle(); }
DEVICE void barrier_expect(Barrier* b, uint32_t bytes) { b->missing--, b->bytes += int32_t(bytes), b->settle(); }
DEVICE void barrier_wait(Barrier* b, uint32_t phase) {
    while (b->phase == phase) emulate::yield();
}
DEVICE void copy_bulk(void* to, const void* from, uint32_t bytes, Barrier* b) {
    __builtin_memcpy(to, from, bytes);
    b->bytes -= int32_t(bytes), b->settle();
}
DEVICE void wgmma_fence() {}
DEVICE void wgmma_commit() {}
template <int LEFT>
DEVICE void wgmma_wait() {}
template <int N>
DEVICE void wgmma_hold(float (&)[N]) {}
DEVICE void wgmma_made(uint32_t (&)[4]) {}
DEVICE void written_for_wgmma() {}

// k in rows of 128 bytes; `at` is the step's first k.
struct RightTile {
    const uint8_t* base;
    uint32_t at;
};
DEVICE RightTile right_tile(const uint8_t* base) { return {base, 0}; }
DEVICE RightTile right_step(const RightTile& tile, uint32_t step) { return {tile.base, 16 * step}; }

DEVICE RightTile left_tile(const uint8_t* base) { return right_tile(base); }

// Of rows of k: columns in blocks of 64, `block` bytes apart.
struct ValueTile {
    const uint8_t* base;
    uint32_t block, at;
};
DEVICE ValueTile value_tile(const uint8_t* base, uint32_t block) { return {base, block, 0}; }
DEVICE ValueTile value_step(const ValueTile& tile, uint32_t step) {
    return {tile.base, tile.block, 16 * step};
}

DEVICE float tile_half(const uint8_t* base, uint32_t row, uint32_t k) {
    return half_to_float(*reinterpret_cast<const uint16_t*>(base + swizzled(row, k)));
}

template <int N>
DEVICE void wgmma_shared(float (&c)[N / 2], const RightTile& a, const RightTile& b) {
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    for (uint32_t i = 0; i < N / 2; i++) {
        const uint32_t column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = 0;
        for (uint32_t k = 0; k < 16; k++) {
            sum += tile_half(a.base, row + i / 2 % 2 * 8, a.at + k) * tile_half(b.base, column, b.at + k);
        }
        c[i] += sum;
    }
}

template <int N>
DEVICE void wgmma_values(float (&c)[N / 2], const RightTile& a, const ValueTile& b) {
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    for (uint32_t i = 0; i < N / 2; i++) {
        const uint32_t column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = 0;
        for (uint32_t k = 0; k < 16; k++) {
            sum += tile_half(a.base, row + i / 2 % 2 * 8, a.at + k)
                * tile_half(b.base + column / 64 * b.block, b.at + k, column % 64);
        }
        c[i] += sum;
    }
}

// A meeting of some of the block's warps: on the emulator by counting.
DEVICE void meet(Barrier* b, uint32_t& phase, uint32_t, uint32_t) {
    barrier_arrive(b);
    barrier_wait(b, phase);
    phase ^= 1;
}
template <int REGISTERS>
DEVICE void registers_more() {}
template <int REGISTERS>
DEVICE void registers_less() {}

struct LeftBox {
    uint32_t a[4];
};

template <int N, int ADD = 1>
DEVICE void wgmma(float (&c)[N / 2], const uint32_t (&a)[4], const RightTile& b) {
    SHARED LeftBox boxes[32][32];
    LeftBox* warp = boxes[threadIdx.x / 32];
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) warp[lane].a[i] = a[i];
    __syncwarp();
    float rows[2][16];
    for (uint32_t k = 0; k < 16; k++) {
        const LeftBox& box = warp[4 * g + k % 8 / 2];
        for (uint32_t half = 0; half < 2; half++) {
            rows[half][k] = half_to_float(uint16_t(box.a[half + k / 8 * 2] >> (k % 2 * 16)));
        }
    }
    for (uint32_t i = 0; i < N / 2; i++) {
        const uint32_t column = i / 4 * 8 + 2 * t + i % 2;
        float sum = 0;
        for (uint32_t k = 0; k < 16; k++) {
            const uint16_t bits =
                *reinterpret_cast<const uint16_t*>(b.base + swizzled(column, b.at + k));
            sum += rows[i / 2 % 2][k] * half_to_float(bits);
        }
        c[i] = ADD ? c[i] + sum : sum;
    }
    __syncwarp();
}

#elif WGMMA

typedef uint64_t Barrier;

DEVICE uint32_t shared_place(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
DEVICE void barrier_init(Barrier* b, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_place(b)), "r"(arrivals) : "memory");
}
// After the first thread has initialised all, before the block meets.
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_place(b)) : "memory");
}
// Arrives, and lets the phase also wait for so many bytes.
DEVICE void barrier_expect(Barrier* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_place(b)), "r"(bytes)
                 : "memory");
}
// Until the phase of this parity is over.
DEVICE void barrier_wait(Barrier* b, uint32_t phase) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_place(b)), "r"(phase) : "memory");
}
// Multiples of 16 bytes at multiples of 16.
DEVICE void copy_bulk(void* to, const void* from, uint32_t bytes, Barrier* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_place(to)), "l"(from), "r"(bytes), "r"(shared_place(b)) : "memory");
}
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// Keeps results in their registers while products run.
template <int N>
DEVICE void wgmma_hold(float (&c)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(c[i])::"memory");
}
// Makes left operands before the products that follow, not in between.
DEVICE void wgmma_made(uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[i])::"memory");
}
// What threads have stored to shared memory becomes visible to the tensor cores.
DEVICE void written_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Descriptors: address / 16, then eight rows further / 16, and the exchange of pieces in 128 bytes.
typedef uint64_t RightTile;
DEVICE RightTile right_tile(const uint8_t* base) {
    return uint64_t(shared_place(base) >> 4) | uint64_t(1) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62;
}
DEVICE RightTile right_step(RightTile tile, uint32_t step) { return tile + 2 * step; }

DEVICE RightTile left_tile(const uint8_t* base) { return right_tile(base); }

// Of rows of k, eight rows 1024 bytes apart: columns in blocks of 64, `block` bytes apart.
typedef uint64_t ValueTile;
DEVICE ValueTile value_tile(const uint8_t* base, uint32_t block) {
    return uint64_t(shared_place(base) >> 4) | uint64_t(block >> 4) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62;
}
DEVICE ValueTile value_step(ValueTile tile, uint32_t step) { return tile + 128 * step; }

// A meeting of `threads` threads of the block, by the hardware's barrier `which`.
DEVICE void meet(Barrier*, uint32_t&, uint32_t which, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(which), "r"(threads) : "memory");
}
// Registers that a warpgroup takes from, or leaves to, the others of its block.
template <int REGISTERS>
DEVICE void registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS>
DEVICE void registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

#define OUT8(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), \
    "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define OUT16(c, i) OUT8(c, i), OUT8(c, i + 8)
#define OUT32(c, i) OUT16(c, i), OUT16(c, i + 16)
#define NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32 NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_48 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_64 NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_80 NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define NAMES_96 NAMES_80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NAMES_112 NAMES_96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define NAMES_128 NAMES_112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// Registers of the left operand, its descriptor, and whether to add: the operands behind N / 2 results.
#define LEFT_IN(a, b) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD)
#define WGMMA_F16(n, names, left, right, add, ...)                                                        \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, {" left "}, " right \
                 ", " add ", 1, 1, 0;"                                                                    \
                 : __VA_ARGS__                                                                            \
                 : LEFT_IN(a, b))

// c += a b, or without ADD c = a b.
template <int N, int ADD = 1>
DEVICE void wgmma(float (&c)[N / 2], const uint32_t (&a)[4], RightTile b) {
    static_assert(N % 32 == 0 && N >= 64 && N <= 256, "a width that is written out");
    if constexpr (N == 64) {
        WGMMA_F16("64", NAMES_32, "%32,%33,%34,%35", "%36", "%37",
                  OUT32(c, 0));
    } else if constexpr (N == 96) {
        WGMMA_F16("96", NAMES_48, "%48,%49,%50,%51", "%52", "%53",
                  OUT32(c, 0), OUT16(c, 32));
    } else if constexpr (N == 128) {
        WGMMA_F16("128", NAMES_64, "%64,%65,%66,%67", "%68", "%69",
                  OUT32(c, 0), OUT32(c, 32));
    } else if constexpr (N == 160) {
        WGMMA_F16("160", NAMES_80, "%80,%81,%82,%83", "%84", "%85",
                  OUT32(c, 0), OUT32(c, 32), OUT16(c, 64));
    } else if constexpr (N == 192) {
        WGMMA_F16("192", NAMES_96, "%96,%97,%98,%99", "%100", "%101",
                  OUT32(c, 0), OUT32(c, 32), OUT32(c, 64));
    } else if constexpr (N == 224) {
        WGMMA_F16("224", NAMES_112, "%112,%113,%114,%115", "%116", "%117",
                  OUT32(c, 0), OUT32(c, 32), OUT32(c, 64), OUT16(c, 96));
    } else if constexpr (N == 256) {
        WGMMA_F16("256", NAMES_128, "%128,%129,%130,%131", "%132", "%133",
                  OUT32(c, 0), OUT32(c, 32), OUT32(c, 64), OUT32(c, 96));
    }
}

// c += a b, both in shared memory.
template <int N>
DEVICE void wgmma_shared(float (&c)[N / 2], RightTile a, RightTile b) {
    static_assert(N == 32, "a width that is written out");
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" NAMES_16 "}, %16, %17, 1, 1, 1, 0, 0;"
                 : OUT16(c, 0)
                 : "l"(a), "l"(b));
}

// The same with rows of k on the right.
template <int N>
DEVICE void wgmma_values(float (&c)[N / 2], RightTile a, ValueTile b) {
    static_assert(N == 256, "a width that is written out");
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" NAMES_128
                 "}, %128, %129, 1, 1, 1, 0, 1;"
                 : OUT32(c, 0), OUT32(c, 32), OUT32(c, 64), OUT32(c, 96)
                 : "l"(a), "l"(b));
}

#endif
