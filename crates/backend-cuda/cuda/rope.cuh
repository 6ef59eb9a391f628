// Rotation of a pair of channels for a position.
#pragma once
#include "common.cuh"

#define ROPE_PAIRS 64

// Turns per position of each pair, in double precision: a million positions are many turns.
struct Rope {
    double turns[ROPE_PAIRS];
    uint32_t n_pairs, inverse;
};

DEVICE void rope_pair(const Rope& rope, uint32_t pair, uint32_t pos, float& p, float& q) {
    const double turns = double(pos) * rope.turns[pair];
    float sine, cosine;
    sincospif(2.0f * float(turns - rint(turns)), &sine, &cosine);
    if (rope.inverse) sine = -sine;
    const float first = p;
    p = first * cosine - q * sine;
    q = first * sine + q * cosine;
}
