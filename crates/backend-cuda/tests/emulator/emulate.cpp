// The fibers, their scheduler, and the door for the tests.
#include "emulate.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

// Saves the callee's registers on the stack, stores its pointer and goes on with another stack.
extern "C" void keid_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl keid_switch
.type keid_switch, @function
keid_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static const size_t SAVED = 7;        // six registers and the return address
static const size_t RETURN_AT = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl keid_switch
.type keid_switch, %function
keid_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
static const size_t SAVED = 20;
static const size_t RETURN_AT = 11;
#else
#error "a stack switch for this processor is missing"
#endif

namespace emulate {

thread_local Index block_index, grid_size;
thread_local uint32_t thread_index, block_size;

namespace {

struct Kernel {
    Body body;
    uint32_t threads, args_bytes;
};

std::map<std::pair<std::string, std::string>, Kernel>& table() {
    static std::map<std::pair<std::string, std::string>, Kernel> kernels;
    return kernels;
}

enum class State { Ready, AtWarp, AtBlock, Done };

const size_t STACK = 96 << 10;

struct Fiber {
    void* stack_pointer = nullptr;
    std::vector<char> stack;
    State state = State::Done;
};

struct Warp {
    uint64_t values[2][32] = {};
    uint32_t turn = 0;
    // What the lanes of the last rendezvous have in common, once one of them has computed it.
    float reduced = 0.0f;
    bool is_reduced = false;
};

// One block at a time on each thread of the process.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<char> shared;
    void* scheduler = nullptr;
    Body body = nullptr;
    const void* args = nullptr;
};

Block& block() {
    static thread_local Block current;
    return current;
}

void leave(State state) {
    Block& b = block();
    Fiber& fiber = b.fibers[thread_index];
    fiber.state = state;
    keid_switch(&fiber.stack_pointer, b.scheduler);
}

void enter() {
    Block& b = block();
    b.body(b.args);
    leave(State::Done);
}

void prepare(Fiber& fiber) {
    fiber.stack.resize(STACK);
    // The first switch returns into `enter` with a stack aligned as after a call.
    uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack.data() + STACK) & ~uintptr_t(63);
    uintptr_t* saved = reinterpret_cast<uintptr_t*>(top) - SAVED;
#if defined(__x86_64__)
    saved -= 1;
#endif
    for (size_t i = 0; i < SAVED; i++) saved[i] = 0;
    saved[RETURN_AT] = reinterpret_cast<uintptr_t>(&enter);
    fiber.stack_pointer = saved;
    fiber.state = State::Ready;
}

bool run_warp(Block& b, uint32_t warp) {
    bool moved = false;
    const uint32_t first = 32 * warp, end = first + 32 < block_size ? first + 32 : block_size;
    for (bool again = true; again;) {
        again = false;
        uint32_t waiting = 0, alive = 0;
        for (uint32_t t = first; t < end; t++) {
            Fiber& fiber = b.fibers[t];
            if (fiber.state == State::Ready) {
                thread_index = t;
                keid_switch(&b.scheduler, fiber.stack_pointer);
                moved = true;
            }
            alive += fiber.state != State::Done;
            waiting += fiber.state == State::AtWarp;
        }
        if (waiting > 0 && waiting == alive) {
            b.warps[warp].turn ^= 1;
            b.warps[warp].is_reduced = false;
            for (uint32_t t = first; t < end; t++) {
                if (b.fibers[t].state == State::AtWarp) b.fibers[t].state = State::Ready;
            }
            again = moved = true;
        }
    }
    return moved;
}

bool release_block(Block& b) {
    uint32_t waiting = 0, alive = 0;
    for (uint32_t t = 0; t < block_size; t++) {
        alive += b.fibers[t].state != State::Done;
        waiting += b.fibers[t].state == State::AtBlock;
    }
    if (waiting == 0 || waiting != alive) return false;
    for (uint32_t t = 0; t < block_size; t++) {
        if (b.fibers[t].state == State::AtBlock) b.fibers[t].state = State::Ready;
    }
    return true;
}

// False when some threads wait for others that never come.
bool run_block(Block& b) {
    for (uint32_t t = 0; t < block_size; t++) prepare(b.fibers[t]);
    for (;;) {
        bool moved = false, done = true;
        for (uint32_t w = 0; w < b.warps.size(); w++) moved |= run_warp(b, w);
        for (uint32_t t = 0; t < block_size; t++) done &= b.fibers[t].state == State::Done;
        if (done) return true;
        if (!release_block(b) && !moved) return false;
    }
}

}  // namespace

Register::Register(const char* module, const char* name, Body body, uint32_t threads,
                   uint32_t args_bytes) {
    table()[{module, name}] = {body, threads, args_bytes};
}

void* dynamic_shared() {
    const uintptr_t at = reinterpret_cast<uintptr_t>(block().shared.data());
    return reinterpret_cast<void*>((at + 127) & ~uintptr_t(127));
}

void block_barrier() { leave(State::AtBlock); }

void yield() { leave(State::Ready); }

uint64_t exchange(uint64_t value, uint32_t from) {
    Warp& warp = block().warps[thread_index / 32];
    const uint32_t turn = warp.turn;
    warp.values[turn][thread_index % 32] = value;
    leave(State::AtWarp);
    return warp.values[turn][from];
}

uint32_t ballot(bool flag) {
    Warp& warp = block().warps[thread_index / 32];
    const uint32_t turn = warp.turn;
    warp.values[turn][thread_index % 32] = flag;
    leave(State::AtWarp);
    uint32_t bits = 0;
    for (uint32_t lane = 0; lane < 32; lane++) bits |= uint32_t(warp.values[turn][lane] != 0) << lane;
    return bits;
}

template <class Combine>
static float reduce(float value, Combine combine) {
    Warp& warp = block().warps[thread_index / 32];
    const uint32_t turn = warp.turn;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    warp.values[turn][thread_index % 32] = bits;
    leave(State::AtWarp);
    if (!warp.is_reduced) {
        float lanes[32];
        for (uint32_t i = 0; i < 32; i++) std::memcpy(&lanes[i], &warp.values[turn][i], 4);
        for (uint32_t o = 16; o > 0; o /= 2) {
            for (uint32_t i = 0; i < o; i++) lanes[i] = combine(lanes[i], lanes[i + o]);
        }
        warp.reduced = lanes[0];
        warp.is_reduced = true;
    }
    return warp.reduced;
}

float warp_sum(float value) {
    return reduce(value, [](float x, float y) { return x + y; });
}

float warp_max(float value) {
    return reduce(value, [](float x, float y) { return std::fmax(x, y); });
}

}  // namespace emulate

// Runs a kernel. 0: done; 1: no such kernel; 2: another parameter size; 3: more threads than the kernel
// allows, or no whole warps; 4: threads wait for others that never come.
extern "C" int keid_launch(const char* module, const char* name, const uint32_t* grid,
                           uint32_t threads, uint32_t shared, const void* args, uint32_t args_bytes) {
    using namespace emulate;
    const auto found = table().find({module, name});
    if (found == table().end()) return 1;
    if (found->second.args_bytes != args_bytes) return 2;
    if (threads == 0 || threads > found->second.threads || threads % 32 != 0) return 3;
    Block& b = block();
    b.body = found->second.body;
    b.args = args;
    b.warps.assign(threads / 32, Warp{});
    if (b.fibers.size() < threads) b.fibers.resize(threads);
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = threads;
    for (uint32_t z = 0; z < grid[2]; z++) {
        for (uint32_t y = 0; y < grid[1]; y++) {
            for (uint32_t x = 0; x < grid[0]; x++) {
                // Not zeros: what a block reads before it writes must show.
                b.shared.assign(shared + 128, char(0xff));
                block_index = {x, y, z};
                if (!run_block(b)) return 4;
            }
        }
    }
    return 0;
}
