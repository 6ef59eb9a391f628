//! A limit on reasoning.

use runtime::{Allowed, Constraint};

/// Ends reasoning at a number of tokens: then only the token that ends it may come. The answer
/// behind it is bound by what the request sets, if anything.
pub(super) struct Budget {
    left: usize,
    /// The token that ends reasoning, and the token of the tool markup, which ends it as well.
    ends: (u32, Option<u32>),
    /// Only the token that ends reasoning.
    mask: Vec<u32>,
    is_over: bool,
    inner: Option<Box<dyn Constraint>>,
}

impl Budget {
    pub(super) fn new(
        n_tokens: usize,
        ends: (u32, Option<u32>),
        inner: Option<Box<dyn Constraint>>,
    ) -> Self {
        let (think_end, _) = ends;
        let mut mask = vec![0; think_end as usize / 32 + 1];
        mask[think_end as usize / 32] = 1 << (think_end % 32);
        Self { left: n_tokens, ends, mask, is_over: false, inner }
    }
}

impl Constraint for Budget {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        match &mut self.inner {
            _ if !self.is_over && self.left == 0 => {
                Ok(Allowed { mask: Some(&self.mask), greedy: true })
            }
            Some(inner) => inner.allowed(),
            None => Ok(Allowed::default()),
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.is_over |= token == self.ends.0 || Some(token) == self.ends.1;
        self.left = self.left.saturating_sub(1);
        self.inner.as_mut().map_or(Ok(()), |inner| inner.accept(token))
    }

    fn forced(&mut self) -> Result<Vec<u32>, String> {
        // While the budget counts, it sees every token.
        let inner = self.inner.as_mut().filter(|_| self.is_over);
        inner.map_or_else(|| Ok(Vec::new()), |inner| inner.forced())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_ends_at_its_budget_and_the_answer_is_free() {
        let mut budget = Budget::new(2, (40, None), None);
        for token in [1, 2] {
            assert!(budget.allowed().unwrap().contains(7));
            budget.accept(token).unwrap();
        }
        let only = |budget: &mut Budget| {
            let allowed = budget.allowed().unwrap();
            (0..100).filter(|&token| allowed.contains(token)).collect::<Vec<_>>()
        };
        assert_eq!(only(&mut budget), [40]);
        budget.accept(40).unwrap();
        assert!(budget.allowed().unwrap().contains(7));

        let mut early = Budget::new(1, (40, Some(41)), None);
        early.accept(41).unwrap();
        assert!(early.allowed().unwrap().contains(7), "a call has ended it already");
    }
}
