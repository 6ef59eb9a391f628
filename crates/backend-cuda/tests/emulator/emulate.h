// Runs CUDA blocks on the CPU: a fiber for each thread, collectives as rendezvous of fibers. It shows
// wrong numbers and wrong indices, and kernels whose threads do not all come to a barrier; it cannot
// show races, since fibers run one at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulate {

struct Index { uint32_t x, y, z; };

using Body = void (*)(const void* args);

// Adds a kernel to the table that `keid_launch` looks in.
struct Register {
    Register(const char* module, const char* name, Body body, uint32_t threads, uint32_t args_bytes);
};

extern thread_local Index block_index, grid_size;
extern thread_local uint32_t thread_index, block_size;

void* dynamic_shared();
void block_barrier();
// Lets the other threads of the block go on.
void yield();
// All lanes of a warp bring a value; each gets that of lane `from`.
uint64_t exchange(uint64_t value, uint32_t from);
uint32_t ballot(bool flag);
// Sum and maximum over a warp, in the order of exchanges between ever nearer lanes.
float warp_sum(float value);
float warp_max(float value);

template <class T>
inline T shuffle(T value, uint32_t from) {
    static_assert(sizeof(T) <= 8, "one register pair");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange(bits, from);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

inline float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, e = bits >> 10 & 31u, m = bits & 1023u;
    if (e == 0) {
        const float v = std::ldexp(float(m), -24);
        return sign ? -v : v;
    }
    const uint32_t word = sign | (e == 31 ? 255u : e + 112u) << 23 | m << 13;
    float v;
    std::memcpy(&v, &word, 4);
    return v;
}

inline uint16_t float_to_half(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {
        // Subnormal halves are multiples of 2^-24; the default rounding is to even.
        return sign | uint16_t(std::nearbyint(std::ldexp(std::fabs(v), 24)));
    }
    return sign | uint16_t((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

}  // namespace emulate

#define KERNEL(threads, name, Args)                                                              \
    static void name(const Args& a);                                                             \
    static const emulate::Register name##_registered(                                            \
        KEID_MODULE, #name, [](const void* args) { name(*static_cast<const Args*>(args)); },     \
        threads, sizeof(Args));                                                                  \
    static void name(const Args& a)
#define KERNEL_OCC(threads, blocks, name, Args) KERNEL(threads, name, Args)
#define KERNEL_EARLY(threads, blocks, name, Args) KERNEL(threads, name, Args)
#define KERNEL_HOLDING(threads, blocks, name, Args) KERNEL(threads, name, Args)
#define SHARED static thread_local
#define DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(emulate::dynamic_shared())
#define DEVICE static inline
#define OUTLINE static inline
#define MEMBER inline
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __constant__ static const

#define blockIdx emulate::block_index
#define gridDim emulate::grid_size
#define threadIdx (emulate::Index{emulate::thread_index, 0, 0})
#define blockDim (emulate::Index{emulate::block_size, 1, 1})

inline void __syncthreads() { emulate::block_barrier(); }
inline void __syncwarp(uint32_t = 0xffffffffu) { emulate::exchange(0, emulate::thread_index % 32); }
inline void __threadfence() {}
// Kernels run one after another here.
inline void await_previous() {}
inline void let_next_begin() {}
template <class T>
inline T __shfl_sync(uint32_t, T v, int lane) { return emulate::shuffle(v, uint32_t(lane) % 32); }
template <class T>
inline T __shfl_xor_sync(uint32_t, T v, int mask) {
    return emulate::shuffle(v, emulate::thread_index % 32 ^ uint32_t(mask));
}
template <class T>
inline T __shfl_down_sync(uint32_t, T v, int by) {
    const uint32_t lane = emulate::thread_index % 32, from = lane + uint32_t(by);
    return emulate::shuffle(v, from < 32 ? from : lane);
}
template <class T>
inline T __shfl_up_sync(uint32_t, T v, int by) {
    const uint32_t lane = emulate::thread_index % 32;
    return emulate::shuffle(v, lane >= uint32_t(by) ? lane - uint32_t(by) : lane);
}
inline uint32_t __ballot_sync(uint32_t, bool flag) { return emulate::ballot(flag); }
inline bool __any_sync(uint32_t, bool flag) { return emulate::ballot(flag) != 0; }

template <class T>
inline T atomicAdd(T* to, T v) {
    const T before = *to;
    *to += v;
    return before;
}

template <class To, class From>
inline To emulate_bits(From v) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &v, sizeof(To));
    return to;
}
inline uint32_t __float_as_uint(float v) { return emulate_bits<uint32_t>(v); }
inline int32_t __float_as_int(float v) { return emulate_bits<int32_t>(v); }
inline float __uint_as_float(uint32_t v) { return emulate_bits<float>(v); }
inline float __int_as_float(int32_t v) { return emulate_bits<float>(v); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(uint32_t(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
    const uint64_t bytes = uint64_t(y) << 32 | x;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> (4 * i) & 15u;
        uint32_t byte = uint32_t(bytes >> (8 * (s & 7u))) & 255u;
        if (s & 8u) byte = byte & 0x80u ? 255u : 0u;
        out |= byte << (8 * i);
    }
    return out;
}
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline int __dp4a(int x, int y, int sum) {
    for (int i = 0; i < 32; i += 8) sum += int(int8_t(x >> i)) * int(int8_t(y >> i));
    return sum;
}
inline float __expf(float v) { return expf(v); }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline void sincospif(float v, float* sine, float* cosine) {
    const double angle = double(v) * 3.141592653589793;
    *sine = float(std::sin(angle));
    *cosine = float(std::cos(angle));
}
template <class T>
inline T __ldg(const T* at) { return *at; }
template <class T>
inline T __ldcg(const T* at) { return *at; }
template <class T>
inline T min(T x, T y) { return y < x ? y : x; }
template <class T>
inline T max(T x, T y) { return x < y ? y : x; }

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
