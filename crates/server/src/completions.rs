//! `/v1/completions`: raw prompts, continued. Ours alone: DeepSeek's crates have no part in it.
//!
//! A prompt is text in which special tokens may be spelled, or token ids. Text gets the beginning
//! of sentence in front unless it has it; ids are taken as they are.

mod request;
mod text;

use std::sync::Arc;

use axum::response::Response;
use chat::protocol::{Protocol, WireEvent};
use futures_util::StreamExt;
use runtime::{Event, Events, FinishReason, TokenEvent, Usage};
use serde_json::{Value, json};

use crate::app::{self, State};
use crate::error::ApiError;
use crate::generation::ChoiceEvents;
use crate::routes::json_response;
use crate::sse::{self, Source, Style};

pub(crate) use request::{Job, job};
use text::AnswerText;

/// Runs a job and answers.
pub(crate) async fn answer(state: &Arc<State>, job: Job) -> Result<Response, ApiError> {
    let streams = job.streams;
    let mut run = Run::start(Arc::clone(state), job)?;
    if streams {
        let style = Style { protocol: Protocol::Chat, keep_alive: state.options.keep_alive };
        return Ok(sse::response(run, style));
    }
    let mut bodies: Vec<Value> = Vec::new();
    while let Some(told) = run.advance().await {
        bodies.extend(told?);
    }
    Ok(json_response(&run.whole(&bodies)))
}

/// The answers to one request on their way.
struct Run {
    state: Arc<State>,
    id: String,
    created: u64,
    model: String,
    includes_usage: bool,
    streams: bool,
    answers: Vec<Answer>,
    events: ChoiceEvents,
    usage: Usage,
    n_prompts: usize,
    has_said_end: bool,
}

struct Answer {
    events: Events,
    text: AnswerText,
    echo: String,
    wants_logprobs: bool,
    n_tokens: usize,
    prompt: (usize, usize),
    is_done: bool,
}

impl Run {
    fn start(state: Arc<State>, job: Job) -> Result<Self, ApiError> {
        let mut answers = Vec::with_capacity(job.runs.len());
        let mut events = ChoiceEvents::new();
        for (index, (run, echo)) in job.runs.into_iter().enumerate() {
            let receiver = state.runtime.submit(run)?;
            let of_choice = receiver.clone().map(move |event| (index, event));
            events.push(Box::pin(of_choice));
            answers.push(Answer {
                events: receiver,
                text: AnswerText::new(job.stop.clone(), echo.chars().count()),
                echo,
                wants_logprobs: job.wants_logprobs,
                n_tokens: 0,
                prompt: (0, 0),
                is_done: false,
            });
        }
        Ok(Self {
            state,
            id: crate::ids::id("cmpl-"),
            created: app::now(),
            model: job.model,
            includes_usage: job.includes_usage,
            streams: job.streams,
            answers,
            events,
            usage: Usage::default(),
            n_prompts: job.n_prompts,
            has_said_end: false,
        })
    }

    /// The next pieces of choices; `None` when all have ended.
    async fn advance(&mut self) -> Option<Result<Vec<Value>, ApiError>> {
        if self.answers.iter().all(|answer| answer.is_done) {
            return None;
        }
        let told = match self.events.next().await {
            Some((index, event)) => self.take(index, event),
            None => Err(ApiError::internal("the engine ended without an answer")),
        };
        if told.is_err() {
            self.answers.iter_mut().for_each(|answer| answer.is_done = true);
        }
        Some(told)
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Vec<Value>, ApiError> {
        let answer = &mut self.answers[index];
        if answer.is_done {
            return Ok(Vec::new());
        }
        match event {
            Event::Queued { .. } | Event::Prompt { .. } => Ok(Vec::new()),
            Event::Started { prompt_tokens, cached_tokens } => {
                answer.prompt = (prompt_tokens, cached_tokens);
                let echo = std::mem::take(&mut answer.echo);
                let none = Value::Null;
                Ok(if echo.is_empty() { Vec::new() } else { vec![piece(index, &echo, none, None)] })
            }
            Event::Token(token) => self.token(index, &token),
            Event::Finished { reason, .. } => {
                let rest = answer.text.finish();
                let reason = match reason {
                    FinishReason::Stop(_) => "stop",
                    FinishReason::Length => "length",
                };
                Ok(vec![self.end(index, &rest, reason)])
            }
            Event::Failed(failure) => Err(failure.into()),
        }
    }

    fn token(&mut self, index: usize, token: &TokenEvent) -> Result<Vec<Value>, ApiError> {
        let tokenizer = Arc::clone(&self.state.tokenizer);
        let answer = &mut self.answers[index];
        let bytes = tokenizer.token_bytes(token.id).unwrap_or_default();
        answer.n_tokens += 1;
        let offset = answer.text.n_chars();
        let text = answer.text.push(bytes);
        let logprobs = token.logprobs.as_ref().filter(|_| answer.wants_logprobs);
        let logprobs = logprobs.map_or(Value::Null, |found| {
            let spelling = |id: u32| {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            };
            let top: Value =
                found.top.iter().map(|&(id, logprob)| (spelling(id), json!(logprob))).collect();
            json!({
                "tokens": [spelling(token.id)],
                "token_logprobs": [found.chosen],
                "top_logprobs": [top],
                "text_offset": [offset],
            })
        });
        if answer.text.is_stopped() {
            // The engine does not know stop strings: letting go cancels.
            answer.events.close();
            return Ok(vec![self.end(index, &text, "stop")]);
        }
        let is_silent = text.is_empty() && logprobs.is_null();
        Ok(if is_silent { Vec::new() } else { vec![piece(index, &text, logprobs, None)] })
    }

    fn end(&mut self, index: usize, text: &str, reason: &str) -> Value {
        let answer = &mut self.answers[index];
        answer.is_done = true;
        self.usage.completion_tokens += answer.n_tokens;
        piece(index, text, Value::Null, Some(reason))
    }

    fn usage(&self) -> Value {
        // Every prompt counts once, whatever the number of its choices.
        let per_prompt = (self.answers.len() / self.n_prompts.max(1)).max(1);
        let prompts = self.answers.iter().step_by(per_prompt).map(|answer| answer.prompt);
        let (prompt, cached) = prompts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let completion = self.usage.completion_tokens;
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }

    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// The body of a request that does not stream.
    fn whole(&self, pieces: &[Value]) -> Value {
        let of = |index: usize| {
            let of_choice = pieces.iter().filter(move |piece| piece["index"] == index);
            let mut whole = piece(index, "", Value::Null, None);
            let mut text = String::new();
            for piece in of_choice {
                text.push_str(piece["text"].as_str().unwrap_or_default());
                if !piece["finish_reason"].is_null() {
                    whole["finish_reason"] = piece["finish_reason"].clone();
                }
                append_logprobs(&mut whole["logprobs"], &piece["logprobs"]);
            }
            whole["text"] = text.into();
            whole
        };
        let mut body = self.envelope((0..self.answers.len()).map(of).collect());
        body["usage"] = self.usage();
        body
    }
}

impl Source for Run {
    async fn next(&mut self) -> Option<Result<Vec<WireEvent>, ApiError>> {
        let event = |body: &Value| WireEvent { name: None, data: body.to_string() };
        let told = match self.advance().await {
            Some(Ok(pieces)) => {
                let chunk = |piece| event(&self.envelope(json!([piece])));
                Ok(pieces.into_iter().map(chunk).collect())
            }
            Some(Err(error)) => Err(error),
            None if self.has_said_end || !self.streams => return None,
            None => {
                self.has_said_end = true;
                let mut last = Vec::new();
                if self.includes_usage {
                    let mut body = self.envelope(json!([]));
                    body["usage"] = self.usage();
                    last.push(event(&body));
                }
                last.push(WireEvent { name: None, data: "[DONE]".to_owned() });
                Ok(last)
            }
        };
        self.has_said_end |= told.is_err();
        Some(told)
    }
}

fn piece(index: usize, text: &str, logprobs: Value, reason: Option<&str>) -> Value {
    json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
}

fn append_logprobs(whole: &mut Value, piece: &Value) {
    let Value::Object(lists) = piece else { return };
    if whole.is_null() {
        *whole = piece.clone();
        return;
    }
    for (name, list) in lists {
        if let (Some(whole), Some(list)) = (whole[name].as_array_mut(), list.as_array()) {
            whole.extend(list.iter().cloned());
        }
    }
}
