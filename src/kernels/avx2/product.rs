//! AVX2 product of decoded values with a batch: two registers hold four columns of 16 rows, and each group of
//! instructions multiplies one with four activations of one vector.

use super::super::group::HIGH_BITS;
use super::super::matmul::{Product, PANEL_ROWS};
use super::super::vnni::Vnni;
use std::arch::x86_64::*;

/// Rearranges decoded values: each panel of 16 rows and chunk becomes 64 bytes for each word of four columns.
/// The order is that of `avx512::rearrange`.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx2`.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn rearrange(values: &mut [u8], columns_per_chunk: usize) {
    match columns_per_chunk {
        64 => {
            for panel in values.as_chunks_mut::<1024>().0 {
                let source = *panel;
                for (rows, words) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    // SAFETY: both are blocks of 8 rows by 8 words inside 16 rows of 64 bytes.
                    unsafe {
                        transpose_8(
                            source.as_ptr().add(512 * rows + 32 * words),
                            panel.as_mut_ptr().add(512 * words + 32 * rows),
                        );
                    }
                }
            }
        }
        16 => {
            for panel in values.as_chunks_mut::<256>().0 {
                for half in 0..2 {
                    // SAFETY: one half of each of 4 rows of 64 bytes.
                    unsafe { transpose_4(panel.as_mut_ptr().add(32 * half)) }
                }
            }
        }
        // Four columns: a step is such a register already.
        _ => {}
    }
}

/// Columns of four rows, in each 128-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_quads(rows: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpacklo_epi32(rows[2], rows[3]));
    let (ef, gh) = (_mm256_unpackhi_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[2], rows[3]));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ef, gh),
        _mm256_unpackhi_epi64(ef, gh),
    ]
}

/// Four rows of 8 words, 64 bytes apart, in place and within each 128-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_4(at: *mut u8) {
    // SAFETY: the caller's four rows.
    unsafe {
        let mut rows = [_mm256_setzero_si256(); 4];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_si256(at.add(64 * index).cast());
        }
        for (index, column) in transpose_quads(rows).into_iter().enumerate() {
            _mm256_storeu_si256(at.add(64 * index).cast(), column);
        }
    }
}

/// Eight rows of 8 words, 64 bytes apart, to eight columns 64 bytes apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's eight rows and columns.
    unsafe {
        let mut rows = [_mm256_setzero_si256(); 8];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_si256(from.add(64 * index).cast());
        }
        let upper = transpose_quads([rows[0], rows[1], rows[2], rows[3]]);
        let lower = transpose_quads([rows[4], rows[5], rows[6], rows[7]]);
        for (index, (a, b)) in upper.into_iter().zip(lower).enumerate() {
            let (first, second) = (to.add(64 * index), to.add(64 * (index + 4)));
            _mm256_storeu_si256(first.cast(), _mm256_permute2x128_si256::<0x20>(a, b));
            _mm256_storeu_si256(second.cast(), _mm256_permute2x128_si256::<0x31>(a, b));
        }
    }
}

/// Calls a kernel for blocks of at most four vectors, as many as have their sums in registers.
macro_rules! blocks {
    ($kernel:ident, $product:expr, $sums:expr, $batch:expr) => {{
        let vectors = $product.activations.scales.len();
        for first in (0..vectors).step_by(4) {
            match vectors - first {
                1 => $kernel::<1>($product, first, $sums, $batch),
                2 => $kernel::<2>($product, first, $sums, $batch),
                3 => $kernel::<3>($product, first, $sums, $batch),
                _ => $kernel::<4>($product, first, $sums, $batch),
            }
        }
    }};
}
/// See `dispatch::multiply`.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx2`, those that `vnni` names, and the sizes are those that
/// `dispatch::multiply` checks.
pub(in super::super) unsafe fn multiply(product: &Product<'_>, sums: &mut [f32], batch: usize, vnni: Vnni) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (vnni, product.wide) {
            (Vnni::None, false) => blocks!(narrow, product, sums, batch),
            (Vnni::None, true) => blocks!(wide, product, sums, batch),
            (Vnni::Avx512, _) => blocks!(vnni_512, product, sums, batch),
            (Vnni::Avx, _) => blocks!(vnni_256, product, sums, batch),
        }
    }
}

/// Defines the kernel of one way to multiply bytes: `$add(total, value, four)` adds the four products of each 32 bits.
macro_rules! kernel {
    ($name:ident, $features:literal, $add:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const N: usize>(product: &Product<'_>, first: usize, sums: &mut [f32], batch: usize) {
            let words = product.width / 4;
            let activations = &product.activations;
            let vectors = activations.scales.len();
            // Arrays of constant length: with slices the totals would live in memory.
            let Some(corrections) = activations.corrections[first..].first_chunk::<N>() else { return };
            let Some(scales) = activations.scales[first..].first_chunk::<N>() else { return };
            for panel in 0..product.panels {
                let mut totals = [[_mm256_setzero_si256(); 2]; N];
                let high = activations.high_words.iter();
                for (&word, x) in high.zip(activations.high_integers.chunks_exact(4 * vectors)) {
                    let (chunk, word) = (usize::from(word) / words, usize::from(word) % words);
                    let at = chunk * product.chunk_stride + 64 * (panel * words + word);
                    // SAFETY: words are below `chunks * words`, and each has 4 bytes for every vector.
                    unsafe {
                        let at = product.values.as_ptr().add(at);
                        let values = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
                        let x = x.as_ptr().add(4 * first);
                        for n in 0..N {
                            let four = _mm256_set1_epi32(x.add(4 * n).cast::<i32>().read_unaligned());
                            for half in 0..2 {
                                totals[n][half] = $add(totals[n][half], values[half], four);
                            }
                        }
                    }
                }
                for n in 0..N {
                    for half in 0..2 {
                        let high = _mm256_slli_epi32::<{ HIGH_BITS as i32 }>(totals[n][half]);
                        totals[n][half] = _mm256_add_epi32(high, _mm256_set1_epi32(corrections[n]));
                    }
                }
                // SAFETY: all addresses are inside the slices of `product` and `sums`, by the sizes that the caller
                // checked.
                unsafe {
                    let mut x = activations.integers.as_ptr().add(4 * first);
                    let mut chunk = product.values.as_ptr().add(panel * 64 * words);
                    for _ in 0..product.chunks {
                        let mut at = chunk;
                        for _ in 0..words {
                            let values =
                                [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
                            for n in 0..N {
                                let four = _mm256_set1_epi32(x.add(4 * n).cast::<i32>().read_unaligned());
                                for half in 0..2 {
                                    totals[n][half] = $add(totals[n][half], values[half], four);
                                }
                            }
                            at = at.add(64);
                            x = x.add(4 * vectors);
                        }
                        chunk = chunk.add(product.chunk_stride);
                    }
                    for n in 0..N {
                        let scale = _mm256_set1_ps(scales[n]);
                        let sum = sums.as_mut_ptr().add((panel * batch + first + n) * PANEL_ROWS);
                        for half in 0..2 {
                            let sum = sum.add(8 * half);
                            let term = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(totals[n][half]));
                            _mm256_storeu_ps(sum, _mm256_add_ps(_mm256_loadu_ps(sum), term));
                        }
                    }
                }
            }
        }
    };
}

kernel!(narrow, "avx2", |total, value, four| _mm256_add_epi32(
    total,
    _mm256_madd_epi16(_mm256_maddubs_epi16(value, four), _mm256_set1_epi16(1))
));
kernel!(wide, "avx2", |total, value, four| {
    // Nibbles one by one, so that the 16-bit sums do not saturate.
    let nibble = _mm256_set1_epi8(15);
    let low = _mm256_maddubs_epi16(_mm256_and_si256(value, nibble), four);
    let high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(value), nibble), four);
    let low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
    _mm256_add_epi32(total, _mm256_add_epi32(low, _mm256_madd_epi16(high, _mm256_set1_epi16(16))))
});
kernel!(vnni_512, "avx2,avx512vnni,avx512vl", |total, value, four| _mm256_dpbusd_epi32(total, value, four));
kernel!(vnni_256, "avx2,avxvnni", |total, value, four| _mm256_dpbusd_avx_epi32(total, value, four));
