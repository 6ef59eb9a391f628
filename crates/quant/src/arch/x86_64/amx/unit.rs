//! The tile unit: what products of small matrices of bytes run on.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Rows of a tile, at most.
pub(super) const ROWS: usize = 16;

/// Shapes of a product's tiles: `rows` rows of `depth` bytes times `depth` bytes of 16 columns, four bytes
/// of each in turn. Both must fit: at most 16 rows, at most 64 bytes and a multiple of four.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) depth: usize,
}

/// Products to be added: `count` tiles of the left operand, rows `stride` bytes apart, tiles `step` bytes
/// apart, and as many of the right one, one after another.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) left: *const u8,
    pub(super) stride: usize,
    pub(super) step: usize,
    pub(super) right: *const u8,
    pub(super) count: usize,
}

/// Something that multiplies tiles.
pub(super) trait Unit {
    /// Gets ready for products of this shape on this thread.
    ///
    /// # Safety
    /// [`usable`] must have said so, for the unit itself.
    unsafe fn shape(shape: Shape);

    /// `out[row][column]`, rows of 16, becomes the sum of the products of signed bytes.
    ///
    /// # Safety
    /// Operands must be readable and `out` writable as far as the shape, which is the last one given on
    /// this thread, says.
    unsafe fn product(shape: Shape, product: Product, out: *mut i32);

    /// Gives the unit back: a thread that holds tiles costs the system more at every switch.
    ///
    /// # Safety
    /// As for [`shape`](Self::shape).
    unsafe fn release();
}

/// AMX.
pub(super) struct Amx;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Unit for Amx {
    unsafe fn shape(shape: Shape) {
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        // Tile 0: the sums; 1: the left operand; 2: the right one.
        config.row_bytes[..3].copy_from_slice(&[64, shape.depth as u16, 64]);
        let (rows, quads) = (shape.rows as u8, (shape.depth / 4) as u8);
        config.rows[..3].copy_from_slice(&[rows, rows, quads]);
        // SAFETY: the unit exists and this process may use it, as the caller promises; the compiler keeps
        // nothing in tiles.
        unsafe {
            asm!("ldtilecfg [{config}]", config = in(reg) &raw const config, options(nostack, readonly));
        }
    }

    #[inline]
    unsafe fn product(_: Shape, product: Product, out: *mut i32) {
        let Product { left, stride, step, right, count } = product;
        // SAFETY: the caller's operands; nothing but them and tiles is touched.
        unsafe {
            asm!(
                "tilezero tmm0",
                "2:",
                "tileloadd tmm1, [{left} + {stride}*1]",
                "tileloadd tmm2, [{right} + {line}*1]",
                "tdpbssd tmm0, tmm1, tmm2",
                "add {left}, {step}",
                "add {right}, {tile}",
                "dec {count}",
                "jnz 2b",
                "tilestored [{out} + {line}*1], tmm0",
                left = inout(reg) left => _,
                right = inout(reg) right => _,
                count = inout(reg) count => _,
                stride = in(reg) stride,
                step = in(reg) step,
                tile = in(reg) 1024usize,
                line = in(reg) 64usize,
                out = in(reg) out,
                options(nostack),
            );
        }
    }

    unsafe fn release() {
        // SAFETY: as for `shape`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Whether this machine has the unit and this process may use it; asks the system the first time.
pub(in crate::arch::x86_64) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| present() && permitted())
}

/// Tiles, products of bytes, and a system that saves both parts of the tiles' state.
fn present() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the instruction is part of `xsave`; that the system has enabled it is part of the detection.
    features & (TILE | INT8) == TILE | INT8 && unsafe { _xgetbv(0) } & STATE == STATE
}

/// Linux gives the state's memory on request only.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    /// `arch_prctl`, `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of the kernel's headers.
    const ARCH_PRCTL: isize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: a system call with two numbers; it overwrites the named registers alone.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The same in plain Rust, for machines without the unit.
#[cfg(test)]
pub(super) struct Emulated;

#[cfg(test)]
impl Unit for Emulated {
    unsafe fn shape(_: Shape) {}

    unsafe fn product(shape: Shape, product: Product, out: *mut i32) {
        for (row, column) in (0..shape.rows).flat_map(|r| (0..16).map(move |c| (r, c))) {
            let mut sum = 0;
            for (tile, byte) in
                (0..product.count).flat_map(|t| (0..shape.depth).map(move |b| (t, b)))
            {
                // SAFETY: the caller's operands.
                unsafe {
                    let left = product.left.add(tile * product.step + row * product.stride + byte);
                    let right =
                        product.right.add(tile * 1024 + byte / 4 * 64 + column * 4 + byte % 4);
                    sum += i32::from(*left as i8) * i32::from(*right as i8);
                }
            }
            // SAFETY: the caller's output.
            unsafe { out.add(row * 16 + column).write(sum) };
        }
    }

    unsafe fn release() {}
}
