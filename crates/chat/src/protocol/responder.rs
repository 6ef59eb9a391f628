use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deepseek_recipe::request::{ConversationRequest, ProtocolRequest};
use deepseek_recipe::response::{Accumulate, ProtocolResponse};
use deepseek_recipe::stream::{ChunkGenerator, InferenceChunk, PromptUsage, StreamError};
use serde::Serialize;
use tokenizer::Tokenizer;

use super::TokenLogprob;
use crate::bridge::Pump;
use crate::parser::Finish;

/// Turns sampled tokens into the response to one request: into events where the request
/// streams, into one body where it does not.
pub struct Responder {
    lane: Box<dyn Lane>,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireEvent {
    /// The value of the `event:` line, if there is one.
    pub name: Option<&'static str>,
    /// The value of the `data:` line: JSON, or the protocol's end mark.
    pub data: String,
}

/// Why a response could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// The tokens are not of this vocabulary, or come with the wrong number of probabilities.
    #[error("cannot parse the model's output: {0}")]
    Stream(StreamError),
    /// An event has no JSON form.
    #[error("cannot write an event: {0}")]
    Json(serde_json::Error),
}

impl Responder {
    pub(super) fn new<R>(
        request: ConversationRequest,
        id: String,
        model: String,
        prompt_usage: PromptUsage,
        tokenizer: Arc<Tokenizer>,
    ) -> Self
    where
        R: ProtocolRequest,
        Chunk<R>: Serialize + Send,
    {
        let generator = R::chunk_generator(&request, id.clone(), model.clone());
        let PromptUsage { prompt_tokens, prompt_cache_hit_tokens } = prompt_usage;
        let response = R::Response::new(id, model, now(), prompt_tokens, prompt_cache_hit_tokens);
        let pump = Pump::new(generator, request.parsing_options, tokenizer);
        let lane = TypedLane::<R> { streams: request.stream, pump, response, prompt_usage };
        Self { lane: Box::new(lane) }
    }

    /// Begins the response.
    ///
    /// # Errors
    ///
    /// [`RespondError::Json`].
    pub fn start(&mut self) -> Result<Vec<WireEvent>, RespondError> {
        self.lane.start()
    }

    /// Takes in sampled tokens, with one entry of probabilities each if the request wants them.
    ///
    /// # Errors
    ///
    /// [`RespondError`].
    pub fn push(
        &mut self,
        tokens: &[u32],
        logprobs: Option<Vec<TokenLogprob>>,
    ) -> Result<Vec<WireEvent>, RespondError> {
        self.lane.push(InferenceChunk::Tokens { token_ids: tokens.to_vec(), logprobs })
    }

    /// Takes in text whose tokens are not known. Markers in it count by their spelling.
    ///
    /// # Errors
    ///
    /// [`RespondError::Json`].
    pub fn push_text(
        &mut self,
        text: &str,
        n_tokens: usize,
    ) -> Result<Vec<WireEvent>, RespondError> {
        self.lane.push(InferenceChunk::Text { content: text.to_owned(), token_count: n_tokens })
    }

    /// Ends the response. A stop string may have ended it before.
    ///
    /// # Errors
    ///
    /// [`RespondError`].
    pub fn finish(&mut self, finish: Finish) -> Result<Vec<WireEvent>, RespondError> {
        self.lane.finish(finish)
    }

    /// Whether the response has ended, so that no more tokens are needed.
    pub fn is_finished(&self) -> bool {
        self.lane.is_finished()
    }

    /// The whole response as one JSON body, for a request that does not stream.
    ///
    /// # Errors
    ///
    /// [`RespondError::Json`].
    pub fn into_body(self) -> Result<serde_json::Value, RespondError> {
        self.lane.into_body()
    }
}

/// A responder of one protocol.
trait Lane: Send {
    fn start(&mut self) -> Result<Vec<WireEvent>, RespondError>;
    fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<WireEvent>, RespondError>;
    fn finish(&mut self, finish: Finish) -> Result<Vec<WireEvent>, RespondError>;
    fn is_finished(&self) -> bool;
    fn into_body(self: Box<Self>) -> Result<serde_json::Value, RespondError>;
}

type Generator<R> = <<R as ProtocolRequest>::Response as ProtocolResponse>::ChunkGenerator;
type Chunk<R> = <Generator<R> as ChunkGenerator>::Chunk;

struct TypedLane<R: ProtocolRequest> {
    streams: bool,
    prompt_usage: PromptUsage,
    pump: Pump<Chunk<R>>,
    /// What a response that does not stream has gathered.
    response: R::Response,
}

impl<R> Lane for TypedLane<R>
where
    R: ProtocolRequest,
    Chunk<R>: Serialize + Send,
{
    fn start(&mut self) -> Result<Vec<WireEvent>, RespondError> {
        let prompt_usage = self.prompt_usage;
        self.push(InferenceChunk::Ready { system_fingerprint: None, prompt_usage })
    }

    fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<WireEvent>, RespondError> {
        let chunks = self.pump.push(chunk).map_err(RespondError::Stream)?;
        self.take(chunks)
    }

    fn finish(&mut self, finish: Finish) -> Result<Vec<WireEvent>, RespondError> {
        let last = InferenceChunk::Finish { finish_reason: finish.reason() };
        let chunks = self.pump.finish(last).map_err(RespondError::Stream)?;
        let mut events = self.take(chunks)?;
        let end_mark = R::Response::sse_done_data().filter(|_| self.streams);
        events.extend(end_mark.map(|data| WireEvent { name: None, data }));
        Ok(events)
    }

    fn is_finished(&self) -> bool {
        self.pump.is_finished()
    }

    fn into_body(self: Box<Self>) -> Result<serde_json::Value, RespondError> {
        serde_json::to_value(&self.response).map_err(RespondError::Json)
    }
}

impl<R> TypedLane<R>
where
    R: ProtocolRequest,
    Chunk<R>: Serialize + Send,
{
    /// Writes chunks as events, or gathers them in the response.
    fn take(&mut self, chunks: Vec<Chunk<R>>) -> Result<Vec<WireEvent>, RespondError> {
        if !self.streams {
            chunks.into_iter().for_each(|chunk| self.response.accumulate(chunk));
            return Ok(Vec::new());
        }
        let event = |chunk: Chunk<R>| {
            let name = R::Response::sse_event_name(&chunk);
            let data = serde_json::to_string(&chunk).map_err(RespondError::Json)?;
            Ok(WireEvent { name, data })
        };
        chunks.into_iter().map(event).collect()
    }
}

/// Seconds since 1970, which responses report as their time of creation.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
