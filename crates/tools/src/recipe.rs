//! Which storage type each tensor of a synthetic or planned file gets.

use model::Role;
use quant::TensorType;

/// A published mixture of types. They differ in the routed experts only, which are 97 % of a
/// file; the rest follows the layout that ds4 reads (spec: gguf layout §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// IQ2_XXS gate and up, Q2_K down: 2.25 bits a routed weight.
    Q2,
    /// Q4_K experts.
    Q4,
    /// Q8_0 experts.
    Q8,
    /// MXFP4 experts: the bits that were released.
    Mxfp4,
}

impl Recipe {
    /// Every recipe, smallest file first.
    pub const ALL: [Self; 4] = [Self::Q2, Self::Mxfp4, Self::Q4, Self::Q8];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q2 => "q2",
            Self::Q4 => "q4",
            Self::Q8 => "q8",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// The type of a matrix with `cols` inputs. A row that does not divide into the recipe's
    /// blocks gets the next simpler type, as converters do.
    pub(crate) fn matrix(self, role: Role, down: bool, cols: usize) -> TensorType {
        let wanted = match role {
            Role::RoutedExpert => match self {
                Self::Q2 if down => TensorType::Q2K,
                Self::Q2 => TensorType::Iq2Xxs,
                Self::Q4 => TensorType::Q4K,
                Self::Q8 => TensorType::Q8_0,
                Self::Mxfp4 => TensorType::Mxfp4,
            },
            Role::Attention | Role::SharedExpert | Role::Head | Role::Mtp => TensorType::Q8_0,
            Role::Embedding
            | Role::Compressor
            | Role::Indexer
            | Role::Router
            | Role::HyperConnection
            | Role::Norm
            | Role::Other => TensorType::F16,
        };
        let fits = |ty: &TensorType| cols.is_multiple_of(ty.block_len());
        [wanted, TensorType::Q8_0].into_iter().find(fits).unwrap_or(TensorType::F16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_divide_into_blocks_get_a_simpler_type() {
        let ty = |cols| Recipe::Q2.matrix(Role::RoutedExpert, false, cols);
        assert_eq!(ty(4096), TensorType::Iq2Xxs);
        assert_eq!(ty(96), TensorType::Q8_0);
        assert_eq!(ty(40), TensorType::F16);
    }
}
