//! What is served where.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State as Extracted};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chat::protocol::Protocol;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};

use crate::app::{App, State};
use crate::error::{ApiError, Shape};
use crate::generation::Generation;
use crate::sse::{self, Said, Source, Style};
use crate::{auth, completions, metrics, openapi, prepare, tokens};

type Shared = Extracted<Arc<State>>;

impl App {
    /// All routes.
    pub fn router(&self) -> Router {
        let state = Arc::clone(&self.0);
        Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .route("/v1/responses", post(respond))
            .route("/v1/responses/{id}", get(stored).delete(forget))
            .route("/v1/responses/{id}/input_items", get(stored_input))
            .route("/v1/messages", post(messages))
            .route("/v1/messages/count_tokens", post(count_tokens))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/tokenize", post(tokenize))
            .route("/detokenize", post(detokenize))
            .route_layer(middleware::from_fn_with_state(Arc::clone(&state), authenticate))
            .route("/openapi.json", get(|| async { json_response(&openapi::document()) }))
            .route("/", get(root))
            .route("/metrics", get(scrape))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .with_state(state)
    }
}

async fn authenticate(state: Shared, request: Request, next: Next) -> Response {
    let shape = shape_of(request.uri().path());
    match auth::check(state.options.api_key.as_deref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(shape),
    }
}

async fn chat(state: Shared, headers: HeaderMap, body: Body) -> Response {
    answer(&state, Protocol::Chat, &headers, body).await
}

async fn messages(state: Shared, headers: HeaderMap, body: Body) -> Response {
    answer(&state, Protocol::Messages, &headers, body).await
}

async fn respond(state: Shared, headers: HeaderMap, body: Body) -> Response {
    answer(&state, Protocol::Responses, &headers, body).await
}

async fn answer(
    state: &Arc<State>,
    protocol: Protocol,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let answered = try_answer(state, protocol, headers, body).await;
    answered.unwrap_or_else(|error| refuse(state, error, Shape::from(protocol)))
}

async fn try_answer(
    state: &Arc<State>,
    protocol: Protocol,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read(state, headers, body).await?;
    let job = blocking(state, move |state| prepare::job(state, protocol, &body)).await?;
    let streams = job.streams;
    let generation = Generation::start(Arc::clone(state), job)?;
    if streams {
        let style = Style { protocol, keep_alive: state.options.keep_alive };
        return Ok(sse::response(generation, style));
    }
    Ok(json_response(&generation.body().await?))
}

fn refuse(state: &State, error: ApiError, shape: Shape) -> Response {
    tracing::debug!(status = error.status.as_u16(), param = error.param, %error, "refused");
    state.metrics.refused(&error);
    error.into_response(shape)
}

impl Source for Generation {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Said>> {
        Self::poll_next(self, context)
    }
}

async fn complete(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let answered = async {
        let body = read(&state, &headers, body).await?;
        let job = blocking(&state, move |state| completions::job(state, &body)).await?;
        completions::answer(&state, job).await
    };
    answered.await.unwrap_or_else(|error| refuse(&state, error, Shape::OpenAi))
}

async fn count_tokens(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let counted = async {
        let body = read(&state, &headers, body).await?;
        blocking(&state, move |state| prepare::count(state, &body)).await
    };
    match counted.await {
        Ok(n) => json_response(&json!({"input_tokens": n})),
        Err(error) => error.into_response(Shape::Anthropic),
    }
}

async fn tokenize(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let answered = async {
        let body = parse(&read(&state, &headers, body).await?)?;
        blocking(&state, move |state| tokens::tokenize(state, body)).await
    };
    respond_json(answered.await)
}

async fn detokenize(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let answered = async {
        let body = parse(&read(&state, &headers, body).await?)?;
        blocking(&state, move |state| tokens::detokenize(state, &body)).await
    };
    respond_json(answered.await)
}

async fn stored(state: Shared, Path(id): Path<String>) -> Response {
    let found = state.store().response(&id).cloned();
    respond_json(found.ok_or_else(|| no_response(&id)))
}

async fn stored_input(state: Shared, Path(id): Path<String>) -> Response {
    let found = state.store().input(&id).map(<[Value]>::to_vec);
    let list = |data| json!({"object": "list", "data": data, "has_more": false});
    respond_json(found.map(list).ok_or_else(|| no_response(&id)))
}

async fn forget(state: Shared, Path(id): Path<String>) -> Response {
    let is_gone = state.store().remove(&id);
    let body = json!({"id": id, "object": "response", "deleted": true});
    respond_json(if is_gone { Ok(body) } else { Err(no_response(&id)) })
}

fn no_response(id: &str) -> ApiError {
    ApiError::not_found(format!("Response with id '{id}' not found."))
}

async fn models(state: Shared) -> Response {
    json_response(&json!({"object": "list", "data": [describe(&state)]}))
}

async fn model(state: Shared, Path(id): Path<String>) -> Response {
    let is_served = id == state.options.model;
    let missing = || ApiError {
        code: Some("model_not_found"),
        ..ApiError::not_found(format!("The model '{id}' does not exist."))
    };
    respond_json(if is_served { Ok(describe(&state)) } else { Err(missing()) })
}

fn describe(state: &State) -> Value {
    let (id, context) = (&state.options.model, state.runtime.limits().context);
    json!({
        "id": id,
        "object": "model",
        "type": "model",
        "display_name": id,
        "created": state.created,
        "owned_by": "keid",
        "context_length": context,
        "max_model_len": context,
    })
}

/// Some clients look whether anybody is there before they ask.
async fn root(state: Shared) -> Response {
    json_response(&json!({"name": "keid", "model": state.options.model}))
}

async fn scrape(state: Shared) -> Response {
    match state.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => ApiError::internal(error.to_string()).into_response(Shape::OpenAi),
    }
}

async fn health(state: Shared) -> Response {
    match state.runtime.is_lost() {
        false => json_response(&json!({"status": "ok"})),
        true => ApiError::from(runtime::Refusal::Lost).into_response(Shape::OpenAi),
    }
}

async fn ready(state: Shared) -> Response {
    match state.runtime.is_open() {
        true => json_response(&json!({"status": "ready"})),
        false if state.runtime.is_lost() => {
            ApiError::from(runtime::Refusal::Lost).into_response(Shape::OpenAi)
        }
        false => ApiError::from(runtime::Refusal::ShuttingDown).into_response(Shape::OpenAi),
    }
}

async fn unknown(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("unknown endpoint: {method} {path}");
    ApiError::not_found(message).into_response(shape_of(path))
}

async fn wrong_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let message = format!("{path} does not answer {method}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response(shape_of(path))
}

fn shape_of(path: &str) -> Shape {
    if path.starts_with("/v1/messages") { Shape::Anthropic } else { Shape::OpenAi }
}

/// Reads a body within its limits of size and time.
async fn read(state: &State, headers: &HeaderMap, mut body: Body) -> Result<Bytes, ApiError> {
    let max = state.options.body_max;
    let too_large = || {
        let message = format!("the request body is larger than {max} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > max as u64) {
        listen_on(&mut body, max).await;
        return Err(too_large());
    }
    let collected = Limited::new(&mut body, max).collect();
    match tokio::time::timeout(state.options.body_timeout, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            listen_on(&mut body, max).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!("the body broke off: {error}"))),
        Err(_) => {
            let message = "the request body did not arrive in time";
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Hears a client out whose body is not wanted, for twice as much and a few seconds at most: most
/// clients read no answer before they have sent everything, and see a broken connection instead.
async fn listen_on(body: &mut Body, max: usize) {
    let hear = async {
        let mut n_bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            n_bytes += frame.data_ref().map_or(0, Bytes::len);
            if n_bytes > 2 * max {
                break;
            }
        }
    };
    // A client that is too slow for this gets its answer now.
    let _ = tokio::time::timeout(Duration::from_secs(5), hear).await;
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Runs what may take long where it holds up nobody.
async fn blocking<T: Send + 'static>(
    state: &Arc<State>,
    work: impl FnOnce(&State) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = Arc::clone(state);
    let done = tokio::task::spawn_blocking(move || work(&state)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be prepared");
        Err(ApiError::internal("the request could not be prepared"))
    })
}

fn respond_json(result: Result<Value, ApiError>) -> Response {
    match result {
        Ok(body) => json_response(&body),
        Err(error) => error.into_response(Shape::OpenAi),
    }
}

pub(crate) fn json_response(body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
