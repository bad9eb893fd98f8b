//! Time of the quantizer's passes on synthetic layers: `cargo bench --bench quantize [-- ROWSxCOLUMNS ...]`.

use std::hint::black_box;
use std::time::Instant;
use wsic::payload::{Geometry, Trellis};
use wsic::quantize::viterbi::{Lanes, Viterbi};
use wsic::quantize::{Covariance, Layer, Method, Prepared, Settings};

/// Roughly normal numbers, always the same.
struct Generator(u64);

impl Generator {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u32 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

fn seconds(repeats: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..repeats {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn viterbi() {
    let steps = 128;
    let mut random = Generator(1);
    let targets: Vec<Lanes> = (0..steps).map(|_| std::array::from_fn(|_| 3.0 * random.normal())).collect();
    let mut integers = targets.clone();
    let mut search = Viterbi::default();
    let searches = [
        (Trellis::EightState, f32::INFINITY),
        (Trellis::Pairs, f32::INFINITY),
        (Trellis::Pairs, 77.0),
        (Trellis::Scalar, f32::INFINITY),
    ];
    for (trellis, reach) in searches {
        let time = seconds(20, || {
            for _ in 0..200 {
                search.search(trellis, reach, black_box(&targets), 1.0, &[steps; 8], &mut integers);
                black_box(&integers);
            }
        });
        println!(
            "search of 8 paths x {steps}, {trellis:?}, reach {reach}: {:.2} ns/weight",
            time * 1e9 / (200 * steps * 8) as f64
        );
    }
}

fn layer(rows: usize, columns: usize) {
    let mut random = Generator(7);
    let weights: Vec<f32> = (0..rows * columns).map(|_| 0.05 * random.normal()).collect();
    let deviation: Vec<f32> = (0..columns).map(|_| (0.7 * random.normal()).exp()).collect();
    let power: Vec<f32> = (0..columns).map(|lag| 0.9f32.powi(lag as i32)).collect();
    let covariance: Vec<f32> = (0..columns * columns)
        .map(|index| {
            let (i, j) = (index / columns, index % columns);
            deviation[i] * deviation[j] * power[i.abs_diff(j)]
        })
        .collect();
    let layer = Layer::new("synthetic", rows, columns, &weights, Covariance::Full(&covariance));
    let geometry = if columns >= 2048 { Geometry::new(64, 128) } else { Geometry::new(16, 64) };
    let settings = Settings::new(Method::Trellis, geometry.expect("legal"));
    let c = 0.02;
    let repeats = if rows * columns > 4_000_000 { 1 } else { 3 };
    let mut prepared = None;
    let prepare = seconds(repeats, || prepared = Prepared::new(&layer, &settings, c).ok());
    let prepared = prepared.expect("a valid layer");
    let mut matrix = None;
    let quantize = seconds(repeats, || matrix = prepared.quantize(c).ok());
    let matrix = matrix.expect("a valid step");
    let mut loss = 0.0;
    let report = seconds(repeats, || loss = prepared.report(&matrix, c).relative_loss);
    let per = 1e9 / (rows * columns) as f64;
    println!(
        "{rows} x {columns}: factor and target {prepare:.3} s ({:.1} ns/weight), one pass {quantize:.3} s ({:.1} ns/weight), \
         report {report:.3} s; {:.3} bits, relative loss {loss:.5}; {} threads",
        prepare * per,
        quantize * per,
        wsic::quantize::entropy::class_entropy(&matrix, 16),
        rayon::current_num_threads(),
    );
}

fn main() {
    let shapes: Vec<(usize, usize)> = std::env::args()
        .filter_map(|arg| {
            let (rows, columns) = arg.split_once('x')?;
            Some((rows.parse().ok()?, columns.parse().ok()?))
        })
        .collect();
    viterbi();
    let standard = [(576, 576), (1536, 576), (576, 1536), (4096, 4096)];
    for &(rows, columns) in if shapes.is_empty() { standard.as_slice() } else { &shapes } {
        layer(rows, columns);
    }
}
