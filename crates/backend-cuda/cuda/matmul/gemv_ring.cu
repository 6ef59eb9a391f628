// Products with few rows of activations, on devices with the bulk copy engine and much shared memory:
// every weight is read once, through rings that are never empty (ring.cuh).
//
// There is a block for each multiprocessor, and it takes every n-th unit of work. Its warps share the
// slots of a unit's panels, and the partial sums are added in the order of the warps, so that a row's
// bits depend on the matrix alone.
#include "gemv.cuh"
#include "ring.cuh"

#define WARPS 16

// A warp's way through the slots of all units of its block.
struct Cursor {
    const GemvArgs& a;
    uint32_t unit, job, panel, at, slots;
    // Whether the warp has a part of the unit.
    bool busy;

    // Panels of a unit of a job.
    static MEMBER uint32_t panels_of(uint32_t slots) { return slots < WARPS ? WARPS / slots : 1; }

    MEMBER Cursor(const GemvArgs& args) : a(args) { enter(blockIdx.x); }

    MEMBER bool more() const { return unit < a.n_units; }

    MEMBER void enter(uint32_t next) {
        const uint32_t warp = threadIdx.x / 32;
        unit = next;
        if (!more()) return;
        job = a.job_of(unit);
        const GemvJob& j = a.jobs[job];
        slots = slots_of(j.m);
        const Unit u = j.unit(unit - j.first_unit, panels_of(slots));
        const uint32_t own = slots < WARPS ? warp / slots : 0;
        panel = u.first_panel + own;
        at = slots < WARPS ? warp % slots : warp;
        busy = own < panels_of(slots) && panel * CHUNK_ROWS < u.end_row;
    }

    // Whether the warp has another slot of the unit.
    MEMBER bool inside() const { return busy && at < slots; }

    // To the next slot of any unit, for what is fetched ahead.
    MEMBER void settle() {
        while (more() && !inside()) enter(unit + gridDim.x);
    }
};

// Up to ROWS rows: 4, or eights.
template <int ROWS, int DEPTH>
struct Layout {
    enum {
        GROUPS = ROWS > 8 ? ROWS / 8 : 1,
        SUMS = GROUPS * 128,
        // Two units' sums, so that one is read while the next is written.
        BUFFERS = DEPTH > 2 ? 2 : 1,
        RING = WARPS * DEPTH * SLOT_BYTES,
        ALL_SUMS = BUFFERS * WARPS * SUMS * 4,
        BARRIERS = WARPS * DEPTH * 8,
    };
};

// The results of a unit: every one is the sum of its warps' parts.
template <int SUMS>
DEVICE void store_unit(const GemvArgs& a, uint32_t which, const float* sums) {
    const GemvJob& job = a.jobs[a.job_of(which)];
    const uint32_t slots = slots_of(job.m), panels = Cursor::panels_of(slots);
    const uint32_t warps = slots < WARPS ? slots : WARPS;
    const Unit u = job.unit(which - job.first_unit, panels);
    // Rows of activations that a panel's sums have places for, and those that are there.
    const uint32_t per_row = 8, n_rows = a.n_rows;
    for (uint32_t i = threadIdx.x; i < panels * CHUNK_ROWS * n_rows; i += blockDim.x) {
        const uint32_t n = i / (panels * CHUNK_ROWS), in_unit = i % (panels * CHUNK_ROWS);
        const uint32_t panel = in_unit / CHUNK_ROWS;
        const uint32_t row = (u.first_panel + panel) * CHUNK_ROWS + in_unit % CHUNK_ROWS;
        if (row < u.first_row || row >= u.end_row) continue;
        const uint32_t at = n / 8 * 128 + in_unit % CHUNK_ROWS * per_row + n % 8;
        float sum = 0;
#pragma unroll 4
        for (uint32_t w = 0; w < warps; w++) sum += sums[(panel * warps + w) * SUMS + at];
        job.out[uint64_t(n) * job.out_stride + row] = sum;
    }
}

template <int ROWS, int DEPTH, uint32_t LAYOUTS>
DEVICE void gemv_ring(const GemvArgs& a) {
    typedef Layout<ROWS, DEPTH> L;
    const int WIDE = ROWS > 4, GROUPS = L::GROUPS;
    DYNAMIC_SHARED(uint8_t, shared);
    float* const all_sums = reinterpret_cast<float*>(shared + L::RING);
    uint64_t* const barriers = reinterpret_cast<uint64_t*>(shared + L::RING + L::ALL_SUMS);
    uint32_t* const levels = reinterpret_cast<uint32_t*>(shared + L::RING + L::ALL_SUMS + L::BARRIERS);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if constexpr ((LAYOUTS & SET(LAYOUT_IQ2_XXS)) != 0) {
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) levels[i] = a.grid[i];
    }
    Ring<DEPTH> ring;
    ring.start(shared, barriers);
    Cursor ahead(a), here(a);
    ahead.settle();
    const auto fill = [&]() {
        while (!ring.full() && ahead.more()) {
            const Matrix& m = a.jobs[ahead.job].m;
            ring.begin(m, m.w, ahead.panel, ahead.at);
            ahead.at += WARPS;
            ahead.settle();
        }
    };
    fill();
    await_previous();
    __syncthreads();
    uint32_t buffer = 0;
    for (; here.more(); here.enter(here.unit + gridDim.x)) {
        const GemvJob& job = a.jobs[here.job];
        const Unit u = job.unit(here.unit - job.first_unit, Cursor::panels_of(here.slots));
        const Input in = {job.x + uint64_t(u.group) * job.x_slice_bytes, job.x_row_bytes, a.n_rows};
        float acc[GROUPS][4];
#pragma unroll
        for (int i = 0; i < GROUPS * 4; i++) acc[i / 4][i % 4] = 0;
        for (; here.inside(); here.at += WARPS) {
            add_slot<WIDE, LAYOUTS, GROUPS>(acc, ring.front(), job.m, in, here.at, levels);
            ring.pop();
            fill();
        }
        float* sums = all_sums + (buffer * WARPS + warp) * L::SUMS;
        const bool wide = WIDE || job.m.layout >= LAYOUT_F32;
#pragma unroll
        for (int i = 0; i < GROUPS * 4; i++) {
            if (!wide && i % 2 == 1) continue;
            const uint32_t row = wide ? 2 * (lane % 4) + i % 2 : lane % 4;
            sums[i / 4 * 128 + (lane / 4 + i % 4 / 2 * 8) * 8 + row] = acc[i / 4][i % 4];
        }
        __syncthreads();
        store_unit<L::SUMS>(a, here.unit, all_sums + buffer * WARPS * L::SUMS);
        if (L::BUFFERS == 1) {
            __syncthreads();
        } else {
            buffer ^= 1;
        }
    }
}

// The host knows the shared memory of each. The bits of a row are the same in all.
#define GEMV(name, rows, depth, LAYOUTS) \
    KERNEL_EARLY(32 * WARPS, 1, name##_##rows, GemvArgs) { gemv_ring<rows, depth, LAYOUTS>(a); }

GEMV(ring_q8_0, 4, 3, SET(LAYOUT_Q8_0))
GEMV(ring_q8_0, 8, 3, SET(LAYOUT_Q8_0))
GEMV(ring_q8_0, 16, 2, SET(LAYOUT_Q8_0))
GEMV(ring_q8_0, 32, 2, SET(LAYOUT_Q8_0))
GEMV(ring_q8_0_floats, 4, 3, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_q8_0_floats, 8, 3, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_q8_0_floats, 16, 2, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_any, 4, 3, ANY_SET)
GEMV(ring_any, 8, 3, ANY_SET)
