//! A matrix decoded once: a byte for each weight or half of one, for machines with memory to spare.
//!
//! Products are bit for bit those of the coded form, which [`PreparedMatrix::matvec`] defines. Rows stand in blocks that
//! know nothing of tiles, so a matrix of one tile can be shared between threads.

use super::activations::{Activations, Rounding, BLOCK};
use super::dispatch;
use super::error::{require, KernelError};
use super::matmul::{Panel, Product, MOST_VECTORS, PANEL_ROWS};
use super::packing::{PackedGroup, Packing, BLOCK_ROWS, PANELS};
use super::plan::PreparedMatrix;
use super::rows::ROWS_BY;
use super::scratch::{bytes_for, Carver, Scratch};
use std::ops::Range;

/// An addend for one integer of a row.
#[derive(Clone, Copy, Debug)]
struct RowEscape {
    /// Stream position.
    position: u32,
    addend: f32,
}

/// An escape and its row.
type Placed = (usize, RowEscape);

/// A [`PreparedMatrix`] with its integers decoded: [`PreparedMatrix::expand`] makes it.
///
/// Immutable, and shared freely between threads. Integers of 32 rows and one chunk of columns take four bits each if they
/// are at most 15 apart, else eight; escapes take 8 bytes each.
#[derive(Clone, Debug)]
pub struct ExpandedMatrix<'a> {
    plan: PreparedMatrix<'a>,
    /// Values u = m + offset by block of rows, chunk and panel, a panel in the order of [`dispatch::rearrange`].
    values: Vec<u8>,
    /// How they are stored, by block and chunk.
    packings: Vec<Packing>,
    /// Where the values of each block begin, and where those of the last one end.
    blocks: Vec<usize>,
    /// By row, in stream order.
    escapes: Vec<RowEscape>,
    /// Where the escapes of each row begin, and where those of the last one end.
    starts: Vec<usize>,
    /// Whether values above 127 can occur.
    wide: bool,
}

impl<'a> PreparedMatrix<'a> {
    /// Bytes that the decoded integers of [`Self::expand`] take while it works, and at most afterwards; `None` if no memory
    /// can hold them.
    ///
    /// They may be thousands of times as many as the coded bytes: a caller that does not trust these has a limit.
    pub fn expanded_bytes(&self) -> Option<usize> {
        let rows = self.rows().div_ceil(BLOCK_ROWS).checked_mul(BLOCK_ROWS)?;
        rows.checked_mul(self.matrix.stream_length()).filter(|&bytes| isize::try_from(bytes).is_ok())
    }

    /// Decodes all of it. Allocates what [`Self::expanded_bytes`] says, and up to as much again for the result.
    ///
    /// # Errors
    /// [`KernelError::Payload`]; of several damaged tiles the first is named. [`KernelError::Shape`] if no memory can hold
    /// the integers.
    pub fn expand(self) -> Result<ExpandedMatrix<'a>, KernelError> {
        let too_many =
            KernelError::Shape { what: "integers", expected: isize::MAX as usize, got: usize::MAX };
        let bytes = self.expanded_bytes().ok_or(too_many)?;
        let (values, escapes) = self.decode_all(bytes)?;
        let (escapes, starts) = by_row(&escapes, self.rows());
        let width = self.geometry().columns_per_chunk();
        let of_chunks = values.chunks_exact(BLOCK_ROWS * width);
        let packings: Vec<_> = of_chunks.clone().map(Packing::of).collect();
        let size = packings.iter().map(|packing| packing.bytes(BLOCK_ROWS * width)).sum();
        let mut packed = Vec::with_capacity(size);
        let mut blocks = Vec::with_capacity(self.rows().div_ceil(BLOCK_ROWS) + 1);
        let chunks = self.matrix.stream_length() / width;
        for (index, (packing, values)) in packings.iter().zip(of_chunks).enumerate() {
            if index % chunks == 0 {
                blocks.push(packed.len());
            }
            packing.pack(values, &mut packed);
        }
        blocks.push(packed.len());
        let wide = self.classes.iter().any(|class| class.raw_bits > 0);
        Ok(ExpandedMatrix { plan: self, values: packed, packings, blocks, escapes, starts, wide })
    }

    /// Values by block of rows, chunk and panel, `bytes` in all, and escapes with their rows, tile after tile.
    fn decode_all(&self, bytes: usize) -> Result<(Vec<u8>, Vec<Placed>), KernelError> {
        let (width, length) = (self.geometry().columns_per_chunk(), self.matrix.stream_length());
        let (mut values, mut escapes) = (vec![0; bytes], Vec::new());
        if self.matrix.tile_count() == 0 {
            return Ok((values, escapes));
        }
        let needed = self.decode_groups_scratch(ROWS_BY);
        let mut scratch = Scratch::with_bytes(needed);
        self.for_each_group(0..self.tiles(), |group| {
            let first = self.rows_of(group.clone()).start;
            let mut carver = Carver::new(scratch.as_bytes(), needed)?;
            self.each_row_part(group.clone(), &mut carver, |row, position, _, part| {
                let row = first + row;
                let block = row / BLOCK_ROWS * BLOCK_ROWS * length;
                let at = block + position * BLOCK_ROWS + row % BLOCK_ROWS * width;
                values[at..at + width].copy_from_slice(part);
            })?;
            for tile in group.clone() {
                let first = self.rows_of(tile..tile + 1).start;
                let visited = self.add_escapes(tile, |row, position, addend| {
                    escapes.push((first + row, RowEscape { position: position as u32, addend }));
                });
                if visited.is_err() {
                    return Err(self.first_error(group));
                }
            }
            Ok(())
        })?;
        dispatch::rearrange(self.isa, &mut values, width);
        Ok((values, escapes))
    }
}

/// Puts escapes in the order of their rows, each row's in the order they had. Also says where those of each row begin, and
/// where those of the last one end.
fn by_row(escapes: &[Placed], rows: usize) -> (Vec<RowEscape>, Vec<usize>) {
    let mut starts = vec![0; rows + 1];
    escapes.iter().for_each(|(row, _)| starts[row + 1] += 1);
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut next = starts.clone();
    let mut ordered = vec![RowEscape { position: 0, addend: 0.0 }; escapes.len()];
    for &(row, escape) in escapes {
        ordered[next[row]] = escape;
        next[row] += 1;
    }
    (ordered, starts)
}

impl<'a> ExpandedMatrix<'a> {
    /// The matrix in its coded form: activations are prepared with it, and rows looked up.
    pub fn plan(&self) -> &PreparedMatrix<'a> {
        &self.plan
    }

    /// Bytes that the decoded integers and the escapes take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.values) + size_of_val(&*self.packings) + size_of_val(&*self.escapes)
    }

    /// Blocks of rows: the unit of work. Threads take disjoint ranges of them.
    pub fn blocks(&self) -> usize {
        self.plan.rows().div_ceil(BLOCK_ROWS)
    }

    /// Rows of a block, but the last one.
    pub const fn rows_per_block() -> usize {
        BLOCK_ROWS
    }

    /// Rows of a range of blocks, clipped to the matrix: where its results go.
    pub fn rows_of(&self, blocks: Range<usize>) -> Range<usize> {
        let bound = |block: usize| block.saturating_mul(BLOCK_ROWS).min(self.plan.rows());
        bound(blocks.start)..bound(blocks.end)
    }

    /// Scratch bytes that [`Self::matmul`] needs for `batch` vectors, for any range of blocks.
    pub fn matmul_scratch(&self, batch: usize, rounding: Rounding) -> usize {
        let vectors = batch.saturating_mul(rounding.terms()).min(MOST_VECTORS);
        bytes_for::<f32>(BLOCK_ROWS * vectors)
            + bytes_for::<f32>(BLOCK_ROWS * vectors / rounding.terms())
            + bytes_for::<u8>(BLOCK_ROWS * rounding.group_columns())
    }

    /// Product of the rows of `blocks` with all prepared vectors: `y[b * rows + r]` for vector b and row r of these
    /// rows; bit for bit what [`PreparedMatrix::matmul`] gives.
    ///
    /// # Errors
    /// [`KernelError::Shape`] and [`KernelError::Scratch`].
    pub fn matmul(
        &self,
        blocks: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        if blocks.start > blocks.end || blocks.end > self.blocks() {
            return Err(KernelError::Shape { what: "block range", expected: self.blocks(), got: blocks.end });
        }
        activations.fits(&self.plan)?;
        let rows = self.rows_of(blocks.clone());
        require("results", rows.len().saturating_mul(activations.batch), y.len())?;
        if self.plan.matrix.tile_count() == 0 {
            y.fill(0.0);
            return Ok(());
        }
        let (batch, rounding) = (activations.batch, activations.rounding);
        let terms = rounding.terms();
        let mut carver = Carver::new(scratch, self.matmul_scratch(batch, rounding))?;
        let most = activations.vectors().min(MOST_VECTORS);
        let sums = carver.take::<f32>(BLOCK_ROWS * most);
        let escaped = carver.take::<f32>(BLOCK_ROWS * most / terms);
        let values = carver.take::<u8>(BLOCK_ROWS * rounding.group_columns());
        for block in blocks {
            for start in (0..activations.vectors()).step_by(MOST_VECTORS) {
                let vectors = start..activations.vectors().min(start + MOST_VECTORS);
                let numbers = start / terms..vectors.end / terms;
                let sums = &mut sums[..BLOCK_ROWS * vectors.len()];
                let escaped = &mut escaped[..BLOCK_ROWS * numbers.len()];
                self.multiply(block, activations, vectors, sums, values);
                self.add_escapes_of(block, activations, numbers.clone(), escaped);
                let of_block = self.rows_of(block..block + 1);
                for panel in of_block.clone().step_by(PANEL_ROWS) {
                    let of_panel = panel..of_block.end.min(panel + PANEL_ROWS);
                    let index = (panel - of_block.start) / PANEL_ROWS;
                    let per_panel = numbers.len() * terms;
                    let sums = &sums.as_chunks::<PANEL_ROWS>().0[index * per_panel..(index + 1) * per_panel];
                    let escaped = &escaped[index * PANEL_ROWS * numbers.len()..];
                    let results_of = Panel::new(&self.plan, of_panel.clone());
                    for ((number, vector), sums) in numbers.clone().enumerate().zip(sums.chunks(terms)) {
                        let escaped = escaped.chunks_exact(numbers.len()).map(|row| row[number]);
                        let at = vector * rows.len() + (panel - rows.start);
                        let y = &mut y[at..at + of_panel.len()];
                        y.iter_mut().zip(results_of.results(sums, escaped)).for_each(|(y, value)| *y = value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets `sums` to the products of the integers of a block: by panel, vector and row of the panel.
    fn multiply(
        &self,
        block: usize,
        activations: &Activations<'_>,
        vectors: Range<usize>,
        sums: &mut [f32],
        values: &mut [u8],
    ) {
        let (plan, rounding) = (&self.plan, activations.rounding);
        let width = plan.geometry().columns_per_chunk();
        let chunks = plan.matrix.stream_length() / width;
        let mut packings = &self.packings[block * chunks..(block + 1) * chunks];
        let mut rest = &self.values[self.blocks[block]..self.blocks[block + 1]];
        sums.fill(0.0);
        for group in 0..plan.groups(rounding) {
            let positions = plan.group_positions(group, rounding);
            let (of_group, others) = packings.split_at(positions.len() / width);
            packings = others;
            let mut packed = PackedGroup { width, bytes: rest, packings: of_group };
            (packed.bytes, rest) = rest.split_at(packed.packed_bytes());
            if vectors.len() <= 2 {
                let part = activations.part(group, &positions, vectors.clone());
                if dispatch::multiply_packed(plan.isa, &packed, &part, sums, vectors.len()) {
                    continue;
                }
            }
            let values = &mut values[..positions.len() * BLOCK_ROWS];
            dispatch::unpack(plan.isa, &packed, values);
            for start in vectors.clone().step_by(BLOCK) {
                // Blocks of the batch start at multiples of BLOCK, and so do `vectors`.
                let part = start..vectors.end.min(start + BLOCK);
                let product = Product {
                    width,
                    chunks: of_group.len(),
                    values,
                    chunk_stride: BLOCK_ROWS * width,
                    panels: PANELS,
                    activations: activations.part(group, &positions, part),
                    wide: self.wide,
                };
                let from = start - vectors.start;
                dispatch::multiply(plan.isa, &product, &mut sums[from * PANEL_ROWS..], vectors.len());
            }
        }
    }

    /// Sets `escaped` to the products of the escapes of a block: by row and number.
    fn add_escapes_of(
        &self,
        block: usize,
        activations: &Activations<'_>,
        numbers: Range<usize>,
        escaped: &mut [f32],
    ) {
        let of_row = |row: usize| &self.escapes[self.starts[row]..self.starts[row + 1]];
        if activations.batch == 1 {
            for (row, escaped) in self.rows_of(block..block + 1).zip(escaped) {
                let products = of_row(row).iter().map(|e| e.addend * activations.floats[e.position as usize]);
                *escaped = products.fold(0.0, |sum, product| sum + product);
            }
            return;
        }
        escaped.fill(0.0);
        for (row, escaped) in self.rows_of(block..block + 1).zip(escaped.chunks_mut(numbers.len().max(1))) {
            for &RowEscape { position, addend } in of_row(row) {
                let floats = &activations.floats[position as usize * activations.batch..][numbers.clone()];
                escaped.iter_mut().zip(floats).for_each(|(sum, float)| *sum += addend * float);
            }
        }
    }
}
