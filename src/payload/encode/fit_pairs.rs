//! Best pair table for a histogram.

use super::fit::frequencies;
use super::pair_histogram::{indices, nearest, PairCodes, PairHistogram, CELLS, LEAST_SHARE};
use crate::payload::table::{ClassTable, PairGrid, MAX_PAIRS};

/// A good pair table for `histogram`, and its cost in bits with ideal code lengths.
pub(crate) fn best_pair_table(histogram: &PairHistogram) -> (ClassTable, f64) {
    let grids = [0, 1].map(|q| fit(&histogram.counts[q]));
    let table = ClassTable::of_pairs(grids).expect("fitted pair tables obey the rules");
    let cost = histogram.cost(&PairCodes::of(&table));
    (table, cost)
}

/// Low bits of both indices of a cell.
fn low_bits(cell: usize) -> [i32; 2] {
    indices(cell).map(|k| k & 1)
}

fn fit(counts: &[f64; CELLS]) -> PairGrid {
    let total: f64 = counts.iter().sum::<f64>().max(1e-9);
    let mut order: Vec<usize> = (0..CELLS).collect();
    // The middle of the window first among equals: an empty histogram gets small indices.
    let size = |cell: usize| indices(cell).map(|k| k * k).iter().sum::<i32>();
    order.sort_by(|&a, &b| counts[b].total_cmp(&counts[a]).then(size(a).cmp(&size(b))).then(a.cmp(&b)));
    // One pair of each combination of low bits, so that every pair is in reach of escapes.
    let mut chosen = Vec::with_capacity(MAX_PAIRS);
    for bits in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        chosen.extend(order.iter().copied().find(|&cell| low_bits(cell) == bits));
    }
    for &cell in &order {
        if chosen.len() == MAX_PAIRS || counts[cell] < LEAST_SHARE * total {
            break;
        }
        if !chosen.contains(&cell) {
            chosen.push(cell);
        }
    }
    chosen.sort_unstable();

    // Pairs left out count for the pair they are coded by.
    let coded: Vec<([i32; 2], f64)> = chosen
        .iter()
        .map(|&cell| (indices(cell), (total / counts[cell].max(LEAST_SHARE * total)).log2()))
        .collect();
    let mut weights = vec![0.0; chosen.len()];
    for (cell, &count) in counts.iter().enumerate().filter(|(_, &count)| count > 0.0) {
        let place = match chosen.binary_search(&cell) {
            Ok(place) => place,
            Err(_) => usize::from(nearest(indices(cell), &coded).1),
        };
        weights[place] += count;
    }
    let slots = frequencies(&weights).0;

    let used = || chosen.iter().flat_map(|&cell| indices(cell));
    let (smallest, largest) = (used().min().unwrap_or(0), used().max().unwrap_or(0));
    let side = (largest - smallest + 1) as usize;
    let mut grid = vec![0u8; side * side];
    for (&cell, &slots) in chosen.iter().zip(&slots) {
        let [first, second] = indices(cell).map(|k| (k - smallest) as usize);
        grid[first * side + second] = slots as u8;
    }
    PairGrid::new(smallest as i8, side, grid).expect("at most 64 pairs of 256 slots together")
}

#[cfg(test)]
mod tests {
    use super::super::fit::generalised_normal;
    use super::*;

    /// Pairs of independent integers of a generalised normal distribution.
    fn independent(deviation: f64, shape: f64) -> PairHistogram {
        let single = generalised_normal(deviation, shape);
        let mut histogram = PairHistogram::new();
        for q in 0..2 {
            let total = single.counts_of(q).map(|(_, count)| count).sum::<f64>();
            let mut share = [0.0; CELLS];
            for (k, count) in single.counts_of(q) {
                for (l, other) in single.counts_of(q).filter(|_| count > 0.0) {
                    let [k, l] = super::super::pair_histogram::clip_pair([k, l]);
                    share[super::super::pair_histogram::cell(k, l)] += count * other / total;
                }
            }
            for (cell, &share) in share.iter().enumerate() {
                histogram.set(q, indices(cell), share);
            }
        }
        histogram
    }

    #[test]
    fn fitted_tables_come_close_to_the_entropy() {
        for (deviation, most) in [(0.5, 0.01), (1.0, 0.02), (1.5, 0.02), (2.0, 0.03)] {
            let histogram = independent(deviation, 2.0);
            let (table, cost) = best_pair_table(&histogram);
            let entropy: f64 = (0..2)
                .map(|q| {
                    let total: f64 = histogram.counts[q].iter().sum();
                    // Tails are too small to be divided by.
                    let part = |&n: &f64| if n > 1e-12 { n * (total / n).log2() } else { 0.0 };
                    histogram.counts[q].iter().map(part).sum::<f64>()
                })
                .sum();
            let weights = 2.0 * histogram.counts.iter().flatten().sum::<f64>();
            let loss = (cost - entropy) / weights;
            assert!((0.0..most).contains(&loss), "deviation {deviation}: {loss} bits per weight lost");
            assert!(table.pairs().is_some());
        }
    }

    #[test]
    fn an_empty_histogram_has_a_table_that_reaches_all() {
        let (table, _) = best_pair_table(&PairHistogram::new());
        let codes = PairCodes::of(&table);
        let mut far = PairHistogram::new();
        for pair in [[7, 7], [-8, 7], [7, -8], [100, -101]] {
            far.add(1, pair);
        }
        assert!(far.cost(&codes) < 4.0 * 60.0);
    }

    /// Writes `spec/standard-pair-tables.txt`: run with `cargo test write_standard_pair_tables -- --ignored`.
    #[test]
    #[ignore = "writes spec/standard-pair-tables.txt"]
    fn write_standard_pair_tables() {
        let mut text = String::from(crate::payload::standard::PAIR_HEADING);
        for shape in [2.2, 1.8, 1.4, 1.0] {
            for eighth in -12..14 {
                let table = best_pair_table(&independent(2f64.powf(f64::from(eighth) / 8.0), shape)).0;
                text.push_str(&crate::payload::standard::format_pair_table(&table));
            }
        }
        std::fs::write("spec/standard-pair-tables.txt", text).unwrap();
    }
}
