// Attention over window and selected rows, any head size and row format: a warp for a head, keys
// decoded once for eight heads, softmax computed while they pass. The keys of a row can be divided
// among blocks, whose parts are put together in a fixed order.
#include "kv_row.cuh"

#define SELECTED_NONE 0
#define SELECTED_ALL 1
#define SELECTED_IDS 2

struct AttendArgs {
    const float* q;
    float* out;
    float* parts;             // [rows, splits, heads, dim + 2]: sums, largest score, weight
    const float* sinks;
    const uint32_t* ids;
    WindowRows window;
    PooledRows pooled;
    RowFormat format;
    StepView step;
    uint32_t n_heads, ids_cols, selected, n_splits;
    float scale;
    uint32_t pad;
};

#define KEYS 32
#define HEADS 8

// What a row of the step may see.
struct Visible {
    uint32_t first_pos, n_window, n_rows;
};

DEVICE Visible visible(const AttendArgs& a, const StepRow& row) {
    Visible v;
    v.n_window = row.pos + 1 < a.window.window ? row.pos + 1 : a.window.window;
    v.first_pos = row.pos + 1 - v.n_window;
    v.n_rows = a.selected == SELECTED_NONE ? 0 : (row.pos + 1) / a.pooled.ratio;
    if (a.selected == SELECTED_IDS && v.n_rows > a.ids_cols) v.n_rows = a.ids_cols;
    return v;
}

// The bytes of key i: window rows first.
DEVICE const uint8_t* key_row(const AttendArgs& a, const StepRow& row, uint32_t r, const Visible& v,
                              uint32_t i) {
    if (i < v.n_window) return window_row(a.window, a.format.bytes, row, v.first_pos + i);
    i -= v.n_window;
    if (a.selected == SELECTED_IDS) i = a.ids[uint64_t(r) * a.ids_cols + i];
    return pooled_row(a.pooled, a.format.bytes, a.step, row, i);
}

// The running softmax of one head; CHANNELS of its output in each lane.
template <int CHANNELS>
struct Running {
    float sums[CHANNELS];
    float largest, weight;
};

template <int CHANNELS>
DEVICE void take_keys(Running<CHANNELS>& s, const float (&q)[CHANNELS], const float* keys, uint32_t n,
                      uint32_t dim, float scale) {
    const uint32_t lane = threadIdx.x % 32;
    float score = -INFINITY;
    for (uint32_t t = 0; t < n; t++) {
        float dot = 0.0f;
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i < dim) dot += q[j] * keys[t * dim + i];
        }
        dot = warp_sum(dot) * scale;
        if (lane == t) score = dot;
    }
    const float largest = fmaxf(s.largest, warp_max(score));
    const float shrink = expf(s.largest - largest);
    const float p = lane < n ? expf(score - largest) : 0.0f;
    s.weight = s.weight * shrink + warp_sum(p);
    s.largest = largest;
#pragma unroll
    for (int j = 0; j < CHANNELS; j++) s.sums[j] *= shrink;
    for (uint32_t t = 0; t < n; t++) {
        const float weight = __shfl_sync(FULL_WARP, p, t);
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i < dim) s.sums[j] += weight * keys[t * dim + i];
        }
    }
}

template <int CHANNELS>
DEVICE void attend_body(const AttendArgs& a, float* keys) {
    const uint32_t r = blockIdx.y, dim = a.format.dim, lane = threadIdx.x % 32;
    const uint32_t head = blockIdx.x * HEADS + threadIdx.x / 32;
    const StepRow& row = a.step.row(r);
    const Visible v = visible(a, row);
    const uint32_t total = v.n_window + v.n_rows;
    const uint32_t tiles = (total + KEYS - 1) / KEYS;
    const uint32_t share = (tiles + a.n_splits - 1) / a.n_splits * KEYS;
    const uint32_t begin = blockIdx.z * share;
    const uint32_t end = begin + share < total ? begin + share : total;

    Running<CHANNELS> s;
    float q[CHANNELS];
    const uint64_t at = (uint64_t(r) * a.n_heads + head) * dim;
#pragma unroll
    for (int j = 0; j < CHANNELS; j++) {
        const uint32_t i = lane + 32 * j;
        q[j] = head < a.n_heads && i < dim ? a.q[at + i] : 0.0f;
        s.sums[j] = 0.0f;
    }
    s.largest = -3.0e38f;
    s.weight = 0.0f;
    for (uint32_t first = begin; first < end; first += KEYS) {
        const uint32_t n = end - first < KEYS ? end - first : KEYS;
        __syncthreads();
        for (uint32_t t = threadIdx.x / 32; t < n; t += HEADS) {
            const uint8_t* bytes = key_row(a, row, r, v, first + t);
            for (uint32_t i = lane; i < dim; i += 32) keys[t * dim + i] = row_value(a.format, bytes, i);
        }
        __syncthreads();
        if (head < a.n_heads) take_keys<CHANNELS>(s, q, keys, n, dim, a.scale);
    }
    if (head >= a.n_heads) return;
    if (a.n_splits == 1) {
        // The sink weighs in the denominator only.
        const float largest = fmaxf(s.largest, a.sinks[head]), shrink = expf(s.largest - largest);
        const float factor = shrink / (s.weight * shrink + expf(a.sinks[head] - largest));
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) {
            if (lane + 32 * j < dim) a.out[at + lane + 32 * j] = s.sums[j] * factor;
        }
        return;
    }
    const uint64_t place = (uint64_t(r) * a.n_splits + blockIdx.z) * a.n_heads + head;
    float* part = a.parts + place * (dim + 2);
#pragma unroll
    for (int j = 0; j < CHANNELS; j++) {
        if (lane + 32 * j < dim) part[lane + 32 * j] = s.sums[j];
    }
    if (lane == 0) {
        part[dim] = s.largest;
        part[dim + 1] = s.weight;
    }
}

// grid: (heads / 8, rows, splits). Shared: KEYS decoded keys. The number is channels a lane.
KERNEL_OCC(256, 2, attend_8, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<8>(a, keys);
}

KERNEL_OCC(256, 2, attend_16, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<16>(a, keys);
}

KERNEL(256, attend_32, AttendArgs) {
    DYNAMIC_SHARED(float, keys);
    attend_body<32>(a, keys);
}

// grid: (heads, rows). Puts the parts of a head together.
KERNEL(128, attend_combine, AttendArgs) {
    const uint32_t head = blockIdx.x, r = blockIdx.y, dim = a.format.dim;
    const uint64_t stride = uint64_t(a.n_heads) * (dim + 2);
    const float* parts = a.parts + uint64_t(r) * a.n_splits * stride + uint64_t(head) * (dim + 2);
    float largest = a.sinks[head];
    for (uint32_t s = 0; s < a.n_splits; s++) largest = fmaxf(largest, parts[s * stride + dim]);
    float weight = expf(a.sinks[head] - largest);
    for (uint32_t s = 0; s < a.n_splits; s++) {
        weight += parts[s * stride + dim + 1] * expf(parts[s * stride + dim] - largest);
    }
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t s = 0; s < a.n_splits; s++) {
            sum += parts[s * stride + i] * expf(parts[s * stride + dim] - largest);
        }
        a.out[(uint64_t(r) * a.n_heads + head) * dim + i] = sum / weight;
    }
}
