//! From f32 to the types that `unpack` writes: F32, F16, BF16, Q8_0.

use half::f16;

use super::error::ConversionError;
use super::types::GgmlType;

/// Appends `floats` in type `ty`: F32, F16 and BF16 (both rounded to nearest, ties to even), or Q8_0.
///
/// Errors if the type is another, or for Q8_0 if the number of floats is no multiple of 32.
pub fn encode(ty: GgmlType, floats: &[f32], out: &mut Vec<u8>) -> Result<(), ConversionError> {
    match ty {
        GgmlType::F32 => out.extend(floats.iter().flat_map(|v| v.to_le_bytes())),
        GgmlType::F16 => out.extend(floats.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        GgmlType::BF16 => out.extend(floats.iter().flat_map(|&v| f32_to_bf16(v).to_le_bytes())),
        GgmlType::Q8_0 => return quantize_q8_0(floats, out),
        _ => return Err(ConversionError::NoEncoder(ty)),
    }
    Ok(())
}

/// The bits of the nearest bfloat16, ties to even; NaNs become quiet and keep sign and high payload.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 64;
    }
    let tie = (bits >> 16) & 1;
    // The largest finite value carries into infinity, whose upper half has room for it.
    (bits.wrapping_add(0x7fff + tie) >> 16) as u16
}

/// Appends Q8_0 blocks: scale largest magnitude / 127 as a half, integers rounded half away from zero with the
/// unrounded scale, as ggml's reference does. NaN elements become 0.
///
/// Errors if the number of floats is no multiple of 32.
pub fn quantize_q8_0(floats: &[f32], out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let (blocks, rest) = floats.as_chunks::<32>();
    if !rest.is_empty() {
        let ty = GgmlType::Q8_0;
        let bytes = floats.len() / 32 * 34;
        return Err(ConversionError::Length {
            ty,
            bytes,
            floats: floats.len(),
            block_elements: 32,
            block_bytes: 34,
        });
    }
    out.reserve(blocks.len() * 34);
    for block in blocks {
        let largest = block.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend_from_slice(&f16::from_f32(scale).to_le_bytes());
        // The cast saturates and takes NaN to 0.
        out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_even_and_keeps_specials() {
        for (value, bits) in [
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x8000_0001, 0x8000),
            (0xff80_0001, 0xffc0),
        ] {
            assert_eq!(f32_to_bf16(f32::from_bits(value)), bits, "{value:#010x}");
        }
    }

    #[test]
    fn refuses_other_types_and_broken_blocks() {
        let mut out = Vec::new();
        assert_eq!(
            encode(GgmlType::Q4_K, &[0.0; 256], &mut out),
            Err(ConversionError::NoEncoder(GgmlType::Q4_K))
        );
        assert!(matches!(encode(GgmlType::Q8_0, &[0.0; 33], &mut out), Err(ConversionError::Length { .. })));
        assert!(out.is_empty());
    }
}
