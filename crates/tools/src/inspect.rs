//! What a file holds: shape, types, sizes by purpose, and what it needs to run.

use std::collections::BTreeMap;

use gguf::{Gguf, TensorInfo};
use model::{Config, LayerKind, Role, classify};
use serde::Serialize;

use crate::layout::{Content, TensorSpec};
use crate::plan::{Needs, RowFormat, Work};

/// A file's contents in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Path of the (first) file.
    pub path: String,
    /// Bytes of all shards.
    pub file_bytes: u64,
    /// Files that make up the model.
    pub n_shards: usize,
    /// `general.name`.
    pub name: String,
    /// Shape of the model.
    pub shape: Shape,
    /// Weights of the main model and of draft blocks.
    pub n_weights: u64,
    /// Storage types, most bytes first.
    pub types: Vec<TypeShare>,
    /// Tensors by purpose, most bytes first.
    pub classes: Vec<ClassShare>,
    /// Tensors that this architecture does not have.
    pub unknown: Vec<String>,
    /// Why the main model cannot be run from this file; `None` if every tensor was found.
    pub defect: Option<String>,
    /// Memory it needs.
    pub needs: Needs,
    /// Work of one decoded token.
    pub work: Work,
}

/// The numbers that tell models of the architecture apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Main layers.
    pub n_layers: usize,
    /// Of these: window only, CSA, HCA.
    pub layer_kinds: [usize; 3],
    /// Width of a residual stream.
    pub hidden: usize,
    /// Residual streams.
    pub n_streams: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Sliding window in tokens.
    pub window: usize,
    /// Rows that the indexer picks.
    pub index_top_k: usize,
    /// Routed experts, and used for a token.
    pub n_experts: [usize; 2],
    /// Inner width of an expert.
    pub expert_inner: usize,
    /// Layers that route by a token table.
    pub n_hash_layers: usize,
    /// Vocabulary.
    pub n_vocab: usize,
    /// Longest context in tokens.
    pub context_max: usize,
    /// MTP blocks announced.
    pub n_mtp: usize,
}

/// How much of a file one type takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeShare {
    /// ggml's name of the type.
    pub ty: &'static str,
    /// Tensors of the type.
    pub n_tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// How much of a file one purpose takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassShare {
    /// What the tensors are for.
    pub class: String,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes read to decode one token.
    pub bytes_per_token: u64,
    /// Their types, most bytes first.
    pub types: Vec<&'static str>,
}

/// Looks at a file.
///
/// # Errors
/// The file is not a DeepSeek V4 model, or states something impossible.
pub fn inspect(gguf: &Gguf) -> Result<Inspection, model::Error> {
    let c = Config::from_gguf(gguf)?;
    let (mut specs, mut drafts, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for info in gguf.tensors() {
        let class = classify(&info.name);
        let spec = spec_of(info, class.role);
        let in_draft_block = class.block.is_some_and(|block| block >= c.n_layers());
        match class.role {
            Role::Other => unknown.push(info.name.clone()),
            _ if class.draft || in_draft_block => drafts.push(spec),
            _ => specs.push(spec),
        }
    }
    let weights = gguf.tensors().iter().map(|info| info.n_bytes).sum();
    let all = || specs.iter().chain(&drafts);
    Ok(Inspection {
        path: gguf.path().display().to_string(),
        file_bytes: gguf.file_bytes(),
        n_shards: gguf.n_shards(),
        name: c.name.clone(),
        shape: Shape::of(&c),
        n_weights: all().filter(|spec| !spec.ty.is_integer()).map(|spec| spec.len() as u64).sum(),
        types: type_shares(all()),
        classes: class_shares(&c, &specs, &drafts),
        unknown,
        defect: model::bind(gguf, &c).err().map(|error| error.to_string()),
        needs: Needs::of(&c, weights, RowFormat::Model),
        work: Work::of(&c, &specs),
    })
}

pub(crate) fn spec_of(info: &TensorInfo, role: Role) -> TensorSpec {
    let content = if info.ty.is_integer() {
        Content::HashTable { n_experts: 0 }
    } else if info.dims.len() < 2 || info.name.ends_with("_ape.weight") {
        // Vectors and position biases are added, not multiplied.
        Content::Uniform { centre: 0.0, half_width: 0.0 }
    } else {
        Content::Random { sigma: 0.0 }
    };
    let dims = info.dims.iter().map(|dim| *dim as usize).collect();
    TensorSpec { name: info.name.clone(), role, ty: info.ty, dims, content }
}

impl Shape {
    fn of(c: &Config) -> Self {
        let count = |kind| c.layers.iter().filter(|found| **found == kind).count();
        Self {
            n_layers: c.n_layers(),
            layer_kinds: [
                count(LayerKind::SlidingWindow),
                count(LayerKind::Csa),
                count(LayerKind::Hca),
            ],
            hidden: c.hidden,
            n_streams: c.hc.n_streams,
            n_heads: c.n_heads,
            head_dim: c.head_dim,
            window: c.window,
            index_top_k: c.indexer.top_k,
            n_experts: [c.n_experts, c.n_experts_used],
            expert_inner: c.expert_inner,
            n_hash_layers: c.n_hash_layers,
            n_vocab: c.n_vocab,
            context_max: c.context_max,
            n_mtp: c.n_mtp,
        }
    }
}

fn type_shares<'a>(specs: impl Iterator<Item = &'a TensorSpec>) -> Vec<TypeShare> {
    let mut shares: BTreeMap<&str, TypeShare> = BTreeMap::new();
    for spec in specs {
        let ty = spec.ty.name();
        let share = shares.entry(ty).or_insert(TypeShare { ty, n_tensors: 0, bytes: 0 });
        share.n_tensors += 1;
        share.bytes += spec.bytes();
    }
    let mut shares: Vec<_> = shares.into_values().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

fn class_shares(c: &Config, specs: &[TensorSpec], drafts: &[TensorSpec]) -> Vec<ClassShare> {
    let mut by_role: BTreeMap<Role, Vec<&TensorSpec>> = BTreeMap::new();
    for spec in specs {
        by_role.entry(spec.role).or_default().push(spec);
    }
    let share = |class: &str, specs: &[&TensorSpec], read: bool| ClassShare {
        class: class.to_owned(),
        n_tensors: specs.len(),
        bytes: specs.iter().map(|spec| spec.bytes()).sum(),
        bytes_per_token: specs.iter().map(|s| if read { s.bytes_per_token(c) } else { 0 }).sum(),
        types: type_shares(specs.iter().copied()).iter().map(|share| share.ty).collect(),
    };
    let mut shares: Vec<ClassShare> =
        by_role.iter().map(|(role, specs)| share(role.label(), specs, true)).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    if !drafts.is_empty() {
        // Read only when drafting, so not part of a plain token's bytes.
        shares.push(share("draft block", &drafts.iter().collect::<Vec<_>>(), false));
    }
    shares
}

impl Inspection {
    /// Mean bits of a weight over the whole file.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.types.iter().map(|share| share.bytes).sum();
        bytes as f64 * 8.0 / self.n_weights.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use model::Preset;

    use super::*;
    use crate::recipe::Recipe;
    use crate::synth::{Progress, Request, Synth};

    #[test]
    fn a_synthetic_file_is_described_as_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let (preset, recipe) = (Preset::Tiny, Recipe::Q2);
        let synth = Synth::new(Request { preset, recipe, n_layers: None, seed: 1 }).unwrap();
        synth.write(&path, NonZeroUsize::MIN, &Progress::default()).unwrap();

        let found = inspect(&Gguf::open(&path).unwrap()).unwrap();
        assert_eq!(found.work, Work::of(synth.config(), synth.tensors()));
        assert_eq!(found.file_bytes, synth.file_bytes().unwrap());
        assert_eq!(found.shape.layer_kinds, [2, 2, 2]);
        assert_eq!((found.defect, found.unknown.len()), (None, 0));
        let experts = found.classes.iter().find(|class| class.class == "routed experts").unwrap();
        assert_eq!(experts.types, ["IQ2_XXS", "Q2_K"]);
        assert_eq!(experts.n_tensors, 3 * 6);
        let bytes: u64 = synth.tensors().iter().map(TensorSpec::bytes).sum();
        assert_eq!(found.classes.iter().map(|class| class.bytes).sum::<u64>(), bytes);
        assert_eq!(found.needs.weights, bytes);
    }
}
