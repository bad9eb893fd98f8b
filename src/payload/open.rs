//! From bytes to a validated [`Payload`]: every header is checked here, once.

use super::crc32c::crc32c;
use super::error::{ErrorKind, PayloadError};
use super::layout::*;
use super::side_information::{self, SideInformation};
use super::table::ClassTable;
use super::tile::Tile;
use super::{Geometry, Limits, ScaleKind, Trellis};
use std::sync::Arc;

/// Input column of a stream position that only fills a chunk.
pub const PADDING: u32 = u32::MAX;

/// A payload whose headers were validated; borrows the bytes.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    rows: usize,
    columns: usize,
    matrices: Vec<Matrix<'a>>,
}

/// One matrix of a payload.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) geometry: Geometry,
    pub(super) trellis: Trellis,
    pub(super) classes: Vec<Class>,
    pub(super) stream_inputs: Vec<u32>,
    pub(super) stream_scales: Vec<f32>,
    pub(super) row_scales: Option<Vec<f32>>,
    header: Header,
    directory: &'a [u8],
    tiles: &'a [u8],
    offset: usize,
}

/// A class table, kept once however many classes use it.
#[derive(Clone, Debug)]
pub(super) enum SharedTable {
    Standard(&'static ClassTable),
    Own(Arc<ClassTable>),
}

impl std::ops::Deref for SharedTable {
    type Target = ClassTable;

    fn deref(&self) -> &ClassTable {
        match self {
            Self::Standard(table) => table,
            Self::Own(table) => table,
        }
    }
}

/// Names a standard table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableIdentifier {
    /// One of `spec/standard-tables.txt`.
    Single(u8),
    /// One of `spec/standard-pair-tables.txt`.
    Pair(u8),
}

/// A run of chunks that share a class table.
#[derive(Clone, Debug)]
pub struct Class {
    pub(super) table: SharedTable,
    pub(super) table_identifier: Option<TableIdentifier>,
    pub(super) first_chunk: usize,
    pub(super) chunks: usize,
}

impl Class {
    /// The class table.
    pub fn table(&self) -> &ClassTable {
        &self.table
    }

    /// Identifier of the standard table, or `None` for a table of its own.
    pub fn standard_table(&self) -> Option<TableIdentifier> {
        self.table_identifier
    }

    /// Chunks of this class, in stream order.
    pub fn chunks(&self) -> std::ops::Range<usize> {
        self.first_chunk..self.first_chunk + self.chunks
    }
}

/// Fixed fields of a matrix header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) geometry: Geometry,
    pub(super) trellis: Trellis,
    pub(super) classes: usize,
    pub(super) column_scale_kind: ScaleKind,
    pub(super) row_scale_kind: Option<ScaleKind>,
    pub(super) tensor_scale: f32,
    pub(super) extra_columns: usize,
}

/// Total length in bytes that a payload announces in its first 16 bytes, or `None` if these are not such bytes.
/// A container uses it to size a tensor before it opens it.
pub fn announced_length(bytes: &[u8]) -> Option<u64> {
    let head = bytes.first_chunk::<16>()?;
    (head[..4] == MAGIC).then(|| u64::from_le_bytes(head[8..16].try_into().unwrap_or([0; 8])))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

fn refuse<T>(kind: ErrorKind, offset: usize, expected: &'static str) -> Result<T, PayloadError> {
    Err(PayloadError::new(kind, offset, expected))
}

impl<'a> Payload<'a> {
    /// Validates all headers of a payload that fills `bytes` exactly.
    ///
    /// Tile contents are checked when they are decoded, tile checksums by [`Matrix::verify_tile`]. Time and memory
    /// are linear in the headers, rows and columns, and bounded by `limits`.
    ///
    /// # Errors
    /// The class of refusal that `spec/FORMAT.md` states for the first condition violated in its order of checks.
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, PayloadError> {
        use ErrorKind::*;
        if bytes.len() < 4 {
            return refuse(Truncated, 0, "a payload header of at least 32 bytes");
        }
        if bytes[..4] != MAGIC {
            return refuse(BadMagic, 0, "the magic number WSIC");
        }
        if bytes.len() < PAYLOAD_FIXED {
            return refuse(Truncated, 0, "a payload header of at least 32 bytes");
        }
        if bytes[4] != VERSION {
            return refuse(UnsupportedVersion, 4, "version 1");
        }
        if bytes[5..8] != [0; 3] || bytes[28..32] != [0; 4] {
            return refuse(UnsupportedFeature, 5, "feature and reserved fields of zero");
        }
        let field = |offset| u32_at(bytes, offset).unwrap_or(0) as usize;
        let total = u64_at(bytes, 8).unwrap_or(0);
        if total > bytes.len() as u64 {
            return refuse(Truncated, 8, "as many bytes as the header announces");
        }
        if total < bytes.len() as u64 {
            return refuse(TrailingBytes, 8, "no byte after the announced length");
        }
        let (columns, rows, count) = (field(16), field(20), field(24));
        if rows == 0 || columns == 0 || count == 0 {
            return refuse(BadHeader, 16, "at least one row, column and matrix");
        }
        let lines = rows.saturating_add(columns).saturating_mul(count);
        if rows > limits.rows
            || columns > limits.columns
            || count > limits.matrices
            || lines > limits.rows_and_columns
        {
            return refuse(LimitExceeded, 16, "rows, columns and matrices within the caller's limits");
        }
        let ends_at = PAYLOAD_FIXED;
        let checksum_at = count.checked_mul(8).and_then(|ends| ends.checked_add(ends_at));
        let Some((checksum_at, stored)) = checksum_at.and_then(|at| Some((at, u32_at(bytes, at)?))) else {
            return refuse(Truncated, ends_at, "an end offset for every matrix");
        };
        if crc32c(&bytes[..checksum_at]) != stored {
            return refuse(BadChecksum, checksum_at, "the checksum of the payload header");
        }
        let body_at = checksum_at + 4;
        let body = &bytes[body_at..];
        let mut matrices = Vec::new();
        let mut start = 0usize;
        for index in 0..count {
            let at = ends_at + 8 * index;
            let end = u64_at(bytes, at).unwrap_or(0);
            if end > body.len() as u64 || (end as usize) < start {
                return refuse(BadDirectory, at, "matrix ends that rise and stay inside the payload");
            }
            let section = &body[start..end as usize];
            let offset = body_at + start;
            matrices.push(Matrix::open(section, rows, columns, offset).map_err(|e| e.shifted(offset))?);
            start = end as usize;
        }
        if start != body.len() {
            return refuse(BadDirectory, ends_at, "matrices that fill the payload");
        }
        Ok(Self { rows, columns, matrices })
    }

    /// Output features of each matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features of each matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The matrices: one, or one for each expert.
    pub fn matrices(&self) -> &[Matrix<'a>] {
        &self.matrices
    }
}

fn parse_header(bytes: &[u8]) -> Result<Header, PayloadError> {
    use ErrorKind::*;
    let steps = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let Some(geometry) = Geometry::new(usize::from(bytes[4]), steps) else {
        return refuse(BadHeader, 4, "64, 16 or 4 columns per chunk and 1 to 256 steps");
    };
    let trellis = match bytes[5] {
        0 => Trellis::Scalar,
        1 => Trellis::EightState,
        2 => Trellis::Pairs,
        _ => return refuse(UnsupportedFeature, 5, "trellis 0, 1 or 2"),
    };
    let classes = usize::from(bytes[8]);
    if classes > MAX_CLASSES {
        return refuse(BadHeader, 8, "at most 32 classes");
    }
    let column_scale_kind = match bytes[9] {
        0 => ScaleKind::Log8,
        1 => ScaleKind::Half,
        _ => return refuse(UnsupportedFeature, 9, "column scale kind 0 or 1"),
    };
    let row_scale_kind = match bytes[10] {
        0 => None,
        1 => Some(ScaleKind::Log8),
        2 => Some(ScaleKind::Half),
        _ => return refuse(UnsupportedFeature, 10, "row scale kind 0, 1 or 2"),
    };
    if bytes[11] != 0 {
        return refuse(UnsupportedFeature, 11, "a reserved byte of zero");
    }
    let scale_bits = u32_at(bytes, 12).unwrap_or(0);
    let exponent = (scale_bits >> 23) as i32 - 127;
    // The sign bit makes the exponent leave the range too.
    if !TENSOR_SCALE_EXPONENTS.contains(&exponent) {
        return refuse(BadHeader, 12, "a positive tensor scale from 2^-96 to below 2^41");
    }
    Ok(Header {
        geometry,
        trellis,
        classes,
        column_scale_kind,
        row_scale_kind,
        tensor_scale: f32::from_bits(scale_bits),
        extra_columns: u32_at(bytes, 16).unwrap_or(0) as usize,
    })
}

impl<'a> Matrix<'a> {
    fn open(bytes: &'a [u8], rows: usize, columns: usize, offset: usize) -> Result<Self, PayloadError> {
        use ErrorKind::*;
        if bytes.len() < MATRIX_FIXED {
            return refuse(Truncated, 0, "a matrix header of at least 24 bytes");
        }
        let header_length = u32_at(bytes, 0).unwrap_or(0) as usize;
        if header_length > bytes.len() {
            return refuse(Truncated, 0, "as many bytes as the matrix header announces");
        }
        if header_length < MATRIX_FIXED + 4 {
            return refuse(BadHeader, 0, "a matrix header of at least 28 bytes");
        }
        let checksum_at = header_length - 4;
        if Some(crc32c(&bytes[..checksum_at])) != u32_at(bytes, checksum_at) {
            return refuse(BadChecksum, checksum_at, "the checksum of the matrix header");
        }
        let header = parse_header(bytes)?;
        if header.extra_columns > columns.saturating_mul(MAX_EXTRA_COPIES) {
            return refuse(BadHeader, 16, "at most two extra stream columns for each column");
        }
        let side_length = u32_at(bytes, 20).unwrap_or(0) as usize;
        if side_length > checksum_at - MATRIX_FIXED {
            return refuse(BadHeader, 20, "side information inside the matrix header");
        }
        let (side, directory) = bytes[MATRIX_FIXED..checksum_at].split_at(side_length);
        let SideInformation { classes, stream_inputs, stream_scales, row_scales } =
            side_information::read(side, &header, rows, columns).map_err(|e| e.shifted(MATRIX_FIXED))?;
        let matrix = Self {
            rows,
            columns,
            geometry: header.geometry,
            trellis: header.trellis,
            classes,
            stream_inputs,
            stream_scales,
            row_scales,
            header,
            directory,
            tiles: &bytes[header_length..],
            offset: offset + header_length,
        };
        matrix.check_directory().map_err(|e| e.shifted(MATRIX_FIXED + side_length))?;
        Ok(matrix)
    }

    fn check_directory(&self) -> Result<(), PayloadError> {
        use ErrorKind::*;
        if Some(self.directory.len()) != self.tile_count().checked_mul(DIRECTORY_ENTRY) {
            return refuse(BadDirectory, 0, "one directory entry of 12 bytes for each tile");
        }
        let mut start = 0;
        for tile in 0..self.tile_count() {
            let at = tile * DIRECTORY_ENTRY;
            let (end, escapes) = self.directory_entry(tile);
            let least = self.raw_plane_bytes(tile).saturating_add(STATE_BYTES);
            if end > self.tiles.len() || end < start || escapes > end - start || end - start - escapes < least
            {
                return refuse(
                    BadDirectory,
                    at,
                    "tiles that rise, stay inside the matrix and hold their states",
                );
            }
            start = end;
        }
        if start != self.tiles.len() {
            return refuse(BadDirectory, 0, "tiles that fill the matrix");
        }
        Ok(())
    }

    fn directory_entry(&self, tile: usize) -> (usize, usize) {
        let at = tile * DIRECTORY_ENTRY;
        let field = |offset| u32_at(self.directory, at + offset).unwrap_or(0) as usize;
        (field(0), field(4))
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the matrix is cut into tiles.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The trellis of its integers.
    pub fn trellis(&self) -> Trellis {
        self.trellis
    }

    /// The classes in stream order; their chunks follow each other without gaps.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Number of stream positions: chunks times columns per chunk.
    pub fn stream_length(&self) -> usize {
        self.stream_inputs.len()
    }

    /// Input column of each stream position, [`PADDING`] for positions that carry no column.
    pub fn stream_inputs(&self) -> &[u32] {
        &self.stream_inputs
    }

    /// Scale of each stream position (tensor scale included), 0 for padding.
    pub fn stream_scales(&self) -> &[f32] {
        &self.stream_scales
    }

    /// Factor of each row, if the matrix has row scales.
    pub fn row_scales(&self) -> Option<&[f32]> {
        self.row_scales.as_deref()
    }

    /// Factor of all column scales.
    pub fn tensor_scale(&self) -> f32 {
        self.header.tensor_scale
    }

    /// Stream columns beyond the first of an input column.
    pub fn extra_columns(&self) -> usize {
        self.header.extra_columns
    }

    /// Number of tiles; 0 if all columns are dead.
    pub fn tile_count(&self) -> usize {
        if self.stream_inputs.is_empty() {
            0
        } else {
            self.geometry.tiles(self.rows)
        }
    }

    /// Bytes of the raw plane of tile `tile`.
    pub fn raw_plane_bytes(&self, tile: usize) -> usize {
        let steps = self.geometry.steps_in_tile(self.rows, tile);
        let of_class =
            |class: &Class| (class.table.raw_bits() as usize * 8 * class.chunks).saturating_mul(steps);
        self.classes.iter().map(of_class).fold(0, usize::saturating_add)
    }

    /// The bytes of tile `tile`, which must be below [`Self::tile_count`].
    pub fn tile(&self, tile: usize) -> Tile<'a> {
        let start = if tile == 0 { 0 } else { self.directory_entry(tile - 1).0 };
        let (end, escapes) = self.directory_entry(tile);
        let (stream, escapes) = self.tiles[start..end].split_at(end - start - escapes);
        Tile { stream, escapes, offset: self.offset + start }
    }

    /// All bytes from the start of tile `tile` to the end of the matrix: what a kernel may read ahead into.
    pub fn tile_and_beyond(&self, tile: usize) -> &'a [u8] {
        let start = if tile == 0 { 0 } else { self.directory_entry(tile - 1).0 };
        &self.tiles[start..]
    }

    /// Compares the checksum of tile `tile` with its bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadChecksum`].
    pub fn verify_tile(&self, tile: usize) -> Result<(), PayloadError> {
        let bytes = self.tile(tile);
        let stored = u32_at(self.directory, tile * DIRECTORY_ENTRY + 8);
        let start = if tile == 0 { 0 } else { self.directory_entry(tile - 1).0 };
        if Some(crc32c(&self.tiles[start..self.directory_entry(tile).0])) != stored {
            return refuse(ErrorKind::BadChecksum, bytes.offset, "the checksum of the tile");
        }
        Ok(())
    }
}
