//! The multi-token-prediction block in its published layouts (spec: model §2, gguf §3).

use gguf::{Gguf, TensorData};

use crate::bind::{Finder, HcTensors, HostTensor, LayerTensors};
use crate::config::{Config, LayerKind, RouterKind};
use crate::error::{Error, Result};

/// Where a file keeps a draft block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MtpSource {
    /// `mtp.0.*` with `e_proj` and `h_proj` apart (ds4).
    Ds4,
    /// `blk.N.*` with `nextn.eh_proj` (llama.cpp); N is the block's index.
    LlamaCpp {
        /// Index of the block.
        block: usize,
    },
    /// A DSpark drafter (V4-Flash-0731, V4-Pro-0813): recognised and named, not an MTP block.
    DSpark,
}

/// Every tensor of an MTP block. Embedding and output matrix are the main model's.
#[derive(Clone, Debug)]
pub struct MtpTensors {
    /// `[hidden, hidden]`, applied to the normed embedding.
    pub embedding_project: HostTensor,
    /// `[hidden, hidden]`, applied to each normed stream.
    pub streams_project: HostTensor,
    /// `[hidden]`.
    pub embedding_norm: HostTensor,
    /// `[hidden]`, applied to each stream.
    pub streams_norm: HostTensor,
    /// The block: sliding window, routed by score.
    pub block: LayerTensors,
    /// Collapse of the streams.
    pub hc: HcTensors,
    /// `[hidden]`, before the output matrix.
    pub norm: HostTensor,
}

/// Which draft block a file holds, if any. The tensors decide, not the name of the file.
pub fn find_mtp(gguf: &Gguf, config: &Config) -> Option<MtpSource> {
    if gguf.tensor("mtp.0.e_proj.weight").is_some() {
        return Some(MtpSource::Ds4);
    }
    let block = config.n_layers();
    if gguf.tensor(&format!("blk.{block}.nextn.eh_proj.weight")).is_some() {
        return Some(MtpSource::LlamaCpp { block });
    }
    let named = |name: &str| name.starts_with("mtp.") || name.contains("dspark");
    let dspark = gguf.tensors().iter().any(|t| named(&t.name));
    dspark.then_some(MtpSource::DSpark)
}

/// Binds the block found by [`find_mtp`] in the main file or in a side file.
///
/// # Errors
/// A missing tensor or a wrong shape, by name; a DSpark drafter, which is not an MTP block.
pub fn bind_mtp(gguf: &Gguf, config: &Config, source: &MtpSource) -> Result<MtpTensors> {
    let find = Finder { gguf, config };
    match source {
        MtpSource::Ds4 => bind_ds4(&find),
        MtpSource::LlamaCpp { block } => bind_llama_cpp(&find, *block),
        MtpSource::DSpark => Err(Error::Tensor {
            path: gguf.path().to_owned(),
            name: "mtp.0".to_owned(),
            expected: "an MTP block (e_proj and h_proj, or nextn.eh_proj)".to_owned(),
            found: "a DSpark drafter, which this engine does not run".to_owned(),
        }),
    }
}

fn bind_ds4(find: &Finder<'_>) -> Result<MtpTensors> {
    let d = find.config.hidden;
    let name = |suffix: &str| format!("mtp.0.{suffix}.weight");
    Ok(MtpTensors {
        embedding_project: find.matrix(&name("e_proj"), d, d)?,
        streams_project: find.matrix(&name("h_proj"), d, d)?,
        embedding_norm: find.vector(&name("enorm"), d)?,
        streams_norm: find.vector(&name("hnorm"), d)?,
        block: find.layer("mtp.0.", LayerKind::SlidingWindow, RouterKind::TopK)?,
        hc: find.hc("mtp.0.hc_head_", find.config.hc.n_streams, 1)?,
        norm: find.vector(&name("norm"), d)?,
    })
}

fn bind_llama_cpp(find: &Finder<'_>, block: usize) -> Result<MtpTensors> {
    let d = find.config.hidden;
    let prefix = format!("blk.{block}.");
    let nextn = |suffix: &str| format!("{prefix}nextn.{suffix}.weight");
    // A side file carries the block's own head under the root names; inside the main file those
    // names are taken, so a file that holds both writes the block's under its own prefix.
    let own = format!("{prefix}nextn.hc_head_");
    let has_own = find.gguf.tensor(&format!("{own}fn.weight")).is_some();
    let side_file = find.gguf.tensor("blk.0.attn_norm.weight").is_none();
    let hc = if has_own {
        own
    } else if side_file {
        "output_hc_".to_owned()
    } else {
        return Err(Error::MissingTensor {
            path: find.gguf.path().to_owned(),
            name: format!("{own}fn.weight"),
            expected: "the MTP block's own stream collapse".to_owned(),
        });
    };
    let joint = find.matrix(&nextn("eh_proj"), d, 2 * d)?;
    let (embedding_project, streams_project) = split_columns(find, &joint)?;
    Ok(MtpTensors {
        embedding_project,
        streams_project,
        embedding_norm: find.vector(&nextn("enorm"), d)?,
        streams_norm: find.vector(&nextn("hnorm"), d)?,
        block: find.layer(&prefix, LayerKind::SlidingWindow, RouterKind::TopK)?,
        hc: find.hc(&hc, find.config.hc.n_streams, 1)?,
        norm: find.vector(&nextn("shared_head_norm"), d)?,
    })
}

/// Left and right half of a matrix whose input is two vectors one after the other.
fn split_columns(find: &Finder<'_>, joint: &HostTensor) -> Result<(HostTensor, HostTensor)> {
    let cols = joint.cols / 2;
    let Some(half) = joint.ty.row_bytes(cols) else {
        let expected = format!("two halves of whole {}-weight blocks", joint.ty.block_len());
        return Err(find.wrong(&joint.name, &expected, &format!("{cols} columns each")));
    };
    let part = |which: usize| {
        let rows = joint.data.bytes().chunks_exact(2 * half);
        let bytes = rows.flat_map(|row| &row[which * half..][..half]).copied().collect();
        HostTensor { cols, data: TensorData::from_vec(bytes), ..joint.clone() }
    };
    Ok((part(0), part(1)))
}
