//! A group of activations becomes integers and a scale.

use super::plan::GROUP_COLUMNS;

/// Words of four positions in a group.
pub(super) const GROUP_WORDS: usize = GROUP_COLUMNS / 4;

/// Bits by which the high part of large activations is shifted.
pub(super) const HIGH_BITS: u32 = 7;

/// A group of one vector on its way to integers.
#[derive(Debug)]
pub(super) struct Group {
    /// x', zeros beyond the stream's end; after [`Self::quantize`] what the integers leave of it.
    pub(super) values: [f32; GROUP_COLUMNS],
    pub(super) integers: [i8; GROUP_COLUMNS],
    /// Of large words the part that counts 128 times; zeros elsewhere.
    pub(super) high: [i8; GROUP_COLUMNS],
    /// Sums of what the integers of words of four stand for.
    pub(super) sums: [i32; GROUP_WORDS],
    /// One bit for each large word.
    pub(super) large: u32,
}

impl Group {
    pub(super) const fn new() -> Self {
        Self {
            values: [0.0; GROUP_COLUMNS],
            integers: [0; GROUP_COLUMNS],
            high: [0; GROUP_COLUMNS],
            sums: [0; GROUP_WORDS],
            large: 0,
        }
    }

    /// Takes the values of a group's positions from a vector.
    pub(super) fn gather(&mut self, x: &[f32], inputs: &[u32], scales: &[f32]) {
        for (value, (&input, &scale)) in self.values.iter_mut().zip(inputs.iter().zip(scales)) {
            // Nothing stands at `PADDING`.
            *value = x.get(input as usize).map_or(0.0, |x| scale * x);
        }
        self.values[inputs.len()..].fill(0.0);
    }

    /// Integers of one term of groups that share a scale, which is returned. Compiled for each instruction set;
    /// operations are of single elements, so that all give the same bits.
    #[inline(always)]
    pub(super) fn quantize(parts: &mut [Self]) -> f32 {
        let largest = parts.iter().fold(0, |largest: u32, part| largest.max(largest_bits(&part.values)));
        let largest = f32::from_bits(largest);
        let (scale, inverse) = scale_of(largest, largest);
        for part in parts {
            for (q, value) in part.integers.iter_mut().zip(&part.values) {
                *q = round(*value * inverse) as i8;
            }
            for (value, q) in part.values.iter_mut().zip(&part.integers) {
                *value -= scale * f32::from(*q);
            }
            for (sum, four) in part.sums.iter_mut().zip(part.integers.as_chunks::<4>().0) {
                *sum = four.iter().map(|&q| i32::from(q)).sum();
            }
        }
        scale
    }

    /// Integers of [`Rounding::Mixed`](super::Rounding::Mixed), and their scale, which is returned. As [`Self::quantize`].
    #[inline(always)]
    pub(super) fn split(&mut self) -> f32 {
        let mut largest = [0u32; GROUP_WORDS];
        for (largest, four) in largest.iter_mut().zip(self.values.as_chunks::<4>().0) {
            let bits = four.map(|value| value.to_bits() & 0x7FFF_FFFF);
            *largest = bits[0].max(bits[1]).max(bits[2].max(bits[3]));
        }
        let top = largest.iter().fold(0, |top: u32, &word| top.max(word));
        let floor = top.saturating_sub(8 << 23);
        let mean: u32 = largest.iter().map(|&word| word.max(floor) >> 5).sum();
        // A sum of 32 numbers below 2^26, and 2^24.
        let threshold = mean + (2 << 23);
        let bulk =
            largest.iter().fold(0, |bulk: u32, &word| bulk.max(if word > threshold { 0 } else { word }));
        let (scale, inverse) = scale_of(f32::from_bits(top), f32::from_bits(bulk));
        self.large = 0;
        for (word, &largest) in largest.iter().enumerate() {
            self.large |= u32::from(largest > threshold) << word;
        }
        let parts = self.integers.as_chunks_mut::<4>().0.iter_mut().zip(self.high.as_chunks_mut::<4>().0);
        let words = parts.zip(self.values.as_chunks::<4>().0).zip(self.sums.iter_mut().zip(&largest));
        for (((low, high), values), (sum, &largest)) in words {
            // All bits for a large word, or none.
            let mask = if largest > threshold { -1 } else { 0 };
            *sum = 0;
            for ((low, high), value) in low.iter_mut().zip(high).zip(values) {
                let q = round(*value * inverse);
                let part = ((q + 64) >> HIGH_BITS) & mask;
                *high = part as i8;
                *low = (q - (part << HIGH_BITS)) as i8;
                *sum += q;
            }
        }
        scale
    }
}

/// The largest magnitude as its bit pattern: absolute values order like those, and NaN above all.
#[inline(always)]
fn largest_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7FFF_FFFF))
}

/// Scale and its inverse of a group whose largest value is `top`, and `bulk` without the large words.
#[inline(always)]
fn scale_of(top: f32, bulk: f32) -> (f32, f32) {
    if !top.is_finite() {
        (f32::NAN, 0.0)
    } else if top < SMALLEST {
        (0.0, 0.0)
    } else if bulk * 128.0 >= top {
        (bulk / 127.0, 127.0 / bulk)
    } else {
        (top / 16256.0, 16256.0 / top)
    }
}

/// 2^-100.
const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);

/// Nearest integer of a value within ±2^15, ties to even; NaN becomes some integer. Adding 1.5 * 2^23 leaves the
/// integer in the low bits.
#[inline(always)]
fn round(value: f32) -> i32 {
    i32::from((value + 12_582_912.0).to_bits() as i16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        for i in (-12700..=12700).chain((-1_625_600..=1_625_600).step_by(25)) {
            let value = i as f32 / 100.0;
            assert_eq!(round(value), value.round_ties_even() as i32);
        }
    }

    #[test]
    fn scales_of_groups() {
        let scale = |values: &[f32]| {
            let largest = f32::from_bits(largest_bits(values));
            scale_of(largest, largest)
        };
        assert_eq!(scale(&[0.0, -0.0, 1e-40]), (0.0, 0.0));
        assert_eq!(scale(&[1.0, -254.0]).0, 2.0);
        assert!(scale(&[1.0, f32::NAN]).0.is_nan());
        assert!(scale(&[f32::NEG_INFINITY, 2.0]).0.is_nan());
    }
}
