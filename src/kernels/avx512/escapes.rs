//! Escapes of several tiles at a time: each lane of a register reads the list of one tile.
//!
//! Escapes of a tile wait for each other, and one takes some forty scalar operations; here as many vector operations
//! take one of each tile. Sums of different tiles are different numbers, so adding to them does not conflict either.

use crate::kernels::escapes::{EscapeList, EscapeSums, MOST_EXPONENT, MOST_GAP_BITS, SEVERAL, WINDOW_BITS};
use crate::kernels::matvec::SAFE_ADDEND;
use std::arch::x86_64::*;

/// Tiles in a register.
const LANES: usize = 8;

/// Fewer lists are read faster one after the other.
const FEWEST: u32 = 3;

/// Zeros of a long gap that are left behind at a time: what follows looks like no end of a list then, because a whole
/// window was ahead.
const MOST_ZEROS: i64 = 56;

/// Symbols below this have a step that [`Places::new`]'s reciprocal divides exactly.
const MOST_SYMBOLS: i64 = 1 << 30;

/// `Place`, in registers.
struct Places {
    /// ceil(2^32 / steps): exact for dividends below 2^24 and 2 to 256 steps. For one step it does not fit, and symbols
    /// beyond the first chunk look as if they had no weight: they are left to the definition.
    reciprocal: __m512i,
    steps: __m512i,
    width_bits: __m512i,
    row_bits: __m512i,
    column_mask: __m512i,
    first: __m512i,
    positions: __m512i,
    rows: __m512i,
    /// First row of each tile among the sums.
    starts: __m512i,
}

impl Places {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn new(sums: &EscapeSums<'_>) -> Self {
        let place = &sums.place;
        let all = |number: u64| _mm512_set1_epi64(number as i64);
        let width_bits = u64::from(place.width_bits);
        let number = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        Self {
            reciprocal: all((1u64 << 32).div_ceil(place.steps)),
            steps: all(place.steps),
            width_bits: all(width_bits),
            row_bits: all(6 - width_bits),
            column_mask: all((1 << width_bits) - 1),
            first: all(place.positions.start as u64),
            positions: all(place.positions.len() as u64),
            rows: all(place.rows as u64),
            starts: _mm512_mullo_epi64(number, all(sums.height as u64)),
        }
    }

    /// Position and row of each symbol, and for which of the symbols there is a weight.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(&self, symbol: __m512i) -> (__m512i, __m512i, __mmask8) {
        let step_of_all = _mm512_srli_epi64::<6>(symbol);
        let chunk = _mm512_srli_epi64::<32>(_mm512_mul_epu32(step_of_all, self.reciprocal));
        let step = _mm512_sub_epi64(step_of_all, _mm512_mul_epu32(chunk, self.steps));
        let lane = _mm512_and_si512(symbol, _mm512_set1_epi64(63));
        let column = _mm512_and_si512(lane, self.column_mask);
        let position = _mm512_add_epi64(_mm512_sllv_epi64(chunk, self.width_bits), column);
        let row = _mm512_add_epi64(
            _mm512_sllv_epi64(step, self.row_bits),
            _mm512_srlv_epi64(lane, self.width_bits),
        );
        let is_small = _mm512_cmplt_epu64_mask(symbol, _mm512_set1_epi64(MOST_SYMBOLS));
        let there =
            _mm512_mask_cmplt_epu64_mask(is_small, _mm512_sub_epi64(position, self.first), self.positions);
        (position, row, _mm512_mask_cmplt_epu64_mask(there, row, self.rows))
    }
}

/// An escape of each lane. They are added one by one: gathering and scattering sums is no faster on Intel's processors, and
/// on AMD's these are slow instructions.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Found {
    rows: [u32; LANES],
    positions: [u32; LANES],
    addends: [f32; LANES],
    lanes: __mmask8,
}

impl Found {
    const NONE: Self = Self { rows: [0; LANES], positions: [0; LANES], addends: [0.0; LANES], lanes: 0 };

    /// Numbers of `lanes` are below 2^32.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn new(lanes: __mmask8, row: __m512i, position: __m512i, addend: __m512i) -> Self {
        let mut this = Self { lanes, ..Self::NONE };
        // SAFETY: each has 32 bytes.
        unsafe {
            _mm256_storeu_si256(this.rows.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(row));
            _mm256_storeu_si256(this.positions.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(position));
            _mm256_storeu_ps(this.addends.as_mut_ptr(), _mm512_cvtepi64_ps(addend));
        }
        this
    }

    /// # Safety
    /// `sums` has the rows and positions of all `lanes`.
    #[inline]
    unsafe fn add_to(&self, sums: &mut EscapeSums<'_>) {
        let mut lanes = self.lanes;
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize % LANES;
            // SAFETY: passed on from the caller.
            unsafe {
                let x = sums.floats.get_unchecked(self.positions[lane] as usize);
                *sums.rows.get_unchecked_mut(self.rows[lane] as usize) += self.addends[lane] * x;
            }
            lanes &= lanes - 1;
        }
    }
}

/// Number of zeros below the lowest one, 64 without any.
#[inline]
#[target_feature(enable = "avx512f,avx512cd")]
fn trailing_zeros(x: __m512i) -> __m512i {
    // The zeros of x below its lowest one, as ones.
    let below = _mm512_andnot_si512(x, _mm512_add_epi64(x, _mm512_set1_epi64(-1)));
    _mm512_sub_epi64(_mm512_set1_epi64(64), _mm512_lzcnt_epi64(below))
}

/// See [`super::dispatch::add_escapes`].
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`; there are at most as many lists as lanes; `sums.floats` has all of
/// `sums.place`'s positions, and `sums.rows` the rows of as many tiles as there are lists.
#[target_feature(enable = "avx512f,avx512dq,avx512cd")]
pub(in super::super) unsafe fn add_escapes(lists: &mut [EscapeList<'_>], sums: &mut EscapeSums<'_>) -> bool {
    let count = lists.len().min(LANES);
    let places = Places::new(sums);
    let (mut bases, mut ats, mut lasts, mut gaps, mut nexts) =
        ([0i64; LANES], [0i64; LANES], [0i64; LANES], [0i64; LANES], [0i64; LANES]);
    let mut active: __mmask8 = 0;
    for (lane, list) in lists.iter().enumerate().take(count) {
        // Whole windows are read.
        let Some(last) = (8 * list.bytes.len()).checked_sub(64) else { continue };
        if list.gap_bits > MOST_GAP_BITS || list.next > MOST_SYMBOLS as u64 {
            continue;
        }
        active |= 1 << lane;
        bases[lane] = list.bytes.as_ptr().expose_provenance() as i64;
        (ats[lane], lasts[lane]) = (list.at as i64, last as i64);
        (gaps[lane], nexts[lane]) = (i64::from(list.gap_bits), list.next as i64);
    }
    let (bases, lasts, gap_bits) = (load(&bases), load(&lasts), load(&gaps));
    let (mut at, mut next) = (load(&ats), load(&nexts));
    let (zero, one) = (_mm512_setzero_si512(), _mm512_set1_epi64(1));
    let low_mask = _mm512_sub_epi64(_mm512_sllv_epi64(one, gap_bits), one);
    let gap_and_one = _mm512_add_epi64(gap_bits, one);
    let mut doubtful: __mmask8 = 0;
    loop {
        active = _mm512_mask_cmple_epu64_mask(active, at, lasts);
        if active.count_ones() < FEWEST {
            break;
        }
        let address = _mm512_add_epi64(bases, _mm512_srli_epi64::<3>(at));
        // SAFETY: `at` of active lanes is at most `last`, so eight bytes from there are in the list.
        let words = unsafe {
            _mm512_mask_i64gather_epi64::<1>(zero, active, address, std::ptr::with_exposed_provenance(0))
        };
        let mut window = _mm512_srlv_epi64(words, _mm512_and_si512(at, _mm512_set1_epi64(7)));
        // Of a gap that does not fit in a window, part of the zeros.
        let zeros = _mm512_min_epu64(trailing_zeros(window), _mm512_set1_epi64(MOST_ZEROS));
        let skipped = _mm512_add_epi64(next, _mm512_sllv_epi64(zeros, gap_bits));
        let (mut going, mut used) = (active, zero);
        let mut found = [Found::NONE; SEVERAL];
        for found in &mut found {
            // As `EscapeList::parse`. Lanes that are not whole or not well formed stop, and their numbers are ignored.
            let quotient = trailing_zeros(window);
            let head = _mm512_add_epi64(quotient, gap_and_one);
            let rest = _mm512_srlv_epi64(window, head);
            let exponent = trailing_zeros(rest);
            let code_bits = _mm512_add_epi64(_mm512_add_epi64(exponent, exponent), one);
            let length = _mm512_add_epi64(_mm512_add_epi64(used, head), code_bits);
            let low = _mm512_and_si512(_mm512_srlv_epi64(window, _mm512_add_epi64(quotient, one)), low_mask);
            let gap = _mm512_or_si512(_mm512_sllv_epi64(quotient, gap_bits), low);
            let top = _mm512_sllv_epi64(one, exponent);
            let code = _mm512_srlv_epi64(rest, _mm512_add_epi64(exponent, one));
            let code = _mm512_or_si512(_mm512_and_si512(code, _mm512_sub_epi64(top, one)), top);
            going = _mm512_mask_cmple_epu64_mask(going, length, _mm512_set1_epi64(WINDOW_BITS.into()));
            going = _mm512_mask_cmple_epu64_mask(going, exponent, _mm512_set1_epi64(MOST_EXPONENT.into()));
            let symbol = _mm512_add_epi64(next, gap);
            let (position, row, there) = places.of(symbol);
            going &= there;

            let sign = _mm512_sub_epi64(zero, _mm512_and_si512(code, one));
            let addend = _mm512_xor_si512(_mm512_srli_epi64::<1>(code), sign);
            let addend = _mm512_slli_epi64::<2>(addend);
            let safe = _mm512_set1_epi64(SAFE_ADDEND.into());
            doubtful |= _mm512_mask_cmpgt_epi64_mask(going, _mm512_abs_epi64(addend), safe);
            *found = Found::new(going, _mm512_add_epi64(places.starts, row), position, addend);
            used = _mm512_mask_mov_epi64(used, going, length);
            next = _mm512_mask_add_epi64(next, going, symbol, one);
            window = _mm512_srlv_epi64(rest, code_bits);
        }
        for found in &found {
            // SAFETY: lanes that go on have a position and a row that are there.
            unsafe { found.add_to(sums) };
        }
        let skips = _mm512_mask_testn_epi64_mask(active, used, used);
        next = _mm512_mask_mov_epi64(next, skips, skipped);
        used = _mm512_mask_mov_epi64(used, skips, zeros);
        at = _mm512_add_epi64(at, used);
        // A list that does not advance is for the definition to judge.
        active = _mm512_mask_test_epi64_mask(active, used, used);
    }
    let (mut ats, mut nexts) = ([0i64; LANES], [0i64; LANES]);
    // SAFETY: both have 64 bytes.
    unsafe {
        _mm512_storeu_si512(ats.as_mut_ptr().cast(), at);
        _mm512_storeu_si512(nexts.as_mut_ptr().cast(), next);
    }
    for (lane, list) in lists.iter_mut().enumerate().take(count) {
        // Lists that were never active stand at zero.
        (list.at, list.next) = (ats[lane] as usize, nexts[lane] as u64);
    }
    doubtful != 0
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[i64; LANES]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}
