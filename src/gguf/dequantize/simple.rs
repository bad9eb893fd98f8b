//! Blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1.
//!
//! In the 4- and 5-bit types byte j holds elements j (low half) and j + 16 (high half).

use super::plain::f16_to_f32;

/// The half float that starts at byte `at`.
pub(super) fn half_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// d, 16 bytes of nibbles: (q - 8) d.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for j in 0..16 {
        let byte = block[2 + j];
        out[j] = scale * f32::from((byte & 15) as i8 - 8);
        out[j + 16] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// d, m, 16 bytes of nibbles: q d + m.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let minimum = half_at(block, 2);
    for j in 0..16 {
        let byte = block[4 + j];
        out[j] = scale * f32::from(byte & 15) + minimum;
        out[j + 16] = scale * f32::from(byte >> 4) + minimum;
    }
}

/// d, 32 fifth bits, 16 bytes of nibbles: (q - 16) d.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for j in 0..16 {
        let byte = block[6 + j];
        let low = (byte & 15) | ((high >> j) as u8 & 1) << 4;
        let upper = (byte >> 4) | ((high >> (j + 16)) as u8 & 1) << 4;
        out[j] = scale * f32::from(low as i8 - 16);
        out[j + 16] = scale * f32::from(upper as i8 - 16);
    }
}

/// d, m, 32 fifth bits, 16 bytes of nibbles: q d + m.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let minimum = half_at(block, 2);
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for j in 0..16 {
        let byte = block[8 + j];
        let low = (byte & 15) | ((high >> j) as u8 & 1) << 4;
        let upper = (byte >> 4) | ((high >> (j + 16)) as u8 & 1) << 4;
        out[j] = scale * f32::from(low) + minimum;
        out[j + 16] = scale * f32::from(upper) + minimum;
    }
}

/// d, 32 signed bytes: q d.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for j in 0..32 {
        out[j] = f32::from(block[2 + j] as i8) * scale;
    }
}

/// d, d times the sum of q (not needed here), 32 signed bytes: q d.
pub(super) fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for j in 0..32 {
        out[j] = f32::from(block[4 + j] as i8) * scale;
    }
}
