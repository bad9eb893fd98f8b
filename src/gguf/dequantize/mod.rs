//! From the blocks of ggml's types to f32, bit for bit what gguf-py computes.

mod plain;
mod simple;

use super::error::DequantizeError;
use super::types::GgmlType;

pub use plain::f16_to_f32;

/// Converts whole blocks of `ty` to floats.
///
/// `out.len()` must be a multiple of the type's block and `bytes` exactly the blocks that hold it, so any range of
/// rows, or of blocks in a row, can be converted alone. I64, I32 and F64 values are rounded to the nearest float.
/// Errors if the lengths do not belong together or the type has no conversion (WSIC, unknown ids).
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), DequantizeError> {
    let Some(block) = ty.block() else { return Err(DequantizeError::NoConversion(ty)) };
    let blocks = out.len() / block.elements;
    if !out.len().is_multiple_of(block.elements) || blocks.checked_mul(block.bytes) != Some(bytes.len()) {
        return Err(DequantizeError::Length {
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
        _ => return Err(DequantizeError::NoConversion(ty)),
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
