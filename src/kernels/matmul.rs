//! Matrix times several vectors: decode once, multiply many times.
//!
//! For a few tiles and one activation group the values are decoded into a buffer that stays in the second-level
//! cache, rearranged so that one vector register holds four columns of 16 rows, and multiplied with all vectors of
//! the batch; dot products of a whole group stay in registers.

use super::activations::{Activations, BlockPart, Rounding, BLOCK};
use super::dispatch;
use super::error::{require, KernelError};
use super::matvec::on_threads;
use super::pass::{padded_steps, Decoded};
use super::plan::PreparedMatrix;
use super::scratch::{bytes_for, Carver};
use std::ops::Range;

/// Rows that the product kernels handle together.
pub(super) const PANEL_ROWS: usize = 16;

/// Vectors for which a tile is decoded once.
pub(super) const MOST_VECTORS: usize = 256;

/// Results of a product: element (vector b, row r of the range) is at `b * stride + r`.
#[derive(Clone, Copy)]
struct Output {
    base: *mut f32,
    stride: usize,
    rows: usize,
    vectors: usize,
}

// SAFETY: an `Output` is only written through by the one call it is made for; `matmul_threads` hands disjoint rows to
// its threads.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: still inside the same buffer, or one past its end if there are no rows.
        Self { base: unsafe { self.base.add(rows.start) }, rows: rows.len(), ..self }
    }

    /// Sets the elements of a vector from row `row` on.
    fn set(self, vector: usize, row: usize, values: impl ExactSizeIterator<Item = f32>) {
        let len = values.len();
        assert!(vector < self.vectors && row <= self.rows && len <= self.rows - row);
        // SAFETY: the buffer holds (vectors - 1) * stride + rows elements from `base` on, by construction, and nothing
        // else refers to those of these rows.
        let to = unsafe { std::slice::from_raw_parts_mut(self.base.add(vector * self.stride + row), len) };
        to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    }
}

/// Operands of the product of one tile's group with some vectors.
pub(super) struct Product<'p> {
    /// Columns of one chunk.
    pub(super) width: usize,
    /// Chunks of the group.
    pub(super) chunks: usize,
    /// Rearranged values of the tile, [`Decoded::chunk_stride`] bytes for each chunk.
    pub(super) values: &'p [u8],
    pub(super) chunk_stride: usize,
    /// Panels of [`PANEL_ROWS`] rows.
    pub(super) panels: usize,
    /// The group's part of one block of vectors.
    pub(super) activations: BlockPart<'p>,
    /// Whether values above 127 can occur.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) wide: bool,
}

/// How sums become results for the rows of a panel.
pub(super) struct Panel {
    lanes: [usize; PANEL_ROWS],
    scales: [f32; PANEL_ROWS],
    rows: usize,
}

impl Panel {
    /// For neighbouring `rows` of a matrix, at most [`PANEL_ROWS`].
    pub(super) fn new(plan: &PreparedMatrix<'_>, rows: Range<usize>) -> Self {
        let lanes = dispatch::lanes_of_panel(plan.isa, plan.geometry().columns_per_chunk());
        let mut scales = [1.0; PANEL_ROWS];
        if let Some(known) = plan.matrix.row_scales() {
            scales[..rows.len()].copy_from_slice(&known[rows.clone()]);
        }
        Self { lanes, scales, rows: rows.len() }
    }

    /// Results for one number: `sums` are those of its terms, by place in the panel, and `escaped` what escapes add to
    /// each row.
    pub(super) fn results<'p>(
        &'p self,
        sums: &'p [[f32; PANEL_ROWS]],
        escaped: impl ExactSizeIterator<Item = f32> + 'p,
    ) -> impl ExactSizeIterator<Item = f32> + 'p {
        let sum = move |lane: usize| match sums {
            [first, second] => first[lane] + second[lane],
            _ => sums[0][lane],
        };
        // One scalar pass: values put together in memory and read back as a vector would wait for it.
        let rows = self.lanes[..self.rows].iter().zip(escaped).zip(&self.scales);
        rows.map(move |((&lane, escaped), scale)| (sum(lane) + escaped) * scale)
    }
}

impl PreparedMatrix<'_> {
    fn rows_padded(&self) -> usize {
        padded_steps(self.most_steps()) * self.geometry().rows_per_step()
    }

    /// Scratch bytes that [`Self::matmul`] and [`Self::matvec`] need for `batch` vectors, for any range of tiles.
    pub fn matmul_scratch(&self, batch: usize, rounding: Rounding) -> usize {
        self.product_scratch(batch, rounding).max(self.matvec_scratch(rounding))
    }

    /// Scratch bytes of [`Self::matmul_group`].
    pub(super) fn product_scratch(&self, batch: usize, rounding: Rounding) -> usize {
        let sums = self.rows_padded() * (batch * rounding.terms()).min(MOST_VECTORS);
        self.decode_groups_scratch(rounding) + 2 * self.most_tiles() * bytes_for::<f32>(sums)
    }

    /// Product of the rows of `tiles` with all prepared vectors: `y[b * rows + r]` for vector b and row r of these
    /// rows. Each vector's results are bit for bit those of [`Self::matvec`].
    ///
    /// # Errors
    /// [`KernelError`]; of several damaged tiles the first is named.
    pub fn matmul(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_tiles(&tiles)?;
        let rows = self.rows_of(tiles.clone()).len();
        require("results", rows.saturating_mul(activations.batch), y.len())?;
        if activations.batch == 1 {
            return self.matvec(tiles, activations, y, scratch);
        }
        self.matmul_batch(tiles, activations, y, scratch)
    }

    /// [`Self::matmul`] for any number of vectors, its arguments checked.
    pub(super) fn matmul_batch(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let rows = self.rows_of(tiles.clone()).len();
        let output = Output { base: y.as_mut_ptr(), stride: rows, rows, vectors: activations.batch };
        self.matmul_to(tiles, activations, output, scratch)
    }

    fn matmul_to(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        output: Output,
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        activations.fits(self)?;
        if self.matrix.tile_count() == 0 {
            for vector in 0..activations.batch {
                (0..output.rows).for_each(|row| output.set(vector, row, [0.0].into_iter()));
            }
            return Ok(());
        }
        let first = self.rows_of(tiles.clone()).start;
        let batch = activations.vectors();
        self.for_each_group(tiles, |group| {
            let rows = self.rows_of(group.clone());
            let output = output.rows(rows.start - first..rows.end - first);
            for start in (0..batch).step_by(MOST_VECTORS) {
                let vectors = start..batch.min(start + MOST_VECTORS);
                self.matmul_group(group.clone(), activations, vectors, output, scratch)?;
            }
            Ok(())
        })
    }

    fn matmul_group(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        vectors: Range<usize>,
        output: Output,
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let geometry = self.geometry();
        let (width, count) = (geometry.columns_per_chunk(), vectors.len());
        let terms = activations.rounding.terms();
        let batch = activations.vectors();
        let steps = geometry.steps_in_tile(self.rows(), tiles.start);
        let padded_rows = padded_steps(steps) * geometry.rows_per_step();
        let mut carver = Carver::new(scratch, self.product_scratch(activations.batch, activations.rounding))?;
        // By tile, panel, vector and row of the panel.
        let sums = carver.take::<f32>(tiles.len() * padded_rows * count);
        // By tile, row and vector; terms of one number share it.
        let numbers = vectors.start / terms..vectors.end / terms;
        let escaped = carver.take::<f32>(tiles.len() * padded_rows * numbers.len());
        sums.fill(0.0);
        escaped.fill(0.0);
        let result = self.decode_groups(tiles.clone(), activations.rounding, &mut carver, |decoded| {
            let Decoded { group, chunks, values, tile_stride, chunk_stride } = decoded;
            let wide = self.classes.iter().any(|class| {
                let of_class = class.first_chunk..class.first_chunk + class.chunks;
                class.raw_bits > 0 && of_class.start < chunks.end && chunks.start < of_class.end
            });
            let positions = chunks.start * width..chunks.end * width;
            let tile_values = values.chunks_mut(tile_stride).zip(sums.chunks_mut(padded_rows * count));
            for (values, sums) in tile_values {
                dispatch::rearrange(self.isa, &mut values[..chunks.len() * chunk_stride], width);
                for start in vectors.clone().step_by(BLOCK) {
                    // Blocks of the batch start at multiples of BLOCK, and so do `vectors`.
                    let block = start..batch.min(start + BLOCK);
                    let product = Product {
                        width,
                        chunks: chunks.len(),
                        values,
                        chunk_stride,
                        panels: padded_rows / PANEL_ROWS,
                        activations: activations.part(group, &positions, block),
                        wide,
                    };
                    let from = start - vectors.start;
                    dispatch::multiply(self.isa, &product, &mut sums[from * PANEL_ROWS..], count);
                }
            }
        });
        if result.is_err() {
            return Err(self.first_error(tiles));
        }
        let height = geometry.rows_per_tile();
        let per_tile = sums.chunks(padded_rows * count).zip(escaped.chunks_mut(padded_rows * numbers.len()));
        for ((index, tile), (sums, escaped)) in tiles.clone().enumerate().zip(per_tile) {
            let escapes = self.add_escapes(tile, |row, position, addend| {
                let floats = &activations.floats[position * activations.batch..][numbers.clone()];
                let row = &mut escaped[row * numbers.len()..(row + 1) * numbers.len()];
                row.iter_mut().zip(floats).for_each(|(sum, float)| *sum += addend * float);
            });
            if escapes.is_err() {
                return Err(self.first_error(tiles));
            }
            let rows = geometry.rows_in_tile(self.rows(), tile);
            for (panel, sums) in (0..rows).step_by(PANEL_ROWS).zip(sums.chunks(count * PANEL_ROWS)) {
                let of_panel = panel..rows.min(panel + PANEL_ROWS);
                let escaped = &escaped[of_panel.start * numbers.len()..of_panel.end * numbers.len()];
                let results_of =
                    Panel::new(self, tile * height + of_panel.start..tile * height + of_panel.end);
                let sums = sums.as_chunks::<PANEL_ROWS>().0.chunks_exact(terms);
                for ((number, vector), sums) in numbers.clone().enumerate().zip(sums) {
                    let escaped = escaped.chunks_exact(numbers.len().max(1)).map(|row| row[number]);
                    output.set(vector, index * height + panel, results_of.results(sums, escaped));
                }
            }
        }
        Ok(())
    }

    /// Multiplies all rows with `batch` vectors, `y[b * rows + r]`, on `threads` threads; convenience for programs
    /// without threads of their own. Allocates its working memory.
    ///
    /// # Errors
    /// As [`Self::matmul`].
    pub fn matmul_threads(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        threads: usize,
    ) -> Result<(), KernelError> {
        require("results", self.rows().saturating_mul(batch), y.len())?;
        let rounding = Rounding::OneTerm;
        let mut buffer = vec![0; self.activation_bytes(batch, rounding)];
        let activations = self.prepare(x, batch, rounding, &mut buffer)?;
        if batch == 1 {
            return self.matvec_threads(x, y, threads);
        }
        let rows = self.rows();
        let output = Output { base: y.as_mut_ptr(), stride: rows, rows, vectors: batch };
        let shares = self.shares(threads).map(|tiles| (tiles.clone(), output.rows(self.rows_of(tiles))));
        on_threads(shares.collect(), |tiles, output| {
            self.matmul_to(tiles, &activations, output, &mut vec![0; self.matmul_scratch(batch, rounding)])
        })
    }
}
