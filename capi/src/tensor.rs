//! Opened tensors: the handle, its shape, and how threads share its rows.

use crate::arguments::{checked, reference, slice, store};
use crate::isa::Isa;
use crate::status::{guarded, Error, Failure, Status};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use wsic_core::kernels::PreparedMatrix;
use wsic_core::payload::{announced_length, Limits as PayloadLimits, Payload};

/// Classes of all matrices of an opened tensor: 1,024 experts with all classes there can be.
const MOST_CLASSES: usize = 1 << 15;

/// Upper bounds, checked before anything is allocated.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one matrix.
    pub rows: u64,
    /// Columns of one matrix.
    pub columns: u64,
    /// Matrices of one payload (experts).
    pub matrices: u64,
    /// Rows plus columns, times matrices. An opened tensor takes at most 100 bytes for each of them, 128 for each byte
    /// of the payload, 9 KiB for each class of each matrix (at most 32; whatever the limits, no more than 32,768 classes in
    /// all, which is 302 MB), and 64 KiB. Of that, what belongs to standard class tables, at most 8 MiB for each
    /// instruction set, is shared by all tensors and stays when they are closed.
    pub rows_and_columns: u64,
}

impl Limits {
    fn of_payload(limits: &PayloadLimits) -> Self {
        Self {
            rows: limits.rows as u64,
            columns: limits.columns as u64,
            matrices: limits.matrices as u64,
            rows_and_columns: limits.rows_and_columns as u64,
        }
    }

    fn to_payload(self) -> PayloadLimits {
        let bound = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        PayloadLimits {
            rows: bound(self.rows),
            columns: bound(self.columns),
            matrices: bound(self.matrices),
            rows_and_columns: bound(self.rows_and_columns),
        }
    }
}

/// The shape of a tensor. In ggml's order of dimensions: ne[0] = columns, ne[1] = rows, ne[2] = matrices.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Output features of each matrix.
    pub rows: u64,
    /// Input features of each matrix.
    pub columns: u64,
    /// Matrices: 1, or the number of experts.
    pub matrices: u64,
}

/// How a matrix is stored. The pointers are valid until the tensor is closed.
///
/// The weight of row r and column c is row_scales[r] times the sum of stream_scales[p] * integer[r][p] over the stream
/// positions p with stream_inputs[p] == c.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Rows that are decoded together: ranges of rows begin and end at multiples of it (or at the last row).
    pub rows_per_tile: u64,
    /// Stream positions: integers of one row.
    pub stream_length: u64,
    /// Input column of each stream position, UINT32_MAX for positions that carry none.
    pub stream_inputs: *const u32,
    /// Scale of each stream position, 0 for positions that carry no column.
    pub stream_scales: *const f32,
    /// Factor of each row, or null if all are 1.
    pub row_scales: *const f32,
}

/// An opened tensor.
#[derive(Debug)]
pub struct Tensor {
    /// Tells tensors apart, closed ones included.
    pub(crate) serial: u64,
    shape: Shape,
    matrices: Vec<PreparedMatrix<'static>>,
    bytes: Range<usize>,
}

/// Tensors are used from several threads at once.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Tensor>();
};

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Tensor {
    pub(crate) fn matrix(&self, index: usize) -> Result<&PreparedMatrix<'static>, Failure> {
        let (expected, got) = (self.matrices.len(), index);
        let failure = Failure::Number { status: Status::OutOfRange, what: "matrix", expected, got };
        self.matrices.get(index).ok_or(failure)
    }

    /// Tiles of a range of rows, which begins and ends at borders of tiles.
    pub(crate) fn tiles(plan: &PreparedMatrix<'_>, rows: Range<usize>) -> Result<Range<usize>, Failure> {
        let height = plan.matrix().geometry().rows_per_tile();
        let range = |what, expected, got| Failure::Number { status: Status::OutOfRange, what, expected, got };
        if rows.end > plan.rows() {
            return Err(range("end of the rows, at most", plan.rows(), rows.end));
        }
        if rows.start > rows.end {
            return Err(range("start of the rows, at most", rows.end, rows.start));
        }
        if !rows.start.is_multiple_of(height) && rows.start != plan.rows() {
            return Err(range("start of the rows, a multiple of", height, rows.start));
        }
        if !rows.end.is_multiple_of(height) && rows.end != plan.rows() {
            return Err(range("end of the rows, a multiple of", height, rows.end));
        }
        Ok(rows.start.div_ceil(height)..rows.end.div_ceil(height))
    }

    /// Addresses of the payload.
    pub(crate) fn bytes(&self) -> Range<usize> {
        self.bytes.clone()
    }
}

/// Stores the default limits: 2^24 rows, 2^20 columns, 2^14 matrices, 2^25 rows and columns in all.
///
/// # Safety
/// `limits` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_limits_default(limits: *mut Limits) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        unsafe { store(limits, "limits", Limits::of_payload(&PayloadLimits::default())) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Stores in `total` the length in bytes of the payload that begins at `bytes`, as it announces it in its first 16
/// bytes: what a container needs to find the end of a tensor. It is hostile input; compare it with what is there.
///
/// Returns WSIC_STATUS_TRUNCATED if `length` is less than 16, WSIC_STATUS_BAD_MAGIC if this is no payload.
///
/// # Safety
/// `length` bytes from `bytes` on can be read; `total` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_announced_length(bytes: *const u8, length: usize, total: *mut u64) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice(bytes, length, "bytes") }?;
        if bytes.len() < 16 {
            return Err(Failure::Argument(Status::Truncated, "start of a payload"));
        }
        let announced =
            announced_length(bytes).ok_or(Failure::Argument(Status::BadMagic, "start of a payload"))?;
        // SAFETY: the caller's promise.
        unsafe { store(total, "total", announced) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Opens the payload of `length` bytes at `bytes` and stores a handle in `tensor`. The bytes are borrowed: they must
/// stay where they are, unchanged, until wsic_close.
///
/// `bytes` needs no alignment. `limits` may be null (the defaults). `expected` may be null (any shape within the
/// limits); else a payload of another shape is refused with WSIC_STATUS_SHAPE_MISMATCH. All headers are validated here;
/// tiles are checked whenever they are decoded, their checksums by wsic_verify_rows. Time and memory are linear in the
/// payload's headers, rows and columns. If the call fails, `tensor` is untouched.
///
/// # Safety
/// `length` bytes from `bytes` on can be read and are not written until the tensor is closed; `limits`, `expected` and
/// `error` are null or valid; `tensor` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_open(
    bytes: *const u8,
    length: usize,
    limits: *const Limits,
    expected: *const Shape,
    tensor: *mut *mut Tensor,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller promises that the bytes stay until the tensor, the only one to use them, is closed.
        let bytes: &'static [u8] = unsafe { slice(bytes, length, "bytes") }?;
        let limits = if limits.is_null() {
            PayloadLimits::default()
        } else {
            // SAFETY: the caller's promise.
            unsafe { reference(limits, "limits") }?.to_payload()
        };
        let expected = if expected.is_null() {
            None
        } else {
            // SAFETY: the caller's promise.
            Some(*unsafe { reference(expected, "expected shape") }?)
        };
        checked(tensor, "tensor")?;
        let payload = Payload::open(bytes, &limits)?;
        let shape = Shape {
            rows: payload.rows() as u64,
            columns: payload.columns() as u64,
            matrices: payload.matrices().len() as u64,
        };
        if expected.is_some_and(|expected| expected != shape) {
            return Err(Failure::Argument(Status::ShapeMismatch, "expected shape"));
        }
        let matrices = ready(&payload, MOST_CLASSES)?;
        let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
        let address = bytes.as_ptr().addr();
        let opened = Box::new(Tensor { serial, shape, matrices, bytes: address..address + length });
        // SAFETY: the caller's promise.
        unsafe { store(tensor, "tensor", Box::into_raw(opened)) }
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}

/// Makes all matrices ready, if they have at most `most` classes in all: lookup tables take memory that a small payload
/// can ask much of.
fn ready<'a>(payload: &Payload<'a>, most: usize) -> Result<Vec<PreparedMatrix<'a>>, Failure> {
    let classes: usize = payload.matrices().iter().map(|matrix| matrix.classes().len()).sum();
    if classes > most {
        return Err(Failure::Argument(Status::LimitExceeded, "limits: classes of all matrices"));
    }
    Ok(payload.matrices().iter().map(PreparedMatrix::new).collect())
}

/// Closes a tensor; null is allowed. No other call may use it at the same time or later.
///
/// # Safety
/// `tensor` is null or a handle from wsic_open that was not closed.
#[no_mangle]
pub unsafe extern "C" fn wsic_close(tensor: *mut Tensor) {
    let body = || {
        if !tensor.is_null() {
            // SAFETY: the caller promises that this came from wsic_open, where it was made by `Box::into_raw`.
            drop(unsafe { Box::from_raw(tensor) });
        }
        Ok(())
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) };
}

/// Stores the shape of a tensor.
///
/// # Safety
/// `tensor` is null or open; `shape` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_tensor_shape(tensor: *const Tensor, shape: *mut Shape) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        unsafe { store(shape, "shape", reference(tensor, "tensor")?.shape) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Stores how matrix `matrix` (from 0) of a tensor is stored.
///
/// # Safety
/// `tensor` is null or open; `layout` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_matrix_layout(
    tensor: *const Tensor,
    matrix: usize,
    layout: *mut Layout,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let matrix = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?.matrix();
        let stored = Layout {
            rows_per_tile: matrix.geometry().rows_per_tile() as u64,
            stream_length: matrix.stream_length() as u64,
            stream_inputs: matrix.stream_inputs().as_ptr(),
            stream_scales: matrix.stream_scales().as_ptr(),
            row_scales: matrix.row_scales().map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        // SAFETY: the caller's promise.
        unsafe { store(layout, "layout", stored) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// The instruction set that a tensor's products use; WSIC_ISA_DEFAULT if `tensor` is null.
///
/// # Safety
/// `tensor` is null or open.
#[no_mangle]
pub unsafe extern "C" fn wsic_tensor_isa(tensor: *const Tensor) -> Isa {
    // SAFETY: the caller's promise.
    let tensor = unsafe { reference(tensor, "tensor") };
    let plan = tensor.ok().and_then(|tensor| tensor.matrices.first());
    plan.map_or(Isa::Default, |plan| Isa::of_kernels(plan.isa()))
}

/// Cuts the rows of a matrix into `parts` ranges, as even as tiles allow, and stores part `part` (from 0): the range
/// for one of `parts` threads. The ranges follow each other and cover all rows; some are empty if there are fewer tiles
/// than parts.
///
/// # Safety
/// `tensor` is null or open; `row_begin` and `row_end` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_split_rows(
    tensor: *const Tensor,
    matrix: usize,
    part: usize,
    parts: usize,
    row_begin: *mut usize,
    row_end: *mut usize,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let plan = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?;
        if part >= parts {
            let failure =
                Failure::Number { status: Status::OutOfRange, what: "part", expected: parts, got: part };
            return Err(failure);
        }
        let bound = |part: usize| (plan.tiles() as u128 * part as u128 / parts as u128) as usize;
        let rows = plan.rows_of(bound(part)..bound(part + 1));
        // SAFETY: the caller's promise.
        unsafe {
            store(row_begin, "start of the rows", rows.start)?;
            store(row_end, "end of the rows", rows.end)
        }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wsic_core::payload::encode::{encode, EncodeOptions};
    use wsic_core::payload::{Geometry, QuantizedMatrix, ScaleKind, StreamColumn, Trellis};

    #[test]
    fn lookup_tables_have_a_bound() {
        let matrix = QuantizedMatrix {
            rows: 2,
            columns: 1,
            geometry: Geometry::new(64, 2).unwrap(),
            trellis: Trellis::Scalar,
            tensor_scale: 1.0,
            column_scale_kind: ScaleKind::Log8,
            stream: vec![StreamColumn { input: 0, scale: 0, integers: vec![2, -4] }],
            row_scales: None,
        };
        let bytes = encode(&vec![matrix; 3], &EncodeOptions::default()).unwrap();
        let payload = Payload::open(&bytes, &PayloadLimits::default()).unwrap();
        assert_eq!(ready(&payload, 3).unwrap_or_default().len(), 3);
        assert!(matches!(ready(&payload, 2), Err(Failure::Argument(Status::LimitExceeded, _))));
    }
}
