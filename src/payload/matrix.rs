//! A quantized matrix in plain form: what the encoder takes and what the decoder gives back.

use super::{Geometry, Trellis};

/// Largest magnitude of an integer after escapes: every value is exact in f32.
pub const MAX_INTEGER: i32 = (1 << 23) - 1;

/// One stream column: the integers of one input column (or of a copy of it, see `input`).
#[derive(Clone, Debug, PartialEq)]
pub struct StreamColumn {
    /// Input column this stream column adds to. Columns that appear several times are summed (a coarse and a
    /// fine part for outlier columns); columns that do not appear are zero.
    pub input: u32,
    /// Scale of the column, in the unit that `QuantizedMatrix::column_scale_kind` names: for
    /// [`ScaleKind::Log8`] a code 0..=255 meaning `tensor_scale * 2^(code/8)`, for [`ScaleKind::Half`] the bits
    /// of an IEEE half float that multiplies `tensor_scale`.
    pub scale: u16,
    /// One integer per row. Along each path of the geometry the parities follow the trellis, and absolute
    /// values stay within [`MAX_INTEGER`].
    pub integers: Vec<i32>,
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ScaleKind {
    /// Eighths of an octave: `2^(code/8)`, code 0..=255.
    #[default]
    Log8,
    /// Bits of a positive finite IEEE half float.
    Half,
}

/// A quantized matrix of `rows` x `columns` weights.
///
/// The weight of row r and column c is
/// `row_scale[r] * sum over stream columns s with input c of column_scale[s] * integers[s][r]`.
///
/// The columns are [`StreamColumn`]s, or what the encoder holds them as.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix<Column = StreamColumn> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// How the matrix is cut into tiles; fixes where trellis paths start.
    pub geometry: Geometry,
    /// Trellis that all integers obey.
    pub trellis: Trellis,
    /// Factor of all column scales; positive and finite.
    pub tensor_scale: f32,
    /// Meaning of [`StreamColumn::scale`].
    pub column_scale_kind: ScaleKind,
    /// The live columns, in any order.
    pub stream: Vec<Column>,
    /// Row scales, one per row: for [`ScaleKind::Log8`] `2^((code - 128)/8)`, for [`ScaleKind::Half`] half floats.
    pub row_scales: Option<(ScaleKind, Vec<u16>)>,
}

impl<Column> QuantizedMatrix<Column> {
    /// The same matrix with other stream columns.
    pub fn with_stream<Other>(&self, stream: Vec<Other>) -> QuantizedMatrix<Other> {
        QuantizedMatrix {
            rows: self.rows,
            columns: self.columns,
            geometry: self.geometry,
            trellis: self.trellis,
            tensor_scale: self.tensor_scale,
            column_scale_kind: self.column_scale_kind,
            stream,
            row_scales: self.row_scales.clone(),
        }
    }
}
