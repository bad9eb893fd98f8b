//! Integers of a matrix in one byte each where they fit: what the encoder works on.
//!
//! Nearly all integers of a stream column are small. The others stand in a list beside the bytes, so that a matrix of
//! many rows can be gathered part by part and held whole at little more than a byte a weight.

use crate::payload::{QuantizedMatrix, StreamColumn};

/// Stands for an integer that is in the list.
const FAR: i8 = i8::MIN;

/// One stream column, as [`StreamColumn`], compactly.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactColumn {
    /// See [`StreamColumn::input`].
    pub input: u32,
    /// See [`StreamColumn::scale`].
    pub scale: u16,
    near: Vec<i8>,
    /// Row and integer, rows rising.
    far: Vec<(u32, i32)>,
}

impl CompactColumn {
    /// A column that has no rows yet.
    pub const fn new(input: u32, scale: u16) -> Self {
        Self { input, scale, near: Vec::new(), far: Vec::new() }
    }

    /// Adds rows.
    pub fn extend(&mut self, integers: &[i32]) {
        self.near.reserve(integers.len());
        for &m in integers {
            match i8::try_from(m) {
                Ok(near) if near != FAR => self.near.push(near),
                _ => {
                    // Matrices of more rows do not fit the format, and are refused before this number is used.
                    self.far.push((self.near.len() as u32, m));
                    self.near.push(FAR);
                }
            }
        }
    }

    /// Adds zeros, or takes rows away, until there are `rows`.
    pub fn resize(&mut self, rows: usize) {
        self.near.resize(rows, 0);
        self.far.retain(|&(row, _)| (row as usize) < rows);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.near.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.near.is_empty()
    }

    /// The integer of a row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn get(&self, row: usize) -> i32 {
        match self.near[row] {
            FAR => self.far_integer(row),
            near => i32::from(near),
        }
    }

    #[cold]
    fn far_integer(&self, row: usize) -> i32 {
        self.far.binary_search_by_key(&row, |&(row, _)| row as usize).map_or(0, |at| self.far[at].1)
    }

    /// Sum of the magnitudes.
    pub(super) fn size(&self) -> u64 {
        let near = self.near.iter().filter(|&&m| m != FAR).map(|m| u64::from(m.unsigned_abs())).sum::<u64>();
        near + self.far.iter().map(|&(_, m)| u64::from(m.unsigned_abs())).sum::<u64>()
    }
}

impl From<&StreamColumn> for CompactColumn {
    fn from(column: &StreamColumn) -> Self {
        let mut compact = Self::new(column.input, column.scale);
        compact.extend(&column.integers);
        compact
    }
}

impl From<&QuantizedMatrix> for QuantizedMatrix<CompactColumn> {
    fn from(matrix: &QuantizedMatrix) -> Self {
        let stream = matrix.stream.iter().map(CompactColumn::from).collect();
        matrix.with_stream(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_integer_comes_back() {
        let integers = [0, 127, -127, -128, 128, 5, i32::MIN, i32::MAX, -1];
        let mut column = CompactColumn::new(3, 4);
        column.extend(&integers[..4]);
        column.extend(&integers[4..]);
        assert_eq!((0..column.len()).map(|row| column.get(row)).collect::<Vec<_>>(), integers);
        assert_eq!(column.size(), integers.iter().map(|m| u64::from(m.unsigned_abs())).sum::<u64>());
        column.resize(4);
        assert_eq!((column.len(), column.get(3), column.size()), (4, -128, 382));
        column.resize(6);
        column.extend(&[-300]);
        assert_eq!((column.get(5), column.get(6)), (0, -300));
    }
}
