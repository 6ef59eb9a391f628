//! Memory of the CPU backend: plain vectors and the host KV store.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use backend::{Act, Device, Error, HostKv, Ids, KvLayout, Result, Scratch, Shape, Step, taken};
use model::{HostTensor, LayerKind};

use crate::parallel::SharedRows;
use crate::work::Work;
use crate::{Cpu, Floats, Weight};

pub(crate) const NAME: &str = "cpu";

impl Device for Cpu {
    type Buf = Floats;
    type IdBuf = Vec<u32>;
    type Weight = Weight;
    type Kv = HostKv;

    fn name(&self) -> &'static str {
        NAME
    }

    fn scratch_bytes(&self, shape: &Shape) -> usize {
        Scratch::<Floats, Vec<u32>>::bytes(shape) + Work::bytes(shape, self.pool.threads())
    }

    fn prepare(&mut self, shape: &Shape) -> Result<()> {
        check_index_width(shape)?;
        self.scratch = Some(Box::new(Scratch::alloc(self, shape)?));
        self.work = Some(Box::new(Work::new(shape, self.pool.threads())));
        self.shape = Some(shape.clone());
        Ok(())
    }

    fn alloc(&mut self, label: &'static str, rows: usize, cols: usize) -> Result<Act<Floats>> {
        Ok(Act { buf: taken(rows * cols), rows, cols, label })
    }

    fn alloc_ids(
        &mut self,
        label: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<Ids<Vec<u32>>> {
        Ok(Ids { buf: taken(rows * cols), rows, cols, label })
    }

    fn load(&mut self, tensor: &HostTensor) -> Result<Weight> {
        Weight::new(tensor)
    }

    fn load_vector(&mut self, tensor: &HostTensor) -> Result<Weight> {
        Weight::vector(tensor)
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
        // One row is copied sooner than a thread is woken.
        if step.rows.len() < 2 {
            kv.commit(step, layers, accepted);
            return Ok(());
        }
        let (layers, layout) = kv.layers_mut(layers);
        let (n, layers, next) = (layers.len(), SharedRows::new(layers), AtomicUsize::new(0));
        self.pool.run(|_| {
            let take = || Some(next.fetch_add(1, Relaxed)).filter(|i| *i < n);
            while let Some(i) = take() {
                // SAFETY: a layer is taken once.
                let layer = unsafe { layers.get(i, 1) };
                layer.iter_mut().for_each(|layer| layer.commit(layout, step, accepted));
            }
        });
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
fn check_index_width(shape: &Shape) -> Result<()> {
    let dim = shape.config.indexer.head_dim;
    let has_index = shape.config.layers.contains(&LayerKind::Csa);
    if shape.format.rounds() && has_index && !(dim.is_power_of_two() && dim >= 32) {
        return Err(Error::Unsupported {
            device: NAME,
            what: "attention.indexer.key_length with `model` numerics".to_owned(),
            expected: "a power of two from 32 on".to_owned(),
            found: dim.to_string(),
        });
    }
    Ok(())
}
