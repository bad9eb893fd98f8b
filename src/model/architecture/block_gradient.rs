//! The way back through a [`DenseBlock`].

use super::block::{DenseBlock, FeedForward};
use super::{GradientCall, GradientObserver};
use crate::model::batch::positions;
use crate::model::error::ModelError;
use crate::model::ops::{
    add_assign, attend, attend_gradient, multiply_gelu, multiply_gelu_gradient, multiply_silu,
    multiply_silu_gradient, rms_norm, rms_norm_gradient, rms_norm_gradient_in_place, rms_norm_in_place,
    KeyValues,
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
    /// What is added to the hidden state, before its norm; `None` if there is no such norm.
    raw_output: Option<Vec<f32>>,
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
        let layer = self.layer_attention(call.layer);
        let attention = self.attention(weights, &call, &positions)?;
        let observer = call.observer;

        let scale = weights.vector("ffn_norm")?;
        let mut normed = vec![0.0; len];
        rms_norm(&attention.middle, scale, h.epsilon, &mut normed);
        let back = self.feed_forward_gradient(weights, &normed, gradient, observer)?;
        rms_norm_gradient(&attention.middle, scale, h.epsilon, &back, gradient);
        drop(back);

        let mut output = gradient.to_vec();
        if let (Some(raw), Some(scale)) =
            (&attention.raw_output, weights.optional_vector("post_attention_norm"))
        {
            rms_norm_gradient_in_place(raw, scale, h.epsilon, &mut output);
        }
        observer.output("attn_output", &output, h.width)?;
        let mut heads = vec![0.0; positions.len() * h.heads * h.value_width];
        weights.linear("attn_output")?.matrix.multiply_back(&output, &mut heads)?;
        drop(output);
        let inputs = [attention.queries.as_slice(), &attention.keys, &attention.values];
        let [mut queries, mut keys, values] = attend_gradient(layer.shape, call.spans, inputs, &heads)?;
        for (heads, raw, norm) in [
            (&mut queries, &attention.raw_queries, "attn_q_norm"),
            (&mut keys, &attention.raw_keys, "attn_k_norm"),
        ] {
            layer.rope.rotate_gradient(heads, h.key_width, &positions);
            if let (Some(raw), Some(scale)) = (raw, weights.optional_vector(norm)) {
                rms_norm_gradient_in_place(raw, scale, h.epsilon, heads);
            }
        }
        normed.fill(0.0);
        let rows = self.projection_rows();
        let outputs = [queries, keys, values];
        if self.fused_attention {
            let all = side_by_side(&outputs, &rows);
            observer.output("attn_qkv", &all, rows.iter().sum())?;
            weights.linear("attn_qkv")?.matrix.multiply_back(&all, &mut normed)?;
        } else {
            for ((role, output), rows) in ["attn_q", "attn_k", "attn_v"].into_iter().zip(outputs).zip(rows) {
                observer.output(role, &output, rows)?;
                weights.linear(role)?.matrix.multiply_back(&output, &mut normed)?;
            }
        }
        rms_norm_gradient(call.hidden, weights.vector("attn_norm")?, h.epsilon, &normed, gradient);
        Ok(())
    }

    /// Gradient of the input of the feed-forward network (normed) from that of the hidden state after it.
    fn feed_forward_gradient(
        &self,
        weights: &LayerWeights,
        normed: &[f32],
        gradient: &[f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<Vec<f32>, ModelError> {
        let h = &self.hyperparameters;
        let post_norm = weights.optional_vector("post_ffw_norm");
        let mut back = vec![0.0; normed.len()];
        if let FeedForward::Experts(experts) = self.feed_forward {
            let mut output = gradient.to_vec();
            if let Some(scale) = post_norm {
                let raw = experts.forward(weights, normed, h.width, &mut ())?;
                rms_norm_gradient_in_place(&raw, scale, h.epsilon, &mut output);
            }
            experts.backward(weights, normed, h.width, &output, &mut back, observer)?;
            return Ok(back);
        }
        let fused = self.feed_forward == FeedForward::FusedSilu;
        let [mut gate, mut up] = match fused {
            true => self.split_fused(weights.linear("ffn_up")?.apply(normed)?),
            false => [weights.linear("ffn_gate")?.apply(normed)?, weights.linear("ffn_up")?.apply(normed)?],
        };
        let gelu = self.feed_forward == FeedForward::Gelu;
        let mut output = gradient.to_vec();
        if let Some(scale) = post_norm {
            let mut active = gate.clone();
            match gelu {
                true => multiply_gelu(&mut active, &up),
                false => multiply_silu(&mut active, &up),
            }
            let raw = weights.linear("ffn_down")?.apply(&active)?;
            rms_norm_gradient_in_place(&raw, scale, h.epsilon, &mut output);
        }
        observer.output("ffn_down", &output, h.width)?;
        let mut active = vec![0.0; gate.len()];
        weights.linear("ffn_down")?.matrix.multiply_back(&output, &mut active)?;
        match gelu {
            true => multiply_gelu_gradient(&mut gate, &mut up, &active),
            false => multiply_silu_gradient(&mut gate, &mut up, &active),
        }
        drop((active, output));
        if fused {
            let both = side_by_side(&[gate, up], &[h.feed_forward; 2]);
            observer.output("ffn_up", &both, 2 * h.feed_forward)?;
            weights.linear("ffn_up")?.matrix.multiply_back(&both, &mut back)?;
        } else {
            for (role, gradient) in [("ffn_gate", gate), ("ffn_up", up)] {
                observer.output(role, &gradient, h.feed_forward)?;
                weights.linear(role)?.matrix.multiply_back(&gradient, &mut back)?;
            }
        }
        Ok(back)
    }

    /// The block up to the middle, as [`forward`](super::Architecture::forward) computes it.
    fn attention(
        &self,
        weights: &LayerWeights,
        call: &GradientCall<'_>,
        positions: &[usize],
    ) -> Result<Attention, ModelError> {
        let h = &self.hyperparameters;
        let layer = self.layer_attention(call.layer);
        let mut normed = vec![0.0; call.hidden.len()];
        rms_norm(call.hidden, weights.vector("attn_norm")?, h.epsilon, &mut normed);
        let [mut queries, mut keys, values] = self.project(weights, &normed)?;
        let mut raw = [None, None];
        for ((heads, raw), norm) in
            [&mut queries, &mut keys].into_iter().zip(&mut raw).zip(["attn_q_norm", "attn_k_norm"])
        {
            if let Some(scale) = weights.optional_vector(norm) {
                *raw = Some(heads.clone());
                rms_norm_in_place(heads, scale, h.epsilon);
            }
            layer.rope.rotate(heads, h.key_width, positions);
        }
        let [raw_queries, raw_keys] = raw;
        let mut heads = vec![0.0; positions.len() * h.heads * h.value_width];
        let source = KeyValues::Batch { keys: &keys, values: &values };
        attend(layer.shape, call.spans, &queries, source, &mut heads, &mut [])?;
        let mut middle = call.hidden.to_vec();
        let mut output = weights.linear("attn_output")?.apply(&heads)?;
        let mut raw_output = None;
        if let Some(scale) = weights.optional_vector("post_attention_norm") {
            raw_output = Some(output.clone());
            rms_norm_in_place(&mut output, scale, h.epsilon);
        }
        add_assign(&mut middle, &output);
        Ok(Attention { raw_queries, raw_keys, queries, keys, values, raw_output, middle })
    }
}

/// Rows of several batches, one beside another.
fn side_by_side(batches: &[Vec<f32>], widths: &[usize]) -> Vec<f32> {
    let tokens = batches.iter().zip(widths).map(|(x, width)| x.len() / width.max(&1)).max().unwrap_or(0);
    let row = |token: usize| {
        batches.iter().zip(widths).filter_map(move |(x, width)| x.get(token * width..(token + 1) * width))
    };
    (0..tokens).flat_map(row).flatten().copied().collect()
}
