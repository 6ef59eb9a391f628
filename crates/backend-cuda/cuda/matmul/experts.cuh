// What the kernels for the chosen experts of few rows are given.
#pragma once
#include "panel.cuh"

// Experts that the same rows go through. The shared expert is a bank of one.
struct Bank {
    Matrix gate, up;
    // Activations of the rows, for either matrix.
    const uint8_t *gate_x, *up_x;
    // [pairs]: expert and what the pair counts. Null: expert 0, once.
    const uint32_t* ids;
    const float* weights;
    // [pairs, rows of gate]
    float* out;
    uint32_t gate_row_bytes, up_row_bytes;
    // Experts of a row, experts there are, pairs.
    uint32_t used, n_experts, n_pairs;
    float clamp;
};

struct UpArgs {
    Bank banks[2];
    const uint32_t* grid;
};

struct DownArgs {
    // The experts of a row, then the shared one; its layout is ignored when `shared` is null.
    Matrix down, shared_down;
    // Activations of the pairs, and of the rows.
    const uint8_t *x, *shared_x;
    // One row's pairs as values, whose records the kernel makes for itself; or null.
    const float* raw;
    const uint32_t *ids, *grid;
    // [rows, rows of down]
    float* out;
    uint32_t row_bytes, shared_row_bytes, used, n_experts;
    // Flags; rows.
    uint32_t flags, n_rows;
};

// The sum is added to what is there.
#define DOWN_ADDS 1
// The kernel of the gated products let this one begin only when the choice was there.
#define DOWN_KNOWS_IDS 2

#define MAX_USED 16

// What a pair counts for. An id that the file should not have makes values that nobody takes for an
// answer.
DEVICE float pair_value(const Bank& bank, uint32_t id, float weight) {
    return id >= bank.n_experts ? __uint_as_float(0x7fc00000) : weight;
}

DEVICE float pair_weight(const Bank& bank, uint32_t pair, uint32_t id) {
    return pair_value(bank, id, bank.weights ? bank.weights[pair] : 1.0f);
}
