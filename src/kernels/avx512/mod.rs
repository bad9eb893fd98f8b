//! AVX-512 kernels: 64 lanes are one register of bytes, so a step is one pass of about 25 vector instructions.
//!
//! The state's high and low bytes live in two registers per tile; tables live in registers too (`vpermb` looks up 64
//! bytes at once, `vpermi2b` 128). A slot becomes a run in two moves: the index of its aligned group of 4 slots and the
//! parity pick a bias, and slot plus bias is 4 times the run, because the bias carries into the next run exactly from
//! the slot on where that one starts; the sum itself addresses the attributes where the runs are few. The trellis is
//! linear over GF(2): `vgf2p8affineqb` makes its transition.
//!
//! Several tiles advance together, operation by operation: one alone is a chain of dependent instructions, and several
//! chains one after the other exceed what processors look ahead. The order of instructions in the source matters, and
//! so does their kind: on Zen 4 multiplications and mask tests share two pipes, lookups two others, and shifts the
//! fourth with one of those, so that it pays to replace one by another where that evens the load. Intel's processors have
//! two pipes for all of it and take three operations for a `vpermi2b`: they have loops of their own ([`ordered`],
//! `Isa::Avx512Vpermb`), in which two masked `vpermb` stand for one of a table, shifts and selections for those that put
//! bytes together.

mod escapes;
mod flush;
mod ordered;
mod pairs;
mod product;
mod table;
mod target;

pub(super) use escapes::add_escapes;
pub(super) use flush::{flush, to_integers};
pub(super) use product::{multiply, multiply_packed, rearrange};
pub(super) use table::Avx512Table;

use super::activations::lanes_of_term;
use super::dispatch::{self, Dot};
use super::group::Group;
use super::packing::{PackedGroup, FETCH_AHEAD};
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use std::arch::x86_64::*;
use table::{Bytes64, Lookup, HIGH_OF_BOTH, LOW_OF_BOTH};
use target::{starts_of, Source, Target};

/// Most tiles decoded in turn.
pub(super) const INTERLEAVE: usize = 6;
/// The same with [`ordered`] loops.
pub(super) const ORDERED_INTERLEAVE: usize = ordered::INTERLEAVE;

/// Bit of a value u = 2k + parity + offset that is the low bit of the index k: the offset is a multiple of 4.
const INDEX_BIT: i8 = 2;

/// Even lanes.
const EVEN: __mmask64 = 0x5555_5555_5555_5555;

/// How far ahead of the decoder the stream is fetched.
const PREFETCH: usize = 1024;

/// What the loops take.
struct Work<'w, 's> {
    class: &'w ClassPlan,
    chunks: usize,
    steps: usize,
    /// Integers of the chunks' columns; none where the values themselves go to the target.
    activations: &'w [i8],
    states: &'w mut [TileState<'s>],
    target: Target,
}

impl<'w> Work<'w, '_> {
    fn table(&self) -> &'w Avx512Table {
        match &self.class.tables {
            Tables::Avx512(table) => table,
            _ => unreachable!("plans and kernels are chosen together"),
        }
    }
}

/// Integers of `chunks` chunks of each tile times the activations, added to the accumulators.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`; the sizes of `operands` are those that `dispatch::dot` checks;
/// each state stands at the first of these chunks of a tile of `steps` steps.
pub(super) unsafe fn dot(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    operands: Dot<'_>,
) {
    let target = Target {
        base: operands.accumulators.as_mut_ptr().cast(),
        tile_stride: 4 * operands.tile_stride,
        chunk_stride: 0,
        term_stride: 4 * operands.term_stride,
        start: operands.start,
    };
    let work = Work { class, chunks, steps, activations: operands.activations, states, target };
    debug_assert_eq!(work.table().split && class.halves, work.table().lookup == Lookup::Cells);
    // SAFETY: passed on from the caller.
    unsafe {
        match operands.terms {
            1 => by_count::<1>(work),
            _ => by_count::<2>(work),
        }
    }
}

/// Unsigned values of `chunks` chunks of each tile: 64 bytes for each chunk and step, chunks in order.
///
/// # Safety
/// As [`dot`]; the bytes at `tile * tile_stride + chunk * chunk_stride`, 64 * steps of them, are in
/// `target.values` for every tile and chunk.
pub(super) unsafe fn decode(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    target: dispatch::Target<'_>,
) {
    let dispatch::Target { values, tile_stride, chunk_stride } = target;
    let target = Target { base: values.as_mut_ptr(), tile_stride, chunk_stride, term_stride: 0, start: None };
    // SAFETY: passed on from the caller.
    unsafe { by_count::<0>(Work { class, chunks, steps, activations: &[], states, target }) }
}

/// With `TERMS` 0 the values themselves go to the target.
unsafe fn by_count<const TERMS: usize>(work: Work<'_, '_>) {
    let split = work.table().split;
    // SAFETY: passed on from the caller.
    unsafe {
        match (work.states.len(), split) {
            (6, false) => by_table::<6, TERMS>(work),
            (5, false) => by_table::<5, TERMS>(work),
            (4, false) => by_table::<4, TERMS>(work),
            (3, false) => by_table::<3, TERMS>(work),
            (2, false) => by_table::<2, TERMS>(work),
            (1, false) => by_table::<1, TERMS>(work),
            (4, true) => ordered::by_table::<4, TERMS>(work),
            (3, true) => ordered::by_table::<3, TERMS>(work),
            (2, true) => ordered::by_table::<2, TERMS>(work),
            (1, true) => ordered::by_table::<1, TERMS>(work),
            (0, _) => {}
            _ => unreachable!("callers take as many tiles as `dispatch::interleave` says"),
        }
    }
}

unsafe fn by_table<const N: usize, const TERMS: usize>(work: Work<'_, '_>) {
    let table = work.table();
    // Raw bits and large frequencies share one slower variant.
    let general = table.wide || work.class.raw_bits > 0;
    // SAFETY: passed on from the caller.
    unsafe {
        match (table.lookup, general) {
            (Lookup::Few, false) => run::<N, FEW, false, TERMS>(work),
            (Lookup::Simple, false) => run::<N, SIMPLE, false, TERMS>(work),
            (Lookup::Simple, true) => run::<N, SIMPLE, true, TERMS>(work),
            // `Few` does not stand with raw bits or large frequencies.
            (Lookup::Any | Lookup::Few, _) => run::<N, ANY, true, TERMS>(work),
            (Lookup::Pairs | Lookup::Cells, false) => pairs::run::<N, false, TERMS>(work),
            // `Cells` are for `ordered`.
            (Lookup::Pairs | Lookup::Cells, true) => pairs::run::<N, true, TERMS>(work),
        }
    }
}

/// [`Lookup`] as constants for generic code.
const FEW: u8 = Lookup::Few as u8;
const SIMPLE: u8 = Lookup::Simple as u8;
const ANY: u8 = Lookup::Any as u8;

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &Bytes64) -> __m512i {
    // SAFETY: 64 aligned bytes.
    unsafe { _mm512_load_si512(bytes.0.as_ptr().cast()) }
}

/// Bytes of two registers of a table. Bit 6 of the index tells which one.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn look_up(index: __m512i, table: &[__m512i; 2]) -> __m512i {
    _mm512_permutex2var_epi8(table[0], index, table[1])
}

/// The attribute of each lane's run.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn attribute<const LOOKUP: u8>(run: __m512i, table: &[__m512i; 2]) -> __m512i {
    if LOOKUP == FEW {
        _mm512_permutex2var_epi8(table[0], run, table[1])
    } else {
        _mm512_permutexvar_epi8(run, table[0])
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
)]
unsafe fn run<const N: usize, const LOOKUP: u8, const GENERAL: bool, const TERMS: usize>(work: Work<'_, '_>) {
    let table = work.table();
    let Work { class, chunks, steps, activations, states, target } = work;
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let zero = _mm512_setzero_si512();
    let runs = [load(&table.runs[0]), load(&table.runs[1])];
    let run_starts = [load(&table.starts[0]), load(&table.starts[1])];
    let frequency = [load(&table.frequency[0]), load(&table.frequency[1])];
    let rank_base = [load(&table.rank_base[0]), load(&table.rank_base[1])];
    let value = [load(&table.value[0]), load(&table.value[1])];
    let transitions = [load(&table.transitions[0]), load(&table.transitions[1])];
    let group_bits = _mm512_set1_epi8(63);
    let index_bit = _mm512_set1_epi8(INDEX_BIT);
    // Byte j: bits 0..=j of an aligned group of 4 slots; the low six bits of a slot address it.
    let up_to_slot = _mm512_set1_epi32(0x0F07_0301);
    let raw_bits = if GENERAL { class.raw_bits } else { 0 };
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
        let mut raw = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
            if GENERAL {
                raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
            }
        }
        let mut at = start;
        let mut out = target.base.add(chunk * target.chunk_stride);
        let mut source = Source::new(&target, out, starts.as_ref().filter(|_| chunk == 0));
        let [mut now, mut then] = transitions;
        for _ in 0..steps {
            let mut run = [zero; N];
            // Bits 0-5 from the slot, the parity from the trellis state. The lookup ignores what else there is.
            for k in 0..N {
                let slot = _mm512_srli_epi16::<2>(low[k]);
                run[k] = _mm512_ternarylogic_epi32::<0xE4>(slot, trellis[k], group_bits);
            }
            if LOOKUP != ANY {
                for k in 0..N {
                    run[k] = look_up(run[k], &runs);
                }
                // The sum is 4 times the run and something below 4. Bits that the shift takes from the neighbour are
                // ignored by the lookups.
                for k in 0..N {
                    run[k] = _mm512_add_epi8(run[k], low[k]);
                    if LOOKUP == SIMPLE {
                        run[k] = _mm512_srli_epi16::<2>(run[k]);
                    }
                }
            } else {
                for k in 0..N {
                    let before = _mm512_and_si512(
                        look_up(run[k], &run_starts),
                        _mm512_permutexvar_epi8(low[k], up_to_slot),
                    );
                    let first = look_up(run[k], &runs);
                    run[k] = _mm512_add_epi8(first, _mm512_popcnt_epi8(before));
                }
            }
            // Values, their products and the next trellis state: nothing below needs them, and registers are few.
            for k in 0..N {
                let mut u = attribute::<LOOKUP>(run[k], &value);
                if GENERAL {
                    for bit in 0..raw_bits {
                        let plane = raw[k].cast::<u64>().read_unaligned();
                        raw[k] = raw[k].wrapping_add(8);
                        u = _mm512_mask_add_epi8(u, plane, u, _mm512_set1_epi8(2 << bit));
                    }
                }
                let bits = _mm512_ternarylogic_epi32::<0xD8>(trellis[k], u, index_bit);
                trellis[k] = _mm512_gf2p8affine_epi64_epi8::<0>(bits, now);
                let slot = out.add(k * target.tile_stride);
                for term in 0..TERMS {
                    let sum = _mm512_load_si512(source.of(k, term).cast());
                    let sum = _mm512_dpbusd_epi32(sum, u, x[term]);
                    _mm512_store_si512(slot.add(term * target.term_stride).cast(), sum);
                }
                if TERMS == 0 {
                    _mm512_storeu_si512(slot.cast(), u);
                }
            }
            let (mut f, mut rank) = ([zero; N], [zero; N]);
            for k in 0..N {
                f[k] = attribute::<LOOKUP>(run[k], &frequency);
            }
            for k in 0..N {
                rank[k] = _mm512_sub_epi8(low[k], attribute::<LOOKUP>(run[k], &rank_base));
            }
            advance::<N, GENERAL>(&f, &rank, &mut high, &mut low, &mut at);
            out = out.add(64);
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

/// Moves the states past one symbol: x = frequency * high byte + rank, then a byte of the stream for the lanes that fell
/// below 256. `GENERAL` is for frequencies above 127.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`; 64 bytes can be read at each of `at`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
)]
unsafe fn advance<const N: usize, const GENERAL: bool>(
    frequency: &[__m512i; N],
    rank: &[__m512i; N],
    high: &mut [__m512i; N],
    low: &mut [__m512i; N],
    at: &mut [*const u8; N],
) {
    let zero = _mm512_setzero_si512();
    let low_bytes = _mm512_set1_epi16(255);
    let (low_of_both, high_of_both) = (load(&LOW_OF_BOTH), load(&HIGH_OF_BOTH));
    // In 16 bits: even lanes and odd lanes.
    let (mut even, mut odd) = ([zero; N], [zero; N]);
    for k in 0..N {
        let high_even = _mm512_maskz_mov_epi8(EVEN, high[k]);
        let high_odd = _mm512_maskz_mov_epi8(!EVEN, high[k]);
        if GENERAL {
            even[k] = _mm512_mullo_epi16(_mm512_and_si512(frequency[k], low_bytes), high_even);
            odd[k] = _mm512_mulhi_epu16(_mm512_andnot_si512(low_bytes, frequency[k]), high_odd);
        } else {
            even[k] = _mm512_maddubs_epi16(high_even, frequency[k]);
            odd[k] = _mm512_maddubs_epi16(high_odd, frequency[k]);
        }
    }
    for k in 0..N {
        even[k] = _mm512_add_epi16(even[k], _mm512_and_si512(rank[k], low_bytes));
        odd[k] = _mm512_add_epi16(odd[k], _mm512_srli_epi16::<8>(rank[k]));
    }
    // Lanes below 256 move up by one byte of the stream, in lane order.
    let mut refill = [0; N];
    for k in 0..N {
        // One or two tiles wait for results: the quicker way is faster, else the one with fewer instructions.
        high[k] = if N <= 2 {
            _mm512_mask_mov_epi8(odd[k], EVEN, _mm512_srli_epi16::<8>(even[k]))
        } else {
            _mm512_permutex2var_epi8(even[k], high_of_both, odd[k])
        };
        low[k] = _mm512_permutex2var_epi8(even[k], low_of_both, odd[k]);
        refill[k] = _mm512_testn_epi8_mask(high[k], high[k]);
    }
    for k in 0..N {
        // SAFETY: the caller's 64 bytes; as many of them are passed as lanes took one.
        unsafe {
            let next = _mm512_loadu_si512(at[k].cast());
            high[k] = _mm512_mask_mov_epi8(high[k], refill[k], low[k]);
            low[k] = _mm512_mask_expand_epi8(low[k], refill[k], next);
            at[k] = at[k].add(refill[k].count_ones() as usize);
        }
        _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
    }
}

/// The terms of a chunk's activations: operands of 64 products each.
#[inline]
#[target_feature(enable = "avx512f")]
fn operands<const TERMS: usize>(of_chunk: &[i8]) -> [__m512i; TERMS] {
    std::array::from_fn(|term| {
        // SAFETY: all reads are of 64 bytes of arrays.
        unsafe {
            match of_chunk.as_chunks::<64>() {
                ([whole], []) if TERMS == 1 => _mm512_loadu_si512(whole.as_ptr().cast()),
                ([first, second], []) if TERMS == 2 => {
                    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                    _mm512_permutex2var_epi32(
                        _mm512_loadu_si512(first.as_ptr().cast()),
                        _mm512_or_si512(even, _mm512_set1_epi32(term as i32)),
                        _mm512_loadu_si512(second.as_ptr().cast()),
                    )
                }
                _ => _mm512_loadu_si512(lanes_of_term(of_chunk, TERMS, term).as_ptr().cast()),
            }
        }
    })
}

/// [`Group::quantize`] with wide registers.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn quantize(parts: &mut [Group]) -> f32 {
    Group::quantize(parts)
}

/// [`Group::split`] with wide registers.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn split(group: &mut Group) -> f32 {
    group.split()
}

/// [`PackedGroup::unpack`] with wide registers, fetching ahead.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn unpack(group: &PackedGroup<'_>, to: &mut [u8]) {
    group.unpack(to, |at| {
        #[allow(unused_unsafe, reason = "older compilers want it")]
        // SAFETY: a hint, which may name any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(FETCH_AHEAD).cast())
        };
    });
}
