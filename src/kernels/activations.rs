//! Activations in the form that integer kernels multiply: scaled, permuted into stream order, eight bits.
//!
//! The weight of row r and column c is `row_scale[r] * sum of stream_scale[p] * m[r][p]` over the stream positions p
//! of column c. So with `x'[p] = stream_scale[p] * x[input column of p]` a row's result is
//! `row_scale[r] * sum of m[r][p] * x'[p]`: integers times one vector, the same for all rows. Each group g of
//! [`GROUP_COLUMNS`] consecutive positions is stored as 8-bit integers q and one scale s, x' ≈ s q.

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
        let mut sums = [0i32; GROUP_COLUMNS / 4];
        let mut values = [0.0f32; GROUP_COLUMNS];
        for (b, x) in x.chunks_exact(self.columns()).enumerate() {
            let inputs = self.matrix.stream_inputs().chunks(GROUP_COLUMNS);
            let stream = inputs.zip(self.matrix.stream_scales().chunks(GROUP_COLUMNS));
            for (group, (inputs, stream_scales)) in stream.enumerate() {
                let values = &mut values[..inputs.len()];
                for (value, (&input, &scale)) in values.iter_mut().zip(inputs.iter().zip(stream_scales)) {
                    *value = if input == PADDING { 0.0 } else { scale * x[input as usize] };
                }
                let first = group * GROUP_COLUMNS;
                for (position, value) in values.iter().enumerate() {
                    floats[(first + position) * batch + b] = *value;
                }
                for vector in b * terms..(b + 1) * terms {
                    // Vectors of this block, and where its words of four start.
                    let block_start = vector / BLOCK * BLOCK;
                    let vectors = BLOCK.min(total - block_start);
                    let block = &mut integers[block_start * positions..(block_start + vectors) * positions];
                    let (scale, inverse) = group_scale(values);
                    scales[group * total + vector] = scale;
                    for (word, (four, sum)) in
                        values.as_chunks_mut::<4>().0.iter_mut().zip(&mut sums).enumerate()
                    {
                        let q = four.map(|value| round(value * inverse));
                        let at = (first + 4 * word) * vectors + 4 * (vector - block_start);
                        block[at..at + 4].copy_from_slice(&q);
                        *sum = q.iter().map(|&q| i32::from(q)).sum();
                        if terms > 1 {
                            four.iter_mut().zip(q).for_each(|(value, q)| *value -= scale * f32::from(q));
                        }
                    }
                    corrections[group * total + vector] = -self.offset_sum(group, &sums);
                }
            }
        }
        Ok(Activations { batch, terms, integers, scales, corrections, floats })
    }

    /// Sum of class offset times q over a group; `sums` holds the sums of q over its words of four positions.
    fn offset_sum(&self, group: usize, sums: &[i32; GROUP_COLUMNS / 4]) -> i32 {
        let words_per_chunk = self.geometry().columns_per_chunk() / 4;
        let group_start = group * self.chunks_per_group();
        let group_end = group_start + self.chunks_per_group();
        let mut total = 0;
        for class in &self.classes {
            let start = class.first_chunk.max(group_start);
            let end = (class.first_chunk + class.chunks).min(group_end);
            if start < end {
                let words = (start - group_start) * words_per_chunk..(end - group_start) * words_per_chunk;
                total += class.offset * sums[words].iter().sum::<i32>();
            }
        }
        total
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
fn group_scale(values: &[f32]) -> (f32, f32) {
    // Bit patterns of absolute values order like the values, and NaN above all.
    let largest = values.iter().map(|value| value.to_bits() & 0x7FFF_FFFF).max().unwrap_or(0);
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
