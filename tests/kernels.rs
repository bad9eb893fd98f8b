//! Every instruction set against the scalar definition.

mod common;

use common::{matrix, Random, Recipe};
use wsic::kernels::{Isa, PreparedMatrix, Scratch, GROUP_COLUMNS};
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Matrix, Payload, Trellis, PADDING};

/// The matvec of the contract, from the integers of the scalar definition.
fn reference(matrix: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let (rows, width) = (matrix.rows(), matrix.stream_length());
    let prepared: Vec<f32> = matrix
        .stream_inputs()
        .iter()
        .zip(matrix.stream_scales())
        .map(|(&input, &scale)| if input == PADDING { 0.0 } else { scale * x[input as usize] })
        .collect();
    let groups: Vec<(f32, Vec<i32>)> = prepared
        .chunks(GROUP_COLUMNS)
        .map(|group| {
            let largest = group.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            if largest < 2f32.powi(-100) {
                return (0.0, vec![0; group.len()]);
            }
            let inverse = 127.0 / largest;
            (largest / 127.0, group.iter().map(|v| (v * inverse).round_ties_even() as i32).collect())
        })
        .collect();
    let mut y = vec![0.0f32; rows];
    let height = matrix.geometry().rows_per_tile();
    for tile in 0..matrix.tile_count() {
        let present = matrix.geometry().rows_in_tile(rows, tile);
        let mut integers = vec![0; present * width];
        matrix.decode_tile(tile, &mut integers).unwrap();
        let escapes: Vec<_> = matrix.escapes(tile).map(|escape| escape.unwrap()).collect();
        for escape in &escapes {
            integers[escape.row * width + escape.position] -= escape.addend;
        }
        for (row, integers) in integers.chunks(width).enumerate() {
            let y = &mut y[tile * height + row];
            for ((scale, q), m) in groups.iter().zip(integers.chunks(GROUP_COLUMNS)) {
                let product: i32 = q.iter().zip(m).map(|(q, m)| q * m).sum();
                *y += scale * product as f32;
            }
        }
        for escape in &escapes {
            y[tile * height + escape.row] += escape.addend as f32 * prepared[escape.position];
        }
    }
    if let Some(scales) = matrix.row_scales() {
        y.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale);
    }
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn matvec_is_the_contract_on_every_instruction_set() {
    let mut random = Random(99);
    for (rows, columns, k, steps, deviation, spread) in [
        (700, 300, 64, 128, 2.27, 0.5),
        (513, 70, 64, 5, 1.2, 0.3),
        (300, 600, 16, 33, 2.27, 1.5),
        (1000, 260, 16, 10, 4.0, 2.0),
        (2000, 120, 4, 17, 9.0, 1.0),
        (64, 1030, 4, 256, 0.4, 0.5),
    ] {
        for trellis in [Trellis::EightState, Trellis::Scalar] {
            let geometry = Geometry::new(k, steps).unwrap();
            let recipe = Recipe { rows, columns, geometry, trellis, deviation, spread };
            let bytes = encode(&[matrix(&recipe, &mut random)], &EncodeOptions { threads: 2 }).unwrap();
            let payload = Payload::open(&bytes, &Limits::default()).unwrap();
            let matrix = &payload.matrices()[0];
            let x: Vec<f32> = (0..columns).map(|_| random.gaussian() as f32).collect();
            let expected = reference(matrix, &x);
            for isa in Isa::all_available() {
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut buffer = vec![0; plan.activation_bytes(1)];
                let activations = plan.prepare(&x, 1, &mut buffer).unwrap();
                let mut y = vec![f32::NAN; rows];
                let mut scratch = Scratch::with_bytes(plan.matvec_scratch());
                plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{isa} {recipe:?}");
                let mut y = vec![f32::NAN; rows];
                plan.matvec_threads(&x, &mut y, 3).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{isa} {recipe:?} on threads");
            }
        }
    }
}
