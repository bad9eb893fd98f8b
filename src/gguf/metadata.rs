//! The ordered key-value section of a file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::value::{Array, Value};

/// Metadata in file order, with typed access. Keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    /// Same entries, in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// No entries. `path` is only named in errors.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), entries: Vec::new(), index: HashMap::new() }
    }

    /// File named in errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).and_then(|&at| self.entries.get(at)).map(|(_, value)| value)
    }

    /// Whether `key` exists.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Sets `key`: in its place if it exists, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.index.get(&key).and_then(|&at| self.entries.get_mut(at)) {
            Some(entry) => entry.1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Removes `key` and returns its value; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        let (_, value) = self.entries.remove(at);
        self.index.values_mut().filter(|position| **position > at).for_each(|position| *position -= 1);
        Some(value)
    }

    fn required<'a>(&'a self, key: &str) -> Result<&'a Value, GgufError> {
        self.get(key).ok_or_else(|| GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() })
    }

    fn wrong(&self, key: &str, expected: &'static str, value: &Value) -> GgufError {
        GgufError::WrongValue {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: value.summary(),
        }
    }

    /// Applies a typed getter where absence is no error: `metadata.optional(key, Metadata::u32)`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        getter: impl FnOnce(&'a Self, &str) -> Result<T, GgufError>,
    ) -> Result<Option<T>, GgufError> {
        if self.contains(key) {
            getter(self, key).map(Some)
        } else {
            Ok(None)
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<T, GgufError> {
        let value = self.required(key)?;
        let fitting = value.as_integer().and_then(|v| T::try_from(v).ok());
        fitting.ok_or_else(|| self.wrong(key, expected, value))
    }

    /// An integer of any stored width that fits u32.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.integer(key, "an integer from 0 to 2^32-1")
    }

    /// An integer of any stored width that fits u64.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.integer(key, "an integer from 0 to 2^64-1")
    }

    /// An integer of any stored width that fits usize.
    pub fn usize(&self, key: &str) -> Result<usize, GgufError> {
        self.integer(key, "an integer of the machine's size")
    }

    /// An integer of any stored width that fits i64.
    pub fn i64(&self, key: &str) -> Result<i64, GgufError> {
        self.integer(key, "an integer from -2^63 to 2^63-1")
    }

    /// A number: FLOAT32, or FLOAT64 or an integer rounded to f32.
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.f64(key).map(|v| v as f32)
    }

    /// A number: FLOAT64, FLOAT32 or an integer.
    pub fn f64(&self, key: &str) -> Result<f64, GgufError> {
        let value = self.required(key)?;
        value.as_f64().ok_or_else(|| self.wrong(key, "a number", value))
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.required(key)? {
            Value::Bool(v) => Ok(*v),
            value => Err(self.wrong(key, "BOOL", value)),
        }
    }

    /// The bytes of a string.
    pub fn bytes(&self, key: &str) -> Result<&[u8], GgufError> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            value => Err(self.wrong(key, "STRING", value)),
        }
    }

    /// A string that must be UTF-8.
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        let value = self.required(key)?;
        std::str::from_utf8(self.bytes(key)?).map_err(|_| self.wrong(key, "a STRING of valid UTF-8", value))
    }

    /// A string, with replacement characters where it is not UTF-8.
    pub fn text(&self, key: &str) -> Result<Cow<'_, str>, GgufError> {
        self.bytes(key).map(String::from_utf8_lossy)
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<&Array, GgufError> {
        match self.required(key)? {
            Value::Array(array) => Ok(array),
            value => Err(self.wrong(key, "ARRAY", value)),
        }
    }

    /// The strings of an array of strings.
    pub fn strings(&self, key: &str) -> Result<impl ExactSizeIterator<Item = &[u8]>, GgufError> {
        let array = self.array(key)?;
        if array.element_type() == super::value::ValueType::String || array.is_empty() {
            Ok(array.strings())
        } else {
            Err(self.wrong(key, "an ARRAY of STRING", self.required(key)?))
        }
    }

    /// The elements of an array of numbers, rounded to f32.
    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        let value = self.required(key)?;
        self.array(key)?.to_f32().ok_or_else(|| self.wrong(key, "an ARRAY of numbers", value))
    }

    /// The elements of an array of integers of any stored width that fit the type asked for.
    pub fn integer_array<T: TryFrom<i128>>(&self, key: &str) -> Result<Vec<T>, GgufError> {
        let value = self.required(key)?;
        self.array(key)?.to_integers().ok_or_else(|| self.wrong(key, "an ARRAY of fitting integers", value))
    }
}
