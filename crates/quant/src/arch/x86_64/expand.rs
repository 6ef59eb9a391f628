//! What enters the streams of a hyper-connection, eight channels of all four streams at a time.

use std::arch::x86_64::*;

use crate::arch::vector;
use crate::dot::Expand;

const STREAMS: usize = 4;

/// See [`vector::expand`], which serves other numbers of streams.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn expand(last: &Expand<'_>, streams: &mut [f32]) {
    let Expand { y, post, comb } = *last;
    if post.len() != STREAMS {
        return vector::expand(last, streams);
    }
    let hidden = y.len();
    let (mut posts, mut combs) = ([_mm256_setzero_ps(); STREAMS], [[_mm256_setzero_ps(); 4]; 4]);
    for k in 0..STREAMS {
        posts[k] = _mm256_set1_ps(post[k]);
        for j in 0..STREAMS {
            combs[k][j] = _mm256_set1_ps(comb[j * STREAMS + k]);
        }
    }
    let whole = hidden - hidden % 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `Kernels::expand` has compared the lengths: each stream has `hidden` channels, as has `y`.
        unsafe {
            let at = streams.as_mut_ptr().add(i);
            let y = _mm256_loadu_ps(y.as_ptr().add(i));
            let mut old = [y; STREAMS];
            for (j, old) in old.iter_mut().enumerate() {
                *old = _mm256_loadu_ps(at.add(j * hidden));
            }
            for k in 0..STREAMS {
                let mut mixed = _mm256_mul_ps(combs[k][0], old[0]);
                for j in 1..STREAMS {
                    mixed = _mm256_add_ps(mixed, _mm256_mul_ps(combs[k][j], old[j]));
                }
                let new = _mm256_add_ps(_mm256_mul_ps(posts[k], y), mixed);
                _mm256_storeu_ps(at.add(k * hidden), new);
            }
        }
    }
    for i in whole..hidden {
        vector::expand_one(last, i, streams);
    }
}
