// Products of up to sixteen rows with matrices in Q8_0 and F16, on devices with the bulk copy engine and much shared
// memory: as gemv_ring.cu, with a run of neighbouring units for every block, so that a warp meets the same
// columns from unit to unit and keeps their activations. Bits are those of gemv_ring.cu.
#include "gemv.cuh"
#include "ring.cuh"

#define WARPS 16
#define DEPTH 2
// Units of a block that are found at once, and those whose sums are added up at once.
#define UNITS 64
#define BATCH 2

// A unit of work: its weights from the first panel on, its slice of x, its panels, and the slots of a panel.
struct alignas(16) FewFound {
    const uint8_t *w, *x;
    // Rows that the first panel begins with, and those of the group.
    uint32_t job, first_row, group_row, end_row, panels, slots;
};

template <int GROUPS>
struct alignas(16) FewRows {
    // Sums of a warp for one unit.
    enum { SUMS = GROUPS * 128 };
    uint8_t slots[WARPS * DEPTH * SLOT_BYTES];
    float sums[2][BATCH][WARPS * SUMS];
    // Of the columns that a warp has: [tile][row].
    float scales[WARPS][TILES * 8 * GROUPS];
    FewFound found[UNITS];
    uint64_t barriers[WARPS * DEPTH];
};

DEVICE void find(FewFound& f, const GemvArgs& a, uint32_t unit) {
    f.job = a.job_of(unit);
    const GemvJob& job = a.jobs[f.job];
    const uint32_t cols = slot_cols(job.m.layout);
    f.slots = (job.m.cols + cols - 1) / cols;
    const uint32_t at_once = f.slots < WARPS ? WARPS / f.slots : 1;
    const Unit u = job.unit(unit - job.first_unit, at_once);
    f.x = job.x + uint64_t(u.group) * job.x_slice_bytes;
    f.first_row = u.first_panel * CHUNK_ROWS;
    f.group_row = u.first_row;
    f.end_row = u.end_row;
    f.panels = min((u.end_row - f.first_row + CHUNK_ROWS - 1) / CHUNK_ROWS, at_once);
    const bool is_f16 = job.m.layout == LAYOUT_F16;
    const uint64_t panel_bytes = is_f16 ? uint64_t(CHUNK_ROWS) * job.m.cols * 2 : uint64_t(f.slots) * Q8_0_CHUNK;
    f.w = job.m.w + u.first_panel * panel_bytes;
}

// A warp's way through the slots of the units that are found.
template <class Near>
struct FewWay {
    const GemvArgs& a;
    const Near& s;
    uint32_t n_units, unit, slot;

    MEMBER FewWay(const GemvArgs& args, const Near& near, uint32_t n) : a(args), s(near), n_units(n), unit(0) { enter(); }
    MEMBER bool more() const { return unit < n_units; }
    MEMBER const FewFound& found() const { return s.found[unit]; }
    // Which panel of a unit is the warp's.
    MEMBER uint32_t own() const { return found().slots < WARPS ? threadIdx.x / 32 / found().slots : 0; }
    MEMBER bool inside() const { return slot < found().slots; }
    MEMBER void enter() {
        if (!more()) return;
        const uint32_t n = found().slots, warp = threadIdx.x / 32;
        slot = own() >= found().panels ? n : n < WARPS ? warp % n : warp;
    }
    MEMBER void next_unit() {
        unit++;
        enter();
    }
    MEMBER void begin(Ring<DEPTH>& ring) const {
        const FewFound& f = found();
        const Matrix& m = a.jobs[f.job].m;
        if (m.layout != LAYOUT_F16) {
            return ring.begin_at(f.w + (uint64_t(own()) * f.slots + slot) * Q8_0_CHUNK, Q8_0_CHUNK);
        }
        ring.begin_rows(m.w, m.cols * 2, m.rows, f.first_row / CHUNK_ROWS + own(), slot);
    }
};

// A lane's operands of a chunk of Q8_0's activations.
template <int GROUPS>
struct Held {
    const uint8_t* from;
    uint4 codes[GROUPS][4];

    MEMBER void load(const uint8_t* records, uint32_t row_bytes, uint32_t n_rows, float* scales) {
        if (from == records) return;
        from = records;
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            const uint32_t row = 8 * group + g;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint8_t* at = records + uint64_t(row) * row_bytes + 64 * k + 16 * t;
                codes[group][k] = row < n_rows ? load16(at) : make_uint4(0, 0, 0, 0);
            }
        }
        __syncwarp();
        if (lane < 16 * GROUPS) {
            const uint32_t row = lane / 2, first = lane % 2 * 4;
            float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const uint8_t* at = records + uint64_t(row) * row_bytes + ACT_SCALES + 4 * first;
            if (row < n_rows) four = *reinterpret_cast<const float4*>(at);
            const float of_tile[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++) scales[(first + i) * 8 * GROUPS + row] = of_tile[i];
        }
        __syncwarp();
    }
};

// Adds the products of a chunk of Q8_0.
template <int GROUPS>
DEVICE void add_few_q8_0(float (&acc)[GROUPS][4], const uint8_t* chunk, const Held<GROUPS>& x, const float* scales) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int start[4];
    sums_in_floats(start);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const uint4 q = load16(chunk + 512 * i + 16 * lane);
        const uint32_t a[4] = {q.x, q.y, q.z, q.w}, d = load4(chunk + Q8_0_SCALES + 32 * g + 4 * i);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            int c[4];
            const uint4& codes = x.codes[group][i / 2];
            mma_s8_from(c, start, a, word(codes, i % 2 * 2), word(codes, i % 2 * 2 + 1));
            const float2 scale = *reinterpret_cast<const float2*>(scales + i * 8 * GROUPS + 8 * group + 2 * t);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float of_row = pick_half(d, half);
                float* sum = acc[group] + 2 * half;
                sum[0] = fmaf(float_of_sum(c[2 * half]), of_row * scale.x, sum[0]);
                sum[1] = fmaf(float_of_sum(c[2 * half + 1]), of_row * scale.y, sum[1]);
            }
        }
    }
}

// The results of a batch: every one is the sum of the parts of the warps that had its panel.
template <int GROUPS>
DEVICE void store_batch(const GemvArgs& a, const FewFound* found, uint32_t n, const float (*sums)[WARPS * 128 * GROUPS]) {
    const uint32_t SUMS = 128 * GROUPS;
    for (uint32_t k = 0; k < n; k++) {
        const FewFound& f = found[k];
        const GemvJob& job = a.jobs[f.job];
        const uint32_t warps = min(f.slots, uint32_t(WARPS));
        for (uint32_t i = threadIdx.x; i < f.panels * SUMS; i += 32 * WARPS) {
            const uint32_t panel = i / SUMS, j = i % SUMS, lane = j % 32, at = j / 32;
            const uint32_t row = f.first_row + panel * CHUNK_ROWS + lane / 4 + at % 4 / 2 * 8;
            const uint32_t n_row = at / 4 * 8 + lane % 4 * 2 + at % 2;
            if (n_row >= a.n_rows || row < f.group_row || row >= f.end_row) continue;
            const float* from = sums[k] + panel * warps * SUMS + j;
            float sum = 0;
#pragma unroll 8
            for (uint32_t w = 0; w < warps; w++) sum += from[w * SUMS];
            job.out[uint64_t(n_row) * job.out_stride + row] = sum;
        }
    }
}

template <int GROUPS>
DEVICE void gemv_few(const GemvArgs& a) {
    typedef FewRows<GROUPS> Near;
    DYNAMIC_SHARED(Near, shared);
    Near& s = *shared;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Ring<DEPTH> ring;
    ring.start(s.slots, s.barriers);
    Held<GROUPS> x;
    x.from = nullptr;
    bool awaited = false;
    const uint32_t begin = uint32_t(uint64_t(a.n_units) * blockIdx.x / gridDim.x);
    const uint32_t end = uint32_t(uint64_t(a.n_units) * (blockIdx.x + 1) / gridDim.x);
    uint32_t buffer = 0;
    for (uint32_t first = begin; first < end; first += UNITS) {
        const uint32_t n_units = min(end - first, uint32_t(UNITS));
        if (threadIdx.x < n_units) find(s.found[threadIdx.x], a, first + threadIdx.x);
        __syncthreads();
        FewWay<Near> ahead(a, s, n_units), here(a, s, n_units);
        const auto fill = [&]() {
            while (!ring.full() && ahead.more()) {
                if (ahead.inside()) {
                    ahead.begin(ring);
                    ahead.slot += WARPS;
                } else {
                    ahead.next_unit();
                }
            }
        };
        fill();
        if (!awaited) await_previous();
        awaited = true;
        uint32_t batch = 0;
        while (here.more()) {
            const FewFound& f = here.found();
            const GemvJob& job = a.jobs[f.job];
            float acc[GROUPS][4];
#pragma unroll
            for (int i = 0; i < GROUPS * 4; i++) acc[i / 4][i % 4] = 0;
            for (; here.inside(); here.slot += WARPS) {
                if (job.m.layout == LAYOUT_F16) {
                    const Input in = {f.x, job.x_row_bytes, a.n_rows};
                    add_slot_halves<GROUPS>(acc, ring.front(), in, here.slot);
                } else {
                    x.load(f.x + here.slot * ACT32_RECORD, job.x_row_bytes, a.n_rows, s.scales[warp]);
                    add_few_q8_0<GROUPS>(acc, ring.front(), x, s.scales[warp]);
                }
                ring.pop();
                fill();
            }
#pragma unroll
            for (int i = 0; i < GROUPS * 4; i++) {
                s.sums[buffer][here.unit - batch][(warp * 4 * GROUPS + i) * 32 + lane] = acc[i / 4][i % 4];
            }
            here.next_unit();
            if (here.unit - batch < BATCH && here.more()) continue;
            __syncthreads();
            store_batch<GROUPS>(a, s.found + batch, here.unit - batch, s.sums[buffer]);
            batch = here.unit;
            buffer ^= 1;
        }
        // The units that are found next take the place of these.
        __syncthreads();
    }
    if (!awaited) await_previous();
}

// A few bytes spill, of the smaller one where devices have too little shared memory to run it (sm_120):
// spills: gemv_few_8
// spills: gemv_few_16
KERNEL_EARLY(32 * WARPS, 1, gemv_few_8, GemvArgs) { gemv_few<1>(a); }
KERNEL_EARLY(32 * WARPS, 1, gemv_few_16, GemvArgs) { gemv_few<2>(a); }
