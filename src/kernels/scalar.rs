//! Portable kernels: one table entry per lane and step holds all that the step needs.

use super::activations::BLOCK;
use super::dispatch::Target;
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

/// Unsigned values of one step.
type Step = [u8; LANES];

/// Decodes `chunks` chunks of one tile; `sink` gets the values of each (chunk, step).
#[inline(always)]
fn run<const RAW: bool>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    state: &mut TileState<'_>,
    mut sink: impl FnMut(usize, usize, &Step),
) {
    let Tables::Scalar(table) = &class.tables else { unreachable!("plans and kernels are chosen together") };
    let mut x = [0u32; LANES];
    for lane in 0..LANES {
        x[lane] = u32::from(state.high[lane]) << 8 | u32::from(state.low[lane]);
    }
    for chunk in 0..chunks {
        let raw = if RAW { state.take_raw(8 * class.raw_bits * steps) } else { &[] };
        let mut raw_words = raw.as_chunks::<8>().0.iter();
        let bytes = state.chunk_bytes();
        let mut taken = 0;
        let mut trellis = [0u8; LANES];
        let mut values = [0u8; LANES];
        for step in 0..steps {
            // The chunk's bytes are one more vector than all its symbols can take.
            let Some(window) = bytes[taken..].first_chunk::<LANES>() else { return };
            let mut used = 0;
            for lane in 0..LANES {
                let index = usize::from(trellis[lane] & 7) * SLOTS + (x[lane] & 255) as usize;
                let entry = table.entries[index];
                let next = (entry & 255) * (x[lane] >> 8) + (entry >> 8 & 255);
                // Without a branch, which would be mispredicted every other time.
                let refill = u32::from(next < 256);
                let byte = u32::from(window[used & (LANES - 1)]);
                x[lane] = next << (8 * refill) | (byte & refill.wrapping_neg());
                used += refill as usize;
                values[lane] = (entry >> 16) as u8;
                if !RAW {
                    trellis[lane] = (entry >> 24) as u8;
                }
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
                    trellis[lane] =
                        table.next[usize::from(values[lane] >> 1 & 1)][usize::from(trellis[lane] & 7)];
                }
            }
            sink(chunk, step, &values);
        }
        state.chunk_end(taken);
    }
    for lane in 0..LANES {
        state.high[lane] = (x[lane] >> 8) as u8;
        state.low[lane] = x[lane] as u8;
    }
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

/// See [`super::avx512::dot`]; here `accumulators` holds one integer per row.
#[allow(clippy::too_many_arguments)]
pub(super) fn dot(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    start: Option<i32>,
    states: &mut [TileState<'_>],
    accumulators: &mut [i32],
    stride: usize,
) {
    if let Some(start) = start {
        accumulators.fill(start);
    }
    match activations.len() / chunks {
        64 => dot_as::<64>(class, chunks, steps, activations, states, accumulators, stride),
        16 => dot_as::<16>(class, chunks, steps, activations, states, accumulators, stride),
        _ => dot_as::<4>(class, chunks, steps, activations, states, accumulators, stride),
    }
}

fn dot_as<const K: usize>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    states: &mut [TileState<'_>],
    accumulators: &mut [i32],
    stride: usize,
) {
    let activations = activations.as_chunks::<K>().0;
    for (state, accumulators) in states.iter_mut().zip(accumulators.chunks_mut(stride)) {
        run_class(class, chunks, steps, state, |chunk, step, values| {
            let x = &activations[chunk];
            let rows = &mut accumulators[step * (LANES / K)..];
            for (row, values) in rows.iter_mut().zip(values.as_chunks::<K>().0) {
                let products = values.iter().zip(x).map(|(&u, &x)| i32::from(i16::from(u) * i16::from(x)));
                *row += products.sum::<i32>();
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
