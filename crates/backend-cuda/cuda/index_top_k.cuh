// What the indexer's kernels take.
#pragma once
#include "kv_row.cuh"
#include "rope.cuh"

struct IndexArgs {
    Rope rope;                // that queries still lack; of no pairs where they are rotated
    const float* q;           // queries of all rows
    const float* weights;     // head weights of all rows
    float* rounded;           // [tile rows, heads * dim]
    float* scores;            // [tile rows, score_cols]
    uint32_t* ids;            // [rows, top_k]
    PooledRows pooled;
    RowFormat format;
    StepView step;
    uint32_t first_row;       // of the tile
    uint32_t n_heads, dim, top_k, score_cols;
    float factor;
};

DEVICE uint32_t visible_rows(const IndexArgs& a, uint32_t r) {
    return (a.step.row(r).pos + 1) / a.pooled.ratio;
}
