//! The loop over classes with single tables: one tile after the other.
//!
//! 30 vector operations for 64 integers, of which 9 go to one pipe, 7 to the other, and 14 to either. A tile has so few
//! that processors see three of them at a time.

use super::*;
use crate::kernels::avx512::{operands, EVEN, INDEX_BIT, PREFETCH};
use crate::kernels::stream::TileState;
use crate::payload::table::MAX_RAW_BITS;

/// What each raw bit counts.
static PLACES: [Bytes64; MAX_RAW_BITS as usize] = {
    let mut places = [Bytes64::ZERO; MAX_RAW_BITS as usize];
    let mut bit = 0;
    while bit < places.len() {
        places[bit] = Bytes64([2 << bit; 64]);
        bit += 1;
    }
    places
};

/// See `avx512::run`. `WIDE` is for frequencies above 127, `RAW` for raw bits.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
)]
pub(super) unsafe fn run<
    const N: usize,
    const LOOKUP: u8,
    const WIDE: bool,
    const RAW: bool,
    const TERMS: usize,
>(
    work: Work<'_, '_>,
) {
    let table = work.table();
    let Work { class, chunks, steps, activations, states, target } = work;
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let (width, raw_bits) = (class.width, class.raw_bits);
    let starts = starts_of(&target, width);
    let zero = _mm512_setzero_si512();
    let index_bit = _mm512_set1_epi8(INDEX_BIT);
    // Byte j: bits 0..=j of an aligned group of 4 slots; the low six bits of a slot address it.
    let up_to_slot = _mm512_set1_epi32(0x0F07_0301);
    let low_bytes = _mm512_set1_epi16(255);
    let minus_one = _mm512_set1_epi8(-1);
    let transitions = [load(&table.transitions[0]), load(&table.transitions[1])];

    let (mut high, mut low) = ([zero; N], [zero; N]);
    for k in 0..N {
        high[k] = _mm512_load_si512(states[k].high.as_ptr().cast());
        low[k] = _mm512_load_si512(states[k].low.as_ptr().cast());
    }
    for chunk in 0..chunks {
        let x = operands::<TERMS>(&activations[chunk * width * TERMS..(chunk + 1) * width * TERMS]);
        let mut start = [std::ptr::null::<u8>(); N];
        let mut raw = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
            if RAW {
                raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
            }
        }
        let mut at = start;
        let mut trellis = [zero; N];
        let mut out = target.base.add(chunk * target.chunk_stride);
        let mut source = Source::new(&target, out, starts.as_ref().filter(|_| chunk == 0));
        let [mut now, mut then] = transitions;
        for _ in 0..steps {
            // The compiler does not unroll a loop this long.
            macro_rules! tile {
                ($tile:literal) => {
                    let k: usize = $tile;
                    if k < N {
                        let slot = shift_right::<2>(low[k]);
                        let odd = sign_mask(trellis[k]);
                        let mut run = look_up(slot, &table.runs[0]);
                        run = look_up_masked(run, odd, slot, &table.runs[1]);
                        run = if LOOKUP == ANY {
                            let mut starts = look_up(slot, &table.starts[0]);
                            starts = look_up_masked(starts, odd, slot, &table.starts[1]);
                            add(run, count_bits(and(starts, look_up_in(low[k], up_to_slot))))
                        } else {
                            // 4 times the run and something below 4. Bits that the shift takes from the
                            // neighbour are ignored by the lookups.
                            shift_right::<2>(add(run, low[k]))
                        };
                        let frequency = look_up(run, &table.frequency[0]);
                        let rank = subtract(low[k], look_up(run, &table.rank_base[0]));
                        let mut uneven = and_not(low_bytes, high[k]);
                        let mut even = and(low_bytes, high[k]);
                        if WIDE {
                            even = multiply_low(even, and(low_bytes, frequency));
                            uneven = multiply_high(uneven, and_not(low_bytes, frequency));
                        } else {
                            even = multiply(even, frequency);
                            uneven = multiply(uneven, frequency);
                        }
                        if is_quick(N) {
                            even = add_words(even, and(low_bytes, rank));
                            uneven = add_words(uneven, shift_right::<8>(rank));
                        }
                        low[k] = ternary::<0xD8>(shift_left::<8>(uneven), even, low_bytes);
                        high[k] = select(shift_right::<8>(even), !EVEN, uneven);
                        if !is_quick(N) {
                            low[k] = add(low[k], rank);
                            high[k] = subtract_masked(high[k], less(low[k], rank), minus_one);
                        }
                        let refill = zero_mask(high[k]);
                        high[k] = select(high[k], refill, low[k]);
                        low[k] = expand(low[k], refill, at[k]);
                        at[k] = at[k].add(refill.count_ones() as usize);
                        _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                        let mut u = look_up(run, &table.value[0]);
                        if RAW {
                            for bit in 0..raw_bits {
                                let plane = raw[k].cast::<u64>().read_unaligned();
                                raw[k] = raw[k].wrapping_add(8);
                                u = _mm512_mask_add_epi8(u, plane, u, load(&PLACES[bit]));
                            }
                        }
                        trellis[k] = affine(ternary::<0xD8>(trellis[k], u, index_bit), now);
                        product::<TERMS>(&target, source, out, k, u, &x);
                    }
                };
            }
            tile!(0);
            tile!(1);
            tile!(2);
            tile!(3);
            out = out.wrapping_add(64);
            source = source.next();
            (now, then) = (then, now);
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
