//! AVX2 kernels: 64 lanes are two registers of bytes.
//!
//! `vpshufb` looks up 16 entries, so a table is cut to fit: the index of a slot's aligned group of 32 and the parity
//! give the group's first run, comparisons with the run ends inside the group add the rest, and each attribute of a
//! run has one register for each parity. There is no byte expansion instruction: a prefix sum over the lanes that
//! need a byte tells each of them which one.

mod flush;
mod pairs;
mod product;
mod step;
mod table;

pub(super) use flush::flush;
pub(super) use product::{multiply, rearrange};
pub(super) use table::Avx2Table;

use super::activations::{lanes_of_term, MOST_TERMS};
use super::dispatch::{self, Dot};
use super::group::Group;
use super::packing::{PackedGroup, FETCH_AHEAD};
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use std::arch::x86_64::*;
use step::{step, Halves};

/// Most tiles decoded in turn.
pub(super) const INTERLEAVE: usize = 2;

/// How far ahead of the decoder the stream is fetched.
const PREFETCH: usize = 1024;

/// See `avx512::Target`.
#[derive(Clone, Copy)]
struct Target {
    base: *mut u8,
    tile_stride: usize,
    chunk_stride: usize,
    term_stride: usize,
    start: Option<[[i32; 2]; MOST_TERMS]>,
}

impl Target {
    /// Accumulators of one step and term with the start in the first one of each row.
    fn start_values(&self, width: usize) -> Option<[[i32; 16]; MOST_TERMS]> {
        let parts = width / 4;
        // The same for even and odd steps.
        let values = |[start, _]: [i32; 2]| std::array::from_fn(|i| if i % parts == 0 { start } else { 0 });
        self.start.map(|start| start.map(values))
    }
}

fn table_of(class: &ClassPlan) -> &Avx2Table {
    match &class.tables {
        Tables::Avx2(table) => table,
        _ => unreachable!("plans and kernels are chosen together"),
    }
}

/// See `avx512::dot`.
///
/// # Safety
/// As there, with the instructions of `Isa::Avx2`.
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
    // SAFETY: passed on from the caller.
    unsafe {
        match operands.terms {
            1 => by_count::<1>(class, chunks, steps, operands.activations, states, target),
            _ => by_count::<2>(class, chunks, steps, operands.activations, states, target),
        }
    }
}

/// See `avx512::decode`.
///
/// # Safety
/// As there, with the instructions of `Isa::Avx2`.
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
    unsafe { by_count::<0>(class, chunks, steps, &[], states, target) }
}

/// With `TERMS` 0 the values themselves go to the target.
unsafe fn by_count<const TERMS: usize>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    states: &mut [TileState<'_>],
    target: Target,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match states.len() {
            2 => by_table::<2, 4, TERMS>(class, chunks, steps, activations, states, target),
            _ => {
                for (index, state) in states.iter_mut().enumerate() {
                    let target = Target { base: target.base.add(index * target.tile_stride), ..target };
                    let state = std::slice::from_mut(state);
                    by_table::<1, 2, TERMS>(class, chunks, steps, activations, state, target);
                }
            }
        }
    }
}

unsafe fn by_table<const N: usize, const M: usize, const TERMS: usize>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    states: &mut [TileState<'_>],
    target: Target,
) {
    let table = table_of(class);
    macro_rules! run {
        ($ends:literal, $parity:literal, $general:literal, $in_pairs:literal) => {
            // SAFETY: passed on from the caller.
            unsafe {
                run::<N, M, $ends, $parity, $general, $in_pairs, TERMS>(
                    class,
                    chunks,
                    steps,
                    activations,
                    states,
                    target,
                )
            }
        };
    }
    // Raw bits and large frequencies share one slower variant.
    let general = table.wide || class.raw_bits > 0;
    if let Some(cells) = &table.pairs {
        macro_rules! run_pairs {
            ($registers:literal, $general:literal) => {
                // SAFETY: passed on from the caller.
                unsafe {
                    pairs::run::<N, M, $registers, $general, TERMS>(
                        class,
                        chunks,
                        steps,
                        activations,
                        states,
                        target,
                    )
                }
            };
        }
        return match (cells.registers.len(), general) {
            (0..=2, false) => run_pairs!(2, false),
            (3..=4, false) => run_pairs!(4, false),
            (5..=6, false) => run_pairs!(6, false),
            (_, false) => run_pairs!(8, false),
            (_, true) => run_pairs!(8, true),
        };
    }
    match (table.thresholds.len(), table.by_parity, general, table.in_pairs) {
        (2, true, false, false) => run!(2, true, false, false),
        (3, true, false, false) => run!(3, true, false, false),
        (4, true, false, false) => run!(4, true, false, false),
        (_, true, false, false) => run!(0, true, false, false),
        (_, true, true, false) => run!(0, true, true, false),
        (_, false, false, false) => run!(0, false, false, false),
        (_, false, true, false) => run!(0, false, true, false),
        (2, true, false, true) => run!(2, true, false, true),
        (3, true, false, true) => run!(3, true, false, true),
        (_, true, false, true) => run!(0, true, false, true),
        (_, true, true, true) => run!(0, true, true, true),
        (_, false, false, true) => run!(0, false, false, true),
        (_, false, true, true) => run!(0, false, true, true),
    }
}

/// `M` is twice `N`: a constant of its own because constants cannot be computed from others here.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
unsafe fn run<
    const N: usize,
    const M: usize,
    const ENDS: usize,
    const PARITY: bool,
    const GENERAL: bool,
    const IN_PAIRS: bool,
    const TERMS: usize,
>(
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    activations: &[i8],
    states: &mut [TileState<'_>],
    target: Target,
) {
    let table = table_of(class);
    let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
    let zero = _mm256_setzero_si256();
    let raw_bits = if GENERAL { class.raw_bits } else { 0 };
    let ends = if ENDS > 0 { ENDS } else { table.thresholds.len() };
    let thresholds = &table.thresholds[..ends];
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
                *x = _mm256_loadu_si256(lanes.as_ptr().add(32 * half).cast());
            }
        }
        let mut start = [std::ptr::null::<u8>(); N];
        let mut raw = [std::ptr::null::<u8>(); N];
        for k in 0..N {
            start[k] = states[k].chunk_start();
            if GENERAL {
                raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
            }
        }
        halves.trellis = [zero; M];
        let mut at = start;
        let mut out = target.base.add(chunk * target.chunk_stride);
        // Where the accumulators of the first step, tile and term come from; the next tile's, term's and step's.
        let (mut from, from_tile, from_term, from_step) = match &start_values {
            Some(values) if chunk == 0 => (values.as_ptr().cast(), 0, 64, 0),
            _ => (out.cast_const(), target.tile_stride, target.term_stride, 64),
        };
        for index in 0..steps {
            let second = index % 2 == 1;
            let values = step::<M, N, PARITY, GENERAL, IN_PAIRS>(
                table,
                thresholds,
                &mut halves,
                &mut at,
                &raw,
                raw_bits,
                second,
            );
            for j in 0..M {
                let (tile, half) = (j / 2, 32 * (j % 2));
                let slot = out.add(tile * target.tile_stride + half);
                for term in 0..TERMS {
                    let (u, x) = (values[j], x[term][j % 2]);
                    let product = if GENERAL { product_wide(u, x) } else { product(u, x) };
                    let sum = _mm256_loadu_si256(from.add(tile * from_tile + term * from_term + half).cast());
                    let slot = slot.add(term * target.term_stride);
                    _mm256_store_si256(slot.cast(), _mm256_add_epi32(sum, product));
                }
                if TERMS == 0 {
                    _mm256_storeu_si256(slot.cast(), values[j]);
                }
            }
            for k in 0..N {
                if GENERAL {
                    raw[k] = raw[k].wrapping_add(8 * raw_bits);
                }
                _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
            }
            out = out.add(64);
            from = from.wrapping_add(from_step);
        }
        for k in 0..N {
            states[k].chunk_end(at[k].offset_from(start[k]) as usize);
        }
    }
    halves.give_to(states);
}

/// Sums of four products of neighbouring bytes; `u` up to 127.
#[inline]
#[target_feature(enable = "avx2")]
fn product(u: __m256i, x: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1))
}

/// The same for `u` up to 255: nibbles one by one, so that the 16-bit sums do not saturate.
#[inline]
#[target_feature(enable = "avx2")]
fn product_wide(u: __m256i, x: __m256i) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    let low = _mm256_maddubs_epi16(_mm256_and_si256(u, nibble), x);
    let high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(u), nibble), x);
    _mm256_add_epi32(
        _mm256_madd_epi16(low, _mm256_set1_epi16(1)),
        _mm256_madd_epi16(high, _mm256_set1_epi16(16)),
    )
}

/// [`Group::quantize`] with wide registers.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(parts: &mut [Group]) -> f32 {
    Group::quantize(parts)
}

/// [`Group::split`] with wide registers.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn split(group: &mut Group) -> f32 {
    group.split()
}

/// [`PackedGroup::unpack`] with wide registers, fetching ahead.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn unpack(group: &PackedGroup<'_>, to: &mut [u8]) {
    group.unpack(to, |at| {
        #[allow(unused_unsafe, reason = "older compilers want it")]
        // SAFETY: a hint, which may name any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(FETCH_AHEAD).cast())
        };
    });
}
