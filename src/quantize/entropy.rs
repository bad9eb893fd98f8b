//! Entropy estimates: bits per weight of a quantized matrix with one frequency table per column class and parity.

use crate::payload::QuantizedMatrix;
use std::collections::BTreeMap;

/// Sorted columns are first cut into this many groups per class asked for.
const GROUPS_PER_CLASS: usize = 4;

/// Counts of the pairs (index k, parity q).
type Histogram = BTreeMap<(i32, i32), u64>;

/// Empirical entropy of the indices k = (m - q) / 2, q the parity of m, in bits per weight of the whole matrix (dropped
/// columns count as weights). The stream columns are sorted by mean |m|, cut into small groups of equal size, and
/// neighbouring groups are joined into the `classes` classes that cost least; each class has one table for q = 0
/// and one for q = 1. The tables themselves are not counted.
pub fn class_entropy(matrix: &QuantizedMatrix, classes: usize) -> f64 {
    let mut order: Vec<(u64, usize)> = matrix
        .stream
        .iter()
        .enumerate()
        .map(|(index, column)| (column.integers.iter().map(|m| u64::from(m.unsigned_abs())).sum(), index))
        .collect();
    order.sort_unstable();
    let count = order.len();
    let weights = matrix.rows as f64 * matrix.columns as f64;
    if count == 0 || weights == 0.0 {
        return 0.0;
    }
    let classes = classes.clamp(1, count);
    let groups = if classes == 1 { 1 } else { (classes.saturating_mul(GROUPS_PER_CLASS)).min(count) };
    let histograms: Vec<Histogram> = (0..groups)
        .map(|group| {
            let mut histogram = Histogram::new();
            for &(_, column) in &order[group * count / groups..(group + 1) * count / groups] {
                for &m in &matrix.stream[column].integers {
                    *histogram.entry((m >> 1, m & 1)).or_default() += 1;
                }
            }
            histogram
        })
        .collect();
    least_partition(&histograms, classes) / weights
}

/// Least total code length of a partition of the histograms into at most `classes` runs of neighbours.
fn least_partition(histograms: &[Histogram], classes: usize) -> f64 {
    let n = histograms.len();
    // run[first][last]: code length of the groups first..=last with common tables.
    let run: Vec<Vec<f64>> = (0..n)
        .map(|first| {
            let mut joined = Histogram::new();
            let lengths = histograms[first..].iter().map(|histogram| {
                for (&symbol, &count) in histogram {
                    *joined.entry(symbol).or_default() += count;
                }
                code_length(&joined)
            });
            lengths.collect()
        })
        .collect();
    // best[k]: least length of the first k groups with the classes allowed so far.
    let mut best: Vec<f64> = (0..=n).map(|k| if k == 0 { 0.0 } else { run[0][k - 1] }).collect();
    for _ in 1..classes {
        let length = |first: usize, k: usize| best[first] + run[first][k - 1 - first];
        best = (0..=n).map(|k| (1..k).fold(best[k], |least, first| least.min(length(first, k)))).collect();
    }
    best[n]
}

/// Bits of all symbols under their own frequencies within each parity.
fn code_length(histogram: &Histogram) -> f64 {
    let total = |q: i32| histogram.iter().filter(|(s, _)| s.1 == q).map(|(_, &n)| n).sum::<u64>() as f64;
    let totals = [total(0), total(1)];
    histogram.iter().map(|(&(_, q), &n)| n as f64 * (totals[(q & 1) as usize] / n as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Geometry, ScaleKind, StreamColumn, Trellis};

    fn matrix(columns: Vec<Vec<i32>>) -> QuantizedMatrix {
        QuantizedMatrix {
            rows: columns[0].len(),
            columns: columns.len(),
            geometry: Geometry::new(16, 64).unwrap(),
            trellis: Trellis::Scalar,
            tensor_scale: 1.0,
            column_scale_kind: ScaleKind::Log8,
            stream: columns
                .into_iter()
                .zip(0..)
                .map(|(integers, input)| StreamColumn { input, scale: 0, integers })
                .collect(),
            row_scales: None,
        }
    }

    #[test]
    fn entropy_of_known_frequencies() {
        let uniform = matrix(vec![vec![0, 2, 4, 6], vec![-2, -2, -2, -2]]);
        assert!((class_entropy(&uniform, 2) - 1.0).abs() < 1e-12, "two bits in one of two columns");
        let joint = class_entropy(&uniform, 1);
        assert!((joint - (4.0 * 3.0 + 4.0) / 8.0).abs() < 1e-12, "four symbols of 1/8, one of 1/2: {joint}");
    }

    #[test]
    fn parity_is_free() {
        assert_eq!(class_entropy(&matrix(vec![vec![0, 1, 0, 1, 1, 0]]), 1), 0.0);
    }

    #[test]
    fn empty_stream_costs_nothing() {
        let mut empty = matrix(vec![vec![0; 4]]);
        empty.stream.clear();
        assert_eq!(class_entropy(&empty, 16), 0.0);
    }
}
