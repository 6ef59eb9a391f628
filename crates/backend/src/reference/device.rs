//! Memory of the reference backend: plain vectors.

use std::ops::Range;

use model::HostTensor;

use super::{Floats, Reference, Weight};
use crate::device::{Act, Device, Ids, Shape};
use crate::error::{Error, Result};
use crate::host_kv::HostKv;
use crate::kv::KvLayout;
use crate::scratch::Scratch;
use crate::step::Step;

const NAME: &str = "reference";

impl Device for Reference {
    type Buf = Floats;
    type IdBuf = Vec<u32>;
    type Weight = Weight;
    type Kv = HostKv;

    fn name(&self) -> &'static str {
        NAME
    }

    fn scratch_bytes(&self, shape: &Shape) -> usize {
        Scratch::<Floats, Vec<u32>>::bytes(shape)
    }

    fn prepare(&mut self, shape: &Shape) -> Result<()> {
        check_format(NAME, shape)?;
        self.scratch = Some(Box::new(Scratch::alloc(self, shape)?));
        self.shape = Some(shape.clone());
        Ok(())
    }

    fn alloc(&mut self, label: &'static str, rows: usize, cols: usize) -> Result<Act<Floats>> {
        Ok(Act { buf: vec![0.0; rows * cols], rows, cols, label })
    }

    fn alloc_ids(
        &mut self,
        label: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<Ids<Vec<u32>>> {
        Ok(Ids { buf: vec![0; rows * cols], rows, cols, label })
    }

    fn load(&mut self, tensor: &HostTensor) -> Result<Weight> {
        if tensor.ty.row_bytes(tensor.cols).is_none() {
            return Err(Error::Unsupported {
                device: NAME,
                what: tensor.name.clone(),
                expected: format!("a multiple of {} columns", tensor.ty.block_len()),
                found: tensor.cols.to_string(),
            });
        }
        let rounding = self.rounds.and_then(|rounds| rounds(&tensor.name, tensor.ty));
        Ok(Weight { tensor: tensor.clone(), rounding })
    }

    fn write(&mut self, dst: &mut Act<Floats>, first: usize, src: &[f32]) -> Result<()> {
        dst.buf[first * dst.cols..][..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn read(&mut self, src: &Act<Floats>, first: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&src.buf[first * src.cols..][..out.len()]);
        Ok(())
    }

    fn read_ids(&mut self, src: &Ids<Vec<u32>>, first: usize, out: &mut [u32]) -> Result<()> {
        out.copy_from_slice(&src.buf[first * src.cols..][..out.len()]);
        Ok(())
    }

    fn begin(&mut self, _step: &Step) -> Result<()> {
        Ok(())
    }

    fn interruptible(&self) -> bool {
        true
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<HostKv> {
        HostKv::new(NAME, layout)
    }

    fn commit(
        &mut self,
        kv: &mut HostKv,
        step: &Step,
        layers: Range<usize>,
        accepted: &[u32],
    ) -> Result<()> {
        kv.commit(step, layers, accepted);
        Ok(())
    }

    fn copy_page(&mut self, kv: &mut HostKv, from: u32, to: u32) -> Result<()> {
        kv.copy_page(from, to);
        Ok(())
    }

    fn read_page(&mut self, kv: &HostKv, page: u32, out: &mut Vec<u8>) -> Result<()> {
        kv.read_page(page, out);
        Ok(())
    }

    fn write_page(&mut self, kv: &mut HostKv, page: u32, bytes: &[u8]) -> Result<()> {
        kv.write_page(page, bytes)
    }

    fn read_anchor(
        &mut self,
        kv: &HostKv,
        slot: u32,
        lens: &[usize],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        kv.read_anchor(slot, lens, out);
        Ok(())
    }

    fn write_anchor(
        &mut self,
        kv: &mut HostKv,
        slot: u32,
        lens: &[usize],
        bytes: &[u8],
    ) -> Result<()> {
        kv.write_anchor(slot, lens, bytes)
    }
}

/// The Hadamard rotation of the Model row format needs a power of two.
pub(crate) fn check_format(device: &'static str, shape: &Shape) -> Result<()> {
    let dim = shape.config.indexer.head_dim;
    let has_index = shape.config.layers.contains(&model::LayerKind::Csa);
    if shape.format.rounds() && has_index && !(dim.is_power_of_two() && dim >= 32) {
        return Err(Error::Unsupported {
            device,
            what: "attention.indexer.key_length with `model` numerics".to_owned(),
            expected: "a power of two from 32 on".to_owned(),
            found: dim.to_string(),
        });
    }
    Ok(())
}
