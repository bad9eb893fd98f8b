//! The one error type of the import layer.

use std::path::{Path, PathBuf};

use crate::gguf::GgufError;

/// What can go wrong with a foreign folder or file. Every variant names the file or folder, and where they exist
/// the tensor or key, the byte offset, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Mapping a file, or writing the container, failed.
    #[error(transparent)]
    Container(#[from] GgufError),
    /// The operating system refused an operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File the operation was for.
        path: PathBuf,
        /// The operation, as a verb.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that a model needs is not there.
    #[error("{}: missing; {hint}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it is for, or what to do.
        hint: String,
    },
    /// A text file is no JSON.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A value in a JSON file is absent or outside what a model can have.
    #[error("{}: `{key}`: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Key of the value.
        key: String,
        /// What the model needs.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The bytes break a rule of the format.
    #[error("{}: {item} at byte {offset}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Part of the file: "header", "tensor `…`", "entry 3".
        item: String,
        /// Position of the offending bytes in the file.
        offset: u64,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A count or length exceeds the [`Limits`](super::Limits) of the caller.
    #[error("{}: {item}: {found} exceeds the limit `{limit}` of {allowed}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was counted.
        item: String,
        /// Field of `Limits`.
        limit: &'static str,
        /// Its value.
        allowed: u64,
        /// What the file declares.
        found: u64,
    },
    /// No registered architecture for the folder's model.
    #[error("{}: architecture `{name}` is not supported; supported are {supported}", path.display())]
    Architecture {
        /// The file that names the architecture.
        path: PathBuf,
        /// The name.
        name: String,
        /// Names that are known.
        supported: String,
    },
    /// The folder or file is of a kind that is not read here.
    #[error("{}: {what} is not supported; {hint}", path.display())]
    Unsupported {
        /// File or folder.
        path: PathBuf,
        /// The kind.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A tensor of the model is absent.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The folder.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
    },
    /// The checkpoint holds a tensor that the architecture does not have: leaving it out would change the model.
    #[error("{}: tensor `{tensor}` has no place in architecture `{architecture}`", path.display())]
    UnexpectedTensor {
        /// File that holds it.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// Architecture of the folder.
        architecture: String,
    },
    /// A tensor does not have the shape or element type that the configuration asks for.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// File that holds it.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the configuration or the request asks for.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ImportError {
    pub(crate) fn value(
        path: &Path,
        key: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ImportError {
        ImportError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn malformed(
        path: &Path,
        item: impl Into<String>,
        offset: u64,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ImportError {
        ImportError::Malformed {
            path: path.to_owned(),
            item: item.into(),
            offset,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn tensor(
        path: &Path,
        tensor: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ImportError {
        ImportError::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> ImportError {
        ImportError::Unsupported { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    /// Fails if `found` exceeds `allowed`, the value of the field `limit`.
    pub(crate) fn check_limit(
        path: &Path,
        item: impl Into<String>,
        limit: &'static str,
        allowed: u64,
        found: u64,
    ) -> Result<(), ImportError> {
        if found <= allowed {
            return Ok(());
        }
        Err(ImportError::Limit { path: path.to_owned(), item: item.into(), limit, allowed, found })
    }
}
