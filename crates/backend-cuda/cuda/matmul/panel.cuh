// A warp's part of a panel of a matrix of any layout.
#pragma once
#include "floats.cuh"

// A matrix, or the stacked matrices of experts.
struct Matrix {
    const uint8_t* w;
    uint64_t expert_bytes;
    uint32_t layout, rows, cols;
    // Rows of floats begin at multiples of 16 bytes.
    uint32_t aligned;
};

// Activations: records of the matrix' layout, or f32 rows.
struct Input {
    const uint8_t* x;
    uint32_t row_bytes, n_rows;
};

// Where one warp works: its chunks are `first`, `first + step`, ...
struct Part {
    uint32_t panel, first, step;
};

// The grid of IQ2_XXS in shared memory, and whether a format of the block needs it.
struct Grid {
    const uint32_t* levels;
    bool needed;
};

// A set of layouts, as bits: kernels for few of them need fewer registers.
#define SET(layout) (1u << (layout))
#define FLOAT_SET (SET(LAYOUT_F32) | SET(LAYOUT_F16) | SET(LAYOUT_BF16))
#define ANY_SET 0xffffffffu

DEVICE uint32_t chunks_of(uint32_t cols) { return (cols + CHUNK_COLS - 1) / CHUNK_COLS; }

template <class F, int WIDE, int GROUPS>
DEVICE void add_blocks(float (&acc)[GROUPS][4], const Matrix& m, const Input& in, const Part& part,
                       const Grid& grid) {
    const uint32_t chunks = chunks_of(m.cols);
    const uint8_t* panel = m.w + uint64_t(part.panel) * chunks * F::CHUNK;
    const ActRows acts = {in.x, in.row_bytes, in.n_rows};
    add_chunks<F, WIDE, GROUPS>(acc, panel, acts, chunks, part.first, part.step, grid.levels,
                        grid.needed);
}

template <int TYPE, int GROUPS>
DEVICE void add_floats(float (&acc)[GROUPS][4], const Matrix& m, const Input& in, const Part& part) {
    const bool aligned = m.aligned != 0;
    const FloatRows w = {m.w, m.cols * (TYPE == FLOAT_F32 ? 4 : 2), m.rows, m.cols, aligned};
    const FloatRows x = {in.x, in.row_bytes, in.n_rows, m.cols, aligned};
    add_float_chunks<TYPE, GROUPS>(acc, w, part.panel * CHUNK_ROWS, x, part.first, part.step);
}

// Adds the part to `acc`. Float layouts put row i in column i whatever WIDE is. Every thread of the
// block must come here or to `await_inputs`.
template <int WIDE, uint32_t LAYOUTS, int GROUPS>
DEVICE void add_part(float (&acc)[GROUPS][4], const Matrix& m, const Input& in, const Part& part,
                     const Grid& grid) {
#define BLOCKS(tag, F)                                         \
    if constexpr ((LAYOUTS & SET(tag)) != 0) {                 \
        if (m.layout == tag) add_blocks<F, WIDE, GROUPS>(acc, m, in, part, grid); \
    }
#define FLOATS(tag, TYPE)                       \
    if constexpr ((LAYOUTS & SET(tag)) != 0) {  \
        if (m.layout == tag) {                  \
            await_inputs(grid.needed);            \
            add_floats<TYPE, GROUPS>(acc, m, in, part); \
        }                                       \
    }
    BLOCKS(LAYOUT_Q8_0, Q8_0)
    BLOCKS(LAYOUT_Q2_K, Q2K)
    BLOCKS(LAYOUT_Q4_K, Q4K)
    BLOCKS(LAYOUT_Q6_K, Q6K)
    BLOCKS(LAYOUT_IQ2_XXS, Iq2Xxs)
    BLOCKS(LAYOUT_MXFP4, Mxfp4)
    FLOATS(LAYOUT_F32, FLOAT_F32)
    FLOATS(LAYOUT_F16, FLOAT_F16)
    FLOATS(LAYOUT_BF16, FLOAT_BF16)
#undef BLOCKS
#undef FLOATS
}
