//! Memory of the CUDA backend.

use std::ops::Range;

use backend::{Act, Device, Error, Ids, KvLayout, Result, Scratch, Shape, Step};
use model::{HostTensor, LayerKind};
use quant::TensorType;

use crate::gpu::{Buffer, NAME};
use crate::kv::Kv;
use crate::step::Mirror;
use crate::weight::Weight;
use crate::{
    Cuda, Prepared, attend, attention, hyper_connection, index_top_k, matmul, mixture, rope_tail,
    sample, site,
};

/// Rows of a step: blocks in a grid's second dimension.
const ROWS_MAX: usize = 65_535;
/// Experts whose scores fit into a block's shared memory.
const EXPERTS_MAX: usize = 6144;
/// Channels of an index query that fit into a block's shared memory.
const INDEX_DIM_MAX: usize = 8192;

impl Device for Cuda {
    type Buf = Buffer;
    type IdBuf = Buffer;
    type Weight = Weight;
    type Kv = Kv;

    fn name(&self) -> &'static str {
        NAME
    }

    fn scratch_bytes(&self, shape: &Shape) -> usize {
        Scratch::<Buffer, Buffer>::bytes(shape)
            + Mirror::bytes(shape)
            + matmul::Workspace::bytes(&self.gpu, shape)
            + hyper_connection::Workspace::bytes(shape)
            + attention::Workspace::bytes(shape)
            + attend::Workspace::bytes(shape)
            + mixture::Workspace::bytes(shape)
            + site::Workspace::bytes(shape)
            + index_top_k::Workspace::bytes(&self.gpu, shape)
            + sample::Workspace::bytes(shape)
            + Kv::overhead(shape.config.n_layers() + 1, shape.limits.n_slots)
    }

    /// Matrices in the layout of their kernels, vectors and what has no layout as f32.
    fn weight_bytes(&self, ty: TensorType, dims: &[u64], n_bytes: u64) -> u64 {
        let n: u64 = dims.iter().product();
        let dim = |i: usize| dims.get(i).map_or(1, |n| *n as usize);
        match dims {
            [] | [_] => 4 * n,
            _ if ty.is_integer() => n_bytes,
            _ => {
                let bytes = matmul::matrix_bytes(ty, dim(2), dim(1), dim(0));
                bytes.map_or(n_bytes, |bytes| bytes as u64)
            }
        }
    }

    fn prepare(&mut self, shape: &Shape) -> Result<()> {
        check(shape, self.gpu.description().shared_max)?;
        self.scratch = Some(Box::new(Scratch::alloc(self, shape)?));
        self.prepared = Some(Prepared {
            shape: shape.clone(),
            mirror: Mirror::new(&self.gpu, shape)?,
            products: matmul::Workspace::new(&self.gpu, shape)?,
            hyper_connection: hyper_connection::Workspace::new(&self.gpu, shape)?,
            projections: attention::Workspace::new(&self.gpu, shape)?,
            attention: attend::Workspace::new(&self.gpu, shape)?,
            mixture: mixture::Workspace::new(&self.gpu, shape)?,
            site: site::Workspace::new(&self.gpu, shape)?,
            index: index_top_k::Workspace::new(&self.gpu, shape)?,
            sample: sample::Workspace::new(&self.gpu, shape)?,
        });
        Ok(())
    }

    fn alloc(&mut self, label: &'static str, rows: usize, cols: usize) -> Result<Act<Buffer>> {
        Ok(Act { buf: self.gpu.alloc(label, 4 * rows * cols)?, rows, cols, label })
    }

    fn alloc_ids(&mut self, label: &'static str, rows: usize, cols: usize) -> Result<Ids<Buffer>> {
        Ok(Ids { buf: self.gpu.alloc(label, 4 * rows * cols)?, rows, cols, label })
    }

    fn load(&mut self, tensor: &HostTensor) -> Result<Weight> {
        Weight::load(&self.gpu, tensor)
    }

    fn load_vector(&mut self, tensor: &HostTensor) -> Result<Weight> {
        Weight::vector(&self.gpu, tensor)
    }

    fn ready(&mut self) -> Result<()> {
        self.gpu.settled()?.ready()
    }

    fn rehearsal(&self) -> &'static [usize] {
        // A short prompt and a longer one take other kernels than a token, and a token's step is
        // recorded the second time it is computed. The emulator has nothing to load.
        if self.gpu.has_ptx() { &[1, 1, 20, 100] } else { &[] }
    }

    fn write(&mut self, dst: &mut Act<Buffer>, first: usize, src: &[f32]) -> Result<()> {
        self.gpu.upload(&dst.buf, 4 * first * dst.cols, bytemuck::cast_slice(src))
    }

    fn read(&mut self, src: &Act<Buffer>, first: usize, out: &mut [f32]) -> Result<()> {
        self.gpu.download(&src.buf, 4 * first * src.cols, bytemuck::cast_slice_mut(out))
    }

    fn read_ids(&mut self, src: &Ids<Buffer>, first: usize, out: &mut [u32]) -> Result<()> {
        self.gpu.download(&src.buf, 4 * first * src.cols, bytemuck::cast_slice_mut(out))
    }

    fn begin(&mut self, step: &Step) -> Result<()> {
        // Forgetting `prepare` is a programmer's error.
        let Some(prepared) = &mut self.prepared else { panic!("prepare comes first") };
        let key = prepared.mirror.write(&self.gpu, step)?;
        prepared.products.forget_records();
        self.gpu.begin(key)
    }

    fn submit(&mut self) -> Result<()> {
        self.gpu.submit()
    }

    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<Kv> {
        Kv::new(&self.gpu, layout)
    }

    fn commit(
        &mut self,
        kv: &mut Kv,
        step: &Step,
        layers: Range<usize>,
        accepted: &[u32],
    ) -> Result<()> {
        let Some(prepared) = &mut self.prepared else { panic!("prepare comes first") };
        // The draft block's steps come between a step and its commit.
        prepared.mirror.write(&self.gpu, step)?;
        kv.commit(&self.gpu, &prepared.mirror, step, layers, accepted)
    }

    fn copy_page(&mut self, kv: &mut Kv, from: u32, to: u32) -> Result<()> {
        kv.copy_page(&self.gpu, from, to)
    }

    fn read_page(&mut self, kv: &Kv, page: u32, out: &mut Vec<u8>) -> Result<()> {
        kv.read_page(&self.gpu, page, out)
    }

    fn write_page(&mut self, kv: &mut Kv, page: u32, bytes: &[u8]) -> Result<()> {
        kv.write_page(&self.gpu, page, bytes)
    }

    fn read_anchor(&mut self, kv: &Kv, slot: u32, lens: &[usize], out: &mut Vec<u8>) -> Result<()> {
        kv.read_anchor(&self.gpu, slot, lens, out)
    }

    fn write_anchor(&mut self, kv: &mut Kv, slot: u32, lens: &[usize], bytes: &[u8]) -> Result<()> {
        kv.write_anchor(&self.gpu, slot, lens, bytes)
    }
}

/// What the kernels have room for.
fn check(shape: &Shape, shared_max: usize) -> Result<()> {
    let c = &shape.config;
    let need = |ok: bool, what: &str, expected: String, found: usize| match ok {
        true => Ok(()),
        false => Err(Error::Unsupported {
            device: NAME,
            what: what.to_owned(),
            expected,
            found: found.to_string(),
        }),
    };
    let rows = shape.limits.step_rows;
    need(rows <= ROWS_MAX, "chunk", format!("at most {ROWS_MAX} tokens"), rows)?;
    let heads = attend::shared_bytes(c.head_dim) <= shared_max && c.head_dim <= attend::DIM_MAX;
    let dim_max = attend::DIM_MAX.min(shared_max / attend::shared_bytes(4) * 4);
    need(heads, "attention.key_length", format!("at most {dim_max}"), c.head_dim)?;
    let rope_max = 2 * rope_tail::PAIRS_MAX;
    let rope = c.rope_dim <= rope_max;
    need(rope, "rope.dimension_count", format!("at most {rope_max}"), c.rope_dim)?;
    let experts = c.n_experts <= EXPERTS_MAX;
    need(experts, "expert_count", format!("at most {EXPERTS_MAX}"), c.n_experts)?;
    if !c.layers.contains(&LayerKind::Csa) {
        return Ok(());
    }
    let dim = c.indexer.head_dim;
    let what = "attention.indexer.key_length";
    need(dim <= INDEX_DIM_MAX, what, format!("at most {INDEX_DIM_MAX}"), dim)?;
    // The Hadamard rotation of the Model row format needs a power of two.
    let rotates = !shape.format.rounds() || (dim.is_power_of_two() && dim >= 32);
    need(rotates, what, "a power of two from 32 on, with `model` numerics".to_owned(), dim)
}
