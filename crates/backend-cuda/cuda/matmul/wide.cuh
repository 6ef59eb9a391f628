// A block's part of a product with many rows of activations on sm_90: 16 panels of weights times N
// activation rows, by two warpgroups.
//
// A warp of a warpgroup has a panel in each of two tiles of results. The weights of a chunk become f16 in
// its registers, which it copies for itself; activations are f16 rows in shared memory (round.cu), 64 columns a stage. Additions are
// in ascending order of columns, whatever the other rows are.
#pragma once
#include "wgmma.cuh"
#include "halves.cuh"

#define WIDE_PANELS 16
#define WIDE_THREADS 256
#define WIDE_WEIGHT_STAGES 2

#if WGMMA

// Where a block's operands come from.
struct WideOperands {
    // The matrices of a warp's panels 0 and 1, and these panels: `first[p] + group_panels * group + warp of
    // the group`, but none behind the last.
    const uint8_t* weights[2];
    uint32_t first[2], group_panels, last;
    // Activations of the block's first row; bytes from one 64 columns to the next.
    const uint8_t* x;
    uint64_t x_step;
    uint32_t chunks;
};

template <class F, int N, int X_STAGES>
struct Wide {
    enum {
        // What a warp has in one stage of weights.
        OWN = 2 * F::CHUNK,
        WEIGHTS = 8 * OWN,
        X = 128 * N,
        SHARED_BYTES = X_STAGES * X + WIDE_WEIGHT_STAGES * WEIGHTS + 1024,
        // A stage is filled again so many stages after its use: the slower warpgroup is done with it.
        LAG = 2,
    };
    struct Barriers {
        Barrier x_full[X_STAGES], x_empty[X_STAGES];
        Barrier weights[8][WIDE_WEIGHT_STAGES];
    };

    float acc[2][N / 2];

    static MEMBER void init(Barriers& b) {
        if (threadIdx.x == 0) {
            for (int i = 0; i < X_STAGES; i++) {
                barrier_init(&b.x_full[i], 1);
                barrier_init(&b.x_empty[i], 8);
            }
            for (int i = 0; i < 8 * WIDE_WEIGHT_STAGES; i++) {
                barrier_init(&b.weights[i / WIDE_WEIGHT_STAGES][i % WIDE_WEIGHT_STAGES], 1);
            }
            barriers_ready();
        }
        __syncthreads();
    }

    // The warp's weights of a chunk, by one lane.
    static MEMBER void copy_weights(const WideOperands& in, Barrier* full, uint8_t* to, uint32_t chunk) {
        const uint32_t warp = threadIdx.x / 32;
        barrier_expect(full, OWN);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t panel = min(in.first[p] + warp / 4 * in.group_panels + warp % 4, in.last);
            copy_bulk(to + p * F::CHUNK, in.weights[p] + (uint64_t(panel) * in.chunks + chunk) * F::CHUNK,
                      F::CHUNK, full);
        }
    }

    // The block's activations of a step, by one thread.
    static MEMBER void copy_x(const WideOperands& in, Barriers& b, uint8_t* x, uint32_t step) {
        Barrier* full = &b.x_full[step % X_STAGES];
        barrier_expect(full, X);
        copy_bulk(x + step % X_STAGES * X, in.x + step * in.x_step, X, full);
    }

    template <int P, int PAIR>
    MEMBER void panel(Steps (&a)[2], const uint8_t* chunk, const uint32_t* grid, RightTile right) {
        Halves<F>::template pair<PAIR>(a, chunk, threadIdx.x % 32, grid);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++) wgmma<N>(acc[P], a[i / 2][i % 2], right_step(right, i));
        wgmma_commit();
    }

    template <int PAIR>
    MEMBER void pair(Steps (&a)[2][2], const WideOperands& in, const uint8_t* chunk, const uint32_t* grid,
                     Barriers& b, uint8_t* x, uint32_t step) {
        barrier_wait(&b.x_full[step % X_STAGES], step / X_STAGES % 2);
        const RightTile right = right_tile(x + step % X_STAGES * X);
        panel<0, PAIR>(a[0], chunk, grid, right);
        // The products of the second panel's last registers are done, and with them a stage.
        wgmma_wait<1>();
        if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(&b.x_empty[(step - 1) % X_STAGES]);
        if (threadIdx.x == 0 && step >= LAG && step - LAG + X_STAGES < 4 * in.chunks) {
            const uint32_t used = step - LAG;
            barrier_wait(&b.x_empty[used % X_STAGES], used / X_STAGES % 2);
            copy_x(in, b, x, used + X_STAGES);
        }
        __syncwarp();
        panel<1, PAIR>(a[1], chunk + F::CHUNK, grid, right);
        wgmma_wait<1>();
    }

    // All of it.
    MEMBER void run(const WideOperands& in, uint8_t* shared, const uint32_t* grid) {
        SHARED Barriers b;
        const uint32_t warp = threadIdx.x / 32;
        uint8_t* const x = aligned(shared);
        uint8_t* const weights = x + X_STAGES * X + warp * OWN;
        init(b);
        if (threadIdx.x == 0) {
            for (uint32_t i = 0; i < X_STAGES && i < 4 * in.chunks; i++) copy_x(in, b, x, i);
        }
        if (threadIdx.x % 32 == 0) {
            for (uint32_t i = 0; i < WIDE_WEIGHT_STAGES && i < in.chunks; i++) {
                copy_weights(in, &b.weights[warp][i], weights + i * WEIGHTS, i);
            }
        }
        __syncwarp();
        Steps a[2][2];
#pragma unroll
        for (int i = 0; i < N; i++) acc[i / (N / 2)][i % (N / 2)] = 0;
        wgmma_hold(acc[0]);
        wgmma_hold(acc[1]);
        wgmma_fence();
        for (uint32_t chunk = 0; chunk < in.chunks; chunk++) {
            const uint32_t w = chunk % WIDE_WEIGHT_STAGES;
            barrier_wait(&b.weights[warp][w], chunk / WIDE_WEIGHT_STAGES % 2);
            const uint8_t* own = weights + w * WEIGHTS;
            pair<0>(a, in, own, grid, b, x, 4 * chunk);
            pair<1>(a, in, own, grid, b, x, 4 * chunk + 1);
            pair<2>(a, in, own, grid, b, x, 4 * chunk + 2);
            pair<3>(a, in, own, grid, b, x, 4 * chunk + 3);
            __syncwarp();
            if (threadIdx.x % 32 == 0 && chunk + WIDE_WEIGHT_STAGES < in.chunks) {
                copy_weights(in, &b.weights[warp][w], weights + w * WEIGHTS, chunk + WIDE_WEIGHT_STAGES);
            }
        }
        wgmma_wait<0>();
        wgmma_hold(acc[0]);
        wgmma_hold(acc[1]);
    }

    // Rows of eight times 128 bytes begin at multiples of that.
    static MEMBER uint8_t* aligned(uint8_t* p) {
#ifdef KEID_EMULATE
        return p;
#else
        return p + (0u - shared_place(p)) % 1024;
#endif
    }
};

// The same for tiles of more activations: a warp has one panel, of the first matrix in the first warpgroup
// and of the second in the other.
template <class F, int N, int X_STAGES>
struct Broad {
    enum {
        WEIGHTS = 8 * F::CHUNK,
        X = 128 * N,
        LAG = 2,
    };
    struct Barriers {
        Barrier x_full[X_STAGES], x_empty[X_STAGES];
        Barrier weights[8][WIDE_WEIGHT_STAGES];
    };

    float acc[N / 2];

    static MEMBER void copy_weights(const uint8_t* panel, Barrier* full, uint8_t* to, uint32_t chunk) {
        barrier_expect(full, F::CHUNK);
        copy_bulk(to, panel + uint64_t(chunk) * F::CHUNK, F::CHUNK, full);
    }

    static MEMBER void copy_x(const WideOperands& in, Barriers& b, uint8_t* x, uint32_t step) {
        Barrier* full = &b.x_full[step % X_STAGES];
        barrier_expect(full, X);
        copy_bulk(x + step % X_STAGES * X, in.x + step * in.x_step, X, full);
    }

    template <int PAIR>
    MEMBER void pair(Steps (&a)[2], const WideOperands& in, const uint8_t* chunk, const uint32_t* grid,
                     Barriers& b, uint8_t* x, uint32_t step) {
        const uint32_t s = step % X_STAGES;
        Halves<F>::template pair<PAIR>(a, chunk, threadIdx.x % 32, grid);
        barrier_wait(&b.x_full[s], step / X_STAGES % 2);
        const RightTile right = right_tile(x + s * X);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++) wgmma<N>(acc, a[i / 2][i % 2], right_step(right, i));
        wgmma_commit();
        // The products before are done: their registers are free, and their stage.
        wgmma_wait<1>();
        if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(&b.x_empty[(step - 1) % X_STAGES]);
        if (threadIdx.x == 0 && step >= LAG && step - LAG + X_STAGES < 4 * in.chunks) {
            const uint32_t used = step - LAG;
            barrier_wait(&b.x_empty[used % X_STAGES], used / X_STAGES % 2);
            copy_x(in, b, x, used + X_STAGES);
        }
        __syncwarp();
    }

    // All of it. `shared` begins at a multiple of 1024.
    MEMBER void run(const WideOperands& in, uint8_t* x, const uint32_t* grid) {
        SHARED Barriers b;
        const uint32_t warp = threadIdx.x / 32, p = warp / 4;
        uint8_t* const weights = x + X_STAGES * X + warp * F::CHUNK;
        if (threadIdx.x == 0) {
            for (int i = 0; i < X_STAGES; i++) {
                barrier_init(&b.x_full[i], 1);
                barrier_init(&b.x_empty[i], 8);
            }
            for (int i = 0; i < 8 * WIDE_WEIGHT_STAGES; i++) {
                barrier_init(&b.weights[i / WIDE_WEIGHT_STAGES][i % WIDE_WEIGHT_STAGES], 1);
            }
            barriers_ready();
        }
        __syncthreads();
        const uint32_t at = min((p == 0 ? in.first[0] : in.first[1]) + warp % 4, in.last);
        const uint8_t* panel =
            (p == 0 ? in.weights[0] : in.weights[1]) + uint64_t(at) * in.chunks * F::CHUNK;
        if (threadIdx.x == 0) {
            for (uint32_t i = 0; i < X_STAGES && i < 4 * in.chunks; i++) copy_x(in, b, x, i);
        }
        if (threadIdx.x % 32 == 0) {
            for (uint32_t i = 0; i < WIDE_WEIGHT_STAGES && i < in.chunks; i++) {
                copy_weights(panel, &b.weights[warp][i], weights + i * WEIGHTS, i);
            }
        }
        __syncwarp();
        Steps a[2][2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[i] = 0;
        wgmma_hold(acc);
        wgmma_fence();
        for (uint32_t chunk = 0; chunk < in.chunks; chunk++) {
            const uint32_t w = chunk % WIDE_WEIGHT_STAGES;
            barrier_wait(&b.weights[warp][w], chunk / WIDE_WEIGHT_STAGES % 2);
            const uint8_t* own = weights + w * WEIGHTS;
            pair<0>(a[0], in, own, grid, b, x, 4 * chunk);
            pair<1>(a[1], in, own, grid, b, x, 4 * chunk + 1);
            pair<2>(a[0], in, own, grid, b, x, 4 * chunk + 2);
            pair<3>(a[1], in, own, grid, b, x, 4 * chunk + 3);
            if (threadIdx.x % 32 == 0 && chunk + WIDE_WEIGHT_STAGES < in.chunks) {
                copy_weights(panel, &b.weights[warp][w], weights + w * WEIGHTS, chunk + WIDE_WEIGHT_STAGES);
            }
        }
        wgmma_wait<0>();
        wgmma_hold(acc);
    }
};

#endif
