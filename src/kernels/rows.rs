//! Integers and weights of whole rows.

use super::activations::Rounding;
use super::error::{require, KernelError};
use super::plan::{ClassPlan, PreparedMatrix};
use super::scratch::{bytes_for, Carver};
use crate::payload::{MAX_INTEGER, PADDING};
use std::ops::Range;

/// Decoded bytes that a call keeps at a time, as far as one tile allows.
const ROW_BUFFER: usize = 4 << 20;

/// Its groups are the parts that rows are decoded by.
pub(super) const ROWS_BY: Rounding = Rounding::OneTerm;

/// A stream position whose input column has appeared before.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtraPosition {
    position: usize,
    input: u32,
    scale: f32,
}

/// All of them in stream order: few, so that rows are put into input order by the stream's own list.
pub(super) fn extra_positions(columns: usize, inputs: &[u32], scales: &[f32]) -> Vec<ExtraPosition> {
    let mut seen = vec![false; columns];
    let mut again = |input: u32| input != PADDING && std::mem::replace(&mut seen[input as usize], true);
    let count = inputs.iter().filter(|&&input| again(input)).count();
    let mut positions = Vec::with_capacity(count);
    seen.fill(false);
    for (position, (&input, &scale)) in inputs.iter().zip(scales).enumerate() {
        if input != PADDING && std::mem::replace(&mut seen[input as usize], true) {
            positions.push(ExtraPosition { position, input, scale });
        }
    }
    positions
}

impl PreparedMatrix<'_> {
    /// Tiles whose values are kept at a time.
    fn row_tiles(&self) -> usize {
        let tile = self.geometry().rows_per_tile() * self.matrix.stream_length().max(1);
        (ROW_BUFFER / tile).clamp(1, self.most_tiles())
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
    pub(super) fn each_row_part(
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

    /// None beyond the stream's end.
    pub(super) fn class_of_chunk(&self, chunk: usize) -> Option<&ClassPlan> {
        let class = self.classes.partition_point(|class| class.first_chunk + class.chunks <= chunk);
        self.classes.get(class)
    }

    fn offset_of_chunk(&self, chunk: usize) -> i32 {
        self.class_of_chunk(chunk).map_or(0, |class| class.offset)
    }

    /// Scratch bytes that [`Self::dequantize_rows`] and [`Self::get_rows`] need.
    pub fn dequantize_scratch(&self) -> usize {
        let rows = self.row_tiles() * self.geometry().rows_per_tile();
        self.decode_groups_scratch(ROWS_BY)
            + bytes_for::<u8>(rows * self.matrix.stream_length())
            + bytes_for::<f32>(rows * self.extra.len())
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
        let (inputs, scales, extra) = (self.matrix.stream_inputs(), self.matrix.stream_scales(), &self.extra);
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
                for part in self.without_extra(stream) {
                    for (&input, &value) in inputs[part.clone()].iter().zip(&values[part]) {
                        weights[input as usize] = (i32::from(value) - offset) as f32;
                    }
                }
            }
            for (integer, at) in extras.iter_mut().zip(extra) {
                *integer = self.integer(values[at.position], at.position) as f32;
            }
        }
        for (index, tile) in tiles.clone().enumerate() {
            let mut legal = true;
            let escapes = self.visit_escapes(tile, |escape| {
                let row = index * height + escape.row;
                let value = values[row * width + escape.position];
                let integer = self.integer(value, escape.position) + escape.addend;
                legal &= integer.abs() <= MAX_INTEGER;
                if shown[row] > 0 {
                    match extra.binary_search_by_key(&escape.position, |at| at.position) {
                        Ok(at) => extras[row * extra.len() + at] = integer as f32,
                        Err(_) => {
                            let weights = &mut out[(shown[row] as usize - 1) * columns..][..columns];
                            weights[inputs[escape.position] as usize] = integer as f32;
                        }
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
            for part in self.without_extra(self.padding..width) {
                for (&input, &scale) in inputs[part.clone()].iter().zip(&scales[part]) {
                    weights[input as usize] *= scale;
                }
            }
            let extras = &extras[row * extra.len()..(row + 1) * extra.len()];
            for (at, integer) in extra.iter().zip(extras) {
                weights[at.input as usize] += at.scale * integer;
            }
            if let Some(row_scales) = self.matrix.row_scales() {
                let scale = row_scales[first_row + row];
                weights.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        Ok(())
    }

    /// The integer of a decoded value, without what an escape adds.
    fn integer(&self, value: u8, position: usize) -> i32 {
        i32::from(value) - self.offset_of_chunk(position / self.geometry().columns_per_chunk())
    }

    /// Stretches of `positions` between the extra ones.
    fn without_extra(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let before = |end: usize| self.extra.partition_point(|at| at.position < end);
        let extra = &self.extra[before(positions.start)..before(positions.end)];
        let starts = std::iter::once(positions.start).chain(extra.iter().map(|at| at.position + 1));
        let ends = extra.iter().map(|at| at.position).chain(std::iter::once(positions.end));
        starts.zip(ends).map(|(start, end)| start..end)
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
