//! Sums of accumulators: one integer for each row.

use std::arch::x86_64::*;

/// See `avx512::flush`.
///
/// # Safety
/// As there, with the instructions of `Isa::Avx2`.
pub(in super::super) unsafe fn flush(
    accumulators: &[i32],
    columns_per_chunk: usize,
    scale: f32,
    sums: &mut [f32],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match columns_per_chunk {
            64 => flush_as::<16>(accumulators, scale, sums),
            16 => flush_as::<4>(accumulators, scale, sums),
            _ => flush_as::<1>(accumulators, scale, sums),
        }
    }
}

/// `PARTS` neighbouring accumulators belong to one row; eight rows at a time.
#[target_feature(enable = "avx2")]
unsafe fn flush_as<const PARTS: usize>(accumulators: &[i32], scale: f32, sums: &mut [f32]) {
    let scale = _mm256_set1_ps(scale);
    let zero = _mm256_setzero_si256();
    for (rows, sums) in accumulators.chunks_exact(8 * PARTS).zip(sums.as_chunks_mut::<8>().0) {
        let at = rows.as_ptr().cast::<__m256i>();
        // SAFETY: `rows` is `PARTS` registers long.
        let total = unsafe {
            match PARTS {
                16 => {
                    let mut parts = [zero; 8];
                    for (row, part) in parts.iter_mut().enumerate() {
                        let (low, high) = (at.add(2 * row), at.add(2 * row + 1));
                        *part = _mm256_add_epi32(_mm256_loadu_si256(low), _mm256_loadu_si256(high));
                    }
                    let [a, b, c, d, e, f, g, h] = parts;
                    let (upper, lower) = (fold_quads([a, b, c, d]), fold_quads([e, f, g, h]));
                    _mm256_add_epi32(
                        _mm256_permute2x128_si256::<0x20>(upper, lower),
                        _mm256_permute2x128_si256::<0x31>(upper, lower),
                    )
                }
                4 => {
                    let mut parts = [zero; 4];
                    for (index, part) in parts.iter_mut().enumerate() {
                        *part = _mm256_loadu_si256(at.add(index));
                    }
                    // Rows 2 j and 2 j + 1 are the halves of part j.
                    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                    _mm256_permutevar8x32_epi32(fold_quads(parts), order)
                }
                _ => _mm256_loadu_si256(at),
            }
        };
        let product = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(total));
        // SAFETY: eight sums.
        unsafe {
            let sum = _mm256_loadu_ps(sums.as_ptr());
            _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(sum, product));
        }
    }
}

/// Element j of each 128-bit lane is the sum of that lane of part j.
#[inline]
#[target_feature(enable = "avx2")]
fn fold_quads(parts: [__m256i; 4]) -> __m256i {
    let pair = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
    _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
}
