//! Few-level types with one scale: TQ1_0, TQ2_0, Q1_0, Q2_0.

use super::simple::half_at;

/// Digit `place` (0 the most significant) of a byte that holds five ternary digits as a fraction of 243 in 256ths,
/// minus 1.
fn digit(byte: u8, place: usize) -> f32 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let rest = byte.wrapping_mul(POWERS[place]);
    f32::from(((u16::from(rest) * 3) >> 8) as i8 - 1)
}

/// 32 bytes of 5 digits (interleaved by 32), 16 of 5 (by 16), 4 of 4 (by 4), d.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half_at(block, 52);
    let (first, rest) = out.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    for (bytes, floats) in [(&block[..32], first), (&block[32..48], second), (&block[48..52], third)] {
        for (e, float) in floats.iter_mut().enumerate() {
            *float = d * digit(bytes[e % bytes.len()], e / bytes.len());
        }
    }
}

/// 64 bytes of 2 bits interleaved by 32, d: (q - 1) d.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 64);
    for (e, float) in out.iter_mut().enumerate() {
        let q = (block[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2)) & 3;
        *float = d * f32::from(q as i8 - 1);
    }
}

/// d, 16 bytes of sign bits: a set bit is d, a clear one -d.
pub(super) fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half_at(block, 0);
    for (e, float) in out.iter_mut().enumerate() {
        *float = if (block[2 + e / 8] >> (e % 8)) & 1 == 1 { d } else { -d };
    }
}

/// d, 16 bytes of 2 bits, four neighbours to a byte: (q - 1) d.
pub(super) fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = half_at(block, 0);
    for (e, float) in out.iter_mut().enumerate() {
        let q = (block[2 + e / 4] >> (e % 4 * 2)) & 3;
        *float = f32::from(q as i8 - 1) * d;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_two_bit_blocks() {
        // d = 0.5; types that gguf-py cannot convert, so the expectation is written out.
        let mut block = [0u8; 18];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        block[2] = 0b1110_0100;
        let mut signs = [0.0; 128];
        q1_0(&block, &mut signs);
        assert_eq!(signs[..9], [-0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -0.5]);
        let mut fields = [0.0; 64];
        q2_0(&block, &mut fields);
        assert_eq!(fields[..5], [-0.5, 0.0, 0.5, 1.0, -0.5]);
    }
}
