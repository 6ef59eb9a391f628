// Sorts pairs of a row and one of its experts by expert, in their order within each, and cuts every
// expert's pairs into tiles.
#include "select.cuh"
#include "tile.cuh"

struct SortArgs {
    const uint32_t* ids;
    // [experts + 1]: where an expert's pairs begin.
    uint32_t* starts;
    // Pair by place, and place by pair; a pair whose id the model lacks has place ~0.
    uint32_t *pairs, *places;
    uint32_t n_pairs, n_experts;
};

// One block for each expert; a thread takes a run of pairs.
KERNEL(256, experts_sort, SortArgs) {
    SHARED uint32_t before[8], own[8];
    const uint32_t expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t run = (a.n_pairs + blockDim.x - 1) / blockDim.x;
    const uint32_t first = min(threadIdx.x * run, a.n_pairs), end = min(first + run, a.n_pairs);
    uint32_t less = 0, equal = 0;
    for (uint32_t i = first; i < end; i++) {
        const uint32_t id = a.ids[i];
        less += id < expert;
        equal += id == expert;
        if (expert == 0 && id >= a.n_experts) a.places[i] = 0xffffffffu;
    }
    uint32_t rank = equal;
    for (int o = 1; o < 32; o *= 2) {
        const uint32_t other = __shfl_up_sync(FULL_WARP, rank, o);
        if (lane >= uint32_t(o)) rank += other;
        less += __shfl_xor_sync(FULL_WARP, less, o);
    }
    if (lane == 31) {
        own[warp] = rank;
        before[warp] = less;
    }
    __syncthreads();
    uint32_t start = 0, count = 0;
    rank -= equal;
    for (uint32_t w = 0; w < blockDim.x / 32; w++) {
        if (w < warp) rank += own[w];
        start += before[w];
        count += own[w];
    }
    if (threadIdx.x == 0) {
        a.starts[expert] = start;
        if (expert + 1 == a.n_experts) a.starts[expert + 1] = start + count;
    }
    for (uint32_t i = first; i < end; i++) {
        if (a.ids[i] != expert) continue;
        a.pairs[start + rank] = i;
        a.places[i] = start + rank;
        rank++;
    }
}

struct TilesArgs {
    const uint32_t* starts;
    Tile* tiles;
    // [experts]: slots less places, or null.
    uint32_t* gaps;
    uint32_t n_experts, columns, max_tiles, unused;
};

// Experts that a thread looks after, at most: there may be 1024.
#define EACH_MAX 4

// One block, whose threads have neighbours among the experts.
KERNEL(256, experts_tiles, TilesArgs) {
    SHARED uint32_t sums[8];
    const uint32_t each = (a.n_experts + blockDim.x - 1) / blockDim.x, mine = each * threadIdx.x;
    uint32_t starts[EACH_MAX + 1], n_tiles = 0, n_slots = 0, total, all_slots;
#pragma unroll
    for (uint32_t i = 0; i <= EACH_MAX; i++) starts[i] = i <= each ? a.starts[min(mine + i, a.n_experts)] : 0u;
#pragma unroll
    for (uint32_t i = 0; i < EACH_MAX; i++) {
        if (i >= each) break;
        const uint32_t count = starts[i + 1] - starts[i];
        n_tiles += (count + a.columns - 1) / a.columns;
        n_slots += (count + 7) / 8 * 8;
    }
    uint32_t at = sum_before(n_tiles, sums, total), slot = sum_before(n_slots, sums, all_slots);
#pragma unroll
    for (uint32_t i = 0; i < EACH_MAX; i++) {
        if (i >= each || mine + i >= a.n_experts) break;
        const uint32_t first = starts[i], end = starts[i + 1];
        if (a.gaps) a.gaps[mine + i] = slot - first;
        for (uint32_t k = 0; first + k < end; k += a.columns) {
            a.tiles[at++] = {mine + i, first + k, min(a.columns, end - first - k), slot + k};
        }
        slot += (end - first + 7) / 8 * 8;
    }
    for (uint32_t i = total + threadIdx.x; i < a.max_tiles; i += blockDim.x) a.tiles[i] = {0, 0, 0, 0};
}

struct SumArgs {
    // [places, cols]
    const float* y;
    const uint32_t* places;
    // Of the pairs, where they are not in the results; what is added last: [rows, cols]. Both may be null.
    const float *weights, *last;
    float* out;
    uint32_t used, cols, n_rows, unused;
};

// The results of a row's experts, in the order of their selection.
KERNEL(256, experts_sum, SumArgs) {
    const uint32_t row = blockIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= a.cols) return;
    float sum = 0;
    for (uint32_t i = 0; i < a.used; i++) {
        const uint32_t place = a.places[row * a.used + i];
        const float weight = a.weights ? a.weights[row * a.used + i] : 1.0f;
        sum += place == 0xffffffffu ? __uint_as_float(0x7fc00000)
                                    : a.y[uint64_t(place) * a.cols + column] * weight;
    }
    if (a.last) sum += a.last[uint64_t(row) * a.cols + column];
    a.out[uint64_t(row) * a.cols + column] = sum;
}

struct GatedArgs {
    float* gate;
    const float* up;
    float clamp;
    uint32_t count;
};

// gate = silu(min(gate, clamp)) * clamp(up): between the shared expert's products.
KERNEL(256, experts_gated, GatedArgs) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.count) a.gate[i] = swiglu_value(a.gate[i], a.up[i], a.clamp);
}

struct AddArgs {
    float* out;
    const float* y;
    uint32_t count, unused;
};

// out += y.
KERNEL(256, experts_add, AddArgs) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.count) a.out[i] += a.y[i];
}
