// The chosen experts of few rows, on devices with the bulk copy engine and much shared memory: as
// experts.cu, with weights that come through rings (ring.cuh). The shared expert's come first, before
// the choice is known.
#include "experts.cuh"
#include "ring.cuh"

#define WARPS 16
#define DEPTH 3
#define HALF (WARPS / 2)
// Pairs whose experts are kept near.
#define NEAR_PAIRS 256
#define RING_BYTES (WARPS * DEPTH * SLOT_BYTES)
#define BARRIER_BYTES (WARPS * DEPTH * 8)

// Shared memory of a block: slots, barriers, the grid of IQ2_XXS, experts of pairs, sums.
struct Places {
    uint8_t* slots;
    uint64_t* barriers;
    uint32_t *levels, *ids;
    float* sums;

    MEMBER Places(uint8_t* shared) {
        slots = shared;
        barriers = reinterpret_cast<uint64_t*>(shared + RING_BYTES);
        levels = reinterpret_cast<uint32_t*>(shared + RING_BYTES + BARRIER_BYTES);
        ids = levels + 256;
        sums = reinterpret_cast<float*>(ids + NEAR_PAIRS);
    }

    MEMBER void copy_levels(const uint32_t* grid) const {
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) levels[i] = grid[i];
    }

    // The ids of the first pairs, once they are known.
    MEMBER void copy_ids(const uint32_t* from, uint32_t n) const {
        for (uint32_t i = threadIdx.x; i < n && i < NEAR_PAIRS; i += blockDim.x) ids[i] = from ? from[i] : 0;
        __syncthreads();
    }

    MEMBER uint32_t id(const uint32_t* far, uint32_t pair) const {
        return pair < NEAR_PAIRS ? ids[pair] : far ? far[pair] : 0;
    }
};

// A warp's way through the gated products: a unit is a panel of both matrices for one pair, the pairs of
// the shared expert first. Half of the warps take the gate.
struct UpCursor {
    const UpArgs& a;
    uint32_t unit, n_units, n_shared, panels, at, slots, bank, pair, panel;

    MEMBER UpCursor(const UpArgs& args) : a(args) {
        panels = (a.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        n_shared = a.banks[1].n_pairs * panels;
        n_units = n_shared + a.banks[0].n_pairs * panels;
        enter(blockIdx.x);
    }
    MEMBER bool is_up() const { return threadIdx.x / 32 >= HALF; }
    MEMBER const Matrix& matrix() const { return is_up() ? a.banks[bank].up : a.banks[bank].gate; }
    MEMBER void enter(uint32_t next) {
        unit = next;
        if (unit >= n_units) return;
        bank = unit < n_shared ? 1 : 0;
        const uint32_t in_bank = bank ? unit : unit - n_shared;
        pair = in_bank / panels;
        panel = in_bank % panels;
        slots = slots_of(matrix());
        at = threadIdx.x / 32 % HALF;
    }
    // To the next slot of a unit before `end`.
    MEMBER void settle(uint32_t end) {
        while (unit < end && at >= slots) enter(unit + gridDim.x);
    }
};

// out = weight * silu(min(gate, clamp)) * clamp(up).
template <uint32_t LAYOUTS>
DEVICE void experts_up(const UpArgs& a) {
    DYNAMIC_SHARED(uint8_t, shared);
    const Places near(shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    near.copy_levels(a.grid);
    Ring<DEPTH> ring;
    ring.start(near.slots, near.barriers);
    UpCursor ahead(a), here(a);
    const auto fill = [&](uint32_t end) {
        ahead.settle(end);
        while (!ring.full() && ahead.unit < end) {
            const Matrix& m = ahead.matrix();
            const Bank& bank = a.banks[ahead.bank];
            const uint32_t id = ahead.bank ? 0 : near.id(bank.ids, ahead.pair);
            ring.begin(m, m.w + uint64_t(min(id, bank.n_experts - 1)) * m.expert_bytes, ahead.panel, ahead.at);
            ahead.at += HALF;
            ahead.settle(end);
        }
    };
    fill(ahead.n_shared);
    await_previous();
    near.copy_ids(a.banks[0].ids, a.banks[0].n_pairs);
    fill(ahead.n_units);
    uint32_t buffer = 0;
    for (; here.unit < here.n_units; here.enter(here.unit + gridDim.x)) {
        const Bank& bank = a.banks[here.bank];
        const uint32_t row = here.pair / bank.used;
        const uint32_t row_bytes = here.is_up() ? bank.up_row_bytes : bank.gate_row_bytes;
        const uint8_t* x = here.is_up() ? bank.up_x : bank.gate_x;
        const Input in = {x + uint64_t(row) * row_bytes, row_bytes, 1};
        float acc[1][4] = {{0, 0, 0, 0}};
        for (; here.at < here.slots; here.at += HALF) {
            add_slot<0, LAYOUTS, 1>(acc, ring.front(), here.matrix(), in, here.at, near.levels);
            ring.pop();
            fill(ahead.n_units);
        }
        float* sums = near.sums + buffer * WARPS * CHUNK_ROWS;
        if (lane % 4 == 0) {
            sums[warp * CHUNK_ROWS + lane / 4] = acc[0][0];
            sums[warp * CHUNK_ROWS + lane / 4 + 8] = acc[0][2];
        }
        __syncthreads();
        const uint32_t at = here.panel * CHUNK_ROWS + threadIdx.x;
        if (threadIdx.x < CHUNK_ROWS && at < bank.gate.rows) {
            float gate = 0, up = 0;
#pragma unroll
            for (uint32_t w = 0; w < HALF; w++) {
                gate += sums[w * CHUNK_ROWS + threadIdx.x];
                up += sums[(HALF + w) * CHUNK_ROWS + threadIdx.x];
            }
            const float weight = pair_weight(bank, here.pair, here.bank ? 0 : near.id(bank.ids, here.pair));
            bank.out[uint64_t(here.pair) * bank.gate.rows + at] = weight * swiglu_value(gate, up, bank.clamp);
        }
        buffer ^= 1;
    }
}

// A warp's way through the sums: a unit is a panel for one row, with the slots of the shared expert and
// then those of the row's experts, in their order.
struct DownCursor {
    const DownArgs& a;
    uint32_t unit, n_units, panels, shared_slots, slots, all_slots, at;

    MEMBER DownCursor(const DownArgs& args) : a(args) {
        panels = (a.down.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        n_units = a.n_rows * panels;
        shared_slots = a.shared_x ? slots_of(a.shared_down) : 0;
        slots = slots_of(a.down);
        all_slots = shared_slots + a.used * slots;
        enter(blockIdx.x);
    }
    MEMBER uint32_t row() const { return unit / panels; }
    MEMBER uint32_t panel() const { return unit % panels; }
    MEMBER bool shared() const { return at < shared_slots; }
    MEMBER uint32_t term() const { return (at - shared_slots) / slots; }
    MEMBER uint32_t slot() const { return shared() ? at : (at - shared_slots) % slots; }
    MEMBER void enter(uint32_t next) {
        unit = next;
        at = threadIdx.x / 32;
    }
    MEMBER void settle() {
        while (unit < n_units && at >= all_slots) enter(unit + gridDim.x);
    }
};

// The sum over a row's experts, in the order of their selection, and the shared one.
template <uint32_t LAYOUTS>
DEVICE void experts_down(const DownArgs& a) {
    DYNAMIC_SHARED(uint8_t, shared);
    const Places near(shared);
    const uint32_t lane = threadIdx.x % 32;
    near.copy_levels(a.grid);
    Ring<DEPTH> ring;
    ring.start(near.slots, near.barriers);
    DownCursor ahead(a), here(a);
    const auto fill = [&](bool known) {
        ahead.settle();
        while (!ring.full() && ahead.unit < ahead.n_units && (known || ahead.shared())) {
            const Matrix& m = ahead.shared() ? a.shared_down : a.down;
            const uint32_t pair = ahead.shared() ? 0 : ahead.row() * a.used + ahead.term();
            const uint32_t id = ahead.shared() ? 0 : min(near.id(a.ids, pair), a.n_experts - 1);
            ring.begin(m, m.w + uint64_t(id) * m.expert_bytes, ahead.panel(), ahead.slot());
            ahead.at += WARPS;
            ahead.settle();
        }
    };
    fill(false);
    await_previous();
    near.copy_ids(a.ids, a.n_rows * a.used);
    fill(true);
    uint32_t buffer = 0;
    for (; here.unit < here.n_units; here.enter(here.unit + gridDim.x)) {
        float* sums = near.sums + buffer * here.all_slots * CHUNK_ROWS;
        for (; here.at < here.all_slots; here.at += WARPS) {
            const bool is_shared = here.shared();
            const uint32_t pair = is_shared ? here.row() : here.row() * a.used + here.term();
            const uint32_t row_bytes = is_shared ? a.shared_row_bytes : a.row_bytes;
            const Input in = {(is_shared ? a.shared_x : a.x) + uint64_t(pair) * row_bytes, row_bytes, 1};
            float acc[1][4] = {{0, 0, 0, 0}};
            add_slot<0, LAYOUTS, 1>(acc, ring.front(), is_shared ? a.shared_down : a.down, in, here.slot(),
                                    near.levels);
            ring.pop();
            fill(true);
            if (lane % 4 == 0) {
                sums[here.at * CHUNK_ROWS + lane / 4] = acc[0][0];
                sums[here.at * CHUNK_ROWS + lane / 4 + 8] = acc[0][2];
            }
        }
        __syncthreads();
        const uint32_t at = here.panel() * CHUNK_ROWS + threadIdx.x;
        if (threadIdx.x < CHUNK_ROWS && at < a.down.rows) {
            float* out = a.out + uint64_t(here.row()) * a.down.rows + at;
            float total = a.add ? *out : 0.0f;
            for (uint32_t s = here.shared_slots; s < here.all_slots; s++) {
                total += sums[s * CHUNK_ROWS + threadIdx.x];
            }
            for (uint32_t s = 0; s < here.shared_slots; s++) total += sums[s * CHUNK_ROWS + threadIdx.x];
            *out = total;
        }
        buffer ^= 1;
    }
}

#define EXPERTS(name, LAYOUTS)                                                                      \
    KERNEL_EARLY(32 * WARPS, 1, ring_up_##name, UpArgs) { experts_up<LAYOUTS>(a); }                 \
    KERNEL_EARLY(32 * WARPS, 1, ring_down_##name, DownArgs) { experts_down<LAYOUTS>(a); }

EXPERTS(iq2_xxs, SET(LAYOUT_IQ2_XXS) | SET(LAYOUT_Q8_0))
EXPERTS(q2_k, SET(LAYOUT_Q2_K) | SET(LAYOUT_Q8_0))
EXPERTS(q4_k, SET(LAYOUT_Q4_K) | SET(LAYOUT_Q8_0))
EXPERTS(mxfp4, SET(LAYOUT_MXFP4) | SET(LAYOUT_Q8_0))
EXPERTS(any, ANY_SET)
