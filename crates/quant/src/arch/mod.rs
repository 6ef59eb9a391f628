//! One table of kernels per instruction set, all with the bits of [`generic`].

pub(crate) mod generic;
pub(crate) mod vector;

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

use crate::dot::{Acts, Expand, Out, PoolEntry, RoundedRowMut, Scratch, WeightedSum, Weights};

/// The kernels of one instruction set. Calling one is safe where [`available`] lists the table and
/// [`Kernels`](crate::dot::Kernels) has checked the shapes.
pub(crate) struct Isa {
    pub(crate) name: &'static str,
    pub(crate) quantize: unsafe fn(&[f32], &mut RoundedRowMut<'_>),
    pub(crate) matmul: unsafe fn(&Weights<'_>, &Acts<'_>, &mut Out<'_>, &mut Scratch),
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) exp_sum: unsafe fn(&mut [f32], f32) -> f32,
    pub(crate) scale_max: unsafe fn(&mut [f32], f32, f32) -> f32,
    pub(crate) expand: unsafe fn(&Expand<'_>, &mut [f32]),
    pub(crate) swiglu: unsafe fn(&mut [f32], &[f32], f32, f32),
    pub(crate) pool: unsafe fn(&PoolEntry<'_>, &mut [f32], &mut [f32]),
    pub(crate) weighted_sum: unsafe fn(&WeightedSum<'_>, &mut [f32]),
}

/// The portable table.
pub(crate) static GENERIC: Isa = Isa {
    name: "generic",
    quantize: generic::quantize,
    matmul: generic::matmul,
    dot: generic::dot,
    exp_sum: vector::exp_sum,
    scale_max: vector::scale_max,
    expand: vector::expand,
    swiglu: vector::swiglu,
    pool: vector::pool,
    weighted_sum: vector::weighted_sum::<4>,
};

/// The tables that this machine can run, slowest first.
pub(crate) fn available() -> Vec<&'static Isa> {
    #[allow(unused_mut)] // Other architectures than those below have only the portable table.
    let mut tables = vec![&GENERIC];
    #[cfg(target_arch = "aarch64")]
    tables.extend(aarch64::available());
    #[cfg(target_arch = "x86_64")]
    tables.extend(x86_64::available());
    tables
}
