// The accepted part of a step moves from staging to rings and pages.
#include "kv_row.cuh"

// One layer's store; a part that the layer lacks has a ratio of 0.
struct LayerRows {
    WindowRows window;
    PooledRows attention, index;
    uint32_t index_bytes, pad0, pad1, pad2;
};

struct CommitArgs {
    const LayerRows* layers;
    const uint32_t* accepted;  // one count a span
    StepView step;
    uint32_t first_layer, row_bytes;
};

DEVICE void copy_words(uint8_t* to, const uint8_t* from, uint32_t bytes) {
    // Rows are multiples of four bytes.
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += blockDim.x) {
        reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
    }
}

DEVICE void commit_pooled(const CommitArgs& a, const PooledRows& p, uint32_t bytes, const StepRow& r,
                          uint32_t n) {
    const uint32_t first_open = n > p.n_open ? n - p.n_open : 0;
    for (uint32_t i = first_open + blockIdx.x; i < n; i += gridDim.x) {
        const uint32_t place = (r.committed + i) % p.n_open;
        float* to = p.open + (uint64_t(r.slot) * p.n_open + place) * p.open_len;
        const float* from = p.staged_open + uint64_t(r.first_row + i) * p.open_len;
        for (uint32_t c = threadIdx.x; c < p.open_len; c += blockDim.x) to[c] = from[c];
    }
    const uint32_t before = r.committed / p.ratio, after = (r.committed + n) / p.ratio;
    const uint32_t first_staged = p.ratio == 4 ? r.closed_csa : r.closed_hca;
    for (uint32_t row = before + blockIdx.x; row < after; row += gridDim.x) {
        const uint64_t page = a.step.page(r, row / p.per_page);
        uint8_t* to = p.pages + (page * p.per_page + row % p.per_page) * bytes;
        copy_words(to, p.staged + uint64_t(first_staged + row - before) * bytes, bytes);
    }
}

// grid: (blocks that share the rows, layers, spans)
KERNEL(128, commit, CommitArgs) {
    const LayerRows& layer = a.layers[a.first_layer + blockIdx.y];
    const StepRow& r = a.step.span(blockIdx.z);
    const uint32_t wanted = a.accepted[blockIdx.z], n = wanted < r.n_rows ? wanted : r.n_rows;
    const uint32_t window = layer.window.window;
    // Only the last rows survive; earlier ones would be overwritten.
    for (uint32_t i = (n > window ? n - window : 0) + blockIdx.x; i < n; i += gridDim.x) {
        const uint32_t place = (r.committed + i) % window;
        uint8_t* to = layer.window.ring + (uint64_t(r.slot) * window + place) * a.row_bytes;
        copy_words(to, layer.window.staged + uint64_t(r.first_row + i) * a.row_bytes, a.row_bytes);
    }
    if (layer.attention.ratio) commit_pooled(a, layer.attention, a.row_bytes, r, n);
    if (layer.index.ratio) commit_pooled(a, layer.index, layer.index_bytes, r, n);
}
