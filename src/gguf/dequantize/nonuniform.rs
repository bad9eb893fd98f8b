//! Four-bit indices into 16 fixed levels: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

use super::simple::half_at;

/// Levels of IQ4_NL and IQ4_XS.
const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of E2M1, sign in the highest bit.
const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The low nibbles fill the first half of `out`, the high ones the second.
fn halves(bytes: &[u8], out: &mut [f32], scale: f32, levels: &[i8; 16]) {
    let (first, second) = out.split_at_mut(bytes.len());
    for ((&byte, low), high) in bytes.iter().zip(first).zip(second) {
        *low = scale * f32::from(levels[usize::from(byte & 15)]);
        *high = scale * f32::from(levels[usize::from(byte >> 4)]);
    }
}

/// d, 16 bytes of indices.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    halves(&block[2..], out, half_at(block, 0), &NON_LINEAR);
}

/// d, 2 bytes of high scale bits, 4 of low scale nibbles, 128 of indices.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (group, floats) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low_part = (block[4 + group / 2] >> (group % 2 * 4)) & 15;
        let high_part = (high >> (group * 2)) as u8 & 3;
        let scale = d * f32::from((low_part | high_part << 4) as i8 - 32);
        let start = 8 + group * 16;
        halves(&block[start..start + 16], floats, scale, &NON_LINEAR);
    }
}

/// Half of 2^(exponent - 127): the levels are doubled.
fn e8m0_half(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}

/// An exponent, 16 bytes of indices.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    halves(&block[1..], out, e8m0_half(block[0]), &E2M1_DOUBLED);
}

/// Half of an unsigned E4M3 (bias 7): the levels are doubled. 0x7f, its NaN, counts as zero; bit 7 is ignored
/// otherwise.
fn ue4m3_half(code: u8) -> f32 {
    let exponent = u32::from(code >> 3) & 15;
    let mantissa = u32::from(code & 7);
    match (code, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa as f32 * f32::from_bits((127 - 10) << 23),
        // (1 + mantissa / 8) 2^(exponent - 7) / 2
        _ => f32::from_bits((exponent + 127 - 8) << 23 | mantissa << 20),
    }
}

/// 4 scales, then for each 16 elements 8 bytes of indices.
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (group, floats) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let start = 4 + group * 8;
        halves(&block[start..start + 8], floats, ue4m3_half(block[group]), &E2M1_DOUBLED);
    }
}
