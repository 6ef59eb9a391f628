// Which keys a row of the step attends to, and where they are.
#pragma once
#include "kv_row.cuh"
#include "rope.cuh"

#define SELECTED_NONE 0
#define SELECTED_ALL 1
#define SELECTED_IDS 2

struct AttendArgs {
    Rope rope;                // of raw queries
    const float* q;
    float* out;
    float* parts;             // [rows, splits, heads, dim]: sums
    float2* stats;            // [rows, heads, splits]: largest score, weight
    const float* sinks;
    const uint32_t* ids;
    WindowRows window;
    PooledRows pooled;
    RowFormat format;
    StepView step;
    uint32_t n_heads, ids_cols, selected, n_splits;
    float scale, eps;
    // Whether queries are still to be normed and rotated; whether one part is to be left too.
    uint32_t raw, leaves_parts;
};

// What a row of the step may see.
struct Visible {
    uint32_t first_pos, n_window, n_rows;
    // Whether compressed rows were picked: not where all of them fit.
    bool picked;
};

DEVICE Visible visible(const AttendArgs& a, const StepRow& row) {
    Visible v;
    v.n_window = row.pos + 1 < a.window.window ? row.pos + 1 : a.window.window;
    v.first_pos = row.pos + 1 - v.n_window;
    v.n_rows = a.selected == SELECTED_NONE ? 0 : (row.pos + 1) / a.pooled.ratio;
    v.picked = a.selected == SELECTED_IDS && v.n_rows > a.ids_cols;
    if (v.picked) v.n_rows = a.ids_cols;
    return v;
}

// The bytes of key i: window rows first.
DEVICE const uint8_t* key_row(const AttendArgs& a, const StepRow& row, uint32_t r, const Visible& v,
                              uint32_t i) {
    if (i < v.n_window) return window_row(a.window, a.format.bytes, row, v.first_pos + i);
    i -= v.n_window;
    if (v.picked) i = a.ids[uint64_t(r) * a.ids_cols + i];
    return pooled_row(a.pooled, a.format.bytes, a.step, row, i);
}
