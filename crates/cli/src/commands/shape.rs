//! Presets and type mixtures as flag values, shared by the commands that take them.

use clap::ValueEnum;
use model::Preset;
use tools::Recipe;

/// A named shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PresetArg {
    /// DeepSeek V4 Flash: 43 layers, 284 B weights
    Flash,
    /// DeepSeek V4 Pro: 61 layers, 1.6 T weights
    Pro,
    /// Flash's widths, 8 layers, 32 experts: for benchmarks
    Mid,
    /// 6 small layers: for trying things
    Tiny,
}

/// A mixture of storage types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantArg {
    /// IQ2_XXS and Q2_K experts, 2.25 bits a weight
    Q2,
    /// Q4_K experts, 4.5 bits
    Q4,
    /// Q8_0 experts, 8.5 bits
    Q8,
    /// MXFP4 experts, the bits that were released
    Mxfp4,
}

impl From<PresetArg> for Preset {
    fn from(preset: PresetArg) -> Self {
        match preset {
            PresetArg::Flash => Self::Flash,
            PresetArg::Pro => Self::Pro,
            PresetArg::Mid => Self::Mid,
            PresetArg::Tiny => Self::Tiny,
        }
    }
}

impl From<QuantArg> for Recipe {
    fn from(quant: QuantArg) -> Self {
        match quant {
            QuantArg::Q2 => Self::Q2,
            QuantArg::Q4 => Self::Q4,
            QuantArg::Q8 => Self::Q8,
            QuantArg::Mxfp4 => Self::Mxfp4,
        }
    }
}
