// The gated products of one row's experts in IQ2_XXS and the shared one's in Q8_0, on devices with the bulk
// copy engine and much shared memory: as experts_ring.cu, by the products of one.cuh.
//
// What IQ2_XXS costs is finding magnitudes in the grid: here every lane has a grid of its own (Iq2XxsSpread).
#include "experts.cuh"
#include "one.cuh"

#define DEPTH 2
#define HALF (WARPS / 2)
// Units whose sums are added up at once.
#define BATCH 8

struct alignas(16) OneShared {
    uint32_t grid[SPREAD_GRID / 4];
    uint8_t slots[WARPS * DEPTH * SLOT_BYTES];
    float sums[2][BATCH * UNIT_SUMS];
    uint64_t barriers[WARPS * DEPTH];
    uint32_t ids[MAX_USED];
};

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

// A warp's way through the units of its block, as in experts_ring.cu: a unit is a panel of both matrices for
// one pair, the shared expert's first. Half of the warps take the gate.
struct Way {
    const UpArgs& a;
    const OneShared& s;
    const uint8_t* w;
    // Slots of a panel and their bytes.
    uint32_t n, slot_bytes, last_bytes;
    uint32_t bank, pair, panel, panels, at, unit;

    MEMBER Way(const UpArgs& args, const OneShared& shared)
        : a(args), s(shared), n(0), bank(1), pair(0), panel(blockIdx.x), unit(0) {
        panels = (a.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        if (a.banks[1].n_pairs > 0) measure();
        settle();
    }
    MEMBER bool is_up() const { return threadIdx.x / 32 >= HALF; }
    MEMBER const Matrix& matrix() const { return is_up() ? a.banks[bank].up : a.banks[bank].gate; }
    MEMBER bool more() const { return pair < a.banks[bank].n_pairs; }
    MEMBER void measure() {
        const Matrix& m = matrix();
        const uint32_t cols = slot_cols(m.layout), bytes = chunk_bytes(m.layout);
        n = (m.cols + cols - 1) / cols;
        slot_bytes = cols / CHUNK_COLS * bytes;
        last_bytes = chunks_of(m.cols) * bytes - (n - 1) * slot_bytes;
        w = m.w;
    }
    MEMBER void settle() {
        while (panel >= panels) panel -= panels, pair++;
        if (bank == 1 && pair >= a.banks[1].n_pairs) {
            pair -= a.banks[1].n_pairs;
            bank = 0;
            measure();
        }
        at = threadIdx.x / 32 % HALF;
    }
    MEMBER void next() {
        panel += gridDim.x;
        unit++;
        settle();
    }
    MEMBER const uint8_t* slot() const {
        const uint32_t id = bank ? 0 : min(s.ids[pair], a.banks[0].n_experts - 1);
        const uint32_t panel_bytes = (n - 1) * slot_bytes + last_bytes;
        return w + id * matrix().expert_bytes + uint64_t(panel) * panel_bytes + at * slot_bytes;
    }
};

// out = weight * silu(min(gate, clamp)) * clamp(up), of the units from `first` on.
DEVICE void store_gated(const UpArgs& a, const OneShared& s, const float* sums, uint32_t first, uint32_t end) {
    const uint32_t unit = first + threadIdx.x / CHUNK_ROWS, row = threadIdx.x % CHUNK_ROWS;
    if (threadIdx.x >= BATCH * CHUNK_ROWS || unit >= end) return;
    const uint32_t panels = (a.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    const uint32_t all = blockIdx.x + unit * gridDim.x, panel = all % panels;
    uint32_t pair = all / panels;
    const bool is_shared = pair < a.banks[1].n_pairs;
    if (!is_shared) pair -= a.banks[1].n_pairs;
    const Bank& bank = a.banks[is_shared ? 1 : 0];
    if (panel * CHUNK_ROWS + row >= bank.gate.rows) return;
    const float* from = sums + threadIdx.x / CHUNK_ROWS * UNIT_SUMS + row;
    float gate = 0, up = 0;
#pragma unroll
    for (uint32_t w = 0; w < HALF; w++) {
        gate += from[w * WARP_SUMS];
        up += from[(HALF + w) * WARP_SUMS];
    }
    const float weight = pair_weight(bank, pair, is_shared ? 0 : s.ids[pair]);
    const float value = weight * swiglu_value(gate, up, bank.clamp);
    bank.out[uint64_t(pair) * bank.gate.rows + panel * CHUNK_ROWS + row] = value;
}

KERNEL_HOLDING(32 * WARPS, 1, one_up_iq2_xxs, UpArgs) {
    DYNAMIC_SHARED(OneShared, shared);
    touch(a);
    OneShared& s = *shared;
    Ring<DEPTH> ring;
    ring.start(s.slots, s.barriers);
    Way ahead(a, s);
    bool chosen = false;
    const auto fill = [&]() {
        while (!ring.full() && ahead.more() && (chosen || ahead.bank == 1)) {
            if (ahead.at < ahead.n) {
                ring.begin_at(ahead.slot(), ahead.at + 1 == ahead.n ? ahead.last_bytes : ahead.slot_bytes);
                ahead.at += HALF;
            } else {
                ahead.next();
            }
        }
    };
    fill();
    spread_grid<WARPS>(s.grid, a.grid);
    await_previous();
    // The choice is there: the next kernel asks for its experts' weights as soon as there is room.
    let_next_begin();
    if (threadIdx.x < a.banks[0].n_pairs) s.ids[threadIdx.x] = a.banks[0].ids ? __ldcg(a.banks[0].ids + threadIdx.x) : 0;
    __syncthreads();
    chosen = true;
    TwoChunks two;
    Operands one;
    one.from = nullptr;
    const uint8_t* held = nullptr;
    uint32_t buffer = 0, first = 0;
    Way here(a, s);
    while (here.more()) {
        const Bank& bank = a.banks[here.bank];
        const uint8_t* x = here.is_up() ? bank.up_x : bank.gate_x;
        const Matrix& m = here.matrix();
        float acc[2] = {0, 0};
        for (;; here.at += HALF) {
            fill();
            if (here.at >= here.n) break;
            if (m.layout == LAYOUT_Q8_0) {
                one.load_32(x + here.at * ACT32_RECORD);
                add_one_q8_0(acc, ring.front(), one);
            } else {
                const uint8_t* records = x + here.at * (2 * ACT256_RECORD);
                const uint32_t chunks = min(chunks_of(m.cols) - 2 * here.at, 2u);
                if (held != records) two.load(records, chunks);
                held = records;
                const uint8_t* slot = ring.front();
                add_one_iq2_xxs(acc, slot, two.b[0], two.scale[0], s.grid);
                if (chunks > 1) add_one_iq2_xxs(acc, slot + IQ2_XXS_CHUNK, two.b[1], two.scale[1], s.grid);
            }
            ring.pop();
        }
        leave_sums(acc, s.sums[buffer] + (here.unit - first) * UNIT_SUMS);
        here.next();
        if (here.unit - first < BATCH && here.more()) continue;
        __syncthreads();
        store_gated(a, s, s.sums[buffer], first, here.unit);
        first = here.unit;
        buffer ^= 1;
    }
}
