//! A pilot: some rows are quantized and their classes chosen, to learn how far pairs may reach in each column.
//!
//! A pair table has slots for the pairs that occur often enough; others cost escapes, which are dear to store and slow
//! to decode. Where the border runs is the affair of a whole class (columns of one table with different borders lose
//! more than they gain), and classes depend on the integers. Hence the pilot, whose integers are thrown away.

use super::blocks::{lanes, RowBlock};
use super::prepare::Prepared;
use super::sic::{self, Rows};
use super::viterbi::{Lanes, LANES};
use super::{Method, QuantizeError, Settings};
use crate::payload::encode::{pair_reaches, CompactColumn, EncodeOptions};
use crate::payload::{Geometry, QuantizedMatrix, Trellis};
use std::collections::BTreeMap;

/// Rows of a pilot: one in four, at least and at most these, where there are as many.
const LEAST_ROWS: usize = 128;
const MOST_ROWS: usize = 256;
/// Steps of its paths: few, so that there is work for several threads.
const STEPS: usize = 16;

/// The rows of a pilot for a matrix of `rows` rows: evenly spaced, ascending.
pub(super) fn rows(rows: usize) -> Vec<usize> {
    let count = (rows / 4).clamp(LEAST_ROWS, MOST_ROWS).min(rows);
    (0..count).map(|index| (2 * index + 1) * rows / (2 * count)).collect()
}

/// Whether a layer's tables can hold pairs, so that a pilot has something to say.
pub(super) fn is_of_use(settings: &Settings) -> bool {
    settings.method == Method::Trellis
        && settings.method.trellis() == Trellis::Pairs
        && settings.worth_of_pairs.is_some()
        && !settings.whole_column_paths
}

/// For each live column the reach of its pairs (see [`super::viterbi::Viterbi::search`]) at step c, learned from the
/// rows `sample` of `prepared`, which stand for `total` rows.
pub(super) fn reaches(
    prepared: &Prepared<'_>,
    sample: &[usize],
    total: usize,
    c: f64,
) -> Result<Vec<f32>, QuantizeError> {
    let unlimited = vec![f32::INFINITY; prepared.live.len()];
    let geometry = Geometry::new(prepared.settings.geometry.columns_per_chunk(), STEPS);
    let (Some(worth_of_pairs), Some(geometry)) = (prepared.settings.worth_of_pairs, geometry) else {
        return Ok(unlimited);
    };
    let blocks = RowBlock::split(geometry.paths(sample.len()));
    let targets = gather(prepared, &blocks, sample);
    let scales = prepared.column_scales(c)?;
    let rows = Rows { count: sample.len(), geometry, blocks: &blocks, targets: &targets, scales: None };
    let matrix = sic::quantize_rows(prepared, &scales, &unlimited, rows);
    let matrix = QuantizedMatrix::<CompactColumn>::from(&matrix);
    let options = EncodeOptions { worth_of_pairs, ..EncodeOptions::new(1) };
    let found = pair_reaches(&matrix, &options, total as f64 / sample.len() as f64);
    // Coarse parts have columns of their own, and columns of zeros have none.
    let of_column: BTreeMap<(u32, u16), f32> = matrix
        .stream
        .iter()
        .zip(found)
        .map(|(column, reach)| ((column.input, column.scale), reach))
        .collect();
    let reach = |(input, scale): (&u32, &u16)| of_column.get(&(*input, *scale)).copied();
    Ok(prepared.live.iter().zip(&scales.codes).map(|key| reach(key).unwrap_or(f32::INFINITY)).collect())
}

/// The targets of the rows `sample`, in blocks.
fn gather(prepared: &Prepared<'_>, blocks: &[RowBlock], sample: &[usize]) -> Vec<Vec<Lanes>> {
    let columns = prepared.live.len();
    // Block and position of each row.
    let mut places = vec![(0, 0); prepared.layer.rows];
    for (index, block) in prepared.blocks.iter().enumerate() {
        block.rows().for_each(|(position, row)| places[row] = (index, position));
    }
    let gather = |block: &RowBlock| {
        let mut target = lanes(columns, block.steps);
        for (position, row) in block.rows() {
            let (from, at) = places[sample[row]];
            let steps = prepared.blocks[from].steps;
            for column in 0..columns {
                target[column * block.steps + position / LANES][position % LANES] =
                    prepared.targets[from][column * steps + at / LANES][at % LANES];
            }
        }
        target
    };
    blocks.iter().map(gather).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_pilot_are_evenly_spaced() {
        assert_eq!(rows(3), [0, 1, 2]);
        assert_eq!(rows(128), (0..128).collect::<Vec<_>>());
        assert_eq!(rows(0), [0usize; 0]);
        for total in [129, 600, 4096, 151_936] {
            let rows = rows(total);
            assert!((LEAST_ROWS..=MOST_ROWS).contains(&rows.len()) && rows[rows.len() - 1] < total);
            let gaps = rows.windows(2).map(|pair| pair[1] - pair[0]);
            let (least, most) = (gaps.clone().min().unwrap(), gaps.max().unwrap());
            assert!(least >= 1 && most - least <= 1, "{total}: {least} to {most}");
        }
    }
}
