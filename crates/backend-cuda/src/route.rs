//! Which experts a row uses and with what weight.

use backend::{Act, Result, Routing};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};
use crate::matmul::Matrix;

const ROUTE: Kernel = Kernel::new("route", "route");
const ROUTER: Kernel = Kernel::new("route", "router");
/// Threads and experts of a block of `router`, as in cuda/route.cu.
const ROUTER_THREADS: u32 = 256;
const ROUTER_EXPERTS: usize = 2;
/// With more rows the weights of the router are worth reading once for all.
const ROUTER_ROWS: usize = 8;

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

#[repr(C)]
#[derive(Clone, Copy)]
struct RouterArgs {
    route: RouteArgs,
    x: DevicePtr,
    gate: DevicePtr,
    done: DevicePtr,
    gate_type: u32,
    hidden: u32,
    n_rows: u32,
    pad: u32,
}

// SAFETY: the struct of cuda/route.cu, without padding.
unsafe impl Args for RouterArgs {}

/// How experts are chosen.
pub(crate) enum Choice {
    /// By score plus this bias.
    Bias(DevicePtr),
    /// By this table over tokens.
    Table(DevicePtr),
}

fn route_args(
    parts: &Parts<'_>,
    routing: &Routing<Buffer, Buffer>,
    logits: &Act<Buffer>,
    choice: &Choice,
) -> RouteArgs {
    let (bias, table) = match choice {
        Choice::Bias(bias) => (*bias, DevicePtr::NULL),
        Choice::Table(table) => (DevicePtr::NULL, *table),
    };
    RouteArgs {
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
    }
}

/// The choice from given logits.
pub(crate) fn route(
    parts: &Parts<'_>,
    routing: &Routing<Buffer, Buffer>,
    logits: &Act<Buffer>,
    choice: &Choice,
    n_rows: usize,
) -> Result<()> {
    let args = route_args(parts, routing, logits, choice);
    parts.gpu.launch(&ROUTE, Launch::new(n_rows, 256).shared(8 * logits.cols), &args)
}

/// The logits too, for few rows and plain weights of a width in eights; otherwise nothing is done, and
/// the answer is false.
pub(crate) fn router(
    parts: &Parts<'_>,
    routing: &Routing<Buffer, Buffer>,
    (logits, x): (&Act<Buffer>, &Act<Buffer>),
    gate: &Matrix,
    choice: &Choice,
    n_rows: usize,
) -> Result<bool> {
    let Some((weights, ty)) = gate.floats().filter(|_| x.cols.is_multiple_of(8)) else {
        return Ok(false);
    };
    if n_rows > ROUTER_ROWS {
        return Ok(false);
    }
    let args = RouterArgs {
        route: route_args(parts, routing, logits, choice),
        x: x.buf.ptr(),
        gate: weights,
        done: parts.mixture.done.ptr(),
        gate_type: ty as u32,
        hidden: x.cols as u32,
        n_rows: n_rows as u32,
        pad: 0,
    };
    let blocks = logits.cols.div_ceil(ROUTER_EXPERTS);
    let launch = Launch::new(blocks, ROUTER_THREADS).shared(8 * logits.cols);
    parts.gpu.launch(&ROUTER, launch, &args)?;
    Ok(true)
}
