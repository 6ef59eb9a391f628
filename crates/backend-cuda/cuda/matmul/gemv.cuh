// What the kernels for few rows of activations are given: several matrices of any formats.
#pragma once
#include "panel.cuh"

// Panels that a block takes at a time: rows of one group, whose slice of x they meet.
struct Unit {
    uint32_t group, first_row, end_row, first_panel;
};

struct GemvJob {
    Matrix m;
    const uint8_t* x;
    float* out;
    // Bytes between rows and between slices of x; floats between rows of out.
    uint32_t x_row_bytes, x_slice_bytes, out_stride;
    // Equal parts of the rows: slice i of x meets part `first_group` + i. Panels that may lie in one.
    uint32_t groups, first_group, group_panels;
    // Units of work before this job's, each of one or more panels that one block takes at a time.
    uint32_t first_unit, unused;

    // What its unit `at` of `panels` panels covers.
    MEMBER Unit unit(uint32_t at, uint32_t panels) const {
        const uint32_t units = (group_panels + panels - 1) / panels, group_rows = m.rows / groups;
        Unit u;
        u.group = at / units;
        u.first_row = (first_group + u.group) * group_rows;
        u.end_row = u.first_row + group_rows;
        u.first_panel = u.first_row / CHUNK_ROWS + at % units * panels;
        return u;
    }
};

#define MAX_JOBS 8

struct GemvArgs {
    GemvJob jobs[MAX_JOBS];
    const uint32_t* grid;
    uint32_t n_jobs, n_rows, n_units, unused;

    MEMBER uint32_t job_of(uint32_t unit) const {
        uint32_t which = 0;
        while (which + 1 < n_jobs && unit >= jobs[which + 1].first_unit) which++;
        return which;
    }
};

