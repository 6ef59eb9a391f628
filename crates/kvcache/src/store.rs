//! The bytes of anchors: one allocation, made and written at the start, cut into blocks.
//!
//! Memory that fills only as conversations come would grow for hours and look like a leak, or be
//! missing on the day it is needed. Blocks of an anchor are chained, so keeping one allocates
//! nothing and the memory never comes apart into gaps that fit nobody.

/// Bytes of a block. The last block of an anchor is half empty on average.
pub(crate) const BLOCK_BYTES: usize = 8 << 10;

/// Marks the end of a chain.
const END: u32 = u32::MAX;

/// Blocks in use and free.
#[derive(Debug)]
pub(crate) struct Store {
    bytes: Vec<u8>,
    /// What follows each block, in an anchor or in the list of free ones.
    next: Vec<u32>,
    first_free: u32,
    n_free: usize,
}

/// An anchor's place. Not to be copied: it is given back once.
#[derive(Debug)]
pub(crate) struct Place {
    first: u32,
    /// Bytes held.
    pub(crate) len: usize,
}

impl Store {
    /// A store of at most `budget` bytes.
    pub(crate) fn new(budget: usize) -> Self {
        let n_blocks = budget / BLOCK_BYTES;
        let next = (1..=n_blocks as u32).map(|id| if id as usize == n_blocks { END } else { id });
        Self {
            // Zeros would be promised by the system and not there before they are written.
            bytes: vec![0xA5; n_blocks * BLOCK_BYTES],
            next: next.collect(),
            first_free: if n_blocks == 0 { END } else { 0 },
            n_free: n_blocks,
        }
    }

    /// Bytes in use, whole blocks.
    pub(crate) fn used_bytes(&self) -> usize {
        (self.next.len() - self.n_free) * BLOCK_BYTES
    }

    /// Whether `len` bytes could be held by an empty store.
    pub(crate) fn could_hold(&self, len: usize) -> bool {
        blocks(len) <= self.next.len()
    }

    /// Whether `len` bytes can be held now.
    pub(crate) fn can_hold(&self, len: usize) -> bool {
        blocks(len) <= self.n_free
    }

    /// Holds bytes; `None` where too few blocks are free.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<Place> {
        if !self.can_hold(bytes.len()) {
            return None;
        }
        let first = self.first_free;
        let mut last = END;
        for part in bytes.chunks(BLOCK_BYTES) {
            last = self.first_free;
            self.first_free = self.next[last as usize];
            self.n_free -= 1;
            self.bytes[last as usize * BLOCK_BYTES..][..part.len()].copy_from_slice(part);
        }
        if last == END {
            return Some(Place { first: END, len: 0 });
        }
        self.next[last as usize] = END;
        Some(Place { first, len: bytes.len() })
    }

    /// Appends what a place holds.
    pub(crate) fn read(&self, place: &Place, out: &mut Vec<u8>) {
        let (mut block, mut left) = (place.first, place.len);
        while left > 0 {
            let part = left.min(BLOCK_BYTES);
            out.extend_from_slice(&self.bytes[block as usize * BLOCK_BYTES..][..part]);
            left -= part;
            block = self.next[block as usize];
        }
    }

    /// Frees the blocks of a place.
    pub(crate) fn give_back(&mut self, place: Place) {
        let n = blocks(place.len);
        if n == 0 {
            return;
        }
        let mut last = place.first;
        (1..n).for_each(|_| last = self.next[last as usize]);
        self.next[last as usize] = self.first_free;
        self.first_free = place.first;
        self.n_free += n;
    }
}

fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn what_is_put_is_read_whatever_comes_and_goes() {
        let mut store = Store::new(20 * BLOCK_BYTES + 5);
        let mut held: Vec<(usize, Place)> = Vec::new();
        let mut state = 1usize;
        for round in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = (state >> 33) % (5 * BLOCK_BYTES);
            while !store.can_hold(len) {
                let (_, place) = held.swap_remove((state >> 13) % held.len());
                store.give_back(place);
            }
            held.push((round, store.put(&pattern(round, len)).unwrap()));
            let used: usize = held.iter().map(|(_, place)| blocks(place.len)).sum();
            assert_eq!(store.used_bytes(), used * BLOCK_BYTES);
            for (seed, place) in &held {
                let mut found = Vec::new();
                store.read(place, &mut found);
                assert_eq!(found, pattern(*seed, place.len), "round {round}");
            }
        }
    }

    #[test]
    fn a_store_knows_what_it_can_never_hold() {
        let mut store = Store::new(2 * BLOCK_BYTES);
        assert!(store.could_hold(2 * BLOCK_BYTES) && !store.could_hold(2 * BLOCK_BYTES + 1));
        let place = store.put(&pattern(0, BLOCK_BYTES + 1)).unwrap();
        assert!(store.put(&[1]).is_none());
        assert!(store.put(&[]).is_some(), "nothing takes nothing");
        store.give_back(place);
        assert_eq!(store.used_bytes(), 0);
        assert!(Store::new(0).put(&[1]).is_none());
    }
}
