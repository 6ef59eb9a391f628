//! Memory and a queue of work. Knows nothing about transformers but the store of their KV.

use model::{Config, HostTensor};
use quant::TensorType;

use crate::error::Result;
use crate::kv::{KvLayout, RowFormat};
use crate::step::Step;

/// One dense f32 activation, `rows` × `cols`, row-major, on the device.
#[derive(Debug)]
pub struct Act<B> {
    /// The device's memory.
    pub buf: B,
    /// Capacity in rows.
    pub rows: usize,
    /// Channels of a row.
    pub cols: usize,
    /// What it holds; appears in errors and traces.
    pub label: &'static str,
}

/// `rows` × `cols` indices on the device: selected rows or chosen experts.
#[derive(Debug)]
pub struct Ids<I> {
    /// The device's memory.
    pub buf: I,
    /// Capacity in rows.
    pub rows: usize,
    /// Indices of a row.
    pub cols: usize,
    /// What it holds.
    pub label: &'static str,
}

/// Largest sizes that one engine will ask for; everything is allocated to them at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of the largest step.
    pub step_rows: usize,
    /// Rows of a step that may want logits.
    pub logit_rows: usize,
    /// Sequences held at once.
    pub n_slots: usize,
    /// Largest context of a sequence, in tokens.
    pub context: usize,
}

/// What operations need to know about the model beside their arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The model's constants.
    pub config: Config,
    /// Row format, which also decides the numerics.
    pub format: RowFormat,
    /// Largest sizes.
    pub limits: Limits,
}

/// A device: buffers, weights and KV.
///
/// Sizes are fixed by [`Device::prepare`]; after it, no method but `alloc*` and `load*` may
/// allocate.
pub trait Device {
    /// Memory of f32 values.
    type Buf;
    /// Memory of indices.
    type IdBuf;
    /// A weight, held as the backend likes: resident, split by expert, paged or mapped.
    type Weight;
    /// The KV store of all slots.
    type Kv;

    /// Short name: `reference`, `cpu`, `cuda`.
    fn name(&self) -> &'static str;

    /// Bytes that [`Device::prepare`] and the buffers of an engine of this shape will take beside
    /// weights, KV and the buffers of [`Device::alloc`]. Exact: the memory plan prints it.
    fn scratch_bytes(&self, shape: &Shape) -> usize;

    /// Bytes that a tensor of a file, of `n_bytes` there and with these dimensions (innermost first),
    /// takes once it is loaded.
    fn weight_bytes(&self, _ty: TensorType, _dims: &[u64], n_bytes: u64) -> u64 {
        n_bytes
    }

    /// Allocates scratch for `shape`. Called once, before any operation.
    ///
    /// # Errors
    /// Memory cannot be had, or the backend cannot compute this shape.
    fn prepare(&mut self, shape: &Shape) -> Result<()>;

    /// A zeroed activation.
    ///
    /// # Errors
    /// Memory cannot be had.
    fn alloc(&mut self, label: &'static str, rows: usize, cols: usize) -> Result<Act<Self::Buf>>;

    /// Zeroed indices.
    ///
    /// # Errors
    /// Memory cannot be had.
    fn alloc_ids(
        &mut self,
        label: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<Ids<Self::IdBuf>>;

    /// Takes a weight as it lies in the file.
    ///
    /// # Errors
    /// Memory cannot be had, or the type cannot be computed with.
    fn load(&mut self, tensor: &HostTensor) -> Result<Self::Weight>;

    /// Takes a weight that is used value by value (norms, biases, sinks, position biases), not in
    /// products.
    ///
    /// # Errors
    /// As [`Device::load`].
    fn load_vector(&mut self, tensor: &HostTensor) -> Result<Self::Weight> {
        self.load(tensor)
    }

    /// Takes weights that are read together; a backend may lay them side by side.
    ///
    /// # Errors
    /// As [`Device::load`].
    fn load_group<const N: usize>(
        &mut self,
        tensors: [&HostTensor; N],
    ) -> Result<[Self::Weight; N]> {
        let mut loaded = Vec::with_capacity(N);
        for tensor in tensors {
            loaded.push(self.load(tensor)?);
        }
        Ok(loaded.try_into().unwrap_or_else(|_| unreachable!("one weight per tensor")))
    }

    /// Everything is loaded and allocated: gives back what only loading needed, and makes ready what a
    /// first step would wait for.
    ///
    /// # Errors
    /// The device is lost.
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Rows of steps that an engine computes and forgets before its first, in this order, so that what
    /// is made at first use is there.
    fn rehearsal(&self) -> &'static [usize] {
        &[]
    }

    /// Writes rows of an activation, from row `first` on.
    ///
    /// # Errors
    /// The device is lost.
    fn write(&mut self, dst: &mut Act<Self::Buf>, first: usize, src: &[f32]) -> Result<()>;

    /// Reads rows of an activation, from row `first` on. Waits for the device.
    ///
    /// # Errors
    /// The device is lost.
    fn read(&mut self, src: &Act<Self::Buf>, first: usize, out: &mut [f32]) -> Result<()>;

    /// Reads rows of indices, from row `first` on. Waits for the device.
    ///
    /// # Errors
    /// The device is lost.
    fn read_ids(&mut self, src: &Ids<Self::IdBuf>, first: usize, out: &mut [u32]) -> Result<()>;

    /// Announces the step that the following operations compute. A backend may mirror it in
    /// device memory, record, and replay.
    ///
    /// # Errors
    /// The device is lost.
    fn begin(&mut self, step: &Step) -> Result<()>;

    /// Whether a step that was begun may be left without [`Device::submit`]: true where operations
    /// compute when they are called, and a long chunk can take seconds.
    fn interruptible(&self) -> bool {
        false
    }

    /// Hands the recorded work of the step to the device.
    ///
    /// # Errors
    /// The device is lost.
    fn submit(&mut self) -> Result<()>;

    /// Allocates the KV store.
    ///
    /// # Errors
    /// Memory cannot be had.
    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<Self::Kv>;

    /// Appends the first `accepted[i]` staged rows of the step's span `i` in `layers`; the rest of
    /// the staging area is forgotten.
    ///
    /// # Errors
    /// The device is lost.
    fn commit(
        &mut self,
        kv: &mut Self::Kv,
        step: &Step,
        layers: std::ops::Range<usize>,
        accepted: &[u32],
    ) -> Result<()>;

    /// Copies page `from` over page `to`.
    ///
    /// # Errors
    /// The device is lost.
    fn copy_page(&mut self, kv: &mut Self::Kv, from: u32, to: u32) -> Result<()>;

    /// Appends a page's bytes to `out`, layer by layer.
    ///
    /// # Errors
    /// The device is lost.
    fn read_page(&mut self, kv: &Self::Kv, page: u32, out: &mut Vec<u8>) -> Result<()>;

    /// Overwrites a page with bytes made by [`Device::read_page`].
    ///
    /// # Errors
    /// The bytes have another length.
    fn write_page(&mut self, kv: &mut Self::Kv, page: u32, bytes: &[u8]) -> Result<()>;

    /// Appends what resuming `slot` at `lens[layer]` committed positions needs beside pages.
    ///
    /// # Errors
    /// The device is lost.
    fn read_anchor(
        &mut self,
        kv: &Self::Kv,
        slot: u32,
        lens: &[usize],
        out: &mut Vec<u8>,
    ) -> Result<()>;

    /// Restores a slot from bytes made by [`Device::read_anchor`] at the same lengths.
    ///
    /// # Errors
    /// The bytes have another length.
    fn write_anchor(
        &mut self,
        kv: &mut Self::Kv,
        slot: u32,
        lens: &[usize],
        bytes: &[u8],
    ) -> Result<()>;
}
