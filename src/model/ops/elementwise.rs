//! Operations on rows and single elements.

use rayon::prelude::*;

use super::reduce::{exp, finish_sum, LANES};
use super::ROWS_PER_TASK;

/// 1 / sqrt(mean of squares + epsilon).
#[inline(always)]
pub(super) fn rms_factor(row: &[f32], epsilon: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let mut tail = 0.0;
    for &x in rest {
        tail += x * x;
    }
    1.0 / (finish_sum(lanes, tail) / row.len() as f32 + epsilon).sqrt()
}

vectorized! {
    fn rms_norm_rows<'a>(x: &'a [f32], scale: &'a [f32], epsilon: f32, y: &'a mut [f32]) -> () {
        for (y, x) in y.chunks_exact_mut(scale.len()).zip(x.chunks_exact(scale.len())) {
            let factor = rms_factor(x, epsilon);
            for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scale) {
                *y = x * factor * scale;
            }
        }
    }
}

vectorized! {
    fn rms_norm_rows_in_place<'a>(x: &'a mut [f32], scale: &'a [f32], epsilon: f32) -> () {
        for row in x.chunks_exact_mut(scale.len()) {
            let factor = rms_factor(row, epsilon);
            for (x, &scale) in row.iter_mut().zip(scale) {
                *x = *x * factor * scale;
            }
        }
    }
}

vectorized! {
    fn add<'a>(y: &'a mut [f32], x: &'a [f32]) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

vectorized! {
    fn silu_times<'a>(gate: &'a mut [f32], up: &'a [f32]) -> () {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }
}

/// 2 sqrt(2/pi), and the weight of the cube in the approximation of GELU with tanh.
pub(super) const GELU: [f32; 2] = [1.595_769, 0.044_715];

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)) with u = sqrt(2/pi) (x + 0.044715 x³).
vectorized! {
    fn gelu_times<'a>(gate: &'a mut [f32], up: &'a [f32]) -> () {
        for (g, &u) in gate.iter_mut().zip(up) {
            let x = *g;
            *g = x / (1.0 + exp(-(GELU[0] * (x + GELU[1] * x * x * x)))) * u;
        }
    }
}

/// Root mean square norm of each row of `scale.len()` values, times `scale`.
pub fn rms_norm(x: &[f32], scale: &[f32], epsilon: f32, y: &mut [f32]) {
    let step = ROWS_PER_TASK * scale.len().max(1);
    y.par_chunks_mut(step).zip(x.par_chunks(step)).for_each(|(y, x)| rms_norm_rows(x, scale, epsilon, y));
}

/// As [`rms_norm`], in place; for the norms of single heads.
pub fn rms_norm_in_place(x: &mut [f32], scale: &[f32], epsilon: f32) {
    let step = 16 * ROWS_PER_TASK * scale.len().max(1);
    x.par_chunks_mut(step).for_each(|x| rms_norm_rows_in_place(x, scale, epsilon));
}

/// Elements that one task of an operation without rows takes.
pub(super) const ELEMENTS_PER_TASK: usize = 1 << 15;

/// `y += x`, element by element.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    y.par_chunks_mut(ELEMENTS_PER_TASK).zip(x.par_chunks(ELEMENTS_PER_TASK)).for_each(|(y, x)| add(y, x));
}

/// Adds `bias` to each row of `bias.len()` values.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    let width = bias.len().max(1);
    y.par_chunks_mut(ROWS_PER_TASK * width)
        .for_each(|y| y.chunks_exact_mut(width).for_each(|row| add(row, bias)));
}

/// `gate = silu(gate) · up`, element by element: the activation of a gated feed-forward network.
pub fn multiply_silu(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(up.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|(gate, up)| silu_times(gate, up));
}

/// `gate = gelu(gate) · up`, with GELU in its approximation by tanh.
pub fn multiply_gelu(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(up.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|(gate, up)| gelu_times(gate, up));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normalised() {
        let x: Vec<f32> = (0..3 * 37).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let scale: Vec<f32> = (0..37).map(|i| 0.5 + i as f32 / 37.0).collect();
        let mut y = vec![0.0; x.len()];
        rms_norm(&x, &scale, 1e-5, &mut y);
        let mut z = x.clone();
        rms_norm_in_place(&mut z, &scale, 1e-5);
        assert_eq!(y, z);
        for (x, y) in x.chunks(37).zip(y.chunks(37)) {
            let mean: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / 37.0;
            for ((&x, &y), &s) in x.iter().zip(y).zip(&scale) {
                let exact = f64::from(x) / (mean + 1e-5).sqrt() * f64::from(s);
                assert!((f64::from(y) - exact).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn silu_and_sums_follow_their_definitions() {
        let inputs = [-100.0, -3.0, 0.0, 2.5, 100.0];
        let mut gate = inputs;
        multiply_silu(&mut gate, &[2.0; 5]);
        for (&found, x) in gate.iter().zip(inputs.map(f64::from)) {
            assert!((f64::from(found) - 2.0 * x / (1.0 + (-x).exp())).abs() < 2e-5, "{found}");
        }
        let mut gate = inputs;
        multiply_gelu(&mut gate, &[2.0; 5]);
        for (&found, x) in gate.iter().zip(inputs.map(f64::from)) {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            assert!((f64::from(found) - x * (1.0 + u.tanh())).abs() < 2e-5, "{found}");
        }
        let mut y = vec![1.0; 6];
        add_bias(&mut y, &[1.0, 2.0]);
        add_assign(&mut y, &[0.5; 6]);
        assert_eq!(y, [2.5, 3.5, 2.5, 3.5, 2.5, 3.5]);
    }
}
