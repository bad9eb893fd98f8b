//! The loop over classes with pair tables: one symbol for two integers.
//!
//! A pair table has up to 128 runs. Its pairs stand in the order of falling frequency, so the last slots belong to short
//! runs: there each slot is a *cell* of its own, elsewhere each run is one. The cell of a slot is that of its aligned
//! group's first slot, plus the run ends that the slot has passed, plus what it exceeds the bound between both kinds by.
//! Attributes have one register for each 16 cells.

use super::step::{advance, Halves};
use super::table::{load, PairCells};
use super::{product, table_of, ClassPlan, Target, PREFETCH};
use crate::kernels::activations::lanes_of_term;
use crate::kernels::stream::TileState;
use std::arch::x86_64::*;

/// One pair of `M` halves: their first and second values. `at` of each tile moves past the bytes that were taken.
/// `REGISTERS` bounds the registers of each attribute; `GENERAL` is for frequencies above 127.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
unsafe fn step<const M: usize, const N: usize, const REGISTERS: usize, const GENERAL: bool>(
    cells: &PairCells,
    halves: &mut Halves<M>,
    at: &mut [*const u8; N],
) -> ([__m256i; M], [__m256i; M]) {
    let zero = _mm256_setzero_si256();
    let Halves { high, low, trellis, .. } = halves;

    // Bits 0-2 from the slot, the parity from the trellis state.
    let mut group = [zero; M];
    for j in 0..M {
        group[j] = _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<5>(low[j]), _mm256_set1_epi8(7)),
            _mm256_and_si256(_mm256_slli_epi16::<3>(trellis[j]), _mm256_set1_epi8(8)),
        );
    }
    let mut cell = [zero; M];
    for j in 0..M {
        let beyond = _mm256_subs_epu8(low[j], _mm256_shuffle_epi8(load(&cells.bound), group[j]));
        cell[j] = _mm256_add_epi8(_mm256_shuffle_epi8(load(&cells.first_cell), group[j]), beyond);
    }
    for threshold in &cells.thresholds {
        let threshold = load(threshold);
        for j in 0..M {
            let slot = _mm256_xor_si256(low[j], _mm256_set1_epi8(-128));
            let past = _mm256_cmpgt_epi8(slot, _mm256_shuffle_epi8(threshold, group[j]));
            cell[j] = _mm256_sub_epi8(cell[j], past);
        }
    }
    let (mut frequency, mut rank, mut symbols) = ([zero; M], [zero; M], [zero; M]);
    for (n, register) in cells.registers.iter().enumerate().take(REGISTERS) {
        for j in 0..M {
            // The index of the right register keeps its low bits, the others get bit 7.
            let other = _mm256_xor_si256(cell[j], _mm256_set1_epi8(16 * n as i8));
            let index = _mm256_adds_epu8(other, _mm256_set1_epi8(0x70));
            let found = |attribute| _mm256_shuffle_epi8(load(attribute), index);
            frequency[j] = _mm256_or_si256(frequency[j], found(&register.frequency));
            rank[j] = _mm256_or_si256(rank[j], found(&register.rank_base));
            symbols[j] = _mm256_or_si256(symbols[j], found(&register.symbols));
        }
    }

    // Values, and the next trellis state.
    let (mut first, mut second) = ([zero; M], [zero; M]);
    for j in 0..M {
        let base = _mm256_shuffle_epi8(load(&cells.base), group[j]);
        let doubled = _mm256_set1_epi8(30);
        let of_first = _mm256_and_si256(_mm256_add_epi8(symbols[j], symbols[j]), doubled);
        let of_second = _mm256_and_si256(_mm256_srli_epi16::<3>(symbols[j]), doubled);
        first[j] = _mm256_add_epi8(base, of_first);
        second[j] = _mm256_add_epi8(base, of_second);
        trellis[j] = after_pair(trellis[j], _mm256_xor_si256(first[j], second[j]));
    }

    for j in 0..M {
        rank[j] = _mm256_sub_epi8(low[j], rank[j]);
    }
    // SAFETY: passed on from the caller.
    unsafe { advance::<M, N, GENERAL>(&frequency, &rank, high, low, at) };
    (first, second)
}

/// `Trellis::after_pair` of each lane; bit 1 of `difference` is the branch.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn after_pair(state: __m256i, difference: __m256i) -> __m256i {
    let halved = _mm256_and_si256(_mm256_srli_epi16::<1>(state), _mm256_set1_epi8(31));
    let taps = _mm256_or_si256(
        _mm256_and_si256(state, _mm256_set1_epi8(1)),
        _mm256_and_si256(difference, _mm256_set1_epi8(2)),
    );
    // 0, 45, 17 and 45 ^ 17, by whether the state is odd and by the branch: `PAIR_TAPS`.
    let by_taps = _mm256_setr_epi64x(0x3C11_2D00, 0, 0x3C11_2D00, 0);
    _mm256_xor_si256(halved, _mm256_shuffle_epi8(by_taps, taps))
}

/// See `super::run`.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run<
    const N: usize,
    const M: usize,
    const REGISTERS: usize,
    const GENERAL: bool,
    const TERMS: usize,
>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    states: &mut [TileState<'_>],
    target: Target,
) {
    let Some(cells) = &table_of(class).pairs else { return };
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let zero = _mm256_setzero_si256();
    let width = class.width;
    let start_values = target.start_values(width);
    let mut halves = Halves::new();
    halves.take_from(states);
    for chunk in 0..chunks {
        let mut x = [[zero; 2]; TERMS];
        for term in 0..TERMS {
            let of_chunk = &activations[chunk * width * TERMS..(chunk + 1) * width * TERMS];
            let lanes = lanes_of_term(of_chunk, TERMS, term);
            for (half, x) in x[term].iter_mut().enumerate() {
                // SAFETY: 32 of 64 bytes.
                *x = unsafe { _mm256_loadu_si256(lanes.as_ptr().add(32 * half).cast()) };
            }
        }
        let mut start = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
        }
        halves.trellis = [zero; M];
        let mut at = start;
        // SAFETY: the chunk's part of the target, by the caller's contract.
        let mut out = unsafe { target.base.add(chunk * target.chunk_stride) };
        // Where the accumulators of the first step, tile and term come from; the next tile's, term's and step's.
        let (mut from, from_tile, from_term, from_step) = match &start_values {
            Some(values) if chunk == 0 => (values.as_ptr().cast(), 0, 64, 0),
            _ => (out.cast_const(), target.tile_stride, target.term_stride, 64),
        };
        for pair in 0..steps.div_ceil(2) {
            // The last pair has no second step if their number is odd.
            let present = if 2 * pair + 1 < steps { 2 } else { 1 };
            // SAFETY: `chunk_start` promises as many bytes as the chunk's symbols can take, and 64.
            let (first, second) = unsafe { step::<M, N, REGISTERS, GENERAL>(cells, &mut halves, &mut at) };
            for (which, values) in [first, second].iter().enumerate().take(present) {
                for j in 0..M {
                    let (tile, half) = (j / 2, 32 * (j % 2));
                    // SAFETY: steps below `steps` of tiles and terms are in the target; `from` is the same place, or
                    // the start values of each term.
                    unsafe {
                        let slot = out.add(tile * target.tile_stride + 64 * which + half);
                        for term in 0..TERMS {
                            let place = tile * from_tile + term * from_term + which * from_step + half;
                            let sum = _mm256_loadu_si256(from.add(place).cast());
                            let sum = _mm256_add_epi32(sum, product(values[j], x[term][j % 2]));
                            _mm256_store_si256(slot.add(term * target.term_stride).cast(), sum);
                        }
                        if TERMS == 0 {
                            _mm256_storeu_si256(slot.cast(), values[j]);
                        }
                    }
                }
            }
            for at in &at {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
            }
            out = out.wrapping_add(128);
            from = from.wrapping_add(2 * from_step);
        }
        for k in 0..N {
            // SAFETY: both point into the stream of this tile.
            states[k].chunk_end(unsafe { at[k].offset_from(start[k]) } as usize);
        }
    }
    halves.give_to(states);
}
