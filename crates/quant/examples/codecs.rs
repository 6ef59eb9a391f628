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
    let rounds: [(&str, &dyn Fn(&mut [f32])); 3] = [
        ("fp8 64", &|v| round_trip::fp8(v, 64)),
        ("fp4 32", &|v| round_trip::fp4(v, 32)),
        ("hadamard", &|v| v.chunks_mut(128).for_each(|v| drop(hadamard(v)))),
    ];
    for (name, round) in rounds.iter().filter(|(name, _)| wanted(name)) {
        println!("{name:10} {:14.0}", rate(row.len(), || round(black_box(&mut row))));
    }
}

/// Million items per second of this thread's own time, which does not count what others take.
fn rate(items: usize, mut run: impl FnMut()) -> f64 {
    let start = thread_seconds();
    let mut runs = 0;
    while thread_seconds() - start < 0.3 {
        run();
        runs += 1;
    }
    items as f64 * f64::from(runs) / (thread_seconds() - start) / 1e6
}

fn thread_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
