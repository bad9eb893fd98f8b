//! Class tables in the form of the AVX-512 kernels, and the byte selections that they use.

use crate::kernels::halves::{byte_of, Cells, BRANCH_BIT};
use crate::payload::table::ClassTable;
use crate::payload::table::SLOTS;
use crate::payload::{Trellis, LANES};

/// A register of bytes in memory.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes64(pub(super) [u8; 64]);

impl Bytes64 {
    pub(super) const ZERO: Self = Self([0; 64]);
}

/// A class table for `vpermb` and `vpermi2b`. Tables by group: 64 aligned groups of 4 slots of each parity.
#[derive(Clone, Debug)]
pub(in super::super) struct Avx512Table {
    /// With [`Lookup::Few`], `Simple` and `Cells`: what added to a slot gives 4 times its run or cell and something below
    /// 4. Else the run of the group's first slot.
    pub(super) runs: [Bytes64; 2],
    /// Bit j set if a run starts at slot j > 0 of the group.
    pub(super) starts: [Bytes64; 2],
    /// By run; with [`Lookup::Few`] by 4 times the run plus 0 to 3, with [`Lookup::Cells`] by cell.
    pub(super) frequency: [Bytes64; 2],
    pub(super) rank_base: [Bytes64; 2],
    pub(super) value: [Bytes64; 2],
    /// Value of the second integer of a pair.
    pub(super) second: [Bytes64; 2],
    /// The byte that stands for both integers of a pair: see [`halves`](crate::kernels::halves).
    pub(super) halves: [Bytes64; 2],
    /// Next trellis state after even and odd steps: see [`transitions`]. Pairs make the second one.
    pub(super) transitions: [Bytes64; 2],
    /// The second one for bytes of halves in place of two values.
    pub(super) halves_transition: Bytes64,
    /// With [`Lookup::Cells`]: the last slot before those that are cells of their own.
    pub(super) last_of_runs: u8,
    pub(super) lookup: Lookup,
    /// Whether two registers are looked up one after the other: [`Isa::Avx512Vpermb`](crate::kernels::Isa::Avx512Vpermb),
    /// but for `Pairs`.
    pub(super) split: bool,
    /// Whether a frequency exceeds 127, which `vpmaddubsw` would take as negative.
    pub(super) wide: bool,
}

/// Slots of a group.
const GROUP: usize = 4;
/// Runs whose attributes fit two registers, each [`GROUP`] times.
const FEW_RUNS: usize = 32;

/// How a slot leads to the attributes of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Lookup {
    /// At most one run ends inside any group, and the runs are few: slot plus bias addresses tables of 128 entries.
    Few,
    /// At most one run ends inside any group: slot plus bias, by 4, is the run.
    Simple,
    /// The run of the group's first slot plus the runs that start up to the slot.
    Any,
    /// The same for a pair table, of up to 128 runs.
    Pairs,
    /// A pair table with [`Cells`]: slot plus bias, by 4, plus what the slot exceeds the bound by, is the cell.
    Cells,
}

impl Avx512Table {
    pub(in super::super) fn new(table: &ClassTable, trellis: Trellis, split: bool) -> Self {
        // Hardly any pair table has no cells: the loop that looks up in two registers at once does for those.
        let cells = Cells::new(table).filter(|_| split);
        let split = split && (cells.is_some() || table.pairs().is_none());
        let mut this = Self {
            runs: [Bytes64::ZERO; 2],
            starts: [Bytes64::ZERO; 2],
            frequency: [Bytes64::ZERO; 2],
            rank_base: [Bytes64::ZERO; 2],
            value: [Bytes64::ZERO; 2],
            second: [Bytes64::ZERO; 2],
            halves: [Bytes64::ZERO; 2],
            transitions: transitions(trellis, state_places(split), INDEX_PLACE),
            halves_transition: transitions(trellis, HALVES_STATE_PLACES, HALVES_INDEX_PLACE)[1],
            last_of_runs: 0,
            lookup: Lookup::Any,
            split,
            wide: table.entries().iter().any(|entry| entry.frequency > 127),
        };
        if let Some(cells) = cells {
            this.set_cells(table, cells);
            return this;
        }
        let mut simple = true;
        for q in 0..2 {
            let runs = table.run_of_slot(q);
            for (group, runs) in runs.as_chunks::<GROUP>().0.iter().enumerate() {
                let mut starts = 0u8;
                for slot in 1..GROUP {
                    starts |= u8::from(runs[slot] != runs[slot - 1]) << slot;
                }
                this.runs[q].0[group] = runs[0];
                this.starts[q].0[group] = starts;
                simple &= starts.count_ones() <= 1;
            }
        }
        // One register holds what split lookups address, so with them a shift is cheaper.
        let few = !split && !this.wide && table.raw_bits() == 0 && table.entries().len() <= FEW_RUNS;
        this.lookup = match (simple, few) {
            _ if table.pairs().is_some() => Lookup::Pairs,
            (true, true) => Lookup::Few,
            (true, false) => Lookup::Simple,
            (false, _) => Lookup::Any,
        };
        for (run, entry) in table.entries().iter().enumerate() {
            let places =
                if this.lookup == Lookup::Few { GROUP * run..GROUP * (run + 1) } else { run..run + 1 };
            for place in places {
                this.frequency[place / 64].0[place % 64] = entry.frequency;
                this.rank_base[place / 64].0[place % 64] = entry.rank_base;
                this.value[place / 64].0[place % 64] = entry.value;
                this.second[place / 64].0[place % 64] = entry.second;
            }
        }
        if matches!(this.lookup, Lookup::Few | Lookup::Simple) {
            for (runs, starts) in this.runs.iter_mut().zip(&this.starts) {
                for (group, (run, starts)) in runs.0.iter_mut().zip(&starts.0).enumerate() {
                    // From the slot on where the next run starts, the sum reaches the next multiple of 4.
                    let carry = if *starts > 0 { GROUP as u8 - starts.trailing_zeros() as u8 } else { 0 };
                    *run = (*run * GROUP as u8).wrapping_sub((group * GROUP) as u8).wrapping_add(carry);
                }
            }
        }
        this
    }

    /// Sets everything that depends on cells.
    fn set_cells(&mut self, table: &ClassTable, cells: Cells) {
        self.lookup = Lookup::Cells;
        self.last_of_runs = (cells.bound - 1) as u8;
        for q in 0..2 {
            for group in 0..SLOTS / GROUP {
                self.runs[q].0[group] = cells.bias(table, q, group);
            }
            for slot in 0..SLOTS {
                let cell = cells.of_slot(table, q, slot);
                let entry = table.entries()[usize::from(table.run_of_slot(q)[slot])];
                let integers = [entry.value, entry.second].map(|value| i32::from(value) - table.offset());
                self.frequency[q].0[cell] = entry.frequency;
                self.rank_base[q].0[cell] = entry.rank_base;
                self.value[q].0[cell] = entry.value;
                self.second[q].0[cell] = entry.second;
                self.halves[q].0[cell] =
                    byte_of(integers).expect("tables with cells have bytes for all pairs");
            }
        }
    }
}

/// Bits of a byte that hold the trellis state, from its lowest (the parity) on. The parity completes the index of a
/// lookup in two registers; where lookups are split, it makes masks.
const fn state_places(split: bool) -> [usize; 6] {
    if split {
        [7, 6, 5, 4, 3, 2]
    } else {
        [6, 7, 5, 4, 3, 2]
    }
}
/// The low bit of an integer's index: [`super::INDEX_BIT`].
const INDEX_PLACE: usize = 1;
/// The low bit of the index of a pair's first integer.
const FIRST_INDEX_PLACE: usize = 0;
/// State and index bit where bytes of halves move the trellis.
const HALVES_STATE_PLACES: [usize; 6] = [7, 6, 5, 3, 2, 1];
const HALVES_INDEX_PLACE: usize = BRANCH_BIT.trailing_zeros() as usize;

/// The transitions of the trellis after even and after odd steps as matrices over GF(2), in the form of
/// `vgf2p8affineqb`. A pair that is decoded at once moves by the second one, with the sum of its two index bits in
/// place of the index bit.
fn transitions(trellis: Trellis, state_places: [usize; 6], index_place: usize) -> [Bytes64; 2] {
    // A linear map is what it does to single bits: what becomes of the byte with bit `place` set.
    let byte_of = |state: u8| {
        state_places.iter().enumerate().fold(0u8, |byte, (bit, place)| byte | (state >> bit & 1) << place)
    };
    let linear = |image: &dyn Fn(usize) -> u8| {
        // The matrix's row of result bit i is byte 7 - i.
        let mut rows = [0u8; 8];
        for place in 0..8 {
            for bit in 0..8 {
                rows[7 - bit] |= (image(place) >> bit & 1) << place;
            }
        }
        let mut matrix = Bytes64::ZERO;
        matrix.0.as_chunks_mut::<8>().0.fill(rows);
        matrix
    };
    let state_of = |place: usize| state_places.iter().position(|&p| p == place).map(|bit| 1u8 << bit);
    match trellis {
        Trellis::Scalar => [linear(&|_| 0); 2],
        Trellis::EightState => {
            let image = |place: usize| match state_of(place) {
                Some(state) if state < 8 => byte_of(trellis.next(state, 0)),
                _ if place == index_place => byte_of(trellis.next(0, 2)),
                _ => 0,
            };
            [linear(&image); 2]
        }
        Trellis::Pairs => {
            let after_first = |place: usize| match state_of(place) {
                Some(state) => byte_of(state),
                None if place == index_place => 1 << FIRST_INDEX_PLACE,
                None => 0,
            };
            let after_second = |place: usize| match state_of(place) {
                Some(state) => byte_of(Trellis::after_pair(state, 0)),
                None => byte_of(Trellis::after_pair(0, 1)),
            };
            [linear(&after_first), linear(&after_second)]
        }
    }
}

/// Selects the low byte of each 16-bit lane: even lanes from the first operand, odd lanes from the second.
pub(super) static LOW_OF_BOTH: Bytes64 = {
    let mut indices = [0; 64];
    let mut lane = 0;
    while lane < LANES {
        indices[lane] = if lane % 2 == 0 { lane as u8 } else { 64 + lane as u8 - 1 };
        lane += 1;
    }
    Bytes64(indices)
};

/// The same for high bytes.
pub(super) static HIGH_OF_BOTH: Bytes64 = {
    let mut indices = LOW_OF_BOTH;
    let mut lane = 0;
    while lane < LANES {
        indices.0[lane] += 1;
        lane += 1;
    }
    indices
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::table::Run;

    /// Runs of the given lengths in turn, each a symbol of its own.
    fn runs(lengths: &[u8]) -> Vec<Run> {
        lengths.iter().enumerate().map(|(symbol, &length)| Run { symbol: symbol as u8, length }).collect()
    }

    /// Place of a slot's attributes, as the kernel computes it.
    fn place(table: &Avx512Table, q: usize, slot: u8) -> usize {
        let group = usize::from(slot) / GROUP;
        let first = table.runs[q].0[group];
        let sum = first.wrapping_add(slot);
        match table.lookup {
            Lookup::Few => usize::from(sum),
            Lookup::Simple => usize::from(sum >> 2),
            Lookup::Cells => usize::from(sum >> 2) + usize::from(slot.saturating_sub(table.last_of_runs)),
            Lookup::Any | Lookup::Pairs => {
                let up_to_slot = 0x0F07_0301u32.to_le_bytes()[usize::from(slot) % GROUP];
                usize::from(first) + (table.starts[q].0[group] & up_to_slot).count_ones() as usize
            }
        }
    }

    /// What a transition makes of a byte, bit by bit.
    fn apply(matrix: &Bytes64, byte: u8) -> u8 {
        (0..8).fold(0, |result, bit| result | ((matrix.0[7 - bit] & byte).count_ones() as u8 & 1) << bit)
    }

    #[test]
    fn transitions_are_those_of_the_trellis() {
        for (trellis, split) in [Trellis::Scalar, Trellis::EightState, Trellis::Pairs]
            .into_iter()
            .flat_map(|trellis| [false, true].map(|split| (trellis, split)))
        {
            let places = state_places(split);
            let byte_of = |state: u8| {
                places.iter().enumerate().fold(0u8, |byte, (bit, place)| byte | (state >> bit & 1) << place)
            };
            let matrices = transitions(trellis, places, INDEX_PLACE);
            let states = if trellis == Trellis::Pairs { 64 } else { 8 };
            for (state, ks) in (0..states).flat_map(|state| (0..4).map(move |ks| (state, [ks & 1, ks >> 1])))
            {
                let (mut byte, mut expected) = (byte_of(state), state);
                for (matrix, k) in matrices.iter().zip(ks) {
                    byte = apply(matrix, byte & !2 | (k as u8) << 1);
                    expected = trellis.next(expected, 2 * k + i32::from(expected & 1));
                }
                assert_eq!(byte, byte_of(expected), "{trellis:?} {state} {ks:?}");
                if trellis == Trellis::Pairs {
                    let branch = (ks[0] ^ ks[1]) as u8;
                    assert_eq!(apply(&matrices[1], byte_of(state) | branch << INDEX_PLACE), byte);
                    let of_halves = transitions(trellis, HALVES_STATE_PLACES, HALVES_INDEX_PLACE)[1];
                    let byte_of = |state: u8| {
                        let places = HALVES_STATE_PLACES.iter().enumerate();
                        places.fold(0u8, |byte, (bit, place)| byte | (state >> bit & 1) << place)
                    };
                    let bits = byte_of(state) | branch << HALVES_INDEX_PLACE;
                    assert_eq!(apply(&of_halves, bits), byte_of(expected));
                }
            }
        }
    }

    #[test]
    fn cells_find_every_slot_of_a_pair_table() {
        let mut found = 0;
        for class in crate::payload::standard::standard_pair_tables() {
            let table = Avx512Table::new(class, Trellis::Pairs, true);
            if table.lookup != Lookup::Cells {
                continue;
            }
            found += 1;
            for (q, slot) in (0..2).flat_map(|q| (0..=255u8).map(move |slot| (q, slot))) {
                let cell = place(&table, q, slot);
                let entry = class.entries()[usize::from(class.run_of_slot(q)[usize::from(slot)])];
                let attributes = [&table.frequency, &table.rank_base, &table.value, &table.second];
                let expected = [entry.frequency, entry.rank_base, entry.value, entry.second];
                assert_eq!(attributes.map(|attribute| attribute[q].0[cell]), expected, "{q} {slot}");
                let integers = [entry.value, entry.second].map(|value| i32::from(value) - class.offset());
                assert_eq!(Some(table.halves[q].0[cell]), byte_of(integers));
            }
        }
        assert!(found > 90, "{found}");
    }

    #[test]
    fn every_lookup_finds_every_slot() {
        let cases: [(Lookup, &[u8]); 3] = [
            (Lookup::Few, &[3, 61, 1, 127, 64]),
            (
                Lookup::Simple,
                &[13, 12, 13, 12, 13, 12, 13, 12, 13, 12, 13, 12, 13, 12, 13, 12, 13, 12, 15, 16],
            ),
            (Lookup::Any, &[1, 1, 100, 2, 1, 1, 150]),
        ];
        for ((lookup, lengths), split) in
            cases.into_iter().flat_map(|case| [false, true].map(|split| (case, split)))
        {
            let lookup = if split && lookup == Lookup::Few { Lookup::Simple } else { lookup };
            let class = ClassTable::new(0, [-3, -2], [runs(lengths), runs(lengths)]).unwrap();
            let table = Avx512Table::new(&class, Trellis::EightState, split);
            assert_eq!(table.lookup, lookup);
            for q in 0..2 {
                for slot in 0..=255u8 {
                    let place = place(&table, q, slot);
                    let found = [&table.frequency, &table.rank_base, &table.value]
                        .map(|attribute| attribute[place / 64].0[place % 64]);
                    let entry = class.entries()[usize::from(class.run_of_slot(q)[usize::from(slot)])];
                    assert_eq!(
                        found,
                        [entry.frequency, entry.rank_base, entry.value],
                        "{lookup:?} {split} {q} {slot}"
                    );
                }
            }
        }
    }
}
