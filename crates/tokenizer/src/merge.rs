//! The merge loop of byte-pair encoding.
//!
//! The lowest-ranked pair of neighbours merges, the leftmost first among equals, until no
//! ranked pair is left. A piece can be a megabyte long (one line of letters), so long pieces
//! keep their pairs in a queue by rank; short ones, which are nearly all, are searched directly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

/// The rank of a pair that never merges.
const NO_RANK: u32 = u32::MAX;
/// The largest number of merges: every rank is below [`NO_RANK`].
pub(crate) const MERGES_MAX: usize = NO_RANK as usize;
/// Pieces of at most this many bytes are merged by direct search: the square of this is about
/// what the queue's bookkeeping costs.
const SHORT_PIECE_MAX: usize = 40;

/// Which pairs of tokens merge, in which order, into what.
#[derive(Debug, Clone)]
pub(crate) struct Merges {
    /// The token of each single byte.
    byte_ids: [u32; 256],
    /// The ranks of the pairs of single bytes, `left · 256 + right`. About half of all look-ups
    /// are of those, and this table stays in cache.
    byte_ranks: Vec<u32>,
    pairs: FxHashMap<(u32, u32), Merged>,
}

/// What a pair becomes.
#[derive(Debug, Clone, Copy)]
struct Merged {
    rank: u32,
    id: u32,
}

/// Memory that encoding one piece leaves for the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    short: Vec<Merged>,
    long: Vec<Node>,
    queue: Queue,
}

/// The pairs of a long piece that can merge, by rank. New pairs nearly always have higher ranks
/// than the one being merged, and a rank has many pairs, so a list for each rank costs less
/// than one heap of all pairs.
#[derive(Debug, Default)]
struct Queue {
    /// For each rank, where its pairs start. An entry is outdated once the node there has
    /// another rank.
    places: Vec<Vec<usize>>,
    /// The ranks that have entries.
    ranks: BinaryHeap<Reverse<u32>>,
}

impl Queue {
    fn push(&mut self, rank: u32, at: usize) {
        if rank == NO_RANK {
            return;
        }
        let places = &mut self.places[rank as usize];
        if places.is_empty() {
            self.ranks.push(Reverse(rank));
        }
        places.push(at);
    }

    fn lowest_rank(&self) -> Option<u32> {
        self.ranks.peek().map(|&Reverse(rank)| rank)
    }
}

/// A token of a long piece, linked to its neighbours. Its place in the list of nodes is the
/// byte of the piece where it starts.
#[derive(Debug, Clone, Copy)]
struct Node {
    id: u32,
    /// The rank of this token with the next one; [`NO_RANK`] also once merged away.
    rank: u32,
    previous: usize,
    next: usize,
}

/// The neighbour of the first and of the last node.
const NONE: usize = usize::MAX;

impl Merges {
    /// Merges over the tokens of the single bytes, with room for `capacity` pairs.
    pub(crate) fn new(byte_ids: [u32; 256], capacity: usize) -> Self {
        let pairs = FxHashMap::with_capacity_and_hasher(capacity, Default::default());
        Self { byte_ids, byte_ranks: Vec::new(), pairs }
    }

    /// Adds the pair of the next higher rank. Gives back the rank that the pair already has,
    /// if it has one; the pair then keeps it.
    pub(crate) fn push(&mut self, left: u32, right: u32, merged: u32) -> Result<(), u32> {
        let rank = self.pairs.len() as u32;
        match self.pairs.entry((left, right)) {
            Entry::Occupied(old) => Err(old.get().rank),
            Entry::Vacant(vacant) => {
                vacant.insert(Merged { rank, id: merged });
                Ok(())
            }
        }
    }

    /// Ends the list of pairs.
    pub(crate) fn finish(mut self) -> Self {
        let ids = self.byte_ids;
        let ranks = ids.iter().flat_map(|&left| ids.map(|right| self.rank(left, right)));
        self.byte_ranks = ranks.collect();
        self
    }

    /// Appends the tokens of one piece.
    pub(crate) fn encode(&self, piece: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match piece {
            [] => {}
            [byte] => ids.push(self.byte_ids[*byte as usize]),
            _ if piece.len() <= SHORT_PIECE_MAX => self.encode_short(piece, scratch, ids),
            _ => self.encode_long(piece, scratch, ids),
        }
    }

    fn merged(&self, left: u32, right: u32) -> Merged {
        let missing = Merged { rank: NO_RANK, id: 0 };
        self.pairs.get(&(left, right)).copied().unwrap_or(missing)
    }

    fn rank(&self, left: u32, right: u32) -> u32 {
        self.merged(left, right).rank
    }

    fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_ranks[usize::from(left) << 8 | usize::from(right)]
    }

    fn encode_short(&self, piece: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        // Each element is a token and the rank of its pair with the next one.
        let parts = &mut scratch.short;
        parts.clear();
        parts.extend(piece.iter().enumerate().map(|(at, &byte)| Merged {
            id: self.byte_ids[usize::from(byte)],
            rank: piece.get(at + 1).map_or(NO_RANK, |&next| self.byte_rank(byte, next)),
        }));
        while let Some((at, lowest)) = parts.iter().enumerate().min_by_key(|(_, part)| part.rank)
            && lowest.rank != NO_RANK
        {
            parts[at].id = self.merged(parts[at].id, parts[at + 1].id).id;
            parts.remove(at + 1);
            parts[at].rank = match parts.get(at + 1) {
                Some(next) => self.rank(parts[at].id, next.id),
                None => NO_RANK,
            };
            if at > 0 {
                parts[at - 1].rank = self.rank(parts[at - 1].id, parts[at].id);
            }
        }
        ids.extend(parts.iter().map(|part| part.id));
    }

    fn encode_long(&self, piece: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { long: nodes, queue, .. } = scratch;
        queue.places.resize_with(self.pairs.len(), Vec::new);
        self.link(piece, nodes, queue);
        while let Some(Reverse(rank)) = queue.ranks.pop() {
            let mut places = std::mem::take(&mut queue.places[rank as usize]);
            places.sort_unstable();
            let mut waiting = places.into_iter();
            for at in waiting.by_ref() {
                // The pair may have changed, or gone, since its entry was made.
                if nodes[at].rank == rank {
                    self.merge_at(at, nodes, queue);
                    if queue.lowest_rank().is_some_and(|lowest| lowest < rank) {
                        break;
                    }
                }
            }
            waiting.for_each(|at| queue.push(rank, at));
        }
        let mut at = 0;
        while at != NONE {
            ids.push(nodes[at].id);
            at = nodes[at].next;
        }
    }

    /// Makes a node of every byte and queues the pairs.
    fn link(&self, piece: &[u8], nodes: &mut Vec<Node>, queue: &mut Queue) {
        nodes.clear();
        nodes.extend(piece.iter().enumerate().map(|(at, &byte)| Node {
            id: self.byte_ids[usize::from(byte)],
            rank: piece.get(at + 1).map_or(NO_RANK, |&next| self.byte_rank(byte, next)),
            previous: at.checked_sub(1).unwrap_or(NONE),
            next: if at + 1 < piece.len() { at + 1 } else { NONE },
        }));
        for (at, node) in nodes.iter().enumerate() {
            queue.push(node.rank, at);
        }
    }

    /// Merges the node at `at` with the next one, which its rank says can be done, and ranks
    /// the two pairs that this makes.
    fn merge_at(&self, at: usize, nodes: &mut [Node], queue: &mut Queue) {
        let Node { id, previous, next: right, .. } = nodes[at];
        let after = nodes[right].next;
        nodes[at].id = self.merged(id, nodes[right].id).id;
        nodes[at].next = after;
        nodes[right].rank = NO_RANK;
        nodes[at].rank = match after {
            NONE => NO_RANK,
            _ => {
                nodes[after].previous = at;
                self.rank(nodes[at].id, nodes[after].id)
            }
        };
        queue.push(nodes[at].rank, at);
        if previous != NONE {
            nodes[previous].rank = self.rank(nodes[previous].id, nodes[at].id);
            queue.push(nodes[previous].rank, previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes are tokens 0 to 255; `pairs` make the tokens from 256 on.
    fn merges(pairs: &[(u32, u32)]) -> Merges {
        let mut merges = Merges::new(std::array::from_fn(|byte| byte as u32), pairs.len());
        for (made, &(left, right)) in pairs.iter().enumerate() {
            merges.push(left, right, 256 + made as u32).unwrap();
        }
        merges.finish()
    }

    fn encode(merges: &Merges, piece: &[u8]) -> Vec<u32> {
        let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
        merges.encode(piece, &mut scratch, &mut ids);
        ids
    }

    const A: u32 = b'a' as u32;
    const B: u32 = b'b' as u32;

    #[test]
    fn the_lowest_rank_merges_first_and_the_leftmost_among_equals() {
        let merges = merges(&[(A, A), (A, B), (256, B)]);
        assert_eq!(encode(&merges, b"aaa"), [256, A]);
        assert_eq!(encode(&merges, b"aaab"), [256, 257]);
        assert_eq!(encode(&merges, b"aab"), [258]);
        assert_eq!(encode(&merges, b"b"), [B]);
    }

    #[test]
    fn a_pair_has_one_rank() {
        let mut merges = merges(&[(A, A), (A, B)]);
        assert_eq!(merges.push(A, B, 300), Err(1));
    }

    /// The definition, one merge at a time.
    fn by_definition(merges: &Merges, piece: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = piece.iter().map(|&byte| byte.into()).collect();
        loop {
            let best = (1..ids.len()).min_by_key(|&at| merges.rank(ids[at - 1], ids[at]));
            match best.map(|at| (at, merges.merged(ids[at - 1], ids[at]))) {
                Some((at, merged)) if merged.rank != NO_RANK => {
                    ids.splice(at - 1..=at, [merged.id]);
                }
                _ => return ids,
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn short_and_long_pieces_follow_the_definition(
            pairs in proptest::collection::vec((0u32..12, 0u32..12), 1..30),
            piece in proptest::collection::vec(b'a'..=b'd', 1..200),
        ) {
            // Numbers below 4 are letters, the others what earlier pairs made.
            let mut table = Merges::new(std::array::from_fn(|byte| byte as u32), pairs.len());
            for (made, (left, right)) in pairs.into_iter().enumerate() {
                let token = |number: u32| match number {
                    0..4 => A + number,
                    _ => 252 + number,
                };
                let _ = table.push(token(left), token(right), 256 + made as u32);
            }
            let table = table.finish();
            let (mut scratch, mut short, mut long) = (Scratch::default(), vec![], vec![]);
            table.encode_short(&piece, &mut scratch, &mut short);
            table.encode_long(&piece, &mut scratch, &mut long);
            let expected = by_definition(&table, &piece);
            proptest::prop_assert_eq!(&short, &expected);
            proptest::prop_assert_eq!(&long, &expected);
        }
    }
}
