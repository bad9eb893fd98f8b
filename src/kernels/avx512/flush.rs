//! Sums of accumulators: one integer for each row.

use crate::kernels::halves;
use std::arch::x86_64::*;

/// Adds `scale` times the integer dot product of each row to `sums`. Of chunks of 16 or 64 columns accumulators may hold
/// `halves`.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`; `accumulators` is aligned to 64 bytes and holds
/// 16 i32 for each step, steps rounded up to a multiple of 16; `sums` holds the rows of as many steps.
pub(in super::super) unsafe fn flush(
    accumulators: &[i32],
    columns_per_chunk: usize,
    halves: bool,
    scale: f32,
    sums: &mut [f32],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (columns_per_chunk, halves) {
            (64, false) => flush_as::<16, false>(accumulators, scale, sums),
            (64, true) => flush_as::<16, true>(accumulators, scale, sums),
            (16, false) => flush_as::<4, false>(accumulators, scale, sums),
            (16, true) => flush_as::<4, true>(accumulators, scale, sums),
            _ => flush_as::<1, false>(accumulators, scale, sums),
        }
    }
}

/// `PARTS` neighbouring accumulators belong to one row. With `HALVES` those of even and odd steps are made integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn flush_as<const PARTS: usize, const HALVES: bool>(
    accumulators: &[i32],
    scale: f32,
    sums: &mut [f32],
) {
    let scale = _mm512_set1_ps(scale);
    for (rows, sums) in accumulators.chunks_exact(16 * PARTS).zip(sums.chunks_exact_mut(16)) {
        let at = rows.as_ptr();
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for (index, part) in parts.iter_mut().enumerate() {
            *part = _mm512_load_si512(at.add(16 * index).cast());
        }
        let total = match PARTS {
            16 => {
                let mut quarters = [_mm512_setzero_si512(); 4];
                for (quarter, parts) in quarters.iter_mut().zip(parts.chunks_exact(4)) {
                    *quarter = fold_quads(parts);
                }
                fold_lanes(&quarters)
            }
            // Rows 4 r + j of part j sit in lane r after folding: put them in order.
            4 => _mm512_permutexvar_epi32(
                _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                fold_quads(&parts),
            ),
            _ => parts[0],
        };
        let total = if HALVES { integers_of_rows::<PARTS>(total) } else { total };
        let sum = _mm512_loadu_ps(sums.as_ptr());
        let product = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(total));
        _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(sum, product));
    }
}

/// Sums of neighbouring fours: element j of each 128-bit lane is the sum of that lane of part j.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_quads(parts: &[__m512i]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// Lane j of the result is the sum of the four lanes of part j.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_lanes(parts: &[__m512i; 4]) -> __m512i {
    let pair =
        |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b));
    let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
    pair(a, b)
}

/// Sums of even and odd steps from halves: [`halves::to_integers`](halves::to_integers).
#[inline]
#[target_feature(enable = "avx512f")]
fn integers(whole: __m512i, high: __m512i) -> [__m512i; 2] {
    let (a, b) = (_mm512_sub_epi32(whole, high), _mm512_srai_epi32::<{ halves::HIGH }>(high));
    [_mm512_add_epi32(a, b), _mm512_sub_epi32(a, b)]
}

/// The same of the rows of whole steps, of `PARTS` accumulators each.
#[inline]
#[target_feature(enable = "avx512f")]
fn integers_of_rows<const PARTS: usize>(total: __m512i) -> __m512i {
    // Rows of odd steps, and for each row that of the other step.
    let (odd, other) = match PARTS {
        16 => (0xAAAA, _mm512_shuffle_epi32::<0b10_11_00_01>(total)),
        _ => (0xF0F0, _mm512_shuffle_i32x4::<0b10_11_00_01>(total, total)),
    };
    let whole = _mm512_mask_mov_epi32(total, odd, other);
    let high = _mm512_mask_mov_epi32(other, odd, total);
    let [of_even, of_odd] = integers(whole, high);
    _mm512_mask_mov_epi32(of_even, odd, of_odd)
}

/// Makes integers of halves: [`halves::convert`].
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`.
#[target_feature(enable = "avx512f")]
pub(in super::super) unsafe fn to_integers(accumulators: &mut [i32], steps: usize) {
    for pair in accumulators.as_chunks_mut::<32>().0.iter_mut().take(steps.div_ceil(2)) {
        let at = pair.as_mut_ptr();
        // SAFETY: both halves of 32 numbers.
        unsafe {
            let [even, odd] = integers(_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(16).cast()));
            _mm512_storeu_si512(at.cast(), even);
            _mm512_storeu_si512(at.add(16).cast(), odd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_definition() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        for steps in [1, 2, 5, 16] {
            let accumulators: Vec<i32> = (0..16 * 16).map(|i| (i * 7919 % 4001 - 2000) * 16).collect();
            let (mut expected, mut found) = (accumulators.clone(), accumulators);
            halves::convert(&mut expected, steps, false);
            // SAFETY: the machine has the instructions.
            unsafe { to_integers(&mut found, steps) };
            assert_eq!(found, expected, "{steps}");
        }
    }
}
