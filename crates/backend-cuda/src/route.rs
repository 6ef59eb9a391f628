//! Which experts a row uses and with what weight.

use backend::{Act, Result, Routing};

use crate::Parts;
use crate::gpu::{Args, Buffer, DevicePtr, Kernel, Launch};
use crate::hyper_connection::NextArgs;
use crate::matmul::Matrix;
use crate::weight::FloatType;

const ROUTE: Kernel = Kernel::new("route", "route");
const ROUTER: Kernel = Kernel::new("route", "router");
/// Threads and experts of a block of `router`, as in cuda/route.cu.
const ROUTER_THREADS: u32 = 256;
const ROUTER_EXPERTS: usize = 2;
/// Experts among which a warp can choose: `EXPERTS_MAX` of cuda/route.cu.
const WARP_EXPERTS: usize = 512;
/// Rows that a block chooses for at once; with more, the weights of the router are worth reading once for
/// all by a product.
const CHOICE_ROWS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RouteArgs {
    logits: DevicePtr,
    bias: DevicePtr,
    table: DevicePtr,
    ids: DevicePtr,
    weights: DevicePtr,
    step: DevicePtr,
    n_experts: u32,
    used: u32,
    scale: f32,
    n_rows: u32,
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
    site: NextArgs,
    n_mixes: u32,
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
    n_rows: usize,
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
        n_rows: n_rows as u32,
    }
}

/// Blocks of 256 threads that choose for all rows, and the shared memory of each.
fn choices(args: &RouteArgs) -> (usize, usize) {
    let (experts, rows) = (args.n_experts as usize, args.n_rows as usize);
    // A warp chooses for a row if it can.
    match experts <= WARP_EXPERTS && args.used <= 32 {
        true => (rows.div_ceil(CHOICE_ROWS), 8 * experts * rows.min(CHOICE_ROWS)),
        false => (rows, 8 * experts),
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
    let args = route_args(parts, routing, logits, choice, n_rows);
    let (blocks, shared) = choices(&args);
    parts.gpu.launch(&ROUTE, Launch::new(blocks, 256).shared(shared), &args)
}

fn router_args(
    parts: &Parts<'_>,
    route: RouteArgs,
    (gate, ty): (DevicePtr, FloatType),
    x: &Act<Buffer>,
    site: Option<&NextArgs>,
) -> RouterArgs {
    RouterArgs {
        route,
        x: x.buf.ptr(),
        gate,
        done: parts.mixture.done.ptr(),
        gate_type: ty as u32,
        hidden: x.cols as u32,
        site: site.copied().unwrap_or_default(),
        n_mixes: if site.is_some() { route.n_rows } else { 0 },
        pad: 0,
    }
}

/// Whether [`router`] can do it: for few rows and plain weights of a width in eights.
pub(crate) fn has_router(x: &Act<Buffer>, gate: &Matrix, n_rows: usize) -> bool {
    gate.floats().is_some() && x.cols.is_multiple_of(8) && n_rows <= CHOICE_ROWS
}

/// The logits too, and the mixing values of the site of `x`, if it is given. Where that is not possible nothing is
/// done, and the answer is false.
pub(crate) fn router(
    parts: &Parts<'_>,
    routing: &Routing<Buffer, Buffer>,
    (logits, x): (&Act<Buffer>, &Act<Buffer>),
    gate: &Matrix,
    choice: &Choice,
    (site, n_rows): (Option<&NextArgs>, usize),
) -> Result<bool> {
    let Some((weights, ty)) = gate.floats().filter(|_| has_router(x, gate, n_rows)) else {
        return Ok(false);
    };
    let route = route_args(parts, routing, logits, choice, n_rows);
    let (_, shared) = choices(&route);
    let args = router_args(parts, route, (weights, ty), x, site);
    let blocks = logits.cols.div_ceil(ROUTER_EXPERTS);
    let launch = Launch::new(blocks + args.n_mixes as usize, ROUTER_THREADS).shared(shared);
    parts.gpu.launch(&ROUTER, launch, &args)?;
    Ok(true)
}
