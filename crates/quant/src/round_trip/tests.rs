use super::*;

/// A small deterministic stream of floats over many magnitudes, zeros included.
fn samples(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..n)
        .map(|_| {
            let bits = next();
            let unit = (bits >> 40) as f32 / 8_388_608.0 - 1.0;
            if bits.is_multiple_of(17) { 0.0 } else { unit * 2f32.powi((bits % 61) as i32 - 30) }
        })
        .collect()
}

/// The definition, in double precision and with no bit tricks.
fn by_definition(x: &[f32], floor: f64, largest: f64, grid: &[f32]) -> Vec<f32> {
    let amax = x.iter().fold(floor, |m, v| m.max(f64::from(v.abs())));
    let ratio = (amax as f32 * (1.0 / largest) as f32) as f64;
    let scale = 2f64.powi(ratio.log2().ceil() as i32);
    x.iter()
        .map(|&v| {
            let a = f64::from(v.abs()) / scale;
            let i = (0..grid.len())
                .min_by(|&i, &j| {
                    let (di, dj) = ((f64::from(grid[i]) - a).abs(), (f64::from(grid[j]) - a).abs());
                    di.total_cmp(&dj).then((i % 2).cmp(&(j % 2)))
                })
                .unwrap();
            (f64::from(grid[i]) * scale) as f32 * 1f32.copysign(v)
        })
        .collect()
}

fn assert_same_bits(a: &[f32], b: &[f32]) {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "value {i}: {a} and {b}");
    }
}

#[test]
fn fp8_follows_its_definition() {
    let grid: Vec<f32> = (0..0x7F).map(f8::decode).collect();
    for seed in 0..50 {
        let mut x = samples(seed, 64);
        let expected = by_definition(&x, 1e-4, 448.0, &grid);
        fp8(&mut x, 64);
        assert_same_bits(&x, &expected);
    }
}

#[test]
fn fp4_follows_its_definition() {
    let grid: Vec<f32> = (0..8).map(f4::decode).collect();
    for seed in 0..100 {
        let mut x = samples(seed, 32);
        let expected = by_definition(&x, 6.0 * 2f64.powi(-126), 6.0, &grid);
        fp4(&mut x, 32);
        assert_same_bits(&x, &expected);
    }
}

#[test]
fn codes_and_scales_say_the_same_as_the_round_trip() {
    for seed in 0..50 {
        let x = samples(seed, 64);
        let (mut rounded, mut decoded, mut codes) = (x.clone(), vec![0.0; 64], [0; 64]);
        fp8(&mut rounded, 64);
        let scale = fp8_block_encode(&x, &mut codes);
        fp8_decode(&codes, &[scale], 64, &mut decoded);
        assert_same_bits(&decoded, &rounded);

        let mut rounded = x.clone();
        fp4(&mut rounded, 64);
        let scale = fp4_block_encode(&x, &mut codes[..32]);
        fp4_block_decode(&codes[..32], scale, &mut decoded);
        assert_same_bits(&decoded, &rounded);
    }
}

/// What was rounded once must not move when it is rounded again: cached rows are re-encoded.
#[test]
fn round_trips_are_idempotent() {
    for seed in 0..50 {
        let mut once = samples(seed, 448);
        fp8(&mut once, 64);
        let mut twice = once.clone();
        fp8(&mut twice, 64);
        assert_same_bits(&twice, &once);
        fp4(&mut once, 32);
        twice.copy_from_slice(&once);
        fp4(&mut twice, 32);
        assert_same_bits(&twice, &once);
    }
}

#[test]
fn a_fault_poisons_its_block_alone() {
    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for round in [fp8, fp4] {
            let mut x = [1.0; 96];
            x[40] = fault;
            round(&mut x, 32);
            assert!(x[32..64].iter().all(|v| v.is_nan()));
            assert!(x[..32].iter().chain(&x[64..]).all(|v| *v == 1.0));
        }
    }
}

#[test]
fn the_largest_and_smallest_magnitudes_survive() {
    for x in [1e38, f32::MIN_POSITIVE, 1e-45, 0.0] {
        let mut v = [x; 32];
        fp4(&mut v, 32);
        assert!(
            v[0].is_finite() && (v[0] - x).abs() <= x / 4.0 + f32::MIN_POSITIVE,
            "{x}: {}",
            v[0]
        );
        let mut v = [x; 64];
        fp8(&mut v, 64);
        assert!(v[0].is_finite() && (v[0] - x).abs() <= x / 16.0 + 1e-9, "{x}: {}", v[0]);
    }
}

#[test]
fn hadamard_is_the_sylvester_matrix() {
    for n in [1usize, 2, 8, 128] {
        for column in [0, n / 2, n - 1] {
            let mut x = vec![0.0; n];
            x[column] = 1.0;
            hadamard(&mut x).unwrap();
            for (row, v) in x.iter().enumerate() {
                let sign = if (row & column).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                assert_eq!(*v, sign / (n as f32).sqrt());
            }
        }
    }
    for len in [0, 3, 96] {
        assert_eq!(hadamard(&mut vec![0.0; len]), Err(Error::NotPowerOfTwo { len }));
    }
}

type Round = fn(&mut [f32]);

/// Machines with and without wide vectors must keep the same KV.
#[test]
fn bits_do_not_depend_on_the_machine() {
    for seed in 0..50 {
        let x = samples(seed, 128);
        let rounds: [[Round; 2]; 3] = [
            [|v| fp8(v, 64), |v| fp8_portable(v, 64)],
            [|v| fp4(v, 32), |v| fp4_portable(v, 32)],
            [|v| hadamard(v).unwrap(), |v| hadamard_portable(v).unwrap()],
        ];
        for [fast, portable] in rounds {
            let (mut a, mut b) = (x.clone(), x.clone());
            fast(&mut a);
            portable(&mut b);
            assert_same_bits(&a, &b);
        }
        let (mut a, mut b, mut va, mut vb) = ([0; 128], [0; 128], [0.0; 128], [0.0; 128]);
        let e = fp8_block_encode(&x, &mut a);
        assert_eq!((e, a), (fp8_block_encode_portable(&x, &mut b), b));
        fp8_decode(&a, &[e], 128, &mut va);
        fp8_rest_portable(&a, f8::ue8m0_decode(e), &mut vb);
        assert_same_bits(&va, &vb);
        let (a, b) = (&mut a[..64], &mut b[..64]);
        let e = fp4_block_encode(&x, a);
        assert_eq!(e, fp4_block_encode_portable(&x, b));
        assert_eq!(a, b);
        fp4_block_decode(a, e, &mut va);
        fp4_block_decode_portable(a, e, &mut vb);
        assert_same_bits(&va, &vb);
    }
}

#[test]
fn every_code_and_scale_is_decoded_alike() {
    // Seven codes past the last sixteen, so that the rest is met too.
    let codes: Vec<u8> = (0..256 + 7).map(|i| (i % 256) as u8).collect();
    let (mut fast, mut portable) = (vec![0.0; codes.len()], vec![0.0; codes.len()]);
    for e in 0..=255 {
        fp8_decode(&codes, &[e], codes.len(), &mut fast);
        fp8_rest_portable(&codes, f8::ue8m0_decode(e), &mut portable);
        for ((a, b), code) in fast.iter().zip(&portable).zip(&codes) {
            // Which NaN a product of two gives is not defined.
            let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(same, "code {code:#x}, scale {e}: {a} and {b}");
        }
    }
}

#[test]
fn every_half_is_decoded() {
    let bytes: Vec<u8> = (0..=u16::MAX).chain([1, 2, 3]).flat_map(u16::to_le_bytes).collect();
    let mut values = vec![0.0; bytes.len() / 2];
    f16_decode(&bytes, &mut values);
    for (bytes, value) in bytes.as_chunks::<2>().0.iter().zip(values) {
        let exact = f16::from_le_bytes(*bytes).to_f32();
        assert!(
            exact.to_bits() == value.to_bits() || exact.is_nan() && value.is_nan(),
            "{bytes:?}"
        );
    }
}
