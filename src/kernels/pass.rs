//! One pass over a few tiles: what the operations that need decoded values have in common.

use super::activations::Rounding;
use super::dispatch::{self, States};
use super::error::KernelError;
use super::plan::PreparedMatrix;
use super::scratch::{bytes_for, Carver};
use super::stream::{tail_bytes, TileState};
use std::ops::Range;

/// Chunks of one activation group, decoded for some tiles.
pub(super) struct Decoded<'p> {
    /// Index of the group.
    pub(super) group: usize,
    /// Chunks of the group.
    pub(super) chunks: Range<usize>,
    /// Values u = m + offset of every tile: 64 bytes for each chunk and step.
    pub(super) values: &'p mut [u8],
    /// Bytes from one tile to the next.
    pub(super) tile_stride: usize,
    /// Bytes from one chunk to the next: steps rounded up to 16, 64 bytes each.
    pub(super) chunk_stride: usize,
}

/// Steps rounded up to what the kernels take at once.
pub(super) const fn padded_steps(steps: usize) -> usize {
    steps.div_ceil(16) * 16
}

impl PreparedMatrix<'_> {
    /// Bytes of decoded values of one tile and group.
    pub(super) fn group_bytes(&self, rounding: Rounding) -> usize {
        self.chunks_per_group(rounding) * padded_steps(self.most_steps()) * 64
    }

    /// Scratch bytes of [`Self::decode_groups`].
    pub(super) fn decode_groups_scratch(&self, rounding: Rounding) -> usize {
        let tiles = self.most_tiles();
        bytes_for::<u8>(tiles * self.group_bytes(rounding))
            + tiles * bytes_for::<u8>(tail_bytes(self.most_steps()))
    }

    /// Decodes `tiles` (of equally many steps, at most as many as the kernel interleaves) by the groups of `rounding`.
    pub(super) fn decode_groups(
        &self,
        tiles: Range<usize>,
        rounding: Rounding,
        carver: &mut Carver<'_>,
        mut sink: impl FnMut(Decoded<'_>),
    ) -> Result<(), KernelError> {
        let geometry = self.geometry();
        let steps = geometry.steps_in_tile(self.rows(), tiles.start);
        let chunk_stride = 64 * padded_steps(steps);
        let tile_stride = self.chunks_per_group(rounding) * chunk_stride;
        let values = carver.take::<u8>(tiles.len() * tile_stride);
        let mut states = States::new();
        for tile in tiles.clone() {
            states.push(TileState::new(self, tile, carver.take::<u8>(tail_bytes(steps))));
        }
        let states = states.as_mut_slice();
        let group_chunks = self.chunks_per_group(rounding);
        let last = self.matrix.stream_length() / geometry.columns_per_chunk();
        for class in &self.classes {
            let (mut chunk, end) = (class.first_chunk, class.first_chunk + class.chunks);
            while chunk < end {
                let group = chunk / group_chunks;
                let stop = end.min((group + 1) * group_chunks);
                let at = (chunk - group * group_chunks) * chunk_stride;
                let target = dispatch::Target { values: &mut values[at..], tile_stride, chunk_stride };
                dispatch::decode(self.isa, class, stop - chunk, steps, states, target);
                if stop % group_chunks == 0 || stop == last {
                    let chunks = group * group_chunks..stop;
                    sink(Decoded { group, chunks, values, tile_stride, chunk_stride });
                }
                chunk = stop;
            }
        }
        if states.iter().all(|state| state.complete()) {
            Ok(())
        } else {
            Err(self.first_error(tiles))
        }
    }
}
