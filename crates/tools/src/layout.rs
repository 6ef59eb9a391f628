//! Every tensor of a main model, from its configuration alone: name, shape, type and what a
//! synthetic file puts in it. Planning and synthesis read the same list, so a plan's sizes are
//! those of the file.

use model::{Config, LayerKind, Role, RouterKind};
use quant::TensorType;

use crate::recipe::Recipe;

/// One tensor of a file that need not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Storage type.
    pub ty: TensorType,
    /// Dimensions in file order: inputs, outputs, experts.
    pub dims: Vec<usize>,
    /// What a synthetic file holds here.
    pub content: Content,
}

/// What a synthetic tensor holds. Values are chosen so that activations keep their size from
/// layer to layer, as in a trained model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content {
    /// Random weights of mean 0 and this standard deviation.
    Random {
        /// Standard deviation.
        sigma: f32,
    },
    /// Uniform between `centre − half_width` and `centre + half_width`.
    Uniform {
        /// Middle.
        centre: f32,
        /// Half of the range.
        half_width: f32,
    },
    /// Expert ids by token, `[used, vocab]` in file order, every expert equally often.
    HashTable {
        /// Routed experts.
        n_experts: usize,
    },
}

impl TensorSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether the tensor holds nothing; never true for a checked configuration.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in the file. Types are chosen so that rows are whole blocks.
    pub fn bytes(&self) -> u64 {
        let blocks = self.len() / self.ty.block_len();
        blocks as u64 * self.ty.block_bytes() as u64
    }

    /// Bytes read to decode one token: all of a matrix, one row of the embedding and of the
    /// hash table, the chosen experts of a stack.
    pub fn bytes_per_token(&self, config: &Config) -> u64 {
        let share = |used: usize, of: usize| self.bytes() * used as u64 / of as u64;
        match self.role {
            Role::Embedding => share(1, config.n_vocab),
            Role::RoutedExpert => share(config.n_experts_used, config.n_experts),
            Role::Router if matches!(self.content, Content::HashTable { .. }) => {
                share(1, config.n_vocab)
            }
            _ => self.bytes(),
        }
    }

    /// Multiply-adds of one decoded token, in floating-point operations.
    pub fn flops_per_token(&self, config: &Config) -> u64 {
        let weights = 2 * self.len() as u64;
        match (self.role, self.content) {
            (Role::Embedding | Role::Norm, _) | (_, Content::HashTable { .. }) => 0,
            (_, Content::Uniform { .. }) => 0,
            (Role::RoutedExpert, _) => {
                weights * config.n_experts_used as u64 / config.n_experts as u64
            }
            _ => weights,
        }
    }
}

/// All tensors of the main model in file order (spec: model §2).
pub fn tensors(config: &Config, recipe: Recipe) -> Vec<TensorSpec> {
    let c = config;
    let mut list = List { recipe, prefix: String::new(), tensors: Vec::new() };
    // Unit-size embeddings start the residual streams at the size that sublayers add.
    list.matrix(Role::Embedding, "token_embd", [c.hidden, c.n_vocab], 0.0, 1.0);
    for (i, kind) in c.layers.iter().enumerate() {
        list.prefix = format!("blk.{i}.");
        list.layer(c, *kind, c.router(i));
    }
    list.prefix.clear();
    list.hyper_connection("output_hc_", c, c.hc.n_streams, 1);
    list.norm("output_norm", c.hidden);
    // Logits with a deviation of 3 are about as peaked as a trained model's.
    list.matrix(Role::Head, "output", [c.hidden, c.n_vocab], 3.0, 0.0);
    list.tensors
}

struct List {
    recipe: Recipe,
    prefix: String,
    tensors: Vec<TensorSpec>,
}

impl List {
    fn push(&mut self, role: Role, name: &str, ty: TensorType, dims: &[usize], content: Content) {
        let name = format!("{}{name}", self.prefix);
        self.tensors.push(TensorSpec { name, role, ty, dims: dims.to_vec(), content });
    }

    /// A matrix of `[inputs, outputs]` whose weights have deviation `gain / √inputs + sigma`;
    /// one of the two is zero.
    fn matrix(&mut self, role: Role, name: &str, dims: [usize; 2], gain: f32, sigma: f32) {
        let ty = self.recipe.matrix(role, false, dims[0]);
        let sigma = sigma + gain / (dims[0] as f32).sqrt();
        self.push(role, &format!("{name}.weight"), ty, &dims, Content::Random { sigma });
    }

    fn experts(&mut self, name: &str, dims: [usize; 3]) {
        let ty = self.recipe.matrix(Role::RoutedExpert, name.contains("down"), dims[0]);
        let sigma = 1.0 / (dims[0] as f32).sqrt();
        let name = format!("{name}.weight");
        self.push(Role::RoutedExpert, &name, ty, &dims, Content::Random { sigma });
    }

    fn vector(&mut self, role: Role, name: &str, len: usize, centre: f32, half_width: f32) {
        self.push(role, name, TensorType::F32, &[len], Content::Uniform { centre, half_width });
    }

    fn norm(&mut self, name: &str, len: usize) {
        self.vector(Role::Norm, &format!("{name}.weight"), len, 1.0, 0.1);
    }

    /// Mixing projections: mild, so that every stream stays in use.
    fn hyper_connection(&mut self, prefix: &str, c: &Config, mix: usize, n_scales: usize) {
        let role = Role::HyperConnection;
        self.matrix(role, &format!("{prefix}fn"), [c.streams_len(), mix], 1.0, 0.0);
        self.vector(role, &format!("{prefix}base.weight"), mix, 0.0, 0.5);
        self.vector(role, &format!("{prefix}scale.weight"), n_scales, 0.25, 0.05);
    }

    fn layer(&mut self, c: &Config, kind: LayerKind, router: RouterKind) {
        self.hyper_connection("hc_attn_", c, c.hc.mix_len(), 3);
        self.norm("attn_norm", c.hidden);
        self.attention(c);
        if let Some(ratio) = kind.ratio() {
            self.compressor("attn_compressor_", c, ratio, c.head_dim);
        }
        if kind == LayerKind::Csa {
            let index = c.indexer;
            let queries = index.n_heads * index.head_dim;
            self.matrix(Role::Indexer, "indexer.attn_q_b", [c.q_lora_rank, queries], 1.0, 0.0);
            self.matrix(Role::Indexer, "indexer.proj", [c.hidden, index.n_heads], 1.0, 0.0);
            self.compressor("indexer_compressor_", c, 4, index.head_dim);
        }
        self.hyper_connection("hc_ffn_", c, c.hc.mix_len(), 3);
        self.norm("ffn_norm", c.hidden);
        self.moe(c, router);
    }

    fn attention(&mut self, c: &Config) {
        let role = Role::Attention;
        let heads = c.n_heads * c.head_dim;
        let low = c.n_out_groups * c.out_lora_rank;
        self.matrix(role, "attn_q_a", [c.hidden, c.q_lora_rank], 1.0, 0.0);
        self.norm("attn_q_a_norm", c.q_lora_rank);
        self.matrix(role, "attn_q_b", [c.q_lora_rank, heads], 1.0, 0.0);
        self.matrix(role, "attn_kv", [c.hidden, c.head_dim], 1.0, 0.0);
        self.norm("attn_kv_a_norm", c.head_dim);
        self.vector(Role::Norm, "attn_sinks.weight", c.n_heads, 0.0, 1.0);
        self.matrix(role, "attn_output_a", [heads / c.n_out_groups, low], 1.0, 0.0);
        self.matrix(role, "attn_output_b", [low, c.hidden], 1.0, 0.0);
    }

    fn compressor(&mut self, prefix: &str, c: &Config, ratio: usize, width: usize) {
        let role = Role::Compressor;
        // Ratio 4 pools two overlapping windows and projects for both.
        let outputs = if ratio == 4 { 2 * width } else { width };
        self.matrix(role, &format!("{prefix}kv"), [c.hidden, outputs], 1.0, 0.0);
        self.matrix(role, &format!("{prefix}gate"), [c.hidden, outputs], 1.0, 0.0);
        let bias = Content::Uniform { centre: 0.0, half_width: 0.5 };
        self.push(role, &format!("{prefix}ape.weight"), TensorType::F16, &[outputs, ratio], bias);
        self.norm(&format!("{prefix}norm"), width);
    }

    fn moe(&mut self, c: &Config, router: RouterKind) {
        self.matrix(Role::Router, "ffn_gate_inp", [c.hidden, c.n_experts], 1.0, 0.0);
        match router {
            RouterKind::Hash => self.push(
                Role::Router,
                "ffn_gate_tid2eid.weight",
                TensorType::I32,
                &[c.n_experts_used, c.n_vocab],
                Content::HashTable { n_experts: c.n_experts },
            ),
            // A bias as large as the scores' spread would starve experts; this one only breaks
            // the symmetry.
            RouterKind::TopK => {
                self.vector(Role::Router, "exp_probs_b.bias", c.n_experts, 0.0, 0.01);
            }
        }
        self.experts("ffn_gate_exps", [c.hidden, c.expert_inner, c.n_experts]);
        self.experts("ffn_up_exps", [c.hidden, c.expert_inner, c.n_experts]);
        self.experts("ffn_down_exps", [c.expert_inner, c.hidden, c.n_experts]);
        let role = Role::SharedExpert;
        self.matrix(role, "ffn_gate_shexp", [c.hidden, c.expert_inner], 1.0, 0.0);
        self.matrix(role, "ffn_up_shexp", [c.hidden, c.expert_inner], 1.0, 0.0);
        self.matrix(role, "ffn_down_shexp", [c.expert_inner, c.hidden], 1.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use model::{Preset, classify};

    use super::*;

    fn totals(preset: Preset, recipe: Recipe) -> (f64, f64, f64) {
        let config = preset.config();
        let list = tensors(&config, recipe);
        let sum = |f: &dyn Fn(&TensorSpec) -> u64| list.iter().map(f).sum::<u64>() as f64 / 1e9;
        (
            sum(&|t| t.bytes()),
            sum(&|t| t.bytes_per_token(&config)),
            sum(&|t| t.flops_per_token(&config)),
        )
    }

    /// The table of spec: model §7, which reproduces the published sizes.
    #[test]
    fn sizes_and_costs_are_those_of_the_published_models() {
        let cases = [
            (Preset::Flash, Recipe::Q2, 86.7, 9.56, 26.5),
            (Preset::Flash, Recipe::Q4, 164.6, 11.38, 26.5),
            (Preset::Pro, Recipe::Q2, 464.6, 34.3, 97.7),
            (Preset::Pro, Recipe::Q4, 899.8, 41.1, 97.7),
        ];
        for (preset, recipe, file, read, flops) in cases {
            let got = totals(preset, recipe);
            let close = |a: f64, b: f64| (a - b).abs() < 0.005 * b;
            assert!(close(got.0, file), "{preset:?} {recipe:?}: file {} GB, not {file}", got.0);
            assert!(close(got.1, read), "{preset:?} {recipe:?}: reads {} GB, not {read}", got.1);
            assert!(close(got.2, flops), "{preset:?} {recipe:?}: {} GFLOP, not {flops}", got.2);
        }
        let mid = totals(Preset::Mid, Recipe::Q2).0;
        assert!((3.0..3.2).contains(&mid), "mid is about 3.1 GB, not {mid}");
    }

    #[test]
    fn roles_agree_with_the_classification_of_names() {
        for tensor in tensors(&Preset::Mid.config(), Recipe::Q2) {
            assert_eq!(classify(&tensor.name).role, tensor.role, "{}", tensor.name);
        }
    }
}
