// The mixing matrix of a site of four streams (spec: model §4.1).
#pragma once
#include "common.cuh"

// Softmax over rows and a column norm, then rounds of row and column norms, in every lane's registers.
DEVICE void sinkhorn_4(float (&c)[16], float eps, uint32_t rounds) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float largest = fmaxf(fmaxf(c[4 * j], c[4 * j + 1]), fmaxf(c[4 * j + 2], c[4 * j + 3]));
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            c[4 * j + k] = quick_exp(c[4 * j + k] - largest);
            sum += c[4 * j + k];
        }
#pragma unroll
        for (int k = 0; k < 4; k++) c[4 * j + k] = fmaf(c[4 * j + k], reciprocal(sum), eps);
    }
#pragma unroll 1
    for (uint32_t round = 0; round < rounds; round++) {
        if (round > 0) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float* row = c + 4 * j;
                const float inverse = reciprocal((row[0] + row[1]) + (row[2] + row[3]) + eps);
#pragma unroll
                for (int k = 0; k < 4; k++) row[k] *= inverse;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float inverse = reciprocal((c[k] + c[4 + k]) + (c[8 + k] + c[12 + k]) + eps);
#pragma unroll
            for (int j = 0; j < 4; j++) c[4 * j + k] *= inverse;
        }
    }
}
