//! Class tables in the form of the AVX2 kernels.

use crate::payload::table::{ClassTable, PairGrid};
use crate::payload::{Trellis, NEXT_STATE};
use std::arch::x86_64::{__m256i, _mm256_load_si256};

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

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(bytes: &Twice16) -> __m256i {
    // SAFETY: 32 aligned bytes.
    unsafe { _mm256_load_si256(bytes.0.as_ptr().cast()) }
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
    /// Whether two integers in a row have the parity of one state of the trellis of pairs.
    pub(super) in_pairs: bool,
    /// For a pair table, which uses nothing else of the above.
    pub(super) pairs: Option<PairCells>,
}

/// Attributes of 16 cells.
#[derive(Clone, Debug)]
pub(super) struct CellRegister {
    pub(super) frequency: Twice16,
    pub(super) rank_base: Twice16,
    /// Symbol of the first integer in the low half, of the second one in the high half.
    pub(super) symbols: Twice16,
}

/// A pair table for `vpshufb`: see `super::pairs`. Tables by group have parity 0 first.
#[derive(Clone, Debug)]
pub(super) struct PairCells {
    /// Cell of the group's first slot, less what the bound adds to it.
    pub(super) first_cell: Twice16,
    /// As those of a single table; only ends of runs that are cells.
    pub(super) thresholds: Vec<Twice16>,
    /// The last slot whose run is one cell.
    pub(super) bound: Twice16,
    /// Value of symbol 0.
    pub(super) base: Twice16,
    pub(super) registers: Vec<CellRegister>,
}

/// Most cells: as many as pairs that a table can have.
const MOST_CELLS: usize = 128;
/// Instructions that a threshold and a register cost.
const COST_OF_THRESHOLD: usize = 3;
const COST_OF_REGISTER: usize = 8;

impl PairCells {
    fn new(table: &ClassTable, grids: &[PairGrid; 2]) -> Self {
        // More thresholds leave fewer slots that are cells of their own. With as many as any group has ends, every run is
        // one cell, and there are at most 128.
        let first_odd = usize::from(table.run_of_slot(1)[0]);
        let (even, odd) = table.entries().split_at(first_odd);
        // In a pair table every run is a whole pair, so its ranks begin with it.
        let starts = [even, odd].map(|runs| runs.iter().map(|run| run.rank_base).collect::<Vec<u8>>());
        let cost = |thresholds: usize| {
            let cells: usize = starts.iter().map(|starts| cells_of(starts, thresholds).1).sum();
            let registers = if cells > MOST_CELLS { usize::MAX / 16 } else { cells.div_ceil(16) };
            COST_OF_THRESHOLD * thresholds + COST_OF_REGISTER * registers
        };
        let count = (0..32).min_by_key(|&thresholds| cost(thresholds)).unwrap_or(0);
        let mut thresholds = vec![[127; 16]; count];
        let (mut first_cell, mut bound, mut base) = ([0; 16], [0; 16], [0; 16]);
        let mut cells = Vec::new();
        for (q, grid) in grids.iter().enumerate() {
            let runs = table.run_of_slot(q);
            let whole = cells_of(&starts[q], count).0;
            let mut cell_of_slot = [0usize; 256];
            for slot in 0..256 {
                if slot == 0 || slot >= whole || runs[slot] != runs[slot - 1] {
                    cells.push(table.entries()[usize::from(runs[slot])]);
                }
                cell_of_slot[slot] = cells.len() - 1;
            }
            for group in 0..GROUPS {
                let index = GROUPS * q + group;
                let slot = 32 * group;
                bound[index] = (whole - 1) as u8;
                first_cell[index] = (cell_of_slot[slot] - (slot + 1).saturating_sub(whole)) as u8;
                base[index] = (2 * i32::from(grid.smallest()) + q as i32 + table.offset()) as u8;
                let ends = (slot + 1..(slot + 32).min(whole)).filter(|&slot| runs[slot] != runs[slot - 1]);
                for (threshold, slot) in thresholds.iter_mut().zip(ends) {
                    threshold[index] = (slot as u8 - 1) ^ 0x80;
                }
            }
        }
        let even_cells = cells_of(&starts[0], count).1;
        let base_of = |cell: usize| base[if cell < even_cells { 0 } else { GROUPS }];
        let registers = (0..cells.len().div_ceil(16)).map(|register| {
            let (mut frequency, mut rank_base, mut symbols) = ([0; 16], [0; 16], [0; 16]);
            for (i, cell) in (16 * register..cells.len().min(16 * register + 16)).enumerate() {
                let entry = cells[cell];
                let symbol = |value: u8| (value - base_of(cell)) / 2;
                frequency[i] = entry.frequency;
                rank_base[i] = entry.rank_base;
                symbols[i] = symbol(entry.value) | symbol(entry.second) << 4;
            }
            CellRegister {
                frequency: Twice16::new(frequency),
                rank_base: Twice16::new(rank_base),
                symbols: Twice16::new(symbols),
            }
        });
        Self {
            first_cell: Twice16::new(first_cell),
            thresholds: thresholds.into_iter().map(Twice16::new).collect(),
            bound: Twice16::new(bound),
            base: Twice16::new(base),
            registers: registers.collect(),
        }
    }
}

/// With at most `thresholds` run ends inside any group: slots below which runs are cells, and the cells of a parity whose
/// runs begin at `starts`.
fn cells_of(starts: &[u8], thresholds: usize) -> (usize, usize) {
    let (mut group, mut ends) = (0, 0);
    for (run, &start) in starts.iter().enumerate().skip(1) {
        let start = usize::from(start);
        if start / 32 != group {
            (group, ends) = (start / 32, 0);
        }
        // An end on the edge of a group is free.
        ends += usize::from(!start.is_multiple_of(32));
        if ends > thresholds {
            return (start, run + 256 - start);
        }
    }
    (256, starts.len())
}

impl Avx2Table {
    pub(in super::super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let pairs = table.pairs().map(|grids| PairCells::new(table, grids));
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
            wide |= entry.frequency > 127;
            if pairs.is_some() {
                continue;
            }
            let at = place(run).0;
            attributes[0][at] = entry.frequency;
            attributes[1][at] = entry.rank_base;
            attributes[2][at] = entry.value;
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
            in_pairs: trellis == Trellis::Pairs,
            pairs,
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
