//! The memory plan: what goes where, what is left, and how long a context may become.

use model::Config;
use serde::Serialize;

use super::kv::{self, RowFormat};
use crate::machine::Machine;

/// What a model needs: estimated from the configuration, or as an engine plans it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of a sequence whatever its length.
    pub kv_fixed: u64,
    /// Bytes that each token of context adds.
    pub kv_per_token: f64,
    /// Bytes of scratch, whatever the context.
    pub scratch: u64,
    /// Longest context the model was made for, in tokens.
    pub context_max: u64,
}

/// What a machine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Bytes of memory that weights and context may come from.
    pub memory: u64,
    /// Bytes of it that are left to the system and to other programs.
    pub reserved: u64,
}

/// Needs held against a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// What the model needs.
    pub needs: Needs,
    /// What the machine gives.
    pub budget: Budget,
    /// Context planned for, in tokens.
    pub context: u64,
    /// Bytes of KV at that context.
    pub kv: u64,
    /// Bytes of everything at that context.
    pub total: u64,
    /// Longest context that fits, in tokens; 0 if not even the weights fit.
    pub context_ceiling: u64,
}

/// Rows of a prefill chunk that scratch is sized for.
pub const CHUNK_ROWS: u64 = 512;

impl Needs {
    /// The needs of a model whose weights take `weights` bytes.
    pub fn of(c: &Config, weights: u64, format: RowFormat) -> Self {
        Self {
            weights,
            kv_fixed: kv::fixed(c, format),
            kv_per_token: kv::per_token(c, format),
            scratch: scratch(c),
            context_max: c.context_max as u64,
        }
    }

    /// The needs that an engine's own plan for `context` tokens states.
    pub fn of_engine(c: &Config, plan: &engine::MemoryPlan, context: u64) -> Self {
        let mut needs = Self {
            weights: 0,
            kv_fixed: 0,
            kv_per_token: 0.0,
            scratch: 0,
            context_max: c.context_max as u64,
        };
        for line in &plan.lines {
            match line.label {
                "weights" => needs.weights += line.bytes,
                "KV pages" => needs.kv_per_token += line.bytes as f64 / context as f64,
                "KV windows and open rows" => needs.kv_fixed += line.bytes,
                _ => needs.scratch += line.bytes,
            }
        }
        needs
    }

    fn kv(&self, context: u64) -> u64 {
        self.kv_fixed + (self.kv_per_token * context as f64).ceil() as u64
    }

    /// Bytes of everything at a context.
    pub fn total(&self, context: u64) -> u64 {
        self.weights + self.scratch + self.kv(context)
    }

    /// The longest context that `available` bytes hold; 0 if none.
    pub fn ceiling(&self, available: u64) -> u64 {
        let fixed = self.weights + self.scratch + self.kv_fixed;
        match available.checked_sub(fixed) {
            None | Some(0) => 0,
            Some(_) if self.kv_per_token <= 0.0 => self.context_max,
            Some(left) => ((left as f64 / self.kv_per_token) as u64).min(self.context_max),
        }
    }
}

impl Budget {
    /// All of `memory` but the system's share.
    pub fn dedicated(memory: u64) -> Self {
        Self { memory, reserved: system_share(memory) }
    }

    /// The main memory of a machine: what the system and, with unified memory, the limit on the
    /// GPU's share leave.
    pub fn of_machine(machine: &Machine) -> Self {
        let mut budget = Self::dedicated(machine.memory.usable());
        if let Some(limit) = machine.memory.gpu_wired_limit {
            budget.reserved = budget.reserved.max(budget.memory.saturating_sub(limit));
        }
        budget
    }

    /// The memory of an accelerator, less what its driver and contexts take.
    pub fn of_gpu(memory: u64) -> Self {
        Self { memory, reserved: (1 << 30).min(memory / 4) + memory / 100 }
    }

    /// Bytes for the model.
    pub fn available(&self) -> u64 {
        self.memory.saturating_sub(self.reserved)
    }
}

impl MemoryPlan {
    /// Plans for `context` tokens, or for as many as fit; where nothing fits, for a working
    /// session's, so that the plan shows what is missing.
    pub fn new(needs: Needs, budget: Budget, context: Option<u64>) -> Self {
        let context_ceiling = needs.ceiling(budget.available());
        let modest = needs.context_max.min(32_768);
        let fitting = if context_ceiling > 0 { context_ceiling } else { modest };
        let context = context.unwrap_or(fitting);
        let (kv, total) = (needs.kv(context), needs.total(context));
        Self { needs, budget, context, kv, total, context_ceiling }
    }

    /// Whether the planned context fits. A model that does not fit at all has a ceiling of 0
    /// and never fits.
    pub fn fits(&self) -> bool {
        self.context_ceiling > 0 && self.total <= self.budget.available()
    }

    /// Bytes missing for the planned context; 0 if it fits.
    pub fn missing(&self) -> u64 {
        self.total.saturating_sub(self.budget.available())
    }
}

/// What a machine that does nothing else still needs for itself: a fixed part for the system,
/// and a share that grows with the memory, for page tables, buffers and caches. Small machines
/// get by with a quarter.
pub fn system_share(memory: u64) -> u64 {
    ((5 << 30) + memory / 100 * 8).min(memory / 4)
}

/// Activations of a prefill chunk in 32-bit floats: the streams twice, queries and attention
/// output, the expert inputs and outputs of every choice, and the indexer's queries.
fn scratch(c: &Config) -> u64 {
    let streams = 2 * c.streams_len();
    let attention = 2 * c.n_heads * c.head_dim + c.n_out_groups * c.out_lora_rank + c.q_lora_rank;
    let experts = c.n_experts_used * (2 * c.expert_inner + c.hidden) + 2 * c.expert_inner;
    let indexer = c.indexer.n_heads * c.indexer.head_dim + 2 * c.indexer.top_k;
    let row = streams + attention + experts + indexer + 4 * c.hidden + c.n_experts;
    // Logits are needed for a chunk's last row only.
    4 * (CHUNK_ROWS * row as u64 + c.n_vocab as u64)
}

#[cfg(test)]
mod tests {
    use backend::reference::Reference;
    use model::Preset;

    use super::*;

    fn needs() -> Needs {
        Needs::of(&Preset::Flash.config(), 86_700_000_000, RowFormat::Model)
    }

    #[test]
    fn the_engines_own_plan_agrees_with_the_specification() {
        let config = Preset::Flash.config();
        let context = config.context_max;
        let options = engine::Options::single(context, CHUNK_ROWS as usize);
        let plan = engine::MemoryPlan::new(&Reference::new(), &config, &options, 7);
        let (own, exact) = (needs(), Needs::of_engine(&config, &plan, context as u64));
        assert_eq!(exact.weights, 7);
        assert!((exact.kv_per_token / own.kv_per_token - 1.0).abs() < 0.01, "{exact:?}");
        assert!(exact.kv_fixed.abs_diff(own.kv_fixed) < own.kv_fixed / 5, "{exact:?} {own:?}");
        let planned = 7 + exact.scratch + exact.kv(context as u64);
        assert!(planned.abs_diff(plan.total()) <= 1, "{planned}, not {}", plan.total());
    }

    #[test]
    fn the_ceiling_is_the_last_context_that_fits() {
        let needs = needs();
        let budget = Budget { memory: 90 << 30, reserved: 8 << 30 };
        let plan = MemoryPlan::new(needs.clone(), budget, None);
        assert!(plan.context_ceiling > 0 && plan.context_ceiling < needs.context_max);
        assert!(plan.fits(), "{plan:?}");
        let more = MemoryPlan::new(needs, budget, Some(plan.context_ceiling + 2));
        assert!(!more.fits() && more.missing() > 0, "{more:?}");
    }

    #[test]
    fn contexts_end_at_the_models_own_limit() {
        let plan = MemoryPlan::new(needs(), Budget::dedicated(512 << 30), None);
        assert_eq!(plan.context_ceiling, 1 << 20);
    }

    #[test]
    fn weights_that_do_not_fit_leave_no_context() {
        let plan = MemoryPlan::new(needs(), Budget::dedicated(64 << 30), Some(4096));
        assert_eq!(plan.context_ceiling, 0);
        assert!(!plan.fits());
        assert_eq!(plan.missing(), plan.total - plan.budget.available());
    }
}
