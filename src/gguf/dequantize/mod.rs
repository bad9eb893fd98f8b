//! From the blocks of ggml's types to f32, bit for bit what gguf-py computes.

mod codebook;
mod grids;
mod kquant;
mod nonuniform;
mod plain;
mod simple;
mod ternary;

use super::error::ConversionError;
use super::types::GgmlType;

pub use plain::f16_to_f32;

/// Converts whole blocks of `ty` to floats.
///
/// `out.len()` must be a multiple of the type's block and `bytes` exactly the blocks that hold it, so any range of
/// rows, or of blocks in a row, can be converted alone. I64, I32 and F64 values are rounded to the nearest float.
/// Errors if the lengths do not belong together or the type has no conversion (WSIC, unknown ids).
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), ConversionError> {
    let Some(block) = ty.block() else { return Err(ConversionError::NoConversion(ty)) };
    let blocks = out.len() / block.elements;
    if !out.len().is_multiple_of(block.elements) || blocks.checked_mul(block.bytes) != Some(bytes.len()) {
        return Err(ConversionError::Length {
            ty,
            bytes: bytes.len(),
            floats: out.len(),
            block_elements: block.elements,
            block_bytes: block.bytes,
        });
    }
    match ty {
        GgmlType::F32 => plain::each(bytes, out, f32::from_le_bytes),
        GgmlType::F64 => plain::each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        GgmlType::F16 => plain::each(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        GgmlType::BF16 => plain::each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        GgmlType::I8 => plain::each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        GgmlType::I16 => plain::each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        GgmlType::I32 => plain::each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        GgmlType::I64 => plain::each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        GgmlType::Q4_0 => blocks_of(bytes, out, simple::q4_0),
        GgmlType::Q4_1 => blocks_of(bytes, out, simple::q4_1),
        GgmlType::Q5_0 => blocks_of(bytes, out, simple::q5_0),
        GgmlType::Q5_1 => blocks_of(bytes, out, simple::q5_1),
        GgmlType::Q8_0 => blocks_of(bytes, out, simple::q8_0),
        GgmlType::Q8_1 => blocks_of(bytes, out, simple::q8_1),
        GgmlType::Q2_K => blocks_of(bytes, out, kquant::q2_k),
        GgmlType::Q3_K => blocks_of(bytes, out, kquant::q3_k),
        GgmlType::Q4_K => blocks_of(bytes, out, kquant::q4_k),
        GgmlType::Q5_K => blocks_of(bytes, out, kquant::q5_k),
        GgmlType::Q6_K => blocks_of(bytes, out, kquant::q6_k),
        GgmlType::Q8_K => blocks_of(bytes, out, kquant::q8_k),
        GgmlType::IQ4_NL => blocks_of(bytes, out, nonuniform::iq4_nl),
        GgmlType::IQ4_XS => blocks_of(bytes, out, nonuniform::iq4_xs),
        GgmlType::MXFP4 => blocks_of(bytes, out, nonuniform::mxfp4),
        GgmlType::NVFP4 => blocks_of(bytes, out, nonuniform::nvfp4),
        GgmlType::TQ1_0 => blocks_of(bytes, out, ternary::tq1_0),
        GgmlType::TQ2_0 => blocks_of(bytes, out, ternary::tq2_0),
        GgmlType::Q1_0 => blocks_of(bytes, out, ternary::q1_0),
        GgmlType::Q2_0 => blocks_of(bytes, out, ternary::q2_0),
        GgmlType::IQ2_XXS => blocks_of(bytes, out, codebook::iq2_xxs),
        GgmlType::IQ2_XS => blocks_of(bytes, out, codebook::iq2_xs),
        GgmlType::IQ2_S => blocks_of(bytes, out, codebook::iq2_s),
        GgmlType::IQ3_XXS => blocks_of(bytes, out, codebook::iq3_xxs),
        GgmlType::IQ3_S => blocks_of(bytes, out, codebook::iq3_s),
        GgmlType::IQ1_S => blocks_of(bytes, out, codebook::iq1_s),
        GgmlType::IQ1_M => blocks_of(bytes, out, codebook::iq1_m),
        GgmlType::Wsic | GgmlType::Unknown(_) => return Err(ConversionError::NoConversion(ty)),
    }
    Ok(())
}

/// Applies `convert` to each block of `B` bytes and its `E` floats.
fn blocks_of<const B: usize, const E: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: impl Fn(&[u8; B], &mut [f32; E]),
) {
    for (block, floats) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<E>().0) {
        convert(block, floats);
    }
}
