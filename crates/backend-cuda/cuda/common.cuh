// What every kernel uses: types, the parameter convention, reductions and small floats.
//
// A kernel takes one struct by value, called `a`. Kernels without inline PTX also compile as plain
// C++ for the emulator in tests/emulator, which defines KEID_EMULATE and provides the built-ins.
#pragma once

#ifdef KEID_EMULATE
#include <emulate.h>
#else

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#else
#include <stdint.h>
#endif

#define DEVICE __device__ __forceinline__
#define MEMBER __device__ __forceinline__
// Code that a kernel comes to more than once, and that is there once.
#define OUTLINE static __device__ __noinline__

// A kernel begins while the one before it still runs (src/driver/nvidia.rs asks for that), and waits
// before its first statement until that one is done. One that is EARLY waits itself, by
// `await_previous`, before it touches anything that another kernel writes or reads: what it loads
// before are weights. Every thread of every kernel waits, so that a kernel that is done has all before
// it done.
DEVICE void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#define KERNEL_WITH(bounds, before, name, Args)                                                  \
    DEVICE void name##_body(const Args& a);                                               \
    extern "C" __global__ void __launch_bounds__ bounds name(const __grid_constant__ Args a) {   \
        before;                                                                                  \
        name##_body(a);                                                                          \
    }                                                                                            \
    DEVICE void name##_body(const Args& a)
#define KERNEL(threads, name, Args) \
    KERNEL_WITH((threads), let_next_begin(); await_previous(), name, Args)
#define KERNEL_OCC(threads, blocks, name, Args) \
    KERNEL_WITH((threads, blocks), let_next_begin(); await_previous(), name, Args)
#define KERNEL_EARLY(threads, blocks, name, Args) \
    KERNEL_WITH((threads, blocks), let_next_begin(), name, Args)
// One that also says itself when the next may begin.
#define KERNEL_HOLDING(threads, blocks, name, Args) KERNEL_WITH((threads, blocks), , name, Args)
#define SHARED __shared__
#define DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    T* const name = reinterpret_cast<T*>(name##_bytes)

#endif

#define FULL_WARP 0xffffffffu

// Sums and maxima over a warp; every lane gets the result. The order is fixed.
#ifdef KEID_EMULATE
DEVICE float warp_sum(float v) { return emulate::warp_sum(v); }
DEVICE float warp_max(float v) { return emulate::warp_max(v); }
#else
DEVICE float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL_WARP, v, o);
    return v;
}

DEVICE float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, o));
    return v;
}
#endif

// The same of unsigned integers.
#ifdef KEID_EMULATE
DEVICE uint32_t warp_max_bits(uint32_t v) {
    for (int o = 16; o > 0; o >>= 1) v = max(v, __shfl_xor_sync(FULL_WARP, v, o));
    return v;
}
DEVICE uint32_t warp_min_bits(uint32_t v) { return ~warp_max_bits(~v); }
#else
DEVICE uint32_t warp_max_bits(uint32_t v) { return __reduce_max_sync(FULL_WARP, v); }
DEVICE uint32_t warp_min_bits(uint32_t v) { return __reduce_min_sync(FULL_WARP, v); }
#endif

// Floats as unsigned integers of the same order; no number is zero.
DEVICE uint32_t ordered(float v) {
    const uint32_t bits = __float_as_uint(v);
    return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

// The sum over a block of whole warps; every thread gets it. `part` holds 32 floats.
DEVICE float block_sum(float v, float* part) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) part[warp] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? part[lane] : 0.0f);
}

DEVICE float block_max(float v, float* part) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) part[warp] = v;
    __syncthreads();
    return warp_max(lane < blockDim.x / 32 ? part[lane] : -3.4e38f);
}

DEVICE float bf16_to_float(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

#ifdef KEID_EMULATE
DEVICE float half_to_float(uint16_t bits) { return emulate::half_to_float(bits); }
DEVICE uint16_t float_to_half(float v) { return emulate::float_to_half(v); }
#else
DEVICE float half_to_float(uint16_t bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}
DEVICE uint16_t float_to_half(float v) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}
#endif

// Storage of plain values: the tags of `FloatType` on the host.
#define FLOAT_F32 0
#define FLOAT_F16 1
#define FLOAT_BF16 2

DEVICE float load_float(const void* data, uint64_t at, uint32_t type) {
    if (type == FLOAT_F32) return static_cast<const float*>(data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(data)[at];
    return type == FLOAT_F16 ? half_to_float(bits) : bf16_to_float(bits);
}

// 1 / x to a unit in the last place, of an x that is neither tiny nor huge.
#ifdef KEID_EMULATE
DEVICE float reciprocal(float x) { return 1.0f / x; }
#else
DEVICE float reciprocal(float x) {
    float v;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x));
    return v;
}
#endif

// e^x, 1 / sqrt(x) and a sigmoid to a few units in the last place, without the branches of the exact ones.
#ifdef KEID_EMULATE
DEVICE float quick_exp(float x) { return expf(x); }
DEVICE float quick_rsqrt(float x) { return 1.0f / sqrtf(x); }
#else
DEVICE float quick_exp(float x) {
    float v;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x * 1.4426950408889634f));
    return v;
}
DEVICE float quick_rsqrt(float x) {
    float v;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x));
    return v;
}
#endif
DEVICE float quick_sigmoid(float x) { return reciprocal(1.0f + quick_exp(-x)); }

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The gate is clamped from above only, before SiLU; up on both sides.
DEVICE float swiglu_value(float gate, float up, float clamp) {
    gate = fminf(gate, clamp);
    return gate * sigmoid(gate) * fminf(fmaxf(up, -clamp), clamp);
}
