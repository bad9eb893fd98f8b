//! Integers and weights of whole rows.

use super::activations::Rounding;
use super::dispatch;
use super::error::{require, KernelError};
use super::plan::PreparedMatrix;
use super::scratch::{bytes_for, Carver};
use crate::payload::{MAX_INTEGER, PADDING};
use std::ops::Range;

/// Decoded bytes that a call keeps at a time, as far as one tile allows.
const ROW_BUFFER: usize = 4 << 20;

/// Its groups are the parts that rows are decoded by.
const ROWS_BY: Rounding = Rounding::OneTerm;

/// Where the integers of stream positions go when rows are put into input order.
#[derive(Clone, Debug)]
pub(super) struct InputOrder {
    /// Slot of each stream position: its input column the first time this column appears, else a slot past all
    /// columns; of no use for padding.
    slots: Vec<u32>,
    /// Scale of the first stream position of each column, 0 for dead columns.
    scales: Vec<f32>,
    /// Input column and scale of each slot past the columns, in stream order.
    extra: Vec<(u32, f32)>,
}

impl InputOrder {
    pub(super) fn new(columns: usize, inputs: &[u32], stream_scales: &[f32]) -> Self {
        let mut scales = vec![0.0f32; columns];
        let mut extra = Vec::new();
        let place = |(&input, &scale): (&u32, &f32)| {
            if input == PADDING {
                return 0;
            }
            // Stream scales are positive, so zero tells a column that has not appeared.
            let first = &mut scales[input as usize];
            if *first == 0.0 {
                *first = scale;
                return input;
            }
            extra.push((input, scale));
            (columns + extra.len() - 1) as u32
        };
        let slots = inputs.iter().zip(stream_scales).map(place).collect();
        Self { slots, scales, extra }
    }
}

impl PreparedMatrix<'_> {
    /// Tiles whose values are kept at a time.
    fn row_tiles(&self) -> usize {
        let tile = self.geometry().rows_per_tile() * self.matrix.stream_length().max(1);
        (ROW_BUFFER / tile).clamp(1, dispatch::interleave(self.isa))
    }

    /// Scratch bytes that [`Self::decode_rows`] needs.
    pub fn decode_scratch(&self) -> usize {
        self.decode_groups_scratch(ROWS_BY)
    }

    /// Integers of the rows of `tiles`, row-major: rows x `stream_length`, escapes added, padding 0. What
    /// `Matrix::decode_tile` gives, tile after tile.
    ///
    /// # Errors
    /// [`KernelError`]; of several damaged tiles the first is named.
    pub fn decode_rows(
        &self,
        tiles: Range<usize>,
        out: &mut [i32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_tiles(&tiles)?;
        let width = self.matrix.stream_length();
        require("integers", self.rows_of(tiles.clone()).len() * width, out.len())?;
        if self.matrix.tile_count() == 0 {
            return Ok(());
        }
        let mut out = out;
        self.for_each_group(tiles, |group| {
            let rows = self.rows_of(group.clone()).len();
            let (here, rest) = std::mem::take(&mut out).split_at_mut(rows * width);
            out = rest;
            self.decode_group(group, here, scratch)
        })
    }

    fn decode_group(
        &self,
        tiles: Range<usize>,
        out: &mut [i32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let width = self.matrix.stream_length();
        let height = self.geometry().rows_per_tile();
        let mut carver = Carver::new(scratch, self.decode_groups_scratch(ROWS_BY))?;
        self.each_row_part(tiles.clone(), &mut carver, |row, first, offset, values| {
            let at = row * width + first;
            for (integer, &value) in out[at..at + values.len()].iter_mut().zip(values) {
                *integer = i32::from(value) - offset;
            }
        })?;
        for (tile, out) in tiles.clone().zip(out.chunks_mut(height * width)) {
            for row in out.chunks_exact_mut(width) {
                row[..self.padding].fill(0);
            }
            let mut legal = true;
            let escapes = self.visit_escapes(tile, |escape| {
                let integer = &mut out[escape.row * width + escape.position];
                // At most one escape for each place, so this stays below 2^24 + 255.
                *integer += escape.addend;
                legal &= integer.abs() <= MAX_INTEGER;
            });
            if escapes.is_err() || !legal {
                return Err(self.first_error(tiles));
            }
        }
        Ok(())
    }

    /// Calls `visit` with (row, first stream position, class offset, values) for all parts of all rows of `tiles`,
    /// rows counted from the first tile's first; a part is the columns of one chunk.
    fn each_row_part(
        &self,
        tiles: Range<usize>,
        carver: &mut Carver<'_>,
        mut visit: impl FnMut(usize, usize, i32, &[u8]),
    ) -> Result<(), KernelError> {
        let geometry = self.geometry();
        let (width, height) = (geometry.columns_per_chunk(), geometry.rows_per_tile());
        self.decode_groups(tiles.clone(), ROWS_BY, carver, |decoded| {
            for (index, tile) in tiles.clone().enumerate() {
                let rows = geometry.rows_in_tile(self.rows(), tile);
                for (slot, chunk) in decoded.chunks.clone().enumerate() {
                    let offset = self.offset_of_chunk(chunk);
                    let at = index * decoded.tile_stride + slot * decoded.chunk_stride;
                    let values = &decoded.values[at..at + rows * width];
                    for (row, values) in values.chunks_exact(width).enumerate() {
                        visit(index * height + row, chunk * width, offset, values);
                    }
                }
            }
        })
    }

    pub(super) fn offset_of_chunk(&self, chunk: usize) -> i32 {
        let class = self.classes.partition_point(|class| class.first_chunk + class.chunks <= chunk);
        self.classes.get(class).map_or(0, |class| class.offset)
    }

    /// Scratch bytes that [`Self::dequantize_rows`] and [`Self::get_rows`] need.
    pub fn dequantize_scratch(&self) -> usize {
        let rows = self.row_tiles() * self.geometry().rows_per_tile();
        self.decode_groups_scratch(ROWS_BY)
            + bytes_for::<u8>(rows * self.matrix.stream_length())
            + bytes_for::<f32>(rows * self.input_order.extra.len())
            + bytes_for::<u32>(rows)
    }

    /// Weights of the rows of `tiles`, row-major: rows x columns; bit for bit what `Matrix::dequantize_tile` gives.
    ///
    /// # Errors
    /// [`KernelError`]; of several damaged tiles the first is named.
    pub fn dequantize_rows(
        &self,
        tiles: Range<usize>,
        out: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_tiles(&tiles)?;
        require("weights", self.rows_of(tiles.clone()).len() * self.columns(), out.len())?;
        if self.matrix.tile_count() == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let most = self.row_tiles();
        let mut out = out;
        self.for_each_group(tiles, |group| {
            for start in group.clone().step_by(most) {
                let part = start..group.end.min(start + most);
                let rows = self.rows_of(part.clone());
                let (here, rest) = std::mem::take(&mut out).split_at_mut(rows.len() * self.columns());
                out = rest;
                let first = rows.start;
                self.weights_of(part, rows.map(|row| row - first), here, scratch)?;
            }
            Ok(())
        })
    }

    /// Weights of some rows, in the order asked for: `out[i * columns + c]` is the weight of row `rows[i]` and column
    /// c. One tile is decoded for each stretch of rows of the same tile: sorted rows are fastest.
    ///
    /// # Errors
    /// [`KernelError`]; [`KernelError::Shape`] if a row is outside the matrix.
    pub fn get_rows(&self, rows: &[u32], out: &mut [f32], scratch: &mut [u8]) -> Result<(), KernelError> {
        require("weights", rows.len() * self.columns(), out.len())?;
        if let Some(&row) = rows.iter().find(|&&row| row as usize >= self.rows()) {
            return Err(KernelError::Shape { what: "row", expected: self.rows(), got: row as usize });
        }
        if self.matrix.tile_count() == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let height = self.geometry().rows_per_tile();
        let mut out = out;
        for stretch in rows.chunk_by(|&a, &b| a as usize / height == b as usize / height) {
            let tile = stretch[0] as usize / height;
            let (here, rest) = std::mem::take(&mut out).split_at_mut(stretch.len() * self.columns());
            out = rest;
            // No more rows at a time than the tile has: that is what the scratch holds.
            let parts = stretch.chunks(height).zip(here.chunks_mut(height * self.columns()));
            for (part, here) in parts {
                let wanted = part.iter().map(|&row| row as usize % height);
                self.weights_of(tile..tile + 1, wanted, here, scratch)?;
            }
        }
        Ok(())
    }

    /// Weights of the `wanted` rows (counted from the first tile's first row) of `tiles`.
    fn weights_of(
        &self,
        tiles: Range<usize>,
        wanted: impl Iterator<Item = usize> + Clone,
        out: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let (width, columns) = (self.matrix.stream_length(), self.columns());
        let InputOrder { slots, scales, extra } = &self.input_order;
        let height = self.geometry().rows_per_tile();
        let first_row = tiles.start * height;
        let present = self.rows_of(tiles.clone()).len();
        let mut carver = Carver::new(scratch, self.dequantize_scratch())?;
        let values = carver.take::<u8>(present * width);
        let extras = carver.take::<f32>(present * extra.len());
        // One more than the first output row that shows this row, 0 if none does.
        let shown = carver.take::<u32>(present);
        shown.fill(0);
        self.each_row_part(tiles.clone(), &mut carver, |row, first, _, part| {
            let at = row * width + first;
            values[at..at + part.len()].copy_from_slice(part);
        })?;

        // First the integers as floats, exact, so that escapes are added before any rounding.
        for (index, row) in wanted.clone().enumerate() {
            if shown[row] > 0 {
                continue;
            }
            shown[row] = index as u32 + 1;
            let weights = &mut out[index * columns..(index + 1) * columns];
            weights.fill(0.0);
            let extras = &mut extras[row * extra.len()..(row + 1) * extra.len()];
            let values = &values[row * width..(row + 1) * width];
            for (stream, offset) in self.class_streams() {
                for (&slot, &value) in slots[stream.clone()].iter().zip(&values[stream]) {
                    let integer = (i32::from(value) - offset) as f32;
                    match weights.get_mut(slot as usize) {
                        Some(weight) => *weight = integer,
                        None => extras[slot as usize - columns] = integer,
                    }
                }
            }
        }
        for (index, tile) in tiles.clone().enumerate() {
            let mut legal = true;
            let escapes = self.visit_escapes(tile, |escape| {
                let row = index * height + escape.row;
                let value = values[row * width + escape.position];
                let chunk = escape.position / self.geometry().columns_per_chunk();
                let integer = i32::from(value) - self.offset_of_chunk(chunk) + escape.addend;
                legal &= integer.abs() <= MAX_INTEGER;
                if shown[row] > 0 {
                    let slot = slots[escape.position] as usize;
                    let weights = &mut out[(shown[row] as usize - 1) * columns..][..columns];
                    match weights.get_mut(slot) {
                        Some(weight) => *weight = integer as f32,
                        None => extras[row * extra.len() + slot - columns] = integer as f32,
                    }
                }
            });
            if escapes.is_err() || !legal {
                return Err(self.first_error(tiles));
            }
        }
        for (index, row) in wanted.enumerate() {
            let first = shown[row] as usize - 1;
            if first < index {
                out.copy_within(first * columns..(first + 1) * columns, index * columns);
                continue;
            }
            let weights = &mut out[index * columns..(index + 1) * columns];
            weights.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
            let extras = &extras[row * extra.len()..(row + 1) * extra.len()];
            for ((column, scale), integer) in extra.iter().zip(extras) {
                weights[*column as usize] += scale * integer;
            }
            if let Some(row_scales) = self.matrix.row_scales() {
                let scale = row_scales[first_row + row];
                weights.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        Ok(())
    }

    /// Stream positions (without padding) and offset of each class.
    fn class_streams(&self) -> impl Iterator<Item = (Range<usize>, i32)> + '_ {
        let width = self.geometry().columns_per_chunk();
        self.classes.iter().map(move |class| {
            let start = (class.first_chunk * width).max(self.padding);
            (start..(class.first_chunk + class.chunks) * width, class.offset)
        })
    }
}
