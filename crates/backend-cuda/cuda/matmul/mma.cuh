// Products of small tiles on the tensor cores.
//
// A warp holds a tile in fragments: lane l has g = l / 4 and t = l % 4. A result tile is 16 x 8:
// c[0], c[1] are row g, columns 2t and 2t + 1; c[2], c[3] the same columns of row g + 8.
// Where the k index of an element lies does not matter as long as both operands agree: "step i of
// lane t" below.
#pragma once
#include "common.cuh"

#ifdef KEID_EMULATE

// One box per lane through which the emulated warp sees all fragments.
struct MmaBox {
    uint32_t a[4], b[2];
};

DEVICE MmaBox* mma_exchange(const uint32_t* a, int n_a, uint32_t b0, uint32_t b1) {
    SHARED MmaBox boxes[32][32];
    MmaBox* warp = boxes[threadIdx.x / 32];
    MmaBox& own = warp[threadIdx.x % 32];
    for (int i = 0; i < 4; i++) own.a[i] = i < n_a ? a[i] : 0;
    own.b[0] = b0;
    own.b[1] = b1;
    __syncwarp();
    return warp;
}

DEVICE int mma_dot4(uint32_t a, uint32_t b) {
    int sum = 0;
    for (int i = 0; i < 32; i += 8) sum += int(int8_t(a >> i)) * int(int8_t(b >> i));
    return sum;
}

DEVICE void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const MmaBox* box = mma_exchange(a, 4, b0, b1);
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t half = i / 2, column = 2 * t + i % 2;
        for (uint32_t q = 0; q < 4; q++) {
            const MmaBox &row = box[4 * g + q], &col = box[4 * column + q];
            c[i] += mma_dot4(row.a[half], col.b[0]) + mma_dot4(row.a[half + 2], col.b[1]);
        }
    }
    __syncwarp();
}

DEVICE void mma_u8_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    // An operand is its lower seven bits and, without a sign, 64 twice.
    uint32_t low[4], high[4];
    for (int i = 0; i < 4; i++) low[i] = a[i] & 0x7f7f7f7f, high[i] = a[i] >> 1 & 0x40404040;
    mma_s8(c, low, b0, b1);
    mma_s8(c, high, b0, b1);
    mma_s8(c, high, b0, b1);
}

DEVICE void mma_s8_from(int (&c)[4], const int (&start)[4], const uint32_t (&a)[4], uint32_t b0,
                        uint32_t b1) {
    for (int i = 0; i < 4; i++) c[i] = start[i];
    mma_s8(c, a, b0, b1);
}

DEVICE void mma_s8_zero(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    for (int i = 0; i < 4; i++) c[i] = 0;
    mma_s8(c, a, b0, b1);
}

DEVICE void mma_s8_k16(int (&c)[4], const uint32_t (&a)[2], uint32_t b) {
    const MmaBox* box = mma_exchange(a, 2, b, 0);
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t q = 0; q < 4; q++) {
            c[i] += mma_dot4(box[4 * g + q].a[i / 2], box[4 * (2 * t + i % 2) + q].b[0]);
        }
    }
    __syncwarp();
}

DEVICE float mma_tf32_round(uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); }

DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const MmaBox* box = mma_exchange(a, 4, b0, b1);
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t half = i / 2, column = 2 * t + i % 2;
        for (uint32_t q = 0; q < 4; q++) {
            const MmaBox &row = box[4 * g + q], &col = box[4 * column + q];
            c[i] += mma_tf32_round(row.a[half]) * mma_tf32_round(col.b[0]);
            c[i] += mma_tf32_round(row.a[half + 2]) * mma_tf32_round(col.b[1]);
        }
    }
    __syncwarp();
}

DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const MmaBox* box = mma_exchange(a, 4, b0, b1);
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t half = i / 2, column = 2 * t + i % 2;
        for (uint32_t k = 0; k < 16; k++) {
            const MmaBox &row = box[4 * g + k / 2 % 4], &col = box[4 * column + k / 2 % 4];
            const int shift = k % 2 * 16;
            c[i] += half_to_float(uint16_t(row.a[half + k / 8 * 2] >> shift))
                * half_to_float(uint16_t(col.b[k / 8] >> shift));
        }
    }
    __syncwarp();
}

#else

// c += a b with int8 operands, k = 32: lane t takes 8 values of k, four bytes in each of two steps.
// a[0], a[2] are row g in steps 0 and 1, a[1], a[3] row g + 8; b0, b1 column g.
DEVICE void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same where a has no signs.
DEVICE void mma_u8_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same from another tile; the sum has registers of its own.
DEVICE void mma_s8_from(int (&c)[4], const int (&start)[4], const uint32_t (&a)[4], uint32_t b0,
                        uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(start[0]),
          "r"(start[1]), "r"(start[2]), "r"(start[3]));
}

// The same from zeros.
DEVICE void mma_s8_zero(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int zeros[4] = {0, 0, 0, 0};
    mma_s8_from(c, zeros, a, b0, b1);
}

// The same with k = 16 in one step.
DEVICE void mma_s8_k16(int (&c)[4], const uint32_t (&a)[2], uint32_t b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

// c += a b with f32 operands of which the upper 19 bits count, k = 8 in two steps of one value.
DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b with f16 operands, k = 16: two steps of two values.
DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

// Adding an integer below 2^22 to these bits gives the float 12582912 + integer.
#define INT_IN_FLOAT 0x4b400000
DEVICE float float_of_sum(int c) { return __int_as_float(c) - 12582912.0f; }

// Four of them, as the tile that sums begin with, in registers that the compiler does not fill anew
// for every product because it thinks the value is known.
DEVICE void sums_in_floats(int (&start)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#ifdef KEID_EMULATE
        start[i] = INT_IN_FLOAT;
#else
        asm volatile("add.s32 %0, %1, %2;" : "=r"(start[i]) : "r"(INT_IN_FLOAT), "r"(int(blockDim.y) - 1));
#endif
    }
}
