//! Counts of pairs of trellis indices, and the code lengths of a pair table.

use super::histogram::{clip_index, escape_bits};
use crate::payload::table::{ClassTable, Pair, PairGrid, MAX_PAIRS, MAX_SIDE};
use std::collections::BTreeMap;

/// Pairs rarer than this share of their parity get no slot. A slot costs all others log2(256 / 255) = .0056 bit; an
/// escape costs a pair about ten bits more than a slot.
pub(super) const LEAST_SHARE: f64 = 1.0 / 1600.0;

/// Indices counted one by one: `FIRST..=LAST`, as many as a grid can hold.
pub(super) const FIRST: i32 = -(MAX_SIDE as i32) / 2;
pub(super) const LAST: i32 = FIRST + MAX_SIDE as i32 - 1;
/// Pairs of such indices.
pub(super) const CELLS: usize = MAX_SIDE * MAX_SIDE;
/// Code length of what a table cannot code at all.
const IMPOSSIBLE: f64 = 1e6;

/// How often each pair of indices occurs, by parity of the trellis state.
#[derive(Clone, Debug)]
pub(crate) struct PairHistogram {
    pub(super) counts: [[f64; CELLS]; 2],
    /// Integers outside the window: each is an escape, whatever the table.
    outside: f64,
}

/// Cell of a pair of indices inside the window.
pub(super) fn cell(first: i32, second: i32) -> usize {
    (first - FIRST) as usize * MAX_SIDE + (second - FIRST) as usize
}

/// Indices of a cell.
pub(super) fn indices(cell: usize) -> [i32; 2] {
    [(cell / MAX_SIDE) as i32 + FIRST, (cell % MAX_SIDE) as i32 + FIRST]
}

/// The pair itself, or the nearest inside the window with the same low bits.
pub(super) fn clip_pair(pair: [i32; 2]) -> [i32; 2] {
    pair.map(|k| clip_index(k, FIRST, LAST))
}

impl PairHistogram {
    pub(crate) fn new() -> Self {
        Self { counts: [[0.0; CELLS]; 2], outside: 0.0 }
    }

    /// Counts a pair of indices in a state of parity `q`.
    pub(crate) fn add(&mut self, q: usize, pair: [i32; 2]) {
        let inside = clip_pair(pair);
        self.counts[q][cell(inside[0], inside[1])] += 1.0;
        self.outside += pair.iter().zip(inside).filter(|(&k, inside)| k != *inside).count() as f64;
    }

    #[cfg(test)]
    /// Sets the weight of a pair inside the window.
    pub(crate) fn set(&mut self, q: usize, pair: [i32; 2], weight: f64) {
        self.counts[q][cell(pair[0], pair[1])] = weight;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (counts, others) in self.counts.iter_mut().zip(&other.counts) {
            counts.iter_mut().zip(others).for_each(|(a, b)| *a += b);
        }
        self.outside += other.outside;
    }

    /// How far pairs reach: the largest m² + m'² whose pairs, on average over those of one parity that are as large,
    /// still deserve a slot, and that fit in a table with all smaller ones. Infinite for an empty histogram.
    pub(crate) fn reach(&self) -> f32 {
        let mut reach = f32::INFINITY;
        for (q, counts) in self.counts.iter().enumerate() {
            let total: f64 = counts.iter().sum();
            // Pairs of a size: how many there are, and how often they occur.
            let mut sizes: BTreeMap<i32, (f64, f64)> = BTreeMap::new();
            for (at, count) in counts.iter().enumerate() {
                let size = indices(at).iter().map(|k| (2 * k + q as i32).pow(2)).sum();
                let (pairs, occurrences) = sizes.entry(size).or_default();
                (*pairs, *occurrences) = (*pairs + 1.0, *occurrences + count);
            }
            let mut smaller = 0.0;
            for (&size, &(pairs, occurrences)) in &sizes {
                smaller += pairs;
                if smaller > MAX_PAIRS as f64 {
                    break;
                }
                if occurrences > LEAST_SHARE * total * pairs {
                    reach = if reach.is_finite() { reach.max(size as f32) } else { size as f32 };
                }
            }
        }
        reach
    }

    /// Bits that a table with these `codes` needs, escapes included; ideal code lengths.
    pub(crate) fn cost(&self, codes: &PairCodes) -> f64 {
        let inside =
            |q: usize| self.counts[q].iter().zip(&codes.bits[q]).map(|(n, bits)| n * bits).sum::<f64>();
        inside(0) + inside(1) + self.outside * escape_bits()
    }
}

/// How each pair of the window is coded with one table: by itself or by a pair that the table has, and escapes.
#[derive(Clone, Debug)]
pub(crate) struct PairCodes {
    /// Code length, escapes included.
    bits: [[f64; CELLS]; 2],
    /// Place in slot order of the table's pair.
    pub(super) place: [[u8; CELLS]; 2],
    /// The same for a first index whose second integer is of no meaning.
    pub(super) place_of_first: [[u8; MAX_SIDE]; 2],
    /// Indices of the table's pairs, in slot order.
    pub(super) pairs: [Vec<[i32; 2]>; 2],
}

impl PairCodes {
    /// # Panics
    /// If `table` is not a pair table.
    pub(crate) fn of(table: &ClassTable) -> Self {
        let grids = table.pairs().expect("a pair table");
        let mut this = Self {
            bits: [[IMPOSSIBLE; CELLS]; 2],
            place: [[0; CELLS]; 2],
            place_of_first: [[0; MAX_SIDE]; 2],
            pairs: [Vec::new(), Vec::new()],
        };
        for (q, grid) in grids.iter().enumerate() {
            let coded = coded_pairs(grid);
            for at in 0..CELLS {
                (this.bits[q][at], this.place[q][at]) = nearest(indices(at), &coded);
            }
            for (row, place) in this.place_of_first[q].iter_mut().enumerate() {
                let first = row as i32 + FIRST;
                let cost = |pair: &[i32; 2], bits: f64| {
                    let possible = (pair[0] ^ first) & 1 == 0;
                    bits + if pair[0] == first { 0.0 } else { escape_bits() }
                        + if possible { 0.0 } else { IMPOSSIBLE }
                };
                let costs = coded.iter().map(|(pair, bits)| cost(pair, *bits));
                *place = costs.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at as u8);
            }
            this.pairs[q] = coded.into_iter().map(|(pair, _)| pair).collect();
        }
        this
    }
}

/// Indices and code lengths of a grid's pairs, in slot order.
fn coded_pairs(grid: &PairGrid) -> Vec<([i32; 2], f64)> {
    let index = |symbol: u8| i32::from(grid.smallest()) + i32::from(symbol);
    let coded =
        |pair: Pair| ([index(pair.first), index(pair.second)], (256.0 / f64::from(pair.frequency)).log2());
    grid.in_slot_order().into_iter().map(coded).collect()
}

/// Code length of a pair and the place of the pair it is coded by: that with the least bits, escapes included, among
/// those with the same low bits.
pub(super) fn nearest(pair: [i32; 2], coded: &[([i32; 2], f64)]) -> (f64, u8) {
    let mut best = (IMPOSSIBLE, 0);
    for (place, (other, bits)) in coded.iter().enumerate() {
        if (other[0] ^ pair[0] | other[1] ^ pair[1]) & 1 == 0 {
            let escapes = pair.iter().zip(other).filter(|(a, b)| a != b).count();
            let bits = bits + escapes as f64 * escape_bits();
            if bits < best.0 {
                best = (bits, place as u8);
            }
        }
    }
    best
}
