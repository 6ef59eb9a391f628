// The gated products of one row's experts in IQ2_XXS and the shared one's in Q8_0, on devices with the bulk
// copy engine and much shared memory: as experts_ring.cu, by the products of one.cuh.
//
// What IQ2_XXS costs is finding magnitudes in the grid: here every lane has a grid of its own (Iq2XxsSpread). The
// results are rounded for experts_down_one.cu, a scale for every panel's 16.
#include "experts.cuh"
#include "one.cuh"

#define DEPTH 2
#define HALF (WARPS / 2)
// Units of a block, and those whose sums are added up at once.
#define UNITS 32
#define BATCH 8

struct OneUpArgs {
    UpArgs up;
    // Records of the pairs, the shared one's last.
    uint8_t* rounded;
    // Panels of an expert, in whole 16s; units of the shared one. `knows_x`: x is there when the kernel begins.
    uint32_t panels, n_shared, n_units, knows_x;
};

// A unit of work: a panel of the gate and of up for one pair. Half of the warps take the gate.
struct alignas(16) Found {
    const uint8_t *w[2], *x[2];
    uint8_t* record;
    float weight;
    // The first of 16 columns in the record; slots of a panel, chunks of a panel.
    uint32_t column, slots, chunks, is_q8_0;
};

struct alignas(16) OneShared {
    uint32_t grid[SPREAD_GRID / 4];
    uint8_t slots[WARPS * DEPTH * SLOT_BYTES];
    float sums[2][BATCH * UNIT_SUMS];
    uint64_t barriers[WARPS * DEPTH];
    Found found[UNITS];
};

// Unit `unit` of all: panels of the shared expert come first.
DEVICE void find(Found& f, const OneUpArgs& a, uint32_t unit) {
    const bool is_shared = unit < a.n_shared;
    const Bank& bank = a.up.banks[is_shared ? 1 : 0];
    uint32_t panel = is_shared ? unit : unit - a.n_shared, pair = 0;
    while (panel >= a.panels) panel -= a.panels, pair++;
    const uint32_t id = bank.ids ? __ldcg(bank.ids + pair) : 0;
    f.weight = pair_value(bank, id, bank.weights ? __ldcg(bank.weights + pair) : 1.0f);
    f.is_q8_0 = bank.gate.layout == LAYOUT_Q8_0;
    f.chunks = chunks_of(bank.gate.cols);
    f.slots = f.is_q8_0 ? f.chunks : (f.chunks + 1) / 2;
    const uint64_t at = min(id, bank.n_experts - 1) * bank.gate.expert_bytes
        + uint64_t(panel * f.chunks) * (f.is_q8_0 ? Q8_0_CHUNK : IQ2_XXS_CHUNK);
    f.w[0] = bank.gate.w + at;
    f.w[1] = bank.up.w + at;
    f.x[0] = bank.gate_x;
    f.x[1] = bank.up_x;
    const uint32_t first = is_shared ? a.up.banks[0].n_pairs : 0;
    f.record = a.rounded + ((first + pair) * a.panels + panel) / 16 * ACT16_RECORD;
    f.column = panel % 16 * CHUNK_ROWS;
}

// A lane's operands of two chunks of activations with one scale each.
struct TwoChunks {
    uint32_t b[2][2 * TILES];
    float scale[2];

    MEMBER void load(const uint8_t* record, uint32_t n) {
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (i >= n) break;
            const uint8_t* from = record + i * ACT256_RECORD;
            spread(b[i], load8(from + codes_at(g, t)), g);
            scale[i] = *reinterpret_cast<const float*>(from + ACT256_SCALE);
        }
    }
};

// Adds the products of a chunk of IQ2_XXS to the sums of rows g and g + 8.
DEVICE void add_one_iq2_xxs(float (&acc)[2], const uint8_t* chunk, const uint32_t (&b)[2 * TILES], float scale,
                            const uint32_t* grid) {
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
    Iq2Xxs::Raw w;
    Iq2Xxs::load(w, Near{chunk}, lane);
    int even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        uint32_t a[4];
        Iq2XxsSpread::tile(a, w, i, grid);
        mma_s8(i % 2 == 0 ? even : odd, a, b[2 * i], b[2 * i + 1]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Four bits a tile.
        const uint32_t factors = word(w.scales, half) >> 8 * t;
        const int low = int((factors << 1 & 30) | 1), high = int((factors >> 3 & 30) | 1);
        const int total = low * (even[2 * half] + odd[2 * half]) + high * (even[2 * half + 1] + odd[2 * half + 1]);
        acc[half] = fmaf(float(total), Iq2Xxs::d(w, half) * scale, acc[half]);
    }
}

// A warp's way through the slots of the units that are found.
struct Way {
    const uint8_t *from, *x;
    uint32_t unit, at, slots, chunks, is_q8_0;

    MEMBER void enter(const Found* found, uint32_t next, uint32_t n_units) {
        unit = next;
        at = threadIdx.x / 32 % HALF;
        slots = 0;
        if (unit >= n_units) return;
        const Found& f = found[unit];
        const uint32_t which = threadIdx.x / 32 / HALF;
        from = f.w[which];
        x = f.x[which];
        slots = f.slots;
        chunks = f.chunks;
        is_q8_0 = f.is_q8_0;
    }
    MEMBER bool inside() const { return at < slots; }
    MEMBER uint32_t chunks_here() const { return min(chunks - 2 * at, 2u); }
    MEMBER void begin(Ring<DEPTH>& ring) const {
        if (is_q8_0) ring.begin_at(from + at * Q8_0_CHUNK, Q8_0_CHUNK);
        else ring.begin_at(from + at * (2 * IQ2_XXS_CHUNK), chunks_here() * IQ2_XXS_CHUNK);
    }
};

// weight * silu(min(gate, clamp)) * clamp(up), of the units from `first` on, half a warp each; the last stands in for
// those behind it.
DEVICE void store_gated(const OneUpArgs& a, const Found* found, const float* sums, uint32_t first, uint32_t end) {
    if (threadIdx.x >= BATCH * CHUNK_ROWS || first + threadIdx.x / 32 * 2 >= end) return;
    const uint32_t unit = min(first + threadIdx.x / CHUNK_ROWS, end - 1), row = threadIdx.x % CHUNK_ROWS;
    const float* from = sums + (unit - first) * UNIT_SUMS + row;
    float gate = 0, up = 0;
#pragma unroll
    for (uint32_t w = 0; w < HALF; w++) {
        gate += from[w * WARP_SUMS];
        up += from[(HALF + w) * WARP_SUMS];
    }
    const float clamp = a.up.banks[blockIdx.x + unit * gridDim.x < a.n_shared ? 1 : 0].clamp;
    const Found& f = found[unit];
    round_sixteen(f.weight * swiglu_value(gate, up, clamp), f.record, f.column);
}

// Where x is there before the choice of experts is, the shared one is done with before the kernel's turn.
KERNEL_HOLDING(32 * WARPS, 1, one_up_iq2_xxs, OneUpArgs) {
    DYNAMIC_SHARED(OneShared, shared);
    OneShared& s = *shared;
    Ring<DEPTH> ring;
    ring.start(s.slots, s.barriers);
    // Units of the block, and those of the shared expert, which are known.
    const uint32_t b = blockIdx.x, grid = gridDim.x;
    const uint32_t n_units = (a.n_units - b + grid - 1) / grid;
    const uint32_t n_shared = b < a.n_shared ? (a.n_shared - b + grid - 1) / grid : 0;
    if (threadIdx.x < n_shared) find(s.found[threadIdx.x], a, b + threadIdx.x * grid);
    __syncthreads();
    Way ahead, here;
    ahead.enter(s.found, 0, n_shared);
    bool known = false;
    const auto fill = [&]() {
        const uint32_t end = known ? n_units : n_shared;
        while (!ring.full() && ahead.unit < end) {
            if (ahead.inside()) {
                ahead.begin(ring);
                ahead.at += HALF;
            } else {
                ahead.enter(s.found, ahead.unit + 1, end);
            }
        }
    };
    fill();
    spread_grid<WARPS>(s.grid, a.up.grid);
    // What is read before the kernel's turn must not be what the first cache has kept of an earlier row.
    if (a.knows_x) __threadfence();
    TwoChunks two;
    Operands one;
    one.from = nullptr;
    const uint8_t* held = nullptr;
    uint32_t buffer = 0, first = 0;
    for (uint32_t unit = 0; unit < n_units; unit++) {
        if (!known && (unit >= n_shared || !a.knows_x)) {
            await_previous();
            // The choice is there: the next kernel asks for its experts' weights as soon as there is room.
            let_next_begin();
            const uint32_t routed = n_shared + threadIdx.x;
            if (routed < n_units) find(s.found[routed], a, b + routed * grid);
            __syncthreads();
            known = true;
            if (ahead.unit >= n_shared) ahead.enter(s.found, n_shared, n_units);
        }
        here.enter(s.found, unit, n_units);
        float acc[2] = {0, 0};
        for (;; here.at += HALF) {
            fill();
            if (!here.inside()) break;
            if (here.is_q8_0) {
                one.load_32(here.x + here.at * ACT32_RECORD);
                add_one_q8_0(acc, ring.front(), one);
            } else {
                const uint8_t* records = here.x + here.at * (2 * ACT256_RECORD);
                const uint32_t chunks = here.chunks_here();
                if (held != records) two.load(records, chunks);
                held = records;
                const uint8_t* slot = ring.front();
                add_one_iq2_xxs(acc, slot, two.b[0], two.scale[0], s.grid);
                if (chunks > 1) add_one_iq2_xxs(acc, slot + IQ2_XXS_CHUNK, two.b[1], two.scale[1], s.grid);
            }
            ring.pop();
        }
        leave_sums(acc, s.sums[buffer] + (unit - first) * UNIT_SUMS);
        if (unit + 1 - first < BATCH && unit + 1 < n_units) continue;
        __syncthreads();
        store_gated(a, s.found, s.sums[buffer], first, unit + 1);
        first = unit + 1;
        buffer ^= 1;
    }
    if (!known) {
        await_previous();
        let_next_begin();
    }
}
