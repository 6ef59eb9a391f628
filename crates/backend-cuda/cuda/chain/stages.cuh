// What a chain is given, and how a warp finds its slots of weights.
//
// A chain is one kernel that does what a row needs between two kernels of attention: products, and the
// small operations between them, in stages. Its blocks stay, one on each multiprocessor, and meet after
// every stage; their rings of weights live through all of it, so that memory has something to do while
// blocks meet, norm and choose. A warp fetches slots in the order in which it will use them: of the
// present stage, then of the next product's. Only experts must be chosen first.
#pragma once
#include "matmul/experts.cuh"
#include "matmul/gemv.cuh"
#include "matmul/ring.cuh"
#include "route.cuh"
#include "site_few.cuh"

#define CHAIN_WARPS 16
#define CHAIN_DEPTH 2
#define MAX_STAGES 16
#define CHAIN_WORDS 600
// Matrices of a chain, slots of a unit, and bytes of the activations of a product that a block keeps.
#define MAX_MATRICES 24
#define MAX_UNIT_SLOTS 32
#define ACTS_BYTES 40960

// What a stage does. Products come last.
#define STAGE_EXPAND 0
#define STAGE_COLLAPSE 1
#define STAGE_ROUTER 2
#define STAGE_GEMV 3
#define STAGE_UP 4
#define STAGE_DOWN 5

struct Stage {
    // Its arguments begin at word `at`.
    uint32_t kind, at;
    // Of a product: units of work, which of the chain's matrices are its own, and how many.
    uint32_t n_units, first_matrix, n_matrices;
    // Of STAGE_UP: the choice of experts is part of it.
    uint32_t chooses;
};

struct ChainArgs {
    Stage stages[MAX_STAGES];
    uint64_t words[CHAIN_WORDS];
    const uint32_t* grid;
    // Blocks that have come to meetings, and that are done: zeros before and after.
    uint32_t* counters;
    // The stages to do: all, but one at a time on the emulator.
    uint32_t first, last;

    template <class T>
    MEMBER const T& at(uint32_t stage, uint32_t bytes = 0) const {
        return *reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(words + stages[stage].at) + bytes);
    }
};

// How the activations of a product come into shared memory: as records that are there, or as values that
// every block rounds for itself, normed before if there are weights for that.
struct Take {
    const float *x, *norm;
    const uint8_t *from_32, *from_256;
    // The chunks of 256 columns that become records of each kind, and the records' place.
    uint32_t first_32, n_32, at_32, first_256, n_256, at_256;
    uint32_t cols;
    float eps;
};

// The arguments of products follow their Take.
DEVICE const GemvJob* jobs_of(const ChainArgs& a, uint32_t stage) { return &a.at<GemvJob>(stage, sizeof(Take)); }
DEVICE const UpArgs& up_of(const ChainArgs& a, uint32_t stage) { return a.at<UpArgs>(stage, sizeof(Take)); }
DEVICE const RouteArgs& route_of(const ChainArgs& a, uint32_t stage) {
    return a.at<RouteArgs>(stage, sizeof(Take) + sizeof(UpArgs));
}
DEVICE const DownArgs& down_of(const ChainArgs& a, uint32_t stage) { return a.at<DownArgs>(stage, sizeof(Take)); }

// Addresses below this are places among the activations in shared memory.
#define NEAR_BYTES (1u << 20)

// A matrix as those who fetch its slots need it.
struct Source {
    const uint8_t* w;
    // Slots of a panel; bytes of a slot, of a panel, of a panel's last slot. Of plain values, whose rows make
    // whole panels: 0, bytes of a row, unused.
    uint32_t n, slot_bytes, panel_bytes, last_bytes;
    // Panels of a unit, and units of a group of rows.
    uint32_t panels, group_units;

    MEMBER void of(const Matrix& m, uint32_t group_panels) {
        Slots s;
        s.of(m);
        w = s.w;
        n = s.n;
        slot_bytes = s.slot_bytes;
        panel_bytes = s.slot_bytes == 0 ? s.row_bytes : s.panel_bytes;
        last_bytes = s.last_bytes;
        panels = n > 0 && n < CHAIN_WARPS ? CHAIN_WARPS / n : 1;
        group_units = (group_panels + panels - 1) / panels;
    }
};

// Shared memory of a block.
struct Room {
    uint8_t* slots;
    uint64_t* barriers;
    Source* sources;
    uint8_t* acts;
    // Two units' sums: [slot][16 rows].
    float* sums;
    uint32_t *levels, *ids;
    float *weights, *part;
    // Scores of experts, and what they are chosen by.
    Candidate* candidates;

    MEMBER Room(uint8_t* shared) {
        slots = shared;
        barriers = reinterpret_cast<uint64_t*>(slots + CHAIN_WARPS * CHAIN_DEPTH * SLOT_BYTES);
        sources = reinterpret_cast<Source*>(barriers + CHAIN_WARPS * CHAIN_DEPTH);
        acts = reinterpret_cast<uint8_t*>(sources + MAX_MATRICES);
        sums = reinterpret_cast<float*>(acts + ACTS_BYTES);
        levels = reinterpret_cast<uint32_t*>(sums + 2 * MAX_UNIT_SLOTS * CHUNK_ROWS);
        ids = levels + 256;
        weights = reinterpret_cast<float*>(ids + MAX_USED);
        part = weights + MAX_USED;
        candidates = reinterpret_cast<Candidate*>(acts);
    }
};

// Which expert of a row slot `at` of a sum is of, and which of its slots it is; MAX_USED: the shared one.
struct Term {
    uint32_t expert, slot;

    MEMBER Term(const Source* sources, uint32_t at) {
        const uint32_t common = sources[1].n, n = sources[0].n;
        const uint32_t in_terms = at < common ? 0 : at - common;
        expert = at < common ? MAX_USED : in_terms / n;
        slot = at < common ? at : in_terms - expert * n;
    }
};

// Units that a warp looks at together, with two slots each.
#define BATCH 16
// Slots of STAGE_UP that do not wait for the choice of experts, those that do, and all slots.
#define PART_SHARED 0
#define PART_ROUTED 1
#define PART_ALL 2

// One of a warp's slots. Lane 2 j + k works out slot k of unit j of a batch, so that a warp knows 32 slots
// at once.
struct Place {
    bool exists;
    // Which of the chain's matrices it is of; its panel, and its number there; its place in the unit's sums.
    uint32_t matrix, panel, slot, sum;
    // Of STAGE_GEMV the job and the slice of x, of STAGE_UP the bank and the pair, of STAGE_DOWN the expert.
    uint32_t job, part;

    MEMBER Place(const ChainArgs& a, const Room& room, uint32_t stage, uint32_t batch, uint32_t which) {
        const Stage& s = a.stages[stage];
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, later = lane % 2;
        const uint32_t unit = blockIdx.x + (batch * BATCH + lane / 2) * gridDim.x;
        const Source* sources = room.sources + s.first_matrix;
        exists = unit < s.n_units;
        matrix = panel = slot = sum = job = part = 0;
        if (!exists) return;
        if (s.kind == STAGE_GEMV) {
            gemv(jobs_of(a, stage), s.n_matrices, sources, unit, warp, later);
        } else if (s.kind == STAGE_UP) {
            up(up_of(a, stage), sources, unit, warp, later, which);
        } else {
            panel = unit;
            sum = warp + CHAIN_WARPS * later;
            exists = sum < sources[1].n + down_of(a, stage).used * sources[0].n;
            const Term term(sources, sum);
            slot = term.slot;
            part = term.expert;
            matrix = part == MAX_USED ? 1 : 0;
        }
        matrix += s.first_matrix;
    }

    MEMBER void gemv(const GemvJob* jobs, uint32_t n_jobs, const Source* sources, uint32_t unit, uint32_t warp,
                     uint32_t later) {
        while (job + 1 < n_jobs && unit >= jobs[job + 1].first_unit) job++;
        const GemvJob& j = jobs[job];
        const Source& s = sources[job];
        const uint32_t in_job = unit - j.first_unit, group_rows = j.groups > 1 ? j.m.rows / j.groups : j.m.rows;
        part = j.groups > 1 ? in_job / s.group_units : 0;
        const uint32_t first_row = (j.first_group + part) * group_rows;
        const uint32_t own = s.panels > 1 ? warp / s.n : 0;
        slot = s.panels > 1 ? warp % s.n : warp + CHAIN_WARPS * later;
        panel = first_row / CHUNK_ROWS + (in_job - part * s.group_units) * s.panels + own;
        sum = own * s.n + slot;
        matrix = job;
        exists = own < s.panels && slot < s.n && (later == 0 || s.panels == 1)
            && panel * CHUNK_ROWS < first_row + group_rows;
    }

    // The pairs of the shared expert come first; the first half of the warps has the gate.
    MEMBER void up(const UpArgs& up, const Source* sources, uint32_t unit, uint32_t warp, uint32_t later,
                   uint32_t which) {
        const uint32_t half = CHAIN_WARPS / 2, panels = (up.banks[0].gate.rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        part = unit / panels;
        panel = unit - part * panels;
        job = part < up.banks[1].n_pairs ? 1 : 0;
        if (job == 0) part -= up.banks[1].n_pairs;
        matrix = 2 * job + warp / half;
        slot = warp % half + half * later;
        sum = warp / half * sources[2 * job].n + slot;
        exists = slot < sources[matrix].n && (which == PART_ALL || which == (job == 1 ? PART_SHARED : PART_ROUTED));
    }
};
