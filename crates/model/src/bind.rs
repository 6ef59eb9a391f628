//! Binding: every tensor the configuration implies, found once, checked, held in a named field.

use gguf::{Gguf, TensorData};
use quant::TensorType;

use crate::config::{Config, LayerKind, RouterKind};
use crate::error::{Error, Result};

/// A tensor as it lies in the file: `experts` matrices of `rows` × `cols` (fan-in = `cols`).
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Name in the file, for messages.
    pub name: String,
    /// Storage type.
    pub ty: TensorType,
    /// Outputs of one matrix; 1 for a vector.
    pub rows: usize,
    /// Inputs of one matrix, or the vector's length.
    pub cols: usize,
    /// Stacked matrices; 1 unless the tensor holds routed experts.
    pub experts: usize,
    /// The bytes, shared with the mapping.
    pub data: TensorData,
}

/// Hyper-connection projection of one site or of the head.
#[derive(Clone, Debug)]
pub struct HcTensors {
    /// `[mix, streams · hidden]`.
    pub project: HostTensor,
    /// `[mix]`.
    pub base: HostTensor,
    /// `[3]` for a site, `[1]` for the head.
    pub scale: HostTensor,
}

/// One compressor; its row width is the norm's length.
#[derive(Clone, Debug)]
pub struct CompressorTensors {
    /// `[c · width, hidden]`; c is 2 for ratio 4, else 1.
    pub kv: HostTensor,
    /// `[c · width, hidden]`.
    pub gate: HostTensor,
    /// `[ratio, c · width]`.
    pub position_bias: HostTensor,
    /// `[width]`.
    pub norm: HostTensor,
}

/// The lightning indexer of a CSA layer.
#[derive(Clone, Debug)]
pub struct IndexerTensors {
    /// `[index heads · index dim, q_lora]`.
    pub q_b: HostTensor,
    /// `[index heads, hidden]`.
    pub proj: HostTensor,
    /// Makes the index rows.
    pub compressor: CompressorTensors,
}

/// Attention of one layer.
#[derive(Clone, Debug)]
pub struct AttentionTensors {
    /// `[q_lora, hidden]`.
    pub q_a: HostTensor,
    /// `[q_lora]`.
    pub q_a_norm: HostTensor,
    /// `[heads · head_dim, q_lora]`.
    pub q_b: HostTensor,
    /// `[head_dim, hidden]`.
    pub kv: HostTensor,
    /// `[head_dim]`.
    pub kv_norm: HostTensor,
    /// `[heads]`.
    pub sinks: HostTensor,
    /// `[groups · out_lora, heads · head_dim / groups]`.
    pub out_a: HostTensor,
    /// `[hidden, groups · out_lora]`.
    pub out_b: HostTensor,
    /// CSA and HCA layers.
    pub compressor: Option<CompressorTensors>,
    /// CSA layers.
    pub indexer: Option<IndexerTensors>,
}

/// Gate, up and down matrices of experts.
#[derive(Clone, Debug)]
pub struct ExpertTensors {
    /// `[inner, hidden]` each.
    pub gate: HostTensor,
    /// `[inner, hidden]` each.
    pub up: HostTensor,
    /// `[hidden, inner]` each.
    pub down: HostTensor,
}

/// How experts are chosen.
#[derive(Clone, Debug)]
pub enum RouterTensors {
    /// `[experts]`, added to the scores for selection only.
    TopK {
        /// The bias.
        bias: HostTensor,
    },
    /// Expert ids per token, `[vocab, used]`.
    Hash {
        /// The table, checked to be in range.
        table: HostTensor,
    },
}

/// Mixture of experts of one layer.
#[derive(Clone, Debug)]
pub struct MoeTensors {
    /// `[experts, hidden]`.
    pub gate: HostTensor,
    /// Selection.
    pub router: RouterTensors,
    /// Stacked routed experts.
    pub routed: ExpertTensors,
    /// The shared expert.
    pub shared: ExpertTensors,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct LayerTensors {
    /// Which attention it has.
    pub kind: LayerKind,
    /// Site around the attention.
    pub attn_hc: HcTensors,
    /// `[hidden]`.
    pub attn_norm: HostTensor,
    /// Attention.
    pub attn: AttentionTensors,
    /// Site around the experts.
    pub ffn_hc: HcTensors,
    /// `[hidden]`.
    pub ffn_norm: HostTensor,
    /// Experts.
    pub moe: MoeTensors,
}

/// Collapse, norm and projection to the vocabulary.
#[derive(Clone, Debug)]
pub struct HeadTensors {
    /// Collapse of the streams.
    pub hc: HcTensors,
    /// `[hidden]`.
    pub norm: HostTensor,
    /// `[vocab, hidden]`.
    pub output: HostTensor,
}

/// Every tensor of the main model.
#[derive(Clone, Debug)]
pub struct ModelTensors {
    /// `[vocab, hidden]`.
    pub embedding: HostTensor,
    /// Main layers.
    pub layers: Vec<LayerTensors>,
    /// Output head.
    pub head: HeadTensors,
}

/// Finds and checks every tensor of the main model (spec: model §2).
///
/// # Errors
/// A missing tensor, a wrong shape or an impossible type, by name.
pub fn bind(gguf: &Gguf, config: &Config) -> Result<ModelTensors> {
    let find = Finder { gguf, config };
    let layer =
        |(i, kind): (usize, &LayerKind)| find.layer(&format!("blk.{i}."), *kind, config.router(i));
    Ok(ModelTensors {
        embedding: find.matrix("token_embd.weight", config.n_vocab, config.hidden)?,
        layers: config.layers.iter().enumerate().map(layer).collect::<Result<_>>()?,
        head: HeadTensors {
            hc: find.hc("output_hc_", config.hc.n_streams, 1)?,
            norm: find.vector("output_norm.weight", config.hidden)?,
            output: find.matrix("output.weight", config.n_vocab, config.hidden)?,
        },
    })
}

/// Looks tensors up and checks shape and type.
pub(crate) struct Finder<'a> {
    pub(crate) gguf: &'a Gguf,
    pub(crate) config: &'a Config,
}

impl Finder<'_> {
    /// A matrix `[rows, cols]` of any type that can be decoded.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<HostTensor> {
        self.tensor(name, &[rows, cols], 1)
    }

    /// A vector of a float type.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<HostTensor> {
        let tensor = self.tensor(name, &[len], 1)?;
        self.expect_float(tensor)
    }

    pub(crate) fn expect_float(&self, tensor: HostTensor) -> Result<HostTensor> {
        if matches!(tensor.ty, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            Ok(tensor)
        } else {
            Err(self.wrong(&tensor.name, "type F32, F16 or BF16", tensor.ty.name()))
        }
    }

    pub(crate) fn hc(&self, prefix: &str, mix: usize, n_scales: usize) -> Result<HcTensors> {
        Ok(HcTensors {
            project: self.matrix(&format!("{prefix}fn.weight"), mix, self.config.streams_len())?,
            base: self.vector(&format!("{prefix}base.weight"), mix)?,
            scale: self.vector(&format!("{prefix}scale.weight"), n_scales)?,
        })
    }

    pub(crate) fn layer(
        &self,
        p: &str,
        kind: LayerKind,
        router: RouterKind,
    ) -> Result<LayerTensors> {
        let c = self.config;
        let mix = c.hc.mix_len();
        Ok(LayerTensors {
            kind,
            attn_hc: self.hc(&format!("{p}hc_attn_"), mix, 3)?,
            attn_norm: self.vector(&format!("{p}attn_norm.weight"), c.hidden)?,
            attn: self.attention(p, kind)?,
            ffn_hc: self.hc(&format!("{p}hc_ffn_"), mix, 3)?,
            ffn_norm: self.vector(&format!("{p}ffn_norm.weight"), c.hidden)?,
            moe: self.moe(p, router)?,
        })
    }

    fn attention(&self, p: &str, kind: LayerKind) -> Result<AttentionTensors> {
        let c = self.config;
        let low = c.n_out_groups * c.out_lora_rank;
        let attn = |suffix: &str| format!("{p}attn_{suffix}.weight");
        let compressor = match kind.ratio() {
            Some(ratio) => {
                Some(self.compressor(&format!("{p}attn_compressor_"), ratio, c.head_dim)?)
            }
            None => None,
        };
        let indexer = if kind == LayerKind::Csa { Some(self.indexer(p)?) } else { None };
        Ok(AttentionTensors {
            q_a: self.matrix(&attn("q_a"), c.q_lora_rank, c.hidden)?,
            q_a_norm: self.vector(&attn("q_a_norm"), c.q_lora_rank)?,
            q_b: self.matrix(&attn("q_b"), c.n_heads * c.head_dim, c.q_lora_rank)?,
            kv: self.matrix(&attn("kv"), c.head_dim, c.hidden)?,
            kv_norm: self.vector(&attn("kv_a_norm"), c.head_dim)?,
            sinks: self.vector(&attn("sinks"), c.n_heads)?,
            out_a: self.matrix(&attn("output_a"), low, c.n_heads * c.head_dim / c.n_out_groups)?,
            out_b: self.matrix(&attn("output_b"), c.hidden, low)?,
            compressor,
            indexer,
        })
    }

    fn compressor(&self, p: &str, ratio: usize, width: usize) -> Result<CompressorTensors> {
        let wide = if ratio == 4 { 2 * width } else { width };
        let bias = self.matrix(&format!("{p}ape.weight"), ratio, wide)?;
        Ok(CompressorTensors {
            kv: self.matrix(&format!("{p}kv.weight"), wide, self.config.hidden)?,
            gate: self.matrix(&format!("{p}gate.weight"), wide, self.config.hidden)?,
            position_bias: self.expect_float(bias)?,
            norm: self.vector(&format!("{p}norm.weight"), width)?,
        })
    }

    fn indexer(&self, p: &str) -> Result<IndexerTensors> {
        let (c, i) = (self.config, &self.config.indexer);
        let q_b = format!("{p}indexer.attn_q_b.weight");
        Ok(IndexerTensors {
            q_b: self.matrix(&q_b, i.n_heads * i.head_dim, c.q_lora_rank)?,
            proj: self.matrix(&format!("{p}indexer.proj.weight"), i.n_heads, c.hidden)?,
            compressor: self.compressor(&format!("{p}indexer_compressor_"), 4, i.head_dim)?,
        })
    }

    fn moe(&self, p: &str, router: RouterKind) -> Result<MoeTensors> {
        let c = self.config;
        let experts = |suffix: &str, n: usize| -> Result<ExpertTensors> {
            let name = |m: &str| format!("{p}ffn_{m}_{suffix}.weight");
            Ok(ExpertTensors {
                gate: self.tensor(&name("gate"), &[c.expert_inner, c.hidden], n)?,
                up: self.tensor(&name("up"), &[c.expert_inner, c.hidden], n)?,
                down: self.tensor(&name("down"), &[c.hidden, c.expert_inner], n)?,
            })
        };
        let router = match router {
            RouterKind::Hash => RouterTensors::Hash { table: self.hash_table(p)? },
            RouterKind::TopK => RouterTensors::TopK {
                bias: self.vector(&format!("{p}exp_probs_b.bias"), c.n_experts)?,
            },
        };
        Ok(MoeTensors {
            gate: self.matrix(&format!("{p}ffn_gate_inp.weight"), c.n_experts, c.hidden)?,
            router,
            routed: experts("exps", c.n_experts)?,
            shared: experts("shexp", 1)?,
        })
    }

    /// The token table; every id is checked, since kernels index with them.
    fn hash_table(&self, p: &str) -> Result<HostTensor> {
        let name = format!("{p}ffn_gate_tid2eid.weight");
        let c = self.config;
        let dims = [c.n_vocab, c.n_experts_used];
        let table = self.located(&name, &dims, 1)?;
        if table.ty != TensorType::I32 {
            return Err(self.wrong(&name, "type I32", table.ty.name()));
        }
        let id = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let bad = table
            .data
            .bytes()
            .chunks_exact(4)
            .map(id)
            .find(|&id| usize::try_from(id).map_or(true, |id| id >= c.n_experts));
        match bad {
            Some(id) => Err(self.wrong(
                &name,
                &format!("expert ids below {}", c.n_experts),
                &id.to_string(),
            )),
            None => Ok(table),
        }
    }

    fn tensor(&self, name: &str, dims: &[usize], experts: usize) -> Result<HostTensor> {
        let tensor = self.located(name, dims, experts)?;
        if tensor.ty.is_float() || tensor.ty.is_quantised() {
            Ok(tensor)
        } else {
            Err(self.wrong(name, "a float or quantised type", tensor.ty.name()))
        }
    }

    /// Finds a tensor and checks its shape, given outermost first.
    fn located(&self, name: &str, dims: &[usize], experts: usize) -> Result<HostTensor> {
        let stacked = if experts > 1 { vec![experts] } else { Vec::new() };
        let shape: Vec<u64> = stacked.iter().chain(dims).rev().map(|&dim| dim as u64).collect();
        let Some(info) = self.gguf.tensor(name) else {
            return Err(Error::MissingTensor {
                path: self.gguf.path().to_owned(),
                name: name.to_owned(),
                expected: format!("shape {shape:?}"),
            });
        };
        // Trailing dimensions of 1 say nothing: a single expert may be stored as a plain matrix.
        let trimmed = |dims: &[u64]| {
            let end = dims.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
            dims[..end.min(dims.len())].to_vec()
        };
        if trimmed(&info.dims) != trimmed(&shape) {
            let found = format!("{:?}", info.dims);
            return Err(self.wrong(name, &format!("shape {shape:?}"), &found));
        }
        let (rows, cols) = match dims {
            [cols] => (1, *cols),
            [rows, cols] => (*rows, *cols),
            _ => unreachable!("shapes here have one or two dimensions"),
        };
        let data = self.gguf.data(info);
        Ok(HostTensor { name: name.to_owned(), ty: info.ty, rows, cols, experts, data })
    }

    pub(crate) fn wrong(&self, name: &str, expected: &str, found: &str) -> Error {
        Error::Tensor {
            path: self.gguf.path().to_owned(),
            name: name.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}
