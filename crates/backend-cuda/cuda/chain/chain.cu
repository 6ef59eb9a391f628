// Chains of one row (stages.cuh says what they are), on devices with the bulk copy engine and much shared
// memory.
#include "stages.cuh"

#define THREADS (32 * CHAIN_WARPS)
// Marks the bytes of a row of plain values.
#define ROWS 0x80000000u

// Where all blocks of a launch meet. Everything that a block has written before is seen by all after.
#ifdef KEID_EMULATE
// There one stage is a launch.
DEVICE void arrive(uint32_t*) {}
DEVICE void await_all(uint32_t*, uint32_t) {}
#else
DEVICE void arrive(uint32_t* counter) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    }
}
DEVICE void await_all(uint32_t* counter, uint32_t count) {
    if (threadIdx.x == 0) {
        uint32_t come;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(come) : "l"(counter) : "memory");
        } while (come < count);
        __threadfence();
    }
    __syncthreads();
}
#endif

template <uint32_t LAYOUTS>
struct Chain {
    const ChainArgs& a;
    Room room;
    Ring<CHAIN_DEPTH> ring;
    // What is fetched ahead: the stage, the part and the next batch of its units; the lanes whose slots of the
    // present batch are left; the lane's weights.
    uint32_t stage, which, batch, left, size;
    const uint8_t* from;
    // Whether the experts are chosen, and how many blocks have come when all have.
    bool known;
    uint32_t count;

    MEMBER Chain(const ChainArgs& args, uint8_t* shared)
        : a(args), room(shared), which(PART_ALL), batch(0), left(0), size(0), from(nullptr), known(false),
          count(0) {
        touch_arguments();
        ring.start(room.slots, room.barriers);
        if constexpr ((LAYOUTS & SET(LAYOUT_IQ2_XXS)) != 0) {
            for (uint32_t i = threadIdx.x; i < 256; i += THREADS) room.levels[i] = a.grid[i];
        }
        if (threadIdx.x < MAX_MATRICES) describe(threadIdx.x);
        __syncthreads();
        stage = a.first;
        while (stage < a.last && a.stages[stage].kind < STAGE_GEMV) stage++;
        if (stage < a.last && a.stages[stage].kind == STAGE_UP) which = PART_SHARED;
    }

    MEMBER void describe(uint32_t matrix) const {
        for (uint32_t s = a.first; s < a.last; s++) {
            const Stage& stage = a.stages[s];
            const uint32_t i = matrix - stage.first_matrix;
            if (stage.kind < STAGE_GEMV || i >= stage.n_matrices) continue;
            Source& to = room.sources[matrix];
            if (stage.kind == STAGE_GEMV) {
                const GemvJob& job = jobs_of(a, s)[i];
                to.of(job.m, job.group_panels);
            } else if (stage.kind == STAGE_UP) {
                const Bank& bank = up_of(a, s).banks[i / 2];
                to.of(i % 2 == 0 ? bank.gate : bank.up, 0);
            } else {
                const DownArgs& down = down_of(a, s);
                if (i == 0) to.of(down.down, 0);
                if (i == 1 && down.shared_x) to.of(down.shared_down, 0);
                if (i == 1 && !down.shared_x) to.n = 0;
            }
        }
    }

    MEMBER uint64_t skipped(uint32_t term, uint32_t n_experts, uint64_t expert_bytes) const {
        return min(room.ids[term], n_experts - 1) * expert_bytes;
    }

    // Where the weights of the lane's slot begin, and how many bytes they have; of plain values the bytes of a
    // row, and ROWS.
    MEMBER void source_of(const Place& p) {
        const Source& s = room.sources[p.matrix];
        uint64_t skip = 0;
        const uint32_t kind = a.stages[stage].kind;
        if (kind == STAGE_UP && p.job == 0) {
            const Bank& bank = up_of(a, stage).banks[0];
            const bool is_gate = p.matrix == a.stages[stage].first_matrix;
            skip = skipped(p.part, bank.n_experts, is_gate ? bank.gate.expert_bytes : bank.up.expert_bytes);
        } else if (kind == STAGE_DOWN && p.part != MAX_USED) {
            const DownArgs& down = down_of(a, stage);
            skip = skipped(p.part, down.n_experts, down.down.expert_bytes);
        }
        if (s.slot_bytes == 0) {
            from = s.w + skip + uint64_t(p.panel) * CHUNK_ROWS * s.panel_bytes + p.slot * SLOT_ROW;
            size = s.panel_bytes | ROWS;
        } else {
            from = s.w + skip + uint64_t(p.panel) * s.panel_bytes + p.slot * s.slot_bytes;
            size = p.slot + 1 == s.n ? s.last_bytes : s.slot_bytes;
        }
    }

    // The next batch of slots to fetch, of this product or the next. False: there is none, or its experts are
    // not chosen yet.
    MEMBER bool advance() {
        if (stage >= a.last) return false;
        const bool more = blockIdx.x + batch * BATCH * gridDim.x < a.stages[stage].n_units;
        if (!more) {
            if (which == PART_SHARED) {
                if (!known) return false;
                which = PART_ROUTED;
            } else {
                stage++;
                while (stage < a.last && a.stages[stage].kind < STAGE_GEMV) stage++;
                which = stage < a.last && a.stages[stage].kind == STAGE_UP ? PART_SHARED : PART_ALL;
            }
            batch = 0;
            return true;
        }
        if (!known && a.stages[stage].kind == STAGE_DOWN) return false;
        const Place place(a, room, stage, batch, which);
        if (place.exists) source_of(place);
        left = __ballot_sync(FULL_WARP, place.exists);
        batch++;
        return true;
    }

    MEMBER void fill() {
        while (!ring.full()) {
            if (left == 0) {
                if (!advance()) return;
                continue;
            }
            const int lane = __ffs(left) - 1;
            left &= left - 1;
            const uint8_t* start = reinterpret_cast<const uint8_t*>(
                __shfl_sync(FULL_WARP, reinterpret_cast<uint64_t>(from), lane));
            const uint32_t bytes = __shfl_sync(FULL_WARP, size, lane);
            if (bytes & ROWS) {
                ring.begin_rows(start, bytes & ~ROWS, CHUNK_ROWS, 0, 0);
            } else {
                ring.begin_at(start, bytes);
            }
        }
    }

    // The slots of a batch of units that the warp has to multiply.
    struct Batch {
        uint64_t x;
        uint32_t cols, row_bytes, what, exists;
    };

    // What lane's slot is multiplied with.
    MEMBER Batch batch_of(uint32_t of_stage, uint32_t number) const {
        const Place p(a, room, of_stage, number, PART_ALL);
        const uint32_t kind = a.stages[of_stage].kind;
        const Matrix* m = nullptr;
        const uint8_t* x = nullptr;
        Batch b = {0, 0, 0, 0, 0};
        if (p.exists) {
            if (kind == STAGE_GEMV) {
                const GemvJob& job = jobs_of(a, of_stage)[p.job];
                m = &job.m;
                x = job.x + uint64_t(p.part) * job.x_slice_bytes;
                b.row_bytes = job.x_row_bytes;
            } else if (kind == STAGE_UP) {
                const Bank& bank = up_of(a, of_stage).banks[p.job];
                const bool is_up = (p.matrix - a.stages[of_stage].first_matrix) % 2 == 1;
                m = is_up ? &bank.up : &bank.gate;
                x = is_up ? bank.up_x : bank.gate_x;
            } else {
                const DownArgs& down = down_of(a, of_stage);
                m = p.part == MAX_USED ? &down.shared_down : &down.down;
                x = p.part == MAX_USED ? down.shared_x : down.x + uint64_t(p.part) * down.row_bytes;
            }
            const uint64_t address = reinterpret_cast<uint64_t>(x);
            b.x = reinterpret_cast<uint64_t>(address < NEAR_BYTES ? room.acts + address : x);
            b.cols = m->cols;
            b.what = p.slot | p.sum << 8 | m->layout << 16;
        }
        b.exists = __ballot_sync(FULL_WARP, p.exists);
        return b;
    }

    // The products of the warp's slots of unit `unit` of a batch.
    MEMBER void multiply(const Batch& b, uint32_t unit, float* sums) {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
        for (uint32_t slots = b.exists >> 2 * unit & 3; slots != 0; slots &= slots - 1) {
            const int from_lane = 2 * unit + __ffs(slots) - 1;
            const uint32_t what = __shfl_sync(FULL_WARP, b.what, from_lane);
            Matrix m;
            m.layout = what >> 16;
            m.cols = __shfl_sync(FULL_WARP, b.cols, from_lane);
            const Input in = {reinterpret_cast<const uint8_t*>(__shfl_sync(FULL_WARP, b.x, from_lane)),
                              __shfl_sync(FULL_WARP, b.row_bytes, from_lane), 1};
            float acc[1][4] = {{0, 0, 0, 0}};
            add_slot<0, LAYOUTS, 1>(acc, ring.front(), m, in, what & 255, room.levels);
            ring.pop();
            fill();
            // Row 0 is the first column of the lanes that have one.
            float* to = sums + (what >> 8 & 255) * CHUNK_ROWS + lane / 4;
            if (lane % 4 == 0) to[0] = acc[0][0], to[8] = acc[0][2];
        }
    }

    // All units of a product. The sums of one are finished by one warp, in turn, while the others go on.
    MEMBER void product(uint32_t of_stage) {
        const uint32_t warp = threadIdx.x / 32, n_units = a.stages[of_stage].n_units;
        uint32_t number = 0;
        Batch b = {0, 0, 0, 0, 0};
#pragma unroll 1
        for (uint32_t unit = blockIdx.x; unit < n_units; unit += gridDim.x) {
            if (number % BATCH == 0) b = batch_of(of_stage, number / BATCH);
            float* sums = room.sums + number % 2 * MAX_UNIT_SLOTS * CHUNK_ROWS;
            multiply(b, number % BATCH, sums);
            __syncthreads();
            if (warp == number % CHAIN_WARPS) finish_unit(of_stage, unit, sums);
            number++;
        }
    }

    MEMBER void finish_unit(uint32_t of_stage, uint32_t unit, const float* sums) const {
        const uint32_t kind = a.stages[of_stage].kind;
        if (kind == STAGE_GEMV) finish_gemv(of_stage, unit, sums);
        if (kind == STAGE_UP) finish_up(of_stage, unit, sums);
        if (kind == STAGE_DOWN) finish_down(of_stage, unit, sums);
    }

    // Brings the activations of a product to shared memory.
    MEMBER void take(const Take& t) const {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        uint8_t *to_32 = room.acts + t.at_32, *to_256 = room.acts + t.at_256;
        if (t.x && t.norm) {
            take_normed(t, {t.n_32 ? to_32 : nullptr, t.n_256 ? to_256 : nullptr});
        } else if (t.x) {
            // Four chunks are on their way at once.
            const uint32_t chunks = t.cols / CHUNK_COLS;
            for (uint32_t first = warp; first < chunks; first += 4 * CHAIN_WARPS) {
                float4 v[4][2];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const uint32_t chunk = min(first + k * CHAIN_WARPS, chunks - 1);
                    const float4* start = reinterpret_cast<const float4*>(t.x + chunk * CHUNK_COLS + 8 * lane);
                    v[k][0] = start[0], v[k][1] = start[1];
                }
#pragma unroll 1
                for (int k = 0; k < 4; k++) {
                    const uint32_t chunk = first + k * CHAIN_WARPS;
                    if (chunk >= chunks) break;
                    const float4 low = k < 2 ? (k == 0 ? v[0][0] : v[1][0]) : (k == 2 ? v[2][0] : v[3][0]);
                    const float4 high = k < 2 ? (k == 0 ? v[0][1] : v[1][1]) : (k == 2 ? v[2][1] : v[3][1]);
                    const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    const uint32_t i_32 = chunk - t.first_32, i_256 = chunk - t.first_256;
                    round_chunk(eight, i_32 < t.n_32 ? to_32 + i_32 * ACT32_RECORD : nullptr,
                                i_256 < t.n_256 ? to_256 + i_256 * ACT256_RECORD : nullptr);
                }
            }
        } else {
            copy(to_32, t.from_32, t.n_32 * ACT32_RECORD);
            copy(to_256, t.from_256, t.n_256 * ACT256_RECORD);
        }
        __syncthreads();
    }

    MEMBER void copy(uint8_t* to, const uint8_t* from, uint32_t bytes) const {
        for (uint32_t i = 16 * threadIdx.x; i < bytes; i += 16 * THREADS) {
            *reinterpret_cast<uint4*>(to + i) = load16(from + i);
        }
    }

    MEMBER void take_normed(const Take& t, const Records& to) const {
        float sum = 0.0f;
        for (uint32_t i = threadIdx.x; i < t.cols; i += THREADS) sum += t.x[i] * t.x[i];
        const float scale = 1.0f / sqrtf(block_sum(sum, room.part) / float(t.cols) + t.eps);
        for (uint32_t first = 0; first < t.cols; first += THREADS) {
            const uint32_t i = first + threadIdx.x;
            to.put(i / 256, i < t.cols, i < t.cols ? t.norm[i] * (t.x[i] * scale) : 0.0f, room.part);
        }
    }

    MEMBER void finish_gemv(uint32_t of_stage, uint32_t unit, const float* sums) const {
        const GemvJob* jobs = jobs_of(a, of_stage);
        const Stage& own = a.stages[of_stage];
        uint32_t n = 0;
        while (n + 1 < own.n_matrices && unit >= jobs[n + 1].first_unit) n++;
        const GemvJob& job = jobs[n];
        const Source& s = room.sources[own.first_matrix + n];
        // Groups are whole panels.
        const uint32_t in_job = unit - job.first_unit;
        uint32_t group = 0, group_rows = job.m.rows;
        if (job.groups > 1) {
            group = in_job / s.group_units;
            group_rows = job.m.rows / job.groups;
        }
        const uint32_t first = (job.first_group + group) * group_rows;
        const uint32_t start = first + (in_job - group * s.group_units) * s.panels * CHUNK_ROWS;
        for (uint32_t i = threadIdx.x % 32; i < s.panels * CHUNK_ROWS; i += 32) {
            if (start + i >= first + group_rows) break;
            job.out[start + i] = total(sums + i / CHUNK_ROWS * s.n * CHUNK_ROWS + i % CHUNK_ROWS, 0, s.n);
        }
    }

    // The sum of a row of a unit over slots, in their order.
    MEMBER float total(const float* sums, uint32_t first, uint32_t end) const {
        float sum = 0.0f;
#pragma unroll 8
        for (uint32_t k = first; k < end; k++) sum += sums[k * CHUNK_ROWS];
        return sum;
    }

    // out = weight * silu(min(gate, clamp)) * clamp(up).
    MEMBER void finish_up(uint32_t of_stage, uint32_t unit, const float* sums) const {
        const UpArgs& up = up_of(a, of_stage);
        const Source* sources = room.sources + a.stages[of_stage].first_matrix;
        const uint32_t panels = (up.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        uint32_t pair = unit / panels;
        const uint32_t panel = unit - pair * panels;
        const bool is_shared = pair < up.banks[1].n_pairs;
        if (!is_shared) pair -= up.banks[1].n_pairs;
        const Bank& bank = up.banks[is_shared];
        // Lanes from 16 on have up's sums.
        const uint32_t lane = threadIdx.x % 32, row = panel * CHUNK_ROWS + lane % CHUNK_ROWS;
        const uint32_t n = sources[2 * is_shared].n, both = n + sources[2 * is_shared + 1].n;
        const bool is_up = lane >= CHUNK_ROWS;
        const float sum = total(sums + lane % CHUNK_ROWS, is_up ? n : 0, is_up ? both : n);
        const float other = __shfl_xor_sync(FULL_WARP, sum, CHUNK_ROWS);
        if (is_up || row >= bank.gate.rows) return;
        const float weight = is_shared ? 1.0f : pair_value(bank, room.ids[pair], room.weights[pair]);
        bank.out[uint64_t(pair) * bank.gate.rows + row] = weight * swiglu_value(sum, other, bank.clamp);
    }

    // The sum over the row's experts, in the order of their selection, and the shared one.
    MEMBER void finish_down(uint32_t of_stage, uint32_t panel, const float* sums) const {
        const DownArgs& down = down_of(a, of_stage);
        const Source* sources = room.sources + a.stages[of_stage].first_matrix;
        const uint32_t common = sources[1].n, all = common + down.used * sources[0].n;
        const uint32_t lane = threadIdx.x % 32, row = panel * CHUNK_ROWS + lane;
        if (lane >= CHUNK_ROWS || row >= down.down.rows) return;
        const float before = down.add ? down.out[row] : 0.0f;
        down.out[row] = before + total(sums + lane, common, all) + total(sums + lane, 0, common);
    }

    // The experts of the row, chosen before.
    MEMBER void know(uint32_t used, const uint32_t* ids, const float* weights) {
        if (threadIdx.x < used) {
            room.ids[threadIdx.x] = ids[threadIdx.x];
            if (weights) room.weights[threadIdx.x] = weights[threadIdx.x];
        }
        __syncthreads();
        known = true;
        fill();
    }

    // The choice of experts, by every block for itself: an expert's rank is how many are better.
    MEMBER void choose(const RouteArgs& r) {
        const uint32_t t = threadIdx.x;
        Candidate* all = room.candidates;
        for (uint32_t e = t; e < r.n_experts; e += THREADS) all[e] = candidate(r, 0, e);
        __syncthreads();
        if (r.table) {
            if (t < r.used) {
                const uint32_t id = r.table[uint64_t(r.step.row(0).token) * r.used + t];
                room.ids[t] = id;
                room.weights[t] = all[id].score;
            }
        } else {
            for (uint32_t e = t; e < r.n_experts; e += THREADS) {
                const uint32_t key = all[e].key;
                uint32_t rank = 0;
#pragma unroll 8
                for (uint32_t k = 0; k < r.n_experts; k++) {
                    const uint32_t other = all[k].key;
                    rank += other > key || (other == key && k < e);
                }
                if (rank < r.used) {
                    // Logits that are no numbers leave no candidate: any expert then, never a wild one.
                    const uint32_t id = key == 0 ? rank : e;
                    room.ids[rank] = id;
                    room.weights[rank] = all[id].score;
                }
            }
        }
        __syncthreads();
        float score = 0.0f, sum = 0.0f;
        if (t < 32) {
            if (t < r.used) score = room.weights[t];
            for (uint32_t k = 0; k < r.used; k++) sum += __shfl_sync(FULL_WARP, score, k);
            if (t < r.used) room.weights[t] = score / sum * r.scale;
        }
        known = true;
        fill();
        __syncthreads();
        if (blockIdx.x == 0 && t < r.used) {
            r.ids[t] = room.ids[t];
            r.weights[t] = room.weights[t];
        }
    }

    // What comes before the units of a product.
    MEMBER void prepare(uint32_t of_stage) {
        const Stage& own = a.stages[of_stage];
        if (own.kind == STAGE_UP && own.chooses) {
            choose(route_of(a, of_stage));
        } else if (own.kind == STAGE_UP) {
            const Bank& bank = up_of(a, of_stage).banks[0];
            know(bank.n_pairs, bank.ids, bank.weights);
        } else if (own.kind == STAGE_DOWN && !known) {
            know(down_of(a, of_stage).used, down_of(a, of_stage).ids, nullptr);
        }
        take(a.at<Take>(of_stage));
    }

    MEMBER void expand(const NextArgs& n) const {
        float(*part)[SITE_SLOTS] = reinterpret_cast<float(*)[SITE_SLOTS]>(room.acts);
        for (uint32_t chunk = blockIdx.x; chunk < n.n_chunks; chunk += gridDim.x) {
            Projection project;
            project.load(n, chunk);
            expand_sums(n, 0, chunk, project, part);
        }
    }

    // The last block writes the mixing values when the others need no longer wait for it.
    MEMBER void collapse(const NextArgs& n, uint32_t* counter) const {
        float* total = reinterpret_cast<float*>(room.acts);
        const uint32_t t = threadIdx.x, parts = (n.hidden + THREADS - 1) / THREADS;
        const bool mixes = n.mix && blockIdx.x + 1 == gridDim.x;
        if (blockIdx.x < parts || mixes) {
            const float scale = n.scale[0];
            float base[4];
#pragma unroll
            for (int s = 0; s < 4; s++) base[s] = n.base[s];
            add_site_sums<CHAIN_WARPS>(n, 0, total);
            __syncthreads();
            Collapse c;
            c.of(n, total, scale, base);
            for (uint32_t part = blockIdx.x; part < parts; part += gridDim.x) {
                const uint32_t i = part * THREADS + t;
                const float* streams = n.row(0) + i;
                const bool exists = i < n.hidden;
                float x[4];
#pragma unroll
                for (int s = 0; s < 4; s++) x[s] = exists ? streams[s * n.hidden] : 0.0f;
                collapse_channel(n, 0, i, x, exists ? n.norm[i] : 0.0f, c, total, room.part);
            }
            arrive(counter);
            if (mixes && t < 32) write_mix(n, 0, total, c.pre, c.inverse);
            return;
        }
        arrive(counter);
    }

    // The logits of two experts a block at a time.
    MEMBER void router(const RouterArgs& r) const {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, share = CHAIN_WARPS / 2;
        const uint32_t n = r.route.n_experts;
        for (uint32_t first = 2 * blockIdx.x; first < n; first += 2 * gridDim.x) {
            const uint32_t expert = first + warp / share;
            const uint64_t row = uint64_t(expert) * r.hidden;
            float sum = 0.0f;
            if (expert < n) sum = read_product(r, row, r.x, 8 * (lane + 32 * (warp % share)), 8 * 32 * share);
            sum = warp_sum(sum);
            if (lane == 0) room.part[warp] = sum;
            __syncthreads();
            if (lane == 0 && warp % share == 0 && expert < n) {
                float all = sum;
                for (uint32_t w = 1; w < share; w++) all += room.part[warp + w];
                const_cast<float*>(r.route.logits)[expert] = all;
            }
            __syncthreads();
        }
    }

    // Everything that a stage before the next product reads from memory comes to the second cache.
    MEMBER void fetch(uint32_t stage) const {
        const uint32_t t = threadIdx.x;
        if (stage >= a.last) return;
        const uint32_t kind = a.stages[stage].kind;
        if (kind == STAGE_EXPAND) {
            const NextArgs& n = a.at<NextArgs>(stage);
            const uint32_t n_projected = n.mix ? PROJECTED : HEAD_PROJECTED;
            const uint32_t size = n.project_type == FLOAT_F32 ? 4 : 2;
            const uint64_t at = uint64_t(t) * n.hidden + blockIdx.x * SITE_CHUNK;
            if (t < 4 * n_projected && blockIdx.x < n.n_chunks) {
                fetch_line(static_cast<const uint8_t*>(n.project) + at * size);
            }
            if (t < 4 && blockIdx.x < (n.hidden + THREADS - 1) / THREADS) {
                for (uint32_t i = t; i < THREADS / 32; i += 4) {
                    fetch_line(n.norm + min(blockIdx.x * THREADS + 32 * i, n.hidden - 1));
                }
            }
        } else if (kind == STAGE_ROUTER) {
            const RouterArgs& r = a.at<RouterArgs>(stage);
            const uint32_t bytes = 2 * r.hidden * (r.gate_type == FLOAT_F32 ? 4 : 2);
            const uint64_t first = uint64_t(blockIdx.x) * bytes;
            const uint64_t all = uint64_t(r.route.n_experts) * bytes / 2;
            for (uint32_t i = 128 * t; i < bytes && first + i < all; i += 128 * THREADS) {
                fetch_line(static_cast<const uint8_t*>(r.gate) + first + i);
            }
        }
    }

    // Kernel arguments come from far when they are read first; here all of them, while nothing else can be done.
    MEMBER void touch_arguments() const {
#ifndef KEID_EMULATE
        const uint32_t lines = sizeof(ChainArgs) / 64;
        uint32_t sum = 0;
        for (uint32_t line = threadIdx.x / 32; line < lines; line += CHAIN_WARPS) {
            sum += reinterpret_cast<const uint32_t*>(&a)[16 * line];
        }
        asm volatile("" ::"r"(sum));
#endif
    }

    MEMBER void run() {
        fill();
        await_previous();
        for (uint32_t s = a.first; s < a.last; s++) {
            const uint32_t kind = a.stages[s].kind;
            uint32_t* counter = a.counters;
            fetch(s + 1);
            if (kind == STAGE_EXPAND) expand(a.at<NextArgs>(s));
            if (kind == STAGE_COLLAPSE) collapse(a.at<NextArgs>(s), counter);
            if (kind == STAGE_ROUTER) router(a.at<RouterArgs>(s));
            if (kind >= STAGE_GEMV) {
                prepare(s);
                product(s);
            }
            if (s + 1 == a.last) break;
            if (kind != STAGE_COLLAPSE) arrive(counter);
            count += gridDim.x;
            await_all(counter, count);
        }
        finish();
    }

    // The block that is done last leaves the counters as they were.
    MEMBER void finish() const {
#ifndef KEID_EMULATE
        if (threadIdx.x != 0 || atomicAdd(a.counters + 1, 1u) + 1 != gridDim.x) return;
        a.counters[0] = 0;
        a.counters[1] = 0;
#endif
    }
};

#define CHAIN(name, LAYOUTS)                          \
    KERNEL_EARLY(THREADS, 1, chain_##name, ChainArgs) { \
        DYNAMIC_SHARED(uint8_t, shared);              \
        Chain<LAYOUTS> chain(a, shared);              \
        chain.run();                                  \
    }

#define DENSE (SET(LAYOUT_Q8_0) | SET(LAYOUT_F16))

CHAIN(q2, DENSE | SET(LAYOUT_IQ2_XXS) | SET(LAYOUT_Q2_K))
CHAIN(q4, DENSE | SET(LAYOUT_Q4_K))
CHAIN(mxfp4, DENSE | SET(LAYOUT_MXFP4))
