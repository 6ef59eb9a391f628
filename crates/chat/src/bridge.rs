//! Between this repository's tokenizer and DeepSeek's stream processor.
//!
//! The processor is an asynchronous stream that pulls what the model gives out and yields what
//! it understands. Nothing in it ever waits for anything but the next input, so here it is
//! turned around: [`Pump::push`] puts one input in and takes out all that it leads to.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use deepseek_recipe::stream::{
    ChunkGenerator, InferenceChunk, ParsingOptions, StreamError, StreamProcessor, StreamTokenizer,
};
use futures_core::Stream;
use tokenizer::{Specials, Tokenizer};

use crate::{ASSISTANT, BOS, EOS, USER};

/// Feeds a stream processor one input at a time.
pub(crate) struct Pump<C> {
    output: Pin<Box<dyn Stream<Item = Result<C, StreamError>> + Send>>,
    input: Arc<Mutex<Input>>,
    is_finished: bool,
}

#[derive(Default)]
struct Input {
    chunks: VecDeque<InferenceChunk>,
    is_closed: bool,
}

/// The processor's end of the input.
struct Inlet(Arc<Mutex<Input>>);

impl Stream for Inlet {
    type Item = InferenceChunk;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<InferenceChunk>> {
        let mut input = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match input.chunks.pop_front() {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None if input.is_closed => Poll::Ready(None),
            // Nobody needs waking: the next push polls again.
            None => Poll::Pending,
        }
    }
}

impl<C: Send + 'static> Pump<C> {
    pub(crate) fn new(
        generator: impl ChunkGenerator<Chunk = C>,
        options: ParsingOptions,
        tokenizer: Arc<Tokenizer>,
    ) -> Self {
        let input = Arc::new(Mutex::new(Input::default()));
        let processor =
            StreamProcessor::new(generator, options).with_tokenizer(Vocabulary::new(tokenizer));
        let output = Box::pin(processor.into_protocol_stream(Inlet(input.clone())));
        Self { output, input, is_finished: false }
    }

    /// Whether the output has ended: at the end of the input, or at a stop string before it.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Puts one input in and takes out what it leads to. Input after the end leads to nothing.
    pub(crate) fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<C>, StreamError> {
        if !self.is_finished {
            self.input().chunks.push_back(chunk);
        }
        self.drain()
    }

    /// Ends the input with `last` and takes out the rest.
    pub(crate) fn finish(&mut self, last: InferenceChunk) -> Result<Vec<C>, StreamError> {
        {
            let mut input = self.input();
            input.chunks.push_back(InferenceChunk::Tokens {
                token_ids: vec![Vocabulary::FLUSH],
                logprobs: None,
            });
            input.chunks.push_back(last);
            input.is_closed = true;
        }
        self.drain()
    }

    fn input(&self) -> std::sync::MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&mut self) -> Result<Vec<C>, StreamError> {
        let mut chunks = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while !self.is_finished {
            match self.output.as_mut().poll_next(&mut context) {
                Poll::Ready(Some(chunk)) => chunks.push(chunk?),
                Poll::Ready(None) => self.is_finished = true,
                Poll::Pending => break,
            }
        }
        Ok(chunks)
    }
}

/// The tokenizer as the stream processor wants it.
struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that stand between turns and are never part of an answer.
    silent: Vec<u32>,
}

impl Vocabulary {
    /// Stands for no token. The processor holds plain tokens back while they end inside a
    /// character and lets them go before a special token; this is a special token without text,
    /// so that at the end of the input nothing stays behind.
    const FLUSH: u32 = u32::MAX;

    fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let silent = [BOS, EOS, USER, ASSISTANT];
        let silent = silent.iter().filter_map(|spelling| tokenizer.special_id(spelling)).collect();
        Self { tokenizer, silent }
    }
}

impl StreamTokenizer for Vocabulary {
    fn decode_ids(&self, ids: &[u32], _: bool) -> Result<String, String> {
        let spoken = |id: &u32| *id != Self::FLUSH && !self.silent.contains(id);
        let spoken: Vec<u32> = ids.iter().copied().filter(spoken).collect();
        let bytes = self.tokenizer.decode(&spoken).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokenizer.token_spelling(id)
    }

    fn count_tokens(&self, text: &str) -> Option<usize> {
        Some(self.tokenizer.encode(text, Specials::Text).len())
    }

    fn is_special_token(&self, id: u32) -> bool {
        id == Self::FLUSH || self.tokenizer.is_special(id)
    }
}
