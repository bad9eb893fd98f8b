//! Counts of trellis indices, the input of table fitting.

use crate::payload::table::ClassTable;

/// Indices counted one by one lie in `-REACH..=REACH`; no legal table reaches further.
pub(crate) const REACH: i32 = 66;
const WIDTH: usize = 2 * REACH as usize + 1;
/// Assumed cost of an escape in bits when tables are chosen (the true cost is what the encoder writes).
const ESCAPE_BITS: f64 = 15.0;

/// How often each index k occurs, by parity of the trellis state.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: [[f64; WIDTH]; 2],
}

/// Nearest index inside `first..=last` with the parity of `k`; the range holds both parities.
pub(crate) fn clip_index(k: i32, first: i32, last: i32) -> i32 {
    if k < first {
        first + ((k ^ first) & 1)
    } else if k > last {
        last - ((k ^ last) & 1)
    } else {
        k
    }
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: [[0.0; WIDTH]; 2] }
    }

    /// Counts index `k` in a state of parity `q`.
    pub(crate) fn add(&mut self, q: usize, k: i32) {
        self.counts[q][(clip_index(k, -REACH, REACH) + REACH) as usize] += 1.0;
    }

    #[cfg(test)]
    /// Sets the weight of index `k`, parity `q`.
    pub(crate) fn set(&mut self, q: usize, k: i32, weight: f64) {
        self.counts[q][(k + REACH) as usize] = weight;
    }

    /// Indices and counts of parity `q`.
    #[cfg(test)]
    pub(crate) fn counts_of(&self, q: usize) -> impl Iterator<Item = (i32, f64)> + '_ {
        self.counts[q].iter().enumerate().map(|(slot, &count)| (slot as i32 - REACH, count))
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for q in 0..2 {
            for (a, b) in self.counts[q].iter_mut().zip(&other.counts[q]) {
                *a += b;
            }
        }
    }

    /// Weights of the symbols of a range of indices: `symbols` symbols of `1 << raw_bits` indices from
    /// `first`, and the weight that needs an escape.
    pub(crate) fn symbols(
        &self,
        q: usize,
        first: i32,
        symbols: usize,
        raw_bits: u32,
        weights: &mut [f64],
    ) -> f64 {
        weights[..symbols].fill(0.0);
        let last = first + ((symbols as i32) << raw_bits) - 1;
        let mut escaped = 0.0;
        for (slot, &count) in self.counts[q].iter().enumerate() {
            if count > 0.0 {
                let k = slot as i32 - REACH;
                let clipped = clip_index(k, first, last);
                if clipped != k {
                    escaped += count;
                }
                weights[((clipped - first) >> raw_bits) as usize] += count;
            }
        }
        escaped
    }

    /// Bits that `table` needs for this histogram, escapes and raw bits included; ideal code lengths.
    pub(crate) fn cost(&self, costs: &TableCosts) -> f64 {
        let mut bits = 0.0;
        for q in 0..2 {
            for (count, cost) in self.counts[q].iter().zip(&costs.bits[q]) {
                bits += count * cost;
            }
        }
        bits
    }

    pub(crate) fn total(&self) -> f64 {
        self.counts.iter().flatten().sum()
    }
}

/// Code length of every index under one table.
#[derive(Clone, Debug)]
pub(crate) struct TableCosts {
    bits: [[f64; WIDTH]; 2],
}

impl TableCosts {
    pub(crate) fn of(table: &ClassTable) -> Self {
        let mut bits = [[0.0; WIDTH]; 2];
        for (q, row) in bits.iter_mut().enumerate() {
            let (first, last) = table.range(q);
            let frequency = table.frequencies(q);
            for (slot, cost) in row.iter_mut().enumerate() {
                let k = slot as i32 - REACH;
                let clipped = clip_index(k, first, last);
                let slots = frequency[((clipped - first) >> table.raw_bits()) as usize];
                let symbol = if slots == 0 { 1e6 } else { (256.0 / f64::from(slots)).log2() };
                *cost = symbol + f64::from(table.raw_bits()) + if clipped == k { 0.0 } else { ESCAPE_BITS };
            }
        }
        Self { bits }
    }
}

/// Bits of an escape, for [`super::fit`].
pub(crate) const fn escape_bits() -> f64 {
    ESCAPE_BITS
}
