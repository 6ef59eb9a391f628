//! Speed from arithmetic: bytes over bandwidth, operations over rate.

use model::Config;
use serde::Serialize;

use super::kv::{self, RowFormat};
use crate::layout::TensorSpec;

/// Work of one token, from a list of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Work {
    /// Bytes of weights that decoding one token reads.
    pub bytes: u64,
    /// Of these, routed experts.
    pub expert_bytes: u64,
    /// Floating-point operations of the weights.
    pub flops: u64,
}

/// What a machine's data sheet, or a measurement, says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Read bandwidth of the memory that holds the weights, in GB/s.
    pub bandwidth: f64,
    /// Matrix arithmetic, in TFLOP/s; unknown for many machines.
    pub tflops: Option<f64>,
}

/// Tokens per second that a roofline allows at one context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Context in tokens.
    pub context: u64,
    /// Decode speed if every byte came at full bandwidth.
    pub decode_roof: f64,
    /// Decode speed at [`EXPECTED`] of it.
    pub decode: f64,
    /// Prefill speed at [`EXPECTED_PREFILL`] of the arithmetic rate.
    pub prefill: Option<f64>,
}

/// The share of the memory's bandwidth that decoding is expected to reach. Published engines
/// reach 50 to 90 % on unified memory.
pub const EXPECTED: f64 = 0.7;

/// The share of the peak arithmetic rate that prefill is expected to reach.
pub const EXPECTED_PREFILL: f64 = 0.35;

impl Work {
    /// Sums the work over a file's tensors.
    pub fn of<'a>(c: &Config, tensors: impl IntoIterator<Item = &'a TensorSpec>) -> Self {
        let mut work = Self { bytes: 0, expert_bytes: 0, flops: 0 };
        for tensor in tensors {
            let bytes = tensor.bytes_per_token(c);
            work.bytes += bytes;
            if tensor.role == model::Role::RoutedExpert {
                work.expert_bytes += bytes;
            }
            work.flops += tensor.flops_per_token(c);
        }
        work
    }

    /// The speed at a context.
    pub fn speed(&self, c: &Config, rates: Rates, context: u64) -> Speed {
        let bytes = self.bytes + kv::read_per_token(c, RowFormat::Model, context);
        let decode_roof = rates.bandwidth * 1e9 / bytes as f64;
        let flops = self.flops + kv::flops_per_token(c, context);
        let prefill = rates.tflops.map(|t| t * 1e12 * EXPECTED_PREFILL / flops as f64);
        Speed { context, decode_roof, decode: decode_roof * EXPECTED, prefill }
    }
}

#[cfg(test)]
mod tests {
    use model::Preset;

    use super::*;
    use crate::layout::tensors;
    use crate::recipe::Recipe;

    #[test]
    fn flash_on_a_known_machine_is_near_what_is_published() {
        let config = Preset::Flash.config();
        let work = Work::of(&config, &tensors(&config, Recipe::Q2));
        let m3_ultra = Rates { bandwidth: 819.0, tflops: None };
        let speed = work.speed(&config, m3_ultra, 2048);
        // Published for this machine: 44 tokens/s at 2K, which is half of the roof.
        assert!((80.0..90.0).contains(&speed.decode_roof), "{speed:?}");
        assert_eq!(speed.prefill, None);
        let later = work.speed(&config, m3_ultra, 1 << 20);
        assert!(later.decode < speed.decode);
    }
}
