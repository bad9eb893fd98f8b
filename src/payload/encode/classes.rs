//! Which columns share a class table.

use super::fit::best_table;
use super::fit_pairs::best_pair_table;
use super::histogram::{Histogram, TableCosts};
use super::pair_histogram::{PairCodes, PairHistogram};
use super::{index_of, padding_integer, parallel, CompactColumn, EncodeOptions};
use crate::payload::layout::MAX_CLASSES;
use crate::payload::standard::{standard_pair_tables, standard_tables};
use crate::payload::table::ClassTable;
use crate::payload::{QuantizedMatrix, TableIdentifier, Trellis};
use std::sync::OnceLock;

/// A class of the matrix.
pub(super) struct ChosenClass {
    pub(super) standard: Option<TableIdentifier>,
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
/// The same of a pair table: header, and about four per frequency.
const INLINE_PAIR_BITS: f64 = 8.0 + 2.0 * 12.0;
const INLINE_BITS_PER_PAIR: f64 = 4.0;
/// The costs of all standard tables.
struct StandardCosts {
    single: Vec<TableCosts>,
    pairs: Vec<PairCodes>,
}

fn standard_costs() -> &'static StandardCosts {
    static COSTS: OnceLock<StandardCosts> = OnceLock::new();
    COSTS.get_or_init(|| StandardCosts {
        single: standard_tables().iter().map(TableCosts::of).collect(),
        pairs: standard_pair_tables().iter().map(PairCodes::of).collect(),
    })
}

/// What some stream columns hold.
struct Counts {
    single: Histogram,
    /// For the trellis of pairs.
    pairs: Option<PairHistogram>,
    /// See [`EncodeOptions::worth_of_pairs`].
    worth_of_pairs: f64,
}

impl Counts {
    fn new(trellis: Trellis, options: &EncodeOptions) -> Self {
        let pairs = (trellis == Trellis::Pairs).then(PairHistogram::new);
        Self { single: Histogram::new(), pairs, worth_of_pairs: options.worth_of_pairs }
    }

    fn merge(&mut self, other: &Self) {
        self.single.merge(&other.single);
        if let (Some(pairs), Some(others)) = (&mut self.pairs, &other.pairs) {
            pairs.merge(others);
        }
    }

    /// What counts in favour of a pair table.
    fn worth_of_pairs(&self) -> f64 {
        self.worth_of_pairs * self.single.total()
    }

    /// Code lengths with all standard tables, single tables first; pair tables as much cheaper as they are worth.
    fn costs(&self) -> Vec<f64> {
        let standard = standard_costs();
        let mut costs: Vec<f64> = standard.single.iter().map(|costs| self.single.cost(costs)).collect();
        if let Some(pairs) = &self.pairs {
            let worth = self.worth_of_pairs();
            costs.extend(standard.pairs.iter().map(|codes| pairs.cost(codes) - worth));
        }
        costs
    }

    /// The best table: a standard one, or a fitted one where that pays for its storage.
    fn best_table(&self) -> (Option<TableIdentifier>, ClassTable) {
        let least = |costs: &[f64]| costs.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let costs = self.costs();
        let (single, pairs) = costs.split_at(standard_tables().len());
        let mut best: Option<(f64, Option<TableIdentifier>, ClassTable)> = None;
        let mut offer = |cost: f64, identifier, table: ClassTable| {
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, identifier, table));
            }
        };
        let pair_cost = least(pairs);
        if let (Some((index, cost)), Some(counts)) = (pair_cost, &self.pairs) {
            offer(cost, Some(TableIdentifier::Pair(index as u8)), standard_pair_tables()[index].clone());
            let (table, bits) = best_pair_table(counts);
            let stored: usize = table.pairs().map_or(0, |g| g.iter().map(|g| g.frequencies().len()).sum());
            let storage = INLINE_PAIR_BITS + INLINE_BITS_PER_PAIR * stored as f64;
            offer(bits + storage - self.worth_of_pairs(), None, table);
        }
        if let Some((index, cost)) = least(single) {
            offer(cost, Some(TableIdentifier::Single(index as u8)), standard_tables()[index].clone());
            // A fit cannot win if even a perfect one would not pay: skip the search on small classes.
            let least_storage = INLINE_BITS + INLINE_BITS_PER_RUN * 8.0;
            let pairs_win = pair_cost.is_some_and(|(_, pairs)| pairs + 0.03 * self.single.total() < cost);
            if cost > least_storage && !pairs_win {
                let (table, bits) = best_table(&self.single);
                let runs = table.runs(0).len() + table.runs(1).len();
                offer(bits + INLINE_BITS + INLINE_BITS_PER_RUN * runs as f64, None, table);
            }
        }
        best.map(|(_, identifier, table)| (identifier, table)).expect("there are standard tables")
    }
}

/// Chooses classes: the classes in stream order (narrow to wide) and the class of each stream column.
pub(super) fn choose(
    matrix: &QuantizedMatrix<CompactColumn>,
    options: &EncodeOptions,
) -> (Vec<ChosenClass>, Vec<u8>) {
    let mut classes = Vec::new();
    let mut class_of = vec![0u8; matrix.stream.len()];
    for group in groups(matrix, options, 1.0) {
        group.members.iter().for_each(|&c| class_of[c] = classes.len() as u8);
        let (standard, table) = group.counts.best_table();
        classes.push(ChosenClass { standard, table, chunks: group.chunks });
    }
    (classes, class_of)
}

/// For each stream column of a sample, in which each row stands for `rows_each` rows: the largest m² + m'² of pairs
/// (m, m') that are frequent enough for slots of their own in the table of the column's class. Infinite where the class
/// does better with a single table.
pub fn pair_reaches(
    sample: &QuantizedMatrix<CompactColumn>,
    options: &EncodeOptions,
    rows_each: f64,
) -> Vec<f32> {
    let mut reaches = vec![f32::INFINITY; sample.stream.len()];
    for group in groups(sample, options, rows_each) {
        let (_, table) = group.counts.best_table();
        let Some(pairs) = group.counts.pairs.as_ref().filter(|_| table.pairs().is_some()) else { continue };
        let reach = pairs.reach();
        group.members.iter().for_each(|&c| reaches[c] = reach);
    }
    reaches
}

/// Columns that share a class.
struct Group {
    counts: Counts,
    /// Stream columns.
    members: Vec<usize>,
    chunks: usize,
}

/// Cuts the columns, sorted by size, into groups; `rows_each` rows are as each of the matrix.
fn groups(matrix: &QuantizedMatrix<CompactColumn>, options: &EncodeOptions, rows_each: f64) -> Vec<Group> {
    let threads = options.threads.max(1);
    let columns = matrix.stream.len();
    if columns == 0 {
        return Vec::new();
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
    let counted = parallel(chunks, threads, |range| {
        let count = |chunk| {
            let counts = count(matrix, members(chunk), options);
            let costs = counts.costs();
            (counts, costs)
        };
        range.map(count).collect()
    });
    let mut penalty = (CLASS_BITS + CLASS_BITS_PER_COLUMN * columns as f64 / 4.0) / rows_each;
    let costs: Vec<&[f64]> = counted.iter().map(|(_, costs)| costs.as_slice()).collect();
    let mut cut = segment(&costs, penalty);
    while cut.len() > MAX_CLASSES {
        penalty *= 1.5;
        cut = segment(&costs, penalty);
    }
    let mut first = 0;
    let group = |chunks: usize| {
        let mut group = Group { counts: Counts::new(matrix.trellis, options), members: Vec::new(), chunks };
        for (chunk, (here, _)) in counted.iter().enumerate().skip(first).take(chunks) {
            group.counts.merge(here);
            group.members.extend(members(chunk));
        }
        first += chunks;
        group
    };
    cut.into_iter().map(group).collect()
}

/// Counts of the indices of some stream columns.
fn count(matrix: &QuantizedMatrix<CompactColumn>, members: &[usize], options: &EncodeOptions) -> Counts {
    let mut counts = Counts::new(matrix.trellis, options);
    for &member in members {
        let column = &matrix.stream[member];
        for path in matrix.geometry.paths(matrix.rows) {
            let (mut state, mut before) = (0, 0);
            for i in 0..path.len {
                let m = column.get(path.first + i * path.stride);
                let q = padding_integer(matrix.trellis, state);
                let index = index_of(m, q);
                counts.single.add(q as usize, index);
                if let Some(pairs) = counts.pairs.as_mut().filter(|_| i % 2 == 1) {
                    pairs.add(q as usize, [before, index]);
                }
                before = index;
                state = matrix.trellis.next(state, m);
            }
        }
    }
    counts
}

/// Cuts the chunks into consecutive groups with one standard table each, given each chunk's code length with every
/// table: least code length plus `penalty` bits for each group. Returns the chunks of each group.
fn segment(chunks: &[&[f64]], penalty: f64) -> Vec<usize> {
    let tables = chunks.first().map_or(0, |costs| costs.len());
    // best[t]: least cost so far with the current group coded by table t; from[chunk][t]: whether a group starts there.
    let mut best = vec![0.0f64; tables];
    let mut starts: Vec<Vec<Option<usize>>> = Vec::with_capacity(chunks.len());
    let mut previous: Option<(usize, f64)> = None;
    for costs in chunks {
        let mut start = vec![None; tables];
        for (t, cost) in costs.iter().enumerate() {
            if let Some((table, least)) = previous {
                if least + penalty < best[t] {
                    best[t] = least + penalty;
                    start[t] = Some(table);
                }
            }
            best[t] += cost;
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
            groups.push(length);
            (length, table) = (0, before);
        }
    }
    groups.push(length);
    groups.reverse();
    groups
}
