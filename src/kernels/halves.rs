//! Products of both integers of a pair from one byte.
//!
//! The integers m and m' of a pair have one parity, so a = (m + m') / 2 and b = (m - m') / 2 are integers too, and as the
//! pairs of a table fill a disc, a and b are smaller than m and m'. A byte holds a + 8 in its low half and b + 8 in its
//! high half. A kernel looks up this byte in place of two values, and adds to the accumulators of the even step the products
//! of the whole byte, to those of the odd step the products of its high half, 16 (b + 8). Until sums are converted
//! ([`to_integers`]), accumulators hold such *halves*. The low bit of b is also what moves the trellis: with m = 2k + q and
//! m' = 2k' + q, b is k - k'.

use crate::payload::table::ClassTable;

/// What a + 8 and b + 8 exceed a and b by.
const MIDDLE: i32 = 8;
/// log2 of what the high half counts.
pub(super) const HIGH: u32 = 4;
/// Bits of the high half.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const HIGH_HALF: u8 = 0xF0;
/// The low bit of b.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const BRANCH_BIT: u8 = 1 << HIGH;

/// What halves take off the integers of even and odd steps, as offsets do where values u = m + offset are multiplied:
/// (a + 8) + (b + 8) and (a + 8) - (b + 8).
pub(super) const OFFSETS: [i32; 2] = [2 * MIDDLE, 0];

/// The byte of a pair, if it fits.
pub(super) fn byte_of(pair: [i32; 2]) -> Option<u8> {
    let [first, second] = pair;
    let [a, b] = [first + second, first - second].map(|sum| sum / 2 + MIDDLE);
    let is_pair = (first ^ second) & 1 == 0;
    (is_pair && (0..16).contains(&a) && (0..16).contains(&b)).then_some((a | b << HIGH) as u8)
}

/// Slots that lead to the attributes of a pair by one lookup: aligned groups of 4 slots have a bias that makes slot plus
/// bias 4 times the *cell* and something below 4, if at most one pair begins inside the group. Short pairs, the last ones,
/// break that: from a bound on each slot is a cell of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells {
    /// The first slot that is a cell of its own, for both parities; 256 if there is none.
    pub(super) bound: usize,
}

/// Cells of each parity.
const MOST_CELLS: usize = 64;
/// Slots of a group.
const GROUP: usize = 4;

impl Cells {
    /// Those of a pair table of at most 64 cells whose pairs all have bytes.
    pub(super) fn new(table: &ClassTable) -> Option<Self> {
        table.pairs()?;
        let middle = table.offset();
        let integer = |value: u8| i32::from(value) - middle;
        let pairs = table.entries().iter().map(|entry| [integer(entry.value), integer(entry.second)]);
        if !pairs.map(byte_of).all(|byte| byte.is_some()) {
            return None;
        }
        let bound_of = |q: usize| {
            let runs = table.run_of_slot(q);
            let begins = |slot: &usize| runs[*slot] != runs[*slot - 1];
            (0..runs.len() / GROUP)
                .find_map(|group| (GROUP * group + 1..GROUP * (group + 1)).filter(begins).nth(1))
                .unwrap_or(runs.len())
        };
        let this = Self { bound: bound_of(0).min(bound_of(1)) };
        (0..2).all(|q| this.of_slot(table, q, 255) < MOST_CELLS).then_some(this)
    }

    /// The cell of a slot.
    pub(super) fn of_slot(self, table: &ClassTable, q: usize, slot: usize) -> usize {
        let last = self.bound - 1;
        let runs = table.run_of_slot(q);
        usize::from(runs[slot.min(last)] - runs[0]) + slot.saturating_sub(last)
    }

    /// What is added to the slots of a group.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn bias(self, table: &ClassTable, q: usize, group: usize) -> u8 {
        let first = GROUP * group;
        let last = self.bound - 1;
        let runs = table.run_of_slot(q);
        // From the slot on where the next pair begins, the sum reaches the next multiple of 4.
        let next = (first + 1..(first + GROUP).min(self.bound)).find(|&slot| runs[slot] != runs[slot - 1]);
        let carry = next.map_or(0, |slot| first + GROUP - slot);
        let cell = usize::from(runs[first.min(last)] - runs[0]);
        (GROUP * cell + carry).wrapping_sub(first) as u8
    }
}

/// Whether accumulators of a class hold halves, on instruction sets that use them.
pub(super) fn are_used(table: &ClassTable) -> bool {
    Cells::new(table).is_some()
}

/// What accumulators of an even and an odd step begin with as halves, if as integers they begin with `integers`, whose
/// difference is even.
pub(super) fn of_integers([even, odd]: [i32; 2]) -> [i32; 2] {
    let [a, b] = [even.wrapping_add(odd) >> 1, even.wrapping_sub(odd) >> 1];
    let high = b << HIGH;
    [a.wrapping_add(high), high]
}

/// The reverse.
pub(super) fn to_integers([whole, high]: [i32; 2]) -> [i32; 2] {
    let [a, b] = [whole.wrapping_sub(high), high >> HIGH];
    [a.wrapping_add(b), a.wrapping_sub(b)]
}

/// Accumulators of one step.
const STEP: usize = 16;

/// Makes halves of the accumulators of a tile and term, of `steps` steps, or integers of halves.
pub(super) fn convert(accumulators: &mut [i32], steps: usize, into_halves: bool) {
    let pairs = accumulators.chunks_exact_mut(2 * STEP).take(steps.div_ceil(2));
    for (index, pair) in pairs.enumerate() {
        let (even, odd) = pair.split_at_mut(STEP);
        if into_halves && 2 * index + 1 == steps {
            // Nothing is known of a step that is not there.
            odd.copy_from_slice(even);
        }
        for (even, odd) in even.iter_mut().zip(odd) {
            let both = [*even, *odd];
            [*even, *odd] = if into_halves { of_integers(both) } else { to_integers(both) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::standard::standard_pair_tables;

    #[test]
    fn halves_hold_both_integers() {
        let mut bytes = 0;
        for first in -20..20 {
            for second in -20..20 {
                let Some(byte) = byte_of([first, second]) else { continue };
                bytes += 1;
                let halves = [byte, byte & HIGH_HALF].map(i32::from);
                let [even, odd] = to_integers(halves);
                assert_eq!([even - OFFSETS[0], odd - OFFSETS[1]], [first, second]);
                assert_eq!(of_integers([even, odd]), halves);
                let ks = [first, second].map(|m| (m - (first & 1)) / 2);
                assert_eq!(i32::from(byte & BRANCH_BIT != 0), (ks[0] ^ ks[1]) & 1);
            }
        }
        assert_eq!(bytes, 256, "each byte is one pair");
    }

    #[test]
    fn slots_lead_to_cells() {
        let mut found = 0;
        for table in standard_pair_tables() {
            let Some(cells) = Cells::new(table) else { continue };
            found += 1;
            for q in 0..2 {
                let runs = table.run_of_slot(q);
                let mut run_of_cell = [None; MOST_CELLS];
                for slot in 0..256 {
                    let bias = cells.bias(table, q, slot / GROUP);
                    let sum = (slot as u8).wrapping_add(bias) >> 2;
                    let cell = usize::from(sum) + slot.saturating_sub(cells.bound - 1);
                    assert_eq!(cell, cells.of_slot(table, q, slot));
                    let run = *run_of_cell[cell].get_or_insert(runs[slot]);
                    assert_eq!(run, runs[slot], "a cell belongs to one pair");
                }
            }
        }
        assert!(found * 10 > standard_pair_tables().len() * 9, "{found} tables");
    }

    #[test]
    fn accumulators_are_converted() {
        for steps in [1, 2, 7, 8] {
            let (mut halves, mut integers) = (vec![], vec![]);
            for pair in 0..4 {
                let [a, b] = [7, 11].map(|factor| (0..STEP as i32).map(move |i| factor * i * (pair - 2)));
                let both = || a.clone().zip(b.clone());
                halves.extend(both().map(|(a, b)| a + 16 * b).chain(b.clone().map(|b| 16 * b)));
                integers.extend(both().map(|(a, b)| a + b).chain(both().map(|(a, b)| a - b)));
            }
            let whole = steps / 2 * 2 * STEP;
            let mut accumulators = integers.clone();
            convert(&mut accumulators, steps, true);
            assert_eq!(accumulators[..whole], halves[..whole]);
            convert(&mut accumulators, steps, false);
            assert_eq!(accumulators[..steps * STEP], integers[..steps * STEP], "the lone step as well");
        }
    }
}
