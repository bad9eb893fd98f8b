//! The one error type of the model layer.

use crate::gguf::GgufError;

/// What can go wrong with a tokenizer or a forward pass.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The container failed; it names file, tensor or key, and byte offset.
    #[error(transparent)]
    Container(#[from] GgufError),
    /// A tensor could not be read as floats by a source other than a container.
    #[error("tensor `{tensor}`: {source}")]
    Source {
        /// Name of the tensor.
        tensor: String,
        /// Reason of the source.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A metadata value is outside what a model can have.
    #[error("metadata key `{key}`: expected {expected}, found {found}")]
    Metadata {
        /// The key.
        key: String,
        /// What the model needs.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// No registered architecture of this name.
    #[error("architecture `{name}` is not supported; supported are {supported}")]
    Architecture {
        /// Value of `general.architecture`.
        name: String,
        /// Names of the registered architectures.
        supported: String,
    },
    /// A tensor of the model is absent.
    #[error("tensor `{tensor}` is missing")]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor or a replacement of it has the wrong shape.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Shape by the metadata.
        expected: String,
        /// Shape found.
        found: String,
    },
    /// The tokenizer's tables contradict each other.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A token id beyond the vocabulary.
    #[error("token {token} is beyond the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Number of tokens.
        vocabulary: usize,
    },
    /// A request the model or its cache cannot serve.
    #[error("{what}: expected {expected}, found {found}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What can be served.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The arithmetic left the finite numbers.
    #[error("layer {layer}: {what} holds a value that is not finite at token {row}")]
    NotFinite {
        /// Layer, or the number of layers for the output head.
        layer: usize,
        /// Which values.
        what: &'static str,
        /// Row in the batch.
        row: usize,
    },
}

impl ModelError {
    /// A request that cannot be served.
    pub(crate) fn request(what: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Request { what, expected: expected.to_string(), found: found.to_string() }
    }

    /// A tensor of the wrong shape.
    pub(crate) fn shape(tensor: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Shape { tensor: tensor.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A metadata value outside what a model can have.
    pub(crate) fn metadata(key: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Metadata { key: key.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }
}
