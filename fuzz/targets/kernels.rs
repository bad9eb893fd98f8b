//! The kernels of every instruction set that this machine has against the scalar definition: the same integers,
//! weights and products bit for bit, or the same refusal.
//!
//! Input: bytes that steer the calls, then a payload: a damaged or a fresh valid one (see `inputs`).
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod draw;
mod guard;
mod inputs;

use common::Random;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use std::ops::Range;
use wsic::kernels::{Isa, KernelError, PreparedMatrix, Rounding, Scratch};
use wsic::payload::{ErrorKind, Limits, Matrix, Payload};

const LIMITS: Limits = Limits { rows: 2048, columns: 512, matrices: 8, rows_and_columns: 8192 };
/// Integers and weights of a matrix; larger ones are legal and only slow.
const MOST: usize = 1 << 16;

/// What the definition says of one tile: integers and weights, or the class of the refusal.
type Tile = Result<(Vec<i32>, Vec<f32>), ErrorKind>;

fn definition(matrix: &Matrix<'_>) -> Vec<Tile> {
    let mut scratch = Vec::new();
    (0..matrix.geometry().tiles(matrix.rows()))
        .map(|tile| {
            let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
            let mut integers = vec![0; rows * matrix.stream_length()];
            let mut weights = vec![0.0; rows * matrix.columns()];
            if tile < matrix.tile_count() {
                matrix.decode_tile(tile, &mut integers).map_err(|error| error.kind())?;
            }
            matrix.dequantize_tile(tile, &mut scratch, &mut weights).map_err(|error| error.kind())?;
            Ok((integers, weights))
        })
        .collect()
}

fn class(error: KernelError) -> ErrorKind {
    match error {
        KernelError::Payload(error) => error.kind(),
        other => panic!("{other}"),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    // Which of the NaNs it is depends on the instruction.
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// Activations, now and then with extreme ones.
fn vector(length: usize, random: &mut Random) -> Vec<f32> {
    const EXTREME: [f32; 8] = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-40, f32::INFINITY, f32::NAN, 1e30];
    let kind = random.below(4);
    let mut x: Vec<f32> = (0..length).map(|_| random.gaussian() as f32).collect();
    match kind {
        1 => x.iter_mut().for_each(|x| *x *= (40.0 * random.unit() - 20.0).exp2() as f32),
        2 => (0..1 + length / 50).for_each(|_| x[random.below(length)] *= 1000.0),
        3 => x[random.below(length)] = EXTREME[random.below(EXTREME.len())],
        _ => {}
    }
    x
}

fn some_tiles(count: usize, random: &mut Random) -> Range<usize> {
    let start = random.below(count);
    start..start + 1 + random.below(count - start)
}

fn check(matrix: &Matrix<'_>, random: &mut Random) {
    let (width, columns) = (matrix.stream_length(), matrix.columns());
    if matrix.rows() * width.max(columns) > MOST {
        return;
    }
    let expected = definition(matrix);
    let first_refusal =
        |tiles: Range<usize>| expected[tiles].iter().find_map(|tile| tile.as_ref().err().copied());
    let height = matrix.geometry().rows_per_tile();
    let ranges = [0..expected.len(), some_tiles(expected.len(), random)];
    let wanted: Vec<u32> = (0..random.below(12)).map(|_| random.below(matrix.rows()) as u32).collect();
    let batch = [1, 1 + random.below(20)][random.below(2)];
    let rounding = Rounding::ALL[random.below(Rounding::ALL.len())];
    let x = vector(columns * batch, random);
    let mut products: Option<Vec<Result<Vec<u32>, ErrorKind>>> = None;
    for isa in Isa::all_available() {
        let plan = PreparedMatrix::with_isa(matrix, isa);
        assert_eq!(plan.tiles(), expected.len());
        let mut scratch = Scratch::with_bytes(plan.decode_scratch().max(plan.dequantize_scratch()));
        let scratch = scratch.as_bytes();
        for tiles in ranges.clone() {
            let rows = plan.rows_of(tiles.clone()).len();
            let refusal = first_refusal(tiles.clone()).map_or(Ok(()), Err);
            let mut integers = vec![i32::MIN; rows * width];
            let done = guard::within(0, || plan.decode_rows(tiles.clone(), &mut integers, scratch));
            let done = done.map_err(class);
            assert_eq!(done, refusal, "{isa}: integers of {tiles:?}");
            let mut weights = vec![f32::NAN; rows * columns];
            let done = guard::within(0, || plan.dequantize_rows(tiles.clone(), &mut weights, scratch));
            let done = done.map_err(class);
            assert_eq!(done, refusal, "{isa}: weights of {tiles:?}");
            if refusal.is_ok() {
                let tiles = expected[tiles].iter().flatten();
                let (i, w): (Vec<_>, Vec<_>) = tiles.map(|(i, w)| (i.as_slice(), w.as_slice())).unzip();
                assert!(integers == i.concat(), "{isa}: integers");
                assert!(bits(&weights) == bits(&w.concat()), "{isa}: weights");
            }
        }
        let mut weights = vec![f32::NAN; wanted.len() * columns];
        let done = guard::within(0, || plan.get_rows(&wanted, &mut weights, scratch)).map_err(class);
        let tile_of = |row: u32| row as usize / height;
        let refusal = wanted.iter().find_map(|&row| expected[tile_of(row)].as_ref().err().copied());
        assert_eq!(done.err(), refusal, "{isa}: rows {wanted:?}");
        if refusal.is_none() {
            for (&row, got) in wanted.iter().zip(weights.chunks(columns)) {
                let tile = &expected[tile_of(row)].as_ref().expect("no refusal").1;
                let at = row as usize % height * columns;
                assert!(bits(got) == bits(&tile[at..at + columns]), "{isa}: row {row}");
            }
        }
        let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
        let activations = plan.prepare(&x, batch, rounding, &mut buffer).expect("buffers of the right sizes");
        let mut scratch = Scratch::with_bytes(plan.matmul_scratch(batch, rounding));
        let mut here = Vec::new();
        for tiles in ranges.clone() {
            let rows = plan.rows_of(tiles.clone()).len();
            // A number that no sum of these comes to by chance.
            let mut y = vec![f32::from_bits(0x7DEA_DBEE); rows * batch];
            let done =
                guard::within(0, || plan.matmul(tiles.clone(), &activations, &mut y, scratch.as_bytes()));
            let done = done.map_err(class);
            assert_eq!(done.err(), first_refusal(tiles.clone()), "{isa}: products of {tiles:?}");
            assert!(
                done.is_err() || y.iter().all(|y| y.to_bits() != 0x7DEA_DBEE),
                "a product was not written"
            );
            here.push(done.map(|()| bits(&y)));
            if batch == 1 {
                let done = guard::within(0, || plan.matvec(tiles, &activations, &mut y, scratch.as_bytes()));
                let done = done.map_err(class);
                here.push(done.map(|()| bits(&y)));
            }
        }
        let most = plan.expanding_bytes().expect("a small matrix");
        let copy = plan.clone();
        let decoded = guard::within(most, || copy.expand()).map_err(class).and_then(|matrix| {
            let mut y = vec![f32::NAN; matrix.plan().rows() * batch];
            let mut scratch = Scratch::with_bytes(matrix.matmul_scratch(batch, rounding));
            let blocks = 0..matrix.blocks();
            let done = guard::within(0, || matrix.matmul(blocks, &activations, &mut y, scratch.as_bytes()));
            done.map(|()| bits(&y)).map_err(class)
        });
        assert!(decoded == here[0], "{isa}: products of decoded integers");
        assert!(
            products.as_ref().is_none_or(|products| *products == here),
            "{isa}: products differ from scalar's"
        );
        products = Some(here);
    }
}

fuzz_target!(|bytes: &[u8]| {
    wsic::payload::standard::standard_tables();
    let Some((steering, bytes)) = inputs::split(bytes) else { return };
    let Ok(payload) = Payload::open(bytes, &LIMITS) else { return };
    let mut random = inputs::random(steering);
    guard::in_time(5000, || {
        guard::within(64 << 20, || {
            payload.matrices().iter().take(3).for_each(|matrix| check(matrix, &mut random))
        });
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    inputs::change(data, size, most, seed, inputs::STEERING)
});
