// What the kernels for few rows of activations are given: several matrices of any formats.
#pragma once
#include "panel.cuh"

struct GemvJob {
    Matrix m;
    const uint8_t* x;
    float* out;
    // Bytes between rows and between slices of x; floats between rows of out.
    uint32_t x_row_bytes, x_slice_bytes, out_stride;
    // Equal parts of the rows: slice i of x meets part `first_group` + i. Panels that may lie in one.
    uint32_t groups, first_group, group_panels;
    // Blocks before this job's.
    uint32_t first_block, unused;

    // Its block `at`: part of the rows, and first panel.
    MEMBER uint32_t first_panel(uint32_t at, uint32_t panels, uint32_t& group) const {
        const uint32_t blocks = (group_panels + panels - 1) / panels;
        group = at / blocks;
        return (first_group + group) * (m.rows / groups) / CHUNK_ROWS + at % blocks * panels;
    }
};

#define MAX_JOBS 8

struct GemvArgs {
    GemvJob jobs[MAX_JOBS];
    const uint32_t* grid;
    // Blocks that run at a time: a block fetches for that which takes its place.
    uint32_t n_jobs, n_rows, n_blocks, ahead;

    MEMBER uint32_t job_of(uint32_t block) const {
        uint32_t which = 0;
        while (which + 1 < n_jobs && block >= jobs[which + 1].first_block) which++;
        return which;
    }
};

