// The sum over one row's experts in Q2_K and the shared one in Q8_0, on devices with the bulk copy engine and much
// shared memory: as experts_ring.cu, by the products of one.cuh. The sums may go straight into the streams
// (site_few.cuh).
#include "site_few.cuh"
#include "one.cuh"
#include "pairs.cuh"

// Places of a warp: a slot of Q2_K takes one, one of Q8_0 two.
#define DEPTH 4
#define PLACE_BYTES (2 * Q2_K_CHUNK)
// Panels whose sums are added up at once: a chunk of a site.
#define BATCH 2

struct DownNextArgs {
    DownArgs down;
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
    // Records of the pairs, where the kernel makes them.
    uint8_t records[16];
};

// A lane's operands of a chunk of activations with one scale: codes of column 0, which is the row's, and sums of 16
// codes, their upper bits in column 0 and the rest in column 1.
struct Q2Operands {
    uint32_t b[2 * TILES], sums;
    float scale;

    MEMBER void load(const uint8_t* at) {
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint4 four = make_uint4(0, 0, 0, 0);
            if (g == 0) four = load16(at + 64 * k + 16 * t);
            b[4 * k] = four.x, b[4 * k + 1] = four.y, b[4 * k + 2] = four.z, b[4 * k + 3] = four.w;
        }
        sums = g < 2 ? load4(at + ACT_SCALES + 16 * g + 4 * t) : 0u;
        scale = *reinterpret_cast<const float*>(at + ACT256_SCALE);
    }
};

// Four tiles of Q2_K: their two bits lie in bits 0, 2, 4 and 6 of the same bytes, and their scales in `low` and
// `high`, one a byte, of rows g and g + 8. Two bits times four bits fit in a byte, and four times that too where
// bytes have no sign: tiles 1 and 3 keep their place and count four times in `fourfold`.
DEVICE void add_four_tiles(int (&single)[4], int (&fourfold)[4], const uint4& q, uint32_t low, uint32_t high,
                           const uint32_t* b) {
    const uint32_t words[4] = {q.x, q.z, q.y, q.w};
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t scales = i % 2 == 0 ? low : high, w = words[i] >> 4 * pair;
            a[0][i] = (w & 0x03030303) * __byte_perm(scales, 0, 0x4440 | 2 * pair);
            a[1][i] = (w & 0x0c0c0c0c) * __byte_perm(scales, 0, 0x4440 | (2 * pair + 1));
        }
        mma_u8_s8(single, a[0], b[4 * pair], b[4 * pair + 1]);
        mma_u8_s8(fourfold, a[1], b[4 * pair + 2], b[4 * pair + 3]);
    }
}

// Adds the products of a chunk of Q2_K to the sums of rows g and g + 8, in the lanes of column 0.
DEVICE void add_one_q2_k(float (&acc)[2], const uint8_t* chunk, const Q2Operands& x) {
    Q2K::Raw w;
    Q2K::load(w, Near{chunk}, threadIdx.x % 32);
    int single[4] = {0, 0, 0, 0}, fourfold[4] = {0, 0, 0, 0}, minima[4] = {0, 0, 0, 0};
    // Nibble i of a word is the scale of tile i: those of even tiles, and of odd ones, one a byte.
    const uint32_t even[2] = {w.scales.x & 0x0f0f0f0f, w.scales.y & 0x0f0f0f0f};
    const uint32_t odd[2] = {w.scales.x >> 4 & 0x0f0f0f0f, w.scales.y >> 4 & 0x0f0f0f0f};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t order = half == 0 ? 0x5140 : 0x7362;
        add_four_tiles(single, fourfold, w.q[half], __byte_perm(even[0], odd[0], order),
                       __byte_perm(even[1], odd[1], order), x.b + 8 * half);
    }
    uint32_t mins[2];
    Q2K::mins(mins, w);
    mma_s8_k16(minima, mins, x.sums);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = float(single[2 * half] + (fourfold[2 * half] >> 2));
        const float least = float(16 * minima[2 * half] + minima[2 * half + 1]);
        const float sum = Q2K::d(w, half) * total - Q2K::dmin(w, half) * least;
        acc[half] = fmaf(sum, x.scale, acc[half]);
    }
}

// The slots of a panel: those of the shared expert, then those of the row's experts.
struct Slots2 {
    uint32_t common, own, all;

    MEMBER explicit Slots2(const DownArgs& a) {
        own = (a.down.cols + 2 * CHUNK_COLS - 1) / (2 * CHUNK_COLS);
        common = a.shared_x ? (a.shared_down.cols + CHUNK_COLS - 1) / CHUNK_COLS : 0;
        all = common + a.used * own;
    }
};

// A warp's way: chunks of a site, of each every sixteenth slot, and each of both panels.
struct Way {
    const DownArgs& a;
    const Slots2& n;
    const uint32_t* ids;
    uint32_t chunk, panel, at, term, slot;

    MEMBER Way(const DownArgs& args, const Slots2& slots, const uint32_t* of) : a(args), n(slots), ids(of) {
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
    MEMBER void next() {
        panel ^= 1;
        if (panel != 0) return;
        at += WARPS;
        locate();
    }
    MEMBER void next_chunk() {
        chunk += gridDim.x;
        begin();
    }
    MEMBER uint32_t chunks() const { return min(chunks_of(a.down.cols) - 2 * slot, 2u); }
    MEMBER const uint8_t* from() const {
        const uint32_t which = 2 * chunk + panel;
        if (shared()) return a.shared_down.w + (uint64_t(which) * n.common + slot) * Q8_0_CHUNK;
        const uint32_t id = min(ids[term], a.n_experts - 1), of_panel = chunks_of(a.down.cols);
        return a.down.w + id * a.down.expert_bytes + (uint64_t(which) * of_panel + 2 * slot) * Q2_K_CHUNK;
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

// What the activations of a block are, rounded.
struct Inputs {
    const uint8_t *x, *shared_x;

    MEMBER Inputs(const DownArgs& a, DownShared& s) : x(a.x), shared_x(a.shared_x) {
        if (!a.raw) return;
        round_pairs<WARPS>(a, s.records);
        x = s.records;
        shared_x = s.records + a.used * a.row_bytes;
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
DEVICE void add_chunk_slots(float (&acc)[2][2], const DownArgs& a, const Inputs& in, DownRing& ring, Way& here,
                            Fill fill) {
    while (here.inside()) {
        const bool is_shared = here.shared();
        const uint8_t *one = ring.place(0), *other = ring.place(is_shared ? 2 : 1);
        if (is_shared) {
            Operands x;
            x.from = nullptr;
            x.load_32(in.shared_x + here.slot * ACT32_RECORD);
            add_panels(acc, one, other, [&](float (&sums)[2], const uint8_t* w) { add_one_q8_0(sums, w, x); });
            ring.pop_two();
            ring.pop_two();
        } else {
            const uint8_t* records = in.x + here.term * a.row_bytes + here.slot * (2 * ACT256_RECORD);
            const uint32_t chunks = here.chunks();
#pragma unroll 1
            for (uint32_t i = 0; i < chunks; i++) {
                Q2Operands x;
                x.load(records + i * ACT256_RECORD);
                const uint32_t at = i * Q2_K_CHUNK;
                add_panels(acc, one + at, other + at,
                           [&](float (&sums)[2], const uint8_t* w) { add_one_q2_k(sums, w, x); });
            }
            ring.pop();
            ring.pop();
        }
        here.next();
        here.next();
        fill();
    }
}

// grid: chunks of 32 results, at most. One row; the number of results is made of 32s. The choice of experts is there
// when the kernel begins.
KERNEL_EARLY(32 * WARPS, 1, one_down_q2_k, DownNextArgs) {
    DYNAMIC_SHARED(DownShared, shared);
    touch(a);
    DownShared& s = *shared;
    const DownArgs& down = a.down;
    const bool crosses = a.next.streams != nullptr;
    DownRing ring;
    ring.start(s.slots, s.barriers);
    if (threadIdx.x < down.used) s.ids[threadIdx.x] = down.ids ? __ldcg(down.ids + threadIdx.x) : 0;
    __syncthreads();
    const Slots2 slots(down);
    Way ahead(down, slots, s.ids), here(down, slots, s.ids);
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
    const Inputs in(down, s);
    uint32_t buffer = 0;
    for (; here.more(); here.next_chunk()) {
        float acc[2][2] = {{0, 0}, {0, 0}};
        add_chunk_slots(acc, down, in, ring, here, fill);
        float* sums = s.sums[buffer];
        leave_sums(acc[0], sums);
        leave_sums(acc[1], sums + UNIT_SUMS);
        buffer ^= 1;
        __syncthreads();
        if (threadIdx.x < BATCH * CHUNK_ROWS) {
            const uint32_t row = here.chunk * BATCH * CHUNK_ROWS + threadIdx.x;
            const float* from = sums + threadIdx.x / CHUNK_ROWS * UNIT_SUMS + threadIdx.x % CHUNK_ROWS;
            float total = (down.flags & DOWN_ADDS) ? down.out[row] : 0.0f;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; w++) total += from[w * WARP_SUMS];
            if (crosses) s.crossing.y[threadIdx.x] = total;
            else down.out[row] = total;
        }
        if (!crosses) continue;
        if (here.chunk != blockIdx.x) ask_weights(a.next, here.chunk, s.project);
        __syncthreads();
        cross_site(a.next, here.chunk, s.project, s.crossing);
    }
}
