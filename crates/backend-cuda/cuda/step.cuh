// The step in device memory, as src/step.rs lays it out: which rows, where they stand, and the page
// tables of their slots.
#pragma once
#include "common.cuh"

// Words before the tokens.
#define STEP_HEADER 8
// Words of a row.
#define STEP_ROW 12

struct StepRow {
    uint32_t pos, token, span, slot;
    uint32_t committed;       // positions of the slot that are committed before the step
    uint32_t first_row;       // of the span
    uint32_t n_rows;          // of the span
    uint32_t first_page;      // of the slot's page table
    uint32_t closed_csa;      // first staged row of the span at ratio 4
    uint32_t closed_hca;      // and at ratio 128
    uint32_t pad0, pad1;
};

// header | tokens [rows] | rows | first row of each span | logit rows | pages
struct StepView {
    const uint32_t* words;

    MEMBER uint32_t n_rows() const { return words[0]; }
    MEMBER uint32_t n_spans() const { return words[1]; }
    MEMBER uint32_t n_logits() const { return words[2]; }
    MEMBER const StepRow& row(uint32_t r) const {
        return reinterpret_cast<const StepRow*>(words + words[3])[r];
    }
    // Any row of the span: its first.
    MEMBER const StepRow& span(uint32_t s) const { return row(words[words[4] + s]); }
    MEMBER uint32_t logit_row(uint32_t i) const { return words[words[5] + i]; }
    MEMBER uint32_t page(const StepRow& r, uint32_t i) const {
        return words[words[6] + r.first_page + i];
    }
};
