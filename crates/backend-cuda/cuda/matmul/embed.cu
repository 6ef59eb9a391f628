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

// Eight values to all streams.
DEVICE void put_eight(const EmbedArgs& a, const float (&v)[8], uint32_t column, float* out) {
    for (uint32_t s = 0; s < a.n_streams; s++) {
        float* to = out + uint64_t(s) * a.cols + column;
        if (column + 8 <= a.cols && a.cols % 4 == 0) {
            reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
            reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
        } else {
#pragma unroll
            for (uint32_t w = 0; w < 8; w++) {
                if (column + w < a.cols) to[w] = v[w];
            }
        }
    }
}

// Eight columns of tile `tile`, from 8 t on.
template <class F>
DEVICE void embed_tile(const EmbedArgs& a, uint32_t token, uint32_t chunk, uint32_t tile, uint32_t t,
                       float (&v)[8]) {
    const uint32_t chunks = (a.cols + CHUNK_COLS - 1) / CHUNK_COLS, g = token % 8;
    const uint8_t* from = a.w + (uint64_t(token / CHUNK_ROWS) * chunks + chunk) * F::CHUNK;
    typename F::Raw raw;
    F::load(raw, Near{from}, 4 * g + t);
    decode_tile<F>(v, raw, from, tile, g, t, token / 8 % 2, a.grid);
}

DEVICE void embed_floats(const EmbedArgs& a, uint32_t token, uint32_t column, float (&v)[8], uint32_t type) {
#pragma unroll
    for (uint32_t w = 0; w < 8; w++) {
        v[w] = column + w < a.cols ? load_float(a.w, uint64_t(token) * a.cols + column + w, type) : 0.0f;
    }
}

// A thread decodes eight columns of a row. The step, where the tokens lie, is there before any kernel.
KERNEL_EARLY(64, 1, embed_rows, EmbedArgs) {
    const uint32_t eights = (a.cols + CHUNK_COLS - 1) / CHUNK_COLS * (CHUNK_COLS / 8);
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t row = index / eights, column = index % eights * 8;
    const uint32_t chunk = column / CHUNK_COLS, tile = column / 32 % TILES, t = column / 8 % 4;
    float v[8];
    if (row < a.n_rows) {
        // A token outside the table cannot come from a checked request; the last row stands for it.
        const uint32_t token = min(a.tokens[row], a.rows - 1);
        switch (a.layout) {
            case LAYOUT_Q8_0: embed_tile<Q8_0>(a, token, chunk, tile, t, v); break;
            case LAYOUT_Q2_K: embed_tile<Q2K>(a, token, chunk, tile, t, v); break;
            case LAYOUT_Q4_K: embed_tile<Q4K>(a, token, chunk, tile, t, v); break;
            case LAYOUT_Q6_K: embed_tile<Q6K>(a, token, chunk, tile, t, v); break;
            case LAYOUT_IQ2_XXS: embed_tile<Iq2Xxs>(a, token, chunk, tile, t, v); break;
            case LAYOUT_MXFP4: embed_tile<Mxfp4>(a, token, chunk, tile, t, v); break;
            case LAYOUT_F32: embed_floats(a, token, column, v, FLOAT_F32); break;
            case LAYOUT_F16: embed_floats(a, token, column, v, FLOAT_F16); break;
            default: embed_floats(a, token, column, v, FLOAT_BF16); break;
        }
    }
    await_previous();
    if (row < a.n_rows) put_eight(a, v, column, a.out + uint64_t(row) * a.n_streams * a.cols);
}
