//! The loop over classes with pair tables: one lookup, one multiplication and one refill for two integers.
//!
//! Same steps as in the loop of the parent module. A pair table has up to 128 runs, of which many begin in one group of
//! slots, so the run of a slot is that of its group's first slot plus the runs that start up to it; four attributes
//! (frequency, rank, two values) have 128 entries each. 30 vector instructions for 128 integers, where single tables
//! take 25 for 64.

use super::{advance, load, look_up, operands, starts_of, Source, Work, INDEX_BIT};
use crate::kernels::stream::TileState;
use std::arch::x86_64::*;

/// See `super::run`. `GENERAL` is for frequencies above 127.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
)]
pub(super) unsafe fn run<const N: usize, const GENERAL: bool, const TERMS: usize>(work: Work<'_, '_>) {
    let table = work.table();
    let Work { class, chunks, steps, activations, states, target } = work;
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let zero = _mm512_setzero_si512();
    let both = |tables: &[_; 2]| [load(&tables[0]), load(&tables[1])];
    let (runs, run_starts) = (both(&table.runs), both(&table.starts));
    let (frequency, rank_base) = (both(&table.frequency), both(&table.rank_base));
    let (first_value, second_value) = (both(&table.value), both(&table.second));
    let transitions = load(&table.transitions[1]);
    let group_bits = _mm512_set1_epi8(63);
    let index_bit = _mm512_set1_epi8(INDEX_BIT);
    // Byte j: bits 0..=j of an aligned group of 4 slots; the low six bits of a slot address it.
    let up_to_slot = _mm512_set1_epi32(0x0F07_0301);
    let width = class.width;
    let starts = starts_of(&target, width);

    let (mut high, mut low) = ([zero; N], [zero; N]);
    for k in 0..N {
        high[k] = _mm512_load_si512(states[k].high.as_ptr().cast());
        low[k] = _mm512_load_si512(states[k].low.as_ptr().cast());
    }
    for chunk in 0..chunks {
        let x = operands::<TERMS>(&activations[chunk * width * TERMS..(chunk + 1) * width * TERMS]);
        let mut trellis = [zero; N];
        let mut start = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
        }
        let mut at = start;
        let mut out = target.base.add(chunk * target.chunk_stride);
        let mut source = Source::new(&target, out, starts.as_ref().filter(|_| chunk == 0));
        for pair in 0..steps.div_ceil(2) {
            // The last pair has no second step if their number is odd.
            let whole = 2 * pair + 1 < steps;
            let mut run = [zero; N];
            // Bits 0-5 from the slot, the parity from the trellis state. The lookup ignores what else there is.
            for k in 0..N {
                let slot = _mm512_srli_epi16::<2>(low[k]);
                run[k] = _mm512_ternarylogic_epi32::<0xE4>(slot, trellis[k], group_bits);
            }
            for k in 0..N {
                let before = _mm512_and_si512(
                    look_up(run[k], &run_starts),
                    _mm512_permutexvar_epi8(low[k], up_to_slot),
                );
                let first = look_up(run[k], &runs);
                run[k] = _mm512_add_epi8(first, _mm512_popcnt_epi8(before));
            }
            // Values, their products and the next trellis state: nothing below needs them, and registers are few.
            for k in 0..N {
                let u = look_up(run[k], &first_value);
                let second = look_up(run[k], &second_value);
                let branch = _mm512_xor_si512(u, second);
                let bits = _mm512_ternarylogic_epi32::<0xD8>(trellis[k], branch, index_bit);
                trellis[k] = _mm512_gf2p8affine_epi64_epi8::<0>(bits, transitions);
                let slot = out.add(k * target.tile_stride);
                for term in 0..TERMS {
                    let slot = slot.add(term * target.term_stride);
                    let sum = _mm512_dpbusd_epi32(_mm512_load_si512(source.of(k, term).cast()), u, x[term]);
                    _mm512_store_si512(slot.cast(), sum);
                    if whole {
                        let before = _mm512_load_si512(source.next().of(k, term).cast());
                        let sum = _mm512_dpbusd_epi32(before, second, x[term]);
                        _mm512_store_si512(slot.add(64).cast(), sum);
                    }
                }
                if TERMS == 0 {
                    _mm512_storeu_si512(slot.cast(), u);
                    if whole {
                        _mm512_storeu_si512(slot.add(64).cast(), second);
                    }
                }
            }
            let (mut f, mut rank) = ([zero; N], [zero; N]);
            for k in 0..N {
                f[k] = look_up(run[k], &frequency);
            }
            for k in 0..N {
                let base = look_up(run[k], &rank_base);
                rank[k] = _mm512_sub_epi8(low[k], base);
            }
            advance::<N, GENERAL>(&f, &rank, &mut high, &mut low, &mut at);
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
