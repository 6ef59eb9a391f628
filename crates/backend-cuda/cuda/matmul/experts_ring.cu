// The chosen experts of few rows, on devices with the bulk copy engine and much shared memory: as
// experts.cu, with weights that come through rings (ring.cuh). The shared expert's come first, before
// the choice is known.
#include "experts.cuh"
#include "pairs.cuh"
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
        for (uint32_t i = threadIdx.x; i < n && i < NEAR_PAIRS; i += blockDim.x) {
            ids[i] = from ? __ldcg(from + i) : 0;
        }
        __syncthreads();
    }

    MEMBER uint32_t id(const uint32_t* far, uint32_t pair) const {
        return pair < NEAR_PAIRS ? ids[pair] : far ? __ldcg(far + pair) : 0;
    }
};

// A warp's way through the gated products: a unit is a panel of both matrices for one pair, the pairs of
// the shared expert first. Half of the warps take the gate.
struct UpCursor {
    const UpArgs& a;
    Slots m;
    uint32_t bank, pair, panel, panels, at;

    MEMBER UpCursor(const UpArgs& args) : a(args), bank(1), pair(0), panel(blockIdx.x) {
        panels = (a.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        if (a.banks[1].n_pairs > 0) m.of(matrix());
        find();
    }
    MEMBER bool is_up() const { return threadIdx.x / 32 >= HALF; }
    MEMBER const Matrix& matrix() const { return is_up() ? a.banks[bank].up : a.banks[bank].gate; }
    MEMBER bool more() const { return pair < a.banks[bank].n_pairs; }
    MEMBER void find() {
        while (panel >= panels) panel -= panels, pair++;
        if (bank == 1 && pair >= a.banks[1].n_pairs) {
            pair -= a.banks[1].n_pairs;
            bank = 0;
            m.of(matrix());
        }
        at = threadIdx.x / 32 % HALF;
    }
    MEMBER void next_unit() {
        panel += gridDim.x;
        find();
    }
    // To the next slot, of the shared expert alone or of all.
    MEMBER void settle(bool all) {
        while (more() && (all || bank == 1) && at >= m.n) next_unit();
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
    const auto fill = [&](bool all) {
        ahead.settle(all);
        while (!ring.full() && ahead.more() && (all || ahead.bank == 1)) {
            const Bank& bank = a.banks[ahead.bank];
            const uint32_t id = ahead.bank ? 0 : min(near.id(bank.ids, ahead.pair), bank.n_experts - 1);
            ring.begin(ahead.m, ahead.m.w + id * ahead.matrix().expert_bytes, ahead.panel, ahead.at);
            ahead.at += HALF;
            ahead.settle(all);
        }
    };
    fill(false);
    await_previous();
    // The choice is there: the next kernel asks for its experts' weights as soon as there is room.
    let_next_begin();
    near.copy_ids(a.banks[0].ids, a.banks[0].n_pairs);
    fill(true);
    uint32_t buffer = 0, turn = 0;
    for (; here.more(); here.next_unit()) {
        const Bank& bank = a.banks[here.bank];
        const uint32_t row = bank.used == 1 ? here.pair : here.pair / bank.used;
        const uint32_t row_bytes = here.is_up() ? bank.up_row_bytes : bank.gate_row_bytes;
        const uint8_t* x = here.is_up() ? bank.up_x : bank.gate_x;
        const Input in = {x + uint64_t(row) * row_bytes, row_bytes, 1};
        float acc[1][4] = {{0, 0, 0, 0}};
        for (; here.at < here.m.n; here.at += HALF) {
            add_slot<0, LAYOUTS, 1>(acc, ring.front(), here.matrix(), in, here.at, near.levels);
            ring.pop();
            fill(true);
        }
        float* sums = near.sums + buffer * WARPS * CHUNK_ROWS;
        if (lane % 4 == 0) {
            sums[warp * CHUNK_ROWS + lane / 4] = acc[0][0];
            sums[warp * CHUNK_ROWS + lane / 4 + 8] = acc[0][2];
        }
        __syncthreads();
        // The warps take turns, and the others go on.
        const uint32_t at = here.panel * CHUNK_ROWS + lane;
        if (warp == turn && lane < CHUNK_ROWS && at < bank.gate.rows) {
            float gate = 0, up = 0;
#pragma unroll
            for (uint32_t w = 0; w < HALF; w++) {
                gate += sums[w * CHUNK_ROWS + lane];
                up += sums[(HALF + w) * CHUNK_ROWS + lane];
            }
            const float weight = pair_weight(bank, here.pair, here.bank ? 0 : near.id(bank.ids, here.pair));
            bank.out[uint64_t(here.pair) * bank.gate.rows + at] = weight * swiglu_value(gate, up, bank.clamp);
        }
        turn = (turn + 1) % WARPS;
        buffer ^= 1;
    }
}

// A warp's way through the sums: a unit is a panel for one row, with the slots of the shared expert and
// then those of the row's experts, in their order.
struct DownCursor {
    const DownArgs& a;
    Slots own, common;
    uint32_t row, panel, panels, all_slots;
    // The slot among all, the expert of the row that it is of, and which of its slots it is.
    uint32_t at, term, slot;

    MEMBER DownCursor(const DownArgs& args) : a(args), row(0), panel(blockIdx.x) {
        panels = (a.down.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        own.of(a.down);
        common.n = 0;
        if (a.shared_x) common.of(a.shared_down);
        all_slots = common.n + a.used * own.n;
        find();
    }
    MEMBER bool more() const { return row < a.n_rows; }
    MEMBER bool shared() const { return at < common.n; }
    MEMBER void find() {
        while (panel >= panels) panel -= panels, row++;
        at = threadIdx.x / 32;
        term = 0;
        slot = at;
        if (!shared()) place(at - common.n);
    }
    MEMBER void place(uint32_t in_terms) {
        slot = in_terms;
        while (slot >= own.n) slot -= own.n, term++;
    }
    MEMBER void next_slot() {
        const bool was_shared = shared();
        at += WARPS;
        if (shared()) {
            slot = at;
        } else {
            place(was_shared ? at - common.n : slot + WARPS);
        }
    }
    MEMBER void next_unit() {
        panel += gridDim.x;
        find();
    }
    MEMBER void settle() {
        while (more() && at >= all_slots) next_unit();
    }
};

// The sum over a row's experts, in the order of their selection, and the shared one.
template <uint32_t LAYOUTS>
DEVICE void experts_down(const DownArgs& a) {
    DYNAMIC_SHARED(uint8_t, shared);
    const Places near(shared);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    near.copy_levels(a.grid);
    Ring<DEPTH> ring;
    ring.start(near.slots, near.barriers);
    DownCursor ahead(a), here(a);
    const auto fill = [&](bool known) {
        ahead.settle();
        while (!ring.full() && ahead.more() && (known || ahead.shared())) {
            if (ahead.shared()) {
                ring.begin(ahead.common, ahead.common.w, ahead.panel, ahead.slot);
            } else {
                const uint32_t id = min(near.id(a.ids, ahead.row * a.used + ahead.term), a.n_experts - 1);
                ring.begin(ahead.own, ahead.own.w + id * a.down.expert_bytes, ahead.panel, ahead.slot);
            }
            ahead.next_slot();
            ahead.settle();
        }
    };
    const bool known = (a.flags & DOWN_KNOWS_IDS) != 0;
    if (known) near.copy_ids(a.ids, a.n_rows * a.used);
    fill(known);
    await_previous();
    if (!known) near.copy_ids(a.ids, a.n_rows * a.used);
    fill(true);
    const uint8_t *x = a.x, *shared_x = a.shared_x;
    if (a.raw) {
        uint8_t* records = reinterpret_cast<uint8_t*>(near.sums + 2 * here.all_slots * CHUNK_ROWS);
        round_pairs<WARPS>(a, records);
        x = records;
        shared_x = records + a.used * a.row_bytes;
    }
    uint32_t buffer = 0, turn = 0;
    for (; here.more(); here.next_unit()) {
        float* sums = near.sums + buffer * here.all_slots * CHUNK_ROWS;
        for (; here.at < here.all_slots; here.next_slot()) {
            const bool is_shared = here.shared();
            const uint32_t pair = is_shared ? here.row : here.row * a.used + here.term;
            const uint32_t row_bytes = is_shared ? a.shared_row_bytes : a.row_bytes;
            const Input in = {(is_shared ? shared_x : x) + uint64_t(pair) * row_bytes, row_bytes, 1};
            float acc[1][4] = {{0, 0, 0, 0}};
            add_slot<0, LAYOUTS, 1>(acc, ring.front(), is_shared ? a.shared_down : a.down, in, here.slot,
                                    near.levels);
            ring.pop();
            fill(true);
            if (lane % 4 == 0) {
                sums[here.at * CHUNK_ROWS + lane / 4] = acc[0][0];
                sums[here.at * CHUNK_ROWS + lane / 4 + 8] = acc[0][2];
            }
        }
        __syncthreads();
        // The warps take turns, and the others go on.
        const uint32_t at = here.panel * CHUNK_ROWS + lane;
        if (warp == turn && lane < CHUNK_ROWS && at < a.down.rows) {
            float* out = a.out + uint64_t(here.row) * a.down.rows + at;
            float total = (a.flags & DOWN_ADDS) ? *out : 0.0f;
#pragma unroll 8
            for (uint32_t s = here.common.n; s < here.all_slots; s++) total += sums[s * CHUNK_ROWS + lane];
#pragma unroll 8
            for (uint32_t s = 0; s < here.common.n; s++) total += sums[s * CHUNK_ROWS + lane];
            *out = total;
        }
        turn = (turn + 1) % WARPS;
        buffer ^= 1;
    }
}

#define EXPERTS(name, LAYOUTS)                                                                      \
    KERNEL_HOLDING(32 * WARPS, 1, ring_up_##name, UpArgs) { experts_up<LAYOUTS>(a); }               \
    KERNEL_EARLY(32 * WARPS, 1, ring_down_##name, DownArgs) { experts_down<LAYOUTS>(a); }

EXPERTS(iq2_xxs, SET(LAYOUT_IQ2_XXS) | SET(LAYOUT_Q8_0))
EXPERTS(q2_k, SET(LAYOUT_Q2_K) | SET(LAYOUT_Q8_0))
EXPERTS(q4_k, SET(LAYOUT_Q4_K) | SET(LAYOUT_Q8_0))
EXPERTS(mxfp4, SET(LAYOUT_MXFP4) | SET(LAYOUT_Q8_0))
EXPERTS(any, ANY_SET & ~SET(LAYOUT_F16))
