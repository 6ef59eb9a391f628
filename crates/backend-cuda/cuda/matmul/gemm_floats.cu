// Products of F32, F16 and BF16 weights with many rows of activations; floats.cuh has the arithmetic.
//
// A block computes 64 weight rows times 64 activation rows. Its warps are 4 along the weights, which
// each loads for itself, and 2 along the activations, which go through shared memory.
#include "copy.cuh"
#include "panel.cuh"

// As in gemm.cu.
struct GemmArgs {
    Matrix m;
    const uint8_t* x;
    float* out;
    const uint32_t* grid;
    uint32_t x_row_bytes, x_slice_bytes, out_stride;
    uint32_t groups, first_group, n_rows;
};

#define COLUMNS 64
#define STEP 32
// Floats between columns in shared memory: eight lanes that read 16 bytes each meet in no bank.
#define STRIDE 36
#define WARP_TILES 4

// Columns k to k + STEP of the block's activation rows.
DEVICE void copy_activations(float* to, const FloatRows& x, uint32_t first, uint32_t k) {
    for (uint32_t i = threadIdx.x; i < COLUMNS * STEP / 4; i += blockDim.x) {
        const uint32_t column = i / (STEP / 4), at = i % (STEP / 4) * 4;
        const uint32_t row = min(first + column, x.n_rows - 1);
        const float* from = reinterpret_cast<const float*>(x.values + uint64_t(row) * x.row_bytes);
        float* place = to + column * STRIDE + at;
        if (x.aligned && k + at < x.cols) {
            copy_16(place, from + k + at);
        } else {
            for (uint32_t j = 0; j < 4; j++) place[j] = k + at + j < x.cols ? from[k + at + j] : 0.0f;
        }
    }
}

template <int TYPE>
DEVICE void multiply_step(float (&acc)[WARP_TILES][4], const float (&a)[8], const float (&a8)[8],
                          const float* columns) {
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < WARP_TILES; n++) {
        const float* x = columns + (8 * n + g) * STRIDE + 8 * t;
        const float4 low = *reinterpret_cast<const float4*>(x);
        const float4 high = *reinterpret_cast<const float4*>(x + 4);
        const float b[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        float c[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 8; i += 2) add_pair<TYPE>(c, a + i, a8 + i, b + i);
#pragma unroll
        for (int i = 0; i < 4; i++) acc[n][i] += c[i];
    }
}

template <int TYPE>
DEVICE void gemm_floats(const GemmArgs& a) {
    SHARED float4 stages[2 * COLUMNS * STRIDE / 4];
    float* const columns = reinterpret_cast<float*>(stages);
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t group_rows = a.m.rows / a.groups;
    const uint32_t first_row = (a.first_group + blockIdx.z) * group_rows;
    const uint32_t end_row = first_row + group_rows, first_column = blockIdx.x * COLUMNS;
    const uint32_t row = first_row + blockIdx.y * 64 + warp % 4 * 16;
    const bool aligned = a.m.aligned != 0;
    const uint32_t weight_bytes = a.m.cols * (TYPE == FLOAT_F32 ? 4 : 2);
    const FloatRows w = {a.m.w, weight_bytes, a.m.rows, a.m.cols, aligned};
    const uint8_t* slice = a.x + uint64_t(blockIdx.z) * a.x_slice_bytes;
    const FloatRows x = {slice, a.x_row_bytes, a.n_rows, a.m.cols, aligned};
    const uint32_t row_g = min(row + g, a.m.rows - 1), row_g8 = min(row + g + 8, a.m.rows - 1);
    float acc[WARP_TILES][4];
#pragma unroll
    for (int i = 0; i < WARP_TILES * 4; i++) acc[i / 4][i % 4] = 0;

    copy_activations(columns, x, first_column, 0);
    copies_begin();
    for (uint32_t k = 0, stage = 0; k < a.m.cols; k += STEP, stage ^= 1) {
        float v[8], v8[8];
        load_eight<TYPE>(v, w, row_g, k + 8 * t);
        load_eight<TYPE>(v8, w, row_g8, k + 8 * t);
        if (k + STEP < a.m.cols) {
            copy_activations(columns + (stage ^ 1) * COLUMNS * STRIDE, x, first_column, k + STEP);
        }
        copies_begin();
        copies_wait<1>();
        __syncthreads();
        const uint32_t first = stage * COLUMNS + warp / 4 * (8 * WARP_TILES);
        multiply_step<TYPE>(acc, v, v8, columns + first * STRIDE);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < WARP_TILES * 4; i++) {
        const uint32_t at = row + g + i % 4 / 2 * 8;
        const uint32_t column = first_column + (warp / 4 * WARP_TILES + i / 4) * 8 + 2 * t + i % 2;
        if (at < end_row && column < a.n_rows) {
            a.out[uint64_t(column) * a.out_stride + at] = acc[i / 4][i % 4];
        }
    }
}

KERNEL_OCC(256, 2, gemm_f32, GemmArgs) { gemm_floats<FLOAT_F32>(a); }
KERNEL_OCC(256, 2, gemm_f16, GemmArgs) { gemm_floats<FLOAT_F16>(a); }
KERNEL_OCC(256, 2, gemm_bf16, GemmArgs) { gemm_floats<FLOAT_BF16>(a); }
