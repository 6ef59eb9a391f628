//! Every table against the portable one, bit for bit, and the portable one against f64.

use super::*;

const TYPES: [TensorType; 12] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Mxfp4,
    TensorType::Q2K,
    TensorType::Q4K,
    TensorType::Q6K,
    TensorType::Iq2Xxs,
    // These have no kernel of their own and take the decoding path.
    TensorType::Q5K,
    TensorType::Iq4Nl,
    TensorType::Q4_0,
];

/// A small generator: reproducible, and no dependency.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Random bytes with sane scales: every code, every sub-scale, every sign occurs.
fn random_rows(ty: TensorType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..rows * cols / ty.block_len() {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| random.bits() as u8).collect();
        let mut half = |block: &mut [u8], at: usize| {
            let d = half::f16::from_f32(random.float() * 0.1);
            block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        };
        match ty {
            TensorType::Q2K => (half(&mut block, 80), half(&mut block, 82)).0,
            TensorType::Q4K | TensorType::Q5K => (half(&mut block, 0), half(&mut block, 2)).0,
            TensorType::Q6K => half(&mut block, 208),
            TensorType::Mxfp4 => block[0] = 118 + block[0] % 10,
            TensorType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            TensorType::BF16 => block[1] = 0x3E | block[1] & 0x80,
            _ => half(&mut block, 0),
        }
        bytes.extend(block);
    }
    bytes
}

struct Inputs {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
}

impl Inputs {
    fn new(ty: TensorType, (rows, cols, n): (usize, usize, usize)) -> Self {
        let mut random = Random(rows as u64 * 7919 + cols as u64 * 31 + u64::from(ty.ggml_id()));
        let bytes = random_rows(ty, rows, cols, &mut random);
        let mut x: Vec<f32> = (0..n * cols).map(|_| random.float() * random.float()).collect();
        // A zero block, extremes of both signs and a spike.
        x[..cols.min(300)].fill(0.0);
        x[(n - 1) * cols..][..32].fill(-1.0);
        x[(n - 1) * cols + 7] = 40.0;
        Self { ty, rows, cols, bytes, x }
    }

    /// Outputs of `kernels` for the activation rows of `index`, in weight pieces of `piece` rows.
    fn run(&self, kernels: Kernels, index: &[u32], piece: usize) -> Vec<f32> {
        let weights = Weights::new(self.ty, &self.bytes, self.rows, self.cols).unwrap();
        let n = self.x.len() / self.cols;
        let format = ActFormat::of(self.ty);
        let mut rows = (format != ActFormat::F32).then(|| RoundedRows::with_capacity(format, 0));
        if let Some(rows) = &mut rows {
            rows.reset(n, self.cols);
            for i in 0..n {
                kernels.quantize(&self.x[i * self.cols..][..self.cols], &mut rows.row_mut(i));
            }
        }
        let acts = match &rows {
            Some(rows) => Acts::Rounded { rows, index: Some(index) },
            None => Acts::F32 {
                values: &self.x,
                cols: self.cols,
                stride: self.cols,
                index: Some(index),
            },
        };
        // Guards around every output row must survive.
        let stride = self.rows + 3;
        let mut y = vec![f32::MAX; index.len() * stride];
        let mut scratch = Scratch::new();
        for start in (0..self.rows).step_by(piece) {
            let end = self.rows.min(start + piece);
            let out = Out::new(&mut y, index.len(), self.rows, stride);
            // SAFETY: one view at a time.
            let mut out = unsafe { out.tile(0..index.len(), start..end) };
            kernels.matmul(&weights.slice(start, end), &acts, &mut out, &mut scratch);
        }
        for row in y.chunks(stride) {
            assert!(row[self.rows..].iter().all(|v| *v == f32::MAX), "guard overwritten");
        }
        y.chunks(stride).flat_map(|row| row[..self.rows].to_vec()).collect()
    }
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_table_has_the_bits_of_the_portable_one() {
    for ty in TYPES {
        for shape in [(1, 256, 1), (37, 2304, 11), (80, 1280, 5), (16, 512, 7)] {
            let inputs = Inputs::new(ty, shape);
            let index: Vec<u32> = (0..shape.2 as u32).collect();
            let want = inputs.run(Kernels::generic(), &index, shape.0);
            for kernels in Kernels::available() {
                let got = inputs.run(kernels, &index, shape.0);
                assert_eq!(bits(&got), bits(&want), "{ty} {shape:?} on {}", kernels.name());
            }
        }
    }
}

/// Kernels of one row that arrange activations have room for so many.
#[test]
fn rows_wider_than_the_working_memory_have_the_same_bits() {
    for ty in [TensorType::Q2K, TensorType::Iq2Xxs] {
        let inputs = Inputs::new(ty, (2, 1 << 18, 2));
        let want = inputs.run(Kernels::generic(), &[0, 1], 2);
        for kernels in Kernels::available() {
            let got = inputs.run(kernels, &[0, 1], 2);
            assert_eq!(bits(&got), bits(&want), "{ty} on {}", kernels.name());
        }
    }
}

/// The comparisons above would be empty where no table is listed.
#[cfg(target_arch = "aarch64")]
#[test]
fn tables_follow_the_instructions_of_the_machine() {
    use std::arch::is_aarch64_feature_detected;

    let mut want = vec!["generic", "neon"];
    if is_aarch64_feature_detected!("dotprod") {
        want.push("neon-dotprod");
        if is_aarch64_feature_detected!("i8mm") {
            want.push("neon-i8mm");
        }
    }
    let names: Vec<&str> = Kernels::available().iter().map(Kernels::name).collect();
    assert_eq!(names, want);
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    for ty in TYPES {
        let (rows, cols, n) = (37, 1536, 9);
        let inputs = Inputs::new(ty, (rows, cols, n));
        for kernels in Kernels::available() {
            let together = inputs.run(kernels, &(0..n as u32).collect::<Vec<_>>(), rows);
            for i in 0..n {
                let want = bits(&together[i * rows..][..rows]);
                for (index, piece) in
                    [(vec![i as u32], rows), (vec![i as u32; 2], 5), (vec![i as u32; 4], 19)]
                {
                    let got = inputs.run(kernels, &index, piece);
                    for got in got.chunks(rows) {
                        assert_eq!(bits(got), want, "{ty} row {i} on {}", kernels.name());
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_float_rows_are_padded_with_zeros() {
    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
        for cols in [33, 63] {
            let inputs = Inputs::new(ty, (5, cols, 6));
            let index: Vec<u32> = (0..6).collect();
            let want = inputs.run(Kernels::generic(), &index, 5);
            for kernels in Kernels::available() {
                assert_eq!(bits(&inputs.run(kernels, &index, 5)), bits(&want), "{ty} {cols}");
            }
        }
    }
}

/// Rounding moves a product by at most half a step of its block per element; floats by ulps.
#[test]
fn products_are_close_to_f64() {
    for ty in TYPES {
        let inputs = Inputs::new(ty, (24, 1024, 4));
        let got = inputs.run(Kernels::detect(), &[0, 1, 2, 3], 24);
        let mut w = vec![0f32; 24 * 1024];
        crate::decode(ty, &inputs.bytes, &mut w).unwrap();
        for n in 0..4 {
            for r in 0..24 {
                let (x, w) = (&inputs.x[n * 1024..][..1024], &w[r * 1024..][..1024]);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let scale: f64 =
                    x.iter().zip(w).map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
                let steps = if ty == TensorType::Q8_0 { 2.0 * WIDE_LIMIT } else { 254.0 };
                let bound = match ActFormat::of(ty).block() {
                    None => 1e-6 * scale,
                    Some(block) => {
                        1e-6 * scale
                            + x.chunks(block)
                                .zip(w.chunks(block))
                                .map(|(x, w)| {
                                    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                                    let sum: f32 = w.iter().map(|v| v.abs()).sum();
                                    f64::from(amax / steps * sum)
                                })
                                .sum::<f64>()
                    }
                };
                let error = (f64::from(got[n * 24 + r]) - exact).abs();
                assert!(error <= bound * 1.001, "{ty} [{n}][{r}]: {error} above {bound}");
            }
        }
    }
}

/// The largest codes meet the largest activations: no int16 sum may saturate or wrap.
#[test]
fn extremes_do_not_overflow() {
    for ty in TYPES {
        for fill in [0x00u8, 0xFF, 0x7F, 0x80, 0x88, 0x77] {
            let mut inputs = Inputs::new(ty, (16, 512, 6));
            let (block, one) = (ty.block_bytes(), half::f16::ONE.to_le_bytes());
            for bytes in inputs.bytes.chunks_mut(block) {
                bytes.fill(fill);
                match ty {
                    TensorType::Q2K => bytes[80..].copy_from_slice(&[one, one].concat()),
                    TensorType::Q4K | TensorType::Q5K => {
                        bytes[..4].copy_from_slice(&[one, one].concat());
                    }
                    TensorType::Q6K => bytes[208..].copy_from_slice(&one),
                    TensorType::Mxfp4 => bytes[0] = 128,
                    TensorType::F32 => bytes.copy_from_slice(&1f32.to_le_bytes()),
                    TensorType::BF16 => bytes.copy_from_slice(&[0x80, 0x3F]),
                    _ => bytes[..2].copy_from_slice(&one),
                }
            }
            for (i, x) in inputs.x.iter_mut().enumerate() {
                *x = if (i / 512) % 3 == 2 && i % 2 == 0 { -3.0 } else { 3.0 };
            }
            for index in [vec![0, 1, 2, 3, 4, 5], vec![2]] {
                let want = inputs.run(Kernels::generic(), &index, 16);
                for kernels in Kernels::available() {
                    let got = inputs.run(kernels, &index, 16);
                    assert_eq!(bits(&got), bits(&want), "{ty} {fill:#x} on {}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn elementwise_kernels_have_the_same_bits_and_are_accurate() {
    let mut random = Random(5);
    let x: Vec<f32> = (0..1003).map(|_| random.float() * 30.0).collect();
    let up: Vec<f32> = (0..1003).map(|_| random.float() * 12.0).collect();
    let weights: Vec<f32> = (0..15 * 17).map(|_| random.float()).collect();
    let keys: Vec<f32> = (0..17 * 48).map(|_| random.float()).collect();
    let all = |kernels: Kernels| {
        let mut e = x.clone();
        let total = kernels.exp_sum(&mut e, 3.0);
        let mut gate = x.clone();
        kernels.swiglu(&mut gate, &up, 10.0, 0.7);
        let (mut sum, mut weighted) = (vec![0.5; 1003], vec![-0.5; 1003]);
        kernels.pool(&PoolEntry { k: &up, z: &x, max: &vec![30.0; 1003] }, &mut sum, &mut weighted);
        let mut out = vec![0.25; 15 * 48];
        let rows = WeightedSum { weights: &weights, stride: 17, keys: &keys, dim: 48 };
        kernels.weighted_sum(&rows, &mut out);
        let dot = kernels.dot(&x, &up);
        let mut scaled = x.clone();
        let largest = kernels.scale_max(&mut scaled, -0.5, 0.25);
        // Four streams, and three; the last channels are no whole vector.
        let mut streams = [x[..4 * 41].to_vec(), x[..3 * 41].to_vec()];
        for streams in &mut streams {
            let n = streams.len() / 41;
            let (post, comb) = (&weights[..n], &weights[n..][..n * n]);
            kernels.expand(&Expand { y: &up[..41], post, comb }, streams);
        }
        (e, gate, sum, weighted, out, [total, dot, largest], scaled, streams)
    };
    let want = all(Kernels::generic());
    for kernels in Kernels::available() {
        assert_eq!(all(kernels), want, "{}", kernels.name());
    }
    for (i, x) in x.iter().enumerate() {
        let exact = f64::from(x - 3.0).exp();
        assert!((f64::from(want.0[i]) - exact).abs() <= 2e-7 * exact, "exp({})", x - 3.0);
        let (g, u) = (f64::from(x.min(10.0)), f64::from(up[i].clamp(-10.0, 10.0)));
        let exact = 0.7 * g / (1.0 + (-g).exp()) * u;
        assert!((f64::from(want.1[i]) - exact).abs() <= 1e-6 * exact.abs() + 1e-9, "swiglu {i}");
    }
    assert_eq!(want.5[2], want.6.iter().copied().fold(0.25, f32::max));
    assert!(want.6.iter().zip(&x).all(|(scaled, x)| *scaled == x * -0.5));
    for (i, k) in [(0, 0), (16, 3), (40, 2)] {
        let comb = |j: usize| f64::from(weights[4 + 4 * j + k]) * f64::from(x[41 * j + i]);
        let exact = f64::from(weights[k]) * f64::from(up[i]) + (0..4).map(comb).sum::<f64>();
        assert!((f64::from(want.7[0][41 * k + i]) - exact).abs() < 1e-4, "stream {k}, channel {i}");
    }
    let exact: f64 = x.iter().map(|x| f64::from(x - 3.0).exp()).sum();
    assert!((f64::from(want.5[0]) - exact).abs() < 1e-5 * exact);
    for h in 0..6 {
        let column = (0..17).map(|j| f64::from(weights[h * 17 + j]) * f64::from(keys[j * 48 + 5]));
        let exact = 0.25 + column.sum::<f64>();
        assert!((f64::from(want.4[h * 48 + 5]) - exact).abs() < 1e-5);
    }
}

#[test]
fn exp_has_its_limits() {
    let mut x = [f32::NEG_INFINITY, -200.0, -87.0, 0.0, 88.0, 200.0, f32::INFINITY, f32::NAN];
    Kernels::detect().exp_sum(&mut x, 0.0);
    assert_eq!((x[0], x[1], x[3], x[5], x[6]), (0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY));
    assert!(x[2] > 0.0 && x[4].is_finite() && x[7].is_nan());
}
