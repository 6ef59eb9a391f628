/// What limits the tokens of one stream: a grammar, seen from the engine thread.
///
/// `accept` is called as soon as a token is chosen and `allowed` when the next one is about to
/// be, with a forward pass between them. An implementation that computes masks on another thread
/// starts in `accept` and waits in `allowed`, and so costs nothing while the pass is longer.
pub trait Constraint: Send {
    /// The tokens that may come next.
    ///
    /// # Errors
    /// The constraint cannot go on; the text says why. The stream fails.
    fn allowed(&mut self) -> Result<Allowed<'_>, String>;

    /// Moves on by a token that was chosen, a stop token included.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed).
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// The tokens that come next whatever the model says, since [`allowed`](Self::allowed) would allow one alone each
    /// time, with which this then has moved on. They are computed as rows of one step; none where a constraint does
    /// not know in advance.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed).
    fn forced(&mut self) -> Result<Vec<u32>, String> {
        Ok(Vec::new())
    }
}

/// What a [`Constraint`] says about the next token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Bit `token % 32` of word `token / 32` is set for tokens that may come next; `None` allows
    /// all. Words that are missing at the end allow nothing.
    pub mask: Option<&'a [u32]>,
    /// Whether to take the best allowed token whatever the request's sampling: inside markup
    /// there is nothing to be creative about.
    pub greedy: bool,
}

impl Allowed<'_> {
    /// Whether a token may come next.
    pub fn contains(&self, token: u32) -> bool {
        let Some(mask) = self.mask else { return true };
        mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_by_bit_and_end_closed() {
        let mask = [1 << 31, 1];
        let allowed = Allowed { mask: Some(&mask), greedy: false };
        let found: Vec<u32> = (0..100).filter(|&token| allowed.contains(token)).collect();
        assert_eq!(found, [31, 32]);
        assert!(Allowed::default().contains(77));
    }
}
