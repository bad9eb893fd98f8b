//! Position of the decoder inside one tile, shared by all instruction sets.

use super::plan::PreparedMatrix;
use crate::payload::{ErrorKind, PayloadError, Tile, LANES};

/// Bytes of the coder's initial states.
const STATE_BYTES: usize = 2 * LANES;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// Lines that are fetched before they are decoded. Vector kernels fetch those after them as they go.
const FIRST_LINES: usize = 16;

/// Begins to load the first cache lines of `bytes`.
pub(super) fn fetch_start(bytes: &[u8]) {
    for line in bytes.chunks(CACHE_LINE).take(FIRST_LINES) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which may name any address.
        unsafe {
            use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}

/// Bytes that a kernel may read past the position at the start of a chunk: one for each symbol, and one vector.
pub(super) const fn margin(steps: usize) -> usize {
    LANES * steps + LANES
}

/// Scratch bytes that one tile's stream needs for its end.
pub(super) const fn tail_bytes(steps: usize) -> usize {
    2 * margin(steps)
}

/// State of the coder between two chunks of a tile.
#[repr(C, align(64))]
pub(super) struct TileState<'s> {
    /// High bytes of the lanes' states.
    pub(super) high: [u8; LANES],
    /// Low bytes of the lanes' states: the slots.
    pub(super) low: [u8; LANES],
    bytes: &'s [u8],
    at: usize,
    end: usize,
    raw: &'s [u8],
    tail: &'s mut [u8],
    margin: usize,
    failed: bool,
}

impl<'s> TileState<'s> {
    /// The state before the first chunk of `tile`. `tail` has [`tail_bytes`] bytes.
    pub(super) fn new(plan: &'s PreparedMatrix<'_>, tile: usize, tail: &'s mut [u8]) -> Self {
        let matrix = &plan.matrix;
        let stream_length = matrix.tile(tile).stream.len();
        let bytes = matrix.tile_and_beyond(tile);
        let steps = plan.geometry().steps_in_tile(plan.rows(), tile);
        // The directory check of `Payload::open` makes room for both.
        let (raw, rest) = bytes.split_at(matrix.raw_plane_bytes(tile));
        let (states, bytes) = rest.split_at(STATE_BYTES);
        fetch_start(bytes);
        let (mut high, mut low) = ([0; LANES], [0; LANES]);
        high.copy_from_slice(&states[..LANES]);
        low.copy_from_slice(&states[LANES..]);
        Self {
            failed: high.contains(&0),
            high,
            low,
            bytes,
            at: 0,
            end: stream_length - raw.len() - STATE_BYTES,
            raw,
            tail,
            margin: margin(steps),
        }
    }

    /// Pointer to the next renormalisation byte, valid for reads of [`margin`] bytes. Called before each chunk.
    #[inline]
    pub(super) fn chunk_start(&mut self) -> *const u8 {
        if self.at > self.end {
            self.failed = true;
            self.at = self.end;
        }
        if self.bytes.len() - self.at < self.margin {
            self.move_to_tail();
        }
        // In bounds: at <= end <= bytes.len().
        self.bytes[self.at..].as_ptr()
    }

    /// The [`margin`] bytes from the next renormalisation byte on. Called before each chunk.
    #[inline]
    pub(super) fn chunk_bytes(&mut self) -> &'s [u8] {
        self.chunk_start();
        let bytes: &'s [u8] = self.bytes;
        &bytes[self.at..self.at + self.margin]
    }

    /// Copies the last bytes to zero-padded scratch, once for each tile at most.
    #[cold]
    fn move_to_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        let rest = &self.bytes[self.at..];
        // Fewer than `margin` bytes are left and the tail has twice as many, so this never happens twice.
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()..].fill(0);
        self.end -= self.at;
        self.at = 0;
        self.bytes = tail;
    }

    /// Tells how many bytes the chunk took.
    #[inline]
    pub(super) fn chunk_end(&mut self, taken: usize) {
        self.at += taken;
    }

    /// The raw plane of the next chunk.
    #[inline]
    pub(super) fn take_raw(&mut self, bytes: usize) -> &'s [u8] {
        let (chunk, rest) = self.raw.split_at(bytes);
        self.raw = rest;
        chunk
    }

    /// Whether the tile ended as it must.
    pub(super) fn complete(&self) -> bool {
        !self.failed && self.at == self.end && self.high == [1; LANES] && self.low == [0; LANES]
    }
}

/// The refusal that the scalar definition gives for such a tile.
pub(super) fn corrupt(tile: &Tile<'_>) -> PayloadError {
    PayloadError::new(ErrorKind::CorruptTile, tile.offset, "a tile that ends in its end state")
}
