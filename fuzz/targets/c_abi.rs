//! The C ABI with hostile payloads and hostile arguments: lengths that are off by one, null and misaligned pointers,
//! overlapping buffers, rows and matrices out of range. What succeeds is what the definition says, everything else a
//! status; buffers end at fences.
//!
//! Input: bytes that choose the calls, then a payload (see `inputs`).
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod draw;
mod guard;
mod inputs;

use common::Random;
use guard::Fence;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use std::ffi::{c_char, c_void, CStr};
use std::ops::Range;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, OnceLock};
use wsic::payload::{announced_length, Limits, Matrix, Payload};
// The library that has the functions below.
use wsic_capi as _;

const LIMITS: Limits = Limits { rows: 2048, columns: 512, matrices: 8, rows_and_columns: 8192 };
/// Integers and weights of a matrix; larger ones are legal and only slow.
const MOST: usize = 1 << 15;

#[repr(C)]
struct CLimits([u64; 4]);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Shape {
    rows: u64,
    columns: u64,
    matrices: u64,
}

#[repr(C)]
struct Layout {
    rows_per_tile: u64,
    stream_length: u64,
    stream_inputs: *const u32,
    stream_scales: *const f32,
    row_scales: *const f32,
}

#[repr(C)]
struct Error {
    status: i32,
    offset: u64,
    message: [c_char; 240],
}

type Tensor = *const c_void;

extern "C" {
    fn wsic_status_name(status: i32) -> *const c_char;
    fn wsic_status_text(status: i32) -> *const c_char;
    fn wsic_isa_force(isa: i32) -> i32;
    fn wsic_isa_available(isa: i32) -> bool;
    fn wsic_tensor_isa(tensor: Tensor) -> i32;
    fn wsic_announced_length(bytes: *const u8, length: usize, total: *mut u64) -> i32;
    fn wsic_open(
        bytes: *const u8,
        length: usize,
        limits: *const CLimits,
        expected: *const Shape,
        tensor: *mut Tensor,
        error: *mut Error,
    ) -> i32;
    fn wsic_close(tensor: Tensor);
    fn wsic_tensor_shape(tensor: Tensor, shape: *mut Shape) -> i32;
    fn wsic_matrix_layout(tensor: Tensor, matrix: usize, layout: *mut Layout) -> i32;
    fn wsic_split_rows(
        tensor: Tensor,
        matrix: usize,
        part: usize,
        parts: usize,
        begin: *mut usize,
        end: *mut usize,
    ) -> i32;
    fn wsic_activation_bytes(tensor: Tensor, matrix: usize, batch: usize, bytes: *mut usize) -> i32;
    fn wsic_product_scratch(tensor: Tensor, matrix: usize, batch: usize, bytes: *mut usize) -> i32;
    fn wsic_rows_scratch(tensor: Tensor, matrix: usize, bytes: *mut usize) -> i32;
    fn wsic_prepare(
        tensor: Tensor,
        matrix: usize,
        x: *const f32,
        x_length: usize,
        batch: usize,
        buffer: *mut u8,
        buffer_length: usize,
        activations: *mut *const c_void,
        error: *mut Error,
    ) -> i32;
    fn wsic_prepare_mixed(
        tensor: Tensor,
        matrix: usize,
        x: *const f32,
        x_length: usize,
        batch: usize,
        buffer: *mut u8,
        buffer_length: usize,
        activations: *mut *const c_void,
        error: *mut Error,
    ) -> i32;
    fn wsic_matvec(
        tensor: Tensor,
        matrix: usize,
        begin: usize,
        end: usize,
        activations: *const c_void,
        y: *mut f32,
        y_length: usize,
        scratch: *mut u8,
        scratch_length: usize,
        error: *mut Error,
    ) -> i32;
    fn wsic_matmul(
        tensor: Tensor,
        matrix: usize,
        begin: usize,
        end: usize,
        activations: *const c_void,
        y: *mut f32,
        y_length: usize,
        y_stride: usize,
        scratch: *mut u8,
        scratch_length: usize,
        error: *mut Error,
    ) -> i32;
    fn wsic_dequantize_rows(
        tensor: Tensor,
        matrix: usize,
        begin: usize,
        end: usize,
        out: *mut f32,
        length: usize,
        scratch: *mut u8,
        scratch_length: usize,
        error: *mut Error,
    ) -> i32;
    fn wsic_get_rows(
        tensor: Tensor,
        matrix: usize,
        rows: *const u32,
        count: usize,
        out: *mut f32,
        length: usize,
        scratch: *mut u8,
        scratch_length: usize,
        error: *mut Error,
    ) -> i32;
    fn wsic_decode_rows(
        tensor: Tensor,
        matrix: usize,
        begin: usize,
        end: usize,
        out: *mut i32,
        length: usize,
        scratch: *mut u8,
        scratch_length: usize,
        error: *mut Error,
    ) -> i32;
    fn wsic_verify_rows(tensor: Tensor, matrix: usize, begin: usize, end: usize, error: *mut Error) -> i32;
}

/// First status that says that the call is wrong, and the one that says that the library is.
const WRONG_CALL: i32 = 20;
const INTERNAL: i32 = 30;

fn name(status: i32) -> &'static str {
    // SAFETY: both functions return constant texts.
    unsafe {
        assert!(!CStr::from_ptr(wsic_status_text(status)).is_empty());
        CStr::from_ptr(wsic_status_name(status)).to_str().expect("ASCII")
    }
}

/// A record that shows whether it was written.
fn blank() -> Error {
    Error { status: -1, offset: u64::MAX, message: [0x7F; 240] }
}

/// The record and the status belong together.
fn consistent(status: i32, error: &Error) -> i32 {
    assert!(status != INTERNAL && name(status) != "unknown", "status {status}");
    if status == 0 {
        assert!(error.status == -1 && error.message == [0x7F; 240], "a record written without a failure");
    } else {
        assert_eq!(error.status, status);
        assert!(error.message.contains(&0), "a text without an end");
    }
    status
}

/// A buffer as a careless caller might pass it.
#[derive(Clone, Copy, Debug)]
struct Room<T> {
    pointer: *mut T,
    length: usize,
    /// Whether a call that needs exactly (or, of scratch, at least) the asked for length must take it.
    good: bool,
}

/// A buffer for `needed` elements in `fence`; `longer` says whether more than that is good as well.
fn room<T>(fence: &mut Fence, needed: usize, longer: bool, random: &mut Random) -> Room<T> {
    let size = size_of::<T>();
    let (mut length, mut good, mut shift) = (needed, true, 0);
    match random.below(40) {
        0 if needed > 0 => (length, good) = (needed - 1, false),
        1 => (length, good) = (needed + 1, longer),
        2 => return Room { pointer: null_mut(), length, good: needed == 0 },
        3 => (shift, good) = (1, size == 1 || needed == 0),
        _ => {}
    }
    let pointer = fence.room(length * size, shift).as_mut_ptr().cast();
    Room { pointer, length, good }
}

/// A number below `below`, or now and then one that is not.
fn index(below: usize, random: &mut Random) -> usize {
    match random.below(30) {
        0 => below,
        1 => usize::MAX - random.below(3),
        _ => random.below(below.max(1)),
    }
}

/// A range of rows, mostly one of whole tiles.
fn rows(matrix: &Matrix<'_>, random: &mut Random) -> Range<usize> {
    let (height, rows) = (matrix.geometry().rows_per_tile(), matrix.rows());
    if random.below(12) == 0 {
        let wild = [0, 1, rows, rows + 1, usize::MAX, height, random.below(rows + 1)];
        return wild[random.below(wild.len())]..wild[random.below(wild.len())];
    }
    let tiles = rows.div_ceil(height);
    let start = random.below(tiles + 1);
    let end = start + random.below(tiles - start + 1);
    (start * height).min(rows)..(end * height).min(rows)
}

/// Whether a range is one of whole tiles.
fn legal(matrix: &Matrix<'_>, range: &Range<usize>) -> bool {
    let border = |row: usize| row.is_multiple_of(matrix.geometry().rows_per_tile()) || row == matrix.rows();
    range.start <= range.end && range.end <= matrix.rows() && border(range.start) && border(range.end)
}

/// Integers and weights of a range of whole tiles by the definition, or the name of the refusal.
fn definition(matrix: &Matrix<'_>, rows: Range<usize>) -> Result<(Vec<i32>, Vec<f32>), &'static str> {
    let height = matrix.geometry().rows_per_tile();
    let (mut integers, mut weights) = (Vec::new(), Vec::new());
    for tile in rows.start.div_ceil(height)..rows.end.div_ceil(height) {
        let count = matrix.geometry().rows_in_tile(matrix.rows(), tile);
        let mut here = vec![0; count * matrix.stream_length()];
        if tile < matrix.tile_count() {
            matrix.decode_tile(tile, &mut here).map_err(|error| error.kind().name())?;
        }
        integers.extend(here);
        let mut here = vec![0.0; count * matrix.columns()];
        matrix.dequantize_tile(tile, &mut Vec::new(), &mut here).map_err(|error| error.kind().name())?;
        weights.extend(here);
    }
    Ok((integers, weights))
}

/// Buffers with fences, made once.
struct Buffers {
    payload: Fence,
    x: Fence,
    activations: Fence,
    scratch: Fence,
    out: Fence,
}

static BUFFERS: OnceLock<Mutex<Buffers>> = OnceLock::new();
// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Fence {}

/// One tensor, and the definition's view of its payload.
struct Opened<'a> {
    tensor: Tensor,
    payload: Payload<'a>,
    bytes: *mut u8,
    size: usize,
}

/// A verdict that has to be the definition's if the arguments were good, and some refusal if they were not.
fn judge(status: i32, good: bool, expected: Result<(), &'static str>) {
    judge_in("", status, good, expected);
}

/// As [`judge`], with what the call was.
fn judge_in(call: &str, status: i32, good: bool, expected: Result<(), &'static str>) {
    match (good, expected) {
        (true, expected) => assert_eq!(name(status), expected.err().unwrap_or("ok"), "{call}"),
        (false, _) => {
            assert!(status >= WRONG_CALL || status > 0 && expected.is_err(), "{} {call}", name(status));
        }
    }
}

impl Opened<'_> {
    fn decode(&self, buffers: &mut Buffers, weights: bool, random: &mut Random) {
        let at = index(self.payload.matrices().len(), random);
        let matrix = self.payload.matrices().get(at);
        let range = matrix.map_or(0..0, |matrix| rows(matrix, random));
        let good = matrix.is_some_and(|matrix| legal(matrix, &range));
        let expected = match matrix.filter(|_| good) {
            Some(matrix) => definition(matrix, range.clone()),
            None => Ok(Default::default()),
        };
        let width =
            matrix.map_or(3, |matrix| if weights { matrix.columns() } else { matrix.stream_length() });
        let (mut needed, mut error) = (0, blank());
        // SAFETY: a live tensor and a local.
        let status = unsafe { wsic_rows_scratch(self.tensor, at, &mut needed) };
        assert_eq!(status == 0, matrix.is_some());
        let count = if good { range.len() * width } else { 4 };
        let mut out = room::<u32>(&mut buffers.out, count, false, random);
        let skip = self.bytes.align_offset(4);
        if count > 0 && 4 * count + skip <= self.size && random.below(20) == 0 {
            // The payload as output: it must not be written.
            // SAFETY: inside the payload's buffer.
            let pointer = unsafe { self.bytes.add(skip) }.cast();
            out = Room { pointer, length: count, good: false };
        }
        let scratch = room::<u8>(&mut buffers.scratch, needed, true, random);
        // The query is about the largest of several needs: less may be enough for this one.
        let unsure = !scratch.good;
        // SAFETY: buffers have these sizes.
        let status = unsafe {
            let (tensor, begin, end) = (self.tensor, range.start, range.end);
            let memory = (scratch.pointer, scratch.length);
            if weights {
                let out_pointer = out.pointer.cast();
                wsic_dequantize_rows(
                    tensor,
                    at,
                    begin,
                    end,
                    out_pointer,
                    out.length,
                    memory.0,
                    memory.1,
                    &mut error,
                )
            } else {
                let out_pointer = out.pointer.cast();
                wsic_decode_rows(
                    tensor,
                    at,
                    begin,
                    end,
                    out_pointer,
                    out.length,
                    memory.0,
                    memory.1,
                    &mut error,
                )
            }
        };
        consistent(status, &error);
        let refusal = expected.as_ref().map(|_| ()).map_err(|name| *name);
        if !unsure {
            let context = format!("{range:?} {good} {out:?} {scratch:?}");
            judge_in(&context, status, good && out.good && scratch.good, refusal);
        }
        if status == 0 {
            let (integers, floats) = expected.expect("no refusal");
            // SAFETY: a call that succeeds has written all of it.
            let words = unsafe { written(out.pointer, out.length) };
            let same = if weights {
                words.iter().copied().eq(floats.iter().map(|weight| weight.to_bits()))
            } else {
                words.iter().copied().eq(integers.iter().map(|&m| m as u32))
            };
            assert!(same, "the C ABI differs from the definition");
        }
    }

    fn get_rows(&self, buffers: &mut Buffers, random: &mut Random) {
        let at = index(self.payload.matrices().len(), random);
        let matrix = self.payload.matrices().get(at);
        let count = random.below(9);
        let (height, below, columns) = matrix
            .map_or((1, 5, 5), |matrix| (matrix.geometry().rows_per_tile(), matrix.rows(), matrix.columns()));
        let list: Vec<u32> = (0..count).map(|_| index(below, random) as u32).collect();
        let mut good = matrix.is_some() && list.iter().all(|&row| (row as usize) < below);
        let (mut needed, mut error) = (0, blank());
        // SAFETY: a live tensor and a local.
        unsafe { wsic_rows_scratch(self.tensor, at, &mut needed) };
        let out = room::<f32>(&mut buffers.out, count * columns, false, random);
        let scratch = room::<u8>(&mut buffers.scratch, needed, true, random);
        let unsure = !scratch.good;
        let mut expected = Ok(Vec::new());
        if let Some(matrix) = matrix.filter(|_| good) {
            for &row in &list {
                let start = row as usize / height * height;
                match definition(matrix, start..matrix.rows().min(start + height)) {
                    Ok((_, weights)) => expected
                        .as_mut()
                        .expect("no refusal so far")
                        .extend(weights.chunks(columns).nth(row as usize - start).expect("a row").to_vec()),
                    Err(name) => {
                        expected = Err(name);
                        break;
                    }
                }
            }
        }
        good &= out.good && scratch.good;
        // SAFETY: buffers have these sizes.
        let status = unsafe {
            wsic_get_rows(
                self.tensor,
                at,
                list.as_ptr(),
                count,
                out.pointer,
                out.length,
                scratch.pointer,
                scratch.length,
                &mut error,
            )
        };
        consistent(status, &error);
        if !unsure {
            judge(status, good, expected.as_ref().map(|_| ()).map_err(|name| *name));
        }
        if status == 0 {
            // SAFETY: a call that succeeds has written all of it.
            let got = unsafe { written(out.pointer.cast::<u32>(), out.length) };
            assert!(got.iter().copied().eq(expected.expect("no refusal").iter().map(|w| w.to_bits())));
        }
    }

    fn product(&self, buffers: &mut Buffers, random: &mut Random) {
        let at = index(self.payload.matrices().len(), random);
        let matrix = self.payload.matrices().get(at);
        let batch = [1, 1, 2, 1 + random.below(12), 0, usize::MAX, 1 << 40][random.below(7)];
        let (mut bytes, mut memory) = (0, 0);
        // SAFETY: a live tensor and locals.
        let (status, other) = unsafe {
            (
                wsic_activation_bytes(self.tensor, at, batch, &mut bytes),
                wsic_product_scratch(self.tensor, at, batch, &mut memory),
            )
        };
        assert_eq!(status, other);
        let possible = matrix.is_some() && (1..1 << 20).contains(&batch);
        assert!(status == 0 || !possible, "{}", name(status));
        let Some(matrix) = matrix.filter(|_| possible) else {
            assert!(status >= WRONG_CALL || batch >= 1 << 20, "{}", name(status));
            return;
        };
        let (columns, mut error) = (matrix.columns(), blank());
        let x = room::<f32>(&mut buffers.x, columns * batch, false, random);
        if x.good {
            // SAFETY: the buffer has this length.
            let x = unsafe { std::slice::from_raw_parts_mut(x.pointer, columns * batch) };
            x.iter_mut().for_each(|x| *x = random.gaussian() as f32);
        }
        let shift = random.below(64);
        let buffer = buffers.activations.room(bytes, shift).as_mut_ptr();
        let mut handle = null();
        // SAFETY: buffers have these sizes.
        let status = unsafe {
            let (tensor, handle) = (self.tensor, &mut handle);
            let prepare = [wsic_prepare, wsic_prepare_mixed][random.below(2)];
            prepare(tensor, at, x.pointer, x.length, batch, buffer, bytes, handle, &mut error)
        };
        consistent(status, &error);
        judge(status, x.good, Ok(()));
        if status != 0 {
            assert!(handle.is_null());
            return;
        }
        let range = rows(matrix, random);
        let mut good = legal(matrix, &range);
        let expected = if good { definition(matrix, range.clone()).map(|_| ()) } else { Ok(()) };
        let count = if good { range.len() } else { 4 };
        let stride = count + [0, 0, 3, 100][random.below(4)];
        let needed = (batch - 1) * stride + count;
        let y = room::<f32>(&mut buffers.out, needed, true, random);
        let scratch = room::<u8>(&mut buffers.scratch, memory, true, random);
        good &= y.good;
        let mut error = blank();
        // SAFETY: buffers have these sizes.
        let status = unsafe {
            wsic_matmul(
                self.tensor,
                at,
                range.start,
                range.end,
                handle,
                y.pointer,
                y.length,
                stride,
                scratch.pointer,
                scratch.length,
                &mut error,
            )
        };
        consistent(status, &error);
        // For no rows, and for a dead matrix, not all memory is needed.
        if scratch.good && (good || status != 0) {
            judge(status, good, expected);
        }
        if status != 0 || !good || !scratch.good {
            return;
        }
        // SAFETY: a call that succeeds has written the rows of each vector and nothing else.
        let y = unsafe { written(y.pointer.cast::<u32>(), needed) };
        for (vector, results) in y.chunks(stride.max(1)).enumerate() {
            assert!(results[count.min(results.len())..].iter().all(|&word| word == 0xA5A5_A5A5), "{vector}");
        }
        if batch > 1 {
            return;
        }
        let single = buffers.x.room(4 * count, 0).as_mut_ptr();
        let mut error = blank();
        // SAFETY: buffers have these sizes; the vector itself is no longer needed.
        let status = unsafe {
            wsic_matvec(
                self.tensor,
                at,
                range.start,
                range.end,
                handle,
                single.cast(),
                count,
                scratch.pointer,
                scratch.length,
                &mut error,
            )
        };
        assert_eq!(consistent(status, &error), 0);
        // SAFETY: as above.
        assert!(*unsafe { written(single.cast::<u32>(), count) } == y[..count], "matvec differs from matmul");
    }

    fn queries(&self, random: &mut Random) {
        let at = index(self.payload.matrices().len(), random);
        let matrix = self.payload.matrices().get(at);
        let mut shape = Shape::default();
        let mut layout = Layout {
            rows_per_tile: 0,
            stream_length: 0,
            stream_inputs: null(),
            stream_scales: null(),
            row_scales: null(),
        };
        let (parts, mut begin, mut end) = (1 + random.below(9), 77, 77);
        let part = index(parts, random);
        // SAFETY: a live tensor, or null, and locals.
        unsafe {
            assert_eq!(wsic_tensor_shape(self.tensor, &mut shape), 0);
            assert!(wsic_tensor_shape(null(), &mut shape) >= WRONG_CALL);
            assert!(wsic_tensor_shape(self.tensor, null_mut()) >= WRONG_CALL);
            let status = wsic_matrix_layout(self.tensor, at, &mut layout);
            assert_eq!(status == 0, matrix.is_some());
            let status = wsic_split_rows(self.tensor, at, part, parts, &mut begin, &mut end);
            assert_eq!(status == 0, matrix.is_some() && part < parts);
            assert!(wsic_split_rows(self.tensor, at, 0, 0, &mut begin, &mut end) >= WRONG_CALL);
        }
        let (rows, columns) = (self.payload.rows() as u64, self.payload.columns() as u64);
        assert_eq!(shape, Shape { rows, columns, matrices: self.payload.matrices().len() as u64 });
        let Some(matrix) = matrix else { return };
        assert!(part >= parts || legal(matrix, &(begin..end)));
        assert_eq!(layout.rows_per_tile, matrix.geometry().rows_per_tile() as u64);
        assert_eq!(layout.stream_length, matrix.stream_length() as u64);
        assert_eq!(layout.row_scales.is_null(), matrix.row_scales().is_none());
        let inputs = match matrix.stream_length() {
            0 => &[],
            // SAFETY: the pointer is to so many inputs, as the header says.
            length => unsafe { std::slice::from_raw_parts(layout.stream_inputs, length) },
        };
        assert_eq!(inputs, matrix.stream_inputs());
    }

    fn verify(&self, random: &mut Random) {
        let at = index(self.payload.matrices().len(), random);
        let matrix = self.payload.matrices().get(at);
        let range = matrix.map_or(0..0, |matrix| rows(matrix, random));
        let good = matrix.is_some_and(|matrix| legal(matrix, &range));
        let expected = match matrix.filter(|_| good) {
            Some(matrix) => {
                let height = matrix.geometry().rows_per_tile();
                let tiles = range.start.div_ceil(height)..range.end.div_ceil(height).min(matrix.tile_count());
                let mut checks = tiles.map(|tile| matrix.verify_tile(tile));
                checks.find_map(Result::err).map_or(Ok(()), |error| Err(error.kind().name()))
            }
            None => Ok(()),
        };
        let mut error = blank();
        // SAFETY: a live tensor and a local.
        let status = unsafe { wsic_verify_rows(self.tensor, at, range.start, range.end, &mut error) };
        judge(consistent(status, &error), good, expected);
    }
}

/// # Safety
/// `length` elements from `pointer` on were written, unless there are none.
unsafe fn written<'a, T>(pointer: *const T, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    std::slice::from_raw_parts(pointer, length)
}

fn run(steering: &[u8], bytes: &[u8]) {
    wsic::payload::standard::standard_tables();
    let buffers = BUFFERS.get_or_init(|| {
        let [payload, x, activations, scratch, out] =
            [1 << 20, 1 << 20, 4 << 20, 64 << 20, 4 << 20].map(Fence::new);
        Mutex::new(Buffers { payload, x, activations, scratch, out })
    });
    let mut buffers = buffers.lock().expect("not poisoned");
    let mut random = inputs::random(steering);
    let fenced = buffers.payload.copy(bytes);
    let (start, size) = (fenced.as_mut_ptr(), fenced.len());
    let limits = LIMITS;
    let limits =
        CLimits([limits.rows, limits.columns, limits.matrices, limits.rows_and_columns].map(|n| n as u64));

    let mut total = 0;
    // SAFETY: the buffer has this size.
    let status = unsafe { wsic_announced_length(start, size, &mut total) };
    assert_eq!((status == 0).then_some(total), announced_length(bytes));
    let isa = random.below(5) as i32 - 1;
    // SAFETY: plain numbers.
    unsafe { assert!(isa < 0 || (wsic_isa_force(isa) == 0) == wsic_isa_available(isa)) };

    let payload = Payload::open(bytes, &LIMITS);
    let shape = payload.as_ref().map_or(Shape { rows: 1, columns: 1, matrices: 1 }, |payload| Shape {
        rows: payload.rows() as u64,
        columns: payload.columns() as u64,
        matrices: payload.matrices().len() as u64,
    });
    let wrong = Shape { rows: shape.rows + 1, ..shape };
    let expected = [null(), &raw const shape, &raw const wrong][random.below(5).min(2)];
    let (mut tensor, mut error) = (null(), blank());
    // SAFETY: the buffers have these sizes and live until the tensor is closed.
    let status = unsafe { wsic_open(start, size, &limits, expected, &mut tensor, &mut error) };
    consistent(status, &error);
    let refusal = match &payload {
        Err(error) => error.kind().name(),
        Ok(_) if std::ptr::eq(expected, &wrong) => "shape-mismatch",
        Ok(_) => "ok",
    };
    assert_eq!(name(status), refusal);
    assert_eq!(tensor.is_null(), status != 0);
    // SAFETY: a null pointer is refused, wherever it stands.
    unsafe { assert!(wsic_open(null(), size, &limits, null(), &mut null(), null_mut()) > 0 || size == 0) };
    if status != 0 {
        return;
    }
    let payload = payload.expect("opened");
    let most =
        payload.matrices().iter().map(|matrix| matrix.rows() * matrix.stream_length().max(matrix.columns()));
    // SAFETY: the tensor is open.
    assert!(isa < 0 || unsafe { wsic_tensor_isa(tensor) == isa || !wsic_isa_available(isa) });
    if most.max().is_some_and(|most| most <= MOST) {
        let opened = Opened { tensor, payload, bytes: start, size };
        for _ in 0..6 {
            match random.below(8) {
                0 => opened.queries(&mut random),
                1 => opened.verify(&mut random),
                2 | 3 => opened.decode(&mut buffers, random.below(2) == 0, &mut random),
                4 => opened.get_rows(&mut buffers, &mut random),
                _ => opened.product(&mut buffers, &mut random),
            }
        }
    }
    // SAFETY: opened above, not closed yet; null may be closed too.
    unsafe {
        wsic_close(tensor);
        wsic_close(null());
    }
    // SAFETY: the copy is not borrowed any more; nothing may have written to it.
    assert!(unsafe { std::slice::from_raw_parts(start, size) } == bytes, "the payload was written");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((steering, bytes)) = inputs::split(bytes) else { return };
    if bytes.len() <= 1 << 20 {
        // Expected results are held in memory too.
        guard::in_time(5000, || guard::within(64 << 20, || run(steering, bytes)));
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    inputs::change(data, size, most, seed, inputs::STEERING)
});
