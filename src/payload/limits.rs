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
}

impl Default for Limits {
    /// 2^24 rows, 2^20 columns, 2^14 matrices: more than any published model.
    fn default() -> Self {
        Self { rows: 1 << 24, columns: 1 << 20, matrices: 1 << 14 }
    }
}
