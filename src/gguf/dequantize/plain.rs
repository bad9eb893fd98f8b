//! Types without blocks.

/// Converts each element of `N` bytes.
pub(super) fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (element, float) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *float = convert(*element);
    }
}

/// The value of an IEEE half; exact, NaN payloads kept, on every machine the same bits.
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    // Exponents are rebiased from 15 to 127; infinity and NaN move on to the largest exponent; subnormals get
    // an implicit one that is subtracted again.
    let bits = if magnitude >= 0x7c00 << 13 {
        magnitude + (224 << 23)
    } else if magnitude < 0x0400 << 13 {
        (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits()
    } else {
        magnitude + (112 << 23)
    };
    f32::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_equals_the_half_crate() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let value = f16_to_f32(bits);
            if expected.is_nan() {
                // The crate makes NaNs quiet; the payload stays here.
                assert_eq!(value.to_bits() | 0x0040_0000, expected.to_bits() | 0x0040_0000, "{bits:#06x}");
            } else {
                assert_eq!(value.to_bits(), expected.to_bits(), "{bits:#06x}");
            }
        }
    }
}
