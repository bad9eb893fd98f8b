//! The way back through norms and activations: gradients of their inputs from gradients of their outputs.

use rayon::prelude::*;

use super::elementwise::{rms_factor, ELEMENTS_PER_TASK, GELU};
use super::reduce::{exp, finish_sum, LANES};
use super::ROWS_PER_TASK;

/// Sum of `scale · dy · x`.
#[inline(always)]
fn weighted_product(x: &[f32], scale: &[f32], dy: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (scale, scale_rest) = scale.as_chunks::<LANES>();
    let (dy, dy_rest) = dy.as_chunks::<LANES>();
    for ((x, scale), dy) in x.iter().zip(scale).zip(dy) {
        for (((lane, &x), &scale), &dy) in lanes.iter_mut().zip(x).zip(scale).zip(dy) {
            *lane += scale * dy * x;
        }
    }
    let mut tail = 0.0;
    for ((&x, &scale), &dy) in x_rest.iter().zip(scale_rest).zip(dy_rest) {
        tail += scale * dy * x;
    }
    finish_sum(lanes, tail)
}

// y = f s x with f = (mean(x²) + epsilon)^-1/2, hence dx = f s dy - f³/n (sum of s dy x) x.
vectorized! {
    fn add_rms_norm_rows<'a>(x: &'a [f32], scale: &'a [f32], epsilon: f32, dy: &'a [f32], dx: &'a mut [f32]) -> () {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let factor = rms_factor(x, epsilon);
            let along = factor * factor * factor / width as f32 * weighted_product(x, scale, dy);
            for (((dx, &dy), &scale), &x) in dx.iter_mut().zip(dy).zip(scale).zip(x) {
                *dx += factor * scale * dy - along * x;
            }
        }
    }
}

vectorized! {
    fn rms_norm_rows_back<'a>(x: &'a [f32], scale: &'a [f32], epsilon: f32, d: &'a mut [f32]) -> () {
        for (x, d) in x.chunks_exact(scale.len()).zip(d.chunks_exact_mut(scale.len())) {
            let factor = rms_factor(x, epsilon);
            let along = factor * factor * factor / scale.len() as f32 * weighted_product(x, scale, d);
            for ((d, &scale), &x) in d.iter_mut().zip(scale).zip(x) {
                *d = factor * scale * *d - along * x;
            }
        }
    }
}

vectorized! {
    fn silu_times_back<'a>(gate: &'a mut [f32], up: &'a mut [f32], d: &'a [f32]) -> () {
        for ((g, u), &d) in gate.iter_mut().zip(up).zip(d) {
            let sigmoid = 1.0 / (1.0 + exp(-*g));
            let silu = *g * sigmoid;
            (*g, *u) = (d * *u * (sigmoid + silu * (1.0 - sigmoid)), d * silu);
        }
    }
}

// gelu(x) = x s(k), s the logistic function, k = c (x + d x³): gelu' = s + x s (1 - s) c (1 + 3 d x²).
vectorized! {
    fn gelu_times_back<'a>(gate: &'a mut [f32], up: &'a mut [f32], d: &'a [f32]) -> () {
        for ((g, u), &d) in gate.iter_mut().zip(up).zip(d) {
            let x = *g;
            let sigmoid = 1.0 / (1.0 + exp(-(GELU[0] * (x + GELU[1] * x * x * x))));
            let slope = GELU[0] * (1.0 + 3.0 * GELU[1] * x * x);
            (*g, *u) = (d * *u * (sigmoid + x * sigmoid * (1.0 - sigmoid) * slope), d * x * sigmoid);
        }
    }
}

/// Gradient of [`rms_norm`](super::rms_norm): adds that of the input `x` to `dx`, from that of the output `dy`. Rows
/// of `scale.len()` values.
pub fn rms_norm_gradient(x: &[f32], scale: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
    let step = ROWS_PER_TASK * scale.len().max(1);
    let inputs = x.par_chunks(step).zip(dy.par_chunks(step));
    dx.par_chunks_mut(step)
        .zip(inputs)
        .for_each(|(dx, (x, dy))| add_rms_norm_rows(x, scale, epsilon, dy, dx));
}

/// As [`rms_norm_gradient`], from the output's gradient to the input's in place; for the norms of single heads.
pub fn rms_norm_gradient_in_place(x: &[f32], scale: &[f32], epsilon: f32, gradient: &mut [f32]) {
    let step = 16 * ROWS_PER_TASK * scale.len().max(1);
    gradient
        .par_chunks_mut(step)
        .zip(x.par_chunks(step))
        .for_each(|(gradient, x)| rms_norm_rows_back(x, scale, epsilon, gradient));
}

/// Gradient of [`multiply_silu`](super::multiply_silu): replaces `gate` and `up` (the inputs) by their gradients, from
/// that of the product.
pub fn multiply_silu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    gate.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(up.par_chunks_mut(ELEMENTS_PER_TASK))
        .zip(gradient.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|((gate, up), gradient)| silu_times_back(gate, up, gradient));
}

/// Gradient of [`multiply_gelu`](super::multiply_gelu), as [`multiply_silu_gradient`].
pub fn multiply_gelu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    gate.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(up.par_chunks_mut(ELEMENTS_PER_TASK))
        .zip(gradient.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|((gate, up), gradient)| gelu_times_back(gate, up, gradient));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: f64) -> Vec<f64> {
        (0..len).map(|i| f64::from(((i as f64 * step).sin() * 2.0) as f32)).collect()
    }

    fn single(x: &[f64]) -> Vec<f32> {
        x.iter().map(|&x| x as f32).collect()
    }

    /// Derivative of `sum of d · f(x)` with respect to each element of x.
    fn differences(x: &[f64], d: &[f64], f: &dyn Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let at = |i: usize, by: f64| {
            let mut moved = x.to_vec();
            moved[i] += by;
            f(&moved).iter().zip(d).map(|(y, d)| y * d).sum::<f64>()
        };
        (0..x.len()).map(|i| (at(i, 1e-5) - at(i, -1e-5)) / 2e-5).collect()
    }

    #[test]
    fn norms_go_back() {
        let width = 37;
        let (x, d) = (wave(2 * width, 0.7), wave(2 * width, 1.3));
        let scale: Vec<f64> = (0..width).map(|i| 0.5 + i as f64 / 64.0).collect();
        let norm = |x: &[f64]| -> Vec<f64> {
            x.chunks(width)
                .flat_map(|x| {
                    let f = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt().recip();
                    x.iter().zip(&scale).map(move |(x, s)| x * f * s).collect::<Vec<_>>()
                })
                .collect()
        };
        let expected = differences(&x, &d, &norm);
        let (x, scale, d) = (single(&x), single(&scale), single(&d));
        let mut added = vec![1.0; x.len()];
        rms_norm_gradient(&x, &scale, 1e-5, &d, &mut added);
        let mut replaced = d.clone();
        rms_norm_gradient_in_place(&x, &scale, 1e-5, &mut replaced);
        for ((&added, &replaced), expected) in added.iter().zip(&replaced).zip(expected) {
            assert!((f64::from(added) - 1.0 - expected).abs() < 1e-5);
            assert!((f64::from(replaced) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn gated_activations_go_back() {
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let gelu = |g: f64| {
            0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g)).tanh())
        };
        type Gradient = fn(&mut [f32], &mut [f32], &[f32]);
        let cases: [(&dyn Fn(f64) -> f64, Gradient); 2] =
            [(&silu, multiply_silu_gradient), (&gelu, multiply_gelu_gradient)];
        for (activation, go_back) in cases {
            let (gate, up, d) = (wave(50, 0.9), wave(50, 1.7), wave(50, 0.3));
            let product = |gate: &[f64], up: &[f64]| -> Vec<f64> {
                gate.iter().zip(up).map(|(g, u)| activation(*g) * u).collect()
            };
            let of_gate = differences(&gate, &d, &|gate| product(gate, &up));
            let of_up = differences(&up, &d, &|up| product(&gate, up));
            let (mut gate, mut up) = (single(&gate), single(&up));
            go_back(&mut gate, &mut up, &single(&d));
            let near = |found: &[f32], expected: Vec<f64>| {
                found
                    .iter()
                    .zip(expected)
                    .all(|(&found, expected)| (f64::from(found) - expected).abs() < 1e-5)
            };
            assert!(near(&gate, of_gate) && near(&up, of_up));
        }
    }
}
