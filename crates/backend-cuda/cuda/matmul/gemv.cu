// Products with few rows of activations: every weight is read once, at the speed of memory.
//
// One launch serves several matrices of any formats. A block takes one panel of 16 rows of a matrix,
// or several when they are short; its warps share a panel's chunks. The partial sums are added in the
// order of the warps. Devices with the bulk copy engine run gemv_ring.cu instead.
#include "gemv.cuh"

#define WARPS 8

// Warps that share a panel: a function of the width alone.
DEVICE uint32_t warps_of_panel(uint32_t chunks) {
    return chunks >= 8 ? 8 : chunks >= 4 ? 4 : chunks >= 2 ? 2 : 1;
}

// Up to ROWS rows: 4, or eights.
template <int ROWS, uint32_t LAYOUTS>
DEVICE void gemv(const GemvArgs& a) {
    const int WIDE = ROWS > 4, GROUPS = ROWS > 8 ? ROWS / 8 : 1;
    SHARED uint4 levels[64];
    SHARED float sums[WARPS][GROUPS * 128];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const GemvJob& job = a.jobs[a.job_of(blockIdx.x)];
    const Grid grid = {reinterpret_cast<const uint32_t*>(levels), job.m.layout == LAYOUT_IQ2_XXS};
    if (grid.needed) copy_grid(reinterpret_cast<uint32_t*>(levels), a.grid);

    const uint32_t warps = warps_of_panel(chunks_of(job.m.cols)), panels = WARPS / warps;
    const Unit unit = job.unit(blockIdx.x - job.first_unit, panels);
    const uint32_t first_panel = unit.first_panel, first_row = unit.first_row, end_row = unit.end_row;

    const Part part = {first_panel + warp / warps, warp % warps, warps};
    float acc[GROUPS][4];
#pragma unroll
    for (int i = 0; i < GROUPS * 4; i++) acc[i / 4][i % 4] = 0;
    if (part.panel * CHUNK_ROWS < end_row) {
        const Input in = {job.x + uint64_t(unit.group) * job.x_slice_bytes, job.x_row_bytes, a.n_rows};
        add_part<WIDE, LAYOUTS, GROUPS>(acc, job.m, in, part, grid);
    } else {
        await_inputs(grid.needed);
    }
    const bool wide = WIDE || job.m.layout >= LAYOUT_F32;
#pragma unroll
    for (int i = 0; i < GROUPS * 4; i++) {
        const uint32_t row = wide ? 2 * (lane % 4) + i % 2 : lane % 4;
        if (!wide && i % 2 == 1) continue;
        sums[warp][i / 4 * 128 + (lane / 4 + i % 4 / 2 * 8) * 8 + row] = acc[i / 4][i % 4];
    }
    __syncthreads();
    const uint32_t results = GROUPS * 128;
    for (uint32_t i = threadIdx.x; i < panels * results; i += blockDim.x) {
        const uint32_t panel = i / results, at = i % results;
        const uint32_t n = at / 128 * 8 + at % 8, row = (first_panel + panel) * CHUNK_ROWS + at % 128 / 8;
        if (n >= a.n_rows || row < first_row || row >= end_row) continue;
        float sum = 0;
        for (uint32_t w = 0; w < warps; w++) sum += sums[panel * warps + w][at];
        job.out[uint64_t(n) * job.out_stride + row] = sum;
    }
}

// The bits of a row are the same in all. A few bytes spill on sm_120, where the compiler packs less well:
// spills: gemv_q8_0_floats_16
// spills: gemv_q8_0_16
// spills: gemv_q8_0_32
#define GEMV(name, rows, LAYOUTS) \
    KERNEL_EARLY(256, 2, name##_##rows, GemvArgs) { gemv<rows, LAYOUTS>(a); }

GEMV(gemv_q8_0, 4, SET(LAYOUT_Q8_0))
GEMV(gemv_q8_0, 8, SET(LAYOUT_Q8_0))
GEMV(gemv_q8_0, 16, SET(LAYOUT_Q8_0))
GEMV(gemv_q8_0, 32, SET(LAYOUT_Q8_0))
GEMV(gemv_q8_0_floats, 4, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(gemv_q8_0_floats, 8, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(gemv_q8_0_floats, 16, SET(LAYOUT_Q8_0) | FLOAT_SET)
GEMV(gemv_any, 4, ANY_SET)
GEMV(gemv_any, 8, ANY_SET)
