//! One product and nothing else, for tools that count what is executed.
//!
//! `one_product TYPE TABLE ROWS COLS ACTIVATIONS`, for example `one_product IQ2_XXS neon-dotprod 16 2048 1`.
//! Under an emulator, the instructions of each function:
//!
//! ```sh
//! qemu-aarch64 -cpu max -one-insn-per-tb -d exec,nochain -D log one_product Q8_0 neon-dotprod 16 1024 1
//! awk '{print $NF}' log | sort | uniq -c | sort -rn | head
//! ```

use quant::TensorType;
use quant::dot::{ActFormat, Acts, Kernels, Out, RoundedRows, Scratch, Weights};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ty, table, sizes @ ..] = &arguments[..] else { panic!("{USAGE}") };
    let sizes: Vec<usize> = sizes.iter().map(|n| n.parse().expect(USAGE)).collect();
    let &[rows, cols, n] = &sizes[..] else { panic!("{USAGE}") };
    let ty = TensorType::ALL.into_iter().find(|t| t.name() == ty).expect("a type of GGUF");
    let kernels = Kernels::available().into_iter().find(|k| k.name() == table);
    let kernels = kernels.expect("a table that this machine can run");

    let n_bytes = ty.row_bytes(cols).expect("whole blocks") * rows;
    // What the numbers are does not matter: no kernel looks at them.
    let bytes: Vec<u8> = (0..n_bytes).map(|i| (i * 37 % 251) as u8).collect();
    let weights = Weights::new(ty, &bytes, rows, cols).expect("a type that decodes");
    let values: Vec<f32> = (0..n * cols).map(|i| (i % 17) as f32).collect();
    let format = ActFormat::of(ty);
    let rounded = (format != ActFormat::F32).then(|| {
        let mut rounded = RoundedRows::with_capacity(format, n * cols);
        rounded.reset(n, cols);
        for (i, row) in values.chunks(cols).enumerate() {
            kernels.quantize(row, &mut rounded.row_mut(i));
        }
        rounded
    });
    let acts = match &rounded {
        Some(rows) => Acts::Rounded { rows, index: None },
        None => Acts::F32 { values: &values, cols, stride: cols, index: None },
    };
    let mut products = vec![0f32; n * rows];
    let mut out = Out::new(&mut products, n, rows, rows);
    kernels.matmul(&weights, &acts, &mut out, &mut Scratch::new());
    std::hint::black_box(&products);
}

const USAGE: &str = "usage: one_product TYPE TABLE ROWS COLS ACTIVATIONS";
