//! Router, routed experts and the shared expert.

use backend::{Act, Ids, MoeWeights, Result, RouterWeights, Routing, Shape};

use crate::gpu::{Buffer, Gpu};
use crate::route::{self, Choice};
use crate::{Cuda, Parts, matmul};

/// The router's output, and the choice.
pub(crate) struct Workspace {
    logits: Act<Buffer>,
    routing: Routing<Buffer, Buffer>,
}

/// Rows, experts, and experts of a row.
fn sizes(shape: &Shape) -> (usize, usize, usize) {
    let c = &shape.config;
    (shape.limits.step_rows, c.n_experts, c.n_experts_used)
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (rows, experts, used) = sizes(shape);
        4 * rows * (experts + 2 * used)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (rows, experts, used) = sizes(shape);
        let act =
            |label, cols| Ok(Act { buf: gpu.alloc(label, 4 * rows * cols)?, rows, cols, label });
        let buf = gpu.alloc("expert_ids", 4 * rows * used)?;
        let ids = Ids { buf, rows, cols: used, label: "expert_ids" };
        let routing = Routing { ids, weights: act("expert_weights", used)? };
        Ok(Self { logits: act("router_logits", experts)?, routing })
    }
}

pub(crate) fn moe(
    parts: &Parts<'_>,
    y: &Act<Buffer>,
    x: &Act<Buffer>,
    w: &MoeWeights<Cuda>,
    n_rows: usize,
) -> Result<()> {
    let (gpu, products, work) = (parts.gpu, parts.products, parts.mixture);
    matmul::matmul(gpu, products, &work.logits, x, w.gate.matrix()?, n_rows)?;
    let choice = match &w.router {
        RouterWeights::TopK { bias } => Choice::Bias(bias.values()?),
        RouterWeights::Hash { table } => Choice::Table(table.table()?),
    };
    route::route(parts, &work.routing, &work.logits, &choice, n_rows)?;
    matmul::mixture(gpu, products, y, x, &w.routed, &w.shared, &work.routing, n_rows)
}
