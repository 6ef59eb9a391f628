//! Router, shared expert and routed experts: products of the layer's input share a region, and the shared expert's
//! output is added where the routed ones' are.

use backend::{Act, Count, MoeWeights, Ops, Result, RouterWeights, Step};

use crate::products::of_one_input;
use crate::routed_experts::routed_experts;
use crate::{Cpu, CpuScratch, Floats};

/// The coarse operation `moe`; its default body is the specification.
pub(crate) fn moe(
    cpu: &mut Cpu,
    y: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &MoeWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    // It goes back below, also when something fails.
    let Some(mut scratch) = cpu.scratch.take() else { panic!("prepare comes first") };
    let result = mix(cpu, &mut scratch, y, x, w, step);
    cpu.scratch = Some(scratch);
    result
}

fn mix(
    cpu: &mut Cpu,
    s: &mut CpuScratch,
    y: &mut Act<Floats>,
    x: &Act<Floats>,
    w: &MoeWeights<Cpu>,
    step: &Step,
) -> Result<()> {
    let products = [
        Some((&mut s.shared.gate, &w.shared.gate)),
        Some((&mut s.shared.up, &w.shared.up)),
        Some((&mut s.router_logits, &w.gate)),
    ];
    of_one_input(cpu.parts(), x, products, step.rows.len());
    cpu.swiglu(&mut s.shared.gate, &s.shared.up, w.shared.clamp, step)?;
    cpu.matmul(&mut s.shared_out, &s.shared.gate, &w.shared.down, step, Count::Rows)?;
    match &w.router {
        RouterWeights::TopK { bias } => {
            cpu.route_top_k(&mut s.routing, &s.router_logits, bias, step)?;
        }
        RouterWeights::Hash { table } => {
            cpu.route_hash(&mut s.routing, &s.router_logits, table, step)?;
        }
    }
    routed_experts(cpu.parts(), y, (x, Some(&s.shared_out)), &w.routed, &s.routing, step)
}
