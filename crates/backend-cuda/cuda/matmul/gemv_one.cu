// Products of one row with matrices in Q8_0 and F16, on devices with the bulk copy engine and much shared
// memory: as gemv_ring.cu, with what depends on a unit of work found by all threads at once before the
// first, little code (a launch fetches it from the second cache), and sums that are added up for several
// units at once. Results may be rounded for the next product, or, where they are a sublayer's output, go straight
// into the streams (site_few.cuh).
#include "site_few.cuh"
#include "one.cuh"

#define DEPTH 3
// Units of a block that are found at once.
#define UNITS 64
// Records that a block can make for itself.
#define RAW_MAX 32
#define MAX_JOBS 8

// A matrix in units of work, each of one or more panels that follow each other.
struct OneJob {
    const uint8_t *w, *x;     // x null: the records that the kernel makes
    float* out;
    // Units before this job's, and those of each equal part of the rows, which meets a slice of x of its own.
    uint32_t first_unit, units;
    uint32_t x_slice_bytes, panel_bytes, group_panels, rows;
    // Slots of a panel, panels of a unit, and what a warp's number is multiplied with to tell its panel, times 2^16.
    uint32_t slots, panels, inverse, is_f16;
};

struct OneArgs {
    OneJob jobs[MAX_JOBS];
    // The row whose records the kernel makes for itself, and how many those are; or null.
    const float* raw;
    // Where the first job's results are rounded to, a scale for every 32; or null.
    uint8_t* rounded;
    uint32_t n_jobs, n_units, n_raw, unused;
};

// A unit of work: its weights from the first panel on, its slice of x, where its rows go, the first of them and how
// many they are.
struct alignas(16) Found {
    const uint8_t *w, *x;
    float* out;
    uint32_t first, rows, slots, panel_bytes, inverse, is_f16;
};

// What becomes of the results: whether the row may come as values, and whether results are rounded or go into the
// streams. Units of a block are pairs of panels then. How many units are added up at once, and bytes beside.
struct Stored {
    enum { RAW = 1, ROUNDS = 0, CROSSES = 0, EACH = 1, BATCH = 4, EXTRA = RAW_MAX * ACT32_RECORD };
};
struct RoundedToo {
    enum { RAW = 0, ROUNDS = 1, CROSSES = 0, EACH = 2, BATCH = 4, EXTRA = 16 };
};
struct Crossed {
    enum { RAW = 0, ROUNDS = 0, CROSSES = 1, EACH = 2, BATCH = 2, EXTRA = PROJECT_BYTES };
};

template <class To>
struct alignas(16) OneShared {
    uint8_t slots[WARPS * DEPTH * SLOT_BYTES];
    float sums[2][To::BATCH * UNIT_SUMS];
    Found found[UNITS];
    // The row's records, or weights of the site behind.
    uint8_t extra[To::EXTRA];
    uint64_t barriers[WARPS * DEPTH];
};

DEVICE void find(Found& f, const OneArgs& a, const uint8_t* near, uint32_t unit) {
    uint32_t j = 0;
    while (j + 1 < a.n_jobs && unit >= a.jobs[j + 1].first_unit) j++;
    const OneJob& job = a.jobs[j];
    uint32_t at = unit - job.first_unit, group = 0;
    while (at >= job.units) at -= job.units, group++;
    at *= job.panels;
    const uint32_t first = group * job.group_panels + at;
    f.w = job.w + uint64_t(first) * job.panel_bytes;
    f.x = (job.x ? job.x : near) + group * job.x_slice_bytes;
    f.out = job.out + first * CHUNK_ROWS;
    f.first = first * CHUNK_ROWS;
    f.rows = min(min(job.group_panels - at, job.panels) * CHUNK_ROWS, job.rows - first * CHUNK_ROWS);
    f.slots = job.slots;
    f.panel_bytes = job.panel_bytes;
    f.inverse = job.inverse;
    f.is_f16 = job.is_f16;
}

// A warp's way through the slots of the units that are found.
struct Way {
    const Found* found;
    const uint8_t* from;
    uint32_t unit, at, slots, rows, row_bytes;

    MEMBER void enter(const Found* all, uint32_t next, uint32_t n_units) {
        unit = next;
        at = slots = 0;
        if (unit >= n_units) return;
        found = all + unit;
        const uint32_t warp = threadIdx.x / 32, own = warp * found->inverse >> 16, before = own * CHUNK_ROWS;
        at = warp - own * found->slots;
        slots = before < found->rows ? found->slots : 0;
        rows = found->rows - before;
        from = found->w + own * found->panel_bytes;
        row_bytes = found->is_f16 ? found->panel_bytes / CHUNK_ROWS : 0;
    }
    MEMBER bool inside() const { return at < slots; }
    MEMBER void next() { at += WARPS; }
    MEMBER void begin(Ring<DEPTH>& ring) const {
        if (row_bytes == 0) ring.begin_at(from + at * Q8_0_CHUNK, Q8_0_CHUNK);
        else ring.begin_rows_at(from + at * SLOT_ROW, row_bytes, rows);
    }
};

// The results of the units from `first` on, each the sum of the parts of the warps that had its panel; to `near`
// if that is given.
template <int BATCH>
DEVICE void store_batch(const Found* found, const float* sums, uint32_t first, uint32_t n_units, float* near) {
    const uint32_t k = threadIdx.x / (32 * WARPS / BATCH), thread = threadIdx.x % (32 * WARPS / BATCH);
    if (first + k >= n_units) return;
    const Found& f = found[first + k];
    const uint32_t warps = min(f.slots, uint32_t(WARPS));
    for (uint32_t i = thread; i < f.rows; i += 32 * WARPS / BATCH) {
        const float* from = sums + k * UNIT_SUMS + i / CHUNK_ROWS * warps * WARP_SUMS + i % CHUNK_ROWS;
        float sum = 0;
#pragma unroll 8
        for (uint32_t w = 0; w < warps; w++) sum += from[w * WARP_SUMS];
        if (near) near[k * CHUNK_ROWS + i] = sum;
        else f.out[i] = sum;
    }
}

// Pairs of units whose results lie in `near`, one a warp: stored, and rounded.
DEVICE void round_pairs(const OneArgs& a, const Found* found, const float* near, uint32_t n_pairs) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp >= n_pairs) return;
    const Found& f = found[2 * warp];
    const float v = near[32 * warp + lane];
    const CodeScale s = code_scale(__uint_as_float(warp_max_bits(__float_as_uint(fabsf(v)))));
    uint8_t* record = a.rounded + f.first / CHUNK_COLS * ACT32_RECORD;
    const uint32_t column = f.first % CHUNK_COLS;
    f.out[lane] = v;
    record[code_place(column + lane)] = uint8_t(code_bits(v, s.inverse));
    if (lane == 0) reinterpret_cast<float*>(record + ACT_SCALES)[column / 32] = s.scale;
}

// Rounds the row: a warp takes every sixteenth 256 of its columns.
DEVICE void round_raw(const OneArgs& a, uint8_t* records) {
    Chunks<RAW_MAX / WARPS> chunks;
    chunks.load(a.raw, threadIdx.x / 32, WARPS, a.n_raw);
#pragma unroll 1
    for (uint32_t i = threadIdx.x / 32; i < a.n_raw; i += WARPS) {
        float v[8];
        chunks.values(v, 0);
        chunks.shift();
        round_chunk(v, records + i * ACT32_RECORD, nullptr, nullptr);
    }
    __syncthreads();
}

template <int EACH>
DEVICE uint32_t unit_of(uint32_t j) {
    return EACH * (blockIdx.x + j / EACH * gridDim.x) + j % EACH;
}

template <int EACH>
DEVICE uint32_t units_of_block(uint32_t n_units) {
    return (n_units / EACH - blockIdx.x + gridDim.x - 1) / gridDim.x * EACH;
}

template <class To>
DEVICE void one_row(const OneArgs& a, const NextArgs* next, float* near, Crossing* crossing) {
    enum { EACH = To::EACH, BATCH = To::BATCH };
    DYNAMIC_SHARED(OneShared<To>, shared);
    OneShared<To>& s = *shared;
    Ring<DEPTH> ring;
    ring.start(s.slots, s.barriers);
    Operands x;
    x.from = nullptr;
    // Where a panel has two slots a warp, and few units of it are a block's: both slots' activations.
    Kept kept[2];
    bool awaited = false;
    uint32_t buffer = 0;
    const uint32_t all_units = units_of_block<EACH>(a.n_units);
    // All units of the block, unless it has very many.
    for (uint32_t start = 0; start < all_units; start += UNITS) {
        const uint32_t n_units = min(all_units - start, uint32_t(UNITS));
        if (threadIdx.x < n_units) find(s.found[threadIdx.x], a, s.extra, unit_of<EACH>(start + threadIdx.x));
        __syncthreads();
        Way ahead, here;
        ahead.enter(s.found, 0, n_units);
        const auto fill = [&]() {
            while (!ring.full() && ahead.unit < n_units) {
                if (ahead.inside()) {
                    ahead.begin(ring);
                    ahead.next();
                } else {
                    ahead.enter(s.found, ahead.unit + 1, n_units);
                }
            }
        };
        for (uint32_t unit = 0; unit < n_units; unit++) {
            here.enter(s.found, unit, n_units);
            float acc[2] = {0, 0};
            for (;; here.next()) {
                fill();
                if (!awaited) {
                    if constexpr (To::CROSSES) ask_weights(*next, blockIdx.x, s.extra);
                    await_previous();
                    if constexpr (To::RAW) {
                        if (a.raw) round_raw(a, s.extra);
                    }
                    if constexpr (EACH == 2) {
                        const Found& f = s.found[0];
                        const uint32_t warp = threadIdx.x / 32, behind = warp + WARPS;
                        kept[0].load(f.x + (warp < f.slots ? warp : 0) * ACT32_RECORD);
                        kept[1].load(f.x + (behind < f.slots ? behind : 0) * ACT32_RECORD);
                    }
                    awaited = true;
                }
                if (!here.inside()) break;
                const uint8_t* records = here.found->x;
                if (here.row_bytes != 0) {
                    x.load_halves(records + here.at * (HALVES_RECORD / 2));
                    add_one_f16(acc, ring.front(), x);
                } else {
                    const uint8_t* record = records + here.at * ACT32_RECORD;
                    if constexpr (EACH == 2) {
                        if (kept[0].from == record) x.take(kept[0]);
                        else if (kept[1].from == record) x.take(kept[1]);
                    }
                    x.load_32(record);
                    add_one_q8_0(acc, ring.front(), x);
                }
                ring.pop();
            }
            leave_sums(acc, s.sums[buffer] + unit % BATCH * UNIT_SUMS);
            if (unit % BATCH + 1 < BATCH && unit + 1 < n_units) continue;
            __syncthreads();
            const uint32_t first = unit / BATCH * BATCH;
            store_batch<BATCH>(s.found, s.sums[buffer], first, n_units, near);
            buffer ^= 1;
            if constexpr (EACH == 2) __syncthreads();
            if constexpr (To::ROUNDS) {
                round_pairs(a, s.found + first, near, (unit + 1 - first) / 2);
            }
            if constexpr (To::CROSSES) {
                const uint32_t chunk = unit_of<EACH>(start + first) / 2;
                if (start + first > 0) ask_weights(*next, chunk, s.extra);
                cross_site(*next, chunk, s.extra, *crossing);
            }
        }
        // The units that are found next take the place of these.
        __syncthreads();
    }
    if (!awaited) await_previous();
}

KERNEL_EARLY(32 * WARPS, 1, gemv_one, OneArgs) { one_row<Stored>(a, nullptr, nullptr, nullptr); }

// Of one matrix, whose groups have whole 32s of rows.
KERNEL_EARLY(32 * WARPS, 1, gemv_one_rounded, OneArgs) {
    SHARED float near[RoundedToo::BATCH * CHUNK_ROWS];
    one_row<RoundedToo>(a, nullptr, near, nullptr);
}

struct OneNextArgs {
    OneArgs product;
    NextArgs next;
};

// Of one matrix in one group, whose rows are a site's channels: the results go into the streams, and the sums of
// the site are left. grid: chunks of the site at most.
KERNEL_EARLY(32 * WARPS, 1, gemv_one_next, OneNextArgs) {
    SHARED Crossing crossing;
    one_row<Crossed>(a.product, &a.next, crossing.y, &crossing);
}
