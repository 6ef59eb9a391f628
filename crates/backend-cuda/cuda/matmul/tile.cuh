// Pairs of a row and one of its experts, sorted by expert and cut into tiles (experts_sort.cu).
#pragma once
#include "common.cuh"

// Up to a number of pairs of one expert: where their places begin, and where the rows of f16 that kernels for many
// rows make of them do: at a multiple of eight for every expert.
struct Tile {
    uint32_t expert, first, count, slot;
};
