//! The loops for processors that look up in one register at a time (`Isa::Avx512Vpermb`), with instructions in the order
//! in which two pipes can begin them.
//!
//! Some vector operations go to one pipe (lookups, bit counts, byte expansion, mask tests), some to the other (shifts, the
//! trellis, masks of signs), the rest to either. Operations wait for their operands in a queue of about a hundred; written
//! operation by operation for all tiles, it fills with those for one pipe. The compiler sorts intrinsics by rules of its
//! own, so instructions are written as such. Up to four tiles fit the registers.

mod cells;
mod single;

use super::table::Bytes64;
use super::{load, starts_of, Lookup, Source, Target, Work, ANY, SIMPLE};
use std::arch::asm;
use std::arch::x86_64::*;

/// Most tiles that these loops decode in turn.
pub(super) const INTERLEAVE: usize = 4;

/// Whether so few tiles wait for results: ranks are then added to words, which takes an operation more than to add them to
/// bytes and carry, but leaves fewer one after the other.
const fn is_quick(tiles: usize) -> bool {
    tiles <= 2
}

/// The loop for the table of `work`.
///
/// # Safety
/// As [`super::dot`].
pub(super) unsafe fn by_table<const N: usize, const TERMS: usize>(work: Work<'_, '_>) {
    let table = work.table();
    // SAFETY: passed on from the caller.
    unsafe {
        match (table.lookup, table.wide, work.class.raw_bits > 0) {
            (Lookup::Simple, false, false) => single::run::<N, SIMPLE, false, false, TERMS>(work),
            (Lookup::Simple, false, true) => single::run::<N, SIMPLE, false, true, TERMS>(work),
            (Lookup::Simple, true, false) => single::run::<N, SIMPLE, true, false, TERMS>(work),
            (Lookup::Simple, true, true) => single::run::<N, SIMPLE, true, true, TERMS>(work),
            // `Few` is for lookups in two registers.
            (Lookup::Any | Lookup::Few, _, false) => single::run::<N, ANY, true, false, TERMS>(work),
            (Lookup::Any | Lookup::Few, _, true) => single::run::<N, ANY, true, true, TERMS>(work),
            (Lookup::Cells, false, _) => cells::run::<N, false, TERMS>(work),
            (Lookup::Cells, true, _) => cells::run::<N, true, TERMS>(work),
            (Lookup::Pairs, ..) => unreachable!("`Avx512Table::new` does not split these"),
        }
    }
}

/// Defines functions of one instruction each, with registers as operands.
macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident($($operand:ident),*) = $text:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg,gfni")]
        fn $name($($operand: __m512i),*) -> __m512i {
            let result: __m512i;
            // SAFETY: an instruction of the enabled features that touches nothing but its registers.
            unsafe {
                asm!($text, result = lateout(zmm_reg) result, $($operand = in(zmm_reg) $operand,)*
                    options(nomem, nostack, preserves_flags));
            }
            result
        }
    )*};
}

instructions! {
    and(a, b) = "vpandd {result}, {a}, {b}";
    /// b without the bits of a.
    and_not(a, b) = "vpandnd {result}, {a}, {b}";
    xor(a, b) = "vpxord {result}, {a}, {b}";
    add(a, b) = "vpaddb {result}, {a}, {b}";
    subtract(a, b) = "vpsubb {result}, {a}, {b}";
    /// Differences of unsigned bytes, 0 where b is larger.
    excess(a, b) = "vpsubusb {result}, {a}, {b}";
    add_words(a, b) = "vpaddw {result}, {a}, {b}";
    /// Sums of two products of unsigned and signed bytes.
    multiply(unsigned, signed) = "vpmaddubsw {result}, {unsigned}, {signed}";
    /// High words of products of unsigned words.
    multiply_high(a, b) = "vpmulhuw {result}, {a}, {b}";
    /// Low words of products of words.
    multiply_low(a, b) = "vpmullw {result}, {a}, {b}";
    count_bits(a) = "vpopcntb {result}, {a}";
    affine(a, matrix) = "vgf2p8affineqb {result}, {a}, {matrix}, 0";
    look_up_in(index, table) = "vpermb {result}, {index}, {table}";
}

/// Words shifted right.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift_right<const BITS: usize>(a: __m512i) -> __m512i {
    let result: __m512i;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpsrlw {result}, {a}, {bits}", result = lateout(zmm_reg) result, a = in(zmm_reg) a, bits = const BITS,
            options(nomem, nostack, preserves_flags));
    }
    result
}

/// Words shifted left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift_left<const BITS: usize>(a: __m512i) -> __m512i {
    let result: __m512i;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpsllw {result}, {a}, {bits}", result = lateout(zmm_reg) result, a = in(zmm_reg) a, bits = const BITS,
            options(nomem, nostack, preserves_flags));
    }
    result
}

/// The function `TRUTH` of three bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn ternary<const TRUTH: u8>(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    let mut result = a;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpternlogd {a}, {b}, {c}, {truth}", a = inout(zmm_reg) result, b = in(zmm_reg) b, c = in(zmm_reg) c,
            truth = const TRUTH, options(nomem, nostack, preserves_flags));
    }
    result
}

/// The signs of all bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sign_mask(a: __m512i) -> __mmask64 {
    let mask: u64;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpmovb2m {mask}, {a}", mask = lateout(kreg) mask, a = in(zmm_reg) a,
            options(nomem, nostack, preserves_flags));
    }
    mask
}

/// The bytes that are 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn zero_mask(a: __m512i) -> __mmask64 {
    let mask: u64;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vptestnmb {mask}, {a}, {a}", mask = lateout(kreg) mask, a = in(zmm_reg) a,
            options(nomem, nostack, preserves_flags));
    }
    mask
}

/// Where bytes of `a` are below those of `b`, as unsigned numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn less(a: __m512i, b: __m512i) -> __mmask64 {
    let mask: u64;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpcmpub {mask}, {a}, {b}, 1", mask = lateout(kreg) mask, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(nomem, nostack, preserves_flags));
    }
    mask
}

/// Differences of bytes where the mask has ones, bytes of `a` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn subtract_masked(a: __m512i, mask: __mmask64, b: __m512i) -> __m512i {
    let mut result = a;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vpsubb {a}{{{mask}}}, {a}, {b}", a = inout(zmm_reg) result, mask = in(kreg) mask, b = in(zmm_reg) b,
            options(nomem, nostack, preserves_flags));
    }
    result
}

/// Bytes of `b` where the mask has ones, of `a` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn select(a: __m512i, mask: __mmask64, b: __m512i) -> __m512i {
    let mut result = a;
    // SAFETY: as in `instructions`.
    unsafe {
        asm!("vmovdqu8 {a}{{{mask}}}, {b}", a = inout(zmm_reg) result, mask = in(kreg) mask, b = in(zmm_reg) b,
            options(nomem, nostack, preserves_flags));
    }
    result
}

/// Bytes of a table by the low six bits of each index.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn look_up(index: __m512i, table: &Bytes64) -> __m512i {
    let result: __m512i;
    // SAFETY: as in `instructions`, and the 64 bytes of `table` are read.
    unsafe {
        asm!("vpermb {result}, {index}, [{table}]", result = lateout(zmm_reg) result, index = in(zmm_reg) index,
            table = in(reg) table, options(readonly, nostack, preserves_flags));
    }
    result
}

/// [`look_up`] where the mask has ones; bytes of `otherwise` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn look_up_masked(otherwise: __m512i, mask: __mmask64, index: __m512i, table: &Bytes64) -> __m512i {
    let mut result = otherwise;
    // SAFETY: as in `look_up`.
    unsafe {
        asm!("vpermb {result}{{{mask}}}, {index}, [{table}]", result = inout(zmm_reg) result, mask = in(kreg) mask,
            index = in(zmm_reg) index, table = in(reg) table, options(readonly, nostack, preserves_flags));
    }
    result
}

/// The next bytes at `at` where the mask has ones, in order; bytes of `a` elsewhere.
///
/// # Safety
/// 64 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
unsafe fn expand(a: __m512i, mask: __mmask64, at: *const u8) -> __m512i {
    let mut result = a;
    // SAFETY: the caller's bytes; else as in `instructions`.
    unsafe {
        asm!("vpexpandb {a}{{{mask}}}, [{at}]", a = inout(zmm_reg) result, mask = in(kreg) mask, at = in(reg) at,
            options(readonly, nostack, preserves_flags));
    }
    result
}

/// Adds the products of one step's values to the sums, or stores the values.
///
/// # Safety
/// `out` is the step's place in the accumulators of the first tile of `target`, and `source` leads to those or to
/// what they begin with.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn product<const TERMS: usize>(
    target: &Target,
    source: Source,
    out: *mut u8,
    tile: usize,
    values: __m512i,
    x: &[__m512i; TERMS],
) {
    let slot = out.add(tile * target.tile_stride);
    for term in 0..TERMS {
        let slot = slot.add(term * target.term_stride);
        let sum = _mm512_load_si512(source.of(tile, term).cast());
        _mm512_store_si512(slot.cast(), _mm512_dpbusd_epi32(sum, values, x[term]));
    }
    if TERMS == 0 {
        _mm512_storeu_si512(slot.cast(), values);
    }
}
