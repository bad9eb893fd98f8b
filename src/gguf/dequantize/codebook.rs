//! Codebook types: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S, IQ1_M.
//!
//! Each index picks a vector of 8 (IQ1, IQ2) or 4 (IQ3) levels from a grid; IQ2 and IQ3 give each element a sign.

use super::grids::{IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID};
use super::plain::f16_to_f32;
use super::simple::half_at;

/// Levels of the IQ2 grids, by their 2-bit fields.
const IQ2_LEVELS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// Levels of the IQ3_XXS grid, by its 4-bit fields (of which 3 are used).
const IQ3_XXS_LEVELS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// Levels of the IQ3_S grid.
const IQ3_S_LEVELS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
/// Levels of the IQ1 grid.
const IQ1_LEVELS: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];
/// What IQ1 types add to or subtract from all levels of a group.
const IQ1_SHIFT: f32 = 0.125;

/// Eight sign bits from seven: the eighth makes their number even.
fn eight_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// Writes 8 levels of 2-bit fields times `scale`, with signs.
fn signed_eight(out: &mut [f32], scale: f32, fields: u16, signs: u8) {
    for (j, float) in out.iter_mut().enumerate() {
        let value = scale * IQ2_LEVELS[usize::from((fields >> (2 * j)) & 3)];
        *float = if (signs >> j) & 1 == 1 { -value } else { value };
    }
}

/// Writes 4 levels of 4-bit fields times `scale`, with the low 4 signs.
fn signed_four(out: &mut [f32], scale: f32, levels: &[f32; 8], fields: u16, signs: u8) {
    for (j, float) in out.iter_mut().enumerate() {
        let value = scale * levels[usize::from((fields >> (4 * j)) & 7)];
        *float = if (signs >> j) & 1 == 1 { -value } else { value };
    }
}

/// Writes 8 ternary levels, shifted, times `scale`.
fn shifted_eight(out: &mut [f32], scale: f32, fields: u16, shift: f32) {
    for (j, float) in out.iter_mut().enumerate() {
        *float = scale * (IQ1_LEVELS[usize::from((fields >> (2 * j)) & 3)] + shift);
    }
}

/// Nibble `index` of the bytes.
fn nibble(bytes: &[u8], index: usize) -> u8 {
    (bytes[index / 2] >> (index % 2 * 4)) & 15
}

fn u16_at(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

fn u32_at(bytes: &[u8], index: usize) -> u32 {
    let at = 4 * index;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// d, then for each 32 elements 4 index bytes and a word of four 7-bit signs and a 4-bit scale.
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let words = &block[2..];
    for (e, floats) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (group, part) = (e / 4, e % 4);
        let word = u32_at(words, group * 2 + 1);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        let index = usize::from(words[group * 8 + part]);
        signed_eight(floats, scale, IQ2_XXS_GRID[index], eight_signs(word >> (7 * part)));
    }
}

/// d, 32 words of a 9-bit index and 7 signs, 16 scale nibbles.
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (words, scales) = (&block[2..66], &block[66..74]);
    for (e, floats) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(words, e);
        let scale = d * (0.5 + f32::from(nibble(scales, e / 2))) * 0.25;
        signed_eight(floats, scale, IQ2_XS_GRID[usize::from(word & 511)], eight_signs(u32::from(word >> 9)));
    }
}

/// d, 32 low index bytes, 32 bytes of signs, 8 of high index bits, 16 scale nibbles.
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (low, signs, high, scales) = (&block[2..34], &block[34..66], &block[66..74], &block[74..82]);
    for (e, floats) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(scales, e / 2))) * 0.25;
        let index = usize::from(low[e]) | usize::from((high[e / 4] >> (e % 4 * 2)) & 3) << 8;
        signed_eight(floats, scale, IQ2_S_GRID[index], signs[e]);
    }
}

/// d, 64 index bytes, then for each 32 elements a word of four 7-bit signs and a 4-bit scale.
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (indices, words) = (&block[2..66], &block[66..98]);
    for (e, floats) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let word = u32_at(words, e / 8);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let signs = eight_signs(word >> (7 * (e / 2 % 4))) >> (e % 2 * 4);
        signed_four(floats, scale, &IQ3_XXS_LEVELS, IQ3_XXS_GRID[usize::from(indices[e])], signs);
    }
}

/// d, 64 low index bytes, 8 of ninth index bits, 32 of signs, 8 scale nibbles.
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (low, high, signs, scales) = (&block[2..66], &block[66..74], &block[74..106], &block[106..110]);
    for (e, floats) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let scale = d * f32::from(1 + 2 * nibble(scales, e / 8));
        let index = usize::from(low[e]) | usize::from((high[e / 8] >> (e % 8)) & 1) << 8;
        signed_four(floats, scale, &IQ3_S_LEVELS, IQ3_S_GRID[index], signs[e / 2] >> (e % 2 * 4));
    }
}

/// d, 32 low index bytes, 8 words of four 3-bit high index parts, a 3-bit scale and the sign of the shift.
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (low, words) = (&block[2..34], &block[34..50]);
    for (e, floats) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(words, e / 4);
        let scale = d * f32::from(2 * ((word >> 12) & 7) + 1);
        let shift = if word & 0x8000 == 0 { IQ1_SHIFT } else { -IQ1_SHIFT };
        let index = usize::from(low[e]) | usize::from((word >> (e % 4 * 3)) & 7) << 8;
        shifted_eight(floats, scale, IQ1_GRID[index], shift);
    }
}

/// 32 low index bytes, 32 nibbles of a 3-bit high index part and the sign of the shift, 4 words of four 3-bit
/// scales, whose top nibbles together are d.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let (low, high, words) = (&block[..32], &block[32..48], &block[48..56]);
    let d = (0..4).fold(0, |bits, word| bits | (u16_at(words, word) & 0xf000) >> (12 - 4 * word));
    let d = f16_to_f32(d);
    for (e, floats) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let group = e / 2;
        let scale = d * f32::from(2 * ((u16_at(words, group / 4) >> (group % 4 * 3)) & 7) + 1);
        let part = nibble(high, e);
        let shift = if part & 8 == 0 { IQ1_SHIFT } else { -IQ1_SHIFT };
        let index = usize::from(low[e]) | usize::from(part & 7) << 8;
        shifted_eight(floats, scale, IQ1_GRID[index], shift);
    }
}
