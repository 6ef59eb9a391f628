//! One stream's way through its grammars.

use std::collections::VecDeque;
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

    /// Follows what the text says.
    fn note(&mut self, token: u32) {
        let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        let is_markup = Some(token) == self.dsml;
        if let Some(payload) = &mut self.payload {
            payload.push(bytes, is_markup);
        } else if is_markup && self.ends_with_bracket && self.worker.is_some() {
            // A tool block inside the grammar of the answer.
            self.payload = Some(Payload::default());
        }
        self.ends_with_bracket = bytes.ends_with(b"<") && !self.tokenizer.is_special(token);
    }
}

impl Constraint for Watch {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        let Some(worker) = &mut self.worker else { return Ok(Allowed::default()) };
        let greedy = self.payload.as_ref().is_some_and(|payload| !payload.is_free());
        Ok(Allowed { mask: Some(worker.mask()?), greedy })
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        match &mut self.worker {
            Some(worker) => worker.accept(token),
            None => self.start(token).map_err(|error| error.to_string())?,
        }
        self.note(token);
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>, String> {
        let Some(worker) = &mut self.worker else { return Ok(Vec::new()) };
        let forced = worker.forced()?;
        forced.iter().for_each(|&token| self.note(token));
        Ok(forced)
    }
}

/// A grammar on its own thread, which ends with the stream.
struct Worker {
    tokens: Sender<u32>,
    steps: Receiver<Result<Step, String>>,
    step: Option<Step>,
}

/// What comes behind a token that the grammar was told.
struct Step {
    /// Tokens that are the only ones allowed, each in its turn. The grammar is past them.
    forced: VecDeque<u32>,
    /// What is allowed behind those.
    mask: SimpleVob,
    /// The first forced one alone.
    only: Vec<u32>,
}

/// Tokens at most that are known in advance: more would hold up the other streams' step.
const FORCED_MAX: usize = 64;

impl Worker {
    fn spawn(matcher: Matcher) -> io::Result<Self> {
        let (tokens, inbox) = channel();
        let (outbox, steps) = channel();
        let work = move || follow(matcher, &inbox, &outbox);
        std::thread::Builder::new().name("grammar".to_owned()).spawn(work)?;
        Ok(Self { tokens, steps, step: None })
    }

    fn accept(&mut self, token: u32) {
        // The grammar knows forced tokens already. What is chosen against it is its own to refuse.
        let forced = self.step.as_mut().and_then(|step| step.forced.pop_front());
        if forced != Some(token) {
            self.step = None;
            // A thread that is gone has left its error with the steps.
            let _ = self.tokens.send(token);
        }
    }

    fn step(&mut self) -> Result<&mut Step, String> {
        if self.step.is_none() {
            let gone = |_| "the grammar ended early".to_owned();
            self.step = Some(self.steps.recv().map_err(gone)??);
        }
        self.step.as_mut().ok_or_else(|| "there is no mask".to_owned())
    }

    fn forced(&mut self) -> Result<Vec<u32>, String> {
        Ok(self.step()?.forced.drain(..).collect())
    }

    fn mask(&mut self) -> Result<&[u32], String> {
        let Step { forced, mask, only } = self.step()?;
        let Some(&token) = forced.front() else { return Ok(mask.as_slice()) };
        only.clear();
        only.resize(token as usize / 32, 0);
        only.push(1 << (token % 32));
        Ok(only)
    }
}

/// Gives the first step, then one after every token.
fn follow(mut matcher: Matcher, tokens: &Receiver<u32>, steps: &Sender<Result<Step, String>>) {
    loop {
        let step = next_step(&mut matcher);
        let is_broken = step.is_err();
        if steps.send(step).is_err() || is_broken {
            return;
        }
        let Ok(token) = tokens.recv() else { return };
        // The end of sentence after the end of the grammar is no part of it.
        if !matcher.is_stopped()
            && let Err(error) = matcher.consume_token(token)
        {
            let _ = steps.send(Err(error.to_string()));
            return;
        }
    }
}

/// Masks until one leaves a choice, or the grammar ends.
fn next_step(matcher: &mut Matcher) -> Result<Step, String> {
    let mut forced = VecDeque::new();
    loop {
        let mask = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
        let only = mask.first_bit_set().filter(|_| mask.num_set() == 1);
        let Some(token) = only.filter(|_| !matcher.is_stopped() && forced.len() < FORCED_MAX)
        else {
            return Ok(Step { forced, mask, only: Vec::new() });
        };
        matcher.consume_token(token as u32).map_err(|error| error.to_string())?;
        forced.push_back(token as u32);
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
