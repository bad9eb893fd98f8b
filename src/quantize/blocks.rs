//! Row blocks: the rows of a matrix cut into independent tasks of up to eight trellis paths.
//!
//! A block keeps its part of a matrix column by column; within a column, *positions* run step by step and, within a
//! step, path by path (`position = step * LANES + lane`), which is the order the Viterbi search wants.

use super::viterbi::{Lanes, LANES};
use crate::payload::Path;

/// Rows of one task.
#[derive(Clone, Debug)]
pub(super) struct RowBlock {
    /// Row at each position; `None` where a path is shorter than the longest of the block.
    rows: Vec<Option<u32>>,
    /// Length of each path; 0 for unused lanes.
    pub lengths: [usize; LANES],
    /// Length of the longest path.
    pub steps: usize,
}

impl RowBlock {
    /// Groups paths, in their order, into blocks.
    pub fn split(paths: impl Iterator<Item = Path>) -> Vec<RowBlock> {
        let paths: Vec<Path> = paths.collect();
        paths.chunks(LANES).map(Self::new).collect()
    }

    fn new(paths: &[Path]) -> Self {
        let mut lengths = [0; LANES];
        let steps = paths.iter().map(|p| p.len).max().unwrap_or(0);
        let mut rows = vec![None; steps * LANES];
        for (lane, path) in paths.iter().enumerate().take(LANES) {
            lengths[lane] = path.len;
            for step in 0..path.len {
                rows[step * LANES + lane] = u32::try_from(path.first + step * path.stride).ok();
            }
        }
        Self { rows, lengths, steps }
    }

    /// Positions of one column, absent ones included.
    pub fn positions(&self) -> usize {
        self.rows.len()
    }

    /// Rows that exist.
    pub fn present(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The pairs (position, row) that exist.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.rows.iter().enumerate().filter_map(|(position, row)| row.map(|row| (position, row as usize)))
    }

    /// The rows at a range of positions, relative to its start.
    pub fn rows_in(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.rows.get(range).unwrap_or(&[]);
        rows.iter().enumerate().filter_map(|(position, row)| row.map(|row| (position, row as usize)))
    }
}

/// Storage of one block's part of a matrix: `columns` times `steps` lanes.
pub(super) fn lanes(columns: usize, steps: usize) -> Vec<Lanes> {
    vec![[0.0; LANES]; columns * steps]
}
