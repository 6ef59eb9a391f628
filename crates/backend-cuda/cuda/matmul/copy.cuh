// Copies from device memory to shared memory that run beside the arithmetic.
#pragma once
#include "common.cuh"

#ifdef KEID_EMULATE

DEVICE void copy_16(void* to, const void* from) { __builtin_memcpy(to, from, 16); }
DEVICE void copy_4(void* to, const void* from) { __builtin_memcpy(to, from, 4); }
DEVICE void copies_begin() {}
DEVICE void fetch_line(const void*) {}
template <int LEFT>
DEVICE void copies_wait() {}

#else

DEVICE uint32_t shared_address(const void* p) {
    return uint32_t(__cvta_generic_to_shared(p));
}
// Both addresses are multiples of the size.
DEVICE void copy_16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
}
DEVICE void copy_4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
}
// Begins to bring the 128 bytes around an address to the second cache.
DEVICE void fetch_line(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at) : "memory"); }
// Everything copied since the last call is one group.
DEVICE void copies_begin() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the last LEFT groups of this thread are there.
template <int LEFT>
DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#endif
