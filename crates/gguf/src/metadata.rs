//! The key-value part of a file, with typed access.

use std::collections::HashMap;

use crate::{Array, Error, Value};

/// Metadata of one file in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    file: String,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// Appends an entry; false when the key is already there.
    pub(crate) fn push(&mut self, key: String, value: Value) -> bool {
        let fresh = !self.index.contains_key(&key);
        if fresh {
            self.index.insert(key.clone(), self.entries.len());
            self.entries.push((key, value));
        }
        fresh
    }

    /// The value of `key`, untyped.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// All entries in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Path or label of the file, for messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of `key` as a `T`; `None` when the key is absent.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] when the key is there with a value that is no `T`: an absent key and a
    /// wrong one are never the same.
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).map_err(|Mismatch| Error::WrongType {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: T::EXPECTED,
            found: value.to_string(),
        })
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::MissingKey`] or [`Error::WrongType`].
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| Error::MissingKey {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: T::EXPECTED,
        })
    }
}

macro_rules! getters {
    ($($name:ident -> $ty:ty, $what:literal;)*) => {
        impl Metadata {$(
            #[doc = concat!("The value of `key`: ", $what, ".")]
            ///
            /// # Errors
            ///
            /// [`Error::MissingKey`] or [`Error::WrongType`].
            pub fn $name(&self, key: &str) -> Result<$ty, Error> {
                self.required(key)
            }
        )*}
    };
}

getters! {
    u32 -> u32, "an integer of any stored width";
    u64 -> u64, "an integer of any stored width";
    i32 -> i32, "an integer of any stored width";
    i64 -> i64, "an integer of any stored width";
    f32 -> f32, "a floating-point number of either width";
    bool -> bool, "a boolean";
    str -> &str, "a string";
    arr_u32 -> Vec<u32>, "an array of integers of any stored width";
    arr_i32 -> Vec<i32>, "an array of integers of any stored width";
    arr_f32 -> Vec<f32>, "an array of floating-point numbers of either width";
    arr_bool -> &[bool], "an array of booleans";
    arr_str -> &[String], "an array of strings";
}

/// A value that is not what was asked for, in type or in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

/// Types that metadata values convert to without loss of meaning.
pub trait FromValue<'a>: Sized {
    /// What is expected, for messages: `an unsigned 32-bit integer`.
    const EXPECTED: &'static str;

    /// Converts the value.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] when the value has another type or lies outside this type's range.
    fn from_value(value: &'a Value) -> Result<Self, Mismatch>;
}

macro_rules! integers {
    ($($ty:ty, $one:literal, $many:literal;)*) => {$(
        impl FromValue<'_> for $ty {
            const EXPECTED: &'static str = $one;
            fn from_value(value: &Value) -> Result<Self, Mismatch> {
                let wide = value.as_integer().ok_or(Mismatch)?;
                wide.try_into().map_err(|_| Mismatch)
            }
        }
        impl FromValue<'_> for Vec<$ty> {
            const EXPECTED: &'static str = $many;
            fn from_value(value: &Value) -> Result<Self, Mismatch> {
                let Value::Array(array) = value else { return Err(Mismatch) };
                let wide = array.integers().ok_or(Mismatch)?;
                wide.into_iter().map(|v| v.try_into().map_err(|_| Mismatch)).collect()
            }
        }
    )*};
}

integers! {
    u32, "an unsigned 32-bit integer", "an array of unsigned 32-bit integers";
    u64, "an unsigned 64-bit integer", "an array of unsigned 64-bit integers";
    i32, "a signed 32-bit integer", "an array of signed 32-bit integers";
    i64, "a signed 64-bit integer", "an array of signed 64-bit integers";
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a floating-point number";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        match *value {
            Value::F32(v) => Ok(v),
            Value::F64(v) => Ok(v as Self),
            _ => Err(Mismatch),
        }
    }
}

impl FromValue<'_> for Vec<f32> {
    const EXPECTED: &'static str = "an array of floating-point numbers";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        match value {
            Value::Array(Array::F32(v)) => Ok(v.clone()),
            Value::Array(Array::F64(v)) => Ok(v.iter().map(|&v| v as f32).collect()),
            _ => Err(Mismatch),
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a boolean";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        if let Value::Bool(v) = value { Ok(*v) } else { Err(Mismatch) }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::Str(v) = value { Ok(v) } else { Err(Mismatch) }
    }
}

impl<'a> FromValue<'a> for &'a [bool] {
    const EXPECTED: &'static str = "an array of booleans";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::Array(Array::Bool(v)) = value { Ok(v) } else { Err(Mismatch) }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        if let Value::Array(Array::Str(v)) = value { Ok(v) } else { Err(Mismatch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut m = Metadata::new("sample.gguf");
        for (key, value) in [
            ("small", Value::U8(7)),
            ("negative", Value::I32(-1)),
            ("wide", Value::U64(1 << 40)),
            ("single", Value::F32(0.5)),
            ("double", Value::F64(1e-6)),
            ("name", Value::from("keid")),
            ("ratios", Value::from(vec![0i32, 4, 128])),
            ("signed", Value::from(vec![0i32, -4])),
            ("limits", Value::from(vec![10.0f64])),
        ] {
            assert!(m.push(key.to_owned(), value));
        }
        m
    }

    #[test]
    fn integers_convert_when_in_range() {
        let m = sample();
        assert_eq!(m.u32("small").unwrap(), 7);
        assert_eq!(m.i64("negative").unwrap(), -1);
        assert_eq!(m.u64("wide").unwrap(), 1 << 40);
        assert_eq!(m.arr_u32("ratios").unwrap(), [0, 4, 128]);
        assert!(
            m.u32("negative").is_err() && m.u32("wide").is_err() && m.arr_u32("signed").is_err()
        );
    }

    #[test]
    fn floats_convert_and_integers_do_not_become_floats() {
        let m = sample();
        assert_eq!(m.f32("single").unwrap(), 0.5);
        assert_eq!(m.f32("double").unwrap(), 1e-6);
        assert_eq!(m.arr_f32("limits").unwrap(), [10.0]);
        assert!(m.f32("small").is_err() && m.u32("single").is_err());
    }

    #[test]
    fn messages_name_file_key_expected_and_found() {
        let m = sample();
        assert_eq!(
            m.u32("negative").unwrap_err().to_string(),
            "sample.gguf: key \"negative\": expected an unsigned 32-bit integer, found i32 -1"
        );
        assert_eq!(
            m.str("ratios").unwrap_err().to_string(),
            "sample.gguf: key \"ratios\": expected a string, found array of 3 i32"
        );
        assert_eq!(
            m.bool("none").unwrap_err().to_string(),
            "sample.gguf: key \"none\" is missing, expected a boolean"
        );
        assert_eq!(m.optional::<u32>("none").unwrap(), None);
        assert!(m.optional::<u32>("name").is_err());
    }

    #[test]
    fn keys_are_unique_and_keep_their_order() {
        let mut m = sample();
        assert!(!m.push("small".to_owned(), Value::U8(8)));
        assert_eq!(m.u32("small").unwrap(), 7);
        assert_eq!(
            m.iter().map(|(k, _)| k).take(3).collect::<Vec<_>>(),
            ["small", "negative", "wide"]
        );
    }
}
