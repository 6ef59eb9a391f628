//! From the runtime's events to a protocol's.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use chat::Finish;
use chat::protocol::{PromptUsage, Protocol, Responder, TokenLogprob, WireEvent};
use runtime::{Event, FinishReason, Refusal, TokenEvent, Usage};
use serde_json::{Map, Value, json};

use crate::app::State;
use crate::choices::{ChoiceEvents, Merged};
use crate::error::ApiError;
use crate::prefix::{self, Found};
use crate::prepare::{Choice, Job};
use crate::responses;

/// The field of a response for what its protocol has no field for.
pub(crate) const EXTENSION: &str = "keid";

/// A job that runs. Dropping it cancels what is left.
pub(crate) struct Generation {
    state: Arc<State>,
    id: String,
    protocol: Protocol,
    returns_progress: bool,
    started: Instant,
    answers: Vec<Answer>,
    events: ChoiceEvents,
    merged: Merged,
    stored_input: Option<Vec<Value>>,
    previous_response_id: Option<String>,
    repeated: Map<String, Value>,
    /// What the response says beside its protocol.
    extension: Value,
}

/// One choice on its way.
struct Answer {
    request: Option<chat::protocol::Request>,
    responder: Option<Responder>,
    /// The turn so far, beginning with the end of its header.
    turn: Vec<u32>,
    call_ids: Vec<String>,
    is_done: bool,
    prompt: Arc<[u32]>,
}

impl Generation {
    /// Submits a job.
    pub(crate) fn start(state: Arc<State>, job: Job) -> Result<Self, Refusal> {
        let mut answers = Vec::with_capacity(job.choices.len());
        let mut events = Vec::with_capacity(job.choices.len());
        for Choice { request, run, turn_start, prompt } in job.choices {
            events.push(state.runtime.submit(run)?);
            answers.push(Answer {
                request: Some(request),
                responder: None,
                turn: turn_start,
                call_ids: Vec::new(),
                is_done: false,
                prompt,
            });
        }
        Ok(Self {
            state,
            id: job.id,
            protocol: job.protocol,
            returns_progress: job.returns_progress,
            started: Instant::now(),
            answers,
            events: ChoiceEvents::new(events),
            merged: Merged::default(),
            stored_input: job.stored_input,
            previous_response_id: job.previous_response_id,
            repeated: job.repeated,
            extension: match job.left_out.is_empty() {
                true => json!({}),
                false => json!({"left_out_tools": job.left_out}),
            },
        })
    }

    /// The next events, possibly none; `None` at the end.
    pub(crate) fn poll_next(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Vec<WireEvent>, ApiError>>> {
        if self.answers.iter().all(|answer| answer.is_done) {
            return Poll::Ready(None);
        }
        let told = match ready!(self.events.poll_next(context)) {
            Some((index, event)) => self.take(index, event),
            None => Err(ApiError::internal("the engine ended without an answer")),
        };
        if told.is_err() {
            self.answers.iter_mut().for_each(|answer| answer.is_done = true);
        }
        Poll::Ready(Some(told))
    }

    /// The whole response, of a job that does not stream.
    pub(crate) async fn body(mut self) -> Result<Value, ApiError> {
        while let Some(events) = poll_fn(|context| self.poll_next(context)).await {
            events?;
        }
        let responders = self.answers.iter_mut().filter_map(|answer| answer.responder.take());
        let bodies: Result<Vec<Value>, _> = responders.map(Responder::into_body).collect();
        let mut bodies = bodies.map_err(|error| ApiError::internal(error.to_string()))?;
        for (answer, body) in self.answers.iter_mut().zip(&bodies) {
            collect_call_ids(body, &mut answer.call_ids);
        }
        self.remember_calls();
        let mut body = match bodies.len() {
            1 => bodies.swap_remove(0),
            _ => Merged::body(bodies),
        };
        self.finish_response(&mut body);
        body[EXTENSION] = self.extension.take();
        Ok(body)
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Vec<WireEvent>, ApiError> {
        if self.answers[index].is_done {
            return Ok(Vec::new());
        }
        match event {
            Event::Queued { .. } | Event::PromptToken(_) => Ok(Vec::new()),
            Event::Started { matched_tokens, cached_tokens, instead, .. } => {
                let found = Found { matched: matched_tokens, reused: cached_tokens, instead };
                self.start_answer(index, found)
            }
            Event::Prompt { done, total } => Ok(self.progress(done, total)),
            Event::Token(token) => self.token(index, token),
            Event::Finished { reason, usage } => {
                log_usage(&self.id, &usage);
                self.state.metrics.finished(reason, &usage);
                let finish = match reason {
                    FinishReason::Stop(_) => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                };
                self.end(index, finish)
            }
            Event::Failed(failure) => Err(failure.into()),
        }
    }

    /// The request has its place: what is reused of its prompt is known now.
    fn start_answer(&mut self, index: usize, found: Found) -> Result<Vec<WireEvent>, ApiError> {
        let answer = &mut self.answers[index];
        let Some(request) = answer.request.take() else { return Ok(Vec::new()) };
        let tokenizer = Arc::clone(&self.state.tokenizer);
        let report = prefix::report(&self.id, &tokenizer, &answer.prompt, found);
        let usage = PromptUsage {
            prompt_tokens: answer.prompt.len(),
            prompt_cache_hit_tokens: found.reused,
        };
        let mut responder = request.into_responder(self.id.clone(), usage, tokenizer);
        let events = responder.start();
        answer.responder = Some(responder);
        let is_first = self.extension.get("prefix").is_none();
        if is_first {
            self.extension["prefix"] = report;
        }
        let mut events = self.tell(index, events)?;
        if is_first && let Some(event) = events.first_mut() {
            self.extend(event)?;
        }
        Ok(events)
    }

    /// Says in the first event what the protocol has no field for. (The objects of Responses have
    /// it each time.)
    fn extend(&self, event: &mut WireEvent) -> Result<(), ApiError> {
        let read = serde_json::from_str(&event.data);
        let mut value: Value = read.map_err(|error| ApiError::internal(error.to_string()))?;
        let place = match self.protocol {
            Protocol::Chat => Some(&mut value),
            Protocol::Messages => value.get_mut("message"),
            Protocol::Responses => None,
        };
        if let Some(place) = place {
            place[EXTENSION] = self.extension.clone();
            event.data = value.to_string();
        }
        Ok(())
    }

    fn token(&mut self, index: usize, token: TokenEvent) -> Result<Vec<WireEvent>, ApiError> {
        let answer = &mut self.answers[index];
        let Some(responder) = &mut answer.responder else { return Ok(Vec::new()) };
        answer.turn.push(token.id);
        let logprobs = token
            .logprobs
            .map(|found| vec![TokenLogprob { logprob: found.chosen, top_logprobs: found.top }]);
        let events = responder.push(&[token.id], logprobs);
        let is_stopped = responder.is_finished();
        let mut events = self.tell(index, events)?;
        if is_stopped {
            // A stop string. The engine does not know it: letting go cancels.
            self.events.close(index);
            events.extend(self.end(index, Finish::Stop)?);
        }
        Ok(events)
    }

    fn end(&mut self, index: usize, finish: Finish) -> Result<Vec<WireEvent>, ApiError> {
        let Some(responder) = &mut self.answers[index].responder else { return Ok(Vec::new()) };
        let events = responder.finish(finish);
        let mut events = self.tell(index, events)?;
        self.answers[index].is_done = true;
        let is_last = self.answers.iter().all(|answer| answer.is_done);
        // One end mark for all choices.
        events.retain(|event| is_last || event.data != "[DONE]");
        if is_last {
            self.remember_calls();
        }
        Ok(events)
    }

    /// Gives events what DeepSeek's generators do not: a choice's place, the fields of stored
    /// responses; and notes the calls in them.
    fn tell(
        &mut self,
        index: usize,
        events: Result<Vec<WireEvent>, chat::protocol::RespondError>,
    ) -> Result<Vec<WireEvent>, ApiError> {
        let broken = |error: &dyn std::fmt::Display| ApiError::internal(error.to_string());
        let mut events = events.map_err(|error| broken(&error))?;
        for event in &mut events {
            let may_name_call = match self.protocol {
                Protocol::Chat => event.data.contains("\"tool_calls\""),
                Protocol::Messages => event.name == Some("content_block_start"),
                Protocol::Responses => event.name == Some("response.output_item.done"),
            };
            if may_name_call && let Ok(value) = serde_json::from_str(&event.data) {
                collect_call_ids(&value, &mut self.answers[index].call_ids);
            }
            let n = self.answers.len();
            if n > 1 && event.data != "[DONE]" {
                let chunk = self.merged.chunk(&event.data, index, n);
                event.data = chunk.map_err(|error| broken(&error))?;
            }
            if self.protocol == Protocol::Responses && event.data.contains("\"response\":") {
                let mut value: Value =
                    serde_json::from_str(&event.data).map_err(|error| broken(&error))?;
                if let Some(response) = value.get_mut("response") {
                    self.finish_response(response);
                    event.data = value.to_string();
                }
            }
        }
        Ok(events)
    }

    /// Fills in what the response says about storing, and stores it once it is complete.
    fn finish_response(&mut self, response: &mut Value) {
        if self.protocol != Protocol::Responses {
            return;
        }
        response["store"] = self.stored_input.is_some().into();
        response["previous_response_id"] = json!(self.previous_response_id);
        for (name, value) in &self.repeated {
            response[name] = value.clone();
        }
        response[EXTENSION] = self.extension.clone();
        let is_complete = response.get("status").is_some_and(|s| s != "in_progress");
        if is_complete && let Some(input) = self.stored_input.take() {
            response["store"] = true.into();
            responses::keep(&self.state, &self.id, input, response);
        }
    }

    fn remember_calls(&mut self) {
        for answer in self.answers.iter_mut().filter(|answer| !answer.call_ids.is_empty()) {
            let ids = std::mem::take(&mut answer.call_ids);
            self.state.replay().keep(ids, std::mem::take(&mut answer.turn));
        }
    }

    fn progress(&self, done: usize, total: usize) -> Vec<WireEvent> {
        if !self.returns_progress {
            return Vec::new();
        }
        let time_ms = self.started.elapsed().as_millis() as u64;
        let progress = json!({"total": total, "processed": done, "time_ms": time_ms});
        let (name, data) = match self.protocol {
            Protocol::Chat => {
                let object = "chat.completion.chunk";
                let chunk = json!({
                    "id": self.id, "object": object, "choices": [], "prompt_progress": progress,
                });
                (None, chunk)
            }
            _ => {
                let data = json!({"type": "prompt_progress", "prompt_progress": progress});
                (Some("prompt_progress"), data)
            }
        };
        vec![WireEvent { name, data: data.to_string() }]
    }
}

/// Finds the ids of calls in a body or event of any protocol.
fn collect_call_ids(value: &Value, ids: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str);
            let key = match kind {
                Some("function") | Some("tool_use") => "id",
                Some("function_call" | "custom_tool_call" | "tool_search_call") => "call_id",
                _ => "",
            };
            if let Some(id) = fields.get(key).and_then(Value::as_str)
                && !ids.iter().any(|known| known == id)
            {
                ids.push(id.to_owned());
            }
            fields.values().for_each(|value| collect_call_ids(value, ids));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_call_ids(item, ids)),
        _ => {}
    }
}

fn log_usage(id: &str, usage: &Usage) {
    let Usage { prompt_tokens, matched_tokens, cached_tokens, completion_tokens, .. } = *usage;
    tracing::info!(
        id,
        prompt_tokens,
        matched_tokens,
        cached_tokens,
        completion_tokens,
        queued_ms = usage.queued.as_millis() as u64,
        prefill_ms = usage.prefill.as_millis() as u64,
        decode_ms = usage.decode.as_millis() as u64,
        "finished"
    );
}
