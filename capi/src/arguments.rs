//! From raw pointers to references, as far as a pointer can be checked.
//!
//! What cannot be checked (that the memory exists, lives long enough and is not written elsewhere meanwhile) is the
//! caller's promise; the header states it, and the SAFETY comments refer to it.

use crate::status::{Failure, Status};
use std::ops::Range;

/// Requires a pointer that is neither null nor misaligned.
pub(crate) fn checked<T>(pointer: *const T, what: &'static str) -> Result<(), Failure> {
    if pointer.is_null() {
        Err(Failure::Argument(Status::NullPointer, what))
    } else if !pointer.is_aligned() {
        Err(Failure::Argument(Status::MisalignedPointer, what))
    } else {
        Ok(())
    }
}

/// Requires that `length` elements from `pointer` on can be one object of the address space.
fn checked_slice<T>(pointer: *const T, length: usize, what: &'static str) -> Result<(), Failure> {
    checked(pointer, what)?;
    let bytes = length.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    match bytes.and_then(|bytes| pointer.addr().checked_add(bytes)) {
        Some(_) => Ok(()),
        None => Err(Failure::Argument(Status::BadLength, what)),
    }
}

/// # Safety
/// Unless null or misaligned, `pointer` is valid for reads of a `T` during 'a, and nothing writes to it meanwhile.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, what: &'static str) -> Result<&'a T, Failure> {
    checked(pointer, what)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// # Safety
/// Unless null or misaligned, `pointer` is valid for a write of a `T`.
pub(crate) unsafe fn store<T>(pointer: *mut T, what: &'static str, value: T) -> Result<(), Failure> {
    checked(pointer, what)?;
    // SAFETY: not null and aligned; the rest is the caller's promise. The old value is not dropped: it may be
    // uninitialised, and types of the interface own nothing.
    unsafe { pointer.write(value) };
    Ok(())
}

/// # Safety
/// As [`reference()`] for `length` elements.
pub(crate) unsafe fn slice<'a, T>(
    pointer: *const T,
    length: usize,
    what: &'static str,
) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    checked_slice(pointer, length, what)?;
    // SAFETY: not null, aligned, no longer than an object may be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// # Safety
/// Unless null or misaligned, `pointer` is valid for reads and writes of `length` elements of a type that any bits
/// are a value of, during 'a, and nothing else reads or writes them meanwhile.
pub(crate) unsafe fn slice_mut<'a, T: Plain>(
    pointer: *mut T,
    length: usize,
    what: &'static str,
) -> Result<&'a mut [T], Failure> {
    if length == 0 {
        return Ok(&mut []);
    }
    checked_slice(pointer, length, what)?;
    // SAFETY: not null, aligned, no longer than an object may be; any bits are a value; the rest is the caller's
    // promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

/// Types that any bits are a value of.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i32 {}
impl Plain for f32 {}

/// Addresses of a buffer.
pub(crate) fn addresses<T>(pointer: *const T, length: usize) -> Range<usize> {
    let start = pointer.addr();
    start..start.saturating_add(length.saturating_mul(size_of::<T>()))
}

/// Requires that no address of `written` is in one of the buffers `others`.
pub(crate) fn apart(written: Range<usize>, others: &[Range<usize>]) -> Result<(), Failure> {
    let overlaps = |other: &Range<usize>| written.start < other.end && other.start < written.end;
    if others.iter().any(overlaps) {
        return Err(Failure::Argument(Status::Overlap, "buffers of one call"));
    }
    Ok(())
}

/// Requires a buffer of `expected` elements.
pub(crate) fn require_length(what: &'static str, expected: usize, got: usize) -> Result<(), Failure> {
    if got == expected {
        Ok(())
    } else {
        Err(Failure::Number { status: Status::BadLength, what, expected, got })
    }
}
