//! Times decoders, encoders and the model's own rounding on one core: `codecs [NAME]`.

use std::hint::black_box;

use quant::{TensorType, decode, encode, hadamard, round_trip};

fn main() {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|o| name.eq_ignore_ascii_case(o));
    let x: Vec<f32> =
        (0..1 << 16).map(|i| ((i * 7919 % 65_537) as f32 / 32_768.0 - 1.0) * 0.02).collect();
    println!("{:10} {:>14} {:>14}   M weights/s", "", "decode", "encode");
    for ty in TensorType::ALL.into_iter().filter(|ty| wanted(ty.name())) {
        let mut bytes = vec![0x35; ty.row_bytes(x.len()).unwrap_or(0)];
        let encoded = encode(ty, &x, &mut bytes).is_ok();
        let mut out = vec![0.0; x.len()];
        if decode(ty, &bytes, &mut out).is_err() {
            continue;
        }
        let decoding = rate(x.len(), || drop(black_box(decode(ty, black_box(&bytes), &mut out))));
        print!("{:10} {decoding:14.0}", ty.name());
        if encoded {
            print!(
                " {:14.1}",
                rate(x.len(), || drop(black_box(encode(ty, black_box(&x), &mut bytes))))
            );
        }
        println!();
    }
    let mut row = x[..512].to_vec();
    let rounds = [
        ("fp8 64", fp8_rounds as fn(&mut [f32])),
        ("fp4 32", |v| round_trip::fp4(v, 32)),
        ("hadamard", |v| v.chunks_mut(128).for_each(|v| drop(hadamard(v)))),
    ];
    for (name, round) in rounds.iter().filter(|(name, _)| wanted(name)) {
        println!("{name:10} {:14.0}", rate(row.len(), || round(black_box(&mut row))));
    }
    let blocks = [
        ("fp8 codes", (|v| drop(black_box(fp8_codes(v)))) as fn(&[f32])),
        ("fp8 values", |_| drop(black_box(fp8_values(black_box(&[0x35; 64]))))),
        ("fp4 codes", |v| drop(black_box(fp4_codes(v)))),
        ("fp4 values", |_| drop(black_box(fp4_values(black_box(&[0x35; 32]))))),
    ];
    for (name, run) in blocks.iter().filter(|(name, _)| wanted(name)) {
        println!("{name:10} {:14.0}", rate(64, || run(black_box(&x[..64]))));
    }
}

fn fp8_rounds(x: &mut [f32]) {
    round_trip::fp8(x, 64);
}

fn fp8_codes(x: &[f32]) -> Vec<u8> {
    let mut codes = vec![0; 64];
    round_trip::fp8_block_encode(x, &mut codes);
    codes
}

fn fp8_values(codes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; 64];
    round_trip::fp8_decode(codes, &[120], codes.len(), &mut values);
    values
}

fn fp4_codes(x: &[f32]) -> Vec<u8> {
    let mut codes = vec![0; 32];
    round_trip::fp4_block_encode(x, &mut codes);
    codes
}

fn fp4_values(codes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; 64];
    round_trip::fp4_block_decode(codes, 120, &mut values);
    values
}

/// Million items per second of this thread's own time, which does not count what others take.
fn rate(items: usize, mut run: impl FnMut()) -> f64 {
    // Reading the clock costs as much as converting some hundred items.
    let batch = 1 + 100_000 / items;
    let start = thread_seconds();
    let mut runs = 0;
    while thread_seconds() - start < 0.3 {
        for _ in 0..batch {
            run();
        }
        runs += batch as u32;
    }
    items as f64 * f64::from(runs) / (thread_seconds() - start) / 1e6
}

fn thread_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
