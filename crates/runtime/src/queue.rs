//! Who gets a place, and who had better wait a little.

use std::collections::VecDeque;

use engine::ANCHOR_EVERY;
use kvcache::PAGE_TOKENS;

use crate::stream::Stream;

/// Streams without a slot, oldest first. Streams that gave their pages up keep their age.
#[derive(Default)]
pub(crate) struct Queue(VecDeque<Stream>);

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, stream: Stream) {
        let at = self.0.partition_point(|other| other.id < stream.id);
        self.0.insert(at, stream);
    }

    /// Drops streams that nobody listens to; how many.
    pub(crate) fn drop_abandoned(&mut self) -> usize {
        let before = self.0.len();
        self.0.retain(|stream| !stream.is_abandoned());
        before - self.0.len()
    }

    /// Takes the oldest stream that fits and that would not compute what a live one is about to.
    /// A stream that does not fit holds up all younger ones, so that small requests do not starve
    /// a large one; one that waits for a live prompt does not.
    pub(crate) fn take(&mut self, live: &[Stream], available_pages: usize) -> Option<Stream> {
        let free = available_pages.saturating_sub(live.iter().map(pledged).sum());
        let at = self.0.iter().position(|stream| !awaits_prefix(stream, live))?;
        // One page to grow for everybody: otherwise a stream that comes back drives out another.
        let headroom = if live.is_empty() { 0 } else { live.len() + 1 };
        if !live.is_empty() && pages(stream_end(&self.0[at])) + headroom > free {
            return None;
        }
        self.0.remove(at)
    }

    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Stream> + '_ {
        self.0.drain(..)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.0.iter_mut()
    }
}

fn pages(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS)
}

fn stream_end(stream: &Stream) -> usize {
    stream.tokens.len() + 1
}

/// Pages that a live stream has yet to take for tokens it already knows.
fn pledged(stream: &Stream) -> usize {
    pages(stream_end(stream)).saturating_sub(pages(stream.held))
}

/// Whether a live stream is computing a beginning of this one's tokens that can soon be resumed:
/// up to the last automatic anchor they share, or to the end of the other's prompt.
fn awaits_prefix(stream: &Stream, live: &[Stream]) -> bool {
    if stream.is_scoring() {
        return false;
    }
    live.iter().filter(|other| other.held + 1 < other.n_prompt).any(|other| {
        let prompt = &other.tokens[..other.n_prompt];
        let same = prompt.iter().zip(&stream.tokens).take_while(|(a, b)| a == b).count();
        let anchor = if same + 1 >= other.n_prompt {
            other.n_prompt - 1
        } else {
            same / ANCHOR_EVERY * ANCHOR_EVERY
        };
        let anchored = other.usage.cached_tokens.max(other.held / ANCHOR_EVERY * ANCHOR_EVERY);
        // Less than a page is computed faster than waited for.
        anchor < stream.tokens.len() && anchor > other.held && anchor >= anchored + PAGE_TOKENS
    })
}
