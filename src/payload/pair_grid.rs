//! Frequencies of pairs of symbols, and which slots they own (spec section "Class tables").

use super::error::{ErrorKind, PayloadError};
use super::table::SLOTS;

/// Most pairs of one parity that have slots: two vector registers hold an attribute of the pairs of both parities.
pub const MAX_PAIRS: usize = 64;
/// Most symbols of each of the two integers.
pub const MAX_SIDE: usize = 16;

/// A pair of symbols with its number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Symbol of the first integer: its index k is `smallest + first`.
    pub first: u8,
    /// Symbol of the second integer.
    pub second: u8,
    /// Slots, 1..=255.
    pub frequency: u8,
}

/// The pairs of one parity: `side` x `side` frequencies that add up to 256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairGrid {
    smallest: i8,
    side: u8,
    frequencies: Vec<u8>,
}

impl PairGrid {
    /// `frequencies[first * side + second]` slots for the indices `smallest + first` and `smallest + second`.
    ///
    /// # Errors
    /// [`ErrorKind::BadTable`] if the frequencies are not those of a legal table. (The largest value depends on both
    /// parities and is checked by [`ClassTable::of_pairs`](super::table::ClassTable::of_pairs).)
    pub fn new(smallest: i8, side: usize, frequencies: Vec<u8>) -> Result<Self, PayloadError> {
        let bad = |expected| Err(PayloadError::new(ErrorKind::BadTable, 0, expected));
        if side == 0 || side > MAX_SIDE || frequencies.len() != side * side {
            return bad("1 to 16 symbols of each integer of a pair");
        }
        if frequencies.iter().map(|&f| usize::from(f)).sum::<usize>() != SLOTS {
            return bad("pairs of 256 slots together");
        }
        if frequencies.iter().filter(|&&f| f > 0).count() > MAX_PAIRS {
            return bad("at most 64 pairs for each parity");
        }
        Ok(Self { smallest, side: side as u8, frequencies })
    }

    /// Smallest index of both integers.
    pub fn smallest(&self) -> i8 {
        self.smallest
    }

    /// Symbols of each integer.
    pub fn side(&self) -> u8 {
        self.side
    }

    /// Slots of all pairs, row by row of the first symbol.
    pub fn frequencies(&self) -> &[u8] {
        &self.frequencies
    }

    /// The pairs that have slots, in the order of their slots: by falling frequency, then by first and second symbol.
    pub fn in_slot_order(&self) -> Vec<Pair> {
        let side = usize::from(self.side);
        let pair = |(at, &frequency): (usize, &u8)| Pair {
            first: (at / side) as u8,
            second: (at % side) as u8,
            frequency,
        };
        let mut pairs: Vec<Pair> =
            self.frequencies.iter().enumerate().map(pair).filter(|pair| pair.frequency > 0).collect();
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.frequency));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::table::ClassTable;

    #[test]
    fn pairs_own_consecutive_slots_by_falling_frequency() {
        let even = PairGrid::new(-1, 2, vec![6, 122, 122, 6]).unwrap();
        let odd = PairGrid::new(-2, 3, vec![0, 0, 1, 0, 254, 0, 1, 0, 0]).unwrap();
        let table = ClassTable::of_pairs([even, odd]).unwrap();
        assert_eq!(table.offset(), 4);
        let entry = |q: usize, slot: usize| table.entries()[usize::from(table.run_of_slot(q)[slot])];
        // (k1, k2) = (-1, 0), (0, -1), (-1, -1), (0, 0): m = 2k, u = m + 4.
        let expected = [(0, 122, 2, 4), (122, 122, 4, 2), (244, 6, 2, 2), (250, 6, 4, 4)];
        for (start, frequency, value, second) in expected {
            for slot in [start, start + frequency - 1] {
                let entry = entry(0, slot);
                assert_eq!((usize::from(entry.rank_base), usize::from(entry.frequency)), (start, frequency));
                assert_eq!((entry.value, entry.second), (value, second));
            }
        }
        assert_eq!((entry(1, 0).value, entry(1, 253).second, entry(1, 254).value), (3, 3, 1));
        assert_eq!((entry(1, 255).value, entry(1, 255).second), (5, 1));
    }

    #[test]
    fn rules_are_enforced() {
        for (side, frequencies) in [
            (0, vec![]),
            (17, vec![0; 289]),
            (2, vec![128, 128]),
            (2, vec![255, 0, 0, 0]),
            (2, vec![255, 1, 1, 0]),
            (9, [vec![4; 61], vec![3; 4], vec![0; 16]].concat()),
        ] {
            assert_eq!(PairGrid::new(0, side, frequencies).unwrap_err().kind(), ErrorKind::BadTable);
        }
        let wide = || PairGrid::new(-32, 16, [vec![1], vec![0; 254], vec![255]].concat()).unwrap();
        let high = |smallest| PairGrid::new(smallest, 2, vec![1, 0, 0, 255]).unwrap();
        assert!(ClassTable::of_pairs([wide(), high(30)]).is_ok());
        assert!(ClassTable::of_pairs([wide(), high(31)]).is_err(), "2 * 32 + 1 + 64 is 129");
    }
}
