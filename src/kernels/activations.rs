//! Activations in the form that integer kernels multiply: scaled, permuted into stream order, eight bits.
//!
//! The weight of row r and column c is `row_scale[r] * sum of stream_scale[p] * m[r][p]` over the stream positions p
//! of column c. So with `x'[p] = stream_scale[p] * x[input column of p]` a row's result is
//! `row_scale[r] * sum of m[r][p] * x'[p]`: integers times one vector, the same for all rows. Each group g of
//! [`Rounding::group_columns`] consecutive positions is stored as integers q and one scale s, x' ≈ s q; [`Rounding`] says
//! how.

use super::dispatch;
use super::error::{require, KernelError};
use super::group::{Group, GROUP_WORDS};
use super::halves;
use super::plan::{PreparedMatrix, GROUP_COLUMNS, WIDE_GROUP_COLUMNS};
use super::scratch::{bytes_for, Carver};
use crate::payload::LANES;
use std::ops::Range;

/// Most integers that stand for one number.
pub(super) const MOST_TERMS: usize = 2;

/// Vectors that the matrix product handles at a time.
pub(super) const BLOCK: usize = 8;

/// With larger offsets the integers of a row may be so large that products with 15-bit activations leave 32 bits: at most 23
/// words of a group are large.
const MOST_OFFSET_OF_LARGE_WORDS: i32 = 1024;

/// How finely activations are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Eight bits. In each group the scale is s = a / 127 with a the largest |x'|, and q = x' * (127 / a). Where one
    /// column has nearly all of a group's energy it sets the scale of the others, and errors are up to a fifth of a
    /// product.
    OneTerm,
    /// Eight bits, but fifteen for words of four positions that are far larger than the others of their group. With w
    /// the largest |x'| of each word as its bit pattern (an integer), f the largest w less 2^26, the threshold is the
    /// sum of max(w, f) >> 5 over all 32 words, plus 2^24: about four times their geometric mean. Words above it are
    /// large. With b the largest |x'| of the others, s = b / 127 and q = x' * (127 / b), or where 128 b < a,
    /// s = a / 16256 and q = x' * (16256 / a). Errors are those of eight bits in a group without outliers; products with
    /// a batch cost up to a tenth more than with one term, those with one vector are slow. Groups with a class whose offset
    /// exceeds 1,024 (integers far from zero, which no model has) count as if no word were large: sums stay exact.
    Mixed,
    /// Two terms of eight bits: the second is what the first leaves, x' - s q, with a scale of its own. Groups are four
    /// times as wide. Errors are a thousandth of a product or less; products with a batch cost twice as much, those with one vector an eighth more.
    TwoTerms,
}

impl Rounding {
    /// All of them, from the coarsest to the finest.
    pub const ALL: [Self; 3] = [Self::OneTerm, Self::Mixed, Self::TwoTerms];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneTerm => "one-term",
            Self::Mixed => "mixed",
            Self::TwoTerms => "two-terms",
        }
    }

    /// Stream columns that share one scale: [`GROUP_COLUMNS`], with two terms [`WIDE_GROUP_COLUMNS`].
    pub const fn group_columns(self) -> usize {
        match self {
            Self::OneTerm | Self::Mixed => GROUP_COLUMNS,
            Self::TwoTerms => WIDE_GROUP_COLUMNS,
        }
    }

    /// Integers with a scale of their own that stand for one number.
    pub(super) const fn terms(self) -> usize {
        match self {
            Self::OneTerm | Self::Mixed => 1,
            Self::TwoTerms => MOST_TERMS,
        }
    }
}

/// Activation vectors prepared for one matrix; lives in a buffer of the caller.
///
/// Groups in order; in a group blocks of up to eight vectors, where a vector is one term of one input.
#[derive(Debug)]
pub struct Activations<'b> {
    pub(super) batch: usize,
    pub(super) rounding: Rounding,
    /// By group, block and word of four stream positions: all vectors of the block.
    pub(super) integers: &'b [i8],
    /// By group and vector.
    pub(super) scales: &'b [f32],
    /// By group and vector: minus the sum of class offset times q, which turns u = m + offset back into m.
    pub(super) corrections: &'b [i32],
    /// By group and term, of a single input that is not of mixed precision: the same for even and odd steps where the
    /// products of pairs are those of [`halves`].
    pub(super) corrections_of_halves: &'b [[i32; 2]],
    /// By stream position and vector: x' itself, for escapes.
    pub(super) floats: &'b [f32],
    /// The high parts of [`Rounding::Mixed`], else empty.
    high: HighParts<'b>,
}

/// Large words of activations: q is 128 times their integers here plus those of [`Activations::integers`].
#[derive(Debug)]
struct HighParts<'b> {
    /// By group and block: the words at which any of its vectors is large, the rest unused.
    words: &'b [[u8; GROUP_WORDS]],
    /// By group and block: how many.
    counts: &'b [u8],
    /// In the places of [`Activations::integers`], only that the words listed come first.
    integers: &'b [i8],
}

/// One block's part of a group.
pub(super) struct BlockPart<'b> {
    pub(super) integers: &'b [i8],
    pub(super) scales: &'b [f32],
    pub(super) corrections: &'b [i32],
    /// Large words and their integers, for each word all vectors.
    pub(super) high_words: &'b [u8],
    pub(super) high_integers: &'b [i8],
}

/// Lengths of the arrays of [`Activations`].
struct Sizes {
    integers: usize,
    of_groups: usize,
    /// Corrections of halves.
    of_halves: usize,
    floats: usize,
    /// Blocks of all groups if large words have parts of their own.
    high_blocks: usize,
}

impl Sizes {
    fn bytes(&self) -> usize {
        let high_integers = if self.high_blocks > 0 { self.integers } else { 0 };
        bytes_for::<i8>(self.integers)
            + bytes_for::<f32>(self.of_groups)
            + bytes_for::<i32>(self.of_groups)
            + bytes_for::<[i32; 2]>(self.of_halves)
            + bytes_for::<f32>(self.floats)
            + bytes_for::<[u8; GROUP_WORDS]>(self.high_blocks)
            + bytes_for::<u8>(self.high_blocks)
            + bytes_for::<i8>(high_integers)
    }
}

impl PreparedMatrix<'_> {
    fn sizes(&self, batch: usize, rounding: Rounding) -> Sizes {
        let (positions, vectors) = (self.matrix.stream_length(), batch * rounding.terms());
        Sizes {
            integers: positions * vectors,
            of_groups: self.groups(rounding) * vectors,
            of_halves: if batch == 1 && rounding != Rounding::Mixed {
                self.groups(rounding) * vectors
            } else {
                0
            },
            floats: positions * batch,
            high_blocks: if rounding == Rounding::Mixed {
                self.groups(rounding) * vectors.div_ceil(BLOCK)
            } else {
                0
            },
        }
    }

    /// Bytes that [`Self::prepare`] needs for `batch` vectors.
    pub fn activation_bytes(&self, batch: usize, rounding: Rounding) -> usize {
        self.sizes(batch, rounding).bytes()
    }

    /// Prepares `batch` vectors, `x[b * columns + c]`, in `buffer` of at least [`Self::activation_bytes`] bytes.
    ///
    /// [`Rounding`] says what scales and integers are; q is rounded to the nearest integer, ties to even, and all is in
    /// f32. A group whose largest |x'| is below 2^-100 counts as zero; one that holds a NaN or an infinity gets the scale
    /// NaN, so that it shows in every result.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `x` has another length, [`KernelError::Scratch`] if `buffer` is too small.
    pub fn prepare<'b>(
        &self,
        x: &[f32],
        batch: usize,
        rounding: Rounding,
        buffer: &'b mut [u8],
    ) -> Result<Activations<'b>, KernelError> {
        self.prepare_by(x, batch, rounding, buffer, |mut whole| whole.run())
    }

    /// As [`Self::prepare`], for callers with threads: `run` is given the whole work, which
    /// [`halves`](Preparation::halves) cuts into parts. All must have [`run`](Preparation::run) when it
    /// returns; activations left out are any numbers.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_by<'b>(
        &self,
        x: &[f32],
        batch: usize,
        rounding: Rounding,
        buffer: &'b mut [u8],
        run: impl FnOnce(Preparation<'_>),
    ) -> Result<Activations<'b>, KernelError> {
        require("activations", batch.saturating_mul(self.columns()), x.len())?;
        let sizes = self.sizes(batch, rounding);
        let mut carver = Carver::new(buffer, sizes.bytes())?;
        let integers = carver.take::<i8>(sizes.integers);
        let scales = carver.take::<f32>(sizes.of_groups);
        let corrections = carver.take::<i32>(sizes.of_groups);
        let corrections_of_halves = carver.take::<[i32; 2]>(sizes.of_halves);
        let floats = carver.take::<f32>(sizes.floats);
        let words = carver.take::<[u8; GROUP_WORDS]>(sizes.high_blocks);
        let counts = carver.take::<u8>(sizes.high_blocks);
        let high_integers = carver.take::<i8>(if sizes.high_blocks > 0 { sizes.integers } else { 0 });
        // Whatever `run` leaves out has no large words.
        counts.fill(0);
        run(Preparation {
            plan: self,
            x,
            batch,
            rounding,
            groups: 0..self.groups(rounding),
            integers,
            scales,
            corrections,
            corrections_of_halves,
            floats,
            words,
            counts,
            high_integers,
        });
        let high = HighParts { words, counts, integers: high_integers };
        Ok(Activations {
            batch,
            rounding,
            integers,
            scales,
            corrections,
            corrections_of_halves,
            floats,
            high,
        })
    }

    /// Offsets of each word of four positions of the [`GROUP_COLUMNS`] from `first` on; anything beyond the stream's end.
    fn word_offsets(&self, first: usize) -> [WordOffset; GROUP_WORDS] {
        let mut offsets = [WordOffset::default(); GROUP_WORDS];
        let chunks = first / self.geometry().columns_per_chunk()..;
        let words = offsets.chunks_mut(self.geometry().columns_per_chunk() / 4);
        for (words, chunk) in words.zip(chunks) {
            if let Some(class) = self.class_of_chunk(chunk) {
                let of_halves = if class.halves { halves::OFFSETS } else { [class.offset; 2] };
                words.fill(WordOffset { of_values: class.offset, of_halves });
            }
        }
        offsets
    }
}

/// What the integers of a word's columns are exceeded by.
#[derive(Clone, Copy, Default)]
struct WordOffset {
    /// By the values that kernels multiply.
    of_values: i32,
    /// The same in even and odd steps where pairs are multiplied by halves.
    of_halves: [i32; 2],
}

/// Activations of a range of groups on their way to integers; see [`PreparedMatrix::prepare_by`].
pub struct Preparation<'p> {
    plan: &'p PreparedMatrix<'p>,
    x: &'p [f32],
    batch: usize,
    rounding: Rounding,
    groups: Range<usize>,
    // What belongs to these groups of the arrays of `Activations`.
    integers: &'p mut [i8],
    scales: &'p mut [f32],
    corrections: &'p mut [i32],
    corrections_of_halves: &'p mut [[i32; 2]],
    floats: &'p mut [f32],
    words: &'p mut [[u8; GROUP_WORDS]],
    counts: &'p mut [u8],
    high_integers: &'p mut [i8],
}

impl<'p> Preparation<'p> {
    /// Cuts the work into two halves; one may be empty.
    pub fn halves(mut self) -> (Self, Self) {
        let count = self.groups.len() / 2;
        let middle = self.groups.start + count;
        let (columns, vectors) = (self.rounding.group_columns() * count, self.batch * self.rounding.terms());
        let blocks = count * vectors.div_ceil(BLOCK);
        let first = Preparation {
            groups: self.groups.start..middle,
            integers: take_front(&mut self.integers, columns * vectors),
            scales: take_front(&mut self.scales, count * vectors),
            corrections: take_front(&mut self.corrections, count * vectors),
            // Empty if there are none.
            corrections_of_halves: take_front(&mut self.corrections_of_halves, count * vectors),
            floats: take_front(&mut self.floats, columns * self.batch),
            words: take_front(&mut self.words, blocks),
            counts: take_front(&mut self.counts, blocks),
            high_integers: take_front(&mut self.high_integers, columns * vectors),
            ..self
        };
        self.groups.start = middle;
        (first, self)
    }

    /// Does it.
    pub fn run(&mut self) {
        let (plan, batch, terms) = (self.plan, self.batch, self.rounding.terms());
        let vectors = batch * terms;
        if vectors == 0 {
            return;
        }
        let blocks = vectors.div_ceil(BLOCK);
        let mut parts = [const { [const { Group::new() }; WIDE_GROUP_COLUMNS / GROUP_COLUMNS] }; BLOCK];
        // As many inputs as have their terms in one block.
        let at_once = BLOCK / terms;
        for (index, group) in self.groups.clone().enumerate() {
            let positions = plan.group_positions(group, self.rounding);
            let inputs = &plan.matrix.stream_inputs()[positions.clone()];
            let stream_scales = &plan.matrix.stream_scales()[positions.clone()];
            let subgroups = positions.len().div_ceil(GROUP_COLUMNS);
            let offsets: [_; WIDE_GROUP_COLUMNS / GROUP_COLUMNS] =
                std::array::from_fn(|sub| plan.word_offsets(positions.start + sub * GROUP_COLUMNS));
            let near = offsets.iter().flatten().all(|word| word.of_values <= MOST_OFFSET_OF_LARGE_WORDS);
            let first = index * self.rounding.group_columns();
            let integers = &mut self.integers[first * vectors..][..positions.len() * vectors];
            let floats = &mut self.floats[first * batch..][..positions.len() * batch];
            let scales = &mut self.scales[index * vectors..][..vectors];
            let corrections = &mut self.corrections[index * vectors..][..vectors];
            let corrections_of_halves =
                self.corrections_of_halves.get_mut(index * vectors..).unwrap_or_default();
            for (block, b) in (0..batch).step_by(at_once).enumerate() {
                let parts = &mut parts[..at_once.min(batch - b)];
                let start = b * terms;
                let in_block = parts.len() * terms;
                for (part, x) in
                    parts.iter_mut().zip(self.x[b * plan.columns()..].chunks_exact(plan.columns()))
                {
                    let sources = inputs.chunks(GROUP_COLUMNS).zip(stream_scales.chunks(GROUP_COLUMNS));
                    for (sub, (inputs, scales)) in part.iter_mut().zip(sources) {
                        sub.gather(x, inputs, scales);
                    }
                }
                if batch == 1 {
                    for (floats, sub) in floats.chunks_mut(GROUP_COLUMNS).zip(&parts[0]) {
                        floats.copy_from_slice(&sub.values[..floats.len()]);
                    }
                } else {
                    for (position, floats) in floats.chunks_mut(batch).enumerate() {
                        for (float, part) in floats[b..].iter_mut().zip(parts.iter()) {
                            *float = part[position / GROUP_COLUMNS].values[position % GROUP_COLUMNS];
                        }
                    }
                }
                let place = start * positions.len()..(start + in_block) * positions.len();
                let integers = &mut integers[place.clone()];
                let mut large = 0;
                for (index, part) in parts.iter_mut().enumerate() {
                    let part = &mut part[..subgroups];
                    for vector in index * terms..(index + 1) * terms {
                        scales[start + vector] = match (self.rounding, &mut *part) {
                            (Rounding::Mixed, [whole]) if near => dispatch::split(plan.isa, whole),
                            (_, part) => {
                                part[0].large = 0;
                                dispatch::quantize(plan.isa, part)
                            }
                        };
                        let correction = |offset: &dyn Fn(&WordOffset) -> i32| -> i32 {
                            let of_sub = |(offsets, sub): (&[WordOffset; GROUP_WORDS], &Group)| -> i32 {
                                offsets.iter().zip(&sub.sums).map(|(word, sum)| offset(word) * sum).sum()
                            };
                            -offsets.iter().zip(&*part).map(of_sub).sum::<i32>()
                        };
                        corrections[start + vector] = correction(&|word| word.of_values);
                        if let Some(both) = corrections_of_halves.get_mut(start + vector) {
                            *both = [0, 1].map(|odd| correction(&|word| word.of_halves[odd]));
                        }
                        let words = integers.as_chunks_mut::<4>().0.chunks_mut(GROUP_WORDS * in_block);
                        for (words, sub) in words.zip(&*part) {
                            let words = words[vector..].iter_mut().step_by(in_block);
                            words.zip(sub.integers.as_chunks::<4>().0).for_each(|(word, four)| *word = *four);
                        }
                    }
                    large |= part[0].large;
                }
                if self.rounding == Rounding::Mixed {
                    let at = index * blocks + block;
                    self.counts[at] = large.count_ones() as u8;
                    let high = &mut self.high_integers[first * vectors..][place].as_chunks_mut::<4>().0;
                    for (high, word) in high.chunks_mut(in_block).zip(&mut self.words[at]) {
                        let index = large.trailing_zeros() as usize;
                        if index >= GROUP_WORDS {
                            break;
                        }
                        *word = index as u8;
                        for (high, part) in high.iter_mut().zip(parts.iter()) {
                            *high = part[0].high.as_chunks::<4>().0[index];
                        }
                        large &= large - 1;
                    }
                }
            }
        }
    }
}

/// The first `count` elements, or all if there are fewer; the others stay.
fn take_front<'a, T>(slice: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let all = std::mem::take(slice);
    let (front, rest) = all.split_at_mut(count.min(all.len()));
    *slice = rest;
    front
}

impl Activations<'_> {
    /// Number of vectors.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Requires that these were prepared for a matrix of the same stream.
    pub(super) fn fits(&self, plan: &PreparedMatrix<'_>) -> Result<(), KernelError> {
        require("prepared activations", plan.sizes(self.batch, self.rounding).integers, self.integers.len())
    }

    /// Number of vectors of the kernels: inputs times terms.
    pub(super) fn vectors(&self) -> usize {
        self.batch * self.rounding.terms()
    }

    /// The part of a group, whose stream positions are `positions`, and a block, whose vectors are `block`.
    pub(super) fn part(&self, group: usize, positions: &Range<usize>, block: Range<usize>) -> BlockPart<'_> {
        let vectors = self.vectors();
        let first = positions.start * vectors + block.start * positions.len();
        let place = first..first + block.len() * positions.len();
        let (high_words, high_integers) = match self.rounding {
            Rounding::Mixed => {
                let at = group * vectors.div_ceil(BLOCK) + block.start / BLOCK;
                let count = usize::from(self.high.counts[at]);
                let integers = &self.high.integers[place.clone()];
                (&self.high.words[at][..count], &integers[..4 * count * block.len()])
            }
            _ => Default::default(),
        };
        let of_group = group * vectors + block.start..group * vectors + block.end;
        BlockPart {
            integers: &self.integers[place],
            scales: &self.scales[of_group.clone()],
            corrections: &self.corrections[of_group],
            high_words,
            high_integers,
        }
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
