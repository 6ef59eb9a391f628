//! Who uses which page, which page has which name, which anchors hang where.

use std::collections::HashMap;

use crate::key::{PAGE_TOKENS, PageKey};
use crate::store::{Place, Store};

/// The longest reusable beginning of a token sequence.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Complete pages up to the anchor, in order.
    pub pages: Vec<u32>,
    /// Name of the last of them.
    pub key: Option<PageKey>,
    /// Position of the anchor; 0 when none matched.
    pub anchor: usize,
    /// Tokens that match what is held, anchor or not.
    pub matched: usize,
    /// What is held in the place of the first token that does not match, if anything is.
    pub instead: Option<u32>,
}

/// Counts for reports and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pages that hold nothing.
    pub free_pages: usize,
    /// Pages that only the index holds.
    pub cached_pages: usize,
    /// Anchors held.
    pub anchors: usize,
    /// Bytes that all anchors take, in whole blocks.
    pub anchor_bytes: usize,
}

/// The books of one device's pages.
#[derive(Debug)]
pub struct Cache {
    root: PageKey,
    /// Users of each page; an unused page is free or only cached.
    users: Vec<u32>,
    free: Vec<u32>,
    nodes: HashMap<PageKey, Node>,
    /// Name of each page that has one.
    names: Vec<Option<PageKey>>,
    store: Store,
    clock: u64,
}

/// A place in the tree of chains: the root, or a complete page.
#[derive(Debug, Default)]
struct Node {
    parent: Option<PageKey>,
    page: u32,
    tokens: Vec<u32>,
    children: Vec<PageKey>,
    anchors: Vec<Held>,
    used: u64,
}

/// An anchor: what resuming at one position needs beside complete pages.
#[derive(Debug)]
struct Held {
    /// Tokens after the last complete page; their compressed rows are in the bytes.
    tail: Vec<u32>,
    /// State made by the engine; opaque here.
    place: Place,
    used: u64,
}

impl Cache {
    /// Books for `n_pages` pages, and memory for at most `anchor_budget` bytes of anchors.
    pub fn new(root: PageKey, n_pages: usize, anchor_budget: usize) -> Self {
        Self {
            root,
            users: vec![0; n_pages],
            free: (0..n_pages as u32).rev().collect(),
            nodes: HashMap::from([(root, Node::default())]),
            names: vec![None; n_pages],
            store: Store::new(anchor_budget),
            clock: 0,
        }
    }

    /// The beginning of every chain.
    pub fn root(&self) -> PageKey {
        self.root
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let cached =
            |(page, name): (usize, &Option<PageKey>)| name.is_some() && self.users[page] == 0;
        Stats {
            free_pages: self.free.len(),
            cached_pages: self.names.iter().enumerate().filter(|&p| cached(p)).count(),
            anchors: self.nodes.values().map(|n| n.anchors.len()).sum(),
            anchor_bytes: self.store.used_bytes(),
        }
    }

    /// Pages that [`Cache::take_page`] could give out now.
    pub fn available_pages(&self) -> usize {
        let cached =
            |(page, name): &(usize, &Option<PageKey>)| name.is_some() && self.users[*page] == 0;
        self.free.len() + self.names.iter().enumerate().filter(cached).count()
    }

    /// An unused page with one user, evicting the least recently used cached page if it must.
    /// `None` when every page is in use.
    pub fn take_page(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            self.evict_page()?;
        }
        let page = self.free.pop()?;
        self.users[page as usize] = 1;
        Some(page)
    }

    /// Adds a user to a page.
    pub fn retain(&mut self, page: u32) {
        self.users[page as usize] += 1;
    }

    /// Takes a user from a page. A page with a name stays cached; another becomes free.
    ///
    /// # Panics
    /// When the page has no user: a programmer's error.
    pub fn release(&mut self, page: u32) {
        let users = &mut self.users[page as usize];
        *users = users.checked_sub(1).unwrap_or_else(|| panic!("page {page} has no user"));
        if *users == 0 && self.names[page as usize].is_none() {
            self.free.push(page);
        }
    }

    /// Whether a page may be written: it has one user and no name.
    pub fn is_private(&self, page: u32) -> bool {
        self.users[page as usize] == 1 && self.names[page as usize].is_none()
    }

    /// Names a page that the caller has just completed. When the same page is already known, the
    /// caller's is released and the known one, with the caller as a user, is returned instead.
    pub fn publish(&mut self, parent: PageKey, tokens: &[u32], page: u32) -> (PageKey, u32) {
        debug_assert_eq!(tokens.len(), PAGE_TOKENS);
        let key = parent.child(tokens);
        self.clock += 1;
        if let Some(node) = self.nodes.get_mut(&key) {
            node.used = self.clock;
            let known = node.page;
            if known != page {
                self.retain(known);
                self.release(page);
            }
            return (key, known);
        }
        // A parent that was evicted meanwhile leaves the page private: it cannot be reached.
        let Some(node) = self.nodes.get_mut(&parent) else { return (key, page) };
        node.children.push(key);
        self.names[page as usize] = Some(key);
        let node = Node {
            parent: Some(parent),
            page,
            tokens: tokens.to_vec(),
            used: self.clock,
            ..Node::default()
        };
        self.nodes.insert(key, node);
        (key, page)
    }

    /// Hangs an anchor behind the chain `key`: the tokens after its last page, and what the engine
    /// needs to go on there. Replaces one at the same tokens; evicts the least recently used
    /// anchors where room is short. An anchor larger than all room is not kept.
    pub fn put_anchor(&mut self, key: PageKey, tail: &[u32], bytes: &[u8]) -> bool {
        if !self.store.could_hold(bytes.len()) || !self.nodes.contains_key(&key) {
            return false;
        }
        self.drop_anchor(key, tail);
        while !self.store.can_hold(bytes.len()) && self.evict_anchor() {}
        let (Some(node), Some(place)) = (self.nodes.get_mut(&key), self.store.put(bytes)) else {
            return false;
        };
        self.clock += 1;
        node.anchors.push(Held { tail: tail.to_vec(), place, used: self.clock });
        true
    }

    /// The longest beginning of `tokens` that can be resumed at a position of at most `limit`.
    pub fn lookup(&mut self, tokens: &[u32], limit: usize) -> Lookup {
        self.clock += 1;
        let mut key = self.root;
        let mut chain: Vec<(PageKey, u32)> = Vec::new();
        let mut best = Lookup::default();
        loop {
            let done = chain.len() * PAGE_TOKENS;
            let rest = &tokens[done..];
            let Some(node) = self.nodes.get_mut(&key) else { break };
            node.used = self.clock;
            best.matched = best.matched.max(done);
            for held in &mut node.anchors {
                let at = done + held.tail.len();
                if rest.starts_with(&held.tail) {
                    best.matched = best.matched.max(at);
                    if at <= limit && at > best.anchor {
                        held.used = self.clock;
                        best.anchor = at;
                        best.key = Some(key);
                    }
                }
            }
            if rest.len() < PAGE_TOKENS {
                break;
            }
            let next = key.child(&rest[..PAGE_TOKENS]);
            let Some(child) = self.nodes.get(&next) else { break };
            chain.push((next, child.page));
            key = next;
        }
        let (matched, instead) = self.partial_match(key, chain.len(), tokens);
        if matched >= best.matched {
            (best.matched, best.instead) = (matched, instead);
        }
        best.pages = chain.iter().take(best.anchor / PAGE_TOKENS).map(|&(_, page)| page).collect();
        best
    }

    /// Appends the bytes of the anchor that [`Cache::lookup`] chose. Whether it is there.
    pub fn read_anchor(&self, key: PageKey, tail: &[u32], out: &mut Vec<u8>) -> bool {
        let anchors = self.nodes.get(&key).map_or(&[][..], |node| &node.anchors);
        let held = anchors.iter().find(|held| held.tail == tail);
        held.inspect(|held| self.store.read(&held.place, out)).is_some()
    }

    /// How far `tokens` agree with any page that follows `key`, and what the page that agrees
    /// longest has where they no longer do.
    fn partial_match(&self, key: PageKey, n_pages: usize, tokens: &[u32]) -> (usize, Option<u32>) {
        let done = n_pages * PAGE_TOKENS;
        let rest = &tokens[done..];
        let agree = |other: &[u32]| {
            let same = rest.iter().zip(other).take_while(|(a, b)| a == b).count();
            let differs = rest.get(same).and(other.get(same));
            (same, differs.copied())
        };
        let Some(node) = self.nodes.get(&key) else { return (0, None) };
        let pages = node.children.iter().filter_map(|c| self.nodes.get(c));
        let tails = node.anchors.iter().map(|h| agree(&h.tail));
        let (same, instead) =
            pages.map(|n| agree(&n.tokens)).chain(tails).max().unwrap_or((0, None));
        (done + same, instead)
    }

    fn drop_anchor(&mut self, key: PageKey, tail: &[u32]) {
        let Some(node) = self.nodes.get_mut(&key) else { return };
        if let Some(i) = node.anchors.iter().position(|held| held.tail == tail) {
            self.store.give_back(node.anchors.swap_remove(i).place);
        }
    }

    fn evict_anchor(&mut self) -> bool {
        let held = |(key, node): (&PageKey, &Node)| {
            let used = node.anchors.iter().enumerate().map(|(i, held)| (held.used, i)).min();
            used.map(|(used, i)| (used, *key, i))
        };
        let Some((_, key, i)) = self.nodes.iter().filter_map(held).min() else { return false };
        let Some(node) = self.nodes.get_mut(&key) else { return false };
        self.store.give_back(node.anchors.swap_remove(i).place);
        true
    }

    /// Frees the least recently used page that nobody uses and nothing follows.
    fn evict_page(&mut self) -> Option<()> {
        let leaf = |node: &Node| {
            node.parent.is_some() && node.children.is_empty() && self.users[node.page as usize] == 0
        };
        let key = self
            .nodes
            .iter()
            .filter(|(_, node)| leaf(node))
            .min_by_key(|(key, node)| (node.used, **key))
            .map(|(key, _)| *key)?;
        let node = self.nodes.remove(&key)?;
        node.anchors.into_iter().for_each(|held| self.store.give_back(held.place));
        if let Some(parent) = node.parent.and_then(|p| self.nodes.get_mut(&p)) {
            parent.children.retain(|child| *child != key);
        }
        self.names[node.page as usize] = None;
        self.free.push(node.page);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BLOCK_BYTES;

    /// A cache with room for so many small anchors.
    fn cache(n_pages: usize, n_anchors: usize) -> Cache {
        Cache::new(PageKey::root(&[7; 32], "model", 1), n_pages, n_anchors * BLOCK_BYTES)
    }

    fn page(seed: u32) -> Vec<u32> {
        (0..PAGE_TOKENS as u32).map(|i| seed * 1000 + i).collect()
    }

    #[test]
    fn the_longest_chain_with_an_anchor_inside_the_limit_is_found() {
        let mut c = cache(4, 10);
        let (p0, p1) = (c.take_page().unwrap(), c.take_page().unwrap());
        let (k0, _) = c.publish(c.root(), &page(1), p0);
        let (k1, _) = c.publish(k0, &page(2), p1);
        assert!(c.put_anchor(k0, &[], &[10; 10]));
        assert!(c.put_anchor(k1, &[5, 6], &[11; 12]));
        let tokens: Vec<u32> = [page(1), page(2), vec![5, 6, 7]].concat();
        let found = c.lookup(&tokens, 1000);
        assert_eq!((found.anchor, found.matched), (514, 514));
        assert_eq!(found.pages, [p0, p1]);
        let mut bytes = vec![0];
        assert!(c.read_anchor(found.key.unwrap(), &[5, 6], &mut bytes));
        assert_eq!(bytes, [&[0][..], &[11; 12]].concat());
        assert!(!c.read_anchor(found.key.unwrap(), &[5], &mut bytes));
        let limited = c.lookup(&tokens, 513);
        assert_eq!((limited.anchor, limited.pages), (256, vec![p0]));
        let mut other = tokens.clone();
        other[300] = 0;
        let other = c.lookup(&other, 1000);
        assert_eq!((other.anchor, other.matched), (256, 300));
        assert_eq!(other.instead, Some(2044), "the token that page 2 has there");
        assert_eq!(c.lookup(&tokens, 1000).instead, None, "nothing held goes on differently");
    }

    #[test]
    fn the_same_tokens_share_one_page() {
        let mut c = cache(3, 0);
        let (a, b) = (c.take_page().unwrap(), c.take_page().unwrap());
        let (key, kept) = c.publish(c.root(), &page(1), a);
        assert_eq!(c.publish(c.root(), &page(1), b), (key, kept));
        assert_eq!(c.stats().free_pages, 2);
        c.release(kept);
        assert_eq!(c.stats().cached_pages, 0);
        c.release(kept);
        assert_eq!(c.stats().cached_pages, 1);
    }

    #[test]
    fn pages_are_evicted_leaves_first_and_only_when_unused() {
        let mut c = cache(2, 10);
        let (a, b) = (c.take_page().unwrap(), c.take_page().unwrap());
        let (ka, _) = c.publish(c.root(), &page(1), a);
        c.publish(ka, &page(2), b);
        assert_eq!(c.take_page(), None);
        c.release(a);
        // `a` is unused, but `b` follows it and is in use.
        assert_eq!(c.take_page(), None);
        c.release(b);
        assert_eq!(c.take_page(), Some(b));
        assert_eq!(c.take_page(), Some(a));
        assert_eq!(c.lookup(&page(1), 1000).matched, 0);
    }

    #[test]
    fn anchors_stay_in_budget() {
        let mut c = cache(1, 2);
        let root = c.root();
        assert!(c.put_anchor(root, &[1], &[1; 10]));
        assert!(c.put_anchor(root, &[1, 2], &[2; 10]));
        assert_eq!(c.lookup(&[1, 9], 10).anchor, 1);
        assert!(c.put_anchor(root, &[3], &[3; 10]));
        // The anchor that was looked up last survives.
        assert_eq!(c.lookup(&[1, 2, 3], 10).anchor, 1);
        let too_large = vec![4; 2 * BLOCK_BYTES + 1];
        assert!(!c.put_anchor(root, &[4], &too_large));
        assert_eq!(c.stats().anchor_bytes, 2 * BLOCK_BYTES);
        assert!(c.put_anchor(root, &[3], &[5; 12]), "one in the place of another");
        let taken = Stats { anchors: 2, anchor_bytes: 2 * BLOCK_BYTES, ..c.stats() };
        assert_eq!(c.stats(), taken);
        assert!(c.put_anchor(root, &[6], &too_large[1..]), "both make room for a large one");
        let one = Stats { anchors: 1, anchor_bytes: 2 * BLOCK_BYTES, ..c.stats() };
        assert_eq!(c.stats(), one);
    }

    #[test]
    fn an_evicted_page_gives_its_anchors_back() {
        let mut c = cache(1, 4);
        let only = c.take_page().unwrap();
        let (key, _) = c.publish(c.root(), &page(1), only);
        assert!(c.put_anchor(key, &[1], &[1; 10]) && c.put_anchor(key, &[2], &[2; 10]));
        c.release(only);
        assert_eq!(c.take_page(), Some(only));
        assert_eq!((c.stats().anchors, c.stats().anchor_bytes), (0, 0));
    }
}
