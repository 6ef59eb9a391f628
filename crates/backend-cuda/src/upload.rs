//! A file's weights on their way to the device, piece by piece.

use backend::{Error, Result};
use model::HostTensor;

use crate::gpu::{Buffer, DevicePtr, Gpu};

/// Bytes of a piece, about.
pub(crate) const PIECE: usize = 2 << 20;

/// Reads bytes of a tensor from `at` on; how many that were.
pub(crate) fn read(t: &HostTensor, at: usize, out: &mut [u8]) -> Result<usize> {
    let read = t.data.copy_to(at, out);
    read.map_err(|error| Error::Read { name: t.name.clone(), what: error.to_string() })?;
    Ok(out.len())
}

/// A tensor as it lies in the file.
pub(crate) fn plain(gpu: &Gpu, t: &HostTensor, to: &Buffer) -> Result<()> {
    let bytes = t.data.n_bytes();
    let fill = |at: usize, out: &mut [u8]| read(t, at, out);
    stream(gpu, to, bytes, PIECE / t.ty.block_bytes() * t.ty.block_bytes(), &fill)
}

/// A tensor's values, as f32.
pub(crate) fn decoded(gpu: &Gpu, t: &HostTensor, to: &Buffer) -> Result<()> {
    let (len, block) = (t.ty.block_len(), t.ty.block_bytes());
    let blocks = PIECE / (4 * len);
    let fill = |at: usize, out: &mut [u8]| {
        let n = out.len() / 4 / len;
        let mut bytes = vec![0; n * block];
        read(t, at / 4 / len * block, &mut bytes)?;
        let mut values = vec![0.0; n * len];
        quant::decode(t.ty, &bytes, &mut values)
            .map_err(|source| Error::Decode { name: t.name.clone(), source })?;
        let (words, _) = out.as_chunks_mut();
        words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_le_bytes());
        Ok(out.len())
    };
    stream(gpu, to, t.data.n_bytes() / block * len * 4, 4 * blocks * len, &fill)
}

/// `bytes` bytes in pieces of `piece`; `fill` makes those from a place on.
fn stream(
    gpu: &Gpu,
    to: &Buffer,
    bytes: usize,
    piece: usize,
    fill: &(dyn Fn(usize, &mut [u8]) -> Result<usize> + Sync),
) -> Result<()> {
    assert!(bytes <= to.bytes(), "{bytes} bytes for {to:?}");
    let (driver, to) = (gpu.settled()?, to.ptr());
    let size = |i: usize| piece.min(bytes - i * piece);
    let fill = |i: usize, out: &mut [u8]| fill(i * piece, &mut out[..size(i)]);
    let sent = |i: usize, from: DevicePtr| driver.copy(from, to.add(i * piece), size(i));
    driver.stream_in(bytes.div_ceil(piece), piece, &fill, &sent)
}
