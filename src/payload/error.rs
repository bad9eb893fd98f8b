//! What can be wrong with a payload (spec section "Errors"): one class for each condition of the specification.

use std::fmt;

/// Class of a refusal. The specification requires the same class from every decoder for the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The bytes end before the structure does.
    Truncated,
    /// The first four bytes are not `WSIC`.
    BadMagic,
    /// A version this decoder does not know.
    UnsupportedVersion,
    /// A reserved field is not zero, or a feature this decoder does not know is asked for.
    UnsupportedFeature,
    /// A number in a header is outside its legal range or contradicts another one.
    BadHeader,
    /// The caller's limits forbid a matrix of this size.
    LimitExceeded,
    /// A checksum does not match.
    BadChecksum,
    /// The coded side information is damaged: not used up exactly, or a value outside its range.
    BadSideInformation,
    /// A class table breaks a rule of the specification.
    BadTable,
    /// The lengths of sections or tiles do not add up.
    BadDirectory,
    /// A tile's coder did not end in its end state exactly at the end of its bytes.
    CorruptTile,
    /// An escape is malformed, out of order, or points at no weight.
    BadEscape,
    /// Bytes are left over after the payload.
    TrailingBytes,
}

impl ErrorKind {
    /// Stable name used in test vectors and by the C ABI.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Truncated => "truncated",
            ErrorKind::BadMagic => "bad-magic",
            ErrorKind::UnsupportedVersion => "unsupported-version",
            ErrorKind::UnsupportedFeature => "unsupported-feature",
            ErrorKind::BadHeader => "bad-header",
            ErrorKind::LimitExceeded => "limit-exceeded",
            ErrorKind::BadChecksum => "bad-checksum",
            ErrorKind::BadSideInformation => "bad-side-information",
            ErrorKind::BadTable => "bad-table",
            ErrorKind::BadDirectory => "bad-directory",
            ErrorKind::CorruptTile => "corrupt-tile",
            ErrorKind::BadEscape => "bad-escape",
            ErrorKind::TrailingBytes => "trailing-bytes",
        }
    }
}

/// A refusal: its class, where in the payload, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadError {
    kind: ErrorKind,
    offset: usize,
    expected: &'static str,
}

impl PayloadError {
    pub(crate) const fn new(kind: ErrorKind, offset: usize, expected: &'static str) -> Self {
        Self { kind, offset, expected }
    }

    /// Class of the refusal.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Byte offset in the payload of the structure that was refused.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) const fn shifted(mut self, base: usize) -> Self {
        self.offset = self.offset.saturating_add(base);
        self
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} of the payload: {}", self.kind.name(), self.offset, self.expected)
    }
}

impl std::error::Error for PayloadError {}
