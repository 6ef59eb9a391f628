// How block formats lie in device memory, and how rounded activations do.
//
// A matrix is cut into chunks of 16 rows x 256 columns; a panel is the chunks of 16 rows, in order;
// panels follow each other. Missing rows and columns are zeros. A chunk holds what 32 lanes load in
// pieces of 16 bytes, in the order in which the tensor cores want it (mma.cuh): lane l = 4 g + t has
// rows g and g + 8, and of every tile of 32 columns the eight from 8 t on. Sizes are those of the
// file, except for Q4_K (six-bit scales become bytes) and IQ2_XXS (the eighth sign of every eight
// weights is stored).
#pragma once
#include "common.cuh"

#define CHUNK_ROWS 16
#define CHUNK_COLS 256
#define TILES 8

// Tags of the layouts; the host has the same.
#define LAYOUT_Q8_0 0
#define LAYOUT_Q2_K 1
#define LAYOUT_Q4_K 2
#define LAYOUT_Q6_K 3
#define LAYOUT_IQ2_XXS 4
#define LAYOUT_MXFP4 5
// Row-major values, as in the file.
#define LAYOUT_F32 8
#define LAYOUT_F16 9
#define LAYOUT_BF16 10

// Q8_0: 8 tiles of [lane][4 codes of: row g | row g + 8 | row g, next 4 | row g + 8, next 4], which is
// the operand as it is; then [g][tile][d of g, d of g + 8].
#define Q8_0_SCALES 4096
#define Q8_0_CHUNK 4352

// Q2_K: 2 x 4 tiles of [lane][a word for each of: row g, 4 columns | row g, next 4 | row g + 8 | row
// g + 8], tile i in bits 2i of every byte; then [g][half of a tile][row g, row g + 8][4 bits a tile:
// scale]; then [lane][byte i: minimum 4 t + i of row g, and << 4 of row g + 8];
// then [g][row g, row g + 8][d, dmin].
#define Q2_K_SCALES 1024
#define Q2_K_MINS 1152
#define Q2_K_D 1280
#define Q2_K_CHUNK 1344

// Q4_K: 4 x 2 tiles of words as in Q2_K, tile i in bits 4i; then [g][row g, row g + 8][scale of 8
// tiles]; then [lane][row g, row g + 8][minima of tiles 2t and 2t + 1]; then [g][row][d, dmin].
#define Q4_K_SCALES 2048
#define Q4_K_MINS 2176
#define Q4_K_D 2304
#define Q4_K_CHUNK 2368

// Q6_K: low four bits as in Q4_K, upper two as in Q2_K; then [g][row][16 scales], then [g][row] d.
#define Q6_K_HIGH 2048
#define Q6_K_SCALES 3072
#define Q6_K_D 3328
#define Q6_K_CHUNK 3360

// IQ2_XXS: [lane][row g, row g + 8][grid index of 8 tiles]; then [lane][row][2 x 4 tiles: sign of
// weight i of tile j in bit 4 i + j]; then [g][row][4 bits a tile: scale]; then [g][row] d.
#define IQ2_XXS_SIGNS 512
#define IQ2_XXS_SCALES 1024
#define IQ2_XXS_D 1088
#define IQ2_XXS_CHUNK 1120

// MXFP4: 4 x 2 tiles of [lane][tile][row g, row g + 8][8 codes of 4 bits]; then [g][pair of tiles][row
// g, row g + 8][exponents of two tiles].
#define MXFP4_SCALES 2048
#define MXFP4_CHUNK 2176

// Activations, rounded to int8: one record for each row and 256 columns. The codes are [pair of
// tiles][t][tile][8 columns].
// Scales for every 32 columns: [codes: 256][scales: 8 f32].
#define ACT32_RECORD 288
// One scale: [codes: 256][sums of 16 columns, (sum + 8) >> 4: 16][the rest of it, -8..8: 16][scale].
#define ACT256_RECORD 304
// A scale for every 16: [codes: 256][scales: 16 f32][what 16 columns add up to, as two f16 numbers: 16 | 16].
#define ACT16_RECORD 384
#define ACT16_SCALES 256
#define ACT16_SUMS 320
// Two f16 numbers a value (halves_of in round.cuh), eight columns at a time: [first 8 | rest of them 8].
#define HALVES_RECORD 1024
#define ACT_SCALES 256
#define ACT256_SCALE 288
