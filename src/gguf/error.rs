//! The one error type of the container layer.

use std::path::PathBuf;

use super::types::GgmlType;

/// What can go wrong with a container. Every variant names the file, and where they exist the tensor or metadata
/// key, the byte offset in the file, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
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
    /// The bytes break a rule of the format.
    #[error("{}: {item} at byte {offset}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// File that was read.
        path: PathBuf,
        /// Part of the file: "header", "metadata key `…`", "tensor `…`".
        item: String,
        /// Position of the offending bytes in the file.
        offset: u64,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The file is a variant of the format that is not read here (version 1, big endian).
    #[error("{}: {what} is not supported; {hint}", path.display())]
    Unsupported {
        /// File that was read.
        path: PathBuf,
        /// The variant.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A count or length exceeds the [`Limits`](super::Limits) of the caller.
    #[error("{}: {item} at byte {offset}: {found} exceeds the limit `{limit}` of {allowed}", path.display())]
    Limit {
        /// File that was read.
        path: PathBuf,
        /// Part of the file.
        item: String,
        /// Position of the count in the file.
        offset: u64,
        /// Field of `Limits`.
        limit: &'static str,
        /// Its value.
        allowed: u64,
        /// What the file declares.
        found: u64,
    },
    /// A metadata key is absent.
    #[error("{}: metadata key `{key}` is missing", path.display())]
    MissingKey {
        /// File that was read.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A metadata value has another type, or does not fit the type asked for.
    #[error("{}: metadata key `{key}`: expected {expected}, found {found}", path.display())]
    WrongValue {
        /// File that was read.
        path: PathBuf,
        /// The key.
        key: String,
        /// Type asked for.
        expected: &'static str,
        /// Type and value that is there.
        found: String,
    },
    /// A tensor is absent.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// File that was read.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor cannot be turned into floats, or the request does not fit it.
    #[error("{}: tensor `{tensor}`: {source}", path.display())]
    Conversion {
        /// File that was read.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The reason.
        source: ConversionError,
    },
    /// A request names rows or bytes that the tensor does not have.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    OutOfRange {
        /// File that was read.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the tensor has.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// The writer was given something that no valid file can hold, or calls out of order.
    #[error("{}: cannot write {item}: expected {expected}, found {found}", path.display())]
    Write {
        /// File to be written.
        path: PathBuf,
        /// Part of the file.
        item: String,
        /// What the format or the order of calls demands.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// Why bytes could not be turned into floats, or back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// No conversion to f32 exists for the type.
    #[error("type {0} cannot be converted to f32 here")]
    NoConversion(GgmlType),
    /// No conversion from f32 exists for the type.
    #[error("type {0} cannot be made from f32 here; F32, F16, BF16 and Q8_0 can")]
    NoEncoder(GgmlType),
    /// The two lengths do not belong together.
    #[error(
        "type {ty}: {floats} floats need whole blocks of {block_elements} elements in {block_bytes} bytes each, \
         found {bytes} bytes"
    )]
    Length {
        /// The type.
        ty: GgmlType,
        /// Length of the bytes given.
        bytes: usize,
        /// Length of the floats given.
        floats: usize,
        /// Elements of one block.
        block_elements: usize,
        /// Bytes of one block.
        block_bytes: usize,
    },
}
