// The chosen experts of few rows: each pair of a row and an expert is computed by itself, so that a
// row's bits do not depend on others. Devices with the bulk copy engine run experts_ring.cu instead.
#include "experts.cuh"

#define UP_WARPS 4

// out = weight * silu(min(gate, clamp)) * clamp(up) of one panel of one pair. Half of the warps take
// the gate, half the other matrix.
template <uint32_t LAYOUTS>
DEVICE void experts_up(const UpArgs& a) {
    SHARED uint4 levels[64];
    SHARED float sums[2 * UP_WARPS][CHUNK_ROWS];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool second = blockIdx.y >= a.banks[0].n_pairs;
    const Bank& bank = a.banks[second];
    const uint32_t pair = blockIdx.y - (second ? a.banks[0].n_pairs : 0), row = pair / bank.used;
    await_previous();
    const uint32_t id = bank.ids ? bank.ids[pair] : 0;
    const bool is_up = warp >= UP_WARPS;
    Matrix m = is_up ? bank.up : bank.gate;
    if (blockIdx.x * CHUNK_ROWS >= m.rows) return;
    const bool needed = bank.gate.layout == LAYOUT_IQ2_XXS || bank.up.layout == LAYOUT_IQ2_XXS;
    const Grid grid = {reinterpret_cast<const uint32_t*>(levels), needed};
    if (needed) copy_grid(reinterpret_cast<uint32_t*>(levels), a.grid);
    m.w += uint64_t(min(id, bank.n_experts - 1)) * m.expert_bytes;
    const uint32_t row_bytes = is_up ? bank.up_row_bytes : bank.gate_row_bytes;
    const Input in = {(is_up ? bank.up_x : bank.gate_x) + uint64_t(row) * row_bytes, row_bytes, 1};
    float acc[1][4] = {{0, 0, 0, 0}};
    const Part part = {blockIdx.x, warp % UP_WARPS, UP_WARPS};
    add_part<0, LAYOUTS, 1>(acc, m, in, part, grid);
    if (lane % 4 == 0) {
        sums[warp][lane / 4] = acc[0][0];
        sums[warp][lane / 4 + 8] = acc[0][2];
    }
    __syncthreads();
    const uint32_t at = blockIdx.x * CHUNK_ROWS + threadIdx.x;
    if (threadIdx.x >= CHUNK_ROWS || at >= m.rows) return;
    float gate = 0, up = 0;
    for (uint32_t w = 0; w < UP_WARPS; w++) {
        gate += sums[w][threadIdx.x];
        up += sums[UP_WARPS + w][threadIdx.x];
    }
    const float weight = pair_weight(bank, pair, id);
    bank.out[uint64_t(pair) * m.rows + at] = weight * swiglu_value(gate, up, bank.clamp);
}

#define DOWN_WARPS 8

// The sum over a row's experts, in the order of their selection, of one panel.
template <uint32_t LAYOUTS>
DEVICE void experts_down(const DownArgs& a) {
    await_previous();
    SHARED uint4 levels[64];
    SHARED float sums[MAX_USED + 1][DOWN_WARPS][CHUNK_ROWS];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y;
    const uint32_t terms = a.used + (a.shared_x ? 1 : 0);
    const bool needed =
        a.down.layout == LAYOUT_IQ2_XXS || (a.shared_x && a.shared_down.layout == LAYOUT_IQ2_XXS);
    if (needed) copy_grid(reinterpret_cast<uint32_t*>(levels), a.grid);
    for (uint32_t i = 0; i < terms; i++) {
        const bool shared = i == a.used;
        const uint32_t pair = shared ? row : row * a.used + i;
        const uint32_t id = shared || !a.ids ? 0 : min(a.ids[pair], a.n_experts - 1);
        const uint32_t row_bytes = shared ? a.shared_row_bytes : a.row_bytes;
        Matrix m = shared ? a.shared_down : a.down;
        m.w += uint64_t(id) * m.expert_bytes;
        const Input in = {(shared ? a.shared_x : a.x) + uint64_t(pair) * row_bytes, row_bytes, 1};
        float acc[1][4] = {{0, 0, 0, 0}};
        const Grid grid = {reinterpret_cast<const uint32_t*>(levels), needed && i == 0};
        add_part<0, LAYOUTS, 1>(acc, m, in, {blockIdx.x, warp, DOWN_WARPS}, grid);
        if (lane % 4 == 0) {
            sums[i][warp][lane / 4] = acc[0][0];
            sums[i][warp][lane / 4 + 8] = acc[0][2];
        }
    }
    __syncthreads();
    const uint32_t at = blockIdx.x * CHUNK_ROWS + threadIdx.x;
    if (threadIdx.x >= CHUNK_ROWS || at >= a.down.rows) return;
    float* out = a.out + uint64_t(row) * a.down.rows + at;
    float total = (a.flags & DOWN_ADDS) ? *out : 0.0f;
    for (uint32_t i = 0; i < terms; i++) {
        float sum = 0;
        for (uint32_t w = 0; w < DOWN_WARPS; w++) sum += sums[i][w][threadIdx.x];
        total += sum;
    }
    *out = total;
}

// With the layouts of published files and a shared expert in Q8_0, and for everything.
#define EXPERTS(name, blocks, LAYOUTS)                                                \
    KERNEL_EARLY(256, blocks, up_##name, UpArgs) { experts_up<LAYOUTS>(a); }          \
    KERNEL_EARLY(256, blocks, down_##name, DownArgs) { experts_down<LAYOUTS>(a); }

EXPERTS(iq2_xxs, 2, SET(LAYOUT_IQ2_XXS) | SET(LAYOUT_Q8_0))
EXPERTS(q2_k, 2, SET(LAYOUT_Q2_K) | SET(LAYOUT_Q8_0))
EXPERTS(q4_k, 2, SET(LAYOUT_Q4_K) | SET(LAYOUT_Q8_0))
EXPERTS(mxfp4, 2, SET(LAYOUT_MXFP4) | SET(LAYOUT_Q8_0))
EXPERTS(any, 2, ANY_SET)
