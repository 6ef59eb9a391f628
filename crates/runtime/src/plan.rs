//! How many rows of a step each live stream gets.

/// A stream with at most this many tokens to feed is decoding: the token it chose last, and once
/// after its prompt the prompt's last token again (the anchor lies before it).
const DECODE_ROWS: usize = 2;

/// What one stream could use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Tokens that are known and not held.
    pub(crate) rest: usize,
    /// Tokens to the next position where a chunk has to end.
    pub(crate) until_anchor: usize,
    /// Whether every row needs logits, not only the last.
    pub(crate) is_scored: bool,
}

/// What one step can give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Rows.
    pub(crate) rows: usize,
    /// Rows of prompts while others decode.
    pub(crate) prefill_rows: usize,
    /// Rows with logits: one for every stream whose rest is fed whole.
    pub(crate) logit_rows: usize,
    /// The demand that is served first; moves on with every step.
    pub(crate) first: usize,
}

/// Rows for every demand: all decoding streams first, as far as the step holds them, then equal
/// shares for the prompts. What one prompt does not need goes to the next, so a short prompt is
/// read at once beside a long one, and the long one still gets the most.
pub(crate) fn plan(demands: &[Demand], budget: Budget) -> Vec<usize> {
    let mut given = vec![0; demands.len()];
    let (mut rows, mut logits) = (budget.rows, budget.logit_rows);
    let order = || (0..demands.len()).map(|i| (i + budget.first) % demands.len());
    let (decoding, prompts): (Vec<_>, Vec<_>) =
        order().partition(|&i| demands[i].rest <= DECODE_ROWS && !demands[i].is_scored);
    for i in decoding {
        let rest = demands[i].rest;
        if (1..=rows).contains(&rest) && logits > 0 {
            given[i] = rest;
            rows -= rest;
            logits -= 1;
        }
    }
    if rows < budget.rows {
        rows = rows.min(budget.prefill_rows);
    }
    for (at, &i) in prompts.iter().enumerate() {
        let Demand { rest, until_anchor, is_scored } = demands[i];
        let share = rows.div_ceil(prompts.len() - at);
        // Without a row of logits left the last token has to wait.
        let usable = match is_scored {
            true => rest.min(logits),
            false if logits > 0 => rest,
            false => rest - 1,
        };
        given[i] = share.min(usable).min(until_anchor);
        rows -= given[i];
        logits -= if is_scored { given[i] } else { usize::from(given[i] == rest) };
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rests: &[usize], budget: Budget) -> Vec<usize> {
        let demand = |&rest: &usize| Demand { rest, until_anchor: 2048, is_scored: false };
        plan(&rests.iter().map(demand).collect::<Vec<_>>(), budget)
    }

    const BUDGET: Budget = Budget { rows: 100, prefill_rows: 40, logit_rows: 8, first: 0 };

    #[test]
    fn decoding_goes_first_and_prompts_share_what_is_left_for_them() {
        assert_eq!(rows(&[1, 2, 1, 1000], BUDGET), [1, 2, 1, 40]);
        assert_eq!(rows(&[1000], BUDGET), [100], "nobody waits, so the step is full");
        assert_eq!(rows(&[1, 1000, 1000], BUDGET), [1, 20, 20]);
        assert_eq!(rows(&[1, 5, 1000], BUDGET), [1, 5, 35]);
        assert_eq!(rows(&[], BUDGET), [0; 0]);
    }

    #[test]
    fn limits_of_the_step_hold_and_the_turn_moves_on() {
        let tight = Budget { rows: 2, logit_rows: 2, ..BUDGET };
        assert_eq!(rows(&[1, 1, 1], tight), [1, 1, 0]);
        assert_eq!(rows(&[1, 1, 1], Budget { first: 1, ..tight }), [0, 1, 1]);
        let no_logits = Budget { logit_rows: 1, ..BUDGET };
        assert_eq!(rows(&[1, 10], no_logits), [1, 9], "the last token waits for a row of logits");
        let near = Demand { rest: 50, until_anchor: 7, is_scored: false };
        assert_eq!(plan(&[near], BUDGET), [7]);
    }

    #[test]
    fn a_scored_prompt_gets_no_more_rows_than_logits() {
        let scored = Demand { rest: 50, until_anchor: 2048, is_scored: true };
        let decoding = Demand { rest: 1, until_anchor: 2048, is_scored: false };
        assert_eq!(plan(&[scored, decoding], BUDGET), [7, 1]);
        assert_eq!(plan(&[Demand { rest: 2, ..scored }], BUDGET), [2]);
    }
}
