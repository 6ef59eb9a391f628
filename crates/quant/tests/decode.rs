//! Decoders against the `gguf` package, bit for bit, on blocks with ordinary and extreme scales.

use quant::{Error, TensorType, decode};

/// Formats that files store as floats or blocks; F32 and F64 are checked by hand below.
const TYPES: [TensorType; 25] = [
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2K,
    TensorType::Q3K,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
    TensorType::Iq1S,
    TensorType::Iq1M,
    TensorType::Iq2Xxs,
    TensorType::Iq2Xs,
    TensorType::Iq2S,
    TensorType::Iq3Xxs,
    TensorType::Iq3S,
    TensorType::Iq4Nl,
    TensorType::Iq4Xs,
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Mxfp4,
    TensorType::Nvfp4,
];

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn decoders_equal_the_gguf_package() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for ty in TYPES {
        let file = std::fs::read(data.join(format!("{ty}.bin"))).unwrap();
        let n = u32::from_le_bytes(file[..4].try_into().unwrap()) as usize;
        let (blocks, expected) = file[4..].split_at(n * ty.block_bytes());
        let mut out = vec![0.0; n * ty.block_len()];
        assert_eq!(expected.len(), 4 * out.len(), "{ty}");
        decode(ty, blocks, &mut out).unwrap();
        for (i, (v, e)) in out.iter().zip(expected.as_chunks().0).enumerate() {
            let e = f32::from_le_bytes(*e);
            let block = i / ty.block_len();
            assert!(same(*v, e), "{ty}: block {block}, weight {i}: expected {e:e}, found {v:e}");
        }
        assert!(out.iter().any(|v| v.is_finite() && *v != 0.0), "{ty}: the vectors say something");
    }
}

/// Every type either has vectors here, is checked by hand, or says that it has no decoder.
#[test]
fn no_type_is_forgotten() {
    for ty in TensorType::ALL {
        let by_hand = [TensorType::F32, TensorType::F64].contains(&ty);
        let decoded = decode(ty, &vec![0; ty.block_bytes()], &mut vec![0.0; ty.block_len()]);
        if TYPES.contains(&ty) || by_hand {
            assert_eq!(decoded, Ok(()), "{ty}");
        } else {
            assert_eq!(decoded, Err(Error::NoDecoder { ty }));
        }
    }
}

#[test]
fn plain_numbers_are_copied_or_narrowed() {
    let x = [1.5f32, -0.0, f32::MIN_POSITIVE, f32::INFINITY];
    let mut out = [0.0; 4];
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    decode(TensorType::F32, &bytes, &mut out).unwrap();
    assert!(x.iter().zip(&out).all(|(a, b)| same(*a, *b)));
    let bytes: Vec<u8> =
        [0.1f64, 1e300, -2.0, 1e-300].iter().flat_map(|v| v.to_le_bytes()).collect();
    decode(TensorType::F64, &bytes, &mut out).unwrap();
    assert_eq!(out, [0.1, f32::INFINITY, -2.0, 0.0]);
}

#[test]
fn sizes_that_disagree_are_errors_with_numbers() {
    let decode_q8 = |bytes: usize, weights: usize| {
        decode(TensorType::Q8_0, &vec![0; bytes], &mut vec![1.0; weights])
    };
    assert_eq!(decode_q8(34, 32), Ok(()));
    assert_eq!(decode_q8(0, 0), Ok(()));
    for (bytes, weights, expected) in
        [(33, 32, Some(34)), (34, 64, Some(68)), (34, 31, None), (68, 32, Some(34))]
    {
        let error = Error::Length { ty: TensorType::Q8_0, weights, expected, bytes };
        assert_eq!(decode_q8(bytes, weights), Err(error));
    }
}
