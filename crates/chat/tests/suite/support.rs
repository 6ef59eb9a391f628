//! The published tokenizer and the fixtures.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tokenizer::Tokenizer;

/// DeepSeek V4's tokenizer.
pub(crate) static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let packed = include_bytes!("../../../tokenizer/tests/data/tokenizer.json.gz");
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut json).unwrap();
    Arc::new(Tokenizer::from_json(&json).unwrap())
});

/// Requests and streams by DeepSeek's serving library.
pub(crate) static RECIPE: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/encoding_fixtures_recipe.json")).unwrap()
});

/// The list under `name`.
pub(crate) fn cases<'a>(fixtures: &'a Value, name: &str) -> &'a [Value] {
    fixtures[name].as_array().unwrap()
}

/// The integers in a JSON array.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
