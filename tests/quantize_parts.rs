//! Matrices that are quantized part by part give the bytes of the whole.
#![cfg(feature = "convert")]

use std::ops::Range;
use std::sync::Mutex;
use wsic::payload::encode::{encode, EncodeOptions, Section};
use wsic::payload::{Geometry, QuantizedMatrix};
use wsic::quantize::{
    search, Covariance, Layer, MeasureError, Method, PartedLayer, Prepared, QuantizeError, RateModel,
    RateTarget, Settings,
};

const ROWS: usize = 700;
const COLUMNS: usize = 48;

fn weights() -> Vec<f32> {
    let mut state = 7u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut weights: Vec<f32> =
        (0..ROWS * COLUMNS).map(|_| uniform() + uniform() + uniform() + uniform()).collect();
    for row in 0..ROWS {
        // Only the second part needs coarse columns for this one; the first has nothing of the next.
        weights[row * COLUMNS + 5] *= if row / 256 == 1 { 300.0 } else { 1.0 };
        weights[row * COLUMNS + 6] *= if row < 256 { 0.0 } else { 1.0 };
        weights[row * COLUMNS + 7] = 0.0;
    }
    weights
}

fn covariance() -> Vec<f32> {
    (0..COLUMNS * COLUMNS)
        .map(|index| {
            let (i, j) = (index / COLUMNS, index % COLUMNS);
            let strength = |i: usize| 1.0 + (i * 13 % 7) as f32;
            strength(i) * strength(j) * 0.8f32.powi(i.abs_diff(j) as i32)
        })
        .collect()
}

fn settings(method: Method) -> Settings {
    // Groups of 8 tiles of 32 rows.
    Settings::new(method, Geometry::new(16, 8).unwrap())
}

type Read<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) -> Result<(), MeasureError> + Sync + 'a>;

fn reader<'a>(weights: &'a [f32], longest: &'a Mutex<usize>) -> Read<'a> {
    Box::new(move |rows, out| {
        let mut longest = longest.lock().unwrap();
        *longest = rows.len().max(*longest);
        out.copy_from_slice(&weights[rows.start * COLUMNS..rows.end * COLUMNS]);
        Ok(())
    })
}

fn bytes(matrix: &QuantizedMatrix) -> Vec<u8> {
    encode(std::slice::from_ref(matrix), &EncodeOptions::default()).unwrap()
}

#[test]
fn parts_give_the_bytes_of_the_whole() {
    let (weights, covariance) = (weights(), covariance());
    let diagonal: Vec<f32> = covariance.iter().copied().step_by(COLUMNS + 1).collect();
    let row_weights: Vec<f32> = (0..ROWS).map(|row| 1.0 + (row * 31 % 17) as f32).collect();
    let free = settings(Method::Trellis);
    let by_pilot = Settings { worth_of_pairs: Some(EncodeOptions::FAST), ..free };
    for covariance in [Covariance::Full(&covariance), Covariance::Diagonal(&diagonal)] {
        for (row_weights, settings) in [(None, free), (Some(row_weights.as_slice()), by_pilot)] {
            let longest = Mutex::new(0);
            let read = reader(&weights, &longest);
            let layer = Layer { row_weights, ..Layer::new("whole", ROWS, COLUMNS, &weights, covariance) };
            let whole = Prepared::new(&layer, &settings, 0.4).unwrap().quantize(0.4).unwrap();
            let inputs: Vec<u32> = whole.stream.iter().map(|column| column.input).collect();
            assert!(inputs.len() >= COLUMNS && inputs.contains(&6) && !inputs.contains(&7), "{inputs:?}");
            for part_weights in [1, 600 * COLUMNS, usize::MAX] {
                let parts = PartedLayer::new(
                    "parts",
                    (ROWS, COLUMNS),
                    covariance,
                    row_weights,
                    &settings,
                    part_weights,
                    &read,
                )
                .unwrap();
                let parted = parts.quantize(0.4).unwrap();
                let section = Section::new(&parted, &EncodeOptions::new(2)).unwrap();
                let expected = bytes(&whole);
                assert_eq!(section.payload_len(), expected.len());
                assert_eq!(Section::join(&[section]).unwrap(), expected);
                if part_weights == 1 {
                    assert_eq!(*longest.lock().unwrap(), 256);
                }
                let (one, other) =
                    (parts.rate_model(2.0).unwrap(), RateModel::new(&layer, &settings, 2.0).unwrap());
                assert_eq!(one.step(2.0), other.step(2.0));
            }
        }
    }
}

#[test]
fn the_search_finds_the_same_step() {
    let (weights, covariance) = (weights(), covariance());
    let settings = settings(Method::Trellis);
    let target = RateTarget::new(2.5);
    let bits = |bytes: usize| bytes as f64 * 8.0 / (ROWS * COLUMNS) as f64;
    let layer = Layer::new("whole", ROWS, COLUMNS, &weights, Covariance::Full(&covariance));
    let whole = search(&layer, &settings, &target, |matrix| Ok((bits(bytes(matrix).len()), ()))).unwrap();
    assert!(whole.evaluations > 1);
    let longest = Mutex::new(0);
    let read = reader(&weights, &longest);
    let shape = (ROWS, COLUMNS);
    let parts =
        PartedLayer::new("parts", shape, Covariance::Full(&covariance), None, &settings, 1, &read).unwrap();
    let measure = |matrix: &_| {
        let section = Section::new(matrix, &EncodeOptions::default())?;
        Ok((bits(section.payload_len()), section))
    };
    assert_eq!(Section::join(&[parts.search(&target, measure).unwrap()]).unwrap(), bytes(&whole.matrix));
}

#[test]
fn bad_parts_are_refused_by_name() {
    let (mut weights, covariance) = (weights(), covariance());
    let settings = settings(Method::Trellis);
    let longest = Mutex::new(0);
    let open = |settings: &Settings, read: &Read<'_>| {
        let covariance = Covariance::Full(&covariance);
        PartedLayer::new("parts", (ROWS, COLUMNS), covariance, None, settings, 1, read).map(|_| ())
    };
    weights[500 * COLUMNS + 3] = f32::NAN;
    let error = open(&settings, &reader(&weights, &longest)).unwrap_err();
    let at = 500 * COLUMNS + 3;
    assert!(matches!(error, QuantizeError::Value { index, .. } if index == at), "{error}");

    let broken: Read<'_> = Box::new(|_, _| Err("no disk".into()));
    let error = open(&settings, &broken).unwrap_err();
    assert!(
        matches!(&error, QuantizeError::Read { source, .. } if source.to_string() == "no disk"),
        "{error}"
    );

    let error = open(&self::settings(Method::Gptq), &broken).unwrap_err();
    assert!(matches!(error, QuantizeError::Unsupported { .. }), "{error}");
}
