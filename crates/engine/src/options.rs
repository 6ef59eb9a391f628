//! How an engine is sized. There is no default: every value changes results, memory or speed.

use backend::{KvLayout, Limits, PAGE_TOKENS, RowFormat, Shape};
use model::Config;

use crate::error::{Error, Result};

/// Sizes of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sequences held at once.
    pub n_slots: usize,
    /// Largest context of a sequence, in tokens.
    pub context: usize,
    /// Tokens whose pages the pool holds, over all sequences and the cache.
    pub pool_tokens: usize,
    /// Rows of the largest step; the largest prefill chunk.
    pub step_rows: usize,
    /// Rows of a step that may want logits.
    pub logit_rows: usize,
    /// How KV rows are held; also decides the numerics.
    pub rows: RowFormat,
    /// Whether the MTP block is loaded and kept up to date for drafting.
    pub draft: bool,
    /// Bytes of anchors kept in host memory.
    pub anchor_bytes: usize,
}

impl Options {
    /// One sequence, for commands that run a single conversation.
    pub fn single(context: usize, step_rows: usize) -> Self {
        Self {
            n_slots: 1,
            context,
            pool_tokens: context,
            step_rows: step_rows.min(context).max(1),
            logit_rows: 1,
            rows: RowFormat::Model,
            draft: false,
            anchor_bytes: 256 << 20,
        }
    }

    /// Checks the ranges against a model.
    ///
    /// # Errors
    /// The option, its range and the value.
    pub fn check(&self, config: &Config) -> Result<()> {
        let range = |option, value: usize, min: usize, max: usize| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            let expected = format!("{min} to {max}");
            Err(Error::Option { option, expected, found: value.to_string() })
        };
        range("slots", self.n_slots, 1, 4096)?;
        range("context", self.context, 1, config.context_max)?;
        range("chunk", self.step_rows, 1, 65_536)?;
        range("logit rows", self.logit_rows, 1, self.step_rows)?;
        range("pool tokens", self.pool_tokens, self.context, usize::MAX / (1 << 24))
    }

    /// Pages of the pool: what the tokens need, and a partial page for every slot.
    pub fn n_pages(&self) -> usize {
        self.pool_tokens.div_ceil(PAGE_TOKENS) + self.n_slots
    }

    /// Entries of a slot's page table.
    pub fn pages_per_slot(&self) -> usize {
        self.context.div_ceil(PAGE_TOKENS)
    }

    /// What a backend is prepared for.
    pub fn shape(&self, config: &Config) -> Shape {
        Shape {
            config: config.clone(),
            format: self.rows,
            limits: Limits {
                step_rows: self.step_rows,
                logit_rows: self.logit_rows,
                n_slots: self.n_slots,
                context: self.context,
            },
        }
    }

    /// The KV store.
    pub fn kv_layout(&self, config: &Config) -> KvLayout {
        KvLayout::new(config, self.rows, self.n_slots, self.n_pages(), self.step_rows, self.draft)
    }
}
