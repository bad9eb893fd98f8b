//! Class tables: how a slot of the coder's state becomes a symbol (spec section "Class tables").

use super::error::{ErrorKind, PayloadError};
pub use super::pair_grid::{Pair, PairGrid, MAX_PAIRS, MAX_SIDE};

/// Slots of one table: probabilities are multiples of 1/256.
pub const SLOTS: usize = 256;
/// Most runs of both parities of a single table together: one vector register of bytes holds an attribute of all of
/// them.
pub const MAX_RUNS: usize = 64;
/// Most low bits of an index that bypass the coder.
pub const MAX_RAW_BITS: u32 = 4;
/// Largest unsigned value of a table without raw bits; with raw bits it is 255.
pub const MAX_VALUE_WITHOUT_RAW_BITS: i32 = 127;

/// A run of consecutive slots that belong to one symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Symbol: the index k is `(smallest + symbol) << raw_bits` plus the raw bits.
    pub symbol: u8,
    /// Number of slots, 1..=255.
    pub length: u8,
}

/// What a decoder needs of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RunEntry {
    /// Slots of the run's symbol in all its runs together, 1..=255.
    pub frequency: u8,
    /// `slot - rank_base` is the number of earlier slots of the same symbol.
    pub rank_base: u8,
    /// Unsigned value u = m + offset of the symbol with all raw bits zero; in a pair table that of the first integer.
    pub value: u8,
    /// The same of the second integer of a pair; 0 in single tables.
    pub second: u8,
}

/// A legal class table: for both parities of the trellis state, 256 slots cut into runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTable {
    raw_bits: u32,
    smallest: [i8; 2],
    runs: [Vec<Run>; 2],
    /// What a pair table is made from; it has no `runs` in the sense of a single table.
    pairs: Option<Box<[PairGrid; 2]>>,
    offset: i32,
    entries: Vec<RunEntry>,
    run_of_slot: Box<[[u8; SLOTS]; 2]>,
}

fn bad_table(expected: &'static str) -> PayloadError {
    PayloadError::new(ErrorKind::BadTable, 0, expected)
}

/// The smallest multiple of 4 that makes all integers of a table unsigned.
fn offset_for(smallest: [i8; 2], raw_bits: u32) -> i32 {
    let least = (0..2).map(|q| (2 * (i32::from(smallest[q]) << raw_bits)) + q as i32).min().unwrap_or(0);
    ((-least).max(0) + 3) / 4 * 4
}

impl ClassTable {
    /// Checks every rule of the specification and derives what decoders need.
    ///
    /// `smallest[q]` is the smallest index (before raw bits) with parity `q`, `runs[q]` the runs in slot order.
    /// Offsets in the error are zero: the caller knows where the table stands.
    pub fn new(raw_bits: u32, smallest: [i8; 2], runs: [Vec<Run>; 2]) -> Result<Self, PayloadError> {
        let bad = |expected| Err(bad_table(expected));
        if raw_bits > MAX_RAW_BITS {
            return bad("at most 4 raw bits");
        }
        if runs[0].len() + runs[1].len() > MAX_RUNS {
            return bad("at most 64 runs in a class table");
        }
        let offset = offset_for(smallest, raw_bits);
        let largest = if raw_bits == 0 { MAX_VALUE_WITHOUT_RAW_BITS } else { 255 };
        let mut entries = Vec::with_capacity(MAX_RUNS);
        let mut run_of_slot = Box::new([[0u8; SLOTS]; 2]);
        for q in 0..2 {
            let mut frequency = [0usize; 64];
            for run in &runs[q] {
                let Some(total) = frequency.get_mut(usize::from(run.symbol)) else {
                    return bad("symbols below 64");
                };
                *total += usize::from(run.length);
            }
            if frequency.iter().sum::<usize>() != SLOTS {
                return bad("runs of 256 slots together");
            }
            let mut earlier = [0usize; 64];
            let mut slot = 0usize;
            for run in &runs[q] {
                let symbol = usize::from(run.symbol);
                if run.length == 0 || frequency[symbol] > 255 {
                    return bad("runs of 1 to 255 slots and symbols of at most 255");
                }
                let index = (i32::from(smallest[q]) + symbol as i32) << raw_bits;
                let value = 2 * index + q as i32 + offset;
                if value + 2 * ((1 << raw_bits) - 1) > largest {
                    return bad("values of at most 127 without raw bits and 255 with them");
                }
                let entry = entries.len() as u8;
                // value >= 0 because offset covers the smallest index; slot - earlier is in 0..=255.
                entries.push(RunEntry {
                    frequency: frequency[symbol] as u8,
                    rank_base: (slot - earlier[symbol]) as u8,
                    value: value as u8,
                    second: 0,
                });
                for target in &mut run_of_slot[q][slot..slot + usize::from(run.length)] {
                    *target = entry;
                }
                slot += usize::from(run.length);
                earlier[symbol] += usize::from(run.length);
            }
        }
        Ok(Self { raw_bits, smallest, runs, pairs: None, offset, entries, run_of_slot })
    }

    /// A pair table: checks every rule of the specification and derives what decoders need.
    pub fn of_pairs(grids: [PairGrid; 2]) -> Result<Self, PayloadError> {
        let smallest = [grids[0].smallest(), grids[1].smallest()];
        let offset = offset_for(smallest, 0);
        let mut entries = Vec::with_capacity(2 * MAX_PAIRS);
        let mut run_of_slot = Box::new([[0u8; SLOTS]; 2]);
        for (q, grid) in grids.iter().enumerate() {
            let value = |symbol: u8| 2 * (i32::from(grid.smallest()) + i32::from(symbol)) + q as i32 + offset;
            if value(grid.side() - 1) > MAX_VALUE_WITHOUT_RAW_BITS {
                return Err(bad_table("values of at most 127"));
            }
            let mut slot = 0usize;
            for pair in grid.in_slot_order() {
                let entry = entries.len() as u8;
                entries.push(RunEntry {
                    frequency: pair.frequency,
                    rank_base: slot as u8,
                    value: value(pair.first) as u8,
                    second: value(pair.second) as u8,
                });
                let end = slot + usize::from(pair.frequency);
                run_of_slot[q][slot..end].fill(entry);
                slot = end;
            }
        }
        let runs = [Vec::new(), Vec::new()];
        Ok(Self { raw_bits: 0, smallest, runs, pairs: Some(Box::new(grids)), offset, entries, run_of_slot })
    }

    /// The frequencies of a pair table, by parity; `None` for a single table.
    pub fn pairs(&self) -> Option<&[PairGrid; 2]> {
        self.pairs.as_deref()
    }

    /// Low bits of the index that bypass the coder.
    pub fn raw_bits(&self) -> u32 {
        self.raw_bits
    }

    /// Smallest index of each parity, before raw bits.
    pub fn smallest(&self) -> [i8; 2] {
        self.smallest
    }

    /// Runs of parity `q` (0 or 1) in slot order; a pair table has none.
    pub fn runs(&self, q: usize) -> &[Run] {
        &self.runs[q & 1]
    }

    /// Added to every integer to make it unsigned: a multiple of 4.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Entries of the runs: those of parity 0 first.
    pub fn entries(&self) -> &[RunEntry] {
        &self.entries
    }

    /// Index into [`Self::entries`] for each slot of parity `q` (0 or 1).
    pub fn run_of_slot(&self, q: usize) -> &[u8; SLOTS] {
        &self.run_of_slot[q & 1]
    }

    /// Indices k that parity `q` of a single table can hold without an escape: first and last.
    pub fn range(&self, q: usize) -> (i32, i32) {
        let q = q & 1;
        let symbols = self.runs[q].iter().map(|run| i32::from(run.symbol)).max().unwrap_or(0);
        let first = i32::from(self.smallest[q]) << self.raw_bits;
        let last = ((i32::from(self.smallest[q]) + symbols + 1) << self.raw_bits) - 1;
        (first, last)
    }

    /// Slots of each symbol of parity `q` of a single table.
    pub fn frequencies(&self, q: usize) -> [u16; 64] {
        let mut frequency = [0u16; 64];
        for run in self.runs(q) {
            frequency[usize::from(run.symbol)] += u16::from(run.length);
        }
        frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(symbol: u8, length: u8) -> Run {
        Run { symbol, length }
    }

    fn three() -> Vec<Run> {
        vec![run(0, 50), run(1, 78), run(2, 50), run(1, 78)]
    }

    #[test]
    fn split_symbols_have_increasing_ranks() {
        let table = ClassTable::new(0, [-1, -1], [three(), vec![run(0, 128), run(1, 128)]]).unwrap();
        assert_eq!(table.offset(), 4);
        assert_eq!(table.range(0), (-1, 1));
        assert_eq!(table.range(1), (-1, 0));
        for q in 0..2 {
            let mut seen = std::collections::HashSet::new();
            for slot in 0..SLOTS {
                let entry = table.entries()[usize::from(table.run_of_slot(q)[slot])];
                let rank = slot - usize::from(entry.rank_base);
                assert!(rank < usize::from(entry.frequency));
                assert!(seen.insert((entry.value, rank)), "rank {rank} twice");
            }
        }
    }

    #[test]
    fn rules_are_enforced() {
        let two = || vec![run(0, 128), run(1, 128)];
        let cases: [(u32, [i8; 2], [Vec<Run>; 2]); 8] = [
            (5, [-1, -1], [two(), two()]),
            (0, [-1, -1], [vec![run(0, 128)], two()]),
            (0, [-1, -1], [two(), vec![run(0, 255), run(1, 2)]]),
            (0, [-1, -1], [vec![run(0, 128), run(0, 128)], two()]),
            (0, [-1, -1], [vec![run(0, 128), run(1, 128), run(2, 0)], two()]),
            (0, [-1, -1], [vec![run(64, 128), run(1, 128)], two()]),
            (0, [70, -1], [two(), two()]),
            (4, [-8, -8], [vec![run(0, 128), run(8, 128)], two()]),
        ];
        for (index, (raw, smallest, runs)) in cases.into_iter().enumerate() {
            let error = ClassTable::new(raw, smallest, runs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadTable, "case {index}");
        }
        let many: Vec<Run> = (0..33).map(|i| run(i % 2, if i < 32 { 7 } else { 32 })).collect();
        assert!(ClassTable::new(0, [-1, -1], [many.clone(), many]).is_err());
    }
}
