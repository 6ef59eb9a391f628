//! The model's constants, read from GGUF metadata (`deepseek4.*`).

use gguf::Gguf;

use crate::error::{Error, Result};
use crate::rope::Rope;

/// Everything about a V4 checkpoint that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.name`, or the architecture when the file has none.
    pub name: String,
    /// Attention kind of each main layer, in order.
    pub layers: Vec<LayerKind>,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Largest context the checkpoint was made for, in tokens.
    pub context_max: usize,
    /// Width of one residual stream (D).
    pub hidden: usize,
    /// Query heads (H).
    pub n_heads: usize,
    /// Channels of one head and of the shared KV row (d).
    pub head_dim: usize,
    /// Rotated channels at the tail of a head (r).
    pub rope_dim: usize,
    /// Width of the query latent.
    pub q_lora_rank: usize,
    /// Groups of the output projection (G).
    pub n_out_groups: usize,
    /// Output width of each group of the output projection.
    pub out_lora_rank: usize,
    /// Positions in the sliding window, the current one included.
    pub window: usize,
    /// Lightning indexer of the CSA layers.
    pub indexer: IndexerConfig,
    /// Hyper-connections.
    pub hc: HcConfig,
    /// Epsilon of every RMS norm.
    pub rms_eps: f32,
    /// Routed experts in a layer (E).
    pub n_experts: usize,
    /// Routed experts used for a token.
    pub n_experts_used: usize,
    /// Inner width of an expert, routed or shared (F).
    pub expert_inner: usize,
    /// Multiplier of the normalised routing weights.
    pub route_scale: f32,
    /// The first layers choose experts by a token table.
    pub n_hash_layers: usize,
    /// SwiGLU clamp of the routed experts, one per main layer.
    pub expert_clamp: Vec<f32>,
    /// SwiGLU clamp of the shared expert, one per main layer.
    pub shared_clamp: Vec<f32>,
    /// Rotation of the sliding-window layers.
    pub rope_main: Rope,
    /// Rotation of the CSA and HCA layers.
    pub rope_compress: Rope,
    /// MTP blocks that the metadata announces.
    pub n_mtp: usize,
}

/// The three kinds of attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Compress ratio 0: the sliding window only.
    SlidingWindow,
    /// Compress ratio 4: window and the rows that the indexer picks (compressed sparse attention).
    Csa,
    /// Compress ratio 128: window and all compressed rows (heavily compressed attention).
    Hca,
}

impl LayerKind {
    /// Tokens per compressed row; `None` for a sliding-window layer.
    pub fn ratio(self) -> Option<usize> {
        match self {
            Self::SlidingWindow => None,
            Self::Csa => Some(4),
            Self::Hca => Some(128),
        }
    }

    /// The kind for a value of `compress_ratios`.
    pub fn from_ratio(ratio: u32) -> Option<Self> {
        match ratio {
            0 => Some(Self::SlidingWindow),
            4 => Some(Self::Csa),
            128 => Some(Self::Hca),
            _ => None,
        }
    }

    /// Short name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlidingWindow => "SWA",
            Self::Csa => "CSA",
            Self::Hca => "HCA",
        }
    }
}

/// How a layer chooses its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// By a table over token ids.
    Hash,
    /// By score plus bias.
    TopK,
}

/// The lightning indexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexerConfig {
    /// Indexer heads.
    pub n_heads: usize,
    /// Channels of an indexer head and of an index row.
    pub head_dim: usize,
    /// Compressed rows a query may attend to.
    pub top_k: usize,
}

/// Manifold-constrained hyper-connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HcConfig {
    /// Residual streams.
    pub n_streams: usize,
    /// Sinkhorn rounds; the first is softmax and columns.
    pub sinkhorn_iterations: usize,
    /// Epsilon of the mixing weights.
    pub eps: f32,
}

impl HcConfig {
    /// Mixing values of one site: pre, post and comb.
    pub fn mix_len(&self) -> usize {
        (2 + self.n_streams) * self.n_streams
    }
}

impl Config {
    /// Main layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Values of all residual streams of one token.
    pub fn streams_len(&self) -> usize {
        self.hc.n_streams * self.hidden
    }

    /// How layer `layer` routes. The MTP block, at index `n_layers`, routes by score.
    pub fn router(&self, layer: usize) -> RouterKind {
        if layer < self.n_hash_layers { RouterKind::Hash } else { RouterKind::TopK }
    }

    /// The rotation a layer of this kind uses for queries, keys and compressed rows.
    pub fn rope(&self, kind: LayerKind) -> &Rope {
        match kind {
            LayerKind::SlidingWindow => &self.rope_main,
            LayerKind::Csa | LayerKind::Hca => &self.rope_compress,
        }
    }

    /// Reads and checks `deepseek4.*` (spec: gguf layout §2).
    ///
    /// # Errors
    /// A missing key, a value of the wrong type, or one the architecture does not allow.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let keys = Keys { gguf };
        let arch = gguf.metadata().str("general.architecture")?;
        if arch != "deepseek4" {
            return Err(keys.wrong("general.architecture", "`deepseek4`", format!("`{arch}`")));
        }
        let n_layers = keys.count("block_count", 1, 1024)?;
        let config = Self {
            name: keys.name(arch),
            layers: keys.layers(n_layers)?,
            n_vocab: keys.vocab()?,
            context_max: keys.count("context_length", 1, 1 << 30)?,
            hidden: keys.count("embedding_length", 32, 1 << 17)?,
            n_heads: keys.count("attention.head_count", 1, 4096)?,
            head_dim: keys.count("attention.key_length", 8, 1 << 14)?,
            rope_dim: keys.count("rope.dimension_count", 2, 1 << 14)?,
            q_lora_rank: keys.count("attention.q_lora_rank", 1, 1 << 17)?,
            n_out_groups: keys.count("attention.output_group_count", 1, 4096)?,
            out_lora_rank: keys.count("attention.output_lora_rank", 1, 1 << 17)?,
            window: keys.count("attention.sliding_window", 1, 1 << 16)?,
            indexer: keys.indexer()?,
            hc: keys.hc()?,
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
            n_experts: keys.count("expert_count", 1, 1 << 16)?,
            n_experts_used: keys.count("expert_used_count", 1, 256)?,
            expert_inner: keys.count("expert_feed_forward_length", 1, 1 << 17)?,
            route_scale: keys.positive("expert_weights_scale")?,
            n_hash_layers: keys.count("hash_layer_count", 0, n_layers)?,
            expert_clamp: keys.clamp("swiglu_clamp_exp", n_layers)?,
            shared_clamp: keys.shared_clamp(n_layers)?,
            rope_main: Rope::plain(
                keys.count("rope.dimension_count", 2, 1 << 14)?,
                f64::from(keys.optional_positive("rope.freq_base", 10_000.0)?),
            ),
            rope_compress: keys.rope_compress()?,
            n_mtp: keys.optional_count("nextn_predict_layers", 0, 16)?,
        };
        keys.check_relations(&config)?;
        Ok(config)
    }
}

/// Metadata access with the `deepseek4.` prefix and range checks.
struct Keys<'a> {
    gguf: &'a Gguf,
}

impl Keys<'_> {
    fn key(key: &str) -> String {
        format!("deepseek4.{key}")
    }

    fn has(&self, key: &str) -> bool {
        self.gguf.metadata().get(&Self::key(key)).is_some()
    }

    fn wrong(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Value {
            path: self.gguf.path().to_owned(),
            key: key.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn name(&self, arch: &str) -> String {
        self.gguf.metadata().str("general.name").unwrap_or(arch).to_owned()
    }

    fn count(&self, key: &str, min: usize, max: usize) -> Result<usize> {
        let full = Self::key(key);
        // Some converters write one value per layer where all layers agree.
        let found = match self.gguf.metadata().u32(&full) {
            Ok(value) => value,
            Err(scalar) => match self.gguf.metadata().arr_u32(&full) {
                Ok(values) if !values.is_empty() && values.iter().all(|v| *v == values[0]) => {
                    values[0]
                }
                _ => return Err(scalar.into()),
            },
        };
        if (min..=max).contains(&(found as usize)) {
            Ok(found as usize)
        } else {
            Err(self.wrong(&full, format!("{min} to {max}"), found.to_string()))
        }
    }

    fn optional_count(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        if self.has(key) { self.count(key, 0, max) } else { Ok(default) }
    }

    fn positive(&self, key: &str) -> Result<f32> {
        let full = Self::key(key);
        let found = self.gguf.metadata().f32(&full)?;
        if found.is_finite() && found > 0.0 {
            Ok(found)
        } else {
            Err(self.wrong(&full, "a positive number", found.to_string()))
        }
    }

    fn optional_positive(&self, key: &str, default: f32) -> Result<f32> {
        if self.has(key) { self.positive(key) } else { Ok(default) }
    }

    fn vocab(&self) -> Result<usize> {
        if self.has("vocab_size") {
            return self.count("vocab_size", 1, 1 << 24);
        }
        let rows = self.gguf.tensor("token_embd.weight").and_then(|t| t.dims.get(1).copied());
        rows.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
            self.wrong("deepseek4.vocab_size", "the key or a `token_embd.weight`", "neither")
        })
    }

    fn layers(&self, n_layers: usize) -> Result<Vec<LayerKind>> {
        let key = Self::key("attention.compress_ratios");
        let ratios = self.gguf.metadata().arr_u32(&key)?;
        if ratios.len() < n_layers {
            let expected = format!("at least {n_layers} values");
            return Err(self.wrong(&key, expected, format!("{} values", ratios.len())));
        }
        let kind = |ratio: &u32| {
            LayerKind::from_ratio(*ratio)
                .ok_or_else(|| self.wrong(&key, "ratios 0, 4 or 128", ratio.to_string()))
        };
        ratios[..n_layers].iter().map(kind).collect()
    }

    fn indexer(&self) -> Result<IndexerConfig> {
        Ok(IndexerConfig {
            n_heads: self.count("attention.indexer.head_count", 1, 4096)?,
            head_dim: self.count("attention.indexer.key_length", 2, 1 << 14)?,
            top_k: self.count("attention.indexer.top_k", 1, 1 << 20)?,
        })
    }

    fn hc(&self) -> Result<HcConfig> {
        Ok(HcConfig {
            n_streams: self.count("hyper_connection.count", 1, 8)?,
            sinkhorn_iterations: self.count("hyper_connection.sinkhorn_iterations", 1, 1000)?,
            eps: self.positive("hyper_connection.epsilon")?,
        })
    }

    fn clamp(&self, key: &str, n_layers: usize) -> Result<Vec<f32>> {
        let full = Self::key(key);
        let values = match self.gguf.metadata().f32(&full) {
            Ok(value) => vec![value; n_layers],
            Err(_) => self.gguf.metadata().arr_f32(&full)?,
        };
        if values.len() < n_layers {
            let expected = format!("one value or {n_layers}");
            return Err(self.wrong(&full, expected, values.len().to_string()));
        }
        match values.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
            Some(bad) => Err(self.wrong(&full, "positive numbers", bad.to_string())),
            None => Ok(values[..n_layers].to_vec()),
        }
    }

    fn shared_clamp(&self, n_layers: usize) -> Result<Vec<f32>> {
        let own = self.has("swiglu_clamp_shexp");
        self.clamp(if own { "swiglu_clamp_shexp" } else { "swiglu_clamp_exp" }, n_layers)
    }

    fn rope_compress(&self) -> Result<Rope> {
        let dim = self.count("rope.dimension_count", 2, 1 << 14)?;
        let base = f64::from(self.positive("attention.compress_rope_freq_base")?);
        if !self.has("rope.scaling.factor") {
            return Ok(Rope::plain(dim, base));
        }
        let key = Self::key("rope.scaling.type");
        // ds4 does not require the type; every V4 checkpoint is YaRN.
        let kind = if self.has("rope.scaling.type") {
            self.gguf.metadata().str(&key)?.to_owned()
        } else {
            "yarn".to_owned()
        };
        match kind.as_str() {
            "none" => Ok(Rope::plain(dim, base)),
            "yarn" => Ok(Rope::yarn(
                dim,
                base,
                f64::from(self.positive("rope.scaling.factor")?),
                self.count("rope.scaling.original_context_length", 1, 1 << 30)? as f64,
                f64::from(self.optional_positive("rope.scaling.yarn_beta_fast", 32.0)?),
                f64::from(self.optional_positive("rope.scaling.yarn_beta_slow", 1.0)?),
            )),
            other => Err(self.wrong(&key, "`yarn` or `none`", format!("`{other}`"))),
        }
    }

    /// Relations between values that no single key shows.
    fn check_relations(&self, c: &Config) -> Result<()> {
        let need = |ok: bool, key: &str, expected: String, found: usize| {
            if ok { Ok(()) } else { Err(self.wrong(&Self::key(key), expected, found.to_string())) }
        };
        need(
            c.rope_dim.is_multiple_of(2) && c.rope_dim <= c.head_dim,
            "rope.dimension_count",
            format!("an even number up to key_length {}", c.head_dim),
            c.rope_dim,
        )?;
        need(
            c.rope_dim <= c.indexer.head_dim || !c.layers.contains(&LayerKind::Csa),
            "attention.indexer.key_length",
            format!("at least rope.dimension_count {}", c.rope_dim),
            c.indexer.head_dim,
        )?;
        need(
            c.n_heads.is_multiple_of(c.n_out_groups),
            "attention.output_group_count",
            format!("a divisor of head_count {}", c.n_heads),
            c.n_out_groups,
        )?;
        need(
            c.n_experts_used <= c.n_experts,
            "expert_used_count",
            format!("at most expert_count {}", c.n_experts),
            c.n_experts_used,
        )?;
        self.check_fixed(c)
    }

    /// Values that other loaders read and that this architecture fixes.
    fn check_fixed(&self, c: &Config) -> Result<()> {
        let fixed = [
            ("attention.head_count_kv", 1),
            ("attention.value_length", c.head_dim),
            ("expert_shared_count", 1),
            // 4 is sqrt(softplus), the only router V4 has.
            ("expert_gating_func", 4),
            ("expert_group_count", 0),
            ("expert_group_used_count", 0),
        ];
        for (key, expected) in fixed {
            if self.has(key) {
                let found = self.count(key, 0, usize::MAX)?;
                let alone = key.starts_with("expert_group") && found <= 1;
                if found != expected && !alone {
                    let full = Self::key(key);
                    return Err(self.wrong(&full, expected.to_string(), found.to_string()));
                }
            }
        }
        if self.has("expert_weights_norm") {
            let key = Self::key("expert_weights_norm");
            if !self.gguf.metadata().bool(&key)? {
                return Err(self.wrong(&key, "true", "false"));
            }
        }
        Ok(())
    }
}
