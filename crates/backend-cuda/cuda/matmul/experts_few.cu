// The chosen experts of a few dozen rows, on devices with the bulk copy engine and much shared memory: pairs are
// sorted by expert (experts_sort.cu), so that every expert's weights are read once for up to four pairs. A block has
// a run of units, each one or more panels of a tile; activations lie in the order of places.
#include "copy.cuh"
#include "panel.cuh"
#include "ring.cuh"
#include "tile.cuh"

#define WARPS 16
#define COLUMNS 4
// Units whose sums are added up at once.
#define BATCH 2
// Sums of a warp: 16 rows of as many columns as a tile has.
#define WARP_SUMS (CHUNK_ROWS * COLUMNS)

struct FewArgs {
    // The gate, or what its result goes through; the other matrix of the first product.
    Matrix m, up;
    // Records of places.
    const uint8_t* x;
    const Tile* tiles;
    // Pair by place, and what every pair counts; not of the second product.
    const uint32_t* pairs;
    const float* weights;
    const uint32_t* grid;
    // [places, rows of m]
    float* out;
    uint32_t row_bytes, max_tiles;
    float clamp;
    uint32_t unused;
};

// How a format's slots are kept, and multiplied.
template <uint32_t LAYOUTS>
struct Few {
    enum { DEPTH = 3, PLACE_BYTES = SLOT_BYTES, LEVELS = 1 };
    static MEMBER void begin(uint32_t*, const uint32_t*) {}
    static MEMBER void add(float (&acc)[1][4], const uint8_t* slot, const Matrix& m, const Input& in, uint32_t at,
                           const uint32_t* levels) {
        add_slot<0, LAYOUTS, 1>(acc, slot, m, in, at, levels);
    }
};
template <>
struct Few<SET(LAYOUT_IQ2_XXS)> {
    enum { DEPTH = 4, PLACE_BYTES = 2 * IQ2_XXS_CHUNK, LEVELS = SPREAD_GRID / 4 };
    static MEMBER void begin(uint32_t* levels, const uint32_t* grid) { spread_grid<WARPS>(levels, grid); }
    static MEMBER void add(float (&acc)[1][4], const uint8_t* slot, const Matrix& m, const Input& in, uint32_t at,
                           const uint32_t* levels) {
        add_slot_chunks<Iq2XxsSpread, 0, 1>(acc, slot, m, in, at, levels);
    }
};

template <class F>
struct alignas(16) FewShared {
    uint32_t levels[(F::LEVELS + 3) / 4 * 4];
    uint8_t slots[WARPS * F::DEPTH * F::PLACE_BYTES];
    float sums[2][BATCH][WARPS * WARP_SUMS];
    uint64_t barriers[WARPS * F::DEPTH];
    uint32_t counts[WARPS];
};

// Tiles that have pairs: those behind have none.
DEVICE uint32_t count_tiles(const FewArgs& a, uint32_t* counts) {
    uint32_t own = 0;
    for (uint32_t i = threadIdx.x; i < a.max_tiles; i += 32 * WARPS) own += __ldcg(&a.tiles[i].count) > 0 ? 1 : 0;
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) own += __shfl_xor_sync(FULL_WARP, own, o);
    if (threadIdx.x % 32 == 0) counts[threadIdx.x / 32] = own;
    __syncthreads();
    uint32_t all = 0;
#pragma unroll
    for (uint32_t w = 0; w < WARPS; w++) all += counts[w];
    return all;
}

// How a block's units lie. SHARE warps have a matrix.
template <uint32_t SHARE>
struct Units {
    // Panels of a matrix, and of a unit; slots of a panel; warps that share one.
    uint32_t panels, at_once, slots, warps, of_tile, begin, end;

    MEMBER Units(const FewArgs& a, uint32_t n_tiles) {
        const uint32_t cols = slot_cols(a.m.layout);
        slots = (a.m.cols + cols - 1) / cols;
        panels = (a.m.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        at_once = slots < SHARE ? SHARE / slots : 1;
        warps = min(slots, SHARE);
        of_tile = (panels + at_once - 1) / at_once;
        const uint32_t all = n_tiles * of_tile;
        begin = uint32_t(uint64_t(all) * blockIdx.x / gridDim.x);
        end = uint32_t(uint64_t(all) * (blockIdx.x + 1) / gridDim.x);
    }
};

// A warp's way through the slots of a block's units.
template <uint32_t SHARE>
struct FewWay {
    const FewArgs& a;
    const Units<SHARE>& u;
    Slots m;
    Tile tile;
    const uint8_t* w;
    uint32_t unit, which, of_tile, panel, at;

    MEMBER FewWay(const FewArgs& args, const Units<SHARE>& units) : a(args), u(units) {
        m.of(is_up() ? a.up : a.m);
        unit = u.begin;
        which = unit / u.of_tile;
        of_tile = unit - which * u.of_tile;
        if (more()) find();
        enter();
    }
    MEMBER uint32_t own() const { return threadIdx.x / 32 % SHARE; }
    MEMBER bool is_up() const { return threadIdx.x / 32 >= SHARE; }
    MEMBER bool more() const { return unit < u.end; }
    MEMBER bool inside() const { return at < u.slots; }
    MEMBER void find() {
        const uint4 four = __ldcg(reinterpret_cast<const uint4*>(a.tiles + which));
        tile = {four.x, four.y, four.z, four.w};
        w = m.w + tile.expert * (is_up() ? a.up : a.m).expert_bytes;
    }
    MEMBER void enter() {
        panel = of_tile * u.at_once + own() / u.warps;
        at = own() / u.warps < u.at_once && panel < u.panels ? own() % u.warps : u.slots;
    }
    MEMBER void next() {
        unit++;
        if (++of_tile == u.of_tile) {
            of_tile = 0;
            which++;
            if (more()) find();
        }
        enter();
    }
};

// The results of a unit, from the sums of its warps.
template <uint32_t SHARE>
DEVICE void store_unit(const FewArgs& a, const Units<SHARE>& u, uint32_t unit, const float* sums, bool gated) {
    const uint32_t which = unit / u.of_tile, first_panel = (unit - which * u.of_tile) * u.at_once;
    const Tile& tile = a.tiles[which];
    for (uint32_t i = threadIdx.x; i < u.at_once * WARP_SUMS; i += 32 * WARPS) {
        const uint32_t panel = i / WARP_SUMS, j = i % WARP_SUMS, column = j % 4;
        const uint32_t row = (first_panel + panel) * CHUNK_ROWS + j / 32 * 8 + j % 32 / 4;
        if (column >= tile.count || row >= a.m.rows) continue;
        const float* from = sums + panel * u.warps * WARP_SUMS + j;
        float sum = 0.0f, up = 0.0f;
        for (uint32_t w = 0; w < u.warps; w++) {
            sum += from[w * WARP_SUMS];
            if (gated) up += from[(SHARE + w) * WARP_SUMS];
        }
        const uint32_t place = tile.first + column;
        if (gated) sum = a.weights[a.pairs[place]] * swiglu_value(sum, up, a.clamp);
        a.out[uint64_t(place) * a.m.rows + row] = sum;
    }
}

template <class F, uint32_t SHARE>
DEVICE void experts_few(const FewArgs& a) {
    DYNAMIC_SHARED(FewShared<F>, shared);
    FewShared<F>& s = *shared;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    F::begin(s.levels, a.grid);
    Ring<F::DEPTH, F::PLACE_BYTES> ring;
    ring.start(s.slots, s.barriers);
    await_previous();
    const Units<SHARE> units(a, count_tiles(a, s.counts));
    FewWay<SHARE> ahead(a, units), here(a, units);
    const auto fill = [&]() {
        while (!ring.full() && ahead.more()) {
            if (ahead.inside()) {
                ring.begin(ahead.m, ahead.w, ahead.panel, ahead.at);
                ahead.at += SHARE;
            } else {
                ahead.next();
            }
        }
    };
    fill();
    uint32_t buffer = 0, first = units.begin;
    while (here.more()) {
        const Input in = {a.x + uint64_t(here.tile.first) * a.row_bytes, a.row_bytes, here.tile.count};
        float acc[1][4] = {{0, 0, 0, 0}};
        for (; here.inside(); here.at += SHARE) {
            F::add(acc, ring.front(), here.is_up() ? a.up : a.m, in, here.at, s.levels);
            ring.pop();
            fill();
        }
        float* sums = s.sums[buffer][here.unit - first] + warp * WARP_SUMS + lane;
        sums[0] = acc[0][0];
        sums[32] = acc[0][2];
        here.next();
        if (here.unit - first < BATCH && here.more()) continue;
        __syncthreads();
        for (uint32_t unit = first; unit < here.unit; unit++) {
            store_unit(a, units, unit, s.sums[buffer][unit - first], SHARE < WARPS);
        }
        first = here.unit;
        buffer ^= 1;
    }
}

#define EXPERTS(name, LAYOUTS)                                                                             \
    KERNEL_EARLY(32 * WARPS, 1, few_up_##name, FewArgs) { experts_few<Few<LAYOUTS>, WARPS / 2>(a); }      \
    KERNEL_EARLY(32 * WARPS, 1, few_down_##name, FewArgs) { experts_few<Few<LAYOUTS>, WARPS>(a); }

EXPERTS(iq2_xxs, SET(LAYOUT_IQ2_XXS))
EXPERTS(q2_k, SET(LAYOUT_Q2_K))
EXPERTS(q4_k, SET(LAYOUT_Q4_K))
EXPERTS(mxfp4, SET(LAYOUT_MXFP4))

// Copies a row's records to the places of its pairs. grid: places.
struct PlaceArgs {
    const uint8_t* x;
    uint8_t* out;
    const uint32_t *pairs, *starts;
    uint32_t row_bytes, used, n_experts, unused;
};

KERNEL(256, experts_places, PlaceArgs) {
    const uint32_t place = blockIdx.x;
    if (place >= a.starts[a.n_experts]) return;
    const uint32_t row = a.pairs[place] / a.used;
    const uint4* from = reinterpret_cast<const uint4*>(a.x + uint64_t(row) * a.row_bytes);
    uint4* to = reinterpret_cast<uint4*>(a.out + uint64_t(place) * a.row_bytes);
    for (uint32_t i = threadIdx.x; i < a.row_bytes / 16; i += blockDim.x) to[i] = from[i];
}
