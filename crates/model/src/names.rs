//! GGUF tensor names: what a name is for. The only place where file-format names live, with
//! `bind`.

/// What a tensor is for; decides its class in size tables and its type in quantisation recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Token embedding.
    Embedding,
    /// Output matrix to the vocabulary.
    Head,
    /// Query, KV and output projections.
    Attention,
    /// Compressors of attention rows and of index rows.
    Compressor,
    /// Lightning indexer projections.
    Indexer,
    /// Router matrix, bias and hash table.
    Router,
    /// Routed experts.
    RoutedExpert,
    /// Shared expert.
    SharedExpert,
    /// Hyper-connection projections.
    HyperConnection,
    /// Norms, sinks and other vectors.
    Norm,
    /// The MTP block's own projections.
    Mtp,
    /// Not a tensor of this architecture.
    Other,
}

/// A role and the block it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorClass {
    /// What the tensor is for.
    pub role: Role,
    /// `blk.N`, when it belongs to a block.
    pub block: Option<usize>,
    /// Whether the name marks it as part of a draft block.
    pub draft: bool,
}

impl Role {
    /// Label for tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Embedding => "token embedding",
            Self::Head => "output head",
            Self::Attention => "attention",
            Self::Compressor => "compressors",
            Self::Indexer => "indexer",
            Self::Router => "router",
            Self::RoutedExpert => "routed experts",
            Self::SharedExpert => "shared expert",
            Self::HyperConnection => "hyper-connections",
            Self::Norm => "norms and sinks",
            Self::Mtp => "MTP projections",
            Self::Other => "other",
        }
    }
}

/// Sorts a tensor by its name.
pub fn classify(name: &str) -> TensorClass {
    if let Some(rest) = name.strip_prefix("blk.").or_else(|| name.strip_prefix("mtp.")) {
        let (block, suffix) = rest.split_once('.').unwrap_or((rest, ""));
        let draft = name.starts_with("mtp.") || suffix.starts_with("nextn.");
        return TensorClass { role: block_role(suffix), block: block.parse().ok(), draft };
    }
    let role = match name {
        "token_embd.weight" => Role::Embedding,
        "output.weight" => Role::Head,
        "output_norm.weight" => Role::Norm,
        _ if name.starts_with("output_hc_") => Role::HyperConnection,
        _ => Role::Other,
    };
    TensorClass { role, block: None, draft: false }
}

fn block_role(suffix: &str) -> Role {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| suffix.starts_with(p));
    if suffix.ends_with("norm.weight") || starts(&["attn_sinks"]) {
        Role::Norm
    } else if starts(&["hc_"]) {
        Role::HyperConnection
    } else if starts(&["attn_compressor_", "indexer_compressor_"]) {
        Role::Compressor
    } else if starts(&["indexer."]) {
        Role::Indexer
    } else if starts(&["attn_"]) {
        Role::Attention
    } else if starts(&["ffn_gate_inp", "ffn_gate_tid2eid", "exp_probs_b"]) {
        Role::Router
    } else if starts(&["ffn_"]) && suffix.contains("_shexp") {
        Role::SharedExpert
    } else if starts(&["ffn_"]) && suffix.contains("_exps") {
        Role::RoutedExpert
    } else if starts(&["nextn.", "e_proj", "h_proj", "enorm", "hnorm"]) {
        Role::Mtp
    } else {
        Role::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_what_they_are_for() {
        let role = |name: &str| classify(name).role;
        assert_eq!(role("blk.7.attn_q_a_norm.weight"), Role::Norm);
        assert_eq!(role("blk.7.attn_q_a.weight"), Role::Attention);
        assert_eq!(role("blk.2.indexer_compressor_ape.weight"), Role::Compressor);
        assert_eq!(role("blk.2.indexer.proj.weight"), Role::Indexer);
        assert_eq!(role("blk.0.ffn_gate_tid2eid.weight"), Role::Router);
        assert_eq!(role("blk.0.ffn_gate_exps.weight"), Role::RoutedExpert);
        assert_eq!(role("blk.0.ffn_gate_shexp.weight"), Role::SharedExpert);
        assert_eq!(role("output_hc_fn.weight"), Role::HyperConnection);
        assert_eq!(role("mtp.0.e_proj.weight"), Role::Mtp);
        assert!(classify("mtp.0.attn_q_a.weight").draft);
        assert_eq!(classify("blk.12.ffn_norm.weight").block, Some(12));
        assert_eq!(role("v.patch_embd.weight"), Role::Other);
    }
}
