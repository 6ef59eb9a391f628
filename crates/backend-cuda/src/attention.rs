//! A layer's attention for few rows: what reads the same input is one launch, and so is everything
//! small that lies between two products.

use backend::{Act, AttentionWeights, AttentionWork, Pooled, Result, Selected, Shape, Step};

use model::LayerKind;

use crate::attend::{self, Attention};
use crate::compress::{self, Compressor, SHARES, SPAN_ROWS_MAX, Target};
use crate::gpu::{Args, Buffer, DevicePtr, Gpu, Kernel, Launch};
use crate::hyper_connection::NextArgs;
use crate::index_top_k;
use crate::kv::{Kv, RowFormat};
use crate::matmul::Records;
use crate::rope_tail::RopeArgs;
use crate::{Cuda, FEW_ROWS, Parts, matmul};

const ATTENTION_IN: Kernel = Kernel::new("attention_in", "attention_in");

/// Projections before their norms, and between the two of the output.
pub(crate) struct Workspace {
    q_latent_raw: Act<Buffer>,
    q_raw: Act<Buffer>,
    kv_raw: Act<Buffer>,
    out_low: Act<Buffer>,
    /// One row of it, rounded.
    low_records: Buffer,
    pub(crate) meeting: compress::Meeting,
}

/// Rows and widths of the buffers.
fn sizes(shape: &Shape) -> (usize, [usize; 4]) {
    let c = &shape.config;
    let low = c.n_out_groups * c.out_lora_rank;
    let widths = [c.q_lora_rank, c.n_heads * c.head_dim, c.head_dim, low];
    (shape.limits.step_rows.min(FEW_ROWS), widths)
}

impl Workspace {
    pub(crate) fn bytes(shape: &Shape) -> usize {
        let (rows, cols) = sizes(shape);
        let projections: usize = cols.iter().map(|cols| 4 * rows * cols).sum();
        projections + matmul::record_bytes(cols[3]) + compress::Meeting::bytes(shape)
    }

    pub(crate) fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let (rows, [q_latent, q, kv, low]) = sizes(shape);
        let act =
            |label, cols| Ok(Act { buf: gpu.alloc(label, 4 * rows * cols)?, rows, cols, label });
        Ok(Self {
            q_latent_raw: act("q_latent_raw", q_latent)?,
            q_raw: act("q_raw", q)?,
            kv_raw: act("kv_raw", kv)?,
            out_low: act("out_low", low)?,
            low_records: gpu.alloc("rounded out_low", matmul::record_bytes(low))?,
            meeting: compress::Meeting::new(gpu, shape)?,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LatentArgs {
    rope: RopeArgs,
    compressors: [Compressor; 2],
    format: RowFormat,
    rounded: Records,
    latent_raw: DevicePtr,
    latent_norm: DevicePtr,
    latent: DevicePtr,
    kv_raw: DevicePtr,
    kv_norm: DevicePtr,
    staged: DevicePtr,
    pooled: DevicePtr,
    done: DevicePtr,
    step: DevicePtr,
    latent_cols: u32,
    n_rows: u32,
    n_spans: u32,
    pooled_cols: u32,
    eps: f32,
    mixes: u32,
    site: NextArgs,
}

// SAFETY: the struct of cuda/attention_in.cu, without padding.
unsafe impl Args for LatentArgs {}

/// One layer's attention of the step's rows.
pub(crate) struct Layer<'a> {
    pub(crate) parts: &'a Parts<'a>,
    pub(crate) w: &'a AttentionWeights<Cuda>,
    pub(crate) kv: &'a Kv,
    pub(crate) layer: usize,
    pub(crate) step: &'a Step,
}

impl Layer<'_> {
    /// See [`backend::Ops::attention`]. `site` is that of x, if its mixing values are still to be written;
    /// `next` one that the output may go to instead of `y`. Whether it has.
    pub(crate) fn run(
        &self,
        y: &Act<Buffer>,
        x: &Act<Buffer>,
        work: &AttentionWork<'_, Buffer, Buffer>,
        n_groups: usize,
        (site, next): (Option<&NextArgs>, Option<&NextArgs>),
    ) -> Result<bool> {
        let (parts, w, n_rows) = (self.parts, self.w, self.step.rows.len());
        let (gpu, products, own) = (parts.gpu, parts.products, parts.projections);
        self.project(x, work)?;
        let buffers = &*work.buffers;
        let mut of_latent = vec![(&own.q_raw, w.q_b.matrix()?)];
        if let Some(indexer) = &w.indexer {
            of_latent.push((&buffers.index_q, indexer.q_b.matrix()?));
        }
        self.finish_latent(work, site)?;
        matmul::matmul_many(gpu, products, &buffers.q_latent, &of_latent, n_rows)?;
        let picked = &*work.picked;
        // Where everything is selected nothing is picked, and the kernel sees that by itself.
        if w.indexer.is_some() && parts.mirror.context() / 4 > picked.cols {
            let queries = (&buffers.index_q, &buffers.index_weights);
            let rope = Some(RopeArgs::new(&w.rope, false));
            let at = (self.kv, self.layer);
            index_top_k::index_top_k(parts, picked, at, queries, rope, n_rows)?;
        }
        let selected = match w.kind {
            LayerKind::SlidingWindow => Selected::WindowOnly,
            LayerKind::Hca => Selected::All,
            LayerKind::Csa => Selected::Picked(picked),
        };
        let sinks = w.sinks.values()?;
        let what = Attention { kv: self.kv, layer: self.layer, selected, sinks, n_rows };
        attend::attend_raw(parts, (&buffers.heads, &own.q_raw), &what, &w.rope, n_groups)?;
        let (low, heads) = (&own.out_low, &buffers.heads);
        let (out_a, out_b) = (w.out_a.matrix()?, w.out_b.matrix()?);
        if let Some(next) = next {
            let (low, weights) = ((low, &own.low_records), (out_a, out_b));
            if matmul::out_of_heads_next(gpu, products, low, heads, weights, n_groups, next)? {
                return Ok(true);
            }
        }
        matmul::grouped_matmul(gpu, products, low, heads, out_a, n_groups, n_rows)?;
        matmul::matmul(gpu, products, y, low, out_b, n_rows)?;
        Ok(false)
    }

    /// Everything that reads x.
    fn project(&self, x: &Act<Buffer>, work: &AttentionWork<'_, Buffer, Buffer>) -> Result<()> {
        let (own, w, buffers) = (self.parts.projections, self.w, &*work.buffers);
        let mut of_x = vec![(&own.q_latent_raw, w.q_a.matrix()?), (&own.kv_raw, w.kv.matrix()?)];
        if let Some(compressor) = &w.compressor {
            let pool = if w.kind == LayerKind::Csa { &buffers.csa } else { &buffers.hca };
            of_x.push((&pool.kv, compressor.kv.matrix()?));
            of_x.push((&pool.gate, compressor.gate.matrix()?));
        }
        if let Some(indexer) = &w.indexer {
            of_x.push((&buffers.index.kv, indexer.compressor.kv.matrix()?));
            of_x.push((&buffers.index.gate, indexer.compressor.gate.matrix()?));
            of_x.push((&buffers.index_weights, indexer.proj.matrix()?));
        }
        let n_rows = self.step.rows.len();
        matmul::matmul_many(self.parts.gpu, self.parts.products, x, &of_x, n_rows)
    }

    /// Norms and rounds the query latent, stores the window rows, and lets the compressors take their
    /// inputs.
    fn finish_latent(
        &self,
        work: &AttentionWork<'_, Buffer, Buffer>,
        site: Option<&NextArgs>,
    ) -> Result<()> {
        let (parts, w, buffers) = (self.parts, self.w, &*work.buffers);
        let (own, n_rows) = (parts.projections, self.step.rows.len());
        let mut inputs = Vec::new();
        if let Some(compressor) = &w.compressor {
            let pool = if w.kind == LayerKind::Csa { &buffers.csa } else { &buffers.hca };
            inputs.push((Pooled::Attention, pool, compressor));
        }
        if let Some(indexer) = &w.indexer {
            inputs.push((Pooled::Index, &buffers.index, &indexer.compressor));
        }
        let mut compressors = [Compressor::default(); 2];
        for (to, (pooled, input, weights)) in compressors.iter_mut().zip(&inputs) {
            *to = Compressor::new(self.kv, self.layer, *pooled, input, weights)?;
        }
        let few = parts.mirror.span_rows_max() <= SPAN_ROWS_MAX;
        let (latent, cols) = (&buffers.q_latent, buffers.q_latent.cols);
        let format = self.kv.row_format(Pooled::Attention);
        let n_spans = self.step.spans.len();
        let args = LatentArgs {
            rope: RopeArgs::new(&w.rope, false),
            compressors,
            format,
            rounded: parts.products.leave_records(latent.buf.ptr(), (1, cols), n_rows),
            latent_raw: own.q_latent_raw.buf.ptr(),
            latent_norm: w.q_a_norm.values()?,
            latent: latent.buf.ptr(),
            kv_raw: own.kv_raw.buf.ptr(),
            kv_norm: w.kv_norm.values()?,
            staged: self.kv.window(self.layer).staged,
            pooled: own.meeting.pooled.ptr(),
            done: own.meeting.done.ptr(),
            step: parts.mirror.ptr(),
            latent_cols: cols as u32,
            n_rows: n_rows as u32,
            n_spans: n_spans as u32,
            pooled_cols: own.meeting.cols as u32,
            eps: parts.shape.config.rms_eps,
            mixes: u32::from(site.is_some()),
            site: site.copied().unwrap_or_default(),
        };
        let rows = 2 + usize::from(site.is_some());
        let blocks = rows * n_rows + if few { inputs.len() * n_spans * SHARES } else { 0 };
        // Rows of an index compressor are shorter than a head.
        let widest = inputs.iter().map(|(_, _, w)| w.width).fold(format.dim as usize, usize::max);
        parts.gpu.launch(&ATTENTION_IN, Launch::new(blocks, 512).shared(4 * widest), &args)?;
        if !few {
            for (pooled, input, weights) in inputs {
                let rope = RopeArgs::new(&w.rope, false);
                let target = Target { layer: self.layer, pooled, rope };
                compress::compress(parts, self.kv, target, input, weights, (n_rows, n_spans))?;
            }
        }
        Ok(())
    }
}
