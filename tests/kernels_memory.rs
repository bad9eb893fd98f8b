//! Kernels between guard pages: every buffer ends (or begins) at a page that nobody may touch, so a read or write out
//! of bounds ends the test. Damaged payloads get the same refusal, or the same products, on every instruction set.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use common::mutate::mutate;
use common::{matrix, with_bursts, Random, Recipe};
use wsic::kernels::Rounding::{Mixed, OneTerm, TwoTerms};
use wsic::kernels::{Isa, KernelError, PreparedMatrix};
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Matrix, Payload, Trellis};

/// Which end of a buffer touches a forbidden page.
#[derive(Clone, Copy, Debug)]
enum Guard {
    Before,
    After,
}

/// Elements with a forbidden page on either side, one of them adjacent.
struct Guarded<T> {
    pages: *mut libc::c_void,
    bytes: usize,
    at: *mut T,
    length: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], guard: Guard) -> Self {
        const PAGE: usize = 4096;
        let needed = size_of_val(values);
        let inner = needed.next_multiple_of(PAGE).max(PAGE);
        let bytes = inner + 2 * PAGE;
        // SAFETY: a new private mapping, of which all but the first and last page become accessible; the elements
        // are inside that part, and pages are aligned more strictly than any T here.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let pages = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            let first = pages.cast::<u8>().add(PAGE);
            assert_eq!(libc::mprotect(first.cast(), inner, libc::PROT_READ | libc::PROT_WRITE), 0);
            let skip = match guard {
                Guard::Before => 0,
                Guard::After => inner - needed,
            };
            let at = first.add(skip).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), at, values.len());
            Self { pages, bytes, at, length: values.len() }
        }
    }

    fn get(&mut self) -> &mut [T] {
        // SAFETY: `length` initialised elements, borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, used no longer.
        unsafe { libc::munmap(self.pages, self.bytes) };
    }
}

/// What all operations give, floats as bits.
type Outcome = Vec<Result<Vec<u32>, KernelError>>;

fn outcome(matrix: &Matrix<'_>, isa: Isa, guard: Guard) -> Outcome {
    let plan = PreparedMatrix::with_isa(matrix, isa);
    let (rows, columns, tiles) = (plan.rows(), plan.columns(), plan.tiles());
    let scratch = |bytes: usize| Guarded::new(&vec![0xA5u8; bytes], guard);
    let floats = |count: usize| Guarded::new(&vec![f32::NAN; count], guard);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    let expanded = plan.clone().expand();
    let mut outcome = Vec::new();
    for (batch, rounding) in
        [(1, OneTerm), (1, TwoTerms), (1, Mixed), (2, OneTerm), (9, Mixed), (3, TwoTerms)]
    {
        let x: Vec<f32> = (0..batch * columns).map(|i| (i * 29 % 97) as f32 / 97.0 - 0.5).collect();
        let mut x = Guarded::new(&x, guard);
        let mut buffer = scratch(plan.activation_bytes(batch, rounding));
        let activations = plan.prepare(x.get(), batch, rounding, buffer.get()).unwrap();
        let mut y = floats(batch * rows);
        let mut memory = scratch(plan.matmul_scratch(batch, rounding));
        let done = plan.matmul(0..tiles, &activations, y.get(), memory.get());
        let done = done.map(|()| bits(y.get()));
        // Decoded before, the same result, or the same refusal then.
        let once = expanded.as_ref().map_err(Clone::clone).and_then(|expanded| {
            let mut y = floats(batch * rows);
            let mut memory = scratch(expanded.matmul_scratch(batch, rounding));
            expanded.matmul(0..expanded.blocks(), &activations, y.get(), memory.get())?;
            Ok(bits(y.get()))
        });
        assert!(once == done, "{isa} {batch} {rounding:?}");
        outcome.push(done);
    }
    let mut integers = Guarded::new(&vec![-1; rows * matrix.stream_length()], guard);
    let done = plan.decode_rows(0..tiles, integers.get(), scratch(plan.decode_scratch()).get());
    outcome.push(done.map(|()| integers.get().iter().map(|&m| m as u32).collect()));
    let mut weights = floats(rows * columns);
    let mut memory = scratch(plan.dequantize_scratch());
    let done = plan.dequantize_rows(0..tiles, weights.get(), memory.get());
    outcome.push(done.map(|()| bits(weights.get())));
    let mut wanted = Guarded::new(&[rows as u32 - 1, 0, 0], guard);
    let mut weights = floats(3 * columns);
    let done = plan.get_rows(wanted.get(), weights.get(), memory.get());
    outcome.push(done.map(|()| bits(weights.get())));
    outcome
}

/// The outcome of every matrix of a payload on every instruction set is that of the scalar kernels.
fn check(bytes: &[u8], limits: &Limits, name: &str) -> (usize, usize) {
    let (mut done, mut refused) = (0, 0);
    for guard in [Guard::After, Guard::Before] {
        let mut bytes = Guarded::new(bytes, guard);
        let Ok(payload) = Payload::open(bytes.get(), limits) else { continue };
        for matrix in payload.matrices() {
            let expected = outcome(matrix, Isa::Scalar, guard);
            done += expected.iter().filter(|result| result.is_ok()).count();
            refused += expected.iter().filter(|result| result.is_err()).count();
            for isa in Isa::all_available() {
                assert!(outcome(matrix, isa, guard) == expected, "{name} on {isa}, guard {guard:?}");
            }
        }
    }
    (done, refused)
}

#[test]
fn valid_payloads_stay_between_guard_pages() {
    let shapes: [(usize, usize, usize, usize, f64); 6] = [
        (130, 70, 64, 16, 1.5),
        (1000, 130, 64, 128, 2.3),
        (65, 40, 16, 3, 0.7),
        (33, 3, 4, 1, 6.0),
        (300, 90, 16, 64, 30.0),
        (1, 1, 64, 256, 1.0),
    ];
    for (rows, columns, k, steps, deviation) in shapes {
        for trellis in [Trellis::EightState, Trellis::Scalar, Trellis::Pairs] {
            let geometry = Geometry::new(k, steps).unwrap();
            let recipe = Recipe { rows, columns, geometry, trellis, deviation, spread: 1.0 };
            let source = matrix(&recipe, &mut Random(rows as u64));
            let bytes = encode(&[source], &EncodeOptions::new(1)).unwrap();
            let (done, refused) = check(&bytes, &Limits::default(), &format!("{recipe:?}"));
            assert_eq!((done, refused), (18, 0));
        }
    }
}

#[test]
fn damaged_payloads_are_the_same_to_every_instruction_set() {
    let limits = Limits { rows: 1024, columns: 256, matrices: 8, rows_and_columns: 2048 };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/valid");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|e| e == "wsic"));
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let seeds: Vec<_> = seeds.into_iter().filter(|bytes| Payload::open(bytes, &limits).is_ok()).collect();
    let mut random = Random(0xD0_0D);
    let bursts = (0..8).map(|_| encode(&[with_bursts(&mut random)], &EncodeOptions::new(1)).unwrap());
    let seeds: Vec<_> = seeds.into_iter().chain(bursts).collect();
    let (mut done, mut refused) = (0, 0);
    for round in 0..600 {
        let (seed, spare) = (&seeds[random.below(seeds.len())], &seeds[random.below(seeds.len())]);
        let bytes = mutate(seed, spare, &mut random);
        let counts = check(&bytes, &limits, &format!("round {round}"));
        done += counts.0;
        refused += counts.1;
    }
    assert!(done > 200 && refused > 200, "{done} done, {refused} refused");
}
