//! The block that most dense decoder-only models share: norm, grouped attention, norm, gated feed-forward network,
//! each added to the hidden state. Differences are fields of [`DenseBlock`].

use super::{Architecture, LayerCall};
use crate::model::batch::positions;
use crate::model::cache::CacheShape;
use crate::model::config::Hyperparameters;
use crate::model::error::ModelError;
use crate::model::ops::{
    add_assign, attend, multiply_silu, rms_norm, rms_norm_in_place, AttentionShape, KeyValues, Pairing, Rope,
};
use crate::model::source::{TensorShape, TensorSource};
use crate::model::weights::{
    read_linear, read_optional_vector, read_tensor, InputKind, LayerWeights, LinearSlot,
};

/// A stack of equal dense blocks.
#[derive(Debug)]
pub struct DenseBlock {
    hyperparameters: Hyperparameters,
    attention: AttentionShape,
    rope: Rope,
}

impl DenseBlock {
    /// Reads sizes under the architecture's name, and `rope_freqs` if the model has it.
    ///
    /// Biases and norms of single heads (`attn_q_norm`, `attn_k_norm`) are used where the tensors exist.
    pub fn new(source: &dyn TensorSource, name: &str, pairing: Pairing) -> Result<Self, ModelError> {
        const EMBEDDING: &str = "token_embd.weight";
        let missing = || ModelError::MissingTensor { tensor: EMBEDDING.to_owned() };
        let embedding = source.shape(EMBEDDING).ok_or_else(missing)?;
        let h = Hyperparameters::read(source.metadata(), name, embedding.rows)?;
        let divisors = read_optional_vector(source, "rope_freqs.weight", h.rotated / 2)?;
        let rope = Rope::new(pairing, h.rotated, h.rope_base, h.rope_scaling, divisors.as_deref());
        let rope = rope.ok_or_else(|| {
            ModelError::shape(
                "rope_freqs.weight",
                format!("{} positive divisors", h.rotated / 2),
                format!("{divisors:?}"),
            )
        })?;
        let attention = AttentionShape {
            heads: h.heads,
            kv_heads: h.kv_heads,
            key_width: h.key_width,
            value_width: h.value_width,
            scale: 1.0 / (h.key_width as f32).sqrt(),
            window: None,
        };
        Ok(Self { hyperparameters: h, attention, rope })
    }
}

impl Architecture for DenseBlock {
    fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    fn linears(&self, layer: usize) -> Vec<LinearSlot> {
        let h = &self.hyperparameters;
        let (queries, keys) = (h.heads * h.key_width, h.kv_heads * h.key_width);
        let (values, heads) = (h.kv_heads * h.value_width, h.heads * h.value_width);
        [
            ("attn_q", InputKind::Attention, queries, h.width),
            ("attn_k", InputKind::Attention, keys, h.width),
            ("attn_v", InputKind::Attention, values, h.width),
            ("attn_output", InputKind::AttentionOutput, h.width, heads),
            ("ffn_gate", InputKind::FeedForward, h.feed_forward, h.width),
            ("ffn_up", InputKind::FeedForward, h.feed_forward, h.width),
            ("ffn_down", InputKind::FeedForwardDown, h.width, h.feed_forward),
        ]
        .into_iter()
        .map(|(role, input, rows, columns)| LinearSlot {
            role,
            tensor: format!("blk.{layer}.{role}.weight"),
            input,
            shape: TensorShape { columns, rows },
        })
        .collect()
    }

    fn load(&self, source: &dyn TensorSource, layer: usize) -> Result<LayerWeights, ModelError> {
        let h = &self.hyperparameters;
        let mut weights = LayerWeights::default();
        for slot in self.linears(layer) {
            weights.set_linear(slot.role, read_linear(source, &slot)?);
        }
        for name in ["attn_norm", "ffn_norm"] {
            let shape = TensorShape { columns: h.width, rows: 1 };
            weights.set_vector(name, read_tensor(source, &format!("blk.{layer}.{name}.weight"), shape)?);
        }
        for name in ["attn_q_norm", "attn_k_norm"] {
            let tensor = format!("blk.{layer}.{name}.weight");
            if let Some(scale) = read_optional_vector(source, &tensor, h.key_width)? {
                weights.set_vector(name, scale);
            }
        }
        Ok(weights)
    }

    fn cache_shape(&self, _layer: usize) -> CacheShape {
        let h = &self.hyperparameters;
        CacheShape { heads: h.kv_heads, key_width: h.key_width, value_width: h.value_width }
    }

    fn forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError> {
        let h = &self.hyperparameters;
        let positions = positions(call.spans);
        let tokens = positions.len();
        if hidden.len() != tokens * h.width {
            return Err(ModelError::request(
                "hidden state",
                format!("{tokens} tokens of {} values", h.width),
                format!("{} values", hidden.len()),
            ));
        }
        let observer = call.observer;
        let mut normed = vec![0.0; hidden.len()];
        rms_norm(hidden, weights.vector("attn_norm")?, h.epsilon, &mut normed);
        observer.input(InputKind::Attention, &normed, h.width)?;
        let mut queries = weights.linear("attn_q")?.apply(&normed)?;
        let mut keys = weights.linear("attn_k")?.apply(&normed)?;
        let values = weights.linear("attn_v")?.apply(&normed)?;
        for (heads, norm) in [(&mut queries, "attn_q_norm"), (&mut keys, "attn_k_norm")] {
            if let Some(scale) = weights.optional_vector(norm) {
                rms_norm_in_place(heads, scale, h.epsilon);
            }
            self.rope.rotate(heads, h.key_width, &positions);
        }
        let mut heads = vec![0.0; tokens * h.heads * h.value_width];
        match call.cache {
            None => {
                let source = KeyValues::Batch { keys: &keys, values: &values };
                attend(&self.attention, call.spans, &queries, source, &mut heads)?;
            }
            Some(cache) => {
                let sequences =
                    call.spans.iter().flat_map(|span| std::iter::repeat_n(span.sequence, span.len));
                let key_rows = keys.chunks_exact(h.kv_heads * h.key_width);
                let value_rows = values.chunks_exact(h.kv_heads * h.value_width);
                let rows = key_rows.zip(value_rows);
                for ((sequence, &position), (key, value)) in sequences.zip(&positions).zip(rows) {
                    cache.store(sequence, position, key, value)?;
                }
                attend(&self.attention, call.spans, &queries, KeyValues::Cache(cache), &mut heads)?;
            }
        }
        observer.input(InputKind::AttentionOutput, &heads, h.heads * h.value_width)?;
        add_assign(hidden, &weights.linear("attn_output")?.apply(&heads)?);

        rms_norm(hidden, weights.vector("ffn_norm")?, h.epsilon, &mut normed);
        observer.input(InputKind::FeedForward, &normed, h.width)?;
        let mut gate = weights.linear("ffn_gate")?.apply(&normed)?;
        let up = weights.linear("ffn_up")?.apply(&normed)?;
        multiply_silu(&mut gate, &up);
        drop(up);
        observer.input(InputKind::FeedForwardDown, &gate, h.feed_forward)?;
        add_assign(hidden, &weights.linear("ffn_down")?.apply(&gate)?);
        Ok(())
    }
}
