// Products with few rows of activations, on devices with the bulk copy engine and much shared memory:
// every weight is read once, through rings that are never empty (ring.cuh).
//
// There is a block for each multiprocessor, and it takes every n-th unit of work. Its warps share the
// slots of a unit's panels, and the partial sums are added in the order of the warps, so that a row's
// bits depend on the matrix alone.
#include "gemv.cuh"
#include "ring.cuh"

#define WARPS 16

// A warp's way through the slots of all units of its block. What depends on the job alone is worked out
// when a job is entered.
struct Cursor {
    const GemvArgs& a;
    uint32_t unit, job, job_end;
    Slots m;
    // Panels of a unit, which of them is the warp's, and its first slot there.
    uint32_t panels, own, first;
    // Units of a group of rows; where the unit's rows begin and end.
    uint32_t group_units, group, first_panel, end_row;
    uint32_t at;

    MEMBER Cursor(const GemvArgs& args) : a(args), unit(blockIdx.x), job(0), job_end(0) {
        if (more()) find();
    }

    MEMBER bool more() const { return unit < a.n_units; }

    MEMBER void enter_job() {
        job = a.job_of(unit);
        job_end = job + 1 < a.n_jobs ? a.jobs[job + 1].first_unit : a.n_units;
        const GemvJob& j = a.jobs[job];
        m.of(j.m);
        const uint32_t warp = threadIdx.x / 32;
        panels = m.n < WARPS ? WARPS / m.n : 1;
        own = m.n < WARPS ? warp / m.n : 0;
        first = m.n < WARPS ? warp % m.n : warp;
        // A warp without a part is never inside.
        if (own >= panels) first = m.n;
        group_units = (j.group_panels + panels - 1) / panels;
    }

    // Everything of the present unit.
    MEMBER void find() {
        if (unit >= job_end) enter_job();
        const GemvJob& j = a.jobs[job];
        const uint32_t in_job = unit - j.first_unit;
        group = j.groups > 1 ? in_job / group_units : 0;
        const uint32_t group_rows = j.groups > 1 ? j.m.rows / j.groups : j.m.rows;
        const uint32_t first_row = (j.first_group + group) * group_rows;
        end_row = first_row + group_rows;
        first_panel = first_row / CHUNK_ROWS + (in_job - group * group_units) * panels;
        at = (first_panel + own) * CHUNK_ROWS < end_row ? first : m.n;
    }

    MEMBER void next_unit() {
        unit += gridDim.x;
        if (more()) find();
    }

    MEMBER uint32_t panel() const { return first_panel + own; }

    // Whether the warp has another slot of the unit.
    MEMBER bool inside() const { return at < m.n; }

    // To the next slot of any unit, for what is fetched ahead.
    MEMBER void settle() {
        while (more() && !inside()) next_unit();
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

// The results of a unit, by one warp: every one is the sum of the parts of the warps that had its panel.
template <int SUMS>
DEVICE void store_unit(const Cursor& c, const float* sums) {
    const GemvJob& job = c.a.jobs[c.job];
    const uint32_t warps = c.m.n < WARPS ? c.m.n : WARPS, first_row = c.end_row - job.m.rows / job.groups;
    for (uint32_t i = threadIdx.x % 32; i < c.panels * CHUNK_ROWS; i += 32) {
        const uint32_t row = c.first_panel * CHUNK_ROWS + i;
        if (row < first_row || row >= c.end_row) continue;
        for (uint32_t n = 0; n < c.a.n_rows; n++) {
            const float* from = sums + i / CHUNK_ROWS * warps * SUMS + n / 8 * 128 + i % CHUNK_ROWS * 8 + n % 8;
            float sum = 0;
#pragma unroll 8
            for (uint32_t w = 0; w < warps; w++) sum += from[w * SUMS];
            job.out[uint64_t(n) * job.out_stride + row] = sum;
        }
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
            ring.begin(ahead.m, ahead.m.w, ahead.panel(), ahead.at);
            ahead.at += WARPS;
            ahead.settle();
        }
    };
    fill();
    await_previous();
    __syncthreads();
    uint32_t buffer = 0, turn = 0;
    for (; here.more(); here.next_unit()) {
        const GemvJob& job = a.jobs[here.job];
        const Input in = {job.x + uint64_t(here.group) * job.x_slice_bytes, job.x_row_bytes, a.n_rows};
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
        // The warps take turns, and the others go on.
        if (warp == turn) store_unit<L::SUMS>(here, all_sums + buffer * WARPS * L::SUMS);
        turn = (turn + 1) % WARPS;
        if (L::BUFFERS == 1) {
            __syncthreads();
        } else {
            buffer ^= 1;
        }
    }
}

// The host knows the shared memory of each. The bits of a row are the same in all. A few bytes spill:
// spills: ring_q8_0_floats_16
#define GEMV(name, rows, depth, LAYOUTS) \
    KERNEL_EARLY(32 * WARPS, 1, name##_##rows, GemvArgs) { gemv_ring<rows, depth, LAYOUTS>(a); }

GEMV(ring_q8_0, 4, 3, SET(LAYOUT_Q8_0))
GEMV(ring_q8_0_floats, 4, 3, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_q8_0_floats, 8, 3, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_q8_0_floats, 16, 2, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(ring_any, 4, 3, ANY_SET)
GEMV(ring_any, 8, 3, ANY_SET)
