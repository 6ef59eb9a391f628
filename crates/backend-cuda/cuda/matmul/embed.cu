// Rows of a matrix of any layout, as values: the embedding.
#include "formats.cuh"

struct EmbedArgs {
    const uint8_t* w;
    const uint32_t *tokens, *grid;
    float* out;
    uint32_t layout, rows, cols, n_rows, n_streams, unused;
};

// The eight columns of tile i that lane (g, t) has of row g, or of row g + 8.
template <class F>
DEVICE void decode_tile(float (&v)[8], const typename F::Raw& raw, const uint8_t* chunk, int i,
                        uint32_t g, uint32_t t, int half, const uint32_t* grid) {
    uint32_t a[4];
    F::tile(a, raw, i, grid);
    const int part = 2 * i + int(t / 2);
    float scale, minimum = 0;
    if constexpr (F::KIND == PER_TILE) {
        scale = F::scale(raw, i, half);
    } else if constexpr (F::KIND == CHAINED) {
        scale = F::d(raw, half);
    } else if constexpr (F::KIND == SCALED) {
        scale = F::d(raw, half) * float(F::factor(raw, i, half));
    } else {
        scale = F::d(raw, half) * float(F::factor(raw, i, half, part % 2));
    }
    if constexpr (F::MINS) minimum = F::dmin(raw, half) * float(F::minimum(chunk, g, half, part));
    for (int w = 0; w < 8; w++) {
        const uint32_t bytes = half == 0 ? (w < 4 ? a[0] : a[2]) : (w < 4 ? a[1] : a[3]);
        v[w] = scale * float(int8_t(bytes >> (w % 4 * 8))) - minimum;
    }
}

template <class F>
DEVICE void embed_chunk(const EmbedArgs& a, uint32_t token, uint32_t chunk, uint32_t t, float* out) {
    const uint32_t chunks = (a.cols + CHUNK_COLS - 1) / CHUNK_COLS, g = token % 8;
    const uint8_t* from = a.w + (uint64_t(token / CHUNK_ROWS) * chunks + chunk) * F::CHUNK;
    typename F::Raw raw;
    F::load(raw, Near{from}, 4 * g + t);
    // Rolled: speed is of no account here, the time to compile is.
#pragma unroll 1
    for (int i = 0; i < TILES; i++) {
        float v[8];
        decode_tile<F>(v, raw, from, i, g, t, token / 8 % 2, a.grid);
        const uint32_t column = chunk * CHUNK_COLS + 32 * i + 8 * t;
#pragma unroll 1
        for (uint32_t w = 0; w < 8 && column + w < a.cols; w++) {
            for (uint32_t s = 0; s < a.n_streams; s++) out[s * a.cols + column + w] = v[w];
        }
    }
}

DEVICE void embed_floats(const EmbedArgs& a, uint32_t token, uint32_t first, float* out, uint32_t type) {
    for (uint32_t k = first; k < min(a.cols, first + 64); k++) {
        const float v = load_float(a.w, uint64_t(token) * a.cols + k, type);
        for (uint32_t s = 0; s < a.n_streams; s++) out[s * a.cols + k] = v;
    }
}

// A thread decodes a quarter of 256 columns of a row.
KERNEL(256, embed_rows, EmbedArgs) {
    const uint32_t chunks = (a.cols + CHUNK_COLS - 1) / CHUNK_COLS;
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t row = index / 4 / chunks, chunk = index / 4 % chunks, t = index % 4;
    if (row >= a.n_rows) return;
    // A token outside the table cannot come from a checked request; the last row stands for it.
    const uint32_t token = min(a.tokens[row], a.rows - 1);
    float* out = a.out + uint64_t(row) * a.n_streams * a.cols;
    const uint32_t first = chunk * CHUNK_COLS + 64 * t;
    switch (a.layout) {
        case LAYOUT_Q8_0: embed_chunk<Q8_0>(a, token, chunk, t, out); break;
        case LAYOUT_Q2_K: embed_chunk<Q2K>(a, token, chunk, t, out); break;
        case LAYOUT_Q4_K: embed_chunk<Q4K>(a, token, chunk, t, out); break;
        case LAYOUT_Q6_K: embed_chunk<Q6K>(a, token, chunk, t, out); break;
        case LAYOUT_IQ2_XXS: embed_chunk<Iq2Xxs>(a, token, chunk, t, out); break;
        case LAYOUT_MXFP4: embed_chunk<Mxfp4>(a, token, chunk, t, out); break;
        case LAYOUT_F32: embed_floats(a, token, first, out, FLOAT_F32); break;
        case LAYOUT_F16: embed_floats(a, token, first, out, FLOAT_F16); break;
        default: embed_floats(a, token, first, out, FLOAT_BF16); break;
    }
}
