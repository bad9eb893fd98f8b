//! Any matrix that the format can hold: encoded, verified, decoded, compared. What it cannot hold is refused.
#![no_main]

mod guard;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{
    Geometry, Limits, Payload, QuantizedMatrix, ScaleKind, StreamColumn, Trellis, MAX_INTEGER, PADDING,
};

/// The seed of a matrix: everything about it but its integers, which follow.
#[derive(Arbitrary, Debug)]
struct Shape {
    rows: u8,
    columns: u8,
    width: u8,
    steps: u8,
    trellis: u8,
    half_columns: bool,
    row_scales: Option<bool>,
    tensor_scale: u32,
    matrices: u8,
    /// Integers of the columns are shifted right by these numbers of bits.
    sizes: [u8; 4],
}

/// The integer nearest to `wish` that the state allows.
fn legal(wish: i32, parity: i32) -> i32 {
    let wish = wish.clamp(-MAX_INTEGER + 1, MAX_INTEGER - 1);
    if (wish ^ parity) & 1 == 0 {
        wish
    } else {
        wish + 1
    }
}

fn column(
    shape: &Shape,
    matrix: &QuantizedMatrix,
    input: u32,
    u: &mut Unstructured,
) -> arbitrary::Result<StreamColumn> {
    let mut integers = vec![0; matrix.rows];
    let shift = u32::from(shape.sizes[input as usize % 4] % 32);
    for path in matrix.geometry.paths(matrix.rows) {
        let mut state = 0;
        for i in 0..path.len {
            let byte = i32::from(u.arbitrary::<i8>().unwrap_or(0)) << 24;
            let m = legal(byte >> shift, matrix.trellis.parity(state));
            integers[path.first + i * path.stride] = m;
            state = matrix.trellis.next(state, m);
        }
    }
    let scale = u.arbitrary::<u16>()?;
    let scale = if shape.half_columns { scale % 0x7800 + 0x0400 } else { scale & 255 };
    Ok(StreamColumn { input, scale, integers })
}

fn matrix(shape: &Shape, u: &mut Unstructured) -> arbitrary::Result<QuantizedMatrix> {
    let rows = usize::from(shape.rows) + 1;
    let columns = usize::from(shape.columns % 80) + 1;
    let width = [4, 16, 64][usize::from(shape.width) % 3];
    let kind = |half: bool| if half { ScaleKind::Half } else { ScaleKind::Log8 };
    let mut matrix = QuantizedMatrix {
        rows,
        columns,
        geometry: Geometry::new(width, usize::from(shape.steps) + 1).expect("a legal geometry"),
        trellis: [Trellis::Scalar, Trellis::EightState, Trellis::Pairs][usize::from(shape.trellis % 3)],
        tensor_scale: f32::from_bits((31 << 23) + shape.tensor_scale % (137 << 23)),
        column_scale_kind: kind(shape.half_columns),
        stream: Vec::new(),
        row_scales: None,
    };
    for input in 0..columns as u32 {
        // No, one, two or three stream columns; mostly one.
        let parts = [1, 1, 1, 1, 0, 2, 3, 1][usize::from(u.arbitrary::<u8>()? & 7)];
        for _ in 0..parts {
            let column = column(shape, &matrix, input, u)?;
            matrix.stream.push(column);
        }
    }
    if let Some(half) = shape.row_scales {
        let code = |u: &mut Unstructured| {
            let code = u.arbitrary::<u16>().unwrap_or(0);
            if half {
                code % 0x7800 + 0x0400
            } else {
                code & 255
            }
        };
        matrix.row_scales = Some((kind(half), (0..rows).map(|_| code(u)).collect()));
    }
    Ok(matrix)
}

/// The integers of every stream column, sorted, with its input: the encoder chooses the order.
fn contents<'a>(columns: impl Iterator<Item = (u32, &'a [i32])>) -> Vec<(u32, &'a [i32])> {
    let mut contents: Vec<_> = columns.collect();
    contents.sort_unstable();
    contents
}

fuzz_target!(|bytes: &[u8]| guard::in_time(5000, || check(bytes)));

fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(shape) = Shape::arbitrary(&mut u) else { return };
    let count = usize::from(shape.matrices % 3) + 1;
    let Ok(sources) = (0..count).map(|_| matrix(&shape, &mut u)).collect::<arbitrary::Result<Vec<_>>>()
    else {
        return;
    };
    let coded =
        guard::within(64 << 20, || encode(&sources, &EncodeOptions::default())).expect("a legal matrix");
    let payload = Payload::open(&coded, &Limits::default()).expect("an encoded matrix opens");
    assert_eq!(payload.matrices().len(), count);
    for (source, decoded) in sources.iter().zip(payload.matrices()) {
        let (rows, width) = (source.rows, decoded.stream_length());
        let mut integers = vec![0; rows * width];
        let per_tile = decoded.geometry().rows_per_tile();
        for tile in 0..decoded.tile_count() {
            decoded.verify_tile(tile).expect("checksum");
            let range = tile * per_tile * width..((tile + 1) * per_tile).min(rows) * width;
            decoded.decode_tile(tile, &mut integers[range]).expect("decodes");
        }
        let columns: Vec<Vec<i32>> =
            (0..width).map(|s| (0..rows).map(|row| integers[row * width + s]).collect()).collect();
        let inputs = decoded.stream_inputs().iter().copied();
        let got =
            contents(inputs.zip(columns.iter().map(Vec::as_slice)).filter(|&(input, _)| input != PADDING));
        let wanted = contents(source.stream.iter().map(|column| (column.input, column.integers.as_slice())));
        assert!(got == wanted);
    }
}
