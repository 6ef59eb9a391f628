//! Values of fields, checked.

use serde_json::Value;

use crate::error::ApiError;

pub(crate) fn flag(value: Option<Value>, name: &str) -> Result<Option<bool>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(ApiError::field(name, format!("`{name}` should be true or false"))),
    }
}

pub(crate) fn text(value: Option<Value>, name: &str) -> Result<Option<String>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::field(name, format!("`{name}` should be a string"))),
    }
}

pub(crate) fn whole(
    value: Option<Value>,
    name: &str,
    min: u64,
    max: u64,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => {
            let message =
                format!("`{name}` should be a whole number from {min} to {max}, not {value}");
            Err(ApiError::field(name, message))
        }
    }
}

pub(crate) fn number(
    value: Option<Value>,
    name: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f32>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(number) if range.contains(&number) => Ok(Some(number as f32)),
        _ => {
            let (min, max) = (range.start(), range.end());
            let message = format!("`{name}` should be a number from {min} to {max}, not {value}");
            Err(ApiError::field(name, message))
        }
    }
}

pub(crate) fn logit_bias(value: Value) -> Result<Vec<(u32, f32)>, ApiError> {
    let Value::Object(pairs) = value else {
        return Err(ApiError::field("logit_bias", "`logit_bias` should be an object"));
    };
    let pair = |(token, bias): (String, Value)| {
        let id = token.parse().map_err(|_| {
            let message = format!("`logit_bias` should have token ids as keys, not {token:?}");
            ApiError::field("logit_bias", message)
        })?;
        Ok((id, number(Some(bias), "logit_bias", -100.0..=100.0)?.unwrap_or(0.0)))
    };
    pairs.into_iter().map(pair).collect()
}
