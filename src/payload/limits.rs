//! What a caller is willing to decode.

/// Upper bounds checked before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one matrix.
    pub rows: usize,
    /// Columns of one matrix; also bounds its stream columns to three times this number.
    pub columns: usize,
    /// Matrices of one payload (experts).
    pub matrices: usize,
    /// Rows plus columns, times matrices: bounds the memory of an opened payload, which is at most 100 bytes for each
    /// of them, 128 for each byte of the payload, and 64 KiB.
    pub rows_and_columns: usize,
}

impl Default for Limits {
    /// 2^24 rows, 2^20 columns, 2^14 matrices, 2^25 rows and columns in all: more than any published model.
    fn default() -> Self {
        Self { rows: 1 << 24, columns: 1 << 20, matrices: 1 << 14, rows_and_columns: 1 << 25 }
    }
}
