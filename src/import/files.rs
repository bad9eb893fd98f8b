//! Bounded reading of the small files of a folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::ImportError;
use super::limits::Limits;

/// A model folder and the bounds its files must keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Bounds.
    pub limits: &'a Limits,
}

impl Files<'_> {
    /// Path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// The bytes of a file; `None` if there is none.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let path = self.path(name);
        let io = |action| {
            let path = path.clone();
            move |source| ImportError::Io { path, action, source }
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open the file")(error)),
        };
        let status = file.metadata().map_err(io("query the file"))?;
        if !status.is_file() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(io("read the file")(source));
        }
        let allowed = self.limits.max_text_bytes;
        ImportError::check_limit(&path, "bytes of the file", "max_text_bytes", allowed, status.len())?;
        let mut bytes = Vec::new();
        // One byte more than allowed shows that the file grew meanwhile.
        file.take(allowed.saturating_add(1)).read_to_end(&mut bytes).map_err(io("read the file"))?;
        ImportError::check_limit(&path, "bytes of the file", "max_text_bytes", allowed, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    /// A text, with replacement characters where it is not UTF-8; `None` if there is no such file.
    pub fn text(&self, name: &str) -> Result<Option<String>, ImportError> {
        Ok(self.bytes(name)?.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }

    /// A JSON object; `None` if there is no such file.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, ImportError> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let path = self.path(name);
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Some(object)),
            Ok(other) => Err(ImportError::value(&path, "the file", "a JSON object", kind(&other))),
            Err(source) => Err(ImportError::Json { path, source }),
        }
    }
}

/// What a JSON value is, for messages: numbers and short texts themselves, else the type.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.len() <= 80 => format!("{text:?}"),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(values) => format!("an array of {} values", values.len()),
        Value::Object(values) => format!("an object of {} keys", values.len()),
    }
}
