//! A session as bytes: `save` and `load` (format: docs/kv-format.md).

use std::io::{Read, Write};

use backend::{Ops, PAGE_TOKENS, RowFormat};

use crate::core::Core;
use crate::error::{Error, Result};

/// Raised whenever the same tokens would give other KV bits.
pub const NUMERICS_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"KEIDKV\0\x01";

impl<B: Ops> Core<B> {
    /// Writes a slot: tokens, pages and the state at its end, with a checksum.
    ///
    /// # Errors
    /// The writer or the device.
    pub fn save(&mut self, slot: usize, out: &mut dyn Write) -> Result<()> {
        let mut body = Vec::new();
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&self.fingerprint);
        body.extend_from_slice(&NUMERICS_VERSION.to_le_bytes());
        body.push(row_format_id(self.options.rows));
        body.push(u8::from(self.mtp.is_some()));
        let tokens = self.slots[slot].tokens.clone();
        body.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
        body.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
        for i in 0..tokens.len() / PAGE_TOKENS {
            let page = self.slots[slot].pages[i];
            self.be.read_page(&self.kv, page, &mut body)?;
        }
        if !tokens.is_empty() {
            self.write_state(slot, &mut body)?;
        }
        out.write_all(&body)?;
        out.write_all(blake3::hash(&body).as_bytes())?;
        Ok(())
    }

    /// Replaces a slot's sequence by a saved one.
    ///
    /// # Errors
    /// The bytes are torn, of another model, numerics or version, or too long for the context; the
    /// slot is then empty.
    pub fn load(&mut self, slot: usize, input: &mut dyn Read) -> Result<()> {
        self.discard();
        self.release(slot);
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let result = self.restore(slot, &bytes);
        if result.is_err() {
            self.release(slot);
        }
        result
    }

    fn restore(&mut self, slot: usize, bytes: &[u8]) -> Result<()> {
        let body_len = bytes.len().saturating_sub(32);
        let (body, sum) = bytes.split_at(body_len);
        check("checksum", blake3::hash(body).as_bytes() == sum, "intact bytes", "torn bytes")?;
        let mut rest = Parts { rest: body };
        check("magic", rest.take("magic", 8)? == MAGIC, "a Keid session", "something else")?;
        let same = rest.take("fingerprint", 32)? == self.fingerprint;
        check("model", same, "the model that made it", "another model")?;
        let version = rest.take("version", 4)? == NUMERICS_VERSION.to_le_bytes();
        check("numerics version", version, &NUMERICS_VERSION.to_string(), "another")?;
        let same = rest.take("row format", 1)?[0] == row_format_id(self.options.rows);
        check("row format", same, self.options.rows.name(), "another")?;
        let draft = rest.take("draft block", 1)?[0] == 1;
        let have = self.mtp.is_some();
        check("draft block", draft == have, with(have), with(draft))?;
        let n = rest.u64("length")?;
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if n > self.options.context {
            return Err(Error::Context { context: self.options.context, wanted: n });
        }
        let tokens: Vec<u32> = rest
            .take("tokens", 4 * n)?
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        self.refill(slot, &tokens, rest)
    }

    fn refill(&mut self, slot: usize, tokens: &[u32], mut rest: Parts<'_>) -> Result<()> {
        self.reserve(slot, tokens.len())?;
        let page_bytes = self.options.kv_layout(&self.config).page_bytes();
        for (i, page_tokens) in tokens.chunks_exact(PAGE_TOKENS).enumerate() {
            let page = self.slots[slot].pages[i];
            self.be.write_page(&mut self.kv, page, rest.take("page", page_bytes)?)?;
            let parent = self.slots[slot].chain.unwrap_or(self.cache.root());
            let (key, kept) = self.cache.publish(parent, page_tokens, page);
            self.slots[slot].pages[i] = kept;
            self.slots[slot].chain = Some(key);
        }
        self.slots[slot].tokens.extend_from_slice(tokens);
        if tokens.is_empty() { Ok(()) } else { self.read_state(slot, rest.rest) }
    }
}

/// Bytes not yet read.
struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(n) else {
            let (expected, found) = (format!("{n} bytes"), format!("{} bytes", self.rest.len()));
            return Err(Error::Snapshot { what, expected, found });
        };
        self.rest = tail;
        Ok(head)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(what, 8)?);
        Ok(u64::from_le_bytes(bytes))
    }
}

fn check(what: &'static str, ok: bool, expected: &str, found: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::Snapshot { what, expected: expected.to_owned(), found: found.to_owned() })
}

fn row_format_id(format: RowFormat) -> u8 {
    match format {
        RowFormat::F32 => 0,
        RowFormat::Model => 1,
        RowFormat::ModelWideTail => 2,
    }
}

fn with(draft: bool) -> &'static str {
    if draft { "with a draft block" } else { "without a draft block" }
}
