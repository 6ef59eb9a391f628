//! The tokens of a vocabulary: what each stands for, and which are added ones.

use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::FxHashMap;

use crate::alphabet;
use crate::error::{Error, Result};
use crate::merge::{MERGES_MAX, Merges};

/// The bytes of every token, and the added tokens by their spelling.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary {
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    added: FxHashMap<String, u32>,
    finders: Vec<Finder>,
}

/// A token as a vocabulary file lists it. Its id is its place in the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) text: &'a str,
    pub(crate) kind: Kind,
}

/// What a token is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Spelled in the byte alphabet; bytes and merges make it.
    Base,
    /// Spelled literally; stands for itself. Spellings of a lower pass are looked for before
    /// those of a higher one.
    Added { pass: usize },
    /// Spelled literally and never made of text, such as padding of the vocabulary.
    Unused,
}

/// A stretch of text in which added tokens have been looked for.
pub(crate) enum Part<'t> {
    Text(&'t str),
    Added(u32),
}

/// Finds the added tokens of one pass.
#[derive(Debug, Clone)]
struct Finder {
    automaton: AhoCorasick,
    /// The token of each pattern.
    ids: Vec<u32>,
}

/// The ids of the base tokens by their spelling in the file.
pub(crate) type BaseIds<'a> = FxHashMap<&'a str, u32>;

impl Vocabulary {
    /// Takes in the tokens of a file. Also gives the base tokens by spelling, for the merges.
    pub(crate) fn new<'a>(entries: &[Entry<'a>]) -> Result<(Self, BaseIds<'a>)> {
        let mut vocabulary = Self {
            bytes: Vec::with_capacity(entries.len() * 8),
            ends: Vec::with_capacity(entries.len()),
            kinds: entries.iter().map(|entry| entry.kind).collect(),
            added: FxHashMap::default(),
            finders: Vec::new(),
        };
        let mut base = BaseIds::default();
        base.reserve(entries.len());
        for (id, entry) in (0u32..).zip(entries) {
            vocabulary.push(id, entry, &mut base).map_err(|problem| Error::Token {
                id,
                token: entry.text.to_owned(),
                problem,
            })?;
        }
        vocabulary.finders = finders(entries)?;
        Ok((vocabulary, base))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }

    pub(crate) fn is_added(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Added { .. }))
    }

    pub(crate) fn is_base(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Base)
    }

    pub(crate) fn added_id(&self, spelling: &str) -> Option<u32> {
        self.added.get(spelling).copied()
    }

    /// Calls `emit` with the added tokens spelled in `text` and the text between them.
    pub(crate) fn parse_added<'t>(&self, text: &'t str, emit: &mut impl FnMut(Part<'t>)) {
        self.parse_passes(&self.finders, text, emit);
    }

    fn parse_passes<'t>(&self, finders: &[Finder], text: &'t str, emit: &mut dyn FnMut(Part<'t>)) {
        let Some((finder, later)) = finders.split_first() else {
            return emit(Part::Text(text));
        };
        let mut text_start = 0;
        for found in finder.automaton.find_iter(text) {
            self.parse_passes(later, &text[text_start..found.start()], emit);
            emit(Part::Added(finder.ids[found.pattern().as_usize()]));
            text_start = found.end();
        }
        self.parse_passes(later, &text[text_start..], emit);
    }

    fn push<'a>(
        &mut self,
        id: u32,
        entry: &Entry<'a>,
        base: &mut BaseIds<'a>,
    ) -> std::result::Result<(), String> {
        if entry.text.is_empty() {
            return Err("is empty".to_owned());
        }
        if entry.kind == Kind::Base {
            alphabet::spelled_to_bytes(entry.text, &mut self.bytes).map_err(|outside| {
                format!("is a base token, and {outside:?} is not in the byte alphabet")
            })?;
        } else {
            self.bytes.extend_from_slice(entry.text.as_bytes());
        }
        self.ends.push(self.bytes.len());
        let earlier = match entry.kind {
            Kind::Base => base.insert(entry.text, id),
            Kind::Added { .. } => self.added.insert(entry.text.to_owned(), id),
            Kind::Unused => None,
        };
        earlier.map_or(Ok(()), |earlier| Err(format!("is also token {earlier}")))
    }
}

/// One finder for each pass that has tokens, in the order of the passes.
fn finders(entries: &[Entry<'_>]) -> Result<Vec<Finder>> {
    let mut passes: Vec<Vec<(u32, &str)>> = Vec::new();
    for (id, entry) in (0u32..).zip(entries) {
        if let Kind::Added { pass } = entry.kind {
            passes.resize_with(passes.len().max(pass + 1), Vec::new);
            passes[pass].push((id, entry.text));
        }
    }
    passes.retain(|pass| !pass.is_empty());
    passes.iter().map(|pass| finder(pass)).collect()
}

fn finder(tokens: &[(u32, &str)]) -> Result<Finder> {
    let automaton = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(|(_, text)| text))
        .map_err(|error| Error::Unsupported {
            field: "added tokens".to_owned(),
            expected: "spellings that one automaton can hold".to_owned(),
            found: format!("{} spellings: {error}", tokens.len()),
        })?;
    Ok(Finder { automaton, ids: tokens.iter().map(|&(id, _)| id).collect() })
}

/// Reads merges given as `(left, right)` spellings, in the order of their rank.
pub(crate) fn merges<'m>(
    base: &BaseIds<'_>,
    pairs: impl ExactSizeIterator<Item = Option<(&'m str, &'m str)>>,
    spelled: impl Fn(usize) -> String,
) -> Result<Merges> {
    if pairs.len() > MERGES_MAX {
        return Err(Error::Unsupported {
            field: "merges".to_owned(),
            expected: format!("at most {MERGES_MAX}"),
            found: pairs.len().to_string(),
        });
    }
    let mut merges = Merges::new(byte_ids(base)?, pairs.len());
    let mut joined = String::new();
    for (rank, pair) in pairs.enumerate() {
        let wrong = |problem: String| Error::Merge { rank, merge: spelled(rank), problem };
        let (left, right) =
            pair.ok_or_else(|| wrong("is not two tokens with a space between".to_owned()))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |token: &str| {
            let id = base.get(token).copied();
            id.ok_or_else(|| wrong(format!("needs the base token {token:?}, which is missing")))
        };
        merges
            .push(id(left)?, id(right)?, id(&joined)?)
            .map_err(|earlier| wrong(format!("is also merge {earlier}")))?;
    }
    Ok(merges.finish())
}

/// The token of each byte alone.
fn byte_ids(base: &BaseIds<'_>) -> Result<[u32; 256]> {
    let mut ids = [0; 256];
    for (byte, id) in (0..=u8::MAX).zip(&mut ids) {
        let spelling = alphabet::spelling_of(byte);
        *id = *base.get(&*spelling.encode_utf8(&mut [0; 4])).ok_or(Error::MissingByte { byte })?;
    }
    Ok(ids)
}
