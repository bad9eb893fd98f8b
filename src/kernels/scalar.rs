//! Portable kernels: one table entry per lane and step holds all that the step needs, and everything else is written so
//! that compilers make vector instructions of it.

use super::activations::{lanes_of_term, BLOCK};
use super::dispatch::{Dot, Target};
use super::matmul::{Product, PANEL_ROWS};
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use crate::payload::table::{ClassTable, SLOTS};
use crate::payload::{Trellis, LANES};

/// Trellis states that the table distinguishes.
const STATES: usize = 8;

/// By trellis state and slot: frequency, rank, value and next trellis state, one byte each from the lowest.
#[derive(Clone, Debug)]
pub(super) struct ScalarTable {
    entries: [u32; STATES * SLOTS],
    /// Next trellis state by value's index bit and state, for classes whose index has raw low bits.
    next: [[u8; STATES]; 2],
}

impl ScalarTable {
    pub(super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let mut this = Self { entries: [0; STATES * SLOTS], next: [[0; STATES]; 2] };
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
                this.entries[state * SLOTS + slot] =
                    u32::from_le_bytes([entry.frequency, rank, entry.value, next]);
            }
        }
        this
    }
}

/// Most tiles decoded in turn: the lanes of one tile are parallel work enough.
pub(super) const INTERLEAVE: usize = 1;

/// Unsigned values of one step.
type Step = [u8; LANES];

/// Decodes `chunks` chunks of one tile; `sink` gets the values of each (chunk, step).
///
/// Lookups go lane by lane, arithmetic over all lanes in loops that compilers turn into vector instructions, and only
/// the lanes that need a byte (a quarter of them at 2 bits per weight) are visited to get one.
#[inline(always)]
fn run<const RAW: bool>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    state: &mut TileState<'_>,
    mut sink: impl FnMut(usize, usize, &Step),
) {
    let Some(table) = table_of(class) else { return };
    let mut x = [0u16; LANES];
    for lane in 0..LANES {
        x[lane] = u16::from_be_bytes([state.high[lane], state.low[lane]]);
    }
    for chunk in 0..chunks {
        let raw = if RAW { state.take_raw(8 * class.raw_bits * steps) } else { &[] };
        let mut raw_words = raw.as_chunks::<8>().0.iter();
        let bytes = state.chunk_bytes();
        let mut taken = 0;
        // Trellis states times SLOTS.
        let mut trellis = [0u16; LANES];
        let mut values = [0u8; LANES];
        for step in 0..steps {
            // The chunk's bytes are one more vector than all its symbols can take.
            let Some(window) = bytes[taken..].first_chunk::<LANES>() else { return };
            let (mut lower, mut upper) = ([0u16; LANES], [0u16; LANES]);
            for lane in 0..LANES {
                let index = usize::from(trellis[lane] | x[lane] & 255) & (STATES * SLOTS - 1);
                let entry = table.entries[index];
                lower[lane] = entry as u16;
                upper[lane] = (entry >> 16) as u16;
            }
            let mut below = [0u8; LANES];
            for lane in 0..LANES {
                // At most 255 * 255 + 254.
                x[lane] = (lower[lane] & 255).wrapping_mul(x[lane] >> 8).wrapping_add(lower[lane] >> 8);
                below[lane] = u8::from(x[lane] < 256);
                values[lane] = upper[lane] as u8;
            }
            let mut lanes = mask_of(&below);
            let mut used = 0;
            while lanes != 0 {
                let lane = lanes.trailing_zeros() as usize & (LANES - 1);
                x[lane] = x[lane] << 8 | u16::from(window[used & (LANES - 1)]);
                used += 1;
                lanes &= lanes - 1;
            }
            taken += used;
            if RAW {
                for bit in 0..class.raw_bits {
                    let Some(word) = raw_words.next() else { return };
                    for lane in 0..LANES {
                        values[lane] += (word[lane >> 3] >> (lane & 7) & 1) << (bit + 1);
                    }
                }
                for lane in 0..LANES {
                    let state = usize::from(trellis[lane] >> 8) & (STATES - 1);
                    trellis[lane] = u16::from(table.next[usize::from(values[lane] >> 1 & 1)][state]) << 8;
                }
            } else {
                for lane in 0..LANES {
                    trellis[lane] = upper[lane] & 0xFF00;
                }
            }
            sink(chunk, step, &values);
        }
        state.chunk_end(taken);
    }
    for lane in 0..LANES {
        [state.high[lane], state.low[lane]] = x[lane].to_be_bytes();
    }
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
    state: &mut TileState<'_>,
    sink: impl FnMut(usize, usize, &Step),
) {
    if class.raw_bits > 0 {
        run::<true>(class, chunks, steps, state, sink);
    } else {
        run::<false>(class, chunks, steps, state, sink);
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
    for (state, accumulators) in states.iter_mut().zip(accumulators.chunks_mut(tile_stride)) {
        let mut terms = accumulators.chunks_mut(term_stride);
        let mut terms: [&mut [i32]; TERMS] = std::array::from_fn(|_| terms.next().unwrap_or_default());
        if let Some(start) = start {
            terms.iter_mut().zip(start).for_each(|(rows, start)| rows.fill(start));
        }
        let mut lanes = [[0i8; LANES]; TERMS];
        run_class(class, chunks, steps, state, |chunk, step, values| {
            if step == 0 {
                let of_chunk = &activations[chunk * K * TERMS..(chunk + 1) * K * TERMS];
                lanes = std::array::from_fn(|term| lanes_of_term(of_chunk, TERMS, term));
            }
            for (rows, lanes) in terms.iter_mut().zip(&lanes) {
                let rows = &mut rows[step * (LANES / K)..];
                let pairs = values.as_chunks::<K>().0.iter().zip(lanes.as_chunks::<K>().0);
                for (row, (values, x)) in rows.iter_mut().zip(pairs) {
                    let products = values
                        .iter()
                        .zip(x)
                        .map(|(&u, &x)| i32::from(i16::from(u)) * i32::from(i16::from(x)));
                    *row += products.sum::<i32>();
                }
            }
        });
    }
}

/// See [`super::avx512::decode`].
pub(super) fn decode(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    target: Target<'_>,
) {
    for (state, values) in states.iter_mut().zip(target.values.chunks_mut(target.tile_stride)) {
        run_class(class, chunks, steps, state, |chunk, step, decoded| {
            let at = chunk * target.chunk_stride + LANES * step;
            values[at..at + LANES].copy_from_slice(decoded);
        });
    }
}

/// See [`super::avx512::flush`].
pub(super) fn flush(accumulators: &[i32], scale: f32, sums: &mut [f32]) {
    for (sum, total) in sums.iter_mut().zip(accumulators) {
        *sum += scale * *total as f32;
    }
}

/// Adds to `sums` (by panel, vector of the batch and row of the panel) the product of a tile's group with one block
/// of vectors; `batch` vectors lie between the panels of `sums`.
pub(super) fn multiply(product: &Product<'_>, sums: &mut [f32], batch: usize) {
    let vectors = product.scales.len();
    let words = product.width / 4;
    for panel in 0..product.panels {
        for row in 0..PANEL_ROWS {
            let mut totals = [0i32; BLOCK];
            totals[..vectors].copy_from_slice(product.corrections);
            let at = (panel * PANEL_ROWS + row) * product.width;
            let blocks = product.activations.chunks_exact(product.width * vectors);
            for (chunk, activations) in blocks.enumerate() {
                let values = &product.values[chunk * product.chunk_stride + at..][..4 * words];
                let by_word = activations.chunks_exact(4 * vectors);
                for (values, activations) in values.as_chunks::<4>().0.iter().zip(by_word) {
                    for (total, x) in totals.iter_mut().zip(activations.as_chunks::<4>().0) {
                        let term = |i: usize| i32::from(values[i]) * i32::from(x[i]);
                        *total += term(0) + term(1) + term(2) + term(3);
                    }
                }
            }
            for (vector, (total, scale)) in totals.iter().zip(product.scales).enumerate() {
                sums[(panel * batch + vector) * PANEL_ROWS + row] += scale * *total as f32;
            }
        }
    }
}
