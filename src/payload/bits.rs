//! Bits of the escape list, least significant bit of each byte first (spec section "Escapes").

/// Reads bits; past the end it reads zeros, which no code word consists of.
#[derive(Clone, Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Byte that holds the next bit.
    pub(super) const fn byte(&self) -> usize {
        self.at / 8
    }

    /// The next bits, at least 57 of them unless the end is nearer.
    fn window(&self) -> u64 {
        let start = self.at / 8;
        let rest = self.bytes.get(start..).unwrap_or(&[]);
        let word = match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        };
        word >> (self.at % 8)
    }

    /// Number of zero bits before the next one bit, which is consumed; `None` if only zeros are left.
    pub(super) fn unary(&mut self) -> Option<u64> {
        let mut zeros = 0u64;
        loop {
            let window = self.window();
            if window != 0 {
                let more = window.trailing_zeros();
                self.at += more as usize + 1;
                return zeros.checked_add(u64::from(more));
            }
            let step = 8 - self.at % 8;
            if self.at / 8 >= self.bytes.len() {
                return None;
            }
            self.at += step;
            zeros = zeros.checked_add(step as u64)?;
        }
    }

    /// `count` bits (at most 32) as a number, the first one least significant; `None` past the end.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        if self.at + count as usize > self.bytes.len() * 8 {
            return None;
        }
        let value = self.window() & ((1 << count) - 1);
        self.at += count as usize;
        Some(value as u32)
    }

    /// Whether the rest is padding: fewer than eight zero bits.
    pub(super) fn only_padding(&self) -> bool {
        self.at + 8 > self.bytes.len() * 8 && self.window() == 0
    }
}

/// Writes bits.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    used: usize,
}

impl BitWriter {
    pub(super) fn put(&mut self, value: u64, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (self.used % 8);
            }
            self.used += 1;
        }
    }

    /// `zeros` zero bits and a one bit.
    pub(super) fn unary(&mut self, zeros: u64) {
        for _ in 0..zeros {
            self.put(0, 1);
        }
        self.put(1, 1);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(items in prop::collection::vec((0u64..200, any::<u32>(), 0u32..=32), 0..50)) {
            let mut writer = BitWriter::default();
            for &(zeros, value, count) in &items {
                writer.unary(zeros);
                writer.put(u64::from(value), count);
            }
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            for &(zeros, value, count) in &items {
                prop_assert_eq!(reader.unary(), Some(zeros));
                let mask = ((1u64 << count) - 1) as u32;
                prop_assert_eq!(reader.take(count), Some(value & mask));
            }
            prop_assert!(reader.only_padding());
            prop_assert_eq!(reader.unary(), None);
        }
    }
}
