//! What a kernel call can refuse.

use crate::payload::PayloadError;
use std::fmt;

/// Why a kernel call gave no result. Output buffers then hold unspecified numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The payload's bytes are damaged.
    Payload(PayloadError),
    /// A buffer or a range does not fit the matrix.
    Shape {
        /// What was measured.
        what: &'static str,
        /// Its length or bound as the matrix requires it.
        expected: usize,
        /// Its length or value as given.
        got: usize,
    },
    /// The scratch buffer is smaller than the size query says.
    Scratch {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        got: usize,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(error) => error.fmt(f),
            Self::Shape { what, expected, got } => write!(f, "{what}: {got} where {expected} is required"),
            Self::Scratch { needed, got } => write!(f, "scratch of {got} bytes where {needed} are needed"),
        }
    }
}

impl std::error::Error for KernelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Payload(error) => Some(error),
            _ => None,
        }
    }
}

impl From<PayloadError> for KernelError {
    fn from(error: PayloadError) -> Self {
        Self::Payload(error)
    }
}

/// Requires `got == expected`.
pub(super) fn require(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if got == expected {
        Ok(())
    } else {
        Err(KernelError::Shape { what, expected, got })
    }
}
