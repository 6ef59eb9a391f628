//! Library functions behind the commands: inspect, synth, bench, plan, doctor.

pub mod bandwidth;
pub mod bench;
pub mod disk;
pub mod doctor;
pub mod inspect;
pub mod layout;
pub mod machine;
pub mod plan;
pub mod recipe;
pub mod roofline;
pub mod synth;

pub use layout::TensorSpec;
pub use recipe::Recipe;
