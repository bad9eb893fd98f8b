//! Which columns share a class table.

use super::fit::best_table;
use super::histogram::{Histogram, TableCosts};
use super::{index_of, padding_integer, parallel, CompactColumn};
use crate::payload::layout::MAX_CLASSES;
use crate::payload::standard::standard_tables;
use crate::payload::table::ClassTable;
use crate::payload::QuantizedMatrix;
use std::sync::OnceLock;

/// A class of the matrix.
pub(super) struct ChosenClass {
    pub(super) standard: Option<u8>,
    pub(super) table: ClassTable,
    pub(super) chunks: usize,
}

/// Bits that one more class costs: its table identifier and some precision of every column's class symbol.
const CLASS_BITS: f64 = 8.0;
/// Bits per column for each doubling of the number of classes, less what the class tells about the scale.
const CLASS_BITS_PER_COLUMN: f64 = 0.35;
/// Bits of a table written out: header, and about ten per run.
const INLINE_BITS: f64 = 11.0 + 2.0 * 8.0;
const INLINE_BITS_PER_RUN: f64 = 10.0;

fn standard_costs() -> &'static [TableCosts] {
    static COSTS: OnceLock<Vec<TableCosts>> = OnceLock::new();
    COSTS.get_or_init(|| standard_tables().iter().map(TableCosts::of).collect())
}

/// Chooses classes: the classes in stream order (narrow to wide) and the class of each stream column.
pub(super) fn choose(matrix: &QuantizedMatrix<CompactColumn>, threads: usize) -> (Vec<ChosenClass>, Vec<u8>) {
    let columns = matrix.stream.len();
    if columns == 0 {
        return (Vec::new(), Vec::new());
    }
    let width = matrix.geometry.columns_per_chunk();
    let sizes: Vec<u64> =
        parallel(columns, threads, |range| range.map(|c| matrix.stream[c].size()).collect());
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by_key(|&c| (sizes[c], matrix.stream[c].input, c));
    let chunks = columns.div_ceil(width);
    let padding = chunks * width - columns;
    let members = |chunk: usize| {
        let start = (chunk * width).saturating_sub(padding);
        &order[start..(chunk + 1) * width - padding]
    };
    let histograms = parallel(chunks, threads, |range| {
        range.map(|chunk| chunk_histogram(matrix, members(chunk))).collect()
    });
    let mut penalty = CLASS_BITS + CLASS_BITS_PER_COLUMN * columns as f64 / 4.0;
    let mut groups = segment(&histograms, penalty);
    while groups.len() > MAX_CLASSES {
        penalty *= 1.5;
        groups = segment(&histograms, penalty);
    }
    let mut classes = Vec::with_capacity(groups.len());
    let mut class_of = vec![0u8; columns];
    let mut first = 0;
    for (index, (chunks, standard)) in groups.into_iter().enumerate() {
        let mut histogram = Histogram::new();
        for (chunk, counts) in histograms.iter().enumerate().skip(first).take(chunks) {
            histogram.merge(counts);
            members(chunk).iter().for_each(|&c| class_of[c] = index as u8);
        }
        classes.push(choose_table(&histogram, standard, chunks));
        first += chunks;
    }
    (classes, class_of)
}

/// The standard table found by the segmentation, or a fitted one where that pays for its storage.
fn choose_table(histogram: &Histogram, standard: usize, chunks: usize) -> ChosenClass {
    let standard_bits = histogram.cost(&standard_costs()[standard]);
    let table = &standard_tables()[standard];
    // A fit cannot win if even a perfect one would not pay: skip the search on small classes.
    let least_storage = INLINE_BITS + INLINE_BITS_PER_RUN * 8.0;
    if standard_bits > least_storage {
        let (fitted, bits) = best_table(histogram);
        let runs = fitted.runs(0).len() + fitted.runs(1).len();
        if bits + INLINE_BITS + INLINE_BITS_PER_RUN * (runs as f64) < standard_bits {
            return ChosenClass { standard: None, table: fitted, chunks };
        }
    }
    ChosenClass { standard: Some(standard as u8), table: table.clone(), chunks }
}

/// Histogram of the indices of some stream columns.
fn chunk_histogram(matrix: &QuantizedMatrix<CompactColumn>, members: &[usize]) -> Histogram {
    let mut histogram = Histogram::new();
    for &member in members {
        let column = &matrix.stream[member];
        for path in matrix.geometry.paths(matrix.rows) {
            let mut state = 0;
            for i in 0..path.len {
                let m = column.get(path.first + i * path.stride);
                let q = padding_integer(matrix.trellis, state);
                histogram.add(q as usize, index_of(m, q));
                state = matrix.trellis.next(state, m);
            }
        }
    }
    histogram
}

/// Cuts the chunks into consecutive groups with one standard table each: least code length plus `penalty` bits for
/// each group. Returns chunks and table of each group.
fn segment(histograms: &[Histogram], penalty: f64) -> Vec<(usize, usize)> {
    let costs = standard_costs();
    // best[t]: least cost so far with the current group coded by table t; from[chunk][t]: whether a group starts there.
    let mut best = vec![0.0f64; costs.len()];
    let mut starts: Vec<Vec<Option<usize>>> = Vec::with_capacity(histograms.len());
    let mut previous: Option<(usize, f64)> = None;
    for histogram in histograms {
        let mut start = vec![None; costs.len()];
        for (t, cost) in costs.iter().enumerate() {
            if let Some((table, least)) = previous {
                if least + penalty < best[t] {
                    best[t] = least + penalty;
                    start[t] = Some(table);
                }
            }
            best[t] += histogram.cost(cost);
        }
        starts.push(start);
        previous = best.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
    }
    let Some((mut table, _)) = previous else { return Vec::new() };
    let mut groups = Vec::new();
    let mut length = 0;
    for start in starts.iter().rev() {
        length += 1;
        if let Some(before) = start[table] {
            groups.push((length, table));
            (length, table) = (0, before);
        }
    }
    groups.push((length, table));
    groups.reverse();
    groups
}
