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

// Words that a thread has on their way at once.
#define WORDS_AT_ONCE 8

// A block copies whole words.
DEVICE void copy_words(void* to, const void* from, uint32_t n) {
    uint32_t* words = static_cast<uint32_t*>(to);
    const uint32_t* old = static_cast<const uint32_t*>(from);
    for (uint32_t first = threadIdx.x; first < n; first += WORDS_AT_ONCE * blockDim.x) {
        uint32_t v[WORDS_AT_ONCE];
#pragma unroll
        for (uint32_t k = 0; k < WORDS_AT_ONCE; k++) {
            const uint32_t i = first + k * blockDim.x;
            v[k] = i < n ? old[i] : 0u;
        }
#pragma unroll
        for (uint32_t k = 0; k < WORDS_AT_ONCE; k++) {
            const uint32_t i = first + k * blockDim.x;
            if (i < n) words[i] = v[k];
        }
    }
}

// The inputs of open rows: place `part` of `parts` that share them.
DEVICE void commit_open(const PooledRows& p, const StepRow& r, uint32_t n, uint32_t part, uint32_t parts) {
    for (uint32_t i = (n > p.n_open ? n - p.n_open : 0) + part; i < n; i += parts) {
        const uint32_t place = (r.committed + i) % p.n_open;
        float* to = p.open + (uint64_t(r.slot) * p.n_open + place) * p.open_len;
        copy_words(to, p.staged_open + uint64_t(r.first_row + i) * p.open_len, p.open_len);
    }
}

DEVICE void commit_closed(const CommitArgs& a, const PooledRows& p, uint32_t bytes, const StepRow& r,
                          uint32_t n, uint32_t part, uint32_t parts) {
    const uint32_t before = r.committed / p.ratio, after = (r.committed + n) / p.ratio;
    const uint32_t first_staged = p.ratio == 4 ? r.closed_csa : r.closed_hca;
    for (uint32_t row = before + part; row < after; row += parts) {
        const uint64_t page = a.step.page(r, row / p.per_page);
        uint8_t* to = p.pages + (page * p.per_page + row % p.per_page) * bytes;
        // Rows are multiples of four bytes.
        copy_words(to, p.staged + uint64_t(first_staged + row - before) * bytes, bytes / 4);
    }
}

DEVICE void commit_window(const CommitArgs& a, const WindowRows& w, const StepRow& r, uint32_t n,
                          uint32_t part, uint32_t parts) {
    // Only the last rows survive; earlier ones would be overwritten.
    for (uint32_t i = (n > w.window ? n - w.window : 0) + part; i < n; i += parts) {
        uint8_t* to = w.ring + (uint64_t(r.slot) * w.window + (r.committed + i) % w.window) * a.row_bytes;
        copy_words(to, w.staged + uint64_t(r.first_row + i) * a.row_bytes, a.row_bytes / 4);
    }
}

// What a layer stores for itself: window rows, then of either compressor the open rows and the closed.
#define KINDS 5

// grid: (KINDS times blocks that share the rows, layers, spans)
KERNEL(256, commit, CommitArgs) {
    const LayerRows& layer = a.layers[a.first_layer + blockIdx.y];
    const StepRow& r = a.step.span(blockIdx.z);
    const uint32_t wanted = a.accepted[blockIdx.z], n = wanted < r.n_rows ? wanted : r.n_rows;
    const uint32_t kind = blockIdx.x % KINDS, part = blockIdx.x / KINDS, parts = gridDim.x / KINDS;
    if (kind == 0) return commit_window(a, layer.window, r, n, part, parts);
    const bool is_index = kind > 2;
    const PooledRows& p = is_index ? layer.index : layer.attention;
    if (p.ratio == 0) return;
    if (kind % 2 != 0) return commit_open(p, r, n, part, parts);
    commit_closed(a, p, is_index ? layer.index_bytes : a.row_bytes, r, n, part, parts);
}
