//! Encode, decode, compare: every kind of matrix the format can hold.

mod common;

use common::{matrix, Random, Recipe};
use proptest::prelude::*;
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{
    ErrorKind, Geometry, Limits, Payload, QuantizedMatrix, ScaleKind, StreamColumn, Trellis, PADDING,
};

/// Decodes matrix `index` and checks every integer and every weight against the input.
fn check(bytes: &[u8], matrices: &[QuantizedMatrix]) {
    let payload = Payload::open(bytes, &Limits::default()).expect("opens");
    assert_eq!(payload.matrices().len(), matrices.len());
    for (decoded, source) in payload.matrices().iter().zip(matrices) {
        assert_eq!((decoded.rows(), decoded.columns()), (source.rows, source.columns));
        let width = decoded.stream_length();
        // Stream positions of each input column, in stream order, match the source columns by content.
        let mut weights = vec![0.0f32; source.rows * source.columns];
        for tile in 0..decoded.geometry().tiles(source.rows) {
            let first = tile * decoded.geometry().rows_per_tile();
            let rows = decoded.geometry().rows_in_tile(source.rows, tile);
            let range = first * source.columns..(first + rows) * source.columns;
            decoded.dequantize_tile(tile, &mut Vec::new(), &mut weights[range]).expect("dequantizes");
            if width == 0 {
                continue;
            }
            decoded.verify_tile(tile).expect("checksum");
            let mut integers = vec![i32::MIN; rows * width];
            decoded.decode_tile(tile, &mut integers).expect("decodes");
            for position in 0..width {
                let input = decoded.stream_inputs()[position];
                let got: Vec<i32> = (0..rows).map(|r| integers[r * width + position]).collect();
                if input == PADDING {
                    assert!(got.iter().all(|&m| m == 0));
                    continue;
                }
                let scale = decoded.stream_scales()[position];
                let found = source.stream.iter().any(|column| {
                    column.input == input
                        && column.integers[first..first + rows] == got
                        && (column_scale(source, column.scale) - scale).abs() <= scale * 1e-6
                });
                assert!(found, "tile {tile} position {position} (column {input})");
            }
        }
        for row in 0..source.rows {
            // Parts may cancel: errors are relative to the sum of their magnitudes.
            let mut expected = vec![(0.0f64, 0.0f64); source.columns];
            for column in &source.stream {
                let term = f64::from(column_scale(source, column.scale)) * f64::from(column.integers[row]);
                let (sum, magnitude) = &mut expected[column.input as usize];
                *sum += term;
                *magnitude += term.abs();
            }
            let row_scale = source.row_scales.as_ref().map_or(1.0, |(kind, codes)| match kind {
                ScaleKind::Log8 => ((f64::from(codes[row]) - 128.0) / 8.0).exp2(),
                ScaleKind::Half => f64::from(half_value(codes[row])),
            });
            for (column, (expected, magnitude)) in expected.iter().enumerate() {
                let got = f64::from(weights[row * source.columns + column]);
                let expected = expected * row_scale;
                assert!((got - expected).abs() <= magnitude * row_scale * 1e-5 + 1e-30, "{got} {expected}");
            }
        }
    }
}

fn half_value(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

fn column_scale(matrix: &QuantizedMatrix, code: u16) -> f32 {
    matrix.tensor_scale
        * match matrix.column_scale_kind {
            ScaleKind::Log8 => (f32::from(code) / 8.0).exp2(),
            ScaleKind::Half => half_value(code),
        }
}

fn recipes() -> impl Strategy<Value = (Recipe, u64, bool, bool)> {
    let geometry = (prop_oneof![Just(4usize), Just(16), Just(64)], 1usize..40);
    (
        1usize..300,
        1usize..100,
        geometry,
        prop_oneof![Just(Trellis::Scalar), Just(Trellis::EightState), Just(Trellis::Pairs)],
        -3.0f64..7.0,
        0.0f64..2.5,
        any::<u64>(),
        any::<(bool, bool)>(),
    )
        .prop_map(|(rows, columns, (k, steps), trellis, octave, spread, seed, (rows_scaled, halves))| {
            let recipe = Recipe {
                rows,
                columns,
                geometry: Geometry::new(k, steps).unwrap(),
                trellis,
                deviation: octave.exp2(),
                spread,
            };
            (recipe, seed | 1, rows_scaled, halves)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_matrix_comes_back((recipe, seed, rows_scaled, halves) in recipes()) {
        let mut random = Random(seed);
        let mut source = matrix(&recipe, &mut random);
        if halves {
            source.column_scale_kind = ScaleKind::Half;
            for column in &mut source.stream {
                column.scale = 0x0400 + random.below(0x7800 - 0x0400) as u16;
            }
        }
        if rows_scaled {
            let codes = (0..recipe.rows).map(|_| 100 + random.below(56) as u16).collect();
            source.row_scales = Some((ScaleKind::Log8, codes));
        }
        // Dead columns, and columns in two or three parts.
        let mut index = 0;
        source.stream.retain(|_| { index += 1; index % 7 != 3 });
        for copy in 0..source.stream.len() / 5 {
            let mut column = source.stream[copy * 2].clone();
            column.integers = common::column(&recipe, recipe.deviation, &mut random);
            source.stream.push(column);
        }
        let bytes = encode(std::slice::from_ref(&source), &EncodeOptions::new(1)).unwrap();
        let again = encode(std::slice::from_ref(&source), &EncodeOptions::new(3)).unwrap();
        prop_assert!(bytes == again, "bytes depend on the number of threads");
        check(&bytes, &[source]);
    }
}

#[test]
fn experts_and_dead_matrices() {
    let recipe = Recipe {
        rows: 70,
        columns: 50,
        geometry: Geometry::new(16, 8).unwrap(),
        trellis: Trellis::EightState,
        deviation: 2.0,
        spread: 0.5,
    };
    let mut random = Random(7);
    let mut matrices: Vec<_> = (0..3).map(|_| matrix(&recipe, &mut random)).collect();
    matrices[1].stream.clear();
    matrices[2].row_scales = Some((ScaleKind::Half, (0..70).map(|i| 0x3C00 + i).collect()));
    let bytes = encode(&matrices, &EncodeOptions::default()).unwrap();
    check(&bytes, &matrices);
}

#[test]
fn integers_of_massive_activations_survive() {
    let recipe = Recipe {
        rows: 200,
        columns: 20,
        geometry: Geometry::new(4, 16).unwrap(),
        trellis: Trellis::EightState,
        deviation: 1.5,
        spread: 0.3,
    };
    let mut random = Random(11);
    let mut source = matrix(&recipe, &mut random);
    source.stream[4].integers = common::column(&recipe, 12_000.0, &mut random);
    source.stream[9].integers = common::column(&recipe, 2_000_000.0, &mut random);
    assert!(source.stream[4].integers.iter().any(|m| m.abs() > 30_000));
    let bytes = encode(std::slice::from_ref(&source), &EncodeOptions::default()).unwrap();
    check(&bytes, &[source]);
}

/// Found by fuzzing: the escape from -1, the nearest index of its parity, to the largest integer was too long.
#[test]
fn the_largest_integers_are_in_reach_of_narrow_tables() {
    let recipe = Recipe {
        rows: 64,
        columns: 1,
        geometry: Geometry::new(64, 64).unwrap(),
        trellis: Trellis::EightState,
        deviation: 0.2,
        spread: 0.0,
    };
    for largest in [8_388_607, -8_388_607] {
        let mut source = matrix(&recipe, &mut Random(5));
        let (mut state, mut placed) = (0, false);
        for (row, m) in source.stream[0].integers.iter_mut().enumerate() {
            let parity = recipe.trellis.parity(state);
            // Indices 0 and -1, and one large integer where the parity is odd.
            let here = row >= 40 && parity == 1 && !placed;
            placed |= here;
            *m = if here { largest } else { parity - 2 * i32::from(state == 0) };
            state = recipe.trellis.next(state, *m);
        }
        assert!(placed);
        let bytes = encode(std::slice::from_ref(&source), &EncodeOptions::default()).unwrap();
        check(&bytes, &[source]);
    }
}

#[test]
fn damaged_bytes_never_panic_and_are_noticed() {
    let recipe = Recipe {
        rows: 90,
        columns: 40,
        geometry: Geometry::new(16, 10).unwrap(),
        trellis: Trellis::EightState,
        deviation: 6.0,
        spread: 1.5,
    };
    let mut random = Random(3);
    let source = matrix(&recipe, &mut random);
    let bytes = encode(&[source], &EncodeOptions::default()).unwrap();
    let verify = |bytes: &[u8]| -> Result<(), ErrorKind> {
        let payload = Payload::open(bytes, &Limits::default()).map_err(|e| e.kind())?;
        let decoded = &payload.matrices()[0];
        let mut verdict = Ok(());
        for tile in 0..decoded.tile_count() {
            let rows = decoded.geometry().rows_in_tile(decoded.rows(), tile);
            let mut integers = vec![0; rows * decoded.stream_length()];
            // Decoding must not panic even where the checksum already tells.
            let decoded_tile = decoded.decode_tile(tile, &mut integers);
            verdict = verdict.and(decoded.verify_tile(tile)).and(decoded_tile);
        }
        verdict.map_err(|e| e.kind())
    };
    assert_eq!(verify(&bytes), Ok(()));
    for end in 0..bytes.len() {
        assert!(verify(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(verify(&longer), Err(ErrorKind::TrailingBytes));
    for _ in 0..20_000 {
        let mut damaged = bytes.clone();
        let at = random.below(bytes.len());
        damaged[at] ^= 1 << random.below(8);
        assert!(verify(&damaged).is_err(), "one bit at {at} unnoticed");
    }
}

#[test]
fn the_encoder_refuses_what_the_format_cannot_hold() {
    let recipe = Recipe {
        rows: 8,
        columns: 4,
        geometry: Geometry::new(16, 4).unwrap(),
        trellis: Trellis::EightState,
        deviation: 1.0,
        spread: 0.0,
    };
    let good = matrix(&recipe, &mut Random(1));
    let refuse = |change: &dyn Fn(&mut QuantizedMatrix)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(encode(&[bad], &EncodeOptions::default()).is_err());
    };
    refuse(&|m| m.stream[1].integers[0] += 1);
    refuse(&|m| m.stream[1].integers[0] = 1 << 23);
    refuse(&|m| m.stream[1].input = 4);
    refuse(&|m| m.stream[1].scale = 256);
    refuse(&|m| m.tensor_scale = f32::NAN);
    refuse(&|m| m.tensor_scale = -1.0);
    refuse(&|m| m.row_scales = Some((ScaleKind::Log8, vec![128; 7])));
    refuse(&|m| m.rows = 9);
    refuse(&|m| {
        let extra = StreamColumn { input: 0, ..m.stream[0].clone() };
        m.stream.extend(vec![extra; 9]);
    });
    assert!(encode(&[], &EncodeOptions::default()).is_err());
}
