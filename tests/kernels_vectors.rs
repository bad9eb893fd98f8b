//! Every payload of `spec/vectors` through the kernels of every instruction set: what is valid is decoded as the scalar
//! definition does, what is not is refused with the definition's class.

use std::path::PathBuf;
use wsic::kernels::{Isa, KernelError, PreparedMatrix, Scratch};
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

/// Integers of all rows by the definition, or the class of its refusal.
fn definition(matrix: &Matrix<'_>) -> Result<Vec<i32>, ErrorKind> {
    let (rows, width) = (matrix.rows(), matrix.stream_length());
    let mut integers = vec![0; rows * width];
    let tile_length = matrix.geometry().rows_per_tile() * width;
    for tile in 0..matrix.tile_count() {
        let end = integers.len().min((tile + 1) * tile_length);
        matrix.decode_tile(tile, &mut integers[tile * tile_length..end]).map_err(|error| error.kind())?;
    }
    Ok(integers)
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
                assert!(decoded.map(|()| integers).map_err(class) == expected, "{name}: integers");
                let mut weights = vec![f32::NAN; plan.rows() * plan.columns()];
                let done = plan.dequantize_rows(0..plan.tiles(), &mut weights, scratch.as_bytes());
                assert_eq!(done.map_err(class).err(), expected.as_ref().err().copied(), "{name}: weights");
                for batch in [1, 3] {
                    let x = vec![1.0; batch * plan.columns()];
                    let mut y = vec![f32::NAN; batch * plan.rows()];
                    let done = plan.matmul_threads(&x, batch, &mut y, 1);
                    assert_eq!(
                        done.map_err(class).err(),
                        expected.as_ref().err().copied(),
                        "{name}: product"
                    );
                    assert!(expected.is_err() || y.iter().all(|value| !value.is_nan()), "{name}: product");
                }
            }
        }
    }
    assert!(payloads.len() > 70 && refused > 15, "{} payloads, {refused} refused", payloads.len());
}
