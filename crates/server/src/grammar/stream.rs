//! One stream's way through its grammars.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use runtime::{Allowed, Constraint};
use tokenizer::Tokenizer;

/// The grammars of a stream and the tokens that start them.
pub(super) struct Grammars {
    /// From the token that opens a tool block on, or from the start where a call is required.
    pub(super) block: Option<Matcher>,
    /// From where the answer begins.
    pub(super) answer: Option<Matcher>,
    /// The token of the tool markup, where tools are declared.
    pub(super) dsml: Option<u32>,
    /// The token that ends reasoning, where there is reasoning.
    pub(super) think_end: Option<u32>,
}

/// Where a stream is bound first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// The prompt ends inside a tool block.
    Now,
    /// At the start, by the form of the answer.
    Answer,
    /// Where a token says so.
    Later,
}

/// A [`Constraint`] that waits for its grammar to start.
pub(super) struct Watch {
    tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
    worker: Option<Worker>,
    payload: Option<Payload>,
    dsml: Option<u32>,
    ends_with_bracket: bool,
}

impl Watch {
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        mut grammars: Grammars,
        bounds: Bounds,
    ) -> io::Result<Self> {
        let first = match bounds {
            Bounds::Now => grammars.block.take(),
            Bounds::Answer => grammars.answer.take(),
            Bounds::Later => None,
        };
        Ok(Self {
            tokenizer,
            dsml: grammars.dsml,
            grammars,
            worker: first.map(Worker::spawn).transpose()?,
            payload: (bounds == Bounds::Now).then(Payload::default),
            ends_with_bracket: false,
        })
    }

    /// Starts the grammar that begins behind `token`, if one does.
    fn start(&mut self, token: u32) -> io::Result<()> {
        let opens_block = self.ends_with_bracket && Some(token) == self.grammars.dsml;
        let matcher = if opens_block {
            self.payload = Some(Payload::default());
            self.grammars.block.take()
        } else if Some(token) == self.grammars.think_end {
            self.grammars.answer.take()
        } else {
            None
        };
        self.worker = matcher.map(Worker::spawn).transpose()?;
        Ok(())
    }
}

impl Constraint for Watch {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        let Some(worker) = &mut self.worker else { return Ok(Allowed::default()) };
        let greedy = self.payload.as_ref().is_some_and(|payload| !payload.is_free());
        Ok(Allowed { mask: Some(worker.mask()?.as_slice()), greedy })
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        let is_markup = Some(token) == self.dsml;
        if let Some(payload) = &mut self.payload {
            payload.push(bytes, is_markup);
        } else if is_markup && self.ends_with_bracket && self.worker.is_some() {
            // A tool block inside the grammar of the answer.
            self.payload = Some(Payload::default());
        }
        match &mut self.worker {
            Some(worker) => worker.accept(token),
            None => self.start(token).map_err(|error| error.to_string())?,
        }
        self.ends_with_bracket = bytes.ends_with(b"<") && !tokenizer.is_special(token);
        Ok(())
    }
}

/// A grammar on its own thread, which ends with the stream.
struct Worker {
    tokens: Sender<u32>,
    masks: Receiver<Result<SimpleVob, String>>,
    mask: Option<SimpleVob>,
}

impl Worker {
    fn spawn(matcher: Matcher) -> io::Result<Self> {
        let (tokens, inbox) = channel();
        let (outbox, masks) = channel();
        let work = move || follow(matcher, &inbox, &outbox);
        std::thread::Builder::new().name("grammar".to_owned()).spawn(work)?;
        Ok(Self { tokens, masks, mask: None })
    }

    fn accept(&mut self, token: u32) {
        self.mask = None;
        // A thread that is gone has left its error with the masks.
        let _ = self.tokens.send(token);
    }

    fn mask(&mut self) -> Result<&SimpleVob, String> {
        if self.mask.is_none() {
            let gone = |_| "the grammar ended early".to_owned();
            self.mask = Some(self.masks.recv().map_err(gone)??);
        }
        self.mask.as_ref().ok_or_else(|| "there is no mask".to_owned())
    }
}

/// Gives the first mask, then one after every token.
fn follow(mut matcher: Matcher, tokens: &Receiver<u32>, masks: &Sender<Result<SimpleVob, String>>) {
    loop {
        let mask = matcher.compute_mask_or_eos().map_err(|error| error.to_string());
        let is_broken = mask.is_err();
        if masks.send(mask).is_err() || is_broken {
            return;
        }
        let Ok(token) = tokens.recv() else { return };
        // The end of sentence after the end of the grammar is no part of it.
        if !matcher.is_stopped()
            && let Err(error) = matcher.consume_token(token)
        {
            let _ = masks.send(Err(error.to_string()));
            return;
        }
    }
}

/// Tells the values of parameters, where the model speaks, from the markup around them, where it
/// only spells.
#[derive(Debug, Default)]
struct Payload {
    state: State,
    /// The end of the text since the last token of the markup.
    tail: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Markup,
    Text,
    Json {
        in_string: bool,
        is_escaped: bool,
    },
}

const TEXT: &[u8] = b" string=\"true\">";
const JSON: &[u8] = b" string=\"false\">";

impl Payload {
    /// Whether the next token is the model's to choose.
    fn is_free(&self) -> bool {
        matches!(self.state, State::Text | State::Json { in_string: true, .. })
    }

    fn push(&mut self, bytes: &[u8], is_markup: bool) {
        if is_markup {
            *self = Self::default();
            return;
        }
        for &byte in bytes {
            match &mut self.state {
                State::Text => {}
                State::Markup => {
                    self.tail.push(byte);
                    if self.tail.ends_with(TEXT) {
                        self.state = State::Text;
                    } else if self.tail.ends_with(JSON) {
                        self.state = State::Json { in_string: false, is_escaped: false };
                    }
                }
                State::Json { in_string, is_escaped } => match byte {
                    _ if *is_escaped => *is_escaped = false,
                    b'\\' if *in_string => *is_escaped = true,
                    b'"' => *in_string = !*in_string,
                    _ => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_free_and_markup_is_not() {
        let mut payload = Payload::default();
        let mut free = |bytes: &str, is_markup| {
            payload.push(bytes.as_bytes(), is_markup);
            payload.is_free()
        };
        assert!(!free("tool_calls>\n<", false));
        assert!(!free("DSML", true));
        assert!(!free("parameter name=\"a\" str", false));
        assert!(free("ing=\"true\">ls", false));
        assert!(free(" \"x\" </", false));
        assert!(!free("DSML", true));
        assert!(!free("parameter name=\"b\" string=\"false\">[1, ", false));
        assert!(free("\"a", false));
        assert!(free("\\\"b", false));
        assert!(!free("\", ", false));
    }
}
