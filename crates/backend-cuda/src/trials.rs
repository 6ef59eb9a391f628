//! What is not the default, for those who measure kernels (`keid bench --trial`).

use std::path::PathBuf;
use std::str::FromStr;

/// Ways to compute that are measured against the default ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// Compiled kernels in this folder, `<module>.cubin`, come before those of the binary.
    pub kernels: Option<PathBuf>,
}

impl FromStr for Trials {
    type Err = String;

    /// `kernels=DIR`; with commas between, if there are more.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut trials = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))) {
                ("kernels", Some(dir)) => trials.kernels = Some(dir.into()),
                _ => {
                    return Err(format!("expected kernels=DIR, found {word:?}"));
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
        let trials: Trials = "kernels=/tmp/k".parse().expect("known words");
        let kernels = Some(PathBuf::from("/tmp/k"));
        assert_eq!(trials, Trials { kernels });
        assert!("kernels=/tmp/k,fast".parse::<Trials>().is_err_and(|why| why.contains("\"fast\"")));
    }
}
