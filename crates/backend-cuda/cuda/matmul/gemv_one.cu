// Products of one row with matrices in Q8_0 and F16, on devices with the bulk copy engine and much shared
// memory: as gemv_ring.cu, with what depends on a unit of work found by all threads at once before the
// first, little code (a launch fetches it from the second cache), and sums that are added up for several
// units at once. Where the results are a sublayer's output they may go straight into the streams (site_few.cuh).
#include "site_few.cuh"
#include "gemv.cuh"
#include "one.cuh"

#define DEPTH 3
// Units of a block that are found at once, and those whose sums are added up at once.
#define UNITS 64
#define BATCH 4
// Records that a block can make for itself.
#define RAW_MAX 32

// A unit of work: its weights from the first panel on, its slice of x, and its panels.
struct alignas(16) Found {
    const uint8_t *w, *x;
    // Rows that the first panel begins with, and those of the group.
    uint32_t job, first_row, group_row, end_row, panels;
};

struct alignas(16) OneShared {
    uint8_t slots[WARPS * DEPTH * SLOT_BYTES];
    float sums[2][BATCH * UNIT_SUMS];
    Found found[UNITS];
    uint8_t records[RAW_MAX * ACT32_RECORD];
    uint64_t barriers[WARPS * DEPTH];
};

DEVICE uint32_t panels_at_once(uint32_t slots) { return slots < WARPS ? WARPS / slots : 1; }

DEVICE void find(Found& f, const GemvArgs& a, const OneShared& s, uint32_t unit) {
    f.job = a.job_of(unit);
    const GemvJob& job = a.jobs[f.job];
    const uint32_t cols = slot_cols(job.m.layout), slots = (job.m.cols + cols - 1) / cols;
    const Unit u = job.unit(unit - job.first_unit, panels_at_once(slots));
    const uint32_t left = (u.end_row - u.first_panel * CHUNK_ROWS + CHUNK_ROWS - 1) / CHUNK_ROWS;
    f.x = (a.raw ? s.records : job.x) + uint64_t(u.group) * job.x_slice_bytes;
    f.first_row = u.first_panel * CHUNK_ROWS;
    f.group_row = u.first_row;
    f.end_row = u.end_row;
    f.panels = min(left, panels_at_once(slots));
    const bool is_f16 = job.m.layout == LAYOUT_F16;
    const uint64_t panel_bytes = is_f16 ? uint64_t(CHUNK_ROWS) * job.m.cols * 2 : uint64_t(slots) * Q8_0_CHUNK;
    f.w = job.m.w + u.first_panel * panel_bytes;
}

// A warp's way through the slots of the units that are found.
struct Way {
    const GemvArgs& a;
    const OneShared& s;
    const uint8_t* w;
    uint32_t unit, job, at;
    // Slots of a panel; which panel of a unit is the warp's, and its first slot there.
    uint32_t n, own, first;
    bool is_f16;

    MEMBER Way(const GemvArgs& args, const OneShared& shared) : a(args), s(shared), unit(0), job(MAX_JOBS) {}

    MEMBER void enter(uint32_t next, uint32_t n_units) {
        unit = next;
        if (unit >= n_units) return;
        const Found& f = s.found[unit];
        if (f.job != job) {
            job = f.job;
            const Matrix& m = a.jobs[job].m;
            const uint32_t warp = threadIdx.x / 32;
            is_f16 = m.layout == LAYOUT_F16;
            n = (m.cols + slot_cols(m.layout) - 1) / slot_cols(m.layout);
            own = n < WARPS ? warp / n : 0;
            first = n < WARPS ? warp % n : warp;
        }
        at = own < f.panels ? first : n;
        w = f.w;
    }
    MEMBER bool inside() const { return at < n; }
    MEMBER const Matrix& matrix() const { return a.jobs[job].m; }
};

DEVICE void begin_slot(Ring<DEPTH>& ring, const Way& way) {
    if (!way.is_f16) {
        return ring.begin_at(way.w + (uint64_t(way.own) * way.n + way.at) * Q8_0_CHUNK, Q8_0_CHUNK);
    }
    const uint32_t first_row = way.s.found[way.unit].first_row;
    const Matrix& m = way.matrix();
    ring.begin_rows(m.w, m.cols * 2, m.rows, first_row / CHUNK_ROWS + way.own, way.at);
}

// The results of the units from `first` on, each the sum of the parts of the warps that had its panel; to `near`
// if that is given.
DEVICE void store_batch(const GemvArgs& a, const OneShared& s, const float* sums, uint32_t first, uint32_t n_units,
                        float* near) {
    const uint32_t k = threadIdx.x / (32 * WARPS / BATCH), thread = threadIdx.x % (32 * WARPS / BATCH);
    if (first + k >= n_units) return;
    const Found& f = s.found[first + k];
    const GemvJob& job = a.jobs[f.job];
    const uint32_t cols = slot_cols(job.m.layout);
    const uint32_t warps = min((job.m.cols + cols - 1) / cols, uint32_t(WARPS));
    for (uint32_t i = thread; i < f.panels * CHUNK_ROWS; i += 32 * WARPS / BATCH) {
        if (f.first_row + i < f.group_row || f.first_row + i >= f.end_row) continue;
        const float* from = sums + k * UNIT_SUMS + i / CHUNK_ROWS * warps * WARP_SUMS + i % CHUNK_ROWS;
        float sum = 0;
#pragma unroll 8
        for (uint32_t w = 0; w < warps; w++) sum += from[w * WARP_SUMS];
        if (near) near[k * CHUNK_ROWS + i] = sum;
        else job.out[f.first_row + i] = sum;
    }
}

// Rounds the row: a warp takes every sixteenth 256 of its columns.
DEVICE void round_raw(const GemvArgs& a, OneShared& s) {
    Chunks<RAW_MAX / WARPS> chunks;
    chunks.load(a.raw, threadIdx.x / 32, WARPS, a.n_raw);
#pragma unroll 1
    for (uint32_t i = threadIdx.x / 32; i < a.n_raw; i += WARPS) {
        float v[8];
        chunks.values(v, 0);
        chunks.shift();
        round_chunk(v, s.records + i * ACT32_RECORD, nullptr, nullptr);
    }
    __syncthreads();
}

// Unit j of a block: of a product whose results go into the streams, of panels that make chunks of a site.
template <bool CROSSES>
DEVICE uint32_t unit_of(uint32_t j) {
    return CROSSES ? 2 * (blockIdx.x + j / 2 * gridDim.x) + j % 2 : blockIdx.x + j * gridDim.x;
}

template <bool CROSSES>
DEVICE uint32_t units_of_block(uint32_t n_units) {
    const uint32_t each = CROSSES ? 2 : 1;
    return (n_units / each - blockIdx.x + gridDim.x - 1) / gridDim.x * each;
}

template <bool CROSSES>
DEVICE void one_row(const GemvArgs& a, const NextArgs* next, Crossing* crossing) {
    DYNAMIC_SHARED(OneShared, shared);
    OneShared& s = *shared;
    Ring<DEPTH> ring;
    ring.start(s.slots, s.barriers);
    Tail tail;
    if constexpr (CROSSES) tail.load_weights(*next, blockIdx.x);
    Operands x;
    x.from = nullptr;
    bool awaited = false;
    uint32_t buffer = 0;
    const uint32_t all_units = units_of_block<CROSSES>(a.n_units);
    // All units of the block, unless it has very many.
    for (uint32_t start = 0; start < all_units; start += UNITS) {
        const uint32_t n_units = min(all_units - start, uint32_t(UNITS));
        if (threadIdx.x < n_units) find(s.found[threadIdx.x], a, s, unit_of<CROSSES>(start + threadIdx.x));
        __syncthreads();
        Way ahead(a, s), here(a, s);
        ahead.enter(0, n_units);
        const auto fill = [&]() {
            while (!ring.full() && ahead.unit < n_units) {
                if (ahead.inside()) {
                    begin_slot(ring, ahead);
                    ahead.at += WARPS;
                } else {
                    ahead.enter(ahead.unit + 1, n_units);
                }
            }
        };
        for (uint32_t unit = 0; unit < n_units; unit++) {
            here.enter(unit, n_units);
            float acc[2] = {0, 0};
            for (;; here.at += WARPS) {
                fill();
                if (!awaited) {
                    await_previous();
                    if constexpr (CROSSES) tail.load(*next, blockIdx.x, *crossing);
                    if (a.raw) round_raw(a, s);
                    awaited = true;
                }
                if (!here.inside()) break;
                const uint8_t* records = s.found[unit].x;
                if (here.is_f16) {
                    x.load_halves(records + here.at * (HALVES_RECORD / 2));
                    add_one_f16(acc, ring.front(), x);
                } else {
                    x.load_32(records + here.at * ACT32_RECORD);
                    add_one_q8_0(acc, ring.front(), x);
                }
                ring.pop();
            }
            leave_sums(acc, s.sums[buffer] + unit % BATCH * UNIT_SUMS);
            if (unit % BATCH + 1 < BATCH && unit + 1 < n_units) continue;
            __syncthreads();
            const uint32_t first = unit / BATCH * BATCH;
            store_batch(a, s, s.sums[buffer], first, n_units, CROSSES ? crossing->y : nullptr);
            buffer ^= 1;
            if constexpr (CROSSES) {
                __syncthreads();
                for (uint32_t j = first; j <= unit; j += 2) {
                    const uint32_t chunk = unit_of<true>(start + j) / 2;
                    if (start + j > 0) tail.load_weights(*next, chunk), tail.load(*next, chunk, *crossing);
                    tail.leave(*next, chunk, (j - first) * CHUNK_ROWS, *crossing);
                }
            }
        }
        // The units that are found next take the place of these.
        __syncthreads();
    }
    if (!awaited) await_previous();
}

KERNEL_EARLY(32 * WARPS, 1, gemv_one, GemvArgs) {
    touch(a);
    one_row<false>(a, nullptr, nullptr);
}

struct GemvNextArgs {
    GemvArgs product;
    NextArgs next;
};

// Of one matrix in one group, whose rows are a site's channels: the results go into the streams, and the sums of
// the site are left. grid: chunks of the site at most.
KERNEL_EARLY(32 * WARPS, 1, gemv_one_next, GemvNextArgs) {
    SHARED Crossing crossing;
    touch(a);
    one_row<true>(a.product, &a.next, &crossing);
}
