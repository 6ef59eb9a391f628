//! What is not the default, for those who measure kernels (`keid bench --trial`).

use std::path::PathBuf;
use std::str::FromStr;

/// Ways to compute that are measured against the default ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// What one row needs between two kernels of attention is one launch (`cuda/chain/stages.cuh`).
    pub chains: bool,
    /// Every kernel asks for the largest shared memory: a multiprocessor must be empty before it divides its
    /// memory in another way, so that kernels which want different shares cannot overlap.
    pub even_memory: bool,
    /// Compiled kernels in this folder, `<module>.cubin`, come before those of the binary.
    pub kernels: Option<PathBuf>,
}

impl FromStr for Trials {
    type Err = String;

    /// `chains`, `even-memory` and `kernels=DIR`, with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut trials = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))) {
                ("chains", None) => trials.chains = true,
                ("even-memory", None) => trials.even_memory = true,
                ("kernels", Some(dir)) => trials.kernels = Some(dir.into()),
                _ => {
                    return Err(format!(
                        "expected chains, even-memory or kernels=DIR, found {word:?}"
                    ));
                }
            }
        }
        Ok(trials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_trials() {
        let trials: Trials = "chains,kernels=/tmp/k".parse().expect("known words");
        let kernels = Some(PathBuf::from("/tmp/k"));
        assert_eq!(trials, Trials { chains: true, even_memory: false, kernels });
        assert!("chains,fast".parse::<Trials>().is_err_and(|why| why.contains("\"fast\"")));
    }
}
