//! The coder of side information: an adaptive binary range coder (spec section "Side information coder").
//!
//! Column classes, scales and class tables are few numbers with strong statistics; a bit-by-bit adaptive coder
//! stores them in about half of their fixed-width size. Integers only.

use super::error::{ErrorKind, PayloadError};

/// Probabilities have 12 bits; they move by 1/16 of their distance.
const PROBABILITY_BITS: u32 = 12;
const ADAPTATION: u32 = 4;
const HALF: u16 = 1 << (PROBABILITY_BITS - 1);
const RENORMALISE_BELOW: u32 = 1 << 24;

/// Contexts of one number code (adaptive Exp-Golomb).
#[derive(Clone, Debug)]
pub(crate) struct NumberContexts {
    length: [u16; Self::MAX_EXPONENT + 1],
    first: [u16; Self::MAX_EXPONENT + 1],
}

impl NumberContexts {
    /// Largest exponent: numbers stay below 2^24 - 1.
    pub(crate) const MAX_EXPONENT: usize = 23;

    pub(crate) fn new() -> Self {
        Self { length: [HALF; Self::MAX_EXPONENT + 1], first: [HALF; Self::MAX_EXPONENT + 1] }
    }
}

/// Contexts of a symbol of `bits` bits, most significant bit first.
#[derive(Clone, Debug)]
pub(crate) struct TreeContexts {
    /// By the bits so far with a 1 before them.
    nodes: [u16; 1 << Self::MAX_BITS],
    bits: u32,
}

impl TreeContexts {
    const MAX_BITS: u32 = 6;

    /// # Panics
    /// If `bits` exceeds 6, which no part of the format does.
    pub(crate) fn new(bits: u32) -> Self {
        assert!(bits <= Self::MAX_BITS);
        Self { nodes: [HALF; 1 << Self::MAX_BITS], bits }
    }
}

/// A running prediction of a scale code: sixteenths, moved by a quarter of the error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prediction(i32);

impl Prediction {
    pub(crate) const fn new() -> Self {
        Self(128 * 16)
    }

    pub(crate) const fn value(self) -> i32 {
        (self.0 + 8) >> 4
    }

    pub(crate) const fn update(&mut self, code: i32) {
        self.0 += (code * 16 - self.0) >> 2;
    }
}

/// Maps 0, -1, 1, -2, … to 0, 1, 2, 3, …
pub(crate) const fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// Inverse of [`zigzag`].
pub(crate) const fn unzigzag(code: u32) -> i32 {
    (code >> 1) as i32 ^ -((code & 1) as i32)
}

/// Reads side information from exactly `bytes`.
pub(crate) struct SideDecoder<'a> {
    bytes: &'a [u8],
    position: usize,
    range: u32,
    code: u32,
}

impl<'a> SideDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        let Some(start) = bytes.first_chunk::<4>() else {
            return Err(damaged(0, "at least four bytes of side information"));
        };
        let code = u32::from_be_bytes(*start);
        // From here on `code < range`, so nothing below can overflow. No encoder writes such a start.
        if code == u32::MAX {
            return Err(damaged(0, "a first number below 2^32 - 1"));
        }
        Ok(Self { bytes, position: 4, range: u32::MAX, code })
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// One bit; without a branch on it, which would be mispredicted as often as the bit is a surprise.
    #[inline(always)]
    fn split(&mut self, bound: u32) -> Result<u32, PayloadError> {
        let bit = u32::from(self.code >= bound);
        let one = bit.wrapping_neg();
        self.code -= bound & one;
        self.range = bound & !one | (self.range - bound) & one;
        if self.range < RENORMALISE_BELOW {
            self.renormalise()?;
        }
        Ok(bit)
    }

    fn renormalise(&mut self) -> Result<(), PayloadError> {
        while self.range < RENORMALISE_BELOW {
            let Some(&byte) = self.bytes.get(self.position) else {
                return Err(damaged(self.position, "more side information"));
            };
            self.position += 1;
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(byte);
        }
        Ok(())
    }

    #[inline(always)]
    fn adaptive(&mut self, probability: &mut u16) -> Result<u32, PayloadError> {
        let bit = self.split((self.range >> PROBABILITY_BITS) * u32::from(*probability))?;
        adapt(probability, bit);
        Ok(bit)
    }

    /// `bits` bits of equal probability, most significant first.
    pub(crate) fn direct(&mut self, bits: u32) -> Result<u32, PayloadError> {
        let mut value = 0;
        for _ in 0..bits {
            value = value << 1 | self.split(self.range >> 1)?;
        }
        Ok(value)
    }

    pub(crate) fn tree(&mut self, contexts: &mut TreeContexts) -> Result<u32, PayloadError> {
        const NODES: usize = 1 << TreeContexts::MAX_BITS;
        let mut node = 1usize;
        let mut probability = contexts.nodes[node];
        for _ in 0..contexts.bits {
            // Both successors are loaded before the bit is known: a load costs as much as the rest of the step.
            let successors = [contexts.nodes[2 * node % NODES], contexts.nodes[(2 * node + 1) % NODES]];
            let bit = self.split((self.range >> PROBABILITY_BITS) * u32::from(probability))?;
            adapt(&mut probability, bit);
            contexts.nodes[node % NODES] = probability;
            node = node << 1 | bit as usize;
            let one = (bit as u16).wrapping_neg();
            probability = successors[0] & !one | successors[1] & one;
        }
        Ok(node as u32 - (1 << contexts.bits))
    }

    pub(crate) fn number(&mut self, contexts: &mut NumberContexts) -> Result<u32, PayloadError> {
        let mut exponent = 0;
        while self.adaptive(&mut contexts.length[exponent])? == 1 {
            exponent += 1;
            if exponent > NumberContexts::MAX_EXPONENT {
                return Err(damaged(self.position, "a number below 2^24 - 1"));
            }
        }
        let mut value = 1;
        if exponent > 0 {
            value = 2 | self.adaptive(&mut contexts.first[exponent])?;
            for _ in 1..exponent {
                value = value << 1 | self.direct(1)?;
            }
        }
        Ok(value - 1)
    }

    /// All bytes must be used and the coder be back at zero.
    pub(crate) fn finish(self) -> Result<(), PayloadError> {
        if self.position != self.bytes.len() || self.code != 0 {
            return Err(damaged(self.position, "side information used up exactly"));
        }
        Ok(())
    }
}

fn damaged(offset: usize, expected: &'static str) -> PayloadError {
    PayloadError::new(ErrorKind::BadSideInformation, offset, expected)
}

/// Towards 2^12 after a 0, towards 0 after a 1.
#[inline(always)]
fn adapt(probability: &mut u16, bit: u32) {
    let one = (bit as u16).wrapping_neg();
    let rise = ((1 << PROBABILITY_BITS) - *probability) >> ADAPTATION;
    let fall = *probability >> ADAPTATION;
    *probability = probability.wrapping_add(rise & !one).wrapping_sub(fall & one);
}

/// Writes side information.
pub(crate) struct SideEncoder {
    bytes: Vec<u8>,
    low: u64,
    range: u32,
    pending: u64,
    cache: u8,
    started: bool,
}

impl SideEncoder {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), low: 0, range: u32::MAX, pending: 0, cache: 0, started: false }
    }

    fn shift_low(&mut self) {
        if self.low < 0xFF00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            if self.started {
                self.bytes.push(self.cache.wrapping_add(carry));
            }
            self.started = true;
            for _ in 0..self.pending {
                self.bytes.push(0xFFu8.wrapping_add(carry));
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }

    fn split(&mut self, bound: u32, bit: u32) {
        if bit == 0 {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < RENORMALISE_BELOW {
            self.range <<= 8;
            self.shift_low();
        }
    }

    fn adaptive(&mut self, probability: &mut u16, bit: u32) {
        self.split((self.range >> PROBABILITY_BITS) * u32::from(*probability), bit);
        adapt(probability, bit);
    }

    pub(crate) fn direct(&mut self, value: u32, bits: u32) {
        for shift in (0..bits).rev() {
            self.split(self.range >> 1, value >> shift & 1);
        }
    }

    pub(crate) fn tree(&mut self, contexts: &mut TreeContexts, value: u32) {
        let mut node = 1usize;
        for shift in (0..contexts.bits).rev() {
            let bit = value >> shift & 1;
            self.adaptive(&mut contexts.nodes[node], bit);
            node = node << 1 | bit as usize;
        }
    }

    pub(crate) fn number(&mut self, contexts: &mut NumberContexts, value: u32) {
        let shifted = value + 1;
        let exponent = shifted.ilog2() as usize;
        assert!(exponent <= NumberContexts::MAX_EXPONENT, "number too large for the side information coder");
        for level in 0..exponent {
            self.adaptive(&mut contexts.length[level], 1);
        }
        self.adaptive(&mut contexts.length[exponent], 0);
        if exponent > 0 {
            self.adaptive(&mut contexts.first[exponent], shifted >> (exponent - 1) & 1);
            self.direct(shifted & ((1 << (exponent - 1)) - 1), exponent as u32 - 1);
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift_low();
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Item {
        Direct(u32, u32),
        Tree(u32),
        Number(u32),
    }

    fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            (0u32..=24).prop_flat_map(|bits| (0..1u32 << bits).prop_map(move |v| Item::Direct(v, bits))),
            (0u32..32).prop_map(Item::Tree),
            prop_oneof![0u32..8, 0u32..(1 << 24) - 1].prop_map(Item::Number),
        ]
    }

    fn encode(items: &[Item]) -> Vec<u8> {
        let mut encoder = SideEncoder::new();
        let (mut tree, mut number) = (TreeContexts::new(5), NumberContexts::new());
        for item in items {
            match *item {
                Item::Direct(value, bits) => encoder.direct(value, bits),
                Item::Tree(value) => encoder.tree(&mut tree, value),
                Item::Number(value) => encoder.number(&mut number, value),
            }
        }
        encoder.finish()
    }

    proptest! {
        #[test]
        fn round_trip_uses_every_byte(items in prop::collection::vec(item(), 0..400)) {
            let bytes = encode(&items);
            let mut decoder = SideDecoder::new(&bytes).unwrap();
            let (mut tree, mut number) = (TreeContexts::new(5), NumberContexts::new());
            for item in &items {
                match *item {
                    Item::Direct(value, bits) => prop_assert_eq!(decoder.direct(bits).unwrap(), value),
                    Item::Tree(value) => prop_assert_eq!(decoder.tree(&mut tree).unwrap(), value),
                    Item::Number(value) => prop_assert_eq!(decoder.number(&mut number).unwrap(), value),
                }
            }
            prop_assert!(decoder.finish().is_ok());
        }

        #[test]
        fn zigzag_round_trip(value in any::<i32>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn left_over_bytes_are_refused() {
        let mut bytes = encode(&[Item::Number(5), Item::Tree(3)]);
        bytes.push(0);
        let mut decoder = SideDecoder::new(&bytes).unwrap();
        decoder.number(&mut NumberContexts::new()).unwrap();
        decoder.tree(&mut TreeContexts::new(5)).unwrap();
        assert_eq!(decoder.finish().unwrap_err().kind(), ErrorKind::BadSideInformation);
    }

    #[test]
    fn a_start_outside_the_range_is_refused() {
        assert!(SideDecoder::new(&[0xFF; 8]).is_err());
        // The largest legal start: every bit is 1, and the state stays below the range.
        let mut decoder = SideDecoder::new(&[0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
        for _ in 0..40 {
            decoder.direct(1).unwrap_or(0);
            assert!(decoder.code < decoder.range);
        }
    }

    #[test]
    fn skewed_symbols_cost_little() {
        let items: Vec<Item> = (0..4000).map(|_| Item::Number(0)).collect();
        assert!(encode(&items).len() < 40, "{} bytes", encode(&items).len());
    }
}
