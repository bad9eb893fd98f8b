//! Every instruction set against the scalar definition.

mod common;

use common::forge::{payload, write_escapes, Class, Entry, PairTable, Plan, Table};
use common::{matrix, Random, Recipe};
use wsic::kernels::{
    ExpandedMatrix, Isa, KernelError, PreparedMatrix, Rounding, Scratch, GROUP_COLUMNS, WIDE_GROUP_COLUMNS,
};
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Matrix, Payload, ScaleKind, Trellis, MAX_INTEGER, PADDING};

/// The matvec of the contract, from the integers of the scalar definition.
fn reference(matrix: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    reference_of(matrix, x, Rounding::OneTerm)
}

/// The same for activations rounded in some way.
fn reference_of(matrix: &Matrix<'_>, x: &[f32], rounding: Rounding) -> Vec<f32> {
    let (rows, width) = (matrix.rows(), matrix.stream_length());
    let prepared: Vec<f32> = matrix
        .stream_inputs()
        .iter()
        .zip(matrix.stream_scales())
        .map(|(&input, &scale)| if input == PADDING { 0.0 } else { scale * x[input as usize] })
        .collect();
    let mut rest = prepared.clone();
    let terms: Vec<Terms> = match rounding {
        Rounding::OneTerm => vec![term(&mut rest, GROUP_COLUMNS)],
        Rounding::TwoTerms => {
            vec![term(&mut rest, WIDE_GROUP_COLUMNS), term(&mut rest, WIDE_GROUP_COLUMNS)]
        }
        Rounding::Mixed => vec![mixed(&rest)],
    };
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
            for groups in &terms {
                let mut sum = 0.0;
                for ((scale, q), m) in groups.iter().zip(integers.chunks(rounding.group_columns())) {
                    let product: i32 = q.iter().zip(m).map(|(q, m)| q * m).sum();
                    sum += scale * product as f32;
                }
                y[tile * height + row] += sum;
            }
        }
        let mut escaped = vec![0.0f32; present];
        for escape in &escapes {
            escaped[escape.row] += escape.addend as f32 * prepared[escape.position];
        }
        for (y, escaped) in y[tile * height..].iter_mut().zip(escaped) {
            *y += escaped;
        }
    }
    if let Some(scales) = matrix.row_scales() {
        y.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale);
    }
    y
}

/// Scale and integers of each group.
type Terms = Vec<(f32, Vec<i32>)>;

/// Eight bits, and fifteen for words that are far larger than the others of their group.
fn mixed(values: &[f32]) -> Terms {
    let of_group = |group: &[f32]| {
        let largest_of = |word: usize| {
            let start = (4 * word).min(group.len());
            let word = &group[start..(start + 4).min(group.len())];
            word.iter().fold(0.0f32, |a, v| a.max(v.abs()))
        };
        let words: Vec<f32> = (0..32).map(largest_of).collect();
        let top = words.iter().copied().fold(0.0, f32::max);
        if top < 2f32.powi(-100) {
            return (0.0, vec![0; group.len()]);
        }
        let floor = top.to_bits().saturating_sub(1 << 26);
        let threshold: u32 = (1 << 24) + words.iter().map(|w| w.to_bits().max(floor) / 32).sum::<u32>();
        let small = words.iter().copied().filter(|w| w.to_bits() <= threshold);
        let bulk = small.fold(0.0, f32::max);
        let (scale, inverse) = match 128.0 * bulk >= top {
            true => (bulk / 127.0, 127.0 / bulk),
            false => (top / 16256.0, 16256.0 / top),
        };
        (scale, group.iter().map(|v| (v * inverse).round_ties_even() as i32).collect())
    };
    values.chunks(GROUP_COLUMNS).map(of_group).collect()
}

/// Scales and integers of each group, and what they leave.
fn term(values: &mut [f32], columns: usize) -> Terms {
    let of_group = |group: &mut [f32]| {
        let largest = group.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        if largest < 2f32.powi(-100) {
            return (0.0, vec![0; group.len()]);
        }
        let (scale, inverse) = (largest / 127.0, 127.0 / largest);
        let q: Vec<i32> = group.iter().map(|v| (v * inverse).round_ties_even() as i32).collect();
        group.iter_mut().zip(&q).for_each(|(value, &q)| *value -= scale * q as f32);
        (scale, q)
    };
    values.chunks_mut(columns).map(of_group).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Shapes that reach every code path: all K, partial tiles and groups, raw bits, wide tables, escapes.
const SHAPES: [(usize, usize, usize, usize, f64, f64); 8] = [
    (700, 300, 64, 128, 2.27, 0.5),
    (513, 70, 64, 5, 1.2, 0.3),
    (300, 600, 16, 33, 2.27, 1.5),
    (1000, 260, 16, 10, 4.0, 2.0),
    (2000, 120, 4, 17, 9.0, 1.0),
    (64, 1030, 4, 256, 0.4, 0.5),
    (90, 200, 64, 16, 30.0, 2.5),
    (1, 1, 64, 256, 1.0, 0.0),
];

/// Calls `test` with a payload for each shape and trellis: row scales, dead columns and columns in several parts.
fn for_each_shape(mut test: impl FnMut(&Matrix<'_>, &Recipe, &mut Random)) {
    let mut random = Random(99);
    for (index, (rows, columns, k, steps, deviation, spread)) in SHAPES.into_iter().enumerate() {
        for trellis in [Trellis::EightState, Trellis::Scalar, Trellis::Pairs] {
            let geometry = Geometry::new(k, steps).unwrap();
            let recipe = Recipe { rows, columns, geometry, trellis, deviation, spread };
            let mut source = matrix(&recipe, &mut random);
            if index % 2 == 0 {
                let codes = (0..rows).map(|_| 120 + random.below(16) as u16).collect();
                source.row_scales = Some((ScaleKind::Log8, codes));
                let mut position = 0;
                source.stream.retain(|_| {
                    position += 1;
                    position % 9 != 4
                });
                for copy in 0..source.stream.len() / 6 {
                    let mut part = source.stream[copy * 3].clone();
                    part.integers = common::column(&recipe, recipe.deviation, &mut random);
                    part.scale = 60;
                    source.stream.push(part);
                }
            }
            let bytes = encode(&[source], &EncodeOptions::new(2)).unwrap();
            let payload = Payload::open(&bytes, &Limits::default()).unwrap();
            test(&payload.matrices()[0], &recipe, &mut random);
        }
    }
}

fn vector(length: usize, random: &mut Random) -> Vec<f32> {
    (0..length).map(|_| random.gaussian() as f32).collect()
}

#[test]
fn matvec_is_the_contract_on_every_instruction_set() {
    for_each_shape(|matrix, recipe, random| {
        let x = vector(recipe.columns, random);
        let expected = reference(matrix, &x);
        for isa in Isa::all_available() {
            let plan = PreparedMatrix::with_isa(matrix, isa);
            let mut buffer = vec![0; plan.activation_bytes(1, Rounding::OneTerm)];
            let activations = plan.prepare(&x, 1, Rounding::OneTerm, &mut buffer).unwrap();
            let mut y = vec![f32::NAN; recipe.rows];
            let mut scratch = Scratch::with_bytes(plan.matvec_scratch(Rounding::OneTerm));
            plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
            assert_eq!(bits(&y), bits(&expected), "{isa} {recipe:?}");
            let mut y = vec![f32::NAN; recipe.rows];
            plan.matvec_threads(&x, &mut y, 3).unwrap();
            assert_eq!(bits(&y), bits(&expected), "{isa} {recipe:?} on threads");
        }
    });
}

/// A pair table of any legal form that has pairs of all lowest bits.
fn pair_table(random: &mut Random) -> PairTable {
    let mut table = PairTable { smallest: [0; 2], side: [0; 2], frequencies: [vec![], vec![]] };
    // Of parities that fit 64 cells together, and of any.
    let most_side = [3, 7, 16][random.below(3)];
    for q in 0..2 {
        let side = 2 + random.below(most_side - 1);
        let mut frequencies = vec![0u32; side * side];
        for cell in [0, 1, side, side + 1] {
            frequencies[cell] = 1;
        }
        let largest = [8, 60, 251][random.below(3)];
        let mut left = 252;
        while left > 0 {
            let used = frequencies.iter().filter(|&&f| f > 0).count();
            let cell = random.below(side * side);
            if frequencies[cell] > 0 || used < 64 {
                let more = (1 + random.below(largest) as u32).min(left).min(255 - frequencies[cell]);
                frequencies[cell] += more;
                left -= more;
            }
        }
        table.smallest[q] = random.below(3) as i32 - side as i32 / 2 - 1 + 8 * (random.below(8) / 7) as i32;
        table.side[q] = side;
        table.frequencies[q] = frequencies;
    }
    table
}

/// Classes in any order: between two of them kernels may have to change what accumulators hold.
#[test]
fn classes_of_all_kinds_in_any_order_are_the_contract_too() {
    let mut random = Random(17);
    for round in 0..48 {
        let width = [64, 16, 4][round % 3];
        let steps = [1, 2, 3, 16, 17, 33, 34][random.below(7)];
        let full = 64 / width * steps;
        let rows = full * [1, 2, 4, 5, 7][random.below(5)] - random.below(full);
        let trellis = 2;
        let mut plan = Plan {
            rows,
            columns: 0,
            width,
            steps,
            trellis,
            column_kind: 0,
            row_kind: 0,
            tensor_scale: 1.0,
            classes: vec![],
            first: vec![],
            extra: vec![],
            row_scales: vec![],
        };
        let most_chunks = 192 / width;
        for class in 0..2 + random.below(6) {
            plan.classes.push(match random.below(4) {
                0 => Class::Standard(random.below(252) as u32),
                1 => Class::InlinePairs(pair_table(&mut random)),
                _ => Class::StandardPairs(random.below(104) as u32),
            });
            let chunks = 1 + random.below(if round % 4 == 0 { most_chunks } else { most_chunks.min(5) });
            // Padding counts to the first class.
            let columns = chunks * width - if class == 0 { random.below(width) } else { 0 };
            let deviation = random.unit() * 4.0;
            for _ in 0..columns {
                let mut integers: Vec<i32> =
                    (0..rows).map(|_| (deviation * random.gaussian()).round() as i32).collect();
                plan.obey(&mut integers);
                let (input, scale) = (plan.columns as u32, 120 + random.below(16) as u32);
                plan.first.push(Entry { input, class, scale, integers });
                plan.columns += 1;
            }
        }
        let bytes = payload(rows, plan.columns, &[plan.section().bytes()]);
        let payload = Payload::open(&bytes, &Limits::default()).unwrap();
        let matrix = &payload.matrices()[0];
        let x = vector(plan.columns, &mut random);
        for rounding in [Rounding::OneTerm, Rounding::TwoTerms] {
            let expected = bits(&reference_of(matrix, &x, rounding));
            for isa in Isa::all_available() {
                let prepared = PreparedMatrix::with_isa(matrix, isa);
                let mut buffer = vec![0; prepared.activation_bytes(1, rounding)];
                let activations = prepared.prepare(&x, 1, rounding, &mut buffer).unwrap();
                let mut scratch = Scratch::with_bytes(prepared.matvec_scratch(rounding));
                let mut y = vec![f32::NAN; rows];
                prepared.matvec(0..prepared.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                assert_eq!(bits(&y), expected, "{isa} {rounding:?} {:?}", plan.classes);
                let mut batch = vec![f32::NAN; 2 * rows];
                if rounding == Rounding::OneTerm {
                    prepared.matmul_threads(&[&*x, &*x].concat(), 2, &mut batch, 1).unwrap();
                    assert_eq!(bits(&batch), [&*expected, &*expected].concat(), "{isa} {:?}", plan.classes);
                }
            }
        }
    }
}

/// Products with fifteen bits of integers far from zero would leave 32 bits.
#[test]
fn integers_far_from_zero_are_multiplied_exactly() {
    let (rows, columns) = (8, 128);
    let runs = || vec![(0, 128), (1, 128)];
    let table = Table { raw_bits: 4, smallest: [-128, -128], runs: [runs(), runs()] };
    let entry = |input| Entry { input, class: 0, scale: 128, integers: vec![-4092; rows] };
    let plan = Plan {
        rows,
        columns,
        width: 64,
        steps: 8,
        trellis: 0,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![Class::Inline(table)],
        first: (0..columns as u32).map(entry).collect(),
        extra: vec![],
        row_scales: vec![],
    };
    let bytes = payload(rows, columns, &[plan.section().bytes()]);
    let payload = Payload::open(&bytes, &Limits::default()).unwrap();
    let matrix = &payload.matrices()[0];
    let x: Vec<f32> = (0..columns).map(|c| if c < 64 { 1.0 } else { 0.0 }).collect();
    let expected = bits(&reference_of(matrix, &x, Rounding::OneTerm));
    for isa in Isa::all_available() {
        let plan = PreparedMatrix::with_isa(matrix, isa);
        for rounding in Rounding::ALL {
            let mut buffer = vec![0; plan.activation_bytes(1, rounding)];
            let activations = plan.prepare(&x, 1, rounding, &mut buffer).unwrap();
            let mut scratch = Scratch::with_bytes(plan.matvec_scratch(rounding));
            let mut y = vec![f32::NAN; rows];
            plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
            assert_eq!(bits(&y), expected, "{isa} {rounding:?}");
        }
    }
}

#[test]
fn escapes_in_bursts_are_the_contract_too() {
    let mut random = Random(5);
    for _ in 0..20 {
        let source = common::with_bursts(&mut random);
        let columns = source.columns;
        let bytes = encode(&[source], &EncodeOptions::new(1)).unwrap();
        let payload = Payload::open(&bytes, &Limits::default()).unwrap();
        let matrix = &payload.matrices()[0];
        let counts: Vec<usize> = (0..matrix.tile_count()).map(|tile| matrix.escapes(tile).count()).collect();
        assert!(counts.iter().max() > Some(&100) && counts.iter().min() < Some(&5), "{counts:?}");
        let x = vector(columns, &mut random);
        for rounding in [Rounding::OneTerm, Rounding::TwoTerms] {
            let expected = reference_of(matrix, &x, rounding);
            for isa in Isa::all_available() {
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut buffer = vec![0; plan.activation_bytes(1, rounding)];
                let activations = plan.prepare(&x, 1, rounding, &mut buffer).unwrap();
                let mut scratch = Scratch::with_bytes(plan.matvec_scratch(rounding));
                // All tiles, and too few for vectors of lists.
                for first in [0, 4, 6] {
                    let rows = plan.rows_of(first..plan.tiles());
                    let mut y = vec![f32::NAN; rows.len()];
                    plan.matvec(first..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                    assert_eq!(bits(&y), bits(&expected[rows]), "{isa} from tile {first}");
                }
            }
        }
    }
}

#[test]
fn gaps_without_end_and_integers_beyond_the_range_are_refused() {
    // Six tiles of zeros with twenty escapes each; one of them in the third tile has a size to be tried.
    let (rows, columns, steps) = (6 * 32, 64, 32);
    let runs = || vec![(0, 255), (1, 1)];
    let table = Table { raw_bits: 0, smallest: [0, 0], runs: [runs(), runs()] };
    let entry = |input| Entry { input, class: 0, scale: 128, integers: vec![0; rows] };
    let plan = Plan {
        rows,
        columns,
        width: 64,
        steps,
        trellis: 0,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![Class::Inline(table)],
        first: (0..columns as u32).map(entry).collect(),
        extra: vec![],
        row_scales: vec![],
    };
    // Lists of zeros: gaps without an end.
    for length in [1, 8, 9, 15, 16, 40] {
        let mut section = plan.section();
        section.tiles.iter_mut().for_each(|tile| tile.escapes = vec![0; 1 + length]);
        let bytes = payload(rows, columns, &[section.bytes()]);
        let payload = Payload::open(&bytes, &Limits::default()).unwrap();
        let matrix = &payload.matrices()[0];
        let expected = KernelError::Payload(matrix.check_tile(0).unwrap_err());
        for isa in Isa::all_available() {
            let plan = PreparedMatrix::with_isa(matrix, isa);
            let done = plan.matvec_threads(&vec![1.0; columns], &mut vec![0.0; rows], 1);
            assert_eq!(done, Err(expected.clone()), "{isa} {length}");
        }
    }
    for quarter in [2_097_150, 2_097_151, 2_097_152, 4_194_303] {
        for odd in [0, 1] {
            let mut section = plan.section();
            for (index, tile) in section.tiles.iter_mut().enumerate() {
                let code = |place: u64| if (index, place) == (2, 9) { 2 * quarter + odd } else { 3 };
                let escapes: Vec<(u64, u32)> =
                    (0..20).map(|place| (place * 97 + index as u64, code(place))).collect();
                tile.escapes = write_escapes(&escapes, 5);
            }
            let bytes = payload(rows, columns, &[section.bytes()]);
            let payload = Payload::open(&bytes, &Limits::default()).unwrap();
            let matrix = &payload.matrices()[0];
            let x = vec![1.0; columns];
            let expected = matrix.check_tile(2).map(|()| bits(&reference(matrix, &x)));
            // Addends are 4 times the quarter, or the next negative multiple of 4.
            assert_eq!(expected.is_ok(), 4 * (quarter + odd) as i32 <= MAX_INTEGER, "{quarter} {odd}");
            for isa in Isa::all_available() {
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut y = vec![f32::NAN; rows];
                let done = plan.matvec_threads(&x, &mut y, 1).map(|()| bits(&y));
                assert_eq!(done, expected.clone().map_err(KernelError::Payload), "{isa} {quarter} {odd}");
            }
        }
    }
}

#[test]
fn matmul_is_matvec_for_every_vector() {
    for_each_shape(|matrix, recipe, random| {
        for batch in [2, 7, 8, 19, 260] {
            let x = vector(recipe.columns * batch, random);
            let expected: Vec<_> = x.chunks(recipe.columns).map(|x| reference(matrix, x)).collect();
            let expected = bits(&expected.concat());
            for isa in Isa::all_available() {
                if batch == 260 && recipe.rows > 600 {
                    continue;
                }
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut y = vec![f32::NAN; recipe.rows * batch];
                plan.matmul_threads(&x, batch, &mut y, 2).unwrap();
                assert_eq!(bits(&y), expected, "{isa} {recipe:?} batch {batch}");
                let mut buffer = vec![0; plan.activation_bytes(batch, Rounding::OneTerm)];
                let activations = plan.prepare(&x, batch, Rounding::OneTerm, &mut buffer).unwrap();
                let mut scratch = Scratch::with_bytes(plan.matmul_scratch(batch, Rounding::OneTerm));
                plan.matmul(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                assert_eq!(bits(&y), expected, "{isa} {recipe:?} batch {batch}");
            }
        }
    });
}

#[test]
fn a_matrix_decoded_once_has_the_same_products() {
    for_each_shape(|matrix, recipe, random| {
        let cases = [(1, Rounding::TwoTerms), (1, Rounding::Mixed), (5, Rounding::OneTerm)];
        let large = [(19, Rounding::Mixed), (150, Rounding::TwoTerms)];
        for (batch, rounding) in cases.into_iter().chain(large) {
            let x = vector(recipe.columns * batch, random);
            for isa in Isa::all_available() {
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
                let activations = plan.prepare(&x, batch, rounding, &mut buffer).unwrap();
                let mut expected = vec![f32::NAN; recipe.rows * batch];
                let mut scratch = Scratch::with_bytes(plan.matmul_scratch(batch, rounding));
                plan.matmul(0..plan.tiles(), &activations, &mut expected, scratch.as_bytes()).unwrap();

                let expanded = plan.clone().expand().unwrap();
                assert!(expanded.bytes() <= plan.expanding_bytes().unwrap());
                let mut scratch = Scratch::with_bytes(expanded.matmul_scratch(batch, rounding));
                let mut y = vec![f32::NAN; recipe.rows * batch];
                let blocks = expanded.blocks();
                assert_eq!(blocks, recipe.rows.div_ceil(ExpandedMatrix::rows_per_block()));
                // In two parts, which need not be parts of tiles.
                for part in [0..blocks / 3, blocks / 3..blocks] {
                    let rows = expanded.rows_of(part.clone());
                    let mut here = vec![f32::NAN; rows.len() * batch];
                    expanded.matmul(part, &activations, &mut here, scratch.as_bytes()).unwrap();
                    for (vector, here) in here.chunks(rows.len().max(1)).enumerate() {
                        y[vector * recipe.rows..][rows.clone()].copy_from_slice(here);
                    }
                }
                assert_eq!(bits(&y), bits(&expected), "{isa} {recipe:?} {batch} {rounding:?}");

                let beyond = expanded.matmul(0..blocks + 1, &activations, &mut y, scratch.as_bytes());
                assert!(matches!(beyond, Err(KernelError::Shape { what: "block range", .. })));
                let short = expanded.matmul(0..blocks, &activations, &mut y[1..], scratch.as_bytes());
                assert!(matches!(short, Err(KernelError::Shape { what: "results", .. })));
                let small = expanded.matmul(0..blocks, &activations, &mut y, &mut []);
                assert!(matches!(small, Err(KernelError::Scratch { .. })));
            }
        }
    });
}

#[test]
fn integers_and_weights_are_those_of_the_definition() {
    for_each_shape(|matrix, recipe, random| {
        let (rows, columns, width) = (recipe.rows, recipe.columns, matrix.stream_length());
        let height = matrix.geometry().rows_per_tile();
        let mut integers = vec![0; rows * width];
        let mut weights = vec![0.0; rows * columns];
        for tile in 0..matrix.tile_count() {
            let range = tile * height..(tile * height + height).min(rows);
            matrix.decode_tile(tile, &mut integers[range.start * width..range.end * width]).unwrap();
            let weights = &mut weights[range.start * columns..range.end * columns];
            matrix.dequantize_tile(tile, &mut Vec::new(), weights).unwrap();
        }
        let wanted: Vec<u32> = (0..40).map(|_| random.below(rows) as u32).chain([0, 0]).collect();
        for isa in Isa::all_available() {
            let plan = PreparedMatrix::with_isa(matrix, isa);
            let mut scratch = Scratch::with_bytes(plan.decode_scratch().max(plan.dequantize_scratch()));
            let mut got = vec![-1; integers.len()];
            plan.decode_rows(0..plan.tiles(), &mut got, scratch.as_bytes()).unwrap();
            assert!(got == integers, "{isa} {recipe:?}");
            let mut got = vec![f32::NAN; weights.len()];
            plan.dequantize_rows(0..plan.tiles(), &mut got, scratch.as_bytes()).unwrap();
            assert!(bits(&got) == bits(&weights), "{isa} {recipe:?}");
            let last = plan.tiles() - 1;
            let rows_of_last = plan.rows_of(last..last + 1);
            let got = &mut got[..rows_of_last.len() * columns];
            plan.dequantize_rows(last..last + 1, got, scratch.as_bytes()).unwrap();
            assert!(bits(got) == bits(&weights[rows_of_last.start * columns..]), "{isa} {recipe:?}");
            let mut got = vec![f32::NAN; wanted.len() * columns];
            plan.get_rows(&wanted, &mut got, scratch.as_bytes()).unwrap();
            for (row, got) in wanted.iter().zip(got.chunks(columns)) {
                let row = *row as usize;
                assert!(bits(got) == bits(&weights[row * columns..(row + 1) * columns]), "{isa} {recipe:?}");
            }
        }
    });
}

#[test]
fn finer_roundings_are_the_contract_and_better() {
    for_each_shape(|matrix, recipe, random| {
        for (rounding, batch) in [Rounding::TwoTerms, Rounding::Mixed]
            .into_iter()
            .flat_map(|rounding| [1, 3, 150].map(|batch| (rounding, batch)))
        {
            let mut x = vector(recipe.columns * batch, random);
            // One column has nearly all of the energy.
            x.iter_mut().step_by(recipe.columns).for_each(|x| *x *= 500.0);
            let expected: Vec<_> =
                x.chunks(recipe.columns).map(|x| reference_of(matrix, x, rounding)).collect();
            let mut weights = vec![0.0; recipe.rows * recipe.columns];
            let height = matrix.geometry().rows_per_tile();
            for (tile, weights) in weights.chunks_mut(height * recipe.columns).enumerate() {
                matrix.dequantize_tile(tile, &mut Vec::new(), weights).unwrap();
            }
            // Values below a 254th of their group's largest are lost to the first term, and their errors are small to
            // begin with.
            let (mut coarse, mut fine, mut energy) = (0.0, 0.0, 0.0);
            for (x, y) in x.chunks(recipe.columns).zip(&expected) {
                let rounded = reference(matrix, x);
                for (weights, (y, rounded)) in weights.chunks(recipe.columns).zip(y.iter().zip(rounded)) {
                    let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    coarse += (exact - f64::from(rounded)).powi(2);
                    fine += (exact - f64::from(*y)).powi(2);
                    energy += exact * exact;
                }
            }
            // Of several groups only one has the large column.
            let better = if rounding == Rounding::TwoTerms { 50.0 } else { 1.0 };
            assert!(
                fine <= coarse / better + 1e-12 * energy,
                "{coarse} {fine} {energy} {recipe:?} {rounding:?}"
            );
            let expected = bits(&expected.concat());
            for isa in Isa::all_available() {
                if batch == 150 && recipe.rows > 600 {
                    continue;
                }
                let plan = PreparedMatrix::with_isa(matrix, isa);
                let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
                let activations = plan.prepare(&x, batch, rounding, &mut buffer).unwrap();
                let mut scratch = Scratch::with_bytes(plan.matmul_scratch(batch, rounding));
                let mut y = vec![f32::NAN; recipe.rows * batch];
                plan.matmul(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                assert_eq!(bits(&y), expected, "{isa} {recipe:?} {rounding:?} batch {batch}");
                if batch == 1 {
                    plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
                    assert_eq!(bits(&y), expected, "{isa} {recipe:?} {rounding:?} matvec");
                }
                // In parts, in any order.
                let mut other = vec![0xA5; buffer.len()];
                let activations = plan.prepare_by(&x, batch, rounding, &mut other, |whole| {
                    let (mut a, b) = whole.halves();
                    let (mut b, mut c) = b.halves();
                    c.run();
                    a.run();
                    b.run();
                });
                plan.matmul(0..plan.tiles(), &activations.unwrap(), &mut y, scratch.as_bytes()).unwrap();
                assert_eq!(bits(&y), expected, "{isa} {recipe:?} {rounding:?} batch {batch} in parts");
            }
        }
    });
}
