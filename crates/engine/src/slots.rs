//! One sequence: its tokens, its pages, and how both grow, shrink and come back.

use backend::{Ops, PAGE_TOKENS};
use kvcache::PageKey;

use crate::core::{Core, Feed, Wanted};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::session::Reuse;

/// Positions between automatic anchors: the most that a resume ever replays.
pub const ANCHOR_EVERY: usize = 2048;

/// A sequence's books. The KV itself lies on the device.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Committed tokens.
    pub(crate) tokens: Vec<u32>,
    /// Page table; complete pages first, then at most those reserved for the next step.
    pub(crate) pages: Vec<u32>,
    /// Name of the last complete page.
    pub(crate) chain: Option<PageKey>,
    /// Whether the KV is not what the tokens would make, so that nothing of it may be shared.
    pub(crate) filled: bool,
}

impl Slot {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            tokens: Vec::with_capacity(options.context),
            pages: Vec::with_capacity(options.pages_per_slot()),
            chain: None,
            filled: false,
        }
    }
}

impl<B: Ops> Core<B> {
    /// Makes sure the slot has pages for `n` more tokens.
    pub(crate) fn reserve(&mut self, slot: usize, n: usize) -> Result<()> {
        let needed = (self.slots[slot].tokens.len() + n).div_ceil(PAGE_TOKENS);
        while self.slots[slot].pages.len() < needed {
            let n_pages = self.options.n_pages();
            let tokens = n_pages * PAGE_TOKENS;
            let page = self.cache.take_page().ok_or(Error::Pages { n_pages, tokens })?;
            self.slots[slot].pages.push(page);
        }
        Ok(())
    }

    /// Books `n` committed tokens of span `span`: names pages that are complete, leaves an anchor
    /// where one is due.
    pub(crate) fn append(&mut self, span: usize, n: usize) -> Result<()> {
        let (index, first) = {
            let span = &self.step.spans[span];
            (span.slot as usize, span.first_row as usize)
        };
        let rows = &self.step.rows[first..first + n];
        let before = self.slots[index].tokens.len();
        self.slots[index].tokens.extend(rows.iter().map(|r| r.token));
        let after = before + n;
        if self.slots[index].filled {
            return Ok(());
        }
        for page in before / PAGE_TOKENS..after / PAGE_TOKENS {
            let slot = &mut self.slots[index];
            let parent = slot.chain.unwrap_or(self.cache.root());
            let tokens = &slot.tokens[page * PAGE_TOKENS..][..PAGE_TOKENS];
            let (key, kept) = self.cache.publish(parent, tokens, slot.pages[page]);
            slot.pages[page] = kept;
            slot.chain = Some(key);
        }
        if n > 0 && after.is_multiple_of(ANCHOR_EVERY) {
            self.anchor(index)?;
        }
        Ok(())
    }

    /// Leaves an anchor at the slot's end, so that it can be resumed there.
    ///
    /// # Errors
    /// The device is lost.
    pub fn anchor(&mut self, slot: usize) -> Result<()> {
        let len = self.slots[slot].tokens.len();
        if len == 0 || self.slots[slot].filled {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.state);
        bytes.clear();
        let written = self.write_state(slot, &mut bytes);
        let Slot { tokens, chain, .. } = &self.slots[slot];
        let tail = &tokens[len / PAGE_TOKENS * PAGE_TOKENS..];
        let key = chain.unwrap_or(self.cache.root());
        if written.is_ok() {
            self.cache.put_anchor(key, tail, &bytes);
        }
        self.state = bytes;
        written
    }

    /// Makes the slot hold the longest reusable beginning of `tokens`, at most all but the last
    /// one: that one must be fed, since its logits are wanted.
    ///
    /// # Errors
    /// No free page, or the device.
    pub fn resume(&mut self, slot: usize, tokens: &[u32]) -> Result<Reuse> {
        self.discard();
        let limit = tokens.len().saturating_sub(1);
        let held = &self.slots[slot].tokens;
        let same = held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let continues = same == held.len() && same <= limit;
        let found = self.cache.lookup(tokens, limit);
        let matched = found.matched.max(same).min(tokens.len());
        let instead = found.instead.filter(|_| matched == found.matched);
        if continues && found.anchor <= same {
            // The slot simply goes on; an empty one only where the cache holds nothing better.
            return Ok(Reuse { matched, resumed: same, instead });
        }
        // Keep the pages before the slot gives its own up.
        found.pages.iter().for_each(|&page| self.cache.retain(page));
        self.release(slot);
        let (Some(key), anchor) = (found.key, found.anchor) else {
            return Ok(Reuse { matched, resumed: 0, instead });
        };
        let whole = anchor / PAGE_TOKENS * PAGE_TOKENS;
        let tail = &tokens[whole..anchor];
        let mut bytes = std::mem::take(&mut self.state);
        bytes.clear();
        self.cache.read_anchor(key, tail, &mut bytes);
        let state = &mut self.slots[slot];
        state.pages.extend_from_slice(&found.pages);
        state.tokens.extend_from_slice(&tokens[..anchor]);
        state.chain = (whole > 0).then_some(key);
        let restored = self.reserve(slot, 0).and_then(|()| self.read_state(slot, &bytes));
        self.state = bytes;
        if let Err(error) = restored {
            self.release(slot);
            return Err(error);
        }
        Ok(Reuse { matched, resumed: anchor, instead })
    }

    /// Makes the slot hold `n` tokens without computing most of them, so that speed at a long
    /// context can be measured: 256 tokens are read, their compressed rows are repeated for all
    /// pages, and the tokens past the last whole page are read again. Nothing of it enters the
    /// cache. Other tokens than `token` never occur.
    ///
    /// # Errors
    /// As [`Core::feed`].
    pub fn fill(&mut self, slot: usize, n: usize, token: u32) -> Result<()> {
        self.release(slot);
        self.slots[slot].filled = true;
        let (pages, rest) = (n / PAGE_TOKENS, n % PAGE_TOKENS);
        if pages > 0 {
            self.read_same(slot, PAGE_TOKENS, token)?;
            self.reserve(slot, (pages - 1) * PAGE_TOKENS)?;
            for i in 1..pages {
                let (from, to) = (self.slots[slot].pages[0], self.slots[slot].pages[i]);
                self.be.copy_page(&mut self.kv, from, to)?;
            }
            // At whole pages no window is open, and positions modulo the sliding window agree.
            let mut state = Vec::new();
            self.write_state(slot, &mut state)?;
            self.slots[slot].tokens.resize(pages * PAGE_TOKENS, token);
            self.read_state(slot, &state)?;
        }
        self.read_same(slot, rest, token)
    }

    fn read_same(&mut self, slot: usize, n: usize, token: u32) -> Result<()> {
        let tokens = vec![token; self.options.step_rows.min(n)];
        let mut left = n;
        while left > 0 {
            let part = &tokens[..tokens.len().min(left)];
            self.feed(&[Feed { slot, tokens: part, wanted: Wanted::Last(1) }])?;
            self.commit_all()?;
            left -= part.len();
        }
        Ok(())
    }

    /// Gives up a slot's sequence. Its complete pages and anchors stay in the cache.
    pub fn release(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.pages.drain(..).for_each(|page| self.cache.release(page));
        slot.tokens.clear();
        slot.chain = None;
        slot.filled = false;
    }

    /// Makes slot `to` hold what slot `from` holds. Complete pages are shared.
    ///
    /// # Errors
    /// No free page, or the device.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        self.discard();
        self.release(to);
        let len = self.slots[from].tokens.len();
        if len == 0 {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.state);
        bytes.clear();
        let copied = self.write_state(from, &mut bytes).and_then(|()| self.copy(from, to, &bytes));
        self.state = bytes;
        if copied.is_err() {
            self.release(to);
        }
        copied
    }

    /// Makes an empty slot hold what another holds, whose state is given.
    fn copy(&mut self, from: usize, to: usize, state: &[u8]) -> Result<()> {
        let whole = self.slots[from].tokens.len() / PAGE_TOKENS;
        for i in 0..whole {
            let page = self.slots[from].pages[i];
            self.cache.retain(page);
            self.slots[to].pages.push(page);
        }
        let tokens = std::mem::take(&mut self.slots[from].tokens);
        self.slots[to].tokens.extend_from_slice(&tokens);
        self.slots[from].tokens = tokens;
        self.slots[to].chain = self.slots[from].chain;
        self.slots[to].filled = self.slots[from].filled;
        self.reserve(to, 0)?;
        self.read_state(to, state)
    }

    /// Committed positions of each layer's KV; the MTP block lags by one.
    pub(crate) fn layer_lens(&self, len: usize) -> Vec<usize> {
        let mut lens = vec![len; self.config.n_layers()];
        if self.mtp.is_some() {
            lens.push(len.saturating_sub(1));
        }
        lens
    }

    /// Everything beside complete pages: windows, open compressor inputs, the incomplete page and
    /// the last streams when drafting.
    pub(crate) fn write_state(&mut self, slot: usize, out: &mut Vec<u8>) -> Result<()> {
        let len = self.slots[slot].tokens.len();
        let lens = self.layer_lens(len);
        self.be.read_anchor(&self.kv, slot as u32, &lens, out)?;
        if !len.is_multiple_of(PAGE_TOKENS) {
            let page = self.slots[slot].pages[len / PAGE_TOKENS];
            self.be.read_page(&self.kv, page, out)?;
        }
        if let Some(mtp) = &self.mtp {
            out.extend(mtp.pending(slot).iter().flat_map(|v| v.to_le_bytes()));
        }
        Ok(())
    }

    /// Restores what [`Core::write_state`] wrote; the slot's tokens and pages are already set.
    pub(crate) fn read_state(&mut self, slot: usize, bytes: &[u8]) -> Result<()> {
        let len = self.slots[slot].tokens.len();
        let lens = self.layer_lens(len);
        let layout = self.options.kv_layout(&self.config);
        let page_bytes = if len.is_multiple_of(PAGE_TOKENS) { 0 } else { layout.page_bytes() };
        let pending = self.mtp.as_ref().map_or(0, |m| 4 * m.pending(slot).len());
        let wanted = page_bytes + pending;
        let Some(anchor) = bytes.len().checked_sub(wanted) else {
            return Err(Error::Snapshot {
                what: "state",
                expected: format!("at least {wanted} bytes"),
                found: format!("{} bytes", bytes.len()),
            });
        };
        self.be.write_anchor(&mut self.kv, slot as u32, &lens, &bytes[..anchor])?;
        if page_bytes > 0 {
            let page = self.slots[slot].pages[len / PAGE_TOKENS];
            self.be.write_page(&mut self.kv, page, &bytes[anchor..anchor + page_bytes])?;
        }
        if let Some(mtp) = &mut self.mtp {
            let values = bytes[anchor + page_bytes..].chunks_exact(4);
            for (v, b) in mtp.pending_mut(slot).iter_mut().zip(values) {
                *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Ok(())
    }
}
