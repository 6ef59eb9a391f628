//! Products with many rows: tensor-core kernels that read weights once for up to 128 rows.

use backend::Result;

use super::round::Values;
use super::unsupported;
use super::weights::{Layout, Matrix, MatrixArgs};
use super::workspace::{RECORD_32, RECORD_256, Workspace};
use crate::gpu::{Args, DevicePtr, Gpu, Kernel, Launch};

pub(super) const THREADS: u32 = 256;
/// Panels of 16 weight rows that a block computes.
pub(super) const PANELS: usize = 8;
const STAGES: usize = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct GemmArgs {
    m: MatrixArgs,
    x: DevicePtr,
    out: DevicePtr,
    grid: DevicePtr,
    x_row_bytes: u32,
    x_slice_bytes: u32,
    out_stride: u32,
    groups: u32,
    first_group: u32,
    n_rows: u32,
}

// SAFETY: `repr(C)`, as in `gemm.cu`, without padding.
unsafe impl Args for GemmArgs {}

/// A kernel and how many rows of activations its blocks take.
pub(super) struct Tiled {
    pub(super) kernel: Kernel,
    pub(super) columns: usize,
}

/// Bytes of shared memory of a block (`gemm.cuh`).
pub(super) fn shared_bytes(layout: Layout, columns: usize) -> usize {
    let (chunk, record) = match layout {
        Layout::Q8_0 => (4352, RECORD_32),
        Layout::Mxfp4 => (2176, RECORD_32),
        Layout::Q2K => (1344, RECORD_256),
        Layout::Q4K => (2368, RECORD_256),
        Layout::Q6K => (3360, RECORD_256),
        Layout::Iq2Xxs => (1120, RECORD_256),
        Layout::F32 | Layout::F16 | Layout::BF16 => return 0,
    };
    STAGES * (PANELS * chunk + columns * record)
}

/// The widest kernel whose blocks fit into the device's shared memory.
fn tiled(gpu: &Gpu, layout: Layout) -> Tiled {
    let kernel = |name, columns| Tiled { kernel: Kernel::new("matmul/gemm", name), columns };
    let floats = |name| Tiled { kernel: Kernel::new("matmul/gemm_floats", name), columns: 64 };
    let fits = |columns| shared_bytes(layout, columns) <= gpu.description().shared_max;
    match layout {
        Layout::Q8_0 if fits(128) => kernel("gemm_q8_0", 128),
        Layout::Q8_0 => kernel("gemm_q8_0_narrow", 32),
        Layout::Mxfp4 => kernel("gemm_mxfp4", 64),
        Layout::Q2K => kernel("gemm_q2_k", 64),
        Layout::Q4K => kernel("gemm_q4_k", 64),
        Layout::Q6K => kernel("gemm_q6_k", 64),
        Layout::Iq2Xxs => kernel("gemm_iq2_xxs", 64),
        Layout::F32 => floats("gemm_f32"),
        Layout::F16 => floats("gemm_f16"),
        Layout::BF16 => floats("gemm_bf16"),
    }
}

/// Which rows of a matrix, in equal groups, meet which slices.
pub(super) struct Groups {
    pub(super) all: usize,
    pub(super) first: usize,
    pub(super) n: usize,
}

/// `out[r] = w · x[r]` of rounded `values`; `out` is where their first row goes.
pub(super) fn product(
    gpu: &Gpu,
    ws: &Workspace,
    values: &Values,
    w: &Matrix,
    out: (DevicePtr, usize),
    groups: &Groups,
) -> Result<()> {
    let Tiled { kernel, columns } = tiled(gpu, w.layout());
    let shared = shared_bytes(w.layout(), columns);
    if shared > gpu.description().shared_max {
        let expected = format!("{shared} bytes of shared memory a block");
        return Err(unsupported(w.name(), expected, gpu.description().shared_max.to_string()));
    }
    let source = values.source(ws, w.layout(), 0);
    let group_rows = w.rows() / groups.all;
    let args = GemmArgs {
        m: w.args(),
        x: source.x,
        out: out.0,
        grid: ws.grid(),
        x_row_bytes: source.row_bytes,
        x_slice_bytes: source.slice_bytes,
        out_stride: out.1 as u32,
        groups: groups.all as u32,
        first_group: groups.first as u32,
        n_rows: values.n_rows as u32,
    };
    let weights = match w.layout().is_chunked() {
        true => w.group_panels(groups.all).div_ceil(PANELS),
        false => group_rows.div_ceil(64),
    };
    let grid = Launch::grid3(values.n_rows.div_ceil(columns), weights, groups.n, THREADS);
    gpu.launch(&kernel, grid.shared(shared), &args)
}
