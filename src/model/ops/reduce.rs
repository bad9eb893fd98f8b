//! Exponentials, and sums and maxima of rows in fixed lanes.

/// Lanes of a sum or a maximum.
pub(super) const LANES: usize = 16;

/// e^x to about 1e-7 relative; 0 below -87.3, finite for any x up to 88.7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 2^n · e^r with |r| <= ln(2)/2; n by adding and taking away 1.5·2^23, which rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.336_54, 88.722_83);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // (e^r - 1 - r) / r² by the coefficients of Cephes' expf.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    // The low bits of `shifted` are n, within -126..=128; two factors keep the exponent of each in range.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let result = value * power(half) * power(n.wrapping_sub(half));
    if x < -87.336_54 {
        0.0
    } else {
        result
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a {
        b
    } else {
        a
    }
}

/// Largest value; -inf for none.
#[inline(always)]
fn lane_max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(rest) {
        max = larger(max, x);
    }
    max
}

/// Sum of the lanes and what did not fill a chunk, always in this order.
#[inline(always)]
pub(super) fn finish_sum(lanes: [f32; LANES], rest: f32) -> f32 {
    let mut sum = 0.0;
    for lane in lanes {
        sum += lane;
    }
    sum + rest
}

/// Replaces a row by e^(x - max) and returns the sum of it. For use inside [`vectorized`] functions.
#[inline(always)]
pub fn exponentials(row: &mut [f32]) -> f32 {
    let max = lane_max(row);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *lane += *x;
        }
    }
    let mut tail = 0.0;
    for x in rest {
        *x = exp(*x - max);
        tail += *x;
    }
    finish_sum(lanes, tail)
}

vectorized! {
    /// Index of the largest value, the first of equals; 0 for an empty row.
    pub fn argmax<'a>(row: &'a [f32]) -> usize {
        let max = lane_max(row);
        row.iter().position(|&x| x == max).unwrap_or(0)
    }
}

/// Values whose exponentials are summed as f32 before they enter an f64.
const SUM_BLOCK: usize = 1024;

vectorized! {
    /// Sum of e^(x - max) over a row.
    pub fn exponential_sum<'a>(row: &'a [f32], max: f32) -> f64 {
        let mut sum = 0.0;
        for block in row.chunks(SUM_BLOCK) {
            let mut lanes = [0.0; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += exp(x - max);
                }
            }
            let mut tail = 0.0;
            for &x in rest {
                tail += exp(x - max);
            }
            sum += f64::from(finish_sum(lanes, tail));
        }
        sum
    }
}

vectorized! {
    /// Sum of e^(a - max) · (a - b) over two rows of equal length.
    pub fn divergence_sum<'a>(a: &'a [f32], b: &'a [f32], max: f32) -> f64 {
        let mut sum = 0.0;
        for (a, b) in a.chunks(SUM_BLOCK).zip(b.chunks(SUM_BLOCK)) {
            let mut lanes = [0.0; LANES];
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in a.iter().zip(b) {
                for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += exp(a - max) * (a - b);
                }
            }
            let mut tail = 0.0;
            for (&a, &b) in a_rest.iter().zip(b_rest) {
                tail += exp(a - max) * (a - b);
            }
            sum += f64::from(finish_sum(lanes, tail));
        }
        sum
    }
}

vectorized! {
    /// Writes e^((x - max) · factor), or 0 where that is below `least`.
    pub fn scaled_exponentials<'a>(row: &'a [f32], max: f32, factor: f32, least: f32, out: &'a mut [f32]) -> () {
        for (out, &x) in out.iter_mut().zip(row) {
            let value = exp((x - max) * factor);
            *out = if value >= least { value } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0.0f64;
        for i in -87_000..=88_700 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite() && exp(1000.0) > 3e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn rows_reduce_to_what_their_definitions_say() {
        for len in [1, 5, 16, 50, 1025, 3000] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32).cos() * 20.0).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32).sin() * 20.0).collect();
            let max = a.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = a.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
            let total: f64 = exact.iter().sum();
            assert!((exponential_sum(&a, max) / total - 1.0).abs() < 1e-5);
            let product: f64 = exact.iter().zip(&a).zip(&b).map(|((e, &a), &b)| e * f64::from(a - b)).sum();
            assert!((divergence_sum(&a, &b, max) - product).abs() < 1e-4 * total);
            assert_eq!(a[argmax(&a)], max);
            let mut row = a.clone();
            assert!((f64::from(exponentials(&mut row)) / total - 1.0).abs() < 1e-5);
            assert!(row.iter().zip(&exact).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-6));
            scaled_exponentials(&a, max, 1.0, 0.5, &mut row);
            assert!(row
                .iter()
                .zip(&exact)
                .all(|(&r, &e)| (r == 0.0 && e < 0.501) || (f64::from(r) - e).abs() < 1e-6));
        }
        assert_eq!(argmax(&[1.0, 5.0, 5.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }
}
