//! The encoder: a [`QuantizedMatrix`] becomes bytes.
//!
//! Columns are sorted by the size of their integers, cut into chunks, and chunks are grouped into classes so that
//! payload bits plus table bits are least (`classes`); then every tile is coded backwards (`tile`). The result is
//! the same for any number of threads.

mod classes;
mod compact;
mod fit;
mod fit_pairs;
mod histogram;
mod layout;
mod pair_histogram;
mod tile;

use super::crc32c::crc32c;
use super::layout::*;
use super::open::Header;
use super::side_information::{self, ColumnEntry};
use super::{QuantizedMatrix, Trellis, MAX_INTEGER};
use std::fmt;

pub use classes::pair_reaches;
pub use compact::CompactColumn;

/// Why a matrix cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// No matrices, or matrices of different shapes, or a shape that does not fit the format.
    Shape,
    /// A stream column has the wrong number of integers or an input column outside the matrix.
    Column {
        /// Index in `QuantizedMatrix::stream`.
        stream: usize,
    },
    /// More than three stream columns for one input column.
    TooManyColumns,
    /// An integer breaks the trellis or exceeds [`MAX_INTEGER`].
    Integer {
        /// Index in `QuantizedMatrix::stream`.
        stream: usize,
        /// Row of the integer.
        row: usize,
    },
    /// The tensor scale, or the scale of a column or row, is not a legal code.
    Scale,
    /// The coded matrix would exceed 4 GiB.
    TooLarge,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => write!(f, "the matrices of a payload need one common shape of at least 1 x 1"),
            Self::Column { stream } => write!(f, "stream column {stream} does not fit the matrix"),
            Self::TooManyColumns => write!(f, "more than two extra stream columns for one column"),
            Self::Integer { stream, row } => {
                write!(f, "integer of stream column {stream}, row {row} breaks the trellis or is too large")
            }
            Self::Scale => write!(f, "a scale that the format cannot store"),
            Self::TooLarge => write!(f, "a coded matrix of more than 4 GiB"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Choices of the encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Threads to use, at least 1. The bytes do not depend on it.
    pub threads: usize,
    /// Bits per weight that a pair table may cost more than a single table would: it decodes up to one and a half times
    /// as fast.
    pub worth_of_pairs: f64,
}

impl EncodeOptions {
    /// [`Self::worth_of_pairs`] for small files.
    pub const SMALL: f64 = 0.005;
    /// [`Self::worth_of_pairs`] for speed that costs next to nothing.
    pub const BALANCED: f64 = 0.012;
    /// [`Self::worth_of_pairs`] for fast decoding.
    pub const FAST: f64 = 0.06;

    /// Balanced, on `threads` threads.
    pub const fn new(threads: usize) -> Self {
        Self { threads, worth_of_pairs: Self::BALANCED }
    }
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self::new(1)
    }
}

/// One coded matrix of a payload.
#[derive(Clone, Debug)]
pub struct Section {
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl Section {
    /// Encodes one matrix.
    ///
    /// # Errors
    /// [`EncodeError`] if it breaks a rule of the format.
    pub fn new(
        matrix: &QuantizedMatrix<CompactColumn>,
        options: &EncodeOptions,
    ) -> Result<Self, EncodeError> {
        Ok(Self { rows: matrix.rows, columns: matrix.columns, bytes: encode_matrix(matrix, options)? })
    }

    /// Bytes of the coded matrix.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a coded matrix has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of a payload of this matrix alone.
    pub fn payload_len(&self) -> usize {
        payload_header(1) + self.len()
    }

    /// The payload of a tensor's matrices.
    ///
    /// # Errors
    /// [`EncodeError::Shape`] if there are none, or their shapes differ.
    pub fn join(sections: &[Self]) -> Result<Vec<u8>, EncodeError> {
        let Some(first) = sections.first() else { return Err(EncodeError::Shape) };
        if sections.iter().any(|other| (other.rows, other.columns) != (first.rows, first.columns)) {
            return Err(EncodeError::Shape);
        }
        assemble(sections, first.rows, first.columns)
    }
}

/// Encodes the matrices of one tensor (one, or one for each expert).
///
/// # Errors
/// [`EncodeError`] if the matrices break a rule of the format.
pub fn encode(matrices: &[QuantizedMatrix], options: &EncodeOptions) -> Result<Vec<u8>, EncodeError> {
    let section = |matrix: &QuantizedMatrix| Section::new(&matrix.into(), options);
    Section::join(&matrices.iter().map(section).collect::<Result<Vec<_>, _>>()?)
}

const fn payload_header(matrices: usize) -> usize {
    PAYLOAD_FIXED + 8 * matrices + 4
}

/// Puts coded matrices behind a payload header.
fn assemble(sections: &[Section], rows: usize, columns: usize) -> Result<Vec<u8>, EncodeError> {
    let total = payload_header(sections.len()) + sections.iter().map(Section::len).sum::<usize>();
    let mut bytes = Vec::with_capacity(total);
    bytes.extend(MAGIC);
    bytes.extend([VERSION, 0, 0, 0]);
    bytes.extend((total as u64).to_le_bytes());
    for number in [columns, rows, sections.len(), 0] {
        bytes.extend(u32::try_from(number).map_err(|_| EncodeError::Shape)?.to_le_bytes());
    }
    let mut end = 0u64;
    for section in sections {
        end += section.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    bytes.extend(crc32c(&bytes).to_le_bytes());
    for section in sections {
        bytes.extend_from_slice(&section.bytes);
    }
    Ok(bytes)
}

/// A matrix whose columns stand in stream order, ready for the tile coder.
struct Stream<'a> {
    matrix: &'a QuantizedMatrix<CompactColumn>,
    /// Stream column of each position, `None` for padding.
    positions: Vec<Option<usize>>,
    classes: Vec<classes::ChosenClass>,
}

fn encode_matrix(
    matrix: &QuantizedMatrix<CompactColumn>,
    options: &EncodeOptions,
) -> Result<Vec<u8>, EncodeError> {
    check(matrix)?;
    let threads = options.threads.max(1);
    let (chosen, class_of) = classes::choose(matrix, options);
    let (entries, order) = column_entries(matrix, &class_of)?;
    let live = {
        let mut inputs: Vec<u32> = matrix.stream.iter().map(|column| column.input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.len()
    };
    let header = Header {
        geometry: matrix.geometry,
        trellis: matrix.trellis,
        classes: chosen.len(),
        column_scale_kind: matrix.column_scale_kind,
        row_scale_kind: matrix.row_scales.as_ref().map(|(kind, _)| *kind),
        tensor_scale: matrix.tensor_scale,
        extra_columns: entries.len() - live,
    };
    let tables: Vec<_> = chosen.iter().map(|class| (class.standard, class.table.clone())).collect();
    let row_scales = matrix.row_scales.as_ref().map(|(_, scales)| scales.as_slice());
    let side = side_information::write(&header, matrix.columns, &tables, &entries, row_scales);

    let padding = padded(entries.len(), matrix.geometry) - entries.len();
    let mut positions = vec![None; padding];
    for class in 0..chosen.len() {
        let of_class = entries.iter().zip(&order).filter(|(entry, _)| usize::from(entry.class) == class);
        positions.extend(of_class.map(|(_, &stream)| Some(stream)));
    }
    let stream = Stream { matrix, positions, classes: chosen };
    let tiles = if entries.is_empty() { Vec::new() } else { tile::encode_all(&stream, threads) };
    write_matrix(&header, &side, &tiles)
}

fn write_matrix(header: &Header, side: &[u8], tiles: &[tile::CodedTile]) -> Result<Vec<u8>, EncodeError> {
    let header_length = MATRIX_FIXED + side.len() + DIRECTORY_ENTRY * tiles.len() + 4;
    let body: usize = tiles.iter().map(|tile| tile.bytes.len()).sum();
    let number = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| EncodeError::TooLarge);
    let mut bytes = Vec::with_capacity(header_length + body);
    bytes.extend(number(header_length)?);
    bytes.push(header.geometry.columns_per_chunk() as u8);
    bytes.push(trellis_code(header.trellis));
    bytes.extend((header.geometry.steps() as u16).to_le_bytes());
    bytes.push(header.classes as u8);
    bytes.push(scale_kind_code(header.column_scale_kind));
    bytes.push(header.row_scale_kind.map_or(0, |kind| scale_kind_code(kind) + 1));
    bytes.push(0);
    bytes.extend(header.tensor_scale.to_le_bytes());
    bytes.extend(number(header.extra_columns)?);
    bytes.extend(number(side.len())?);
    bytes.extend(side);
    let mut end = 0;
    for tile in tiles {
        end += tile.bytes.len();
        bytes.extend(number(end)?);
        bytes.extend(number(tile.escape_bytes)?);
        bytes.extend(crc32c(&tile.bytes).to_le_bytes());
    }
    bytes.extend(crc32c(&bytes).to_le_bytes());
    for tile in tiles {
        bytes.extend_from_slice(&tile.bytes);
    }
    Ok(bytes)
}

/// Entries in the order of the side information (first appearance of each input column in rising order, then the
/// others in rising order), and the stream column of each.
fn column_entries(
    matrix: &QuantizedMatrix<CompactColumn>,
    class_of: &[u8],
) -> Result<(Vec<ColumnEntry>, Vec<usize>), EncodeError> {
    let mut order: Vec<usize> = (0..matrix.stream.len()).collect();
    order.sort_by_key(|&stream| matrix.stream[stream].input);
    let (mut seen, mut copies) = (None, 0);
    let (mut first, mut extra) = (Vec::new(), Vec::new());
    for stream in order {
        let input = matrix.stream[stream].input;
        copies = if seen == Some(input) { copies + 1 } else { 0 };
        if copies > MAX_EXTRA_COPIES {
            return Err(EncodeError::TooManyColumns);
        }
        if copies > 0 { &mut extra } else { &mut first }.push(stream);
        seen = Some(input);
    }
    first.extend(extra);
    let entries = first
        .iter()
        .map(|&stream| {
            let column = &matrix.stream[stream];
            ColumnEntry { input: column.input, class: class_of[stream], scale: column.scale }
        })
        .collect();
    Ok((entries, first))
}

fn check(matrix: &QuantizedMatrix<CompactColumn>) -> Result<(), EncodeError> {
    if matrix.rows == 0 || matrix.columns == 0 || matrix.rows.max(matrix.columns) > u32::MAX as usize {
        return Err(EncodeError::Shape);
    }
    let exponent = (matrix.tensor_scale.to_bits() >> 23) as i32 - 127;
    if !TENSOR_SCALE_EXPONENTS.contains(&exponent) {
        return Err(EncodeError::Scale);
    }
    if let Some((kind, scales)) = &matrix.row_scales {
        let legal = |&code: &u16| scale_value(*kind, code, ROW_SCALE_OCTAVES).is_some();
        if scales.len() != matrix.rows || !scales.iter().all(legal) {
            return Err(EncodeError::Scale);
        }
    }
    for (stream, column) in matrix.stream.iter().enumerate() {
        if column.len() != matrix.rows || column.input as usize >= matrix.columns {
            return Err(EncodeError::Column { stream });
        }
        if scale_value(matrix.column_scale_kind, column.scale, 0).is_none() {
            return Err(EncodeError::Scale);
        }
        for path in matrix.geometry.paths(matrix.rows) {
            let mut state = 0;
            for i in 0..path.len {
                let row = path.first + i * path.stride;
                let m = column.get(row);
                let parity = matrix.trellis.parity(state);
                if m & 1 != parity || m.unsigned_abs() > MAX_INTEGER as u32 {
                    return Err(EncodeError::Integer { stream, row });
                }
                state = matrix.trellis.next(state, m);
            }
        }
    }
    Ok(())
}

/// Index k of integer `m` in a state of parity `q`: m = 2k + q.
fn index_of(m: i32, q: i32) -> i32 {
    (m - q) >> 1
}

/// Splits `0..count` into at most `threads` consecutive ranges and maps each on a thread of its own, in order.
fn parallel<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(std::ops::Range<usize>) -> Vec<T> + Sync,
) -> Vec<T> {
    let share = count.div_ceil(threads).max(1);
    if share >= count {
        return work(0..count);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..count)
            .step_by(share)
            .map(|start| scope.spawn(move || work(start..(start + share).min(count))))
            .collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Vec<T>>| match handle.join() {
            Ok(items) => items,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        handles.into_iter().flat_map(join).collect()
    })
}

/// Integers that pad a chunk or a tile are those of index 0.
fn padding_integer(trellis: Trellis, state: u8) -> i32 {
    trellis.parity(state)
}
