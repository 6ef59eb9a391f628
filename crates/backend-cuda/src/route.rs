//! Which experts a row uses and with what weight.

use backend::{Act, Result, Routing};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};

const ROUTE: Kernel = Kernel::new("route", "route");

#[repr(C)]
#[derive(Clone, Copy)]
struct RouteArgs {
    logits: DevicePtr,
    bias: DevicePtr,
    table: DevicePtr,
    ids: DevicePtr,
    weights: DevicePtr,
    step: DevicePtr,
    n_experts: u32,
    used: u32,
    scale: f32,
    pad: u32,
}

// SAFETY: the struct of cuda/route.cu, without padding.
unsafe impl Args for RouteArgs {}

/// How experts are chosen.
pub(crate) enum Choice {
    /// By score plus this bias.
    Bias(DevicePtr),
    /// By this table over tokens.
    Table(DevicePtr),
}

pub(crate) fn route(
    parts: &Parts<'_>,
    routing: &Routing<Buffer, Buffer>,
    logits: &Act<Buffer>,
    choice: &Choice,
    n_rows: usize,
) -> Result<()> {
    let (bias, table) = match choice {
        Choice::Bias(bias) => (*bias, DevicePtr::NULL),
        Choice::Table(table) => (DevicePtr::NULL, *table),
    };
    let args = RouteArgs {
        logits: logits.buf.ptr(),
        bias,
        table,
        ids: routing.ids.buf.ptr(),
        weights: routing.weights.buf.ptr(),
        step: parts.mirror.ptr(),
        n_experts: logits.cols as u32,
        used: routing.ids.cols as u32,
        scale: parts.shape.config.route_scale,
        pad: 0,
    };
    parts.gpu.launch(&ROUTE, Launch::new(n_rows, 256).shared(8 * logits.cols), &args)
}
