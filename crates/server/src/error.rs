//! Errors in each protocol's own shape.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use chat::protocol::{Protocol, RequestError};
use runtime::{Failure, InvalidRequest, Refusal};
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) param: Option<String>,
    /// OpenAI's machine-readable reason.
    pub(crate) code: Option<&'static str>,
    pub(crate) retry_after_s: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// A 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A 400 that names the field.
    pub(crate) fn field(name: &str, message: impl Into<String>) -> Self {
        Self { param: Some(name.to_owned()), ..Self::bad_request(message) }
    }

    /// A 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { code: Some("not_found"), ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    /// The body that clients of `protocol` understand.
    pub(crate) fn body(&self, protocol: Shape) -> Value {
        let Self { message, param, code, status, .. } = self;
        match protocol {
            Shape::Anthropic => {
                json!({"type": "error", "error": {"type": anthropic_type(*status), "message": message}})
            }
            Shape::OpenAi => {
                let kind = openai_type(*status);
                let code = code.unwrap_or(kind);
                json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
            }
        }
    }

    /// The whole response.
    pub(crate) fn into_response(self, protocol: Shape) -> Response {
        let mut response = Response::new(Body::from(self.body(protocol).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Whose error shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Anthropic,
}

impl From<Protocol> for Shape {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Messages => Self::Anthropic,
            Protocol::Chat | Protocol::Responses => Self::OpenAi,
        }
    }
}

fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let message = error.to_string();
        let mut this = Self::new(status, message);
        if let RequestError::Schema { field: Some(field), .. } = error {
            this.message += &format!(" at `{field}`");
            this.param = Some(field);
        }
        if this.message.starts_with("This model's maximum context length") {
            this.code = Some("context_length_exceeded");
        }
        this
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(error: InvalidRequest) -> Self {
        let code = matches!(error, InvalidRequest::Context { .. });
        Self {
            code: code.then_some("context_length_exceeded"),
            ..Self::bad_request(error.to_string())
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Busy { retry_after, .. } => Self {
                retry_after_s: Some(retry_after.as_secs()),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
            },
            Refusal::ShuttingDown => Self {
                retry_after_s: Some(5),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            },
            // Trying again is of no use.
            Refusal::Lost => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status = match failure {
            Failure::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, failure.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_its_shape() {
        let error = ApiError::field("top_k", "no");
        let openai = r#"{"error":{"message":"no","type":"invalid_request_error","param":"top_k","code":"invalid_request_error"}}"#;
        assert_eq!(error.body(Shape::OpenAi).to_string(), openai);
        let anthropic =
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#;
        assert_eq!(error.body(Shape::Anthropic).to_string(), anthropic);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let retry_after = std::time::Duration::from_secs(7);
        let error = ApiError::from(Refusal::Busy { queued: 3, retry_after });
        let response = error.into_response(Shape::OpenAi);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    }
}
