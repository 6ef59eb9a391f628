// Rotation of a pair of channels for a position.
#pragma once
#include "common.cuh"

#define ROPE_PAIRS 64

// Turns per position of each pair, in double precision: a million positions are many turns.
struct Rope {
    double turns[ROPE_PAIRS];
    uint32_t n_pairs, inverse;
};

DEVICE void rope_angle(const Rope& rope, uint32_t pair, uint32_t pos, float& sine, float& cosine) {
    const double turns = double(pos) * rope.turns[pair];
    sincospif(2.0f * float(turns - rint(turns)), &sine, &cosine);
    if (rope.inverse) sine = -sine;
}

DEVICE void rope_turn(float sine, float cosine, float& p, float& q) {
    const float first = p;
    p = first * cosine - q * sine;
    q = first * sine + q * cosine;
}

DEVICE void rope_pair(const Rope& rope, uint32_t pair, uint32_t pos, float& p, float& q) {
    float sine, cosine;
    rope_angle(rope, pair, pos, sine, cosine);
    rope_turn(sine, cosine, p, q);
}
