// The sum over one row's experts in Q2_K and the shared one in Q8_0, on devices with the bulk copy engine and much
// shared memory: as experts_ring.cu, by the products of one.cuh with activations that experts_one.cu has rounded. The
// sums may go straight into the streams (site_few.cuh).
#include "site_few.cuh"
#include "one.cuh"
#include "experts.cuh"

// Places of a warp: a slot of Q2_K takes one, one of Q8_0 two.
#define DEPTH 4
#define PLACE_BYTES (2 * Q2_K_CHUNK)
// Panels whose sums are added up at once: a chunk of a site.
#define BATCH 2

struct OneDownArgs {
    // The experts of the row, then the shared one, of which there is none when `n_shared` is 0.
    Matrix down, shared_down;
    // Records of the pairs, the shared one's last.
    const uint8_t* x;
    const uint32_t* ids;
    float* out;
    uint32_t used, n_experts, n_shared, unused;
    NextArgs next;            // no streams: the sums are the output
};

struct alignas(16) DownShared {
    uint8_t slots[WARPS * DEPTH * PLACE_BYTES];
    float sums[2][BATCH * UNIT_SUMS];
    Crossing crossing;
    // Weights of the site behind.
    uint8_t project[PROJECT_BYTES];
    uint64_t barriers[WARPS * DEPTH];
    uint32_t ids[MAX_USED];
};

// The slots of a panel: those of the shared expert, then those of the row's experts, of which a pair has so many
// chunks.
struct Slots2 {
    uint32_t common, own, all, chunks;

    MEMBER explicit Slots2(const OneDownArgs& a) {
        chunks = chunks_of(a.down.cols);
        own = (chunks + 1) / 2;
        common = a.n_shared ? chunks : 0;
        all = common + a.used * own;
    }
};

// A warp's way: chunks of a site, of each every sixteenth slot, and each of both panels.
struct Way {
    const OneDownArgs& a;
    const Slots2& n;
    const uint32_t* ids;
    uint32_t chunk, panel, at, term, slot;

    MEMBER Way(const OneDownArgs& args, const Slots2& slots, const uint32_t* of) : a(args), n(slots), ids(of) {
        chunk = blockIdx.x;
        begin();
    }
    MEMBER bool more() const { return chunk * 2 * CHUNK_ROWS < a.down.rows; }
    MEMBER bool inside() const { return at < n.all; }
    MEMBER bool shared() const { return at < n.common; }
    MEMBER void begin() {
        at = threadIdx.x / 32;
        panel = 0;
        locate();
    }
    MEMBER void locate() {
        term = 0;
        slot = shared() ? at : at - n.common;
        if (shared()) return;
        while (slot >= n.own) slot -= n.own, term++;
    }
    MEMBER void step() {
        at += WARPS;
        locate();
    }
    MEMBER void next() {
        panel ^= 1;
        if (panel == 0) step();
    }
    MEMBER void next_chunk() {
        chunk += gridDim.x;
        begin();
    }
    MEMBER uint32_t chunks() const { return shared() ? 1 : min(n.chunks - 2 * slot, 2u); }
    MEMBER const uint8_t* from() const {
        const uint32_t which = 2 * chunk + panel;
        if (shared()) return a.shared_down.w + (uint64_t(which) * n.common + slot) * Q8_0_CHUNK;
        const uint32_t id = min(ids[term], a.n_experts - 1);
        return a.down.w + id * a.down.expert_bytes + (uint64_t(which) * n.chunks + 2 * slot) * Q2_K_CHUNK;
    }
    // The records that the slot meets.
    MEMBER const uint8_t* records() const {
        const uint32_t record = shared() ? a.used * n.chunks + slot : term * n.chunks + 2 * slot;
        return a.x + record * ACT16_RECORD;
    }
};

typedef Ring<DEPTH, PLACE_BYTES> DownRing;

// False: there is no room.
DEVICE bool begin_slot(DownRing& ring, const Way& way) {
    if (way.shared() ? ring.full_for_two() : ring.full()) return false;
    if (way.shared()) ring.begin_two(way.from(), Q8_0_CHUNK);
    else ring.begin_at(way.from(), way.chunks() * Q2_K_CHUNK);
    return true;
}

// The activations of a warp's slot.
struct Meets {
    Act16 x[2];

    MEMBER void load(const Way& way) {
        if (!way.inside()) return;
        const uint8_t* records = way.records();
        x[0].load(records);
        if (way.chunks() > 1) x[1].load(records + ACT16_RECORD);
    }
};

// Adds a chunk's products in either panel: a loop, since code that is met once costs more than it computes.
template <class Add>
DEVICE void add_panels(float (&acc)[2][2], const uint8_t* one, const uint8_t* other, Add add) {
#pragma unroll 1
    for (uint32_t panel = 0; panel < 2; panel++) {
        float sums[2] = {0, 0};
        add(sums, panel == 0 ? one : other);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            acc[0][half] += panel == 0 ? sums[half] : 0.0f;
            acc[1][half] += panel == 0 ? 0.0f : sums[half];
        }
    }
}

// The sums of the warp's slots of a chunk of results: of every column, those of both panels.
template <class Fill>
DEVICE void add_chunk_slots(float (&acc)[2][2], DownRing& ring, Way& here, Fill fill) {
    Meets next;
    next.load(here);
    while (here.inside()) {
        Meets now = next;
        const bool is_shared = here.shared();
        const uint32_t chunks = here.chunks();
        here.step();
        next.load(here);
        const uint8_t *one = ring.place(0), *other = ring.place(is_shared ? 2 : 1);
        if (is_shared) {
            add_panels(acc, one, other,
                       [&](float (&sums)[2], const uint8_t* w) { add_sixteens_q8_0(sums, w, now.x[0]); });
            ring.pop_two();
            ring.pop_two();
        } else {
#pragma unroll 1
            for (uint32_t i = 0; i < chunks; i++) {
                const uint32_t at = i * Q2_K_CHUNK;
                add_panels(acc, one + at, other + at,
                           [&](float (&sums)[2], const uint8_t* w) { add_sixteens_q2_k(sums, w, now.x[0]); });
                now.x[0] = now.x[1];
            }
            ring.pop();
            ring.pop();
        }
        fill();
    }
}

// grid: chunks of 32 results, at most. One row; the number of results is made of 32s. The choice of experts is there
// when the kernel begins.
KERNEL_EARLY(32 * WARPS, 1, one_down_q2_k, OneDownArgs) {
    DYNAMIC_SHARED(DownShared, shared);
    DownShared& s = *shared;
    const bool crosses = a.next.streams != nullptr;
    DownRing ring;
    ring.start(s.slots, s.barriers);
    if (threadIdx.x < a.used) s.ids[threadIdx.x] = __ldcg(a.ids + threadIdx.x);
    __syncthreads();
    const Slots2 slots(a);
    Way ahead(a, slots, s.ids), here(a, slots, s.ids);
    const auto fill = [&]() {
        while (ahead.more()) {
            if (!ahead.inside()) ahead.next_chunk();
            else if (begin_slot(ring, ahead)) ahead.next();
            else break;
        }
    };
    fill();
    if (crosses) ask_weights(a.next, blockIdx.x, s.project);
    await_previous();
    uint32_t buffer = 0;
    for (; here.more(); here.next_chunk()) {
        float acc[2][2] = {{0, 0}, {0, 0}};
        add_chunk_slots(acc, ring, here, fill);
        float* sums = s.sums[buffer];
        leave_sums(acc[0], sums);
        leave_sums(acc[1], sums + UNIT_SUMS);
        buffer ^= 1;
        __syncthreads();
        if (threadIdx.x < BATCH * CHUNK_ROWS) {
            const uint32_t row = here.chunk * BATCH * CHUNK_ROWS + threadIdx.x;
            const float* from = sums + threadIdx.x / CHUNK_ROWS * UNIT_SUMS + threadIdx.x % CHUNK_ROWS;
            float total = 0.0f;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; w++) total += from[w * WARP_SUMS];
            if (crosses) s.crossing.y[threadIdx.x] = total;
            else a.out[row] = total;
        }
        if (!crosses) continue;
        if (here.chunk != blockIdx.x) ask_weights(a.next, here.chunk, s.project);
        __syncthreads();
        cross_site(a.next, here.chunk, s.project, s.crossing);
    }
}
