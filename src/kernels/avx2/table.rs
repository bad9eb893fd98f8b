//! Class tables in the form of the AVX2 kernels.

use crate::payload::table::ClassTable;
use crate::payload::{Trellis, NEXT_STATE};

/// Sixteen table entries, twice: `vpshufb` looks up in each half of a register.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Twice16(pub(super) [u8; 32]);

impl Twice16 {
    fn new(entries: [u8; 16]) -> Self {
        let mut both = [0; 32];
        both[..16].copy_from_slice(&entries);
        both[16..].copy_from_slice(&entries);
        Self(both)
    }
}

/// Groups of 32 slots of one parity.
const GROUPS: usize = 8;
/// Marks runs of parity 1 in the lookup by parity.
const ODD_PARITY: u8 = 0x80;

/// A class table for `vpshufb`.
#[derive(Clone, Debug)]
pub(in super::super) struct Avx2Table {
    /// By group, parity 0 first: run of the group's first slot. Runs are numbered through both parities, or, if
    /// `by_parity`, from 0 for parity 0 and from [`ODD_PARITY`] for parity 1.
    pub(super) first_run: Twice16,
    /// By group: last slot before the n-th run end inside the group, less 128; 127 if there is none.
    pub(super) thresholds: Vec<Twice16>,
    /// By run (numbered through): 16 of them in each.
    pub(super) frequency: [Twice16; 4],
    pub(super) rank_base: [Twice16; 4],
    pub(super) value: [Twice16; 4],
    /// Next trellis state: see [`transition_table`].
    pub(super) transitions: Twice16,
    /// Whether each parity has at most 16 runs; the first register of each attribute is then parity 0, the second 1.
    pub(super) by_parity: bool,
    /// Whether a frequency exceeds 127, which `vpmaddubsw` would take as negative.
    pub(super) wide: bool,
}

impl Avx2Table {
    pub(in super::super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let counts = [table.runs(0).len(), table.runs(1).len()];
        let by_parity = counts.iter().all(|&count| count <= 16);
        // Place of a run in the attribute registers, and its number in the lookup.
        let place = |run: usize| match (by_parity, run.checked_sub(counts[0])) {
            (true, Some(odd)) => (16 + odd, ODD_PARITY + odd as u8),
            _ => (run, run as u8),
        };
        let mut attributes = [[0u8; 64]; 3];
        let mut wide = false;
        for (run, entry) in table.entries().iter().enumerate() {
            let at = place(run).0;
            attributes[0][at] = entry.frequency;
            attributes[1][at] = entry.rank_base;
            attributes[2][at] = entry.value;
            wide |= entry.frequency > 127;
        }
        let mut first_run = [0; 16];
        let mut thresholds = vec![];
        for q in 0..2 {
            let runs = table.run_of_slot(q);
            for group in 0..GROUPS {
                let index = GROUPS * q + group;
                first_run[index] = place(usize::from(runs[32 * group])).1;
                let slots = 32 * group + 1..32 * group + 32;
                let ends = slots.filter(|&slot| runs[slot] != runs[slot - 1]);
                for (n, slot) in ends.enumerate() {
                    if thresholds.len() == n {
                        thresholds.push([127; 16]);
                    }
                    thresholds[n][index] = (slot as u8 - 1) ^ 0x80;
                }
            }
        }
        let registers = |attribute: [u8; 64]| {
            let part = |n: usize| std::array::from_fn(|i| attribute[16 * n + i]);
            std::array::from_fn(|n| Twice16::new(part(n)))
        };
        Self {
            first_run: Twice16::new(first_run),
            thresholds: thresholds.into_iter().map(Twice16::new).collect(),
            frequency: registers(attributes[0]),
            rank_base: registers(attributes[1]),
            value: registers(attributes[2]),
            transitions: transition_table(trellis),
            by_parity,
            wide,
        }
    }
}

/// Trellis state s as a byte: s bit 1 in bit 0, bit 2 in bit 2, bit 0 (the parity) in bit 3. With the index's low bit
/// in bit 1 this addresses the table of next states.
fn transition_table(trellis: Trellis) -> Twice16 {
    let next = |index: usize| {
        let state = (index >> 3 & 1) | (index & 1) << 1 | (index >> 2 & 1) << 2;
        let after = match trellis {
            Trellis::Scalar | Trellis::Pairs => 0,
            Trellis::EightState => NEXT_STATE[state][index >> 1 & 1],
        };
        after >> 1 & 1 | (after >> 2 & 1) << 2 | (after & 1) << 3
    };
    Twice16::new(std::array::from_fn(next))
}
