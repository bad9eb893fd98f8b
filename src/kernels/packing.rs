//! Decoded integers in memory: eight bits each, or four where they are near each other.

use super::matmul::PANEL_ROWS;
use crate::payload::LANES;

/// Panels of a block: what the product kernels take in one pass.
pub(super) const PANELS: usize = 2;
/// Rows of a block, but the last one.
pub(super) const BLOCK_ROWS: usize = PANELS * PANEL_ROWS;

/// How far ahead of the product values are fetched, in bytes: beyond the page, where the processor's own prefetch stops.
pub(super) const FETCH_AHEAD: usize = 4096;

/// How the values of a block and chunk are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// One byte each.
    Bytes,
    /// Four bits each, what they exceed this number by: the first panel in the low ones, the second in the high ones.
    Halves(u8),
}

impl Packing {
    pub(super) fn of(values: &[u8]) -> Self {
        let (least, most) = values.iter().fold((u8::MAX, 0), |(a, b), &value| (value.min(a), value.max(b)));
        match most.saturating_sub(least) < 16 {
            true => Self::Halves(least),
            false => Self::Bytes,
        }
    }

    /// Bytes for so many values.
    pub(super) fn bytes(self, values: usize) -> usize {
        match self {
            Self::Bytes => values,
            Self::Halves(_) => values / 2,
        }
    }

    pub(super) fn pack(self, values: &[u8], to: &mut Vec<u8>) {
        match self {
            Self::Bytes => to.extend_from_slice(values),
            Self::Halves(least) => {
                let (first, second) = values.split_at(values.len() / 2);
                to.extend(first.iter().zip(second).map(|(a, b)| (a - least) | ((b - least) << 4)));
            }
        }
    }
}

/// Values of the chunks of a group in one block, as [`ExpandedMatrix`](super::ExpandedMatrix) stores them.
pub(super) struct PackedGroup<'p> {
    /// Columns of one chunk.
    pub(super) width: usize,
    pub(super) bytes: &'p [u8],
    /// Of each chunk.
    pub(super) packings: &'p [Packing],
}

impl PackedGroup<'_> {
    /// Bytes that packings of these chunks take.
    pub(super) fn packed_bytes(&self) -> usize {
        self.packings.iter().map(|packing| packing.bytes(BLOCK_ROWS * self.width)).sum()
    }

    /// Writes the values. Compiled for each instruction set; `fetch` is told where it reads.
    #[inline(always)]
    pub(super) fn unpack(&self, to: &mut [u8], fetch: impl Fn(*const u8)) {
        let mut rest = self.bytes;
        for (to, packing) in to.chunks_exact_mut(BLOCK_ROWS * self.width).zip(self.packings) {
            let (bytes, others) = rest.split_at(packing.bytes(to.len()));
            rest = others;
            let from = bytes.as_chunks::<LANES>().0;
            match *packing {
                Packing::Bytes => {
                    for (from, to) in from.iter().zip(to.as_chunks_mut::<LANES>().0) {
                        fetch(from.as_ptr());
                        *to = *from;
                    }
                }
                Packing::Halves(least) => {
                    let (first, second) = to.split_at_mut(to.len() / 2);
                    let first = first.as_chunks_mut::<LANES>().0.iter_mut();
                    let to = first.zip(second.as_chunks_mut::<LANES>().0);
                    for (from, (first, second)) in from.iter().zip(to) {
                        fetch(from.as_ptr());
                        for lane in 0..LANES {
                            first[lane] = (from[lane] & 15).wrapping_add(least);
                            second[lane] = (from[lane] >> 4).wrapping_add(least);
                        }
                    }
                }
            }
        }
    }
}
