//! Best class table for a histogram.

use super::histogram::{escape_bits, Histogram, REACH};
use super::layout::spread;
use crate::payload::table::{ClassTable, MAX_RAW_BITS, MAX_RUNS, MAX_VALUE_WITHOUT_RAW_BITS};

/// Runs of one parity that every kernel looks up in one register of 16 bytes.
const FEW_RUNS: usize = 16;
/// Runs of one parity that a legal table can have when both parities have as many.
const MANY_RUNS: usize = MAX_RUNS / 2;
/// Saving, in bits per index, that justifies more than [`FEW_RUNS`] runs (slower without AVX-512).
const WORTH_MANY_RUNS: f64 = 0.004;

/// Shape of a table before its slots are laid out.
struct Shape {
    raw_bits: u32,
    reach: i32,
    cost: f64,
}

/// Integer frequencies (at least 1 each, 256 together) that minimise the code length of `weights`, and that length.
///
/// Adding slots one at a time where they save most is optimal because the saving of each further slot decreases.
pub(super) fn frequencies(weights: &[f64]) -> (Vec<u16>, f64) {
    let mut slots = vec![1u16; weights.len()];
    let gain = |weight: f64, f: u16| (weight + 1e-9) * ((f64::from(f) + 1.0) / f64::from(f)).log2();
    let mut gains: Vec<f64> = weights.iter().map(|&w| gain(w, 1)).collect();
    for _ in weights.len()..256 {
        let mut best = 0;
        for i in 1..slots.len() {
            if gains[i] > gains[best] && slots[i] < 255 {
                best = i;
            }
        }
        if slots[best] == 255 {
            best = usize::from(best == 0);
        }
        slots[best] += 1;
        gains[best] = gain(weights[best], slots[best]);
    }
    let cost = weights.iter().zip(&slots).map(|(w, &f)| w * (256.0 / f64::from(f)).log2()).sum();
    (slots, cost)
}

/// Symbols of parity `q` when indices reach `reach` to both sides.
fn symbol_count(reach: i32, q: usize) -> usize {
    2 * reach as usize + 1 - q
}

/// The cheapest shape whose symbols fit in `most_runs` runs for each parity.
fn best_shape(histogram: &Histogram, most_runs: usize) -> Shape {
    let total = histogram.total();
    let mut best = Shape { raw_bits: 0, reach: 1, cost: f64::INFINITY };
    let mut weights = [0.0; 64];
    for raw_bits in 0..=MAX_RAW_BITS {
        let (mut here, mut worse) = (f64::INFINITY, 0);
        for reach in 1..=(most_runs as i32 - 1) / 2 {
            let largest = if raw_bits == 0 { MAX_VALUE_WITHOUT_RAW_BITS } else { 255 };
            let offset = (((2 * reach) << raw_bits) + 3) / 4 * 4;
            let last = ((reach + 1) << raw_bits) - 1;
            if 2 * last + offset > largest || last > REACH {
                break;
            }
            let mut cost = total * f64::from(raw_bits);
            for q in 0..2 {
                let symbols = symbol_count(reach, q);
                cost +=
                    escape_bits() * histogram.symbols(q, -reach << raw_bits, symbols, raw_bits, &mut weights);
                cost += frequencies(&weights[..symbols]).1;
            }
            if cost < best.cost {
                best = Shape { raw_bits, reach, cost };
            }
            if cost < here {
                (here, worse) = (cost, 0);
            } else {
                worse += 1;
                if worse > 2 {
                    break;
                }
            }
        }
    }
    best
}

/// The cheapest legal table for `histogram`, and its cost in bits with ideal code lengths.
pub(crate) fn best_table(histogram: &Histogram) -> (ClassTable, f64) {
    let few = best_shape(histogram, FEW_RUNS);
    let many = best_shape(histogram, MANY_RUNS);
    let (shape, most_runs) = if many.cost + WORTH_MANY_RUNS * histogram.total() < few.cost {
        (many, MANY_RUNS)
    } else {
        (few, FEW_RUNS)
    };
    let mut weights = [0.0; 64];
    let runs = [0, 1].map(|q| {
        let symbols = symbol_count(shape.reach, q);
        histogram.symbols(q, -shape.reach << shape.raw_bits, symbols, shape.raw_bits, &mut weights);
        spread(&frequencies(&weights[..symbols]).0, most_runs)
    });
    let smallest = [-shape.reach as i8; 2];
    let table = ClassTable::new(shape.raw_bits, smallest, runs).expect("fitted tables obey the rules");
    (table, shape.cost)
}

/// Histogram of a generalised normal distribution of integers m = 2k + q: density proportional to
/// exp(-|m/scale|^shape), with the scale chosen for the standard deviation `deviation`.
#[cfg(test)]
pub(crate) fn generalised_normal(deviation: f64, shape: f64) -> Histogram {
    // Standard deviation of the discrete distribution grows with the scale: bisection.
    let weight = |m: f64, scale: f64| (-(m.abs() / scale).powf(shape)).exp();
    let deviation_of = |scale: f64| {
        let (mut total, mut square) = (0.0, 0.0);
        for m in -2000..=2000 {
            let m = f64::from(m);
            total += weight(m, scale);
            square += m * m * weight(m, scale);
        }
        (square / total).sqrt()
    };
    let (mut low, mut high) = (1e-6f64, 1e4f64);
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if deviation_of(middle) < deviation {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut histogram = Histogram::new();
    for q in 0..2usize {
        let total: f64 = (-1000..=1000).map(|k| weight(f64::from(2 * k + q as i32), low)).sum();
        let mut rest = 1e6;
        for k in -REACH + 1..REACH {
            let w = 1e6 * weight(f64::from(2 * k + q as i32), low) / total;
            histogram.set(q, k, w);
            rest -= w;
        }
        histogram.set(q, REACH, rest.max(0.0));
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_frequencies_beat_every_exchange() {
        let weights = [3.0, 100.0, 431.0, 98.5, 2.0, 0.0];
        let (slots, cost) = frequencies(&weights);
        assert_eq!(slots.iter().sum::<u16>(), 256);
        let length = |slots: &[u16]| -> f64 {
            weights.iter().zip(slots).map(|(w, &f)| w * (256.0 / f64::from(f)).log2()).sum()
        };
        for from in 0..slots.len() {
            for to in 0..slots.len() {
                let mut other = slots.clone();
                if from != to && other[from] > 1 {
                    other[from] -= 1;
                    other[to] += 1;
                    assert!(length(&other) >= cost - 1e-6);
                }
            }
        }
    }

    #[test]
    fn one_symbol_never_takes_all_slots() {
        assert_eq!(frequencies(&[0.0, 5.0, 0.0]).0, [1, 254, 1]);
        assert_eq!(frequencies(&[5.0, 0.0]).0, [255, 1]);
        assert_eq!(frequencies(&[0.0, 5.0]).0, [1, 255]);
    }

    #[test]
    fn fitted_tables_come_close_to_the_entropy() {
        for deviation in [0.4, 1.0, 2.0, 4.0, 10.0, 30.0] {
            let histogram = generalised_normal(deviation, 2.0);
            let (table, cost) = best_table(&histogram);
            let bits = cost / histogram.total();
            // Entropy of a Gaussian on the even (or odd) integers; accurate from deviation 1 on.
            let gaussian =
                (deviation * (2.0 * std::f64::consts::PI * std::f64::consts::E).sqrt() / 2.0).log2();
            if deviation >= 1.0 {
                assert!((bits - gaussian).abs() < 0.09, "deviation {deviation}: {bits} against {gaussian}");
            }
            assert!(table.runs(0).len() <= MANY_RUNS && table.runs(1).len() <= MANY_RUNS);
        }
    }
}

/// Writes `spec/standard-tables.txt`: run with `cargo test write_standard_tables -- --ignored`.
#[cfg(test)]
#[test]
#[ignore = "writes spec/standard-tables.txt"]
fn write_standard_tables() {
    let mut text = String::from(crate::payload::standard::HEADING);
    for shape in [2.2, 1.8, 1.4, 1.0] {
        for eighth in -20..43 {
            let table = best_table(&generalised_normal(2f64.powf(f64::from(eighth) / 8.0), shape)).0;
            text.push_str(&crate::payload::standard::format_table(&table));
        }
    }
    std::fs::write("spec/standard-tables.txt", text).unwrap();
}
