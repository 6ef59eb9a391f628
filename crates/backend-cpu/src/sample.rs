//! Tokens chosen where logits lie, a row on each thread.

use std::sync::PoisonError;

use backend::{Act, Draw};

use crate::parallel::{SharedRows, part};
use crate::{Floats, Parts};

pub(crate) fn sample(
    cpu: Parts<'_>,
    logits: &Act<Floats>,
    draws: &[(u32, Draw)],
    tokens: &mut [u32],
) {
    let samplers = &cpu.work.samplers;
    let n = samplers.len().min(draws.len());
    let tokens = SharedRows::new(tokens);
    let choose = |thread: usize| {
        if thread >= n {
            return;
        }
        // Each thread locks its own; what is in it is overwritten before it is read.
        let mut sampler = samplers[thread].lock().unwrap_or_else(PoisonError::into_inner);
        for i in part(draws.len(), 1, thread, n) {
            let (row, draw) = &draws[i];
            let row = &logits.buf[*row as usize * logits.cols..][..logits.cols];
            // SAFETY: threads have different draws.
            let token = unsafe { tokens.get(i, 1) };
            token[0] = sampler.draw(row, draw);
        }
    };
    if n <= 1 { choose(0) } else { cpu.pool.run(choose) }
}
