//! What can be wrong with a payload (spec section "Errors"): one class for each condition of the specification.

use std::fmt;

macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// Class of a refusal. The specification requires the same class from every decoder for the same bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All classes that a payload can be refused with.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$kind,)*];

            /// Name of the class in the specification, in test vectors and in the C ABI.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ErrorKind::$kind => $name,)*
                }
            }
        }
    };
}

error_kinds! {
    /// The bytes end before the structure does.
    Truncated = "truncated",
    /// The first four bytes are not `WSIC`.
    BadMagic = "bad-magic",
    /// A version this decoder does not know.
    UnsupportedVersion = "unsupported-version",
    /// A reserved field is not zero, or a feature this decoder does not know is asked for.
    UnsupportedFeature = "unsupported-feature",
    /// A number in a header is outside its legal range or contradicts another one.
    BadHeader = "bad-header",
    /// The caller's limits forbid a matrix of this size.
    LimitExceeded = "limit-exceeded",
    /// A checksum does not match.
    BadChecksum = "bad-checksum",
    /// The coded side information is damaged: not used up exactly, or a value outside its range.
    BadSideInformation = "bad-side-information",
    /// A class table breaks a rule of the specification.
    BadTable = "bad-table",
    /// The lengths of sections or tiles do not add up.
    BadDirectory = "bad-directory",
    /// A tile's coder did not end in its end state exactly at the end of its bytes.
    CorruptTile = "corrupt-tile",
    /// An escape is malformed, out of order, or points at no weight.
    BadEscape = "bad-escape",
    /// Bytes are left over after the payload.
    TrailingBytes = "trailing-bytes",
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
