//! Products: weight layouts, uploads, and the kernels that read them.

use backend::{Act, Error, ExpertWeights, Result, Routing, Shape};
use model::HostTensor;

use crate::Cuda;
use crate::gpu::{Buffer, DevicePtr, Gpu, NAME};
use crate::weight::FloatType;

/// `[experts, rows, cols]` on the device.
pub struct Matrix {
    name: String,
    rows: usize,
    cols: usize,
    experts: usize,
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        device: NAME,
        what: what.to_owned(),
        expected: "a kernel".to_owned(),
        found: "none".to_owned(),
    }
}

impl Matrix {
    pub(crate) fn upload(_gpu: &Gpu, t: &HostTensor) -> Result<Self> {
        Ok(Self { name: t.name.clone(), rows: t.rows, cols: t.cols, experts: t.experts.max(1) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn experts(&self) -> usize {
        self.experts
    }

    pub(crate) fn floats(&self) -> Option<(DevicePtr, FloatType)> {
        None
    }
}

pub(crate) struct Workspace {}

impl Workspace {
    pub(crate) fn bytes(_shape: &Shape) -> usize {
        0
    }

    pub(crate) fn new(_gpu: &Gpu, _shape: &Shape) -> Result<Self> {
        Ok(Self {})
    }
}

pub(crate) fn matmul(
    _gpu: &Gpu,
    _ws: &mut Workspace,
    _out: &Act<Buffer>,
    _x: &Act<Buffer>,
    w: &Matrix,
    _n_rows: usize,
) -> Result<()> {
    Err(unsupported(w.name()))
}

pub(crate) fn grouped_matmul(
    _gpu: &Gpu,
    _ws: &mut Workspace,
    _out: &Act<Buffer>,
    _x: &Act<Buffer>,
    w: &Matrix,
    _n_groups: usize,
    _n_rows: usize,
) -> Result<()> {
    Err(unsupported(w.name()))
}

pub(crate) fn matmul_many(
    gpu: &Gpu,
    ws: &mut Workspace,
    x: &Act<Buffer>,
    jobs: &[(&Act<Buffer>, &Matrix)],
    n_rows: usize,
) -> Result<()> {
    jobs.iter().try_for_each(|(out, w)| matmul(gpu, ws, out, x, w, n_rows))
}

pub(crate) fn routed_experts(
    _gpu: &Gpu,
    _ws: &mut Workspace,
    _out: &Act<Buffer>,
    _x: &Act<Buffer>,
    w: &ExpertWeights<Cuda>,
    _routing: &Routing<Buffer, Buffer>,
    _n_rows: usize,
) -> Result<()> {
    Err(unsupported(w.gate.matrix()?.name()))
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn mixture(
    _gpu: &Gpu,
    _ws: &mut Workspace,
    _y: &Act<Buffer>,
    _x: &Act<Buffer>,
    routed: &ExpertWeights<Cuda>,
    _shared: &ExpertWeights<Cuda>,
    _routing: &Routing<Buffer, Buffer>,
    _n_rows: usize,
) -> Result<()> {
    Err(unsupported(routed.gate.matrix()?.name()))
}

pub(crate) fn embed_rows(
    _gpu: &Gpu,
    _out: &Act<Buffer>,
    table: &Matrix,
    _tokens: DevicePtr,
    _n_rows: usize,
    _n_streams: usize,
) -> Result<()> {
    Err(unsupported(table.name()))
}
