//! The texts of all tokens in one piece of memory, and the way from a text to its token.

use std::hash::{BuildHasher, RandomState};

/// A slot without a token.
const FREE: u32 = u32::MAX;

/// Texts by number, and their numbers by text: some 10 bytes for each besides the texts.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    bytes: String,
    /// Where each text ends in `bytes`.
    ends: Vec<u32>,
    /// Hash table with open addressing: numbers of texts, or [`FREE`]. Its length is a power of two.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Texts {
    /// Keeps the texts; `None` if there are 2^32 - 1 of them or more, or 4 GiB. Of equal texts the last one is found.
    pub(super) fn new<'t>(texts: impl Iterator<Item = &'t str>) -> Option<Self> {
        let (mut bytes, mut ends) = (String::new(), Vec::new());
        for text in texts {
            bytes.push_str(text);
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        bytes.shrink_to_fit();
        ends.shrink_to_fit();
        let count = u32::try_from(ends.len()).ok().filter(|&count| count < FREE)?;
        // At least a quarter of the slots stays free.
        let slots = ends.len().checked_mul(4)?.div_ceil(3).max(2).checked_next_power_of_two()?;
        let mut all = Self { bytes, ends, slots: vec![FREE; slots], hasher: RandomState::new() };
        for number in 0..count {
            let slot = all.slot(all.text(number));
            if let Some(slot) = all.slots.get_mut(slot) {
                *slot = number;
            }
        }
        Some(all)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Text `number`; empty beyond the end.
    pub(super) fn text(&self, number: u32) -> &str {
        let at = number as usize;
        let Some(&end) = self.ends.get(at) else { return "" };
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The slot that holds this text, or else the one where it belongs.
    fn slot(&self, text: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        while self.slots.get(slot).is_some_and(|&number| number != FREE && self.text(number) != text) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Number of this text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.slots.get(self.slot(text)).copied().filter(|&number| number != FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_number_and_number_by_text() {
        let words: Vec<String> = (0..5000).map(|i| format!("{}", i * i % 7919)).collect();
        let texts = Texts::new(words.iter().map(String::as_str)).unwrap();
        for (number, word) in words.iter().enumerate() {
            assert_eq!(texts.text(number as u32), word);
            let last = words.iter().rposition(|other| other == word).unwrap();
            assert_eq!(texts.find(word), Some(last as u32));
        }
        assert_eq!((texts.find("no"), texts.find(""), texts.text(5000)), (None, None, ""));
        let none = Texts::new(std::iter::empty()).unwrap();
        assert_eq!((none.len(), none.find("")), (0, None));
        let empty = Texts::new(["", "a", ""].into_iter()).unwrap();
        assert_eq!((empty.find(""), empty.find("a"), empty.text(2)), (Some(2), Some(1), ""));
    }
}
