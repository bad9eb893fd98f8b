//! Activations, matvec and matmul.

use crate::arguments::{addresses, apart, checked, reference, require_length, slice, slice_mut, store};
use crate::status::{guarded, Error, Failure, Status};
use crate::tensor::Tensor;
use std::ops::Range;
use wsic_core::kernels::{self, PreparedMatrix, Rounding};

/// Activation vectors prepared for one matrix. They live in a buffer of the caller.
#[derive(Debug)]
#[repr(align(64))]
pub struct Activations {
    tensor: u64,
    matrix: usize,
    buffer: Range<usize>,
    prepared: kernels::Activations<'static>,
}

/// Prepared activations are used from several threads at once, and are overwritten without a drop.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Activations>();
    assert!(!std::mem::needs_drop::<Activations>());
};

impl Activations {
    /// These activations if they were prepared for this matrix.
    fn of(&self, tensor: &Tensor, matrix: usize) -> Result<&kernels::Activations<'static>, Failure> {
        if self.tensor != tensor.serial || self.matrix != matrix {
            return Err(Failure::Argument(Status::ForeignActivations, "activations"));
        }
        Ok(&self.prepared)
    }
}

/// What activations may be rounded to: sizes are those of the larger.
const ROUNDINGS: [Rounding; 2] = [Rounding::TwoTerms, Rounding::Mixed];

/// Tiles whose products are put into the caller's rows at a time: a multiple of what any kernel decodes in turn.
const TILES_AT_A_TIME: usize = 12;

/// Refuses numbers of vectors for which sizes might overflow, and zero.
fn check_batch(plan: &PreparedMatrix<'_>, batch: usize) -> Result<(), Failure> {
    let numbers = 2 * (plan.matrix().stream_length() + plan.rows() + plan.columns() + (1 << 20));
    let most = isize::MAX as usize / 64 / numbers;
    if batch == 0 || batch > most {
        let failure = Failure::Number {
            status: Status::OutOfRange,
            what: "vectors, at most",
            expected: most,
            got: batch,
        };
        return Err(failure);
    }
    Ok(())
}

/// Results of one step of a product of several vectors.
fn staging(plan: &PreparedMatrix<'_>, batch: usize) -> usize {
    if batch == 1 {
        return 0;
    }
    (TILES_AT_A_TIME * plan.matrix().geometry().rows_per_tile()).min(plan.rows()) * batch
}

/// Scratch of a product of `batch` vectors.
fn product_scratch(plan: &PreparedMatrix<'_>, batch: usize) -> usize {
    let [fine, mixed] = ROUNDINGS.map(|rounding| plan.matmul_scratch(batch, rounding));
    fine.max(mixed) + staging(plan, batch) * size_of::<f32>() + align_of::<f32>()
}

/// Bytes of a buffer for `batch` vectors in any rounding.
fn activation_bytes(plan: &PreparedMatrix<'_>, batch: usize) -> usize {
    let [fine, mixed] = ROUNDINGS.map(|rounding| plan.activation_bytes(batch, rounding));
    fine.max(mixed)
}

/// Stores the size in bytes of the buffer that wsic_prepare and wsic_prepare_mixed need for `batch` vectors.
///
/// # Safety
/// `tensor` is null or open; `bytes` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_activation_bytes(
    tensor: *const Tensor,
    matrix: usize,
    batch: usize,
    bytes: *mut usize,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let plan = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?;
        check_batch(plan, batch)?;
        let needed = align_of::<Activations>() + size_of::<Activations>() + activation_bytes(plan, batch);
        // SAFETY: the caller's promise.
        unsafe { store(bytes, "bytes", needed) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Prepares `batch` vectors for products with one matrix: scaled, in stream order, as two terms of 8-bit integers with one
/// scale for each 512 columns. That is as good as floats. Element c of vector b is x[b * columns + c], so `x_length` is
/// batch * columns.
///
/// `buffer` of at least wsic_activation_bytes needs no alignment. A handle that points into it is stored in
/// `activations`; it is valid until the buffer is written or freed or the tensor is closed, has to stay where it is, and
/// needs no freeing. Any number of threads may use it at once. If the call fails, `activations` is untouched.
///
/// # Safety
/// `tensor` is null or open; the buffers have their lengths; `activations` may be written; `error` is null or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_prepare(
    tensor: *const Tensor,
    matrix: usize,
    x: *const f32,
    x_length: usize,
    batch: usize,
    buffer: *mut u8,
    buffer_length: usize,
    activations: *mut *const Activations,
    error: *mut Error,
) -> Status {
    let into = Destination { buffer, buffer_length, activations };
    // SAFETY: the caller's promise.
    unsafe { prepare(tensor, matrix, (x, x_length), batch, Rounding::TwoTerms, into, error) }
}

/// As wsic_prepare, with coarser numbers: 8 bits, and 15 for the few columns that are far larger than the others of their
/// 128. Products of many vectors, a prompt's, are up to twice as fast; those of one vector are slower, and errors are
/// those of 8-bit activations without outliers.
///
/// # Safety
/// As wsic_prepare.
#[no_mangle]
pub unsafe extern "C" fn wsic_prepare_mixed(
    tensor: *const Tensor,
    matrix: usize,
    x: *const f32,
    x_length: usize,
    batch: usize,
    buffer: *mut u8,
    buffer_length: usize,
    activations: *mut *const Activations,
    error: *mut Error,
) -> Status {
    let into = Destination { buffer, buffer_length, activations };
    // SAFETY: the caller's promise.
    unsafe { prepare(tensor, matrix, (x, x_length), batch, Rounding::Mixed, into, error) }
}

/// Where prepared activations go.
struct Destination {
    buffer: *mut u8,
    buffer_length: usize,
    activations: *mut *const Activations,
}

/// # Safety
/// As wsic_prepare.
unsafe fn prepare(
    tensor: *const Tensor,
    matrix: usize,
    (x, x_length): (*const f32, usize),
    batch: usize,
    rounding: Rounding,
    Destination { buffer, buffer_length, activations }: Destination,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        let plan = tensor.matrix(matrix)?;
        check_batch(plan, batch)?;
        checked(activations, "activations")?;
        let range = addresses(buffer, buffer_length);
        apart(range.clone(), &[addresses(x, x_length), tensor.bytes()])?;
        // SAFETY: the caller's promise; not the same memory as the buffer, as checked.
        let x = unsafe { slice(x, x_length, "x") }?;
        require_length("elements of x", plan.columns() * batch, x.len())?;
        // SAFETY: the caller's promise, which for the handle says that the buffer stays untouched while it is used.
        let buffer: &'static mut [u8] = unsafe { slice_mut(buffer, buffer_length, "buffer") }?;
        let skip = buffer.as_ptr().align_offset(align_of::<Activations>());
        let needed = skip.saturating_add(size_of::<Activations>());
        let Some((head, rest)) = buffer.split_at_mut_checked(needed) else {
            let expected = needed + activation_bytes(plan, batch);
            return Err(Failure::Number {
                status: Status::BadLength,
                what: "bytes of the buffer",
                expected,
                got: buffer_length,
            });
        };
        let handle: *mut Activations = head[skip..].as_mut_ptr().cast();
        let prepared = plan.prepare(x, batch, rounding, rest)?;
        // SAFETY: aligned by `skip`, with room by `needed`, in memory that this call may write.
        unsafe {
            store(handle, "buffer", Activations { tensor: tensor.serial, matrix, buffer: range, prepared })?
        };
        // SAFETY: the caller's promise.
        unsafe { store(activations, "activations", handle.cast_const()) }
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}

/// Stores the size in bytes of the scratch that wsic_matvec (`batch` 1) and wsic_matmul need, for any range of rows.
/// Each thread needs one of its own.
///
/// # Safety
/// `tensor` is null or open; `bytes` may be written.
#[no_mangle]
pub unsafe extern "C" fn wsic_product_scratch(
    tensor: *const Tensor,
    matrix: usize,
    batch: usize,
    bytes: *mut usize,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let plan = unsafe { reference(tensor, "tensor") }?.matrix(matrix)?;
        check_batch(plan, batch)?;
        // SAFETY: the caller's promise.
        unsafe { store(bytes, "bytes", product_scratch(plan, batch)) }
    };
    // SAFETY: there is no error record.
    unsafe { guarded(std::ptr::null_mut(), body) }
}

/// Product of rows `row_begin` to `row_end` - 1 of a matrix with one prepared vector: y[r - row_begin]. `y_length` is
/// row_end - row_begin.
///
/// Both ends are multiples of rows_per_tile, or the number of rows: see wsic_split_rows. `scratch` of at least
/// wsic_product_scratch needs no alignment and no content. Results do not depend on the range, the number of threads
/// or the instruction set. Nothing is allocated.
///
/// # Safety
/// `tensor` is null or open; `activations` is null or a valid handle; the buffers have their lengths; `error` is null
/// or valid.
#[no_mangle]
pub unsafe extern "C" fn wsic_matvec(
    tensor: *const Tensor,
    matrix: usize,
    row_begin: usize,
    row_end: usize,
    activations: *const Activations,
    y: *mut f32,
    y_length: usize,
    scratch: *mut u8,
    scratch_length: usize,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let (tensor, activations) =
            unsafe { (reference(tensor, "tensor")?, reference(activations, "activations")?) };
        let plan = tensor.matrix(matrix)?;
        let tiles = Tensor::tiles(plan, row_begin..row_end)?;
        let prepared = activations.of(tensor, matrix)?;
        require_length("vectors of a matvec", 1, prepared.batch())?;
        let (results, memory) = (addresses(y, y_length), addresses(scratch, scratch_length));
        apart(results.clone(), &[memory.clone(), activations.buffer.clone(), tensor.bytes()])?;
        apart(memory, &[activations.buffer.clone(), tensor.bytes()])?;
        // SAFETY: the caller's promise; the buffers do not overlap, as checked.
        let (y, scratch) =
            unsafe { (slice_mut(y, y_length, "y")?, slice_mut(scratch, scratch_length, "scratch")?) };
        Ok(plan.matvec(tiles, prepared, y, scratch)?)
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}

/// Product of rows `row_begin` to `row_end` - 1 of a matrix with all prepared vectors: row r and vector b go to
/// y[b * y_stride + r - row_begin], so that threads with ranges of their own write one array. `y_length` is at least
/// (batch - 1) * y_stride + row_end - row_begin; other elements are not touched. Each vector's results are bit for bit
/// those of wsic_matvec; everything else as there.
///
/// # Safety
/// As wsic_matvec; other threads may use the elements of `y` that are not written here.
#[no_mangle]
pub unsafe extern "C" fn wsic_matmul(
    tensor: *const Tensor,
    matrix: usize,
    row_begin: usize,
    row_end: usize,
    activations: *const Activations,
    y: *mut f32,
    y_length: usize,
    y_stride: usize,
    scratch: *mut u8,
    scratch_length: usize,
    error: *mut Error,
) -> Status {
    let body = || {
        // SAFETY: the caller's promise.
        let (tensor, activations) =
            unsafe { (reference(tensor, "tensor")?, reference(activations, "activations")?) };
        let plan = tensor.matrix(matrix)?;
        let tiles = Tensor::tiles(plan, row_begin..row_end)?;
        let prepared = activations.of(tensor, matrix)?;
        let (rows, batch) = (row_end - row_begin, prepared.batch());
        check_batch(plan, batch)?;
        if y_stride < rows {
            let failure = Failure::Number {
                status: Status::BadLength,
                what: "y_stride",
                expected: rows,
                got: y_stride,
            };
            return Err(failure);
        }
        let needed = (batch - 1).checked_mul(y_stride).and_then(|start| start.checked_add(rows));
        if needed.is_none_or(|needed| needed > y_length) {
            let expected = needed.unwrap_or(usize::MAX);
            return Err(Failure::Number {
                status: Status::BadLength,
                what: "y_length",
                expected,
                got: y_length,
            });
        }
        let (results, memory) = (addresses(y, y_length), addresses(scratch, scratch_length));
        apart(results, &[memory.clone(), activations.buffer.clone(), tensor.bytes()])?;
        apart(memory, &[activations.buffer.clone(), tensor.bytes()])?;
        // SAFETY: the caller's promise; not the memory of the results, as checked.
        let scratch = unsafe { slice_mut(scratch, scratch_length, "scratch") }?;
        if rows == 0 {
            return Ok(());
        }
        // Elements of `y` between the rows belong to other threads, so only these stretches become slices.
        // SAFETY: inside `y` by the check of its length.
        let stretch = |vector: usize, row: usize, length: usize| unsafe {
            slice_mut(y.add(vector * y_stride + row), length, "y")
        };
        checked(y, "y")?;
        if batch == 1 {
            return Ok(plan.matvec(tiles, prepared, stretch(0, 0, rows)?, scratch)?);
        }
        let wanted = product_scratch(plan, batch);
        let skip = scratch.as_ptr().align_offset(align_of::<f32>());
        if scratch.len() < wanted {
            let what = "bytes of scratch";
            return Err(Failure::Number {
                status: Status::BadLength,
                what,
                expected: wanted,
                got: scratch.len(),
            });
        }
        let (staged, scratch) = scratch[skip..].split_at_mut(staging(plan, batch) * size_of::<f32>());
        for start in tiles.clone().step_by(TILES_AT_A_TIME) {
            let part = start..tiles.end.min(start + TILES_AT_A_TIME);
            let rows = plan.rows_of(part.clone());
            // SAFETY: a part of the scratch, aligned by `skip`, with room for this many by `staging`.
            let staged = unsafe { slice_mut(staged.as_mut_ptr().cast(), rows.len() * batch, "scratch") }?;
            plan.matmul(part, prepared, staged, scratch)?;
            for (vector, results) in staged.chunks_exact(rows.len()).enumerate() {
                stretch(vector, rows.start - row_begin, rows.len())?.copy_from_slice(results);
            }
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guarded(error, body) }
}
