//! The C decoder of `spec/decoder` against the library: the same stream order, scales, integers and weights, or the
//! same refusal, as a decoder and as a verifier. The C code gets exactly the memory that it asks for, with a fence
//! behind each buffer.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod draw;
mod guard;
mod inputs;

use guard::Fence;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Mutex, OnceLock};
use wsic::payload::{announced_length, ErrorKind, Limits, Payload, PayloadError};

const LIMITS: Limits = Limits { rows: 4096, columns: 1024, matrices: 64, rows_and_columns: 16_384 };
/// Integers and weights of a payload; larger ones are legal and only slow.
const MOST: usize = 1 << 18;
/// Most that the C decoder may ask for, for payloads within the limits that end at `-max_len`.
const MEMORY: usize = 64 << 20;

#[repr(C)]
struct CLimits {
    rows: u32,
    columns: u32,
    matrices: u32,
    total: u64,
}

const C_LIMITS: CLimits = CLimits {
    rows: LIMITS.rows as u32,
    columns: LIMITS.columns as u32,
    matrices: LIMITS.matrices as u32,
    total: LIMITS.rows_and_columns as u64,
};

type Sink = extern "C" fn(*mut c_void, u32, *const c_void, u32, u32, *const i32, *const f32);

extern "C" {
    fn spec_error_name(error: c_int) -> *const c_char;
    fn spec_announced_length(bytes: *const u8, size: usize, length: *mut u64) -> c_int;
    fn spec_decode_all_memory(
        bytes: *const u8,
        size: usize,
        limits: *const CLimits,
        needed: *mut usize,
    ) -> c_int;
    fn spec_decode_all(
        bytes: *const u8,
        size: usize,
        limits: *const CLimits,
        verify: c_int,
        memory: *mut c_void,
        memory_size: usize,
        sink: Option<Sink>,
        user: *mut c_void,
    ) -> c_int;
    fn spec_inputs(matrix: *const c_void, count: *mut u32) -> *const u32;
    fn spec_scales(matrix: *const c_void) -> *const f32;
    fn spec_rows(
        bytes: *const u8,
        size: usize,
        limits: *const CLimits,
        index: u32,
        memory: *mut c_void,
        memory_size: usize,
        first: u32,
        count: u32,
        scratch: *mut i32,
        scratch_length: usize,
        weights: *mut f32,
        weights_length: usize,
    ) -> c_int;
}

/// What a matrix decodes to, floats by their bits.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    inputs: Vec<u32>,
    scales: Vec<u32>,
    integers: Vec<i32>,
    weights: Vec<u32>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The definition, in the order of the text's section on conformance.
fn definition(payload: &Payload<'_>, verify: bool) -> Result<Vec<Decoded>, PayloadError> {
    let mut scratch = Vec::new();
    let decode = |matrix: &wsic::payload::Matrix<'_>| {
        let mut decoded = Decoded {
            inputs: matrix.stream_inputs().to_vec(),
            scales: bits(matrix.stream_scales()),
            ..Decoded::default()
        };
        let geometry = matrix.geometry();
        for tile in 0..geometry.tiles(matrix.rows()) {
            let rows = geometry.rows_in_tile(matrix.rows(), tile);
            if tile < matrix.tile_count() {
                if verify {
                    matrix.verify_tile(tile)?;
                }
                let mut integers = vec![0; rows * matrix.stream_length()];
                matrix.decode_tile(tile, &mut integers)?;
                decoded.integers.extend(integers);
            }
            let mut weights = vec![0.0; rows * matrix.columns()];
            matrix.dequantize_tile(tile, &mut scratch, &mut weights)?;
            decoded.weights.extend(bits(&weights));
        }
        Ok(decoded)
    };
    payload.matrices().iter().map(decode).collect()
}

extern "C" fn sink(
    user: *mut c_void,
    index: u32,
    matrix: *const c_void,
    first: u32,
    rows: u32,
    integers: *const i32,
    weights: *const f32,
) {
    // SAFETY: `user` is the list below, which nobody else uses during the call; the arrays have the lengths that the
    // header of the decoder states.
    unsafe {
        let (all, columns) = &mut *user.cast::<(Vec<Decoded>, usize)>();
        let mut positions = 0;
        let inputs = spec_inputs(matrix, &mut positions);
        let positions = positions as usize;
        let list = |pointer: *const u32| match positions {
            0 => Vec::new(),
            _ => std::slice::from_raw_parts(pointer, positions).to_vec(),
        };
        if first == 0 {
            assert_eq!(all.len(), index as usize);
            let (inputs, scales) = (list(inputs), list(spec_scales(matrix).cast()));
            all.push(Decoded { inputs, scales, ..Decoded::default() });
        }
        let here = &mut all[index as usize];
        assert_eq!(here.weights.len(), first as usize * *columns, "rows in order");
        let rows = rows as usize;
        if !integers.is_null() {
            here.integers.extend(std::slice::from_raw_parts(integers, rows * positions));
        }
        here.weights.extend(bits(std::slice::from_raw_parts(weights, rows * *columns)));
    }
}

fn name(error: c_int) -> &'static str {
    // SAFETY: the function returns a constant text.
    unsafe { CStr::from_ptr(spec_error_name(error)) }.to_str().expect("ASCII")
}

fn verdict<T>(result: &Result<T, PayloadError>) -> &'static str {
    result.as_ref().map_or_else(|error| error.kind().name(), |_| "ok")
}

/// Buffers with fences, made once.
struct Buffers {
    payload: Fence,
    memory: Fence,
    scratch: Fence,
    weights: Fence,
}

static BUFFERS: OnceLock<Mutex<Buffers>> = OnceLock::new();
// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Fence {}

fn compare(bytes: &[u8]) {
    wsic::payload::standard::standard_tables();
    let buffers = BUFFERS.get_or_init(|| {
        let [payload, memory, scratch, weights] = [1 << 20, MEMORY, 8 * MOST, 8 * MOST].map(Fence::new);
        Mutex::new(Buffers { payload, memory, scratch, weights })
    });
    let mut buffers = buffers.lock().expect("not poisoned");
    let Buffers { payload, memory, scratch, weights } = &mut *buffers;
    let fenced: &[u8] = payload.copy(bytes);
    let (start, size) = (fenced.as_ptr(), fenced.len());

    let mut length = 0;
    // SAFETY: the buffer has this size.
    let error = unsafe { spec_announced_length(start, size, &mut length) };
    assert_eq!((error == 0).then_some(length), announced_length(bytes));

    let opened = Payload::open(bytes, &LIMITS);
    let mut needed = 0;
    // SAFETY: as above.
    let error = unsafe { spec_decode_all_memory(start, size, &C_LIMITS, &mut needed) };
    assert_eq!(name(error), verdict(&opened), "opened");
    let Ok(opened) = opened else { return };
    let widest = opened.matrices().iter().map(|matrix| matrix.stream_length()).max().unwrap_or(0);
    let lines = opened.rows() * opened.matrices().len();
    if lines * widest.max(opened.columns()) > MOST || needed > MEMORY {
        return;
    }
    for verify in [false, true] {
        let expected = definition(&opened, verify);
        let mut list: (Vec<Decoded>, usize) = (Vec::new(), opened.columns());
        // Memory need not be aligned.
        let memory = memory.room(needed, 0);
        // SAFETY: buffers have these sizes, the list lives as long as the call.
        let error = unsafe {
            let (memory, list) = (memory.as_mut_ptr().cast(), std::ptr::from_mut(&mut list).cast());
            spec_decode_all(start, size, &C_LIMITS, verify.into(), memory, needed, Some(sink), list)
        };
        assert_eq!(name(error), verdict(&expected), "verify: {verify}");
        if let Ok(expected) = expected {
            assert!(list.0 == expected, "the C decoder differs");
        }
    }

    // Some rows of one matrix, chosen by the bytes.
    let choose = |salt: u32, below: usize| {
        wsic::payload::crc32c(&[&salt.to_le_bytes(), &bytes[bytes.len() - 4..]].concat()) as usize % below
    };
    let index = choose(1, opened.matrices().len());
    let matrix = &opened.matrices()[index];
    let first = choose(2, matrix.rows());
    let count = 1 + choose(3, matrix.rows() - first);
    let height = matrix.geometry().rows_per_tile();
    let tiles = first / height..(first + count - 1) / height + 1;
    let mut expected: Result<Vec<u32>, ErrorKind> = Ok(Vec::new());
    for tile in tiles.clone() {
        let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
        let mut here = vec![0.0; rows * matrix.columns()];
        match matrix.dequantize_tile(tile, &mut Vec::new(), &mut here) {
            Ok(()) => expected.as_mut().expect("no refusal so far").extend(bits(&here)),
            Err(error) => {
                expected = Err(error.kind());
                break;
            }
        }
    }
    let scratch_length = height * matrix.stream_length();
    if scratch_length > 2 * MOST {
        return;
    }
    let memory = memory.room(needed, 0);
    let scratch = scratch.room(4 * scratch_length, 0);
    let weights = weights.room(4 * count * matrix.columns(), 0);
    // SAFETY: buffers have these sizes; ends of fences are aligned for both types.
    let error = unsafe {
        spec_rows(
            start,
            size,
            &C_LIMITS,
            index as u32,
            memory.as_mut_ptr().cast(),
            needed,
            first as u32,
            count as u32,
            scratch.as_mut_ptr().cast(),
            scratch_length,
            weights.as_mut_ptr().cast(),
            count * matrix.columns(),
        )
    };
    assert_eq!(
        name(error),
        expected.as_ref().map_or_else(|kind| kind.name(), |_| "ok"),
        "rows {first} + {count}"
    );
    if let Ok(expected) = expected {
        let skip = (first - tiles.start * height) * matrix.columns();
        let words = weights.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        assert!(words.eq(expected[skip..skip + count * matrix.columns()].iter().copied()), "rows differ");
    }
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() <= 1 << 20 {
        guard::in_time(5000, || compare(bytes));
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    inputs::change(data, size, most, seed, 0)
});
