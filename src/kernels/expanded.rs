//! A matrix decoded once: a byte for each weight or half of one, for machines with memory to spare.
//!
//! Products are bit for bit those of the coded form (but for which NaN it is), which [`PreparedMatrix::matvec`] defines.
//! Rows stand in blocks that know nothing of tiles, so a matrix of one tile can be shared between threads.

use super::activations::{Activations, Rounding, BLOCK};
use super::dispatch;
use super::error::{require, KernelError};
use super::matmul::{Panel, Product, MOST_VECTORS, PANEL_ROWS};
use super::packing::{PackedGroup, Packing, BLOCK_ROWS, PANELS};
use super::plan::PreparedMatrix;
use super::rows::ROWS_BY;
use super::scratch::{bytes_for, Carver, Scratch};
use crate::payload::LANES;
use std::ops::Range;

/// An addend for one integer of a row.
#[derive(Clone, Copy, Debug)]
struct RowEscape {
    /// Stream position.
    position: u32,
    addend: f32,
}

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
    /// Bytes that [`Self::expand`] allocates at most; the result keeps fewer ([`ExpandedMatrix::bytes`]). `None` if no memory
    /// can hold them.
    ///
    /// They may be thousands of times as many as the coded bytes: a caller that does not trust these has a limit.
    pub fn expanding_bytes(&self) -> Option<usize> {
        let values = self.values()?;
        let chunks = values / (BLOCK_ROWS * self.geometry().columns_per_chunk());
        let escapes = (0..self.matrix.tile_count()).map(|tile| self.matrix.tile(tile).escapes.len());
        // An escape has two bits at least.
        let escapes = escapes.sum::<usize>().checked_mul(4 * size_of::<RowEscape>())?;
        let starts = self.rows().checked_add(1)?.checked_mul(3 * size_of::<usize>())?;
        // Before and after they are packed.
        let values = values.checked_mul(2)?.checked_add(chunks.checked_mul(size_of::<Packing>())?)?;
        let scratch = self.decode_groups_scratch(ROWS_BY);
        values.checked_add(escapes)?.checked_add(starts)?.checked_add(scratch + LANES)
    }

    /// Values of all blocks.
    fn values(&self) -> Option<usize> {
        let rows = self.rows().div_ceil(BLOCK_ROWS).checked_mul(BLOCK_ROWS)?;
        rows.checked_mul(self.matrix.stream_length()).filter(|&bytes| isize::try_from(bytes).is_ok())
    }

    /// Decodes all of it. Allocates what [`Self::expanding_bytes`] says.
    ///
    /// # Errors
    /// [`KernelError::Payload`]; of several damaged tiles the first is named. [`KernelError::Shape`] if there is no memory for
    /// the integers.
    pub fn expand(self) -> Result<ExpandedMatrix<'a>, KernelError> {
        let count = self.values().unwrap_or(usize::MAX);
        let none = KernelError::Shape { what: "bytes of memory", expected: count, got: 0 };
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| none.clone())?;
        values.resize(count, 0);
        self.decode_all(&mut values)?;
        let (escapes, starts) = self.escapes_by_row()?;
        let width = self.geometry().columns_per_chunk();
        let of_chunks = values.chunks_exact(BLOCK_ROWS * width);
        let packings: Vec<_> = of_chunks.clone().map(Packing::of).collect();
        let size: usize = packings.iter().map(|packing| packing.bytes(BLOCK_ROWS * width)).sum();
        let mut packed = Vec::<u8>::new();
        packed.try_reserve_exact(size + LANES).map_err(|_| none)?;
        // Registers of values that do not cross cache lines load faster.
        packed.resize(packed.as_ptr().align_offset(LANES).min(LANES), 0);
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

    /// Sets the values by block of rows, chunk and panel.
    fn decode_all(&self, values: &mut [u8]) -> Result<(), KernelError> {
        let (width, length) = (self.geometry().columns_per_chunk(), self.matrix.stream_length());
        if self.matrix.tile_count() == 0 {
            return Ok(());
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
            // Of several damaged tiles the first is named, whatever is wrong with it.
            match group.clone().any(|tile| self.add_escapes(tile, |_, _, _| ()).is_err()) {
                true => Err(self.first_error(group)),
                false => Ok(()),
            }
        })?;
        dispatch::rearrange(self.isa, values, width);
        Ok(())
    }

    /// The escapes of all rows, each row's in stream order. Also says where those of each row begin, and where those of the
    /// last one end.
    fn escapes_by_row(&self) -> Result<(Vec<RowEscape>, Vec<usize>), KernelError> {
        let mut starts = vec![0; self.rows() + 1];
        self.visit_all_escapes(|row, _| starts[row + 1] += 1)?;
        for row in 0..self.rows() {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut escapes = vec![RowEscape { position: 0, addend: 0.0 }; starts[self.rows()]];
        self.visit_all_escapes(|row, escape| {
            escapes[next[row]] = escape;
            next[row] += 1;
        })?;
        Ok((escapes, starts))
    }

    fn visit_all_escapes(&self, mut visit: impl FnMut(usize, RowEscape)) -> Result<(), KernelError> {
        for tile in 0..self.matrix.tile_count() {
            let first = self.rows_of(tile..tile + 1).start;
            self.add_escapes(tile, |row, position, addend| {
                visit(first + row, RowEscape { position: position as u32, addend });
            })?;
        }
        Ok(())
    }
}

impl<'a> ExpandedMatrix<'a> {
    /// The matrix in its coded form: activations are prepared with it, and rows looked up.
    pub fn plan(&self) -> &PreparedMatrix<'a> {
        &self.plan
    }

    /// Bytes that it keeps besides the plan.
    pub fn bytes(&self) -> usize {
        let indices = size_of_val(&*self.starts) + size_of_val(&*self.blocks);
        size_of_val(&*self.values) + size_of_val(&*self.packings) + size_of_val(&*self.escapes) + indices
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
