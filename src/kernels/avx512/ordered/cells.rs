//! The loop over classes with pair tables that have [`Cells`](crate::kernels::halves::Cells), with tiles staggered.
//!
//! A pass over a pair of integers is 36 vector operations, of which 12 go to one pipe, 8 to the other, and 16 to either: 18
//! cycles if both are always busy. While a tile looks up, the one before it multiplies, and the one before that takes
//! bytes from the stream.

use super::*;
use crate::kernels::avx512::{operands, EVEN, INDEX_BIT, PREFETCH};
use crate::kernels::halves::{BRANCH_BIT, HIGH_HALF};
use crate::kernels::stream::TileState;

/// See `avx512::run`. `WIDE` is for frequencies above 127. Accumulators hold halves, the target has values.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
)]
#[expect(
    unused_assignments,
    reason = "the last turn has no tile that looks up, which only the number of tiles tells"
)]
pub(super) unsafe fn run<const N: usize, const WIDE: bool, const TERMS: usize>(work: Work<'_, '_>) {
    let table = work.table();
    let Work { class, chunks, steps, activations, states, target } = work;
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let width = class.width;
    let starts = starts_of(&target, width);
    let zero = _mm512_setzero_si512();
    // What moves the trellis: the low bit of b, or of the sum of two indices.
    let (branch_bit, transition) = match TERMS {
        0 => (_mm512_set1_epi8(INDEX_BIT), load(&table.transitions[1])),
        _ => (_mm512_set1_epi8(BRANCH_BIT as i8), load(&table.halves_transition)),
    };
    let high_half = _mm512_set1_epi8(HIGH_HALF as i8);
    let last_of_runs = _mm512_set1_epi8(table.last_of_runs as i8);
    let low_bytes = _mm512_set1_epi16(255);
    let minus_one = _mm512_set1_epi8(-1);
    // Of an even step: the byte of both integers, or its value.
    let firsts = if TERMS == 0 { &table.value } else { &table.halves };

    let (mut high, mut low) = ([zero; N], [zero; N]);
    for k in 0..N {
        high[k] = _mm512_load_si512(states[k].high.as_ptr().cast());
        low[k] = _mm512_load_si512(states[k].low.as_ptr().cast());
    }
    for chunk in 0..chunks {
        let x = operands::<TERMS>(&activations[chunk * width * TERMS..(chunk + 1) * width * TERMS]);
        let mut start = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
        }
        let mut at = start;
        let mut trellis = [zero; N];
        let mut out = target.base.add(chunk * target.chunk_stride);
        let mut source = Source::new(&target, out, starts.as_ref().filter(|_| chunk == 0));
        for pair in 0..steps.div_ceil(2) {
            // The last pair has no second step if their number is odd.
            let whole = 2 * pair + 1 < steps;
            let (mut slot, mut odd, mut beyond) = ([zero; N], [0; N], [zero; N]);
            let mut cell = [zero; N];
            let (mut first, mut second) = ([zero; N], [zero; N]);
            let (mut frequency, mut rank) = ([zero; N], [zero; N]);
            let (mut even, mut uneven) = ([zero; N], [zero; N]);
            let (mut carry, mut refill) = ([0; N], [0; N]);
            // One turn for each tile, and two in which the last ones end; the compiler does not unroll a loop this long.
            macro_rules! turn {
                ($turn:literal) => {
                    // The tile that looks up, the one that multiplies, and the one that takes bytes, if there are such.
                    macro_rules! looking {
                        ($k:ident: $do:block) => {
                            let $k: usize = $turn;
                            if $k < N $do
                        };
                    }
                    macro_rules! multiplying {
                        ($k:ident: $do:block) => {
                            let $k = usize::wrapping_sub($turn, 1);
                            if $k < N $do
                        };
                    }
                    macro_rules! taking {
                        ($k:ident: $do:block) => {
                            let $k = usize::wrapping_sub($turn, 2);
                            if $k < N $do
                        };
                    }
                    looking!(k: {
                        slot[k] = shift_right::<2>(low[k]);
                        odd[k] = sign_mask(trellis[k]);
                        cell[k] = look_up(slot[k], &table.runs[0]);
                        uneven[k] = and_not(low_bytes, high[k]);
                        even[k] = and(low_bytes, high[k]);
                    });
                    multiplying!(k: {
                        rank[k] = subtract(low[k], rank[k]);
                    });
                    looking!(k: {
                        cell[k] = look_up_masked(cell[k], odd[k], slot[k], &table.runs[1]);
                    });
                    taking!(k: {
                        high[k] = select(high[k], refill[k], low[k]);
                    });
                    looking!(k: {
                        beyond[k] = excess(low[k], last_of_runs);
                    });
                    multiplying!(k: {
                        if is_quick(N) {
                            even[k] = add_words(even[k], and(low_bytes, rank[k]));
                            uneven[k] = add_words(uneven[k], shift_right::<8>(rank[k]));
                        }
                        low[k] = shift_left::<8>(uneven[k]);
                        low[k] = ternary::<0xD8>(low[k], even[k], low_bytes);
                        high[k] = shift_right::<8>(even[k]);
                        if !is_quick(N) {
                            low[k] = add(low[k], rank[k]);
                        }
                        high[k] = select(high[k], !EVEN, uneven[k]);
                        if !is_quick(N) {
                            carry[k] = less(low[k], rank[k]);
                        }
                    });
                    looking!(k: {
                        // Bits that the shift takes from the neighbour are ignored by the lookups.
                        cell[k] = add(cell[k], low[k]);
                        cell[k] = shift_right::<2>(cell[k]);
                    });
                    multiplying!(k: {
                        product::<TERMS>(&target, source, out, k, first[k], &x);
                        if !is_quick(N) {
                            high[k] = subtract_masked(high[k], carry[k], minus_one);
                        }
                    });
                    taking!(k: {
                        low[k] = expand(low[k], refill[k], at[k]);
                    });
                    looking!(k: {
                        cell[k] = add(cell[k], beyond[k]);
                        frequency[k] = look_up(cell[k], &table.frequency[0]);
                    });
                    multiplying!(k: {
                        if TERMS > 0 {
                            // Halves need both accumulators.
                            product::<TERMS>(&target, source.next(), out.wrapping_add(64), k, and(first[k], high_half), &x);
                        } else if whole {
                            product::<TERMS>(&target, source.next(), out.wrapping_add(64), k, second[k], &x);
                        }
                    });
                    looking!(k: {
                        rank[k] = look_up(cell[k], &table.rank_base[0]);
                    });
                    multiplying!(k: {
                        let branch = if TERMS > 0 { first[k] } else { xor(first[k], second[k]) };
                        trellis[k] = ternary::<0xD8>(trellis[k], branch, branch_bit);
                    });
                    looking!(k: {
                        first[k] = look_up(cell[k], &firsts[0]);
                        frequency[k] = look_up_masked(frequency[k], odd[k], cell[k], &table.frequency[1]);
                    });
                    multiplying!(k: {
                        trellis[k] = affine(trellis[k], transition);
                    });
                    looking!(k: {
                        rank[k] = look_up_masked(rank[k], odd[k], cell[k], &table.rank_base[1]);
                        if TERMS == 0 {
                            second[k] = look_up(cell[k], &table.second[0]);
                            second[k] = look_up_masked(second[k], odd[k], cell[k], &table.second[1]);
                        }
                    });
                    taking!(k: {
                        at[k] = at[k].add(refill[k].count_ones() as usize);
                        _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                    });
                    looking!(k: {
                        first[k] = look_up_masked(first[k], odd[k], cell[k], &firsts[1]);
                    });
                    multiplying!(k: {
                        refill[k] = zero_mask(high[k]);
                    });
                    looking!(k: {
                        if WIDE {
                            even[k] = multiply_low(even[k], and(low_bytes, frequency[k]));
                            uneven[k] = multiply_high(uneven[k], and_not(low_bytes, frequency[k]));
                        } else {
                            even[k] = multiply(even[k], frequency[k]);
                            uneven[k] = multiply(uneven[k], frequency[k]);
                        }
                    });
                };
            }
            turn!(0);
            turn!(1);
            turn!(2);
            turn!(3);
            turn!(4);
            turn!(5);
            out = out.wrapping_add(128);
            source = source.next_pair();
        }
        for k in 0..N {
            states[k].chunk_end(at[k].offset_from(start[k]) as usize);
        }
    }
    for k in 0..N {
        _mm512_store_si512(states[k].high.as_mut_ptr().cast(), high[k]);
        _mm512_store_si512(states[k].low.as_mut_ptr().cast(), low[k]);
    }
}
