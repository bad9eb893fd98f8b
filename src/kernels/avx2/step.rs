//! One step of the decoder: 64 integers of each of a few tiles.

use super::pairs::after_pair;
use super::table::{load, Avx2Table, Twice16};
use crate::kernels::stream::TileState;
use std::arch::x86_64::*;

/// States of several tiles: halves 2 k and 2 k + 1 are the 64 lanes of tile k.
pub(super) struct Halves<const M: usize> {
    pub(super) high: [__m256i; M],
    pub(super) low: [__m256i; M],
    pub(super) trellis: [__m256i; M],
    /// Values of the first integers of pairs under way.
    pub(super) first: [__m256i; M],
}

impl<const M: usize> Halves<M> {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new() -> Self {
        let zero = [_mm256_setzero_si256(); M];
        Self { high: zero, low: zero, trellis: zero, first: zero }
    }

    /// Reads the states of the tiles.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn take_from(&mut self, states: &[TileState<'_>]) {
        for j in 0..M {
            let (state, at) = (&states[j / 2], 32 * (j % 2));
            // SAFETY: 32 of 64 bytes, aligned.
            unsafe {
                self.high[j] = _mm256_load_si256(state.high.as_ptr().add(at).cast());
                self.low[j] = _mm256_load_si256(state.low.as_ptr().add(at).cast());
            }
        }
    }

    /// Writes them back.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn give_to(&self, states: &mut [TileState<'_>]) {
        for j in 0..M {
            let (state, at) = (&mut states[j / 2], 32 * (j % 2));
            // SAFETY: 32 of 64 bytes, aligned.
            unsafe {
                _mm256_store_si256(state.high.as_mut_ptr().add(at).cast(), self.high[j]);
                _mm256_store_si256(state.low.as_mut_ptr().add(at).cast(), self.low[j]);
            }
        }
    }
}

/// Attribute of the runs: `registers` by parity, or numbered through. `index` has the run of each lane; of
/// `by_parity`, `odd` has the same with the mark of parity 1 flipped.
#[inline]
#[target_feature(enable = "avx2")]
fn attribute<const M: usize, const PARITY: bool>(
    registers: &[Twice16; 4],
    run: &[__m256i; M],
    odd: &[__m256i; M],
) -> [__m256i; M] {
    let mut result = [_mm256_setzero_si256(); M];
    if PARITY {
        let (first, second) = (load(&registers[0]), load(&registers[1]));
        for j in 0..M {
            let (a, b) = (_mm256_shuffle_epi8(first, run[j]), _mm256_shuffle_epi8(second, odd[j]));
            result[j] = _mm256_or_si256(a, b);
        }
    } else {
        for (n, register) in registers.iter().enumerate() {
            let register = load(register);
            for j in 0..M {
                // The index of the right register keeps its low bits, the others get bit 7.
                let other = _mm256_xor_si256(run[j], _mm256_set1_epi8(16 * n as i8));
                let index = _mm256_adds_epu8(other, _mm256_set1_epi8(0x70));
                result[j] = _mm256_or_si256(result[j], _mm256_shuffle_epi8(register, index));
            }
        }
    }
    result
}

/// One step of `M` halves: their values. `at` of each tile moves past the bytes that were taken.
///
/// With `IN_PAIRS` the trellis is that of pairs, whose state moves at every `second` step.
///
/// The halves advance together, operation by operation: one alone is a chain of dependent instructions longer
/// than what processors look ahead.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn step<
    const M: usize,
    const N: usize,
    const PARITY: bool,
    const GENERAL: bool,
    const IN_PAIRS: bool,
>(
    table: &Avx2Table,
    thresholds: &[Twice16],
    halves: &mut Halves<M>,
    at: &mut [*const u8; N],
    raw: &[*const u8; N],
    raw_bits: usize,
    second: bool,
) -> [__m256i; M] {
    let zero = _mm256_setzero_si256();
    let Halves { high, low, trellis, first } = halves;

    // Bits 0-2 from the slot, the parity from the trellis state.
    let mut group = [zero; M];
    for j in 0..M {
        let parity = if IN_PAIRS { _mm256_slli_epi16::<3>(trellis[j]) } else { trellis[j] };
        group[j] = _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<5>(low[j]), _mm256_set1_epi8(7)),
            _mm256_and_si256(parity, _mm256_set1_epi8(8)),
        );
    }
    let mut run = [zero; M];
    for j in 0..M {
        run[j] = _mm256_shuffle_epi8(load(&table.first_run), group[j]);
    }
    for threshold in thresholds {
        let threshold = load(threshold);
        for j in 0..M {
            let slot = _mm256_xor_si256(low[j], _mm256_set1_epi8(-128));
            let past = _mm256_cmpgt_epi8(slot, _mm256_shuffle_epi8(threshold, group[j]));
            run[j] = _mm256_sub_epi8(run[j], past);
        }
    }
    let mut odd_run = [zero; M];
    if PARITY {
        for j in 0..M {
            odd_run[j] = _mm256_xor_si256(run[j], _mm256_set1_epi8(-128));
        }
    }
    let frequency = attribute::<M, PARITY>(&table.frequency, &run, &odd_run);
    let mut rank = attribute::<M, PARITY>(&table.rank_base, &run, &odd_run);
    for j in 0..M {
        rank[j] = _mm256_sub_epi8(low[j], rank[j]);
    }

    // SAFETY: passed on from the caller.
    unsafe { advance::<M, N, GENERAL>(&frequency, &rank, high, low, at) };

    let mut value = attribute::<M, PARITY>(&table.value, &run, &odd_run);
    if GENERAL {
        for bit in 0..raw_bits {
            for j in 0..M {
                // SAFETY: the caller's raw plane has 8 bytes for each bit.
                let plane = unsafe { raw[j / 2].add(8 * bit + 4 * (j % 2)).cast::<i32>().read_unaligned() };
                value[j] = _mm256_add_epi8(value[j], spread_bits(plane, 2 << bit));
            }
        }
    }
    for j in 0..M {
        if !IN_PAIRS {
            let index = _mm256_or_si256(trellis[j], _mm256_and_si256(value[j], _mm256_set1_epi8(2)));
            trellis[j] = _mm256_shuffle_epi8(load(&table.transitions), index);
        } else if second {
            trellis[j] = after_pair(trellis[j], _mm256_xor_si256(first[j], value[j]));
        } else {
            first[j] = value[j];
        }
    }
    value
}

/// Moves the states past one symbol: x = frequency * high byte + rank, then a byte of the stream, in lane order, for the
/// lanes that fell below 256. `GENERAL` is for frequencies above 127.
///
/// # Safety
/// 64 bytes can be read at each of `at`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn advance<const M: usize, const N: usize, const GENERAL: bool>(
    frequency: &[__m256i; M],
    rank: &[__m256i; M],
    high: &mut [__m256i; M],
    low: &mut [__m256i; M],
    at: &mut [*const u8; N],
) {
    let zero = _mm256_setzero_si256();
    let low_bytes = _mm256_set1_epi16(255);
    let total_of_eight = _mm256_setr_epi64x(-1, 0x0707_0707_0707_0707, -1, 0x0707_0707_0707_0707);
    // In 16 bits: even lanes and odd lanes.
    let (mut even, mut odd) = ([zero; M], [zero; M]);
    for j in 0..M {
        let high_even = _mm256_and_si256(high[j], low_bytes);
        let high_odd = _mm256_andnot_si256(low_bytes, high[j]);
        if GENERAL {
            even[j] = _mm256_mullo_epi16(_mm256_and_si256(frequency[j], low_bytes), high_even);
            odd[j] = _mm256_mulhi_epu16(_mm256_andnot_si256(low_bytes, frequency[j]), high_odd);
        } else {
            even[j] = _mm256_maddubs_epi16(high_even, frequency[j]);
            odd[j] = _mm256_maddubs_epi16(high_odd, frequency[j]);
        }
    }
    for j in 0..M {
        even[j] = _mm256_add_epi16(even[j], _mm256_and_si256(rank[j], low_bytes));
        odd[j] = _mm256_add_epi16(odd[j], _mm256_srli_epi16::<8>(rank[j]));
    }
    let (mut new_high, mut new_low) = ([zero; M], [zero; M]);
    for j in 0..M {
        new_high[j] = _mm256_blendv_epi8(odd[j], _mm256_srli_epi16::<8>(even[j]), low_bytes);
        new_low[j] = _mm256_blendv_epi8(_mm256_slli_epi16::<8>(odd[j]), even[j], low_bytes);
    }
    let mut refill = [zero; M];
    for j in 0..M {
        refill[j] = _mm256_cmpeq_epi8(new_high[j], zero);
    }
    let mut next = [zero; M];
    for j in 0..M {
        let mask = _mm256_movemask_epi8(refill[j]) as u32;
        let first = at[j / 2];
        // SAFETY: the caller's stream has 64 bytes more than all its symbols can take.
        unsafe {
            let upper = first.add((mask & 0xFFFF).count_ones() as usize);
            next[j] = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(_mm_loadu_si128(first.cast())),
                _mm_loadu_si128(upper.cast()),
            );
            at[j / 2] = first.add(mask.count_ones() as usize);
        }
    }
    // Minus the number of refilled lanes up to each one, in each 16; its complement is the place of the byte.
    let mut count = [zero; M];
    for j in 0..M {
        count[j] = _mm256_add_epi8(refill[j], _mm256_slli_epi64::<8>(refill[j]));
    }
    for j in 0..M {
        count[j] = _mm256_add_epi8(count[j], _mm256_slli_epi64::<16>(count[j]));
    }
    for j in 0..M {
        count[j] = _mm256_add_epi8(count[j], _mm256_slli_epi64::<32>(count[j]));
    }
    for j in 0..M {
        let complement = _mm256_xor_si256(count[j], _mm256_set1_epi8(-1));
        let place = _mm256_sub_epi8(complement, _mm256_shuffle_epi8(count[j], total_of_eight));
        high[j] = _mm256_blendv_epi8(new_high[j], new_low[j], refill[j]);
        low[j] = _mm256_blendv_epi8(new_low[j], _mm256_shuffle_epi8(next[j], place), refill[j]);
    }
}

/// `value` in each byte whose bit in `plane` is set, 0 elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
fn spread_bits(plane: i32, value: i8) -> __m256i {
    let byte_of_lane =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit_of_lane = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(plane), byte_of_lane);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_lane), bit_of_lane);
    _mm256_and_si256(set, _mm256_set1_epi8(value))
}
