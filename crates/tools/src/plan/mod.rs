//! Planning without weights: memory, context, speed and cost, as arithmetic on the configuration
//! and on what a machine has.

pub mod cost;
pub mod kv;
pub mod memory;
pub mod plot;
pub mod speed;
pub mod tiers;

pub use kv::RowFormat;
pub use memory::{Budget, MemoryPlan, Needs};
pub use speed::{Rates, Speed, Work};
