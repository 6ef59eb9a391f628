//! Encoders: exactness where the format is exact, error bounds where it is not.

use quant::{Error, TensorType as T, decode, encode, encode_weighted};

/// Deterministic numbers near a normal distribution, as trained weights are.
fn gaussian(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / 16_777_216.0
    };
    (0..n).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect()
}

fn round_trip(ty: T, x: &[f32], importance: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
    encode_weighted(ty, x, importance, &mut bytes).unwrap();
    let mut out = vec![0.0; x.len()];
    decode(ty, &bytes, &mut out).unwrap();
    out
}

/// Root of the summed weighted squared error over the summed weighted squares.
fn relative_error(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let weight = |i: usize| if w.is_empty() { 1.0 } else { f64::from(w[i % w.len()]) };
    let (mut error, mut square) = (0.0, 0.0);
    for i in 0..x.len() {
        error += weight(i) * f64::from(x[i] - y[i]).powi(2);
        square += weight(i) * f64::from(x[i]).powi(2);
    }
    (error / square).sqrt()
}

/// Relative errors that these encoders reach on Gaussian weights. An encoder that stops searching
/// exceeds its own by more than two percent.
const REACHED: [(T, f64); 7] = [
    (T::F16, 0.00021),
    (T::BF16, 0.00166),
    (T::Q8_0, 0.00526),
    (T::Q4K, 0.06952),
    (T::Mxfp4, 0.11059),
    (T::Q2K, 0.25806),
    (T::Iq2Xxs, 0.32534),
];

#[test]
fn errors_on_gaussian_weights() {
    let x: Vec<f32> = gaussian(1, 256 * 256).iter().map(|v| v * 0.02).collect();
    for (ty, reached) in REACHED {
        let error = relative_error(&x, &round_trip(ty, &x, &[]), &[]);
        assert!((error / reached - 1.0).abs() < 0.02, "{ty}: {error}, used to be {reached}");
    }
}

/// Importances move the error to where it matters less.
#[test]
fn importances_are_obeyed() {
    let x = gaussian(2, 512 * 32);
    let importance: Vec<f32> = gaussian(3, 512).iter().map(|v| (2.0 * v).exp()).collect();
    for ty in [T::Q2K, T::Q4K, T::Iq2Xxs] {
        let plain = relative_error(&x, &round_trip(ty, &x, &[]), &importance);
        let weighted = relative_error(&x, &round_trip(ty, &x, &importance), &importance);
        assert!(weighted < 0.9 * plain, "{ty}: {plain} to {weighted}");
    }
    let equal = vec![1.0; 512];
    assert_eq!(round_trip(T::Q2K, &x, &equal), round_trip(T::Q2K, &x, &[]));
    // No token came by: as good as equal importances, never a division by zero.
    assert_eq!(round_trip(T::Q2K, &x, &[0.0; 512]), round_trip(T::Q2K, &x, &[]));
}

/// Weights that a format holds exactly come back unchanged.
#[test]
fn mxfp4_keeps_fp4_weights() {
    let levels = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for k in [-100, -9, 0, 20] {
        for top in 1..8 {
            let x: Vec<f32> = (0..32)
                .map(|i| {
                    let magnitude = levels[(i * 5 + 1) % (top + 1)] * 2f32.powi(k);
                    if i % 3 == 0 { -magnitude } else { magnitude }
                })
                .collect();
            assert_eq!(round_trip(T::Mxfp4, &x, &[]), x, "2^{k}, largest {}", levels[top]);
        }
    }
}

#[test]
fn q8_0_rounds_half_away_from_zero() {
    let mut x = [0.0; 32];
    (x[0], x[1], x[2], x[3]) = (127.0, 0.5, -0.5, 2.5);
    let mut bytes = [0; 34];
    encode(T::Q8_0, &x, &mut bytes).unwrap();
    assert_eq!(bytes[..2], half::f16::from_f32(1.0).to_le_bytes());
    assert_eq!(bytes[2..6], [127, 1, 255, 3]);
}

/// Constant, zero, one-sided, tiny and huge blocks give finite weights of the right size.
#[test]
fn degenerate_blocks() {
    let mut spike = vec![0.0; 256];
    spike[100] = -3.0;
    let cases: [(&str, Vec<f32>); 7] = [
        ("zeros", vec![0.0; 256]),
        ("constant", vec![0.7; 256]),
        ("negative constant", vec![-0.7; 256]),
        ("spike", spike),
        ("tiny", gaussian(4, 256).iter().map(|v| v * 1e-30).collect()),
        ("huge", gaussian(5, 256).iter().map(|v| v * 1e30).collect()),
        ("positive", gaussian(6, 256).iter().map(|v| v.abs() + 1.0).collect()),
    ];
    for ty in [T::Q8_0, T::Q4K, T::Q2K, T::Iq2Xxs, T::Mxfp4] {
        for (name, x) in &cases {
            let y = round_trip(ty, x, &[]);
            let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (x, y) in x.iter().zip(&y) {
                assert!(y.is_finite(), "{ty}, {name}");
                assert!((x - y).abs() <= 1.3 * amax, "{ty}, {name}: {x} became {y}");
            }
            if *name == "zeros" {
                assert!(y.iter().all(|v| *v == 0.0), "{ty}");
            }
        }
    }
}

#[test]
fn refusals_carry_the_numbers() {
    let mut out = vec![0; 84];
    let mut x = vec![0.0; 256];
    assert_eq!(encode(T::Q6K, &x, &mut [0; 210]), Err(Error::NoEncoder { ty: T::Q6K }));
    let length = Error::Length { ty: T::Q2K, weights: 256, expected: Some(84), bytes: 83 };
    assert_eq!(encode(T::Q2K, &x, &mut out[..83]), Err(length));
    x[9] = f32::INFINITY;
    let infinite = Error::NotFinite { ty: T::Q2K, index: 9, value: f32::INFINITY };
    assert_eq!(encode(T::Q2K, &x, &mut out), Err(infinite));
    x[9] = 0.0;
    for importance in [vec![1.0; 100], vec![1.0; 128], vec![-1.0; 256], vec![f32::NAN; 256]] {
        let error = encode_weighted(T::Q2K, &x, &importance, &mut out).unwrap_err();
        assert!(matches!(error, Error::Importance { weights: 256, .. }), "{error}");
    }
}
