//! Properties of the quantizer on generated layers.
#![cfg(feature = "convert")]

use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Payload, QuantizedMatrix, ScaleKind, MAX_INTEGER};
use wsic::quantize::entropy::class_entropy;
use wsic::quantize::{
    reconstruct, search, Covariance, Drift, GaussianLimit, Layer, Method, Prepared, QuantizeError,
    RateTarget, Settings,
};

/// Roughly normal numbers, always the same.
struct Generator(u64);

impl Generator {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

struct Generated {
    rows: usize,
    columns: usize,
    weights: Vec<f32>,
    covariance: Vec<f32>,
}

impl Generated {
    /// Normal weights; inputs of uneven strength, correlated along the columns.
    fn new(rows: usize, columns: usize, seed: u64) -> Self {
        let mut random = Generator(seed);
        let weights = (0..rows * columns).map(|_| 0.05 * random.normal() as f32).collect();
        let strength: Vec<f64> = (0..columns).map(|_| (0.7 * random.normal()).exp()).collect();
        let covariance = (0..columns * columns)
            .map(|index| {
                let (i, j) = (index / columns, index % columns);
                (strength[i] * strength[j] * 0.9f64.powi(i.abs_diff(j) as i32)) as f32
            })
            .collect();
        Self { rows, columns, weights, covariance }
    }

    /// Multiplies the strength of one input.
    fn amplify(&mut self, column: usize, factor: f32) {
        for other in 0..self.columns {
            self.covariance[column * self.columns + other] *= factor;
            self.covariance[other * self.columns + column] *= factor;
        }
    }

    fn layer(&self) -> Layer<'_> {
        Layer::new("generated", self.rows, self.columns, &self.weights, Covariance::Full(&self.covariance))
    }

    fn variance(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / self.weights.len() as f64
    }

    /// tr((Ŵ−W) Sigma (Ŵ−W)ᵀ) without any shortcut.
    fn distortion(&self, quantized: &[f32]) -> f64 {
        let n = self.columns;
        let mut total = 0.0;
        for (a, b) in quantized.chunks(n).zip(self.weights.chunks(n)) {
            let delta: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
            for i in 0..n {
                let row = &self.covariance[i * n..][..n];
                let sum: f64 = row.iter().zip(&delta).map(|(s, d)| f64::from(*s) * d).sum();
                total += sum * delta[i];
            }
        }
        total
    }
}

fn geometry() -> Geometry {
    Geometry::new(16, 64).unwrap()
}

fn quantize(generated: &Generated, settings: &Settings, c: f64) -> QuantizedMatrix {
    let layer = generated.layer();
    Prepared::new(&layer, settings, c).unwrap().quantize(c).unwrap()
}

/// Every path of every stream column must be a path of the trellis.
fn assert_obeys_trellis(matrix: &QuantizedMatrix) {
    for column in &matrix.stream {
        assert_eq!(column.integers.len(), matrix.rows);
        assert!((column.input as usize) < matrix.columns);
        for path in matrix.geometry.paths(matrix.rows) {
            let mut state = 0;
            for step in 0..path.len {
                let m = column.integers[path.first + step * path.stride];
                assert!(m.abs() <= MAX_INTEGER);
                assert_eq!(m.rem_euclid(2), matrix.trellis.parity(state), "parity of {m} in state {state}");
                state = matrix.trellis.next(state, m);
            }
        }
    }
}

const METHODS: [Method; 5] = [
    Method::Trellis,
    Method::WaterSic { rescale: false },
    Method::WaterSic { rescale: true },
    Method::Gptq,
    Method::RoundToNearest,
];

#[test]
fn every_method_obeys_its_trellis_and_reports_its_true_distortion() {
    let generated = Generated::new(150, 70, 1);
    for method in METHODS {
        for geometry in [geometry(), Geometry::new(4, 3).unwrap(), Geometry::new(64, 128).unwrap()] {
            let layer = generated.layer();
            let settings = Settings::new(method, geometry);
            let prepared = Prepared::new(&layer, &settings, 0.02).unwrap();
            let matrix = prepared.quantize(0.02).unwrap();
            assert_obeys_trellis(&matrix);
            let truth = generated.distortion(&reconstruct(&matrix));
            let report = prepared.report(&matrix, 0.02);
            assert!(
                (report.distortion / truth - 1.0).abs() < 1e-3,
                "{method:?}: {} {truth}",
                report.distortion
            );
            assert!((report.relative_loss - truth / generated.distortion(&vec![0.0; 150 * 70])).abs() < 1e-4);
            assert_eq!(report.weighted_distortion, report.distortion);
        }
    }
}

#[test]
fn methods_rank_by_their_distance_from_the_gaussian_limit() {
    let generated = Generated::new(1024, 192, 2);
    let limit = GaussianLimit::new(&generated.covariance, 192, generated.variance()).unwrap();
    for bits in [1.5, 2.0, 3.0] {
        let gap = |method| {
            let settings = Settings::new(method, Geometry::new(4, 64).unwrap());
            let target = RateTarget { evaluations: 6, ..RateTarget::new(bits) };
            let measure = |matrix: &QuantizedMatrix| Ok((class_entropy(matrix, 16), ()));
            let found = search(&generated.layer(), &settings, &target, measure).unwrap();
            assert!((found.bits / bits - 1.0).abs() <= 0.003, "{method:?} {bits}: {}", found.bits);
            found.bits - limit.rate(found.report.distortion / 1024.0)
        };
        let [trellis, watersic, _, gptq, nearest] = METHODS.map(gap);
        println!(
            "{bits} bits: trellis {trellis:.3}, WaterSIC {watersic:.3}, GPTQ {gptq:.3}, nearest {nearest:.3}"
        );
        assert!((0.0..=0.125).contains(&trellis), "{trellis}");
        assert!((0.25..=0.4).contains(&watersic), "{watersic}");
        assert!(watersic < gptq && gptq < nearest);
    }
}

#[test]
fn a_pilot_saves_escapes_at_the_same_rate_and_error() {
    let generated = Generated::new(1024, 192, 11);
    for c in [0.025, 0.015] {
        let [free, by_pilot] = [None, Some(EncodeOptions::FAST)].map(|worth_of_pairs| {
            let settings = Settings { worth_of_pairs, ..Settings::new(Method::Trellis, geometry()) };
            let matrix = quantize(&generated, &settings, c);
            assert_obeys_trellis(&matrix);
            let distortion = generated.distortion(&reconstruct(&matrix));
            let options = EncodeOptions { worth_of_pairs: EncodeOptions::FAST, ..EncodeOptions::new(1) };
            let bytes = encode(&[matrix], &options).unwrap();
            let payload = Payload::open(&bytes, &Limits::default()).unwrap();
            let coded = &payload.matrices()[0];
            let escapes: usize = (0..coded.tile_count()).map(|tile| coded.escapes(tile).count()).sum();
            let weights = (generated.rows * generated.columns) as f64;
            let bits = bytes.len() as f64 * 8.0 / weights;
            // Bits at the error of one unit: six decibels are a bit.
            (escapes, bits, bits + 0.5 * (distortion / weights).log2())
        });
        println!("step {c}: {free:?}, with a pilot {by_pilot:?}");
        assert!((1.0..3.0).contains(&free.1), "{} bits: pairs below three bits only", free.1);
        assert!(4 * by_pilot.0 < 3 * free.0, "{} escapes of {}", by_pilot.0, free.0);
        assert!(by_pilot.2 < free.2 + 0.003, "{:.4} bits of {:.4}", by_pilot.2, free.2);
    }
}

#[test]
fn massive_activations_survive() {
    for (method, ratio) in METHODS.map(|method| (method, 1000.0)) {
        let mut generated = Generated::new(130, 64, 3);
        generated.amplify(17, ratio);
        let c = if matches!(method, Method::Gptq | Method::RoundToNearest) { 1e-5 } else { 0.002 };
        let matrix = quantize(&generated, &Settings::new(method, geometry()), c);
        assert_obeys_trellis(&matrix);
        let parts: Vec<_> = matrix.stream.iter().filter(|s| s.input == 17).collect();
        assert!(parts.len() > 1, "{method:?}: the column is split");
        for part in parts {
            let beyond = part.integers.iter().filter(|m| m.abs() > 127).count();
            assert!(beyond * 16 <= part.integers.len(), "{method:?}: {beyond} integers do not fit a class");
        }
        let weights = reconstruct(&matrix);
        let largest = (0..130)
            .map(|r| (weights[r * 64 + 17] - generated.weights[r * 64 + 17]).abs())
            .fold(0.0, f32::max);
        assert!(largest < 2e-4, "{method:?}: {largest}");
        let relative = generated.distortion(&weights) / generated.distortion(&vec![0.0; weights.len()]);
        assert!(relative < 1e-6, "{method:?}: {relative}");
    }
}

#[test]
fn integers_beyond_thirty_thousand_are_exact() {
    let mut generated = Generated::new(64, 48, 4);
    generated.amplify(5, 1000.0);
    let c = 2e-5;
    let matrix = quantize(&generated, &Settings::new(Method::Trellis, geometry()), c);
    let mut total = vec![0i64; 64];
    let finest = matrix.stream.iter().filter(|s| s.input == 5).map(|s| s.scale).min().unwrap();
    for part in matrix.stream.iter().filter(|s| s.input == 5) {
        let ratio = 1i64 << ((part.scale - finest) / 8);
        total.iter_mut().zip(&part.integers).for_each(|(t, &m)| *t += ratio * i64::from(m));
    }
    assert!(total.iter().any(|t| t.abs() > 30_000), "{:?}", total.iter().map(|t| t.abs()).max());
    let step = f64::from(matrix.tensor_scale) * (f64::from(finest) / 8.0).exp2();
    for (row, &t) in total.iter().enumerate() {
        let w = f64::from(generated.weights[row * 48 + 5]);
        assert!((w - t as f64 * step).abs() < 8.0 * step, "row {row}");
    }
}

#[test]
fn dead_inputs_cost_nothing() {
    let mut generated = Generated::new(96, 40, 5);
    generated.amplify(0, 0.0);
    generated.amplify(39, 0.0);
    for method in METHODS {
        let matrix = quantize(&generated, &Settings::new(method, geometry()), 0.02);
        assert!(matrix.stream.iter().all(|s| s.input != 0 && s.input != 39), "{method:?}");
        assert!(matrix.stream.iter().all(|s| s.integers.iter().any(|&m| m != 0)));
    }
}

#[test]
fn weak_inputs_are_erased_by_watersic_and_their_share_is_compensated() {
    let mut generated = Generated::new(96, 40, 6);
    generated.amplify(7, 0.01);
    let settings = Settings::new(Method::WaterSic { rescale: false }, geometry());
    let layer = generated.layer();
    let prepared = Prepared::new(&layer, &settings, 2e-5).unwrap();
    let matrix = prepared.quantize(2e-5).unwrap();
    assert!(matrix.stream.iter().all(|s| s.input != 7));
    let truth = generated.distortion(&reconstruct(&matrix));
    let report = prepared.report(&matrix, 2e-5);
    assert!((report.distortion / truth - 1.0).abs() < 1e-3, "{} {truth}", report.distortion);
    let whole = generated.distortion(&vec![0.0; 96 * 40]);
    assert!((report.relative_loss / (truth / whole) - 1.0).abs() < 1e-3);
    // Setting the column to zero without moving the others would lose more.
    let mut zeroed = generated.weights.clone();
    zeroed.iter_mut().skip(7).step_by(40).for_each(|w| *w = 0.0);
    assert!(truth < 0.5 * generated.distortion(&zeroed), "{truth} {}", generated.distortion(&zeroed));
}

#[test]
fn extreme_shapes_work() {
    for (rows, columns) in [(1, 1), (1, 33), (50, 1), (3, 17), (257, 20), (1025, 5)] {
        let generated = Generated::new(rows, columns, 7);
        for method in METHODS {
            let matrix = quantize(&generated, &Settings::new(method, geometry()), 0.004);
            assert_obeys_trellis(&matrix);
            let relative = generated.distortion(&reconstruct(&matrix))
                / generated.distortion(&vec![0.0; rows * columns]);
            assert!(relative < 0.1, "{method:?} {rows} x {columns}: {relative}");
        }
    }
}

#[test]
fn zero_weights_give_an_empty_stream() {
    let mut generated = Generated::new(40, 30, 8);
    generated.weights.fill(0.0);
    for method in METHODS {
        let settings = Settings::new(method, geometry());
        assert!(quantize(&generated, &settings, 0.02).stream.is_empty());
        let found =
            search(&generated.layer(), &settings, &RateTarget::new(2.0), |m| Ok((class_entropy(m, 16), ())))
                .unwrap();
        assert_eq!((found.evaluations, found.bits, found.report.distortion), (1, 0.0, 0.0));
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let good = Generated::new(8, 6, 9);
    let settings = Settings::new(Method::Trellis, geometry());
    let error = |layer: &Layer<'_>| Prepared::new(layer, &settings, 0.02).unwrap_err().to_string();
    let mut weights = good.weights.clone();
    weights[13] = f32::NAN;
    assert_eq!(
        error(&Layer { weights: &weights, ..good.layer() }),
        "generated: weights[13] is NaN, expected a finite number"
    );
    assert_eq!(error(&Layer { rows: 9, ..good.layer() }), "generated: weights has 48 elements, expected 54");
    assert!(error(&Layer { columns: 0, ..good.layer() }).contains("8 x 0"));
    let mut covariance = good.covariance.clone();
    covariance[14] = -1.0;
    let message = error(&Layer { covariance: Covariance::Full(&covariance), ..good.layer() });
    assert_eq!(message, "generated: diagonal of the covariance[2] is -1, expected zero or more");
    covariance[14] = f32::INFINITY;
    assert!(
        error(&Layer { covariance: Covariance::Full(&covariance), ..good.layer() }).contains("[14] is inf")
    );
    let zero = vec![0.0f32; 36];
    assert!(error(&Layer { covariance: Covariance::Full(&zero), ..good.layer() })
        .contains("no input was ever active"));
    let mut indefinite = vec![1.0f32; 36];
    indefinite[1] = 50.0;
    let message = error(&Layer { covariance: Covariance::Full(&indefinite), ..good.layer() });
    assert!(message.contains("not positive definite at column 1"), "{message}");
    assert!(error(&Layer { row_weights: Some(&[1.0; 7]), ..good.layer() }).contains("row weights has 7"));
    let negative = [1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    assert!(error(&Layer { row_weights: Some(&negative), ..good.layer() }).contains("row weights[1] is -1"));
    let diagonal = [1.0f32; 6];
    let drift = Some(Drift::Inputs { cross: &good.covariance });
    let layer = Layer { covariance: Covariance::Diagonal(&diagonal), drift, ..good.layer() };
    assert!(error(&layer).contains("needs a full covariance"));
    for c in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            Prepared::new(&good.layer(), &settings, c),
            Err(QuantizeError::Setting { setting: "step c", .. })
        ));
    }
    let layer = good.layer();
    assert!(Prepared::new(&layer, &settings, 0.02).unwrap().quantize(1e-60).is_err());
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let generated = Generated::new(700, 150, 10);
    for method in METHODS {
        let settings = Settings::new(method, geometry());
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let measure = |m: &QuantizedMatrix| Ok((class_entropy(m, 16), ()));
                let found = search(&generated.layer(), &settings, &RateTarget::new(2.2), measure).unwrap();
                (found.matrix, found.report, found.bits.to_bits(), found.evaluations)
            })
        };
        let one = run(1);
        assert_eq!(one, run(2), "{method:?}");
        assert_eq!(one, run(3), "{method:?}");
    }
}

#[test]
fn search_meets_any_target_and_hands_back_the_best_evaluation() {
    let generated = Generated::new(512, 96, 11);
    let settings = Settings::new(Method::Trellis, geometry());
    for bits in [0.5, 1.0, 2.1, 3.7, 6.0] {
        let mut calls = 0;
        let measure = |m: &QuantizedMatrix| {
            calls += 1;
            Ok((class_entropy(m, 16) + 0.05, m.stream.len()))
        };
        let target = RateTarget { evaluations: 6, ..RateTarget::new(bits) };
        let found = search(&generated.layer(), &settings, &target, measure).unwrap();
        assert!((found.bits / bits - 1.0).abs() <= 0.003, "{bits}: {}", found.bits);
        assert_eq!(found.evaluations, calls);
        assert_eq!(found.value, found.matrix.stream.len());
    }
    let out_of_reach =
        search(&generated.layer(), &settings, &RateTarget::new(2.0), |_| Ok((7.0, ()))).unwrap();
    assert_eq!((out_of_reach.bits, out_of_reach.evaluations), (7.0, 4));
    let failing =
        search::<()>(&generated.layer(), &settings, &RateTarget::new(2.0), |_| Err("disk full".into()));
    let error = failing.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "disk full");
    assert!(search(&generated.layer(), &settings, &RateTarget::new(0.0), |_| Ok((1.0, ()))).is_err());
}

#[test]
fn row_weights_move_the_error_to_rows_that_matter_less() {
    let generated = Generated::new(256, 64, 12);
    let weights: Vec<f32> = (0..256).map(|r| if r % 2 == 0 { 16.0 } else { 1.0 }).collect();
    for method in [Method::Trellis, Method::WaterSic { rescale: true }] {
        let settings = Settings::new(method, geometry());
        let layer = Layer { row_weights: Some(&weights), ..generated.layer() };
        let prepared = Prepared::new(&layer, &settings, 0.02).unwrap();
        let matrix = prepared.quantize(0.02).unwrap();
        let (kind, codes) = matrix.row_scales.as_ref().unwrap();
        assert_eq!(codes.len(), 256);
        if method == Method::Trellis {
            assert_eq!(*kind, ScaleKind::Log8);
            assert!(codes.iter().all(|c| c % 2 == 0), "quarter octaves");
            assert_eq!(codes[1] - codes[0], 16, "a factor of 4 in amplitude");
        }
        let quantized = reconstruct(&matrix);
        let part = |parity: usize| {
            let mut only = generated.weights.clone();
            for row in (0..256).filter(|r| r % 2 == parity) {
                only[row * 64..][..64].copy_from_slice(&quantized[row * 64..][..64]);
            }
            generated.distortion(&only)
        };
        let ratio = part(1) / part(0);
        assert!((10.0..=24.0).contains(&ratio), "{method:?}: {ratio}");
        let report = prepared.report(&matrix, 0.02);
        let total = part(0) + part(1);
        assert!((report.distortion / total - 1.0).abs() < 1e-3);
        assert!(report.weighted_relative_loss < report.relative_loss);
    }
}

#[test]
fn a_diagonal_covariance_equals_a_full_one_without_correlations() {
    let mut generated = Generated::new(200, 32, 13);
    let diagonal: Vec<f32> = (0..32).map(|j| generated.covariance[j * 33]).collect();
    generated.covariance.fill(0.0);
    (0..32).for_each(|j| generated.covariance[j * 33] = diagonal[j]);
    for method in METHODS {
        let settings = Settings::new(method, geometry());
        let full = quantize(&generated, &settings, 0.03);
        let layer = Layer { covariance: Covariance::Diagonal(&diagonal), ..generated.layer() };
        let prepared = Prepared::new(&layer, &settings, 0.03).unwrap();
        let matrix = prepared.quantize(0.03).unwrap();
        assert_obeys_trellis(&matrix);
        let differing: usize = full
            .stream
            .iter()
            .zip(&matrix.stream)
            .map(|(a, b)| a.integers.iter().zip(&b.integers).filter(|(a, b)| a != b).count())
            .sum();
        assert_eq!(full.stream.len(), matrix.stream.len());
        assert!(differing * 200 < 200 * 32, "{method:?}: only ties of rounding may differ, not {differing}");
        let truth = generated.distortion(&reconstruct(&matrix));
        assert!((prepared.report(&matrix, 0.03).distortion / truth - 1.0).abs() < 1e-3);
    }
}

#[test]
fn double_and_single_precision_covariances_agree() {
    let generated = Generated::new(64, 24, 14);
    let double: Vec<f64> = generated.covariance.iter().map(|&v| f64::from(v)).collect();
    let settings = Settings::new(Method::Trellis, geometry());
    let layer = Layer { covariance: Covariance::Full64(&double), ..generated.layer() };
    let matrix = Prepared::new(&layer, &settings, 0.02).unwrap().quantize(0.02).unwrap();
    assert_eq!(matrix, quantize(&generated, &settings, 0.02));
}

/// W C, with C row-major.
fn product(weights: &[f32], cross: &[f32], columns: usize) -> Vec<f32> {
    let value = |row: &[f32], j: usize| -> f64 {
        row.iter().enumerate().map(|(i, &w)| f64::from(w) * f64::from(cross[i * columns + j])).sum()
    };
    weights.chunks(columns).flat_map(|row| (0..columns).map(move |j| value(row, j) as f32)).collect()
}

#[test]
fn drift_statistics_of_an_undisturbed_input_change_nothing() {
    let generated = Generated::new(128, 40, 15);
    let settings = Settings::new(Method::Trellis, geometry());
    let target = product(&generated.weights, &generated.covariance, 40);
    let diagonal: Vec<f32> = generated.covariance.iter().copied().step_by(41).collect();
    for drift in [
        Drift::Inputs { cross: &generated.covariance },
        Drift::Outputs { target: &target, diagonal: &diagonal },
    ] {
        let layer = Layer { drift: Some(drift), ..generated.layer() };
        let matrix = Prepared::new(&layer, &settings, 0.01).unwrap().quantize(0.01).unwrap();
        let plain = quantize(&generated, &settings, 0.01);
        let ratio = generated.distortion(&reconstruct(&matrix)) / generated.distortion(&reconstruct(&plain));
        assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
    }
}

#[test]
fn drift_correction_undoes_a_scaled_input() {
    // Quantized layers upstream halved the input: x' = x / 2, so the best weights are 2 W.
    let mut generated = Generated::new(128, 40, 16);
    let cross: Vec<f32> = generated.covariance.iter().map(|v| 0.5 * v).collect();
    generated.covariance.iter_mut().for_each(|v| *v *= 0.25);
    let settings = Settings::new(Method::Trellis, geometry());
    let layer = Layer { drift: Some(Drift::Inputs { cross: &cross }), ..generated.layer() };
    let matrix = Prepared::new(&layer, &settings, 0.001).unwrap().quantize(0.001).unwrap();
    let quantized = reconstruct(&matrix);
    generated.weights.iter_mut().for_each(|w| *w *= 2.0);
    let relative = generated.distortion(&quantized) / generated.distortion(&vec![0.0; 128 * 40]);
    assert!(relative < 1e-3, "{relative}");
}

#[test]
fn shrinkage_takes_the_share_from_every_correlation() {
    let generated = Generated::new(128, 40, 17);
    let shrunk = |values: &[f32]| -> Vec<f64> {
        let factor = |index: usize| if index.is_multiple_of(41) { 1.0 } else { 1.0 - 0.125 };
        values.iter().enumerate().map(|(index, &v)| f64::from(v) * factor(index)).collect()
    };
    let by_hand = shrunk(&generated.covariance);
    let cross: Vec<f32> = shrunk(&generated.covariance).iter().map(|&v| v as f32).collect();
    let target = product(&generated.weights, &generated.covariance, 40);
    let less = product(&generated.weights, &cross, 40);
    let diagonal: Vec<f32> = generated.covariance.iter().copied().step_by(41).collect();
    let settings = Settings::new(Method::Trellis, geometry());
    let shrinking = Settings { shrinkage: 0.125, ..settings };
    let inputs = |cross| Some(Drift::Inputs { cross });
    let outputs = |target| Some(Drift::Outputs { target, diagonal: &diagonal });
    for (corrected, expected) in [
        (None, None),
        (inputs(generated.covariance.as_slice()), inputs(cross.as_slice())),
        (outputs(target.as_slice()), outputs(less.as_slice())),
    ] {
        let layer = Layer { drift: corrected, ..generated.layer() };
        let matrix = Prepared::new(&layer, &shrinking, 0.02).unwrap().quantize(0.02).unwrap();
        let layer = Layer { covariance: Covariance::Full64(&by_hand), drift: expected, ..generated.layer() };
        let wanted = Prepared::new(&layer, &settings, 0.02).unwrap().quantize(0.02).unwrap();
        assert_eq!(matrix.stream.len(), wanted.stream.len());
        let pairs = matrix.stream.iter().zip(&wanted.stream);
        let differing: usize =
            pairs.map(|(a, b)| a.integers.iter().zip(&b.integers).filter(|(a, b)| a != b).count()).sum();
        assert!(differing * 500 < 128 * 40, "only ties of rounding may differ, not {differing}");
        assert_ne!(matrix, quantize(&generated, &settings, 0.02));
    }
    let wrong = Settings { shrinkage: 1.0, ..settings };
    let error = Prepared::new(&generated.layer(), &wrong, 0.02).unwrap_err();
    assert!(error.to_string().contains("shrinkage is 1"), "{error}");
}
