//! Where the loops over the steps of a chunk read and write.

use super::table::Bytes64;
use crate::kernels::activations::MOST_TERMS;

/// Where accumulators are or decoded values go: 64 bytes for each step.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) base: *mut u8,
    /// Bytes from one tile to the next.
    pub(super) tile_stride: usize,
    /// Bytes from one chunk to the next: none for accumulators.
    pub(super) chunk_stride: usize,
    /// Bytes from the accumulators of one term to those of the next.
    pub(super) term_stride: usize,
    /// What the accumulators of each row of even and odd steps begin with, by term, if not with what they hold.
    pub(super) start: Option<[[i32; 2]; MOST_TERMS]>,
}

/// What accumulators of even and odd steps begin with, by term.
pub(super) type Starts = [[Bytes64; 2]; MOST_TERMS];

/// Where the sums of a step are read: in the accumulators, or where they begin in [`Starts`].
#[derive(Clone, Copy)]
pub(super) struct Source {
    base: *const u8,
    /// Bytes from one tile to the next, from one term to the next, and from an even step to the odd one and from that to
    /// the next.
    tile: usize,
    term: usize,
    to_odd: isize,
    to_even: isize,
}

impl Source {
    pub(super) fn new(target: &Target, out: *const u8, starts: Option<&Starts>) -> Self {
        match starts {
            Some(starts) => {
                Self { base: starts.as_ptr().cast(), tile: 0, term: 128, to_odd: 64, to_even: -64 }
            }
            None => Self {
                base: out,
                tile: target.tile_stride,
                term: target.term_stride,
                to_odd: 64,
                to_even: 64,
            },
        }
    }

    /// Where the sums of a tile and a term are.
    pub(super) fn of(self, tile: usize, term: usize) -> *const u8 {
        self.base.wrapping_add(tile * self.tile + term * self.term)
    }

    /// That of the next step.
    pub(super) fn next(self) -> Self {
        let base = self.base.wrapping_offset(self.to_odd);
        Self { base, to_odd: self.to_even, to_even: self.to_odd, ..self }
    }

    /// That of the next pair of steps.
    pub(super) fn next_pair(self) -> Self {
        Self { base: self.base.wrapping_offset(self.to_odd + self.to_even), ..self }
    }
}

/// What the accumulators of each row begin with.
pub(super) fn starts_of(target: &Target, width: usize) -> Option<Starts> {
    target.start.map(|start| start.map(|both| both.map(|start| start_values(start, width))))
}

/// Accumulators of one step with `start` in the first one of each row.
fn start_values(start: i32, columns_per_chunk: usize) -> Bytes64 {
    let mut values = Bytes64::ZERO;
    for row in values.0.chunks_exact_mut(columns_per_chunk) {
        row[..4].copy_from_slice(&start.to_le_bytes());
    }
    values
}
