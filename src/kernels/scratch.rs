//! Working memory: callers own it, kernels carve aligned pieces from it.

use super::error::KernelError;

/// Alignment of every piece: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Working memory for kernel calls, aligned and reusable. One for each thread; it may be larger than needed.
#[derive(Debug, Default)]
pub struct Scratch {
    words: Vec<u64>,
}

impl Scratch {
    /// An empty scratch; [`Self::reserve`] gives it memory.
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// Scratch of at least `bytes` bytes.
    pub fn with_bytes(bytes: usize) -> Self {
        let mut scratch = Self::new();
        scratch.reserve(bytes);
        scratch
    }

    /// Grows to at least `bytes` bytes. The only place that allocates.
    pub fn reserve(&mut self, bytes: usize) {
        let words = bytes.div_ceil(8);
        if self.words.len() < words {
            self.words = vec![0; words];
        }
    }

    /// The memory itself.
    pub fn as_bytes(&mut self) -> &mut [u8] {
        // SAFETY: the words are initialised, u8 has no alignment or validity requirement, and the borrow of `self`
        // is carried over to the result.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.words.len() * 8) }
    }
}

/// Numbers whose every bit pattern is valid.
pub(super) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for i32 {}
impl Plain for u32 {}
impl Plain for f32 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Bytes that [`Carver::take`] may use for `count` numbers of type `T`.
pub(super) const fn bytes_for<T: Plain>(count: usize) -> usize {
    count * size_of::<T>() + ALIGNMENT
}

/// Cuts aligned slices from a byte buffer.
pub(super) struct Carver<'s> {
    rest: &'s mut [u8],
}

impl<'s> Carver<'s> {
    /// Starts with `bytes` of which `needed` will be used at most.
    pub(super) fn new(bytes: &'s mut [u8], needed: usize) -> Result<Self, KernelError> {
        if bytes.len() < needed {
            return Err(KernelError::Scratch { needed, got: bytes.len() });
        }
        Ok(Self { rest: bytes })
    }

    /// The next `count` numbers, aligned to a cache line, with unspecified values.
    ///
    /// # Panics
    /// If the caller's size query was too small (an error in this crate).
    pub(super) fn take<T: Plain>(&mut self, count: usize) -> &'s mut [T] {
        let rest = std::mem::take(&mut self.rest);
        let skip = rest.as_ptr().align_offset(ALIGNMENT);
        let (_, aligned) = rest.split_at_mut(skip);
        let (piece, rest) = aligned.split_at_mut(count * size_of::<T>());
        self.rest = rest;
        // SAFETY: `piece` is initialised, aligned to 64 bytes (more than any `Plain` type needs), exclusively
        // borrowed for 's, exactly `count` elements long, and every bit pattern is a valid `T`.
        unsafe { std::slice::from_raw_parts_mut(piece.as_mut_ptr().cast(), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_and_disjoint() {
        let needed = bytes_for::<f32>(5) + bytes_for::<u8>(3) + bytes_for::<i32>(7);
        let mut scratch = Scratch::with_bytes(needed + 1);
        let mut carver = Carver::new(&mut scratch.as_bytes()[1..], needed).unwrap();
        let (a, b, c) = (carver.take::<f32>(5), carver.take::<u8>(3), carver.take::<i32>(7));
        a.fill(1.5);
        b.fill(9);
        c.fill(-1);
        assert!(a.iter().all(|&v| v == 1.5) && b == [9; 3] && c == [-1; 7]);
        for address in [a.as_ptr() as usize, b.as_ptr() as usize, c.as_ptr() as usize] {
            assert_eq!(address % ALIGNMENT, 0);
        }
        assert!(Carver::new(&mut [0; 4], 5).is_err());
    }
}
