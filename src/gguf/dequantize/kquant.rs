//! Superblocks of 256 elements: Q2_K to Q6_K, Q8_K.
//!
//! The products are taken in the order (superblock scale times group scale) times integer, minus (superblock
//! minimum times group minimum): this order fixes the rounding.

use super::simple::half_at;

/// Element `e` of fields of 2 bits that are interleaved by 32: byte 32 (e / 128) + e % 32, field (e / 32) % 4.
fn two_bits(bytes: &[u8], e: usize) -> u8 {
    (bytes[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2)) & 3
}

/// Element `e` of nibbles interleaved by 32: byte 32 (e / 64) + e % 32, nibble (e / 32) % 2.
fn nibble(bytes: &[u8], e: usize) -> u8 {
    (bytes[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4)) & 15
}

/// Element `e` of bits interleaved by 32: byte e % 32, bit e / 32.
fn bit(bytes: &[u8], e: usize) -> u8 {
    (bytes[e % 32] >> (e / 32)) & 1
}

/// 16 bytes of scale and minimum nibbles, 64 of 2-bit integers, d, dmin.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, integers) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (group, floats) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let minimum = dmin * f32::from(scales[group] >> 4);
        for (j, float) in floats.iter_mut().enumerate() {
            *float = scale * f32::from(two_bits(integers, group * 16 + j)) - minimum;
        }
    }
}

/// 32 bytes of high bits, 64 of low 2 bits, 12 of 6-bit scales, d. A clear high bit means minus 4.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high, low, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (group, floats) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Low 4 bits: nibbles of bytes 0..8. High 2 bits: fields of bytes 8..12.
        let low_part = (scales[group % 8] >> (group / 8 * 4)) & 15;
        let high_part = (scales[8 + group % 4] >> (group / 4 * 2)) & 3;
        let scale = d * f32::from((low_part | high_part << 4) as i8 - 32);
        for (j, float) in floats.iter_mut().enumerate() {
            let e = group * 16 + j;
            *float = scale * f32::from((two_bits(low, e) | bit(high, e) << 2) as i8 - 4);
        }
    }
}

/// Scale and minimum of group 0..8 from 12 bytes: groups 0..4 are the low 6 bits of bytes 0..4 and 4..8; groups
/// 4..8 have their low 4 bits in bytes 8..12 and their high 2 bits atop bytes 0..4 and 4..8.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
    }
}

/// d, dmin, 12 bytes of scales and minima, 128 of nibbles.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, integers) = (&block[4..16], &block[16..144]);
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (group, floats) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (j, float) in floats.iter_mut().enumerate() {
            *float = scale * f32::from(nibble(integers, group * 32 + j)) - minimum;
        }
    }
}

/// d, dmin, 12 bytes of scales and minima, 32 of fifth bits, 128 of nibbles.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, high, low) = (&block[4..16], &block[16..48], &block[48..176]);
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (group, floats) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (j, float) in floats.iter_mut().enumerate() {
            let e = group * 32 + j;
            *float = scale * f32::from(nibble(low, e) | bit(high, e) << 4) - minimum;
        }
    }
}

/// 128 bytes of low nibbles (interleaved by 64), 64 of high 2 bits, 16 signed scales, d.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (group, floats) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        for (j, float) in floats.iter_mut().enumerate() {
            let e = group * 16 + j;
            let low_part = (low[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4)) & 15;
            *float = scale * f32::from((low_part | two_bits(high, e) << 4) as i8 - 32);
        }
    }
}

/// d in single precision, 256 signed bytes, sums of 16 (not needed here).
pub(super) fn q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (float, &byte) in out.iter_mut().zip(&block[4..260]) {
        *float = d * f32::from(byte as i8);
    }
}
