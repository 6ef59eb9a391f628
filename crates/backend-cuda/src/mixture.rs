//! Router, routed experts and the shared expert.

use backend::{Act, Ids, MoeWeights, Result, RouterWeights, Routing, Shape};

use crate::gpu::{Buffer, Gpu};
use crate::hyper_connection::NextArgs;
use crate::route::{self, Choice};
use crate::{Cuda, FEW_ROWS, Parts, matmul};

/// The router's output, and the choice; what the head's vocabulary reads.
pub(crate) struct Workspace {
    logits: Act<Buffer>,
    routing: Routing<Buffer, Buffer>,
    pub(crate) done: Buffer,
    pub(crate) head_x: Act<Buffer>,
}

/// Rows that want logits, and their width.
fn head_sizes(shape: &Shape) -> (usize, usize) {
    (shape.limits.logit_rows.min(FEW_ROWS), shape.config.hidden)
}

/// The router's counter of blocks.
const DONE_BYTES: usize = 16;

/// Rows, experts, and experts of a row.
fn sizes(shape: &Shape) -> (usize, usize, usize) {
    let c = &shape.config;
    (shape.limits.step_rows, c.n_experts, c.n_experts_used)
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (rows, experts, used) = sizes(shape);
        let (head_rows, hidden) = head_sizes(shape);
        4 * rows * (experts + 2 * used) + 4 * head_rows * hidden + DONE_BYTES
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (rows, experts, used) = sizes(shape);
        let act =
            |label, cols| Ok(Act { buf: gpu.alloc(label, 4 * rows * cols)?, rows, cols, label });
        let buf = gpu.alloc("expert_ids", 4 * rows * used)?;
        let ids = Ids { buf, rows, cols: used, label: "expert_ids" };
        let routing = Routing { ids, weights: act("expert_weights", used)? };
        let (rows, cols) = head_sizes(shape);
        let buf = gpu.alloc("head_x", 4 * rows * cols)?;
        Ok(Self {
            logits: act("router_logits", experts)?,
            routing,
            done: gpu.alloc("blocks that are done", DONE_BYTES)?,
            head_x: Act { buf, rows, cols, label: "head_x" },
        })
    }
}

/// Whether the router's kernel can write the mixing values of the site of `x`.
pub(crate) fn mixes(x: &Act<Buffer>, w: &MoeWeights<Cuda>, n_rows: usize) -> bool {
    w.gate.matrix().is_ok_and(|gate| route::has_router(x, gate, n_rows))
}

/// See [`backend::Ops::moe`]. `site` is that of x, if its mixing values are still to be written, which takes
/// [`mixes`]; `next` one that the output may go to instead of `y`. Whether it has.
pub(crate) fn moe(
    parts: &Parts<'_>,
    y: &Act<Buffer>,
    x: &Act<Buffer>,
    w: &MoeWeights<Cuda>,
    n_rows: usize,
    (site, next): (Option<&NextArgs>, Option<&NextArgs>),
) -> Result<bool> {
    let (gpu, products, work) = (parts.gpu, parts.products, parts.mixture);
    let gate = w.gate.matrix()?;
    let choice = match &w.router {
        RouterWeights::TopK { bias } => Choice::Bias(bias.values()?),
        RouterWeights::Hash { table } => Choice::Table(table.table()?),
    };
    let (routing, logits) = (&work.routing, &work.logits);
    let routed = route::router(parts, routing, (logits, x), gate, &choice, (site, n_rows))?;
    if !routed {
        matmul::matmul(gpu, products, logits, x, gate, n_rows)?;
        route::route(parts, routing, logits, &choice, n_rows)?;
    }
    let experts = (&w.routed, &w.shared);
    matmul::mixture(gpu, products, (y, next), x, experts, &work.routing, (n_rows, routed))
}
