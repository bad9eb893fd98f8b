//! Constants of the byte layout (spec sections "Payload header" and "Matrix header"), shared by reader and writer.

use super::{Geometry, ScaleKind, Trellis};

/// First bytes of every payload.
pub const MAGIC: [u8; 4] = *b"WSIC";
/// Version of the format described in `spec/FORMAT.md`.
pub const VERSION: u8 = 1;

/// Bytes of the payload header before the list of matrix ends.
pub(crate) const PAYLOAD_FIXED: usize = 32;
/// Bytes of the matrix header before the side information.
pub(crate) const MATRIX_FIXED: usize = 24;
/// Bytes of one tile in the directory: end, bytes of escapes, checksum.
pub(crate) const DIRECTORY_ENTRY: usize = 12;
/// Bytes of the coder's 64 initial states.
pub(crate) const STATE_BYTES: usize = 128;
/// State every lane ends in (and the encoder starts from).
pub(crate) const FINAL_STATE: u32 = 256;
/// Most classes of a matrix.
pub(crate) const MAX_CLASSES: usize = 32;
/// Most extra stream columns of one input column: with three terms no weight can overflow.
pub(crate) const MAX_EXTRA_COPIES: usize = 2;
/// Table identifier that announces a table written out in the side information.
pub(crate) const INLINE_TABLE: u32 = 255;
/// The same for a pair table.
pub(crate) const INLINE_PAIR_TABLE: u32 = 254;
/// Announces the identifier of a standard pair table.
pub(crate) const STANDARD_PAIR_TABLE: u32 = 253;
/// Most low bits of the gap between two escapes.
pub(crate) const MAX_GAP_BITS: u32 = 24;
/// Largest exponent of an escape's value: every legal integer is in reach of every table, addends are at most 2^24.
pub(crate) const MAX_ESCAPE_EXPONENT: u32 = 22;
/// Legal tensor scales: between these powers of two no weight overflows, and no product becomes subnormal.
pub(crate) const TENSOR_SCALE_EXPONENTS: std::ops::RangeInclusive<i32> = -96..=40;

/// 2^(i/8), rounded to f32.
pub(crate) const EIGHTHS: [f32; 8] = [
    f32::from_bits(0x3F80_0000),
    f32::from_bits(0x3F8B_95C2),
    f32::from_bits(0x3F98_37F0),
    f32::from_bits(0x3FA5_FED7),
    f32::from_bits(0x3FB5_04F3),
    f32::from_bits(0x3FC5_672A),
    f32::from_bits(0x3FD7_44FD),
    f32::from_bits(0x3FEA_C0C7),
];

/// Bits of a class symbol: 0 is a dead column, c + 1 is class c.
pub(crate) const fn class_bits(classes: usize) -> u32 {
    (classes + 1).next_power_of_two().trailing_zeros()
}

/// `2^(code/8 - octaves)` exactly as the specification defines it: a power of two times an [`EIGHTHS`] constant.
pub(crate) fn log_scale(code: u16, octaves: i32) -> f32 {
    let exponent = i32::from(code >> 3) - octaves;
    // Exponents are in -16..=31, so the bit pattern is a normal number.
    EIGHTHS[usize::from(code & 7)] * f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Value of a stored half float, or `None` unless it is positive, finite and normal.
pub(crate) fn half_scale(bits: u16) -> Option<f32> {
    let exponent = bits >> 10;
    (1..31).contains(&exponent).then(|| f32::from_bits((u32::from(bits) << 13) + (112 << 23)))
}

/// Value of a scale code, without the tensor scale; `octaves` is subtracted from the exponent of log codes.
pub(crate) fn scale_value(kind: ScaleKind, code: u16, octaves: i32) -> Option<f32> {
    match kind {
        ScaleKind::Log8 => (code < 256).then(|| log_scale(code, octaves)),
        ScaleKind::Half => half_scale(code),
    }
}

/// Octaves subtracted from the log codes of row scales.
pub(crate) const ROW_SCALE_OCTAVES: i32 = 16;

pub(crate) const fn scale_kind_code(kind: ScaleKind) -> u8 {
    match kind {
        ScaleKind::Log8 => 0,
        ScaleKind::Half => 1,
    }
}

pub(crate) const fn trellis_code(trellis: Trellis) -> u8 {
    match trellis {
        Trellis::Scalar => 0,
        Trellis::EightState => 1,
        Trellis::Pairs => 2,
    }
}

/// Number of positions of a column scale list: chunks times columns per chunk.
pub(crate) const fn padded(columns: usize, geometry: Geometry) -> usize {
    columns.div_ceil(geometry.columns_per_chunk()) * geometry.columns_per_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighths_are_correctly_rounded() {
        for (i, value) in EIGHTHS.iter().enumerate() {
            assert_eq!(*value, (i as f64 / 8.0).exp2() as f32);
        }
    }

    #[test]
    fn scale_codes() {
        assert_eq!(log_scale(0, 0), 1.0);
        assert_eq!(log_scale(8 * 31 + 4, 0), 31.5f64.exp2() as f32);
        assert_eq!(log_scale(128, ROW_SCALE_OCTAVES), 1.0);
        assert_eq!(half_scale(0x3C00), Some(1.0));
        assert_eq!(half_scale(0x7BFF), Some(65504.0));
        assert_eq!(half_scale(0x0400), Some(2f32.powi(-14)));
        for bits in [0, 1, 0x03FF, 0x7C00, 0x7E00, 0x8000, 0xBC00] {
            assert_eq!(half_scale(bits), None);
        }
    }

    #[test]
    fn class_symbol_widths() {
        assert_eq!([0, 1, 2, 3, 4, 15, 16, 31, 32].map(class_bits), [0, 1, 2, 2, 3, 4, 5, 5, 6]);
    }
}
