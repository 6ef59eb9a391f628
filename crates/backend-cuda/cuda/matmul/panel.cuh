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

#define GRID_COPIES 4

DEVICE uint32_t chunks_of(uint32_t cols) { return (cols + CHUNK_COLS - 1) / CHUNK_COLS; }

template <class F, int WIDE>
DEVICE void add_blocks(float (&acc)[4], const Matrix& m, const Input& in, const Part& part,
                       const uint32_t* grid) {
    const uint32_t chunks = chunks_of(m.cols);
    const uint8_t* panel = m.w + uint64_t(part.panel) * chunks * F::CHUNK;
    const ActRows acts = {in.x, in.row_bytes, in.n_rows};
    add_chunks<F, WIDE>(acc, panel, acts, chunks, part.first, part.step, grid);
}

template <int TYPE>
DEVICE void add_floats(float (&acc)[4], const Matrix& m, const Input& in, const Part& part) {
    const bool aligned = m.aligned != 0;
    const FloatRows w = {m.w, m.cols * (TYPE == FLOAT_F32 ? 4 : 2), m.rows, m.cols, aligned};
    const FloatRows x = {in.x, in.row_bytes, in.n_rows, m.cols, aligned};
    add_float_chunks<TYPE>(acc, w, part.panel * CHUNK_ROWS, x, part.first, part.step);
}

// Adds the part to `acc`. Float layouts put row i in column i whatever WIDE is.
template <int WIDE>
DEVICE void add_part(float (&acc)[4], const Matrix& m, const Input& in, const Part& part,
                     const uint32_t* grid) {
    switch (m.layout) {
        case LAYOUT_Q8_0: add_blocks<Q8_0, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_Q2_K: add_blocks<Q2K, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_Q4_K: add_blocks<Q4K, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_Q6_K: add_blocks<Q6K, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_IQ2_XXS: add_blocks<Iq2Xxs<GRID_COPIES>, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_MXFP4: add_blocks<Mxfp4, WIDE>(acc, m, in, part, grid); break;
        case LAYOUT_F32: add_floats<FLOAT_F32>(acc, m, in, part); break;
        case LAYOUT_F16: add_floats<FLOAT_F16>(acc, m, in, part); break;
        default: add_floats<FLOAT_BF16>(acc, m, in, part); break;
    }
}
