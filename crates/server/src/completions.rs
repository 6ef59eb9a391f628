//! `/v1/completions`: raw prompts, continued. Ours alone: DeepSeek's crates have no part in it.
//!
//! A prompt is text in which special tokens may be spelled, or token ids. Text gets the beginning
//! of sentence in front unless it has it; ids are taken as they are.

mod request;
mod text;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::response::Response;
use chat::protocol::{Protocol, WireEvent};
use runtime::{Event, FinishReason, TokenEvent, TokenLogprob, Usage};
use serde_json::{Value, json};

use crate::app::{self, State};
use crate::choices::ChoiceEvents;
use crate::error::ApiError;
use crate::generation::EXTENSION;
use crate::prefix::{self, Found};
use crate::routes::json_response;
use crate::sse::{self, Said, Source, Style};

use request::{Echo, RawPrompt};
pub(crate) use request::{Job, job};
use text::AnswerText;
use tokenizer::{Tokenizer, Utf8Stream};

/// Runs a job and answers.
pub(crate) async fn answer(state: &Arc<State>, job: Job) -> Result<Response, ApiError> {
    let streams = job.streams;
    let mut run = Run::start(Arc::clone(state), job)?;
    if streams {
        let style = Style { protocol: Protocol::Chat, keep_alive: state.options.keep_alive };
        return Ok(sse::response(run, style));
    }
    let mut bodies: Vec<Value> = Vec::new();
    while let Some(told) = poll_fn(|context| run.poll_advance(context)).await {
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
    n_shown: usize,
    echo: Echo,
    hides_answer: bool,
    has_said_end: bool,
    has_said_extension: bool,
    extension: Value,
}

struct Answer {
    text: AnswerText,
    asked: RawPrompt,
    /// The prompt's characters while it is shown token by token.
    shown: Utf8Stream,
    wants_logprobs: bool,
    n_tokens: usize,
    /// Sum of the answer's log probabilities.
    logprob: f32,
    prompt: (usize, usize),
    is_done: bool,
}

impl Run {
    fn start(state: Arc<State>, job: Job) -> Result<Self, ApiError> {
        let mut answers = Vec::with_capacity(job.runs.len());
        let mut events = Vec::with_capacity(job.runs.len());
        for (run, asked) in job.runs {
            let n_chars = match job.echo {
                Echo::Text => asked.text.chars().count(),
                Echo::No | Echo::Scored => 0,
            };
            events.push(state.runtime.submit(run)?);
            answers.push(Answer {
                text: AnswerText::new(job.stop.clone(), n_chars),
                asked,
                shown: Utf8Stream::new(),
                wants_logprobs: job.wants_logprobs,
                n_tokens: 0,
                logprob: 0.0,
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
            events: ChoiceEvents::new(events),
            usage: Usage::default(),
            n_prompts: job.n_prompts,
            n_shown: job.n_shown,
            echo: job.echo,
            hides_answer: job.hides_answer,
            has_said_end: false,
            has_said_extension: false,
            extension: Value::Null,
        })
    }

    /// The next pieces of choices; `None` when all have ended.
    fn poll_advance(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Vec<Value>, ApiError>>> {
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

    fn take(&mut self, index: usize, event: Event) -> Result<Vec<Value>, ApiError> {
        if self.answers[index].is_done {
            return Ok(Vec::new());
        }
        match event {
            Event::Queued { .. } | Event::Prompt { .. } => Ok(Vec::new()),
            Event::Started { prompt_tokens, matched_tokens, cached_tokens, instead } => {
                self.answers[index].prompt = (prompt_tokens, cached_tokens);
                let found = Found { matched: matched_tokens, reused: cached_tokens, instead };
                Ok(self.start_answer(index, found))
            }
            Event::PromptToken(token) => {
                Ok(vec![self.prompt_token(index, token.id, token.logprobs.as_deref())])
            }
            Event::Token(_) if self.hides_answer => Ok(Vec::new()),
            Event::Token(token) => self.token(index, &token),
            Event::Finished { reason, usage } => {
                self.state.metrics.finished(reason, &usage);
                let rest = self.answers[index].text.finish();
                let reason = match reason {
                    FinishReason::Stop(_) if !self.hides_answer => "stop",
                    FinishReason::Stop(_) | FinishReason::Length => "length",
                };
                Ok(vec![self.end(index, &rest, reason)])
            }
            Event::Failed(failure) => Err(failure.into()),
        }
    }

    fn start_answer(&mut self, index: usize, found: Found) -> Vec<Value> {
        let tokenizer = Arc::clone(&self.state.tokenizer);
        let asked = &self.answers[index].asked;
        let report = prefix::report(&self.id, &tokenizer, &asked.ids, found);
        if self.extension.is_null() {
            self.extension = json!({"prefix": report});
        }
        match self.echo {
            Echo::No => Vec::new(),
            Echo::Text => vec![piece(index, &asked.text, Value::Null, None)],
            Echo::Scored => {
                let first = asked.ids.first().copied();
                first.map(|id| self.prompt_token(index, id, None)).into_iter().collect()
            }
        }
    }

    /// The next token of a prompt that is shown token by token. The first has no probability.
    fn prompt_token(&mut self, index: usize, id: u32, found: Option<&TokenLogprob>) -> Value {
        let tokenizer = Arc::clone(&self.state.tokenizer);
        let answer = &mut self.answers[index];
        let offset = answer.text.n_chars();
        let text = if answer.asked.n_silent > 0 {
            answer.asked.n_silent -= 1;
            String::new()
        } else {
            answer.shown.push(tokenizer.token_bytes(id).unwrap_or_default())
        };
        answer.text.skip(&text);
        piece(index, &text, logprobs(&tokenizer, id, found, offset), None)
    }

    fn token(&mut self, index: usize, token: &TokenEvent) -> Result<Vec<Value>, ApiError> {
        let tokenizer = Arc::clone(&self.state.tokenizer);
        let answer = &mut self.answers[index];
        let bytes = tokenizer.token_bytes(token.id).unwrap_or_default();
        answer.n_tokens += 1;
        answer.logprob += token.logprobs.as_ref().map_or(0.0, |found| found.chosen);
        let offset = answer.text.n_chars();
        let text = answer.text.push(bytes);
        let found = token.logprobs.as_deref().filter(|_| answer.wants_logprobs);
        let logprobs =
            found.map_or(Value::Null, |found| logprobs(&tokenizer, token.id, Some(found), offset));
        if answer.text.is_stopped() {
            // The engine does not know stop strings: letting go cancels.
            self.events.close(index);
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

    /// The answers to show: of every prompt the likeliest, in the order in which they were made.
    fn chosen(&self) -> Vec<usize> {
        let n_tried = (self.answers.len() / self.n_prompts.max(1)).max(1);
        let mean = |&i: &usize| self.answers[i].logprob / self.answers[i].n_tokens.max(1) as f32;
        let best = |first: usize| {
            let mut tried: Vec<usize> = (first..first + n_tried).collect();
            if self.n_shown < n_tried {
                tried.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
                tried.truncate(self.n_shown);
                tried.sort_unstable();
            }
            tried
        };
        (0..self.answers.len()).step_by(n_tried).flat_map(best).collect()
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
        let of = |(shown_index, index): (usize, usize)| {
            let of_choice = pieces.iter().filter(move |piece| piece["index"] == index);
            let mut whole = piece(shown_index, "", Value::Null, None);
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
        let mut body = self.envelope(self.chosen().into_iter().enumerate().map(of).collect());
        body["usage"] = self.usage();
        body[EXTENSION] = self.extension.clone();
        body
    }
}

impl Source for Run {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Said>> {
        let event = |body: &Value| WireEvent { name: None, data: body.to_string() };
        let told = match ready!(self.poll_advance(context)) {
            Some(Ok(pieces)) => {
                let extension = (!self.has_said_extension).then_some(&self.extension);
                let mut chunks: Vec<Value> =
                    pieces.into_iter().map(|piece| self.envelope(json!([piece]))).collect();
                if let (Some(first), Some(extension)) = (chunks.first_mut(), extension) {
                    first[EXTENSION] = extension.clone();
                    self.has_said_extension = true;
                }
                Ok(chunks.iter().map(event).collect())
            }
            Some(Err(error)) => Err(error),
            None if self.has_said_end || !self.streams => return Poll::Ready(None),
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
        Poll::Ready(Some(told))
    }
}

/// One token's entry in the lists of log probabilities.
fn logprobs(tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprob>, offset: usize) -> Value {
    let spelling = |id: u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let top = found.map(|found| -> Value {
        found.top.iter().map(|&(id, logprob)| (spelling(id), json!(logprob))).collect()
    });
    json!({
        "tokens": [spelling(id)],
        "token_logprobs": [found.map(|found| found.chosen)],
        "top_logprobs": [top],
        "text_offset": [offset],
    })
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
