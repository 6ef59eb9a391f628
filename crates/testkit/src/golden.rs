//! What the models must compute.
//!
//! Keys (`N` is a prompt length, `V` a variant such as `exact`, `qat`, `q8_0`):
//!
//! - `tokens/N`: the prompt, equal to [`crate::oracle::tokens_for`];
//! - `V/N/logits` `[min(4, N), vocab]` at the last positions, `V/N/greedy` 32 tokens after them;
//! - `exact/N/streams_at_T` `[layers, streams, hidden]` after each layer;
//! - `exact/N/mtp_logits_at_T`: the MTP block's draft from the streams at T and token T + 1;
//! - `V/N/index_topk_at_T/csaJ`: sorted rows selected in the J-th ratio-4 layer;
//! - `V/300/trace255/layerL.*`: every intermediate of position 255, which closes a window of both
//!   compressors;
//! - `exact/130/cache/layerL/*`: cache contents after 130 tokens;
//! - `hf_prefill/N/logits`: another implementation's, in single precision.
//!
//! Variants: `exact` (f32, f16 and bf16 files, no rounding of activations), `qat` (the model's own
//! FP8 and FP4 rounding), `qat_kv_only`, `q8_0`, `q4k`, `q2` (dequantised weights, exact maths),
//! `q2_qat`, `fp8fp4` (mxfp4 file), `fp8fp4_qat`, `fp8fp4_official` (FP8 activations too).

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

/// Golden arrays of one model.
#[derive(Debug)]
pub struct Golden {
    name: &'static str,
    bytes: Cow<'static, [u8]>,
    index: Index,
}

#[derive(Debug, Deserialize)]
struct Index {
    meta: serde_json::Value,
    arrays: HashMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    offset: usize,
}

impl Golden {
    /// The golden data of `tiny_a` or `tiny_c`.
    ///
    /// # Panics
    ///
    /// For any other name.
    #[must_use]
    pub fn load(name: &str) -> Self {
        let (name, json, bytes): (_, &str, &'static [u8]) = match name {
            "tiny_a" => (
                "tiny_a",
                include_str!("../data/tiny_a.json"),
                include_bytes!("../data/tiny_a.bin"),
            ),
            "tiny_c" => (
                "tiny_c",
                include_str!("../data/tiny_c.json"),
                include_bytes!("../data/tiny_c.bin"),
            ),
            _ => panic!("no golden data for {name:?}"),
        };
        Self::parse(name, json, bytes.into())
    }

    /// Golden data in the same layout: an index and the arrays that it points into.
    ///
    /// # Panics
    ///
    /// When the index is no such JSON.
    #[must_use]
    pub fn parse(name: &'static str, json: &str, bytes: Cow<'static, [u8]>) -> Self {
        let index = serde_json::from_str(json).expect("the index is valid JSON");
        Self { name, bytes, index }
    }

    /// Shape and elements of a float array.
    ///
    /// # Panics
    ///
    /// When there is no such array.
    #[must_use]
    pub fn f32(&self, key: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, words) = self.words(key, "f32");
        (shape, words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    }

    /// Shape and elements of an integer array.
    ///
    /// # Panics
    ///
    /// When there is no such array.
    #[must_use]
    pub fn i32(&self, key: &str) -> (Vec<usize>, Vec<i32>) {
        let (shape, words) = self.words(key, "i32");
        (shape, words.iter().map(|w| i32::from_le_bytes(*w)).collect())
    }

    /// True when there is an array called `key`.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.index.arrays.contains_key(key)
    }

    /// All keys that start with `prefix`, sorted.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<&str> {
        let keys = self.index.arrays.keys().map(String::as_str);
        let mut keys: Vec<&str> = keys.filter(|k| k.starts_with(prefix)).collect();
        keys.sort_unstable();
        keys
    }

    /// The configuration, the files' hashes and the margins of each run.
    #[must_use]
    pub fn meta(&self) -> &serde_json::Value {
        &self.index.meta
    }

    fn words(&self, key: &str, dtype: &str) -> (Vec<usize>, &[[u8; 4]]) {
        let entry = self.index.arrays.get(key);
        let entry = entry.unwrap_or_else(|| panic!("{}: no array {key:?}", self.name));
        assert_eq!(entry.dtype, dtype, "{}: type of {key:?}", self.name);
        let n: usize = entry.shape.iter().product();
        (entry.shape.clone(), self.bytes[entry.offset..][..4 * n].as_chunks().0)
    }
}
