//! Portable kernels: one table entry per lane and step holds all that the step needs, and everything else is written so
//! that compilers make vector instructions of it.

use super::activations::{lanes_of_term, BLOCK};
use super::dispatch::{Dot, Target};
use super::group::HIGH_BITS;
use super::matmul::{Product, PANEL_ROWS};
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use crate::payload::table::{ClassTable, SLOTS};
use crate::payload::{Trellis, LANES};

/// Trellis states that the table distinguishes.
const STATES: usize = 8;

/// By trellis state and slot: frequency, rank, value and next trellis state, one byte each from the lowest. With the
/// trellis of pairs states 0 and 1 stand for the two parities, and the last byte is the second value of a pair.
#[derive(Clone, Debug)]
pub(super) struct ScalarTable {
    entries: [u32; STATES * SLOTS],
    /// Next trellis state by value's index bit and state, for classes whose index has raw low bits.
    next: [[u8; STATES]; 2],
    kind: Kind,
}

/// What a symbol of a class stands for, and how the trellis goes on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// One integer; the trellis has at most [`STATES`] states.
    Single,
    /// One integer of the trellis of pairs.
    HalfPair,
    /// Two integers.
    Pair,
}

/// [`Kind`] as constants for generic code.
const SINGLE: u8 = Kind::Single as u8;
const HALF_PAIR: u8 = Kind::HalfPair as u8;
const PAIR: u8 = Kind::Pair as u8;

impl ScalarTable {
    pub(super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let kind = match (trellis, table.pairs()) {
            (_, Some(_)) => Kind::Pair,
            (Trellis::Pairs, None) => Kind::HalfPair,
            (Trellis::Scalar | Trellis::EightState, None) => Kind::Single,
        };
        let mut this = Self { entries: [0; STATES * SLOTS], next: [[0; STATES]; 2], kind };
        for state in 0..STATES {
            for bit in 0..2 {
                // An integer whose index is `bit`: m = 2 * bit + parity.
                this.next[bit][state] = trellis.next(state as u8, 2 * bit as i32);
            }
            let runs = table.run_of_slot(state & 1);
            for slot in 0..SLOTS {
                let entry = table.entries()[usize::from(runs[slot])];
                let rank = slot as u8 - entry.rank_base;
                let next = this.next[usize::from(entry.value >> 1 & 1)][state];
                let next = if kind == Kind::Pair { entry.second } else { next };
                this.entries[state * SLOTS + slot] =
                    u32::from_le_bytes([entry.frequency, rank, entry.value, next]);
            }
        }
        this
    }
}

/// Most tiles decoded in turn: one waits for its stores while the other computes.
pub(super) const INTERLEAVE: usize = 2;

/// Unsigned values of one step.
type Step = [u8; LANES];

/// What a step of one tile keeps until the next one.
struct Lanes {
    x: [u16; LANES],
    /// Trellis states times [`SLOTS`].
    trellis: [u16; LANES],
    /// Frequencies and ranks, values and next trellis states: what the lookup found.
    lower: [u16; LANES],
    upper: [u16; LANES],
    /// States of the trellis of pairs, and the first values of the pairs under way.
    pair_state: [u8; LANES],
    first: [u8; LANES],
}

impl Lanes {
    /// Moves the trellis of pairs past the pairs of values `first` and `second`.
    fn finish_pairs(&mut self, first: &Step, second: &Step) {
        for lane in 0..LANES {
            // Offsets are multiples of 4, so bit 1 of a value is the low bit of its index.
            let state = Trellis::after_pair(self.pair_state[lane], (first[lane] ^ second[lane]) >> 1);
            self.pair_state[lane] = state;
            self.trellis[lane] = u16::from(state & 1) << 8;
        }
    }
}

/// Decodes `chunks` chunks of `N` tiles; `sink` gets the values of each (tile, chunk, step).
///
/// Lookups go lane by lane, arithmetic over all lanes in loops that compilers turn into vector instructions, and only
/// the lanes that need a byte (a quarter of them at 2 bits per weight) are visited to get one.
#[inline(always)]
fn run<const N: usize, const KIND: u8, const RAW: bool>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>; N],
    mut sink: impl FnMut(usize, usize, usize, &Step),
) {
    let Some(table) = table_of(class) else { return };
    let mut tiles: [Lanes; N] = std::array::from_fn(|tile| {
        let pair = |lane: usize| u16::from_be_bytes([states[tile].high[lane], states[tile].low[lane]]);
        let zero = [0; LANES];
        let x = std::array::from_fn(pair);
        let none = [0; LANES];
        Lanes { x, trellis: zero, lower: zero, upper: zero, pair_state: none, first: none }
    });
    for chunk in 0..chunks {
        let mut raw: [&[u8]; N] = [&[]; N];
        let mut bytes: [&[u8]; N] = [&[]; N];
        let mut taken = [0; N];
        for (tile, state) in states.iter_mut().enumerate() {
            if RAW {
                raw[tile] = state.take_raw(8 * class.raw_bits * steps);
            }
            bytes[tile] = state.chunk_bytes();
            tiles[tile].trellis = [0; LANES];
            tiles[tile].pair_state = [0; LANES];
        }
        for step in (0..steps).step_by(if KIND == PAIR { 2 } else { 1 }) {
            for lanes in &mut tiles {
                for lane in 0..LANES {
                    let index = usize::from(lanes.trellis[lane] | lanes.x[lane] & 255) & (STATES * SLOTS - 1);
                    let entry = table.entries[index];
                    lanes.lower[lane] = entry as u16;
                    lanes.upper[lane] = (entry >> 16) as u16;
                }
            }
            for (tile, lanes) in tiles.iter_mut().enumerate() {
                let (mut values, mut below) = ([0u8; LANES], [0u8; LANES]);
                for lane in 0..LANES {
                    let (lower, upper) = (lanes.lower[lane], lanes.upper[lane]);
                    // At most 255 * 255 + 254.
                    let x = (lower & 255).wrapping_mul(lanes.x[lane] >> 8).wrapping_add(lower >> 8);
                    lanes.x[lane] = x;
                    below[lane] = u8::from(x < 256);
                    values[lane] = upper as u8;
                    if KIND == SINGLE && !RAW {
                        lanes.trellis[lane] = upper & 0xFF00;
                    }
                }
                // The chunk's bytes are one more vector than all its symbols can take.
                let Some(window) = bytes[tile][taken[tile]..].first_chunk::<LANES>() else { return };
                let mut mask = mask_of(&below);
                taken[tile] += mask.count_ones() as usize;
                let mut used = 0;
                while mask != 0 {
                    let lane = mask.trailing_zeros() as usize & (LANES - 1);
                    lanes.x[lane] = lanes.x[lane] << 8 | u16::from(window[used & (LANES - 1)]);
                    used += 1;
                    mask &= mask - 1;
                }
                if RAW {
                    let Some(rest) = add_raw_bits(&mut values, raw[tile], class.raw_bits) else { return };
                    raw[tile] = rest;
                }
                if KIND == SINGLE && RAW {
                    for (state, value) in lanes.trellis.iter_mut().zip(&values) {
                        let before = usize::from(*state >> 8) & (STATES - 1);
                        *state = u16::from(table.next[usize::from(value >> 1 & 1)][before]) << 8;
                    }
                }
                sink(tile, chunk, step, &values);
                if KIND == PAIR {
                    let second = lanes.upper.map(|upper| (upper >> 8) as u8);
                    if step + 1 < steps {
                        sink(tile, chunk, step + 1, &second);
                    }
                    lanes.finish_pairs(&values, &second);
                } else if KIND == HALF_PAIR && step % 2 == 0 {
                    lanes.first = values;
                } else if KIND == HALF_PAIR {
                    let first = lanes.first;
                    lanes.finish_pairs(&first, &values);
                }
            }
        }
        for (state, taken) in states.iter_mut().zip(taken) {
            state.chunk_end(taken);
        }
    }
    for (state, lanes) in states.iter_mut().zip(&tiles) {
        for lane in 0..LANES {
            [state.high[lane], state.low[lane]] = lanes.x[lane].to_be_bytes();
        }
    }
}

/// Adds the raw bits of one step to its values; what is left of the raw plane.
fn add_raw_bits<'r>(values: &mut Step, raw: &'r [u8], raw_bits: usize) -> Option<&'r [u8]> {
    let (of_step, rest) = raw.split_at_checked(8 * raw_bits)?;
    for (bit, word) in of_step.as_chunks::<8>().0.iter().enumerate() {
        for lane in 0..LANES {
            values[lane] += (word[lane >> 3] >> (lane & 7) & 1) << (bit + 1);
        }
    }
    Some(rest)
}

fn table_of(class: &ClassPlan) -> Option<&ScalarTable> {
    match &class.tables {
        Tables::Scalar(table) => Some(table),
        #[cfg(target_arch = "x86_64")]
        _ => None,
    }
}

/// Bit l of the result is byte l of `lanes`, each 0 or 1.
fn mask_of(lanes: &[u8; LANES]) -> u64 {
    let mut mask = 0;
    for (index, eight) in lanes.as_chunks::<8>().0.iter().enumerate() {
        // The product's top byte has bit i from byte i; all other sums stay below it.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (8 * index);
    }
    mask
}

fn run_class(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    sink: impl FnMut(usize, usize, usize, &Step),
) {
    let Some(kind) = table_of(class).map(|table| table.kind) else { return };
    match (kind, class.raw_bits > 0) {
        (Kind::Single, false) => run_tiles::<SINGLE, false>(class, chunks, steps, states, sink),
        (Kind::Single, true) => run_tiles::<SINGLE, true>(class, chunks, steps, states, sink),
        (Kind::HalfPair, false) => run_tiles::<HALF_PAIR, false>(class, chunks, steps, states, sink),
        (Kind::HalfPair, true) => run_tiles::<HALF_PAIR, true>(class, chunks, steps, states, sink),
        (Kind::Pair, _) => run_tiles::<PAIR, false>(class, chunks, steps, states, sink),
    }
}

fn run_tiles<const KIND: u8, const RAW: bool>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    mut sink: impl FnMut(usize, usize, usize, &Step),
) {
    if let (false, Ok(states)) = (RAW, <&mut [TileState<'_>; 2]>::try_from(&mut *states)) {
        return run::<2, KIND, RAW>(class, chunks, steps, states, sink);
    }
    for (tile, state) in states.iter_mut().enumerate() {
        let sink = |_, chunk, step, values: &Step| sink(tile, chunk, step, values);
        run::<1, KIND, RAW>(class, chunks, steps, std::array::from_mut(state), sink);
    }
}

/// See [`super::dispatch::dot`]; here the accumulators hold one integer per row.
pub(super) fn dot(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    operands: Dot<'_>,
) {
    match (class.width, operands.terms) {
        (64, 1) => dot_as::<64, 1>(class, chunks, steps, states, operands),
        (64, _) => dot_as::<64, 2>(class, chunks, steps, states, operands),
        (16, 1) => dot_as::<16, 1>(class, chunks, steps, states, operands),
        (16, _) => dot_as::<16, 2>(class, chunks, steps, states, operands),
        (_, 1) => dot_as::<4, 1>(class, chunks, steps, states, operands),
        (_, _) => dot_as::<4, 2>(class, chunks, steps, states, operands),
    }
}

fn dot_as<const K: usize, const TERMS: usize>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    operands: Dot<'_>,
) {
    let Dot { activations, start, accumulators, tile_stride, term_stride, .. } = operands;
    if let Some(start) = start {
        for of_tile in accumulators.chunks_mut(tile_stride).take(states.len()) {
            // The same for even and odd steps.
            for (of_term, [start, _]) in of_tile.chunks_mut(term_stride).zip(start).take(TERMS) {
                of_term.fill(start);
            }
        }
    }
    let mut lanes = [[0i8; LANES]; TERMS];
    run_class(class, chunks, steps, states, |tile, chunk, step, values| {
        if step == 0 {
            let of_chunk = &activations[chunk * K * TERMS..(chunk + 1) * K * TERMS];
            lanes = std::array::from_fn(|term| lanes_of_term(of_chunk, TERMS, term));
        }
        for (term, lanes) in lanes.iter().enumerate() {
            let first = tile * tile_stride + term * term_stride + step * (LANES / K);
            let rows = &mut accumulators[first..first + LANES / K];
            let pairs = values.as_chunks::<K>().0.iter().zip(lanes.as_chunks::<K>().0);
            for (row, (values, x)) in rows.iter_mut().zip(pairs) {
                let products =
                    values.iter().zip(x).map(|(&u, &x)| i32::from(i16::from(u)) * i32::from(i16::from(x)));
                *row += products.sum::<i32>();
            }
        }
    });
}

/// See [`super::dispatch::decode`].
pub(super) fn decode(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    target: Target<'_>,
) {
    let Target { values, tile_stride, chunk_stride } = target;
    run_class(class, chunks, steps, states, |tile, chunk, step, decoded| {
        let at = tile * tile_stride + chunk * chunk_stride + LANES * step;
        values[at..at + LANES].copy_from_slice(decoded);
    });
}

/// See [`super::dispatch::flush`].
pub(super) fn flush(accumulators: &[i32], scale: f32, sums: &mut [f32]) {
    for (sum, total) in sums.iter_mut().zip(accumulators) {
        *sum += scale * *total as f32;
    }
}

/// Adds to `sums` (by panel, vector of the batch and row of the panel) the product of a tile's group with one block
/// of vectors; `batch` vectors lie between the panels of `sums`.
pub(super) fn multiply(product: &Product<'_>, sums: &mut [f32], batch: usize) {
    let activations = &product.activations;
    let vectors = activations.scales.len();
    let words = product.width / 4;
    let dot = |values: &[u8; 4], x: &[i8; 4]| -> i32 {
        let term = |i: usize| i32::from(values[i]) * i32::from(x[i]);
        term(0) + term(1) + term(2) + term(3)
    };
    for panel in 0..product.panels {
        for row in 0..PANEL_ROWS {
            let mut totals = [0i32; BLOCK];
            let at = (panel * PANEL_ROWS + row) * product.width;
            let high = activations.high_words.iter().zip(activations.high_integers.chunks_exact(4 * vectors));
            for (&word, x) in high {
                let (chunk, word) = (usize::from(word) / words, usize::from(word) % words);
                let values = &product.values[chunk * product.chunk_stride + at..].as_chunks::<4>().0[word];
                for (total, x) in totals.iter_mut().zip(x.as_chunks::<4>().0) {
                    *total += dot(values, x);
                }
            }
            for (total, correction) in totals.iter_mut().zip(activations.corrections) {
                *total = (*total << HIGH_BITS) + correction;
            }
            let blocks = activations.integers.chunks_exact(product.width * vectors);
            for (chunk, integers) in blocks.enumerate() {
                let values = &product.values[chunk * product.chunk_stride + at..][..4 * words];
                let by_word = integers.chunks_exact(4 * vectors);
                for (values, x) in values.as_chunks::<4>().0.iter().zip(by_word) {
                    for (total, x) in totals.iter_mut().zip(x.as_chunks::<4>().0) {
                        *total += dot(values, x);
                    }
                }
            }
            for (vector, (total, scale)) in totals.iter().zip(activations.scales).enumerate() {
                sums[(panel * batch + vector) * PANEL_ROWS + row] += scale * *total as f32;
            }
        }
    }
}
