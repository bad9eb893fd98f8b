//! Every payload of `spec/vectors` through the kernels of every instruction set: what is valid is decoded as the scalar
//! definition does, what is not is refused with the definition's class.

mod common;

use common::forge::{payload, Class, Entry, Plan, Table};
use std::path::PathBuf;
use wsic::kernels::{ExpandedMatrix, Isa, KernelError, PreparedMatrix, Rounding, Scratch};
use wsic::payload::{ErrorKind, Limits, Matrix, Payload};

/// The payloads that open.
fn payloads() -> Vec<(PathBuf, Vec<u8>)> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors"));
    let manifest = std::fs::read_to_string(root.join("manifest.tsv")).unwrap();
    let paths = manifest.lines().filter_map(|line| line.split('\t').next());
    let paths = paths.filter(|path| path.ends_with(".wsic")).map(|path| root.join(path));
    let all = paths.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    all.filter(|(_, bytes)| Payload::open(bytes, &Limits::default()).is_ok()).collect()
}

/// Integers and weights (as bits) of all rows by the definition, or the class of its refusal.
fn definition(matrix: &Matrix<'_>) -> Result<(Vec<i32>, Vec<u32>), ErrorKind> {
    let (rows, columns, width) = (matrix.rows(), matrix.columns(), matrix.stream_length());
    let (mut integers, mut weights) = (vec![0; rows * width], vec![f32::NAN; rows * columns]);
    let geometry = matrix.geometry();
    for tile in 0..geometry.tiles(rows) {
        let start = tile * geometry.rows_per_tile();
        let end = start + geometry.rows_in_tile(rows, tile);
        if tile < matrix.tile_count() {
            let integers = &mut integers[start * width..end * width];
            matrix.decode_tile(tile, integers).map_err(|error| error.kind())?;
        }
        let weights = &mut weights[start * columns..end * columns];
        matrix.dequantize_tile(tile, &mut Vec::new(), weights).map_err(|error| error.kind())?;
    }
    Ok((integers, weights.iter().map(|weight| weight.to_bits()).collect()))
}

/// All rows from the last to the first, as bits in the order of the matrix.
fn rows_backwards(plan: &PreparedMatrix<'_>, scratch: &mut [u8]) -> Result<Vec<u32>, KernelError> {
    let wanted: Vec<u32> = (0..plan.rows() as u32).rev().collect();
    let mut weights = vec![f32::NAN; plan.rows() * plan.columns()];
    plan.get_rows(&wanted, &mut weights, scratch)?;
    Ok(weights.chunks(plan.columns()).rev().flatten().map(|weight| weight.to_bits()).collect())
}

/// All products of a matrix that was decoded.
fn products(matrix: &ExpandedMatrix<'_>, x: &[f32], batch: usize) -> Vec<f32> {
    let (plan, rounding) = (matrix.plan(), Rounding::OneTerm);
    let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
    let activations = plan.prepare(x, batch, rounding, &mut buffer).unwrap();
    let mut y = vec![f32::NAN; batch * plan.rows()];
    let mut scratch = Scratch::with_bytes(matrix.matmul_scratch(batch, rounding));
    matrix.matmul(0..matrix.blocks(), &activations, &mut y, scratch.as_bytes()).unwrap();
    y
}

fn class(error: KernelError) -> ErrorKind {
    match error {
        KernelError::Payload(error) => error.kind(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_payload_on_every_instruction_set() {
    let payloads = payloads();
    let mut refused = 0;
    for (path, bytes) in &payloads {
        let payload = Payload::open(bytes, &Limits::default()).unwrap();
        for (index, matrix) in payload.matrices().iter().enumerate() {
            let expected = definition(matrix);
            refused += usize::from(expected.is_err());
            for isa in Isa::all_available() {
                let name = format!("{isa} {} {index}", path.display());
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut integers = vec![-1; plan.rows() * matrix.stream_length()];
                let mut scratch = Scratch::with_bytes(plan.decode_scratch().max(plan.dequantize_scratch()));
                let decoded = plan.decode_rows(0..plan.tiles(), &mut integers, scratch.as_bytes());
                let refusal = expected.as_ref().err().copied();
                assert_eq!(decoded.map_err(class).err(), refusal, "{name}: integers");
                let mut weights = vec![f32::NAN; plan.rows() * plan.columns()];
                let done = plan.dequantize_rows(0..plan.tiles(), &mut weights, scratch.as_bytes());
                assert_eq!(done.map_err(class).err(), refusal, "{name}: weights");
                let rows = rows_backwards(&plan, scratch.as_bytes()).map_err(class);
                assert_eq!(rows.is_err(), refusal.is_some(), "{name}: rows");
                if let Ok((wanted_integers, wanted_weights)) = &expected {
                    let weights: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
                    assert!(integers == *wanted_integers, "{name}: integers");
                    assert!(weights == *wanted_weights, "{name}: weights");
                    assert!(rows.as_ref() == Ok(wanted_weights), "{name}: rows");
                }
                for batch in [1, 3] {
                    let x = vec![1.0; batch * plan.columns()];
                    let mut y = vec![f32::NAN; batch * plan.rows()];
                    let done = plan.matmul_threads(&x, batch, &mut y, 1);
                    assert_eq!(done.map_err(class).err(), refusal, "{name}: product");
                    assert!(expected.is_err() || y.iter().all(|value| !value.is_nan()), "{name}: product");
                    let decoded = plan.clone().expand().map(|matrix| products(&matrix, &x, batch));
                    assert_eq!(decoded.as_ref().err().cloned().map(class), refusal, "{name}: decoded");
                    assert!(decoded.is_err() || decoded == Ok(y), "{name}: product of decoded integers");
                }
            }
        }
    }
    assert!(payloads.len() > 70 && refused > 15, "{} payloads, {refused} refused", payloads.len());
}

/// One class of two symbols, integers 0, one row in each tile.
fn simple(rows: usize) -> Plan {
    let runs = [0, 1].map(|_| vec![(0, 128), (1, 128)]);
    let entry = |input| Entry { input, class: 0, scale: 128, integers: vec![0; rows] };
    Plan {
        rows,
        columns: 64,
        width: 64,
        steps: 1,
        trellis: 0,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![Class::Inline(Table { raw_bits: 0, smallest: [0, 0], runs })],
        first: (0..64).map(entry).collect(),
        extra: vec![],
        row_scales: vec![],
    }
}

#[test]
fn states_at_the_ends_of_a_tile() {
    // A state x goes to x / 256 * 128 plus the rank of its slot; the last one has to be 256.
    for (state, left, good) in [
        (0x200, &[][..], true),
        // Ends in 257, ends in 383.
        (0x201, &[], false),
        (0x27F, &[], false),
        // Begins below 256: comes to 1, takes the byte, and would end in 256.
        (0x001, &[0], false),
        // One byte too many, one too few.
        (0x200, &[0], false),
        (0x101, &[], false),
    ] {
        let mut section = simple(1).section();
        let tile = &mut section.tiles[0];
        [tile.states[3], tile.states[64 + 3]] = u16::to_be_bytes(state);
        tile.renormalisation.extend(left);
        let bytes = payload(1, 64, &[section.bytes()]);
        let payload = Payload::open(&bytes, &Limits::default()).unwrap();
        let matrix = &payload.matrices()[0];
        let expected = definition(matrix).map(|(integers, _)| integers);
        assert_eq!(expected, if good { Ok(vec![0; 64]) } else { Err(ErrorKind::CorruptTile) }, "{state:#x}");
        for isa in Isa::all_available() {
            let plan = PreparedMatrix::with_isa(matrix, isa);
            let mut integers = vec![-1; 64];
            let mut scratch = Scratch::with_bytes(plan.decode_scratch());
            let decoded = plan.decode_rows(0..1, &mut integers, scratch.as_bytes());
            assert_eq!(decoded.map(|()| integers).map_err(class), expected, "{isa}: integers, {state:#x}");
            let done = plan.matmul_threads(&[1.0; 64], 1, &mut [0.0], 1);
            assert_eq!(done.map_err(class), expected.clone().map(|_| ()), "{isa}: product, {state:#x}");
        }
    }
}

#[test]
fn the_first_of_several_damaged_tiles_is_named() {
    const ROWS: usize = 20;
    let mut section = simple(ROWS).section();
    let damaged = [2, 3, 5, 11, 18, 19];
    damaged.iter().for_each(|&tile| section.tiles[tile].states.fill(0));
    let bytes = payload(ROWS, 64, &[section.bytes()]);
    let payload = Payload::open(&bytes, &Limits::default()).unwrap();
    let matrix = &payload.matrices()[0];
    for isa in Isa::all_available() {
        let plan = PreparedMatrix::with_isa(matrix, isa);
        let mut scratch =
            Scratch::with_bytes(plan.dequantize_scratch().max(plan.matmul_scratch(3, Rounding::Mixed)));
        let scratch = scratch.as_bytes();
        for start in 0..ROWS {
            let (tiles, rows) = (start..ROWS, ROWS - start);
            let first = *damaged.iter().find(|&&tile| tile >= start).unwrap();
            let wanted = Err(KernelError::Payload(matrix.decode_tile(first, &mut [0; 64]).unwrap_err()));
            let done = plan.decode_rows(tiles.clone(), &mut vec![0; rows * 64], scratch);
            assert_eq!(done, wanted, "{isa}: integers from tile {start}");
            let done = plan.dequantize_rows(tiles.clone(), &mut vec![0.0; rows * 64], scratch);
            assert_eq!(done, wanted, "{isa}: weights from tile {start}");
            let ways =
                [(1, Rounding::OneTerm), (1, Rounding::Mixed), (3, Rounding::Mixed), (3, Rounding::OneTerm)];
            for (batch, rounding) in ways {
                let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
                let activations = plan.prepare(&vec![1.0; batch * 64], batch, rounding, &mut buffer).unwrap();
                let done = plan.matmul(tiles.clone(), &activations, &mut vec![0.0; batch * rows], scratch);
                assert_eq!(done, wanted, "{isa}: product from tile {start}");
            }
        }
    }
}
