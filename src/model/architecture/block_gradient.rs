//! The way back through a [`DenseBlock`].

use super::block::DenseBlock;
use super::GradientCall;
use crate::model::batch::positions;
use crate::model::error::ModelError;
use crate::model::ops::{
    add_assign, attend, attend_gradient, multiply_silu_gradient, rms_norm, rms_norm_gradient,
    rms_norm_gradient_in_place, rms_norm_in_place, KeyValues,
};
use crate::model::weights::LayerWeights;

/// What the first half of a block computes, as far as the way back needs it.
struct Attention {
    /// Queries and keys before their norms; `None` if the model has no norms of heads.
    raw_queries: Option<Vec<f32>>,
    raw_keys: Option<Vec<f32>>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Hidden state between the halves.
    middle: Vec<f32>,
}

impl DenseBlock {
    /// Takes `gradient` from the block's output to its input: the forward pass again, then each step of it in reverse.
    pub(super) fn gradient(
        &self,
        weights: &LayerWeights,
        gradient: &mut [f32],
        call: GradientCall<'_>,
    ) -> Result<(), ModelError> {
        let h = &self.hyperparameters;
        let positions = positions(call.spans);
        let len = positions.len() * h.width;
        if gradient.len() != len || call.hidden.len() != len {
            return Err(ModelError::request(
                "gradient",
                format!("{} tokens of {} values", positions.len(), h.width),
                format!("{} gradients, {} values", gradient.len(), call.hidden.len()),
            ));
        }
        let attention = self.attention(weights, &call, &positions)?;
        let observer = call.observer;

        let scale = weights.vector("ffn_norm")?;
        let mut normed = vec![0.0; len];
        rms_norm(&attention.middle, scale, h.epsilon, &mut normed);
        let mut gate = weights.linear("ffn_gate")?.apply(&normed)?;
        let mut up = weights.linear("ffn_up")?.apply(&normed)?;
        observer.output("ffn_down", gradient, h.width)?;
        let mut active = vec![0.0; gate.len()];
        weights.linear("ffn_down")?.matrix.multiply_back(gradient, &mut active)?;
        multiply_silu_gradient(&mut gate, &mut up, &active);
        drop(active);
        observer.output("ffn_gate", &gate, h.feed_forward)?;
        observer.output("ffn_up", &up, h.feed_forward)?;
        normed.fill(0.0);
        weights.linear("ffn_gate")?.matrix.multiply_back(&gate, &mut normed)?;
        weights.linear("ffn_up")?.matrix.multiply_back(&up, &mut normed)?;
        drop((gate, up));
        rms_norm_gradient(&attention.middle, scale, h.epsilon, &normed, gradient);

        observer.output("attn_output", gradient, h.width)?;
        let mut heads = vec![0.0; positions.len() * h.heads * h.value_width];
        weights.linear("attn_output")?.matrix.multiply_back(gradient, &mut heads)?;
        let inputs = [attention.queries.as_slice(), &attention.keys, &attention.values];
        let [mut queries, mut keys, values] = attend_gradient(&self.attention, call.spans, inputs, &heads)?;
        for (heads, raw, norm) in [
            (&mut queries, &attention.raw_queries, "attn_q_norm"),
            (&mut keys, &attention.raw_keys, "attn_k_norm"),
        ] {
            self.rope.rotate_gradient(heads, h.key_width, &positions);
            if let (Some(raw), Some(scale)) = (raw, weights.optional_vector(norm)) {
                rms_norm_gradient_in_place(raw, scale, h.epsilon, heads);
            }
        }
        normed.fill(0.0);
        for (role, output, rows) in [
            ("attn_q", queries, h.heads * h.key_width),
            ("attn_k", keys, h.kv_heads * h.key_width),
            ("attn_v", values, h.kv_heads * h.value_width),
        ] {
            observer.output(role, &output, rows)?;
            weights.linear(role)?.matrix.multiply_back(&output, &mut normed)?;
        }
        rms_norm_gradient(call.hidden, weights.vector("attn_norm")?, h.epsilon, &normed, gradient);
        Ok(())
    }

    /// The block up to the middle, as [`forward`](super::Architecture::forward) computes it.
    fn attention(
        &self,
        weights: &LayerWeights,
        call: &GradientCall<'_>,
        positions: &[usize],
    ) -> Result<Attention, ModelError> {
        let h = &self.hyperparameters;
        let mut normed = vec![0.0; call.hidden.len()];
        rms_norm(call.hidden, weights.vector("attn_norm")?, h.epsilon, &mut normed);
        let mut queries = weights.linear("attn_q")?.apply(&normed)?;
        let mut keys = weights.linear("attn_k")?.apply(&normed)?;
        let values = weights.linear("attn_v")?.apply(&normed)?;
        let mut raw = [None, None];
        for ((heads, raw), norm) in
            [&mut queries, &mut keys].into_iter().zip(&mut raw).zip(["attn_q_norm", "attn_k_norm"])
        {
            if let Some(scale) = weights.optional_vector(norm) {
                *raw = Some(heads.clone());
                rms_norm_in_place(heads, scale, h.epsilon);
            }
            self.rope.rotate(heads, h.key_width, positions);
        }
        let [raw_queries, raw_keys] = raw;
        let mut heads = vec![0.0; positions.len() * h.heads * h.value_width];
        let source = KeyValues::Batch { keys: &keys, values: &values };
        attend(&self.attention, call.spans, &queries, source, &mut heads, &mut [])?;
        let mut middle = call.hidden.to_vec();
        add_assign(&mut middle, &weights.linear("attn_output")?.apply(&heads)?);
        Ok(Attention { raw_queries, raw_keys, queries, keys, values, middle })
    }
}
