//! Names of pages: a hash chain over token ids.

/// Consecutive positions in a page.
pub const PAGE_TOKENS: usize = 256;

/// Name of a complete page, or of the empty beginning of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey([u8; 32]);

impl PageKey {
    /// The beginning of every chain of one model, row format and numerics version.
    pub fn root(fingerprint: &[u8; 32], row_format: &str, numerics_version: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"keid page chain 1");
        hasher.update(fingerprint);
        hasher.update(&(row_format.len() as u64).to_le_bytes());
        hasher.update(row_format.as_bytes());
        hasher.update(&numerics_version.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The page that follows this one and holds `tokens`.
    pub fn child(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self(*hasher.finalize().as_bytes())
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
