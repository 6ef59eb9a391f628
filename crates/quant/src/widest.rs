//! One body, compiled for the portable instruction set and for AVX2.

/// Declares `$name`, which runs its body with AVX2 where the machine has it, and `$portable`, the
/// same body without.
///
/// The body is plain Rust that the compiler may turn into vectors. Rust never fuses or reorders
/// floating-point operations, so both give the same bits. What the body calls must be inlined into
/// it to be compiled for AVX2: call functions by name and mark them `#[inline(always)]`.
macro_rules! widest {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident / $portable:ident ( $($arg:ident : $ty:ty),* $(,)? )
        $(-> $output:ty)? $body:block
    ) => {
        #[inline(always)]
        fn $portable($($arg: $ty),*) $(-> $output)? $body

        $(#[$attribute])*
        $visibility fn $name($($arg: $ty),*) $(-> $output)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $output)? {
                    $portable($($arg),*)
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the function needs AVX2, which has just been found.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $portable($($arg),*)
        }
    };
}

pub(crate) use widest;
