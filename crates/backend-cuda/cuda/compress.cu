// Staging of window rows and compressor inputs, and the rows that close.
#include "compress.cuh"

struct StageWindowArgs {
    const float* rows;
    uint8_t* staged;
    RowFormat format;
};

// grid: rows. Shared: a row.
KERNEL(256, stage_window, StageWindowArgs) {
    DYNAMIC_SHARED(float, row);
    const float* x = a.rows + uint64_t(blockIdx.x) * a.format.dim;
    for (uint32_t i = threadIdx.x; i < a.format.dim; i += blockDim.x) row[i] = x[i];
    __syncthreads();
    encode_row(a.format, row, a.staged + uint64_t(blockIdx.x) * a.format.bytes);
}

struct CompressArgs {
    Rope rope;
    Compressor c;
    StepView step;
    float* pooled;            // [spans, width]
    uint32_t* done;           // [spans]
    float eps;
    uint32_t pad;
};

// grid: (parts of a row, rows)
KERNEL(256, stage_open, CompressArgs) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.c.cols) stage_channel(a.c, a.step, blockIdx.y, i);
}

// grid: (rows that one span can close, spans). Shared: a row.
KERNEL_OCC(SHARE_THREADS, 2, close_rows, CompressArgs) {
    DYNAMIC_SHARED(float, row);
    SHARED float part[32];
    const StepRow& r = a.step.span(blockIdx.y);
    const uint32_t index = r.committed / a.c.pooled.ratio + blockIdx.x;
    if (index < (r.committed + r.n_rows) / a.c.pooled.ratio) {
        close_row(a.c, {a.rope, a.step, a.eps}, r, index, row, part);
    }
}

// grid: (SHARES, spans), of few rows each. Shared: a row.
KERNEL(SHARE_THREADS, compress_span, CompressArgs) {
    DYNAMIC_SHARED(float, row);
    SHARED float part[32];
    const Meeting meeting = {a.pooled + uint64_t(blockIdx.y) * a.c.width, a.done + blockIdx.y};
    compress_rows(a.c, {a.rope, a.step, a.eps}, a.step.span(blockIdx.y), blockIdx.x, meeting, row, part);
}
