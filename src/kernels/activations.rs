//! Activations in the form that integer kernels multiply: scaled, permuted into stream order, eight bits.
//!
//! The weight of row r and column c is `row_scale[r] * sum of stream_scale[p] * m[r][p]` over the stream positions p
//! of column c. So with `x'[p] = stream_scale[p] * x[input column of p]` a row's result is
//! `row_scale[r] * sum of m[r][p] * x'[p]`: integers times one vector, the same for all rows. Each group g of
//! [`GROUP_COLUMNS`] consecutive positions is stored as 8-bit integers q and one scale s, x' ≈ s q.

use super::dispatch;
use super::error::{require, KernelError};
use super::plan::{PreparedMatrix, GROUP_COLUMNS};
use super::scratch::{bytes_for, Carver};
use crate::payload::{LANES, PADDING};

/// Most integers that stand for one number.
pub(super) const MOST_TERMS: usize = 2;

/// Vectors that the matrix product handles at a time.
pub(super) const BLOCK: usize = 8;

/// Activation vectors prepared for one matrix; lives in a buffer of the caller.
#[derive(Debug)]
pub struct Activations<'b> {
    pub(super) batch: usize,
    /// Integers that stand for one number, 1 or 2: the kernels multiply `batch * terms` vectors, the terms of one next
    /// to each other.
    pub(super) terms: usize,
    /// Blocks of up to [`BLOCK`] vectors; in a block words of four stream positions, for each word all its vectors.
    pub(super) integers: &'b [i8],
    /// By group and vector.
    pub(super) scales: &'b [f32],
    /// By group and vector: minus the sum of class offset times q, which turns u = m + offset back into m.
    pub(super) corrections: &'b [i32],
    /// By stream position and vector: x' itself, for escapes.
    pub(super) floats: &'b [f32],
}

impl PreparedMatrix<'_> {
    /// Bytes that [`Self::prepare`] needs for `batch` vectors.
    pub fn activation_bytes(&self, batch: usize) -> usize {
        self.activation_bytes_of_terms(batch, 1)
    }

    /// Bytes that [`Self::prepare_terms`] needs for `batch` vectors.
    pub fn activation_bytes_of_terms(&self, batch: usize, terms: usize) -> usize {
        let positions = self.matrix.stream_length() * batch;
        let groups = self.groups() * batch * terms;
        bytes_for::<i8>(positions * terms)
            + bytes_for::<f32>(groups)
            + bytes_for::<i32>(groups)
            + bytes_for::<f32>(positions)
    }

    /// Prepares `batch` vectors, `x[b * columns + c]`, in `buffer` of at least [`Self::activation_bytes`] bytes.
    ///
    /// In each group the scale is s = a / 127 with a the largest |x'|, and q = x' * (127 / a) rounded to the nearest
    /// integer, ties to even, all in f32. A group with a < 2^-100 counts as zero; one that holds a NaN or an infinity
    /// gets the scale NaN, so that it shows in every result.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `x` has another length, [`KernelError::Scratch`] if `buffer` is too small.
    pub fn prepare<'b>(
        &self,
        x: &[f32],
        batch: usize,
        buffer: &'b mut [u8],
    ) -> Result<Activations<'b>, KernelError> {
        self.prepare_terms(x, batch, 1, buffer)
    }

    /// As [`Self::prepare`], with one or two terms for each number: the second one is what the first leaves,
    /// x' - s q, as eight bits with a scale of its own. Where one column has nearly all of a group's energy it sets the
    /// scale of the others, and one term leaves errors of up to a fifth of a product; two leave a thousandth.
    ///
    /// # Errors
    /// As [`Self::prepare`]; [`KernelError::Shape`] for other numbers of terms.
    pub fn prepare_terms<'b>(
        &self,
        x: &[f32],
        batch: usize,
        terms: usize,
        buffer: &'b mut [u8],
    ) -> Result<Activations<'b>, KernelError> {
        require("activations", batch.saturating_mul(self.columns()), x.len())?;
        require("terms", terms.clamp(1, MOST_TERMS), terms)?;
        let total = batch * terms;
        let positions = self.matrix.stream_length();
        let groups = self.groups();
        let mut carver = Carver::new(buffer, self.activation_bytes_of_terms(batch, terms))?;
        let integers = carver.take::<i8>(positions * total);
        let scales = carver.take::<f32>(groups * total);
        let corrections = carver.take::<i32>(groups * total);
        let floats = carver.take::<f32>(positions * batch);
        let mut parts = [const { Group::new() }; BLOCK];
        let inputs = self.matrix.stream_inputs().chunks(GROUP_COLUMNS);
        let stream = inputs.zip(self.matrix.stream_scales().chunks(GROUP_COLUMNS));
        // As many numbers as have their terms in one block.
        let at_once = BLOCK / terms;
        for b in (0..batch).step_by(at_once) {
            let parts = &mut parts[..at_once.min(batch - b)];
            // Vectors of this block, and where it starts.
            let block_start = b * terms;
            let vectors = parts.len() * terms;
            let block = &mut integers[block_start * positions..(block_start + vectors) * positions];
            for (group, (inputs, stream_scales)) in stream.clone().enumerate() {
                let first = group * GROUP_COLUMNS;
                let offsets = self.word_offsets(group);
                for (part, x) in parts.iter_mut().zip(x[b * self.columns()..].chunks_exact(self.columns())) {
                    part.gather(x, inputs, stream_scales);
                }
                for (position, floats) in
                    floats[first * batch..].chunks_mut(batch).take(inputs.len()).enumerate()
                {
                    for (float, part) in floats[b..].iter_mut().zip(parts.iter()) {
                        *float = part.values[position];
                    }
                }
                let block = &mut block[first * vectors..(first + inputs.len()) * vectors];
                for (index, part) in parts.iter_mut().enumerate() {
                    for vector in index * terms..(index + 1) * terms {
                        let scale = dispatch::quantize(self.isa, part);
                        scales[group * total + block_start + vector] = scale;
                        let sum: i32 = offsets.iter().zip(&part.sums).map(|(offset, sum)| offset * sum).sum();
                        corrections[group * total + block_start + vector] = -sum;
                        let words = block.as_chunks_mut::<4>().0.iter_mut().skip(vector).step_by(vectors);
                        words.zip(part.integers.as_chunks::<4>().0).for_each(|(word, four)| *word = *four);
                    }
                }
            }
        }
        Ok(Activations { batch, terms, integers, scales, corrections, floats })
    }

    /// Class offset of each word of four positions of a group; anything beyond the stream's end.
    fn word_offsets(&self, group: usize) -> [i32; GROUP_COLUMNS / 4] {
        let mut offsets = [0; GROUP_COLUMNS / 4];
        let chunks = group * self.chunks_per_group()..;
        let words = offsets.chunks_mut(self.geometry().columns_per_chunk() / 4);
        for (words, chunk) in words.zip(chunks) {
            words.fill(self.offset_of_chunk(chunk));
        }
        offsets
    }
}

/// A group of one vector on its way to integers.
#[derive(Debug)]
pub(super) struct Group {
    /// x', zeros beyond the stream's end; after [`Self::quantize`] what the integers leave of it.
    values: [f32; GROUP_COLUMNS],
    integers: [i8; GROUP_COLUMNS],
    /// Sums of the integers of words of four.
    sums: [i32; GROUP_COLUMNS / 4],
}

impl Group {
    const fn new() -> Self {
        Self { values: [0.0; GROUP_COLUMNS], integers: [0; GROUP_COLUMNS], sums: [0; GROUP_COLUMNS / 4] }
    }

    /// Takes the values of a group's positions from a vector.
    fn gather(&mut self, x: &[f32], inputs: &[u32], scales: &[f32]) {
        for (value, (&input, &scale)) in self.values.iter_mut().zip(inputs.iter().zip(scales)) {
            *value = if input == PADDING { 0.0 } else { scale * x[input as usize] };
        }
        self.values[inputs.len()..].fill(0.0);
    }

    /// Integers of the values, and their scale, which is returned. Compiled for each instruction set; operations are of
    /// single elements, so that all give the same bits.
    #[inline(always)]
    pub(super) fn quantize(&mut self) -> f32 {
        let (scale, inverse) = group_scale(&self.values);
        for (q, value) in self.integers.iter_mut().zip(&self.values) {
            *q = round(*value * inverse);
        }
        for (value, q) in self.values.iter_mut().zip(&self.integers) {
            *value -= scale * f32::from(*q);
        }
        for (sum, four) in self.sums.iter_mut().zip(self.integers.as_chunks::<4>().0) {
            *sum = four.iter().map(|&q| i32::from(q)).sum();
        }
        scale
    }
}

impl Activations<'_> {
    /// Number of vectors.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Requires that these were prepared for a matrix of the same stream.
    pub(super) fn fits(&self, plan: &PreparedMatrix<'_>) -> Result<(), KernelError> {
        let expected = plan.matrix.stream_length() * self.batch * self.terms;
        require("prepared activations", expected, self.integers.len())
    }
}

/// One term of a chunk's activations, repeated for all rows of a step: the operand of 64 products. `chunk` holds words
/// of four columns, for each word all terms.
pub(super) fn lanes_of_term(chunk: &[i8], terms: usize, term: usize) -> [i8; LANES] {
    let mut lanes = [[0i8; 4]; LANES / 4];
    let words = chunk.as_chunks::<4>().0.iter().skip(term).step_by(terms);
    let mut count = 0;
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = *word;
        count += 1;
    }
    for index in count..lanes.len() {
        lanes[index] = lanes[index - count];
    }
    let mut bytes = [0; LANES];
    bytes.copy_from_slice(lanes.as_flattened());
    bytes
}

/// Scale of a group and its inverse.
#[inline(always)]
fn group_scale(values: &[f32]) -> (f32, f32) {
    // Bit patterns of absolute values order like the values, and NaN above all.
    let largest = values.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7FFF_FFFF));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// 2^-100.
const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);

/// Nearest integer of a value within ±128, ties to even; NaN becomes some integer. Adding 1.5 * 2^23 leaves the
/// integer in the low bits.
#[inline(always)]
fn round(value: f32) -> i8 {
    (value + 12_582_912.0).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        for i in -12700..=12700 {
            let value = i as f32 / 100.0;
            assert_eq!(i32::from(round(value)), value.round_ties_even() as i32);
        }
    }

    #[test]
    fn scales_of_groups() {
        assert_eq!(group_scale(&[0.0, -0.0, 1e-40]), (0.0, 0.0));
        assert_eq!(group_scale(&[1.0, -254.0]).0, 2.0);
        assert!(group_scale(&[1.0, f32::NAN]).0.is_nan());
        assert!(group_scale(&[f32::NEG_INFINITY, 2.0]).0.is_nan());
    }
}
