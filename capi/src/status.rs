//! Status codes, and the guard around every call.

use std::ffi::c_char;
use std::fmt::{self, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use wsic_core::kernels::KernelError;
use wsic_core::payload::{ErrorKind, PayloadError};

/// Result of a call. 1 to 19: the payload is refused, with the class that the format's specification states
/// (section 11); 20 and more: the call is wrong, and nothing was done.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// The bytes end before the structure does.
    Truncated = 1,
    /// The first four bytes are not "WSIC".
    BadMagic = 2,
    /// A version of the format that this library does not know.
    UnsupportedVersion = 3,
    /// A feature of the format that this library does not know.
    UnsupportedFeature = 4,
    /// A number in a header is outside its legal range or contradicts another one.
    BadHeader = 5,
    /// The caller's limits forbid a matrix of this size.
    LimitExceeded = 6,
    /// A checksum does not match.
    BadChecksum = 7,
    /// The coded side information is damaged.
    BadSideInformation = 8,
    /// A class table breaks a rule of the specification.
    BadTable = 9,
    /// The lengths of sections or tiles do not add up.
    BadDirectory = 10,
    /// A tile's coder did not end in its end state exactly at the end of its bytes.
    CorruptTile = 11,
    /// An escape is malformed, out of order, or points at no weight.
    BadEscape = 12,
    /// Bytes are left over after the payload.
    TrailingBytes = 13,
    /// The payload's shape is not the one that the caller expects.
    ShapeMismatch = 14,
    /// A pointer is null.
    NullPointer = 20,
    /// A pointer is not a multiple of its type's alignment.
    MisalignedPointer = 21,
    /// A buffer has another length than the call needs, or is too small.
    BadLength = 22,
    /// A matrix, row, range of rows or number of vectors is outside what the tensor has.
    OutOfRange = 23,
    /// Two buffers of one call overlap.
    Overlap = 24,
    /// The activations were prepared for another matrix, or the tensor was closed since.
    ForeignActivations = 25,
    /// This machine does not have the instruction set, or there is no such instruction set.
    UnsupportedIsa = 26,
    /// An error in this library; please report it.
    Internal = 30,
}

/// All statuses, in rising order.
pub(crate) const ALL: [Status; 23] = [
    Status::Ok,
    Status::Truncated,
    Status::BadMagic,
    Status::UnsupportedVersion,
    Status::UnsupportedFeature,
    Status::BadHeader,
    Status::LimitExceeded,
    Status::BadChecksum,
    Status::BadSideInformation,
    Status::BadTable,
    Status::BadDirectory,
    Status::CorruptTile,
    Status::BadEscape,
    Status::TrailingBytes,
    Status::ShapeMismatch,
    Status::NullPointer,
    Status::MisalignedPointer,
    Status::BadLength,
    Status::OutOfRange,
    Status::Overlap,
    Status::ForeignActivations,
    Status::UnsupportedIsa,
    Status::Internal,
];

impl Status {
    pub(crate) fn of_payload(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Truncated => Status::Truncated,
            ErrorKind::BadMagic => Status::BadMagic,
            ErrorKind::UnsupportedVersion => Status::UnsupportedVersion,
            ErrorKind::UnsupportedFeature => Status::UnsupportedFeature,
            ErrorKind::BadHeader => Status::BadHeader,
            ErrorKind::LimitExceeded => Status::LimitExceeded,
            ErrorKind::BadChecksum => Status::BadChecksum,
            ErrorKind::BadSideInformation => Status::BadSideInformation,
            ErrorKind::BadTable => Status::BadTable,
            ErrorKind::BadDirectory => Status::BadDirectory,
            ErrorKind::CorruptTile => Status::CorruptTile,
            ErrorKind::BadEscape => Status::BadEscape,
            ErrorKind::TrailingBytes => Status::TrailingBytes,
        }
    }

    /// Name (the specification's, for payloads) and a sentence, both ending in a zero byte.
    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Status::Ok => ("ok\0", "success\0"),
            Status::Truncated => ("truncated\0", "the bytes end before the payload does\0"),
            Status::BadMagic => ("bad-magic\0", "this is no WSIC payload\0"),
            Status::UnsupportedVersion => (
                "unsupported-version\0",
                "the payload has a version of the format that this library does not know\0",
            ),
            Status::UnsupportedFeature => {
                ("unsupported-feature\0", "the payload needs a feature that this library does not know\0")
            }
            Status::BadHeader => ("bad-header\0", "a number in a header of the payload is not legal\0"),
            Status::LimitExceeded => ("limit-exceeded\0", "the payload is larger than the limits allow\0"),
            Status::BadChecksum => ("bad-checksum\0", "a checksum of the payload does not match\0"),
            Status::BadSideInformation => {
                ("bad-side-information\0", "the side information of the payload is damaged\0")
            }
            Status::BadTable => ("bad-table\0", "a class table of the payload is not legal\0"),
            Status::BadDirectory => ("bad-directory\0", "lengths in the payload do not add up\0"),
            Status::CorruptTile => ("corrupt-tile\0", "a tile of the payload is damaged\0"),
            Status::BadEscape => ("bad-escape\0", "an escape of the payload is damaged\0"),
            Status::TrailingBytes => ("trailing-bytes\0", "bytes are left over after the payload\0"),
            Status::ShapeMismatch => ("shape-mismatch\0", "the payload has another shape than expected\0"),
            Status::NullPointer => ("null-pointer\0", "a pointer is null\0"),
            Status::MisalignedPointer => ("misaligned-pointer\0", "a pointer is misaligned\0"),
            Status::BadLength => ("bad-length\0", "a buffer does not have the length that is needed\0"),
            Status::OutOfRange => ("out-of-range\0", "a matrix, row or number of vectors is out of range\0"),
            Status::Overlap => ("overlap\0", "two buffers overlap\0"),
            Status::ForeignActivations => {
                ("foreign-activations\0", "the activations were not prepared for this matrix\0")
            }
            Status::UnsupportedIsa => {
                ("unsupported-isa\0", "this machine does not have the instruction set\0")
            }
            Status::Internal => ("internal\0", "an error in the WSIC library\0"),
        }
    }

    fn from_code(code: i32) -> Option<Self> {
        ALL.into_iter().find(|&status| status as i32 == code)
    }
}

/// What went wrong, in words. Filled by a call that fails and untouched by one that succeeds.
#[repr(C)]
pub struct Error {
    /// The status that the call returned.
    pub status: Status,
    /// For refused payloads the byte offset in the payload of the structure that was refused, else 0.
    pub offset: u64,
    /// One line of UTF-8 text that ends in a zero byte.
    pub message: [c_char; 240],
}

/// Why a call gave no result, before it is put into the caller's memory.
#[derive(Debug)]
pub(crate) enum Failure {
    Payload(PayloadError),
    /// An argument, what is wrong with it, and what was expected.
    Argument(Status, &'static str),
    /// A number that has to be another one.
    Number {
        status: Status,
        what: &'static str,
        expected: usize,
        got: usize,
    },
}

impl From<PayloadError> for Failure {
    fn from(error: PayloadError) -> Self {
        Failure::Payload(error)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Payload(error) => Failure::Payload(error),
            KernelError::Shape { what, expected, got } => {
                Failure::Number { status: Status::BadLength, what, expected, got }
            }
            KernelError::Scratch { needed, got } => {
                Failure::Number { status: Status::BadLength, what: "bytes of memory", expected: needed, got }
            }
        }
    }
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Failure::Payload(error) => Status::of_payload(error.kind()),
            Failure::Argument(status, _) | Failure::Number { status, .. } => *status,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Failure::Payload(error) => error.offset() as u64,
            _ => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Payload(error) => error.fmt(f),
            Failure::Argument(status, what) => {
                write!(f, "{what}: {}", status.texts().1.trim_end_matches('\0'))
            }
            Failure::Number { what, expected, got, .. } => {
                write!(f, "{what}: {got} where {expected} are needed")
            }
        }
    }
}

/// Text that is cut off where the room ends, with a zero byte behind it.
struct Line<'t> {
    text: &'t mut [c_char],
    length: usize,
}

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            let Some(room) = self.text.get_mut(self.length..self.length + bytes.len() + 1) else {
                return Err(fmt::Error);
            };
            for (place, &byte) in room.iter_mut().zip(bytes.iter().chain(&[0])) {
                *place = byte as c_char;
            }
            self.length += bytes.len();
        }
        Ok(())
    }
}

impl Error {
    fn new(failure: &Failure) -> Self {
        let mut error = Self { status: failure.status(), offset: failure.offset(), message: [0; 240] };
        // Only fails where the line is cut off, which is all right.
        let _ = write!(Line { text: &mut error.message, length: 0 }, "{failure}");
        error
    }
}

/// Runs `body`; a failure goes to `error` if that is a place for it. No panic leaves.
///
/// # Safety
/// `error` is null or points at memory that may be written as an [`Error`].
pub(crate) unsafe fn guarded(error: *mut Error, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // A panic leaves nothing half done that is used again: tensors are immutable, and the rest is the caller's
    // memory, whose content is unspecified after an error.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            // Dropping the payload of a panic might panic.
            std::mem::forget(panic);
            Failure::Argument(Status::Internal, "panic")
        }
    };
    let status = failure.status();
    if !error.is_null() && error.is_aligned() {
        // SAFETY: not null, aligned, and the caller says that it may be written.
        unsafe { error.write(Error::new(&failure)) };
    }
    status
}

/// The name of a status, for example "bad-checksum"; for refused payloads the class of the specification. Never
/// null: "unknown" for other numbers.
#[no_mangle]
pub extern "C" fn wsic_status_name(status: i32) -> *const c_char {
    Status::from_code(status).map_or("unknown\0", |status| status.texts().0).as_ptr().cast()
}

/// A sentence about a status. Never null.
#[no_mangle]
pub extern "C" fn wsic_status_text(status: i32) -> *const c_char {
    Status::from_code(status).map_or("no such status\0", |status| status.texts().1).as_ptr().cast()
}
