//! Integers and weights of rows, and their checksums.

use crate::arguments::{addresses, apart, reference, require_length, slice, slice_mut, store, Plain};
use crate::status::{guarded, Error, Failure, Status};
use crate::tensor::Tensor;
use std::ops::Range;
use wsic_core::kernels::{KernelError, PreparedMatrix};

/// Stores the size in bytes of the scratch that wsic_dequantize_rows, wsic_get_rows and wsic_decode_rows need, for any
/// rows. Each thread needs one of its own.
///
/// # Safety
/// `tensor` is null or open; `bytes` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_rows_scratch(
    tensor: *const Tensor,
    matrix: usize,
    bytes: *mut usize,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let plan = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?;
        // SAFETY: the caller's promise.
        unsafe { store(bytes, "bytes", plan.dequantize_scratch().max(plan.decode_scratch())) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Calls `decode` for the tiles of `rows`, with the caller's buffers as slices.
///
/// # Safety
/// `tensor` is null or open; the buffers, address and length, have their lengths; `error` is null or valid.
unsafe fn whole_rows<T: Plain>(
    tensor: *const Tensor,
    matrix: usize,
    rows: Range<usize>,
    out: (*mut T, usize),
    scratch: (*mut u8, usize),
    error: *mut Error,
    decode: impl FnOnce(&PreparedMatrix<'_>, Range<usize>, &mut [T], &mut [u8]) -> Result<(), KernelError>,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        let plan = tensor.matrix(matrix)?;
        let tiles = Tensor::tiles(plan, rows)?;
        let memory = addresses(scratch.0, scratch.1);
        apart(addresses(out.0, out.1), &[memory.clone(), tensor.bytes()])?;
        apart(memory, &[tensor.bytes()])?;
        // SAFETY: the caller's promise; the buffers do not overlap, as checked.
        let (out, scratch) =
            unsafe { (slice_mut(out.0, out.1, "out")?, slice_mut(scratch.0, scratch.1, "scratch")?) };
        Ok(decode(plan, tiles, out, scratch)?)
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}

/// Weights of rows `row_begin` to `row_end` - 1, row by row. `out_length` is (row_end - row_begin) * columns. Range,
/// scratch (of wsic_rows_scratch) and threads as for wsic_matvec.
///
/// # Safety
/// `tensor` is null or open; the buffers have their lengths; `error` is null or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_dequantize_rows(
    tensor: *const Tensor,
    matrix: usize,
    row_begin: usize,
    row_end: usize,
    out: *mut f32,
    out_length: usize,
    scratch: *mut u8,
    scratch_length: usize,
    error: *mut Error,
) -> Status {
    let out = (out, out_length);
    let scratch = (scratch, scratch_length);
    // SAFETY: the caller's promise.
    unsafe {
        whole_rows(tensor, matrix, row_begin..row_end, out, scratch, error, |plan, tiles, out, scratch| {
            plan.dequantize_rows(tiles, out, scratch)
        })
    }
}

/// Weights of `count` rows in the order asked for, row by row: the lookup of an embedding. `out_length` is
/// count * columns. Rows that follow each other and share a tile cost one decoding: sorted rows are fastest.
///
/// # Safety
/// `tensor` is null or open; the buffers have their lengths; `error` is null or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_get_rows(
    tensor: *const Tensor,
    matrix: usize,
    rows: *const u32,
    count: usize,
    out: *mut f32,
    out_length: usize,
    scratch: *mut u8,
    scratch_length: usize,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        let plan = tensor.matrix(matrix)?;
        let (memory, wanted) = (addresses(scratch, scratch_length), addresses(rows, count));
        apart(addresses(out, out_length), &[memory.clone(), wanted.clone(), tensor.bytes()])?;
        apart(memory, &[wanted, tensor.bytes()])?;
        // SAFETY: the caller's promise; nothing here writes to this memory, as checked.
        let rows = unsafe { slice(rows, count, "rows") }?;
        if let Some(&row) = rows.iter().find(|&&row| row as usize >= plan.rows()) {
            let (expected, got) = (plan.rows(), row as usize);
            return Err(Failure::Number { status: Status::OutOfRange, what: "row, below", expected, got });
        }
        let needed = rows.len().saturating_mul(plan.columns());
        require_length("elements of out", needed, out_length)?;
        // SAFETY: the caller's promise; the buffers do not overlap, as checked.
        let (out, scratch) =
            unsafe { (slice_mut(out, out_length, "out")?, slice_mut(scratch, scratch_length, "scratch")?) };
        Ok(plan.get_rows(rows, out, scratch)?)
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}

/// Integers of rows `row_begin` to `row_end` - 1, row by row, stream_length for each row (see wsic_matrix_layout). For
/// tests and for decoders of one's own.
///
/// # Safety
/// `tensor` is null or open; the buffers have their lengths; `error` is null or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_decode_rows(
    tensor: *const Tensor,
    matrix: usize,
    row_begin: usize,
    row_end: usize,
    out: *mut i32,
    out_length: usize,
    scratch: *mut u8,
    scratch_length: usize,
    error: *mut Error,
) -> Status {
    let out = (out, out_length);
    let scratch = (scratch, scratch_length);
    // SAFETY: the caller's promise.
    unsafe {
        whole_rows(tensor, matrix, row_begin..row_end, out, scratch, error, |plan, tiles, out, scratch| {
            plan.decode_rows(tiles, out, scratch)
        })
    }
}

/// Compares the checksums of the tiles of rows `row_begin` to `row_end` - 1 with their bytes. The other calls leave
/// checksums of tiles alone: damage that they do not notice gives wrong weights, never an access out of bounds.
///
/// # Safety
/// `tensor` is null or open; `error` is null or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_verify_rows(
    tensor: *const Tensor,
    matrix: usize,
    row_begin: usize,
    row_end: usize,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let plan = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?;
        let tiles = Tensor::tiles(plan, row_begin..row_end)?;
        let stored = plan.matrix().tile_count();
        for tile in tiles.start..tiles.end.min(stored) {
            plan.matrix().verify_tile(tile)?;
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}
