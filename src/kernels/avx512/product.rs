//! AVX-512 product of decoded values with a batch: one register holds four columns of 16 rows, and each dot product
//! instruction multiplies it with four activations of one vector.

use super::super::activations::BlockPart;
use super::super::group::HIGH_BITS;
use super::super::matmul::{Product, PANEL_ROWS};
use super::super::packing::{PackedGroup, Packing, FETCH_AHEAD};
use std::arch::x86_64::*;

/// Rearranges decoded values: each panel of 16 rows and chunk becomes one register for each word of four columns.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`.
#[target_feature(enable = "avx512f")]
pub(in super::super) unsafe fn rearrange(values: &mut [u8], columns_per_chunk: usize) {
    match columns_per_chunk {
        64 => {
            for panel in values.as_chunks_mut::<1024>().0 {
                // SAFETY: 16 registers.
                unsafe { transpose_16(panel.as_mut_ptr()) }
            }
        }
        16 => {
            for panel in values.as_chunks_mut::<256>().0 {
                // SAFETY: 4 registers.
                unsafe { transpose_4(panel.as_mut_ptr()) }
            }
        }
        // Four columns: a step is such a register already.
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quads(rows: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpacklo_epi32(rows[2], rows[3]));
    let (ef, gh) = (_mm512_unpackhi_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[2], rows[3]));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ef, gh),
        _mm512_unpackhi_epi64(ef, gh),
    ]
}

/// Four steps of 16 columns: afterwards register j holds word j of row `4 * step + group` in place `4 * group + step`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_4(at: *mut u8) {
    let at = at.cast::<__m512i>();
    // SAFETY: the caller's four registers.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 4];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(at.add(index));
        }
        for (index, column) in transpose_quads(rows).into_iter().enumerate() {
            _mm512_storeu_si512(at.add(index), column);
        }
    }
}

/// Sixteen steps of 64 columns: afterwards register j holds word j of the 16 rows in order.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(at: *mut u8) {
    let at = at.cast::<__m512i>();
    // SAFETY: the caller's sixteen registers.
    unsafe {
        // quads[r][j]: lane l holds word 4 l + j of rows 4 r .. 4 r + 4.
        let mut quads = [[_mm512_setzero_si512(); 4]; 4];
        for (r, quad) in quads.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_si512(); 4];
            for (index, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_si512(at.add(4 * r + index));
            }
            *quad = transpose_quads(rows);
        }
        for j in 0..4 {
            let [a, b, c, d] = [quads[0][j], quads[1][j], quads[2][j], quads[3][j]];
            let (ab_even, cd_even) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
            let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<0xDD>(a, b), _mm512_shuffle_i32x4::<0xDD>(c, d));
            _mm512_storeu_si512(at.add(j), _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even));
            _mm512_storeu_si512(at.add(8 + j), _mm512_shuffle_i32x4::<0xDD>(ab_even, cd_even));
            _mm512_storeu_si512(at.add(4 + j), _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd));
            _mm512_storeu_si512(at.add(12 + j), _mm512_shuffle_i32x4::<0xDD>(ab_odd, cd_odd));
        }
    }
}

/// See `dispatch::multiply`.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`, and the sizes are those that `dispatch::multiply` checks.
pub(in super::super) unsafe fn multiply(product: &Product<'_>, sums: &mut [f32], batch: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match product.activations.scales.len() {
            1 => multiply_by::<1>(product, sums, batch),
            2 => multiply_by::<2>(product, sums, batch),
            3 => multiply_by::<3>(product, sums, batch),
            4 => multiply_by::<4>(product, sums, batch),
            5 => multiply_by::<5>(product, sums, batch),
            6 => multiply_by::<6>(product, sums, batch),
            7 => multiply_by::<7>(product, sums, batch),
            _ => multiply_by::<8>(product, sums, batch),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_by<const N: usize>(product: &Product<'_>, sums: &mut [f32], batch: usize) {
    let mut panel = 0;
    // SAFETY: passed on from the caller.
    unsafe {
        while panel + 2 <= product.panels {
            multiply_panels::<2, N>(product, panel, sums, batch);
            panel += 2;
        }
        if panel < product.panels {
            multiply_panels::<1, N>(product, panel, sums, batch);
        }
    }
}

/// `P` panels from `panel` on, `N` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_panels<const P: usize, const N: usize>(
    product: &Product<'_>,
    panel: usize,
    sums: &mut [f32],
    batch: usize,
) {
    let words = product.width / 4;
    let panel_bytes = 64 * words;
    // Arrays of constant length: with slices the totals would live in memory.
    let activations = &product.activations;
    let Some(corrections) = activations.corrections.first_chunk::<N>() else { return };
    let Some(scales) = activations.scales.first_chunk::<N>() else { return };
    let mut totals = [[_mm512_setzero_si512(); N]; P];
    // Adds the products of one word of all rows at `at` and all vectors at `x`.
    macro_rules! add_word {
        ($at:expr, $x:expr) => {
            let mut values = [_mm512_setzero_si512(); P];
            for p in 0..P {
                values[p] = _mm512_loadu_si512($at.add(p * panel_bytes).cast());
            }
            for n in 0..N {
                let four = _mm512_set1_epi32($x.add(4 * n).cast::<i32>().read_unaligned());
                for p in 0..P {
                    totals[p][n] = _mm512_dpbusd_epi32(totals[p][n], values[p], four);
                }
            }
        };
    }
    let mut x = activations.high_integers.as_ptr();
    for &word in activations.high_words {
        let (chunk, word) = (usize::from(word) / words, usize::from(word) % words);
        // SAFETY: words are below `chunks * words`, and each has 4 bytes for every vector.
        unsafe {
            let at =
                product.values.as_ptr().add(chunk * product.chunk_stride + panel * panel_bytes + 64 * word);
            add_word!(at, x);
            x = x.add(4 * N);
        }
    }
    for p in 0..P {
        for n in 0..N {
            let high = _mm512_slli_epi32::<HIGH_BITS>(totals[p][n]);
            totals[p][n] = _mm512_add_epi32(high, _mm512_set1_epi32(corrections[n]));
        }
    }
    // SAFETY: all addresses are inside the slices of `product` and `sums`, by the sizes that the caller checked.
    unsafe {
        let mut x = activations.integers.as_ptr();
        let mut chunk = product.values.as_ptr().add(panel * panel_bytes);
        for _ in 0..product.chunks {
            let mut at = chunk;
            for _ in 0..words {
                add_word!(at, x);
                at = at.add(64);
                x = x.add(4 * N);
            }
            chunk = chunk.add(product.chunk_stride);
        }
        for p in 0..P {
            for n in 0..N {
                let sum = sums.as_mut_ptr().add(((panel + p) * batch + n) * PANEL_ROWS);
                let term = _mm512_mul_ps(_mm512_set1_ps(scales[n]), _mm512_cvtepi32_ps(totals[p][n]));
                _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), term));
            }
        }
    }
}

/// Adds to `sums` the product of two panels of packed values with one or two vectors, none of which has large words: what
/// [`multiply`] makes of the values unpacked.
///
/// # Safety
/// The machine has the instructions of `Isa::Avx512`, and the sizes are those that `dispatch::multiply_packed` checks.
pub(in super::super) unsafe fn multiply_packed(
    group: &PackedGroup<'_>,
    activations: &BlockPart<'_>,
    sums: &mut [f32],
    batch: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match activations.scales.len() {
            1 => multiply_packed_by::<1>(group, activations, sums, batch),
            _ => multiply_packed_by::<2>(group, activations, sums, batch),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_packed_by<const N: usize>(
    group: &PackedGroup<'_>,
    activations: &BlockPart<'_>,
    sums: &mut [f32],
    batch: usize,
) {
    let words = group.width / 4;
    let Some(corrections) = activations.corrections.first_chunk::<N>() else { return };
    let Some(scales) = activations.scales.first_chunk::<N>() else { return };
    let four_bits = _mm512_set1_epi8(15);
    let mut totals = [[_mm512_setzero_si512(); N]; 2];
    for n in 0..N {
        totals[0][n] = _mm512_set1_epi32(corrections[n]);
        totals[1][n] = totals[0][n];
    }
    let mut x = activations.integers.as_ptr();
    let mut at = group.bytes.as_ptr();
    // SAFETY: a chunk has `words` registers of values for each panel, or for both, and four activations of every vector for
    // each word: by the sizes that the caller checked, all addresses are inside the slices. Prefetches may name any.
    unsafe {
        // Adds the products of one word of both panels.
        macro_rules! add_word {
            ($values:expr) => {
                for n in 0..N {
                    let four = _mm512_set1_epi32(x.add(4 * n).cast::<i32>().read_unaligned());
                    for p in 0..2 {
                        totals[p][n] = _mm512_dpbusd_epi32(totals[p][n], $values[p], four);
                    }
                }
                x = x.add(4 * N);
            };
        }
        for packing in group.packings {
            match *packing {
                Packing::Halves(least) => {
                    let least = _mm512_set1_epi8(least as i8);
                    for _ in 0..words {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(FETCH_AHEAD).cast());
                        let both = _mm512_loadu_si512(at.cast());
                        let halves = [both, _mm512_srli_epi16::<4>(both)];
                        let values =
                            halves.map(|half| _mm512_add_epi8(_mm512_and_si512(half, four_bits), least));
                        add_word!(values);
                        at = at.add(64);
                    }
                }
                Packing::Bytes => {
                    for _ in 0..words {
                        let second = at.add(64 * words);
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(FETCH_AHEAD).cast());
                        _mm_prefetch::<_MM_HINT_T0>(second.wrapping_add(FETCH_AHEAD).cast());
                        add_word!([_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(second.cast())]);
                        at = at.add(64);
                    }
                    at = at.add(64 * words);
                }
            }
        }
        for p in 0..2 {
            for n in 0..N {
                let sum = sums.as_mut_ptr().add((p * batch + n) * PANEL_ROWS);
                let term = _mm512_mul_ps(_mm512_set1_ps(scales[n]), _mm512_cvtepi32_ps(totals[p][n]));
                _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), term));
            }
        }
    }
}
