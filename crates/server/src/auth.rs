use axum::http::{HeaderMap, StatusCode, header};

use crate::error::ApiError;

/// Checks `Authorization: Bearer KEY` or `x-api-key: KEY`.
pub(crate) fn check(key: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(key) = key else { return Ok(()) };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let plain = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    if bearer.into_iter().chain(plain).any(|shown| is_same(shown.trim(), key)) {
        return Ok(());
    }
    let message = "a valid key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`";
    Err(ApiError {
        code: Some("invalid_api_key"),
        ..ApiError::new(StatusCode::UNAUTHORIZED, message)
    })
}

/// Compares hashes, so that the time tells nothing about the key.
fn is_same(shown: &str, key: &str) -> bool {
    blake3::hash(shown.as_bytes()) == blake3::hash(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_headers_open_and_nothing_else() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            check(Some("k1"), &headers).is_ok()
        };
        assert!(with("authorization", "Bearer k1") && with("x-api-key", "k1"));
        assert!(!with("authorization", "k1") && !with("x-api-key", "k"));
        assert!(check(None, &HeaderMap::new()).is_ok());
        assert!(check(Some("k1"), &HeaderMap::new()).is_err());
    }
}
