//! A feed-forward network of many experts, of which a router chooses a few for each token.
//!
//! The router's logits go through softmax; the `used` largest probabilities, divided by their sum, weigh the outputs of
//! their experts (Mixtral, Qwen3 MoE).

use super::{GradientObserver, Observer};
use crate::model::error::ModelError;
use crate::model::ops::{multiply_silu, multiply_silu_gradient};
use crate::model::weights::{InputKind, LayerWeights, Linear};

/// Sizes of the experts of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that each token uses.
    pub used: usize,
    /// Width inside an expert.
    pub width: usize,
}

/// Which tokens an expert works on, and with what weight: pairs of row and weight, rows ascending.
type Routes = Vec<Vec<(usize, f32)>>;

/// Matrices of one expert.
struct Expert<'w> {
    gate: &'w Linear,
    up: &'w Linear,
    down: &'w Linear,
}

impl Experts {
    fn expert<'w>(&self, weights: &'w LayerWeights, expert: usize) -> Result<Expert<'w>, ModelError> {
        Ok(Expert {
            gate: weights.expert("ffn_gate_exps", expert)?,
            up: weights.expert("ffn_up_exps", expert)?,
            down: weights.expert("ffn_down_exps", expert)?,
        })
    }

    /// Chooses the experts of every token from the router's logits (tokens × count). Equal logits: the lower number.
    fn route(&self, logits: &[f32]) -> Routes {
        let mut routes = vec![Vec::new(); self.count];
        for (row, logits) in logits.chunks_exact(self.count).enumerate() {
            let mut order: Vec<usize> = (0..self.count).collect();
            order.sort_by(|&a, &b| match (logits.get(a), logits.get(b)) {
                (Some(a), Some(b)) => b.total_cmp(a),
                _ => std::cmp::Ordering::Equal,
            });
            order.truncate(self.used);
            let chosen: Vec<f64> = order
                .iter()
                .filter_map(|&expert| logits.get(expert))
                .map(|&logit| f64::from(logit))
                .collect();
            let largest = chosen.first().copied().unwrap_or(0.0);
            let exponentials: Vec<f64> = chosen.iter().map(|logit| (logit - largest).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            for (expert, exponential) in order.into_iter().zip(exponentials) {
                if let Some(route) = routes.get_mut(expert) {
                    route.push((row, (exponential / total) as f32));
                }
            }
        }
        routes
    }

    /// Output for every token (`x` tokens × width of the model, normed). Shows the inputs of each expert.
    pub fn forward(
        &self,
        weights: &LayerWeights,
        x: &[f32],
        width: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f32>, ModelError> {
        let routes = self.route(&weights.linear("ffn_gate_inp")?.apply(x)?);
        let mut out = vec![0.0; x.len()];
        for (number, route) in routes.iter().enumerate() {
            if route.is_empty() {
                continue;
            }
            let expert = self.expert(weights, number)?;
            let own = gather(x, width, route);
            observer.expert_input(InputKind::FeedForward, number, &own, width)?;
            let mut active = expert.gate.apply(&own)?;
            multiply_silu(&mut active, &expert.up.apply(&own)?);
            observer.expert_input(InputKind::FeedForwardDown, number, &active, self.width)?;
            let result = expert.down.apply(&active)?;
            for (&(row, weight), result) in route.iter().zip(result.chunks_exact(width)) {
                if let Some(out) = out.get_mut(row * width..(row + 1) * width) {
                    out.iter_mut().zip(result).for_each(|(out, result)| *out += weight * result);
                }
            }
        }
        Ok(out)
    }

    /// Adds the gradient of the input `x` to `dx`, from that of the output; shows the gradients of the outputs of each
    /// expert's matrices.
    pub fn backward(
        &self,
        weights: &LayerWeights,
        x: &[f32],
        width: usize,
        gradient: &[f32],
        dx: &mut [f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<(), ModelError> {
        let router = weights.linear("ffn_gate_inp")?;
        let routes = self.route(&router.apply(x)?);
        let mut weight_gradients = vec![0.0f32; x.len() / width.max(1) * self.count];
        for (number, route) in routes.iter().enumerate() {
            if route.is_empty() {
                continue;
            }
            let expert = self.expert(weights, number)?;
            let own = gather(x, width, route);
            let mut gate = expert.gate.apply(&own)?;
            let mut up = expert.up.apply(&own)?;
            let mut active = gate.clone();
            multiply_silu(&mut active, &up);
            let result = expert.down.apply(&active)?;
            // Gradient of the expert's output, and of its weight.
            let mut output = gather(gradient, width, route);
            let rows = output.chunks_exact_mut(width).zip(result.chunks_exact(width));
            for ((output, result), &(row, weight)) in rows.zip(route) {
                let along: f64 = output.iter().zip(result).map(|(d, y)| f64::from(*d) * f64::from(*y)).sum();
                if let Some(slot) = weight_gradients.get_mut(row * self.count + number) {
                    *slot = along as f32;
                }
                output.iter_mut().for_each(|d| *d *= weight);
            }
            observer.expert_output("ffn_down_exps", number, &output, width)?;
            active.fill(0.0);
            expert.down.matrix.multiply_back(&output, &mut active)?;
            multiply_silu_gradient(&mut gate, &mut up, &active);
            observer.expert_output("ffn_gate_exps", number, &gate, self.width)?;
            observer.expert_output("ffn_up_exps", number, &up, self.width)?;
            let mut own_gradient = vec![0.0; own.len()];
            expert.gate.matrix.multiply_back(&gate, &mut own_gradient)?;
            expert.up.matrix.multiply_back(&up, &mut own_gradient)?;
            for (&(row, _), own) in route.iter().zip(own_gradient.chunks_exact(width)) {
                if let Some(dx) = dx.get_mut(row * width..(row + 1) * width) {
                    dx.iter_mut().zip(own).for_each(|(dx, own)| *dx += own);
                }
            }
        }
        // The weights of a token are the softmax of its chosen logits.
        let mut logit_gradients = vec![0.0f32; weight_gradients.len()];
        let mut means = vec![0.0f32; x.len() / width.max(1)];
        let each =
            || routes.iter().enumerate().flat_map(|(number, route)| route.iter().map(move |r| (number, *r)));
        let value = |row: usize, number: usize| {
            weight_gradients.get(row * self.count + number).copied().unwrap_or(0.0)
        };
        for (number, (row, weight)) in each() {
            if let Some(mean) = means.get_mut(row) {
                *mean += weight * value(row, number);
            }
        }
        for (number, (row, weight)) in each() {
            let mean = means.get(row).copied().unwrap_or(0.0);
            if let Some(slot) = logit_gradients.get_mut(row * self.count + number) {
                *slot = weight * (value(row, number) - mean);
            }
        }
        router.matrix.multiply_back(&logit_gradients, dx)
    }
}

/// The rows of a route, one after another.
fn gather(x: &[f32], width: usize, route: &[(usize, f32)]) -> Vec<f32> {
    let rows = route.iter().filter_map(|&(row, _)| x.get(row * width..(row + 1) * width));
    rows.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_their_weights_add_up() {
        let experts = Experts { count: 4, used: 2, width: 1 };
        let routes = experts.route(&[0.0, 2.0, 1.0, -1.0, 3.0, 3.0, 3.0, 3.0]);
        let rows = |expert: usize| routes[expert].iter().map(|route| route.0).collect::<Vec<_>>();
        assert_eq!([rows(0), rows(1), rows(2), rows(3)], [vec![1], vec![0, 1], vec![0], vec![]]);
        let e = 1f64.exp();
        assert!((f64::from(routes[1][0].1) - e / (1.0 + e)).abs() < 1e-6);
        assert_eq!(routes[0][0].1, 0.5);
    }
}
