//! The block that most decoder-only models share: norm, grouped attention, norm, gated feed-forward network, each added
//! to the hidden state. Differences are fields of [`DenseBlock`].

use super::experts::Experts;
use super::{Architecture, GradientCall, Half, LayerCall, Observer};
use crate::model::batch::positions;
use crate::model::cache::CacheShape;
use crate::model::config::{Hyperparameters, Keys};
use crate::model::error::ModelError;
use crate::model::ops::{
    add_assign, attend, multiply_gelu, multiply_silu, rms_norm, rms_norm_in_place, AttentionShape, KeyValues,
    Pairing, Rope,
};
use crate::model::source::{TensorShape, TensorSource};
use crate::model::weights::{
    read_experts, read_linear, read_optional_vector, read_tensor, InputKind, LayerWeights, LinearSlot,
};

/// Most experts of a layer.
const MAX_EXPERTS: usize = 1 << 14;

/// Attention of the layers that see a part of the past only.
#[derive(Debug)]
pub(super) struct Local {
    pub attention: AttentionShape,
    pub rope: Rope,
    /// Every layer whose number plus one is a multiple of this sees everything.
    pub period: usize,
}

/// How the feed-forward network is stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedForward {
    /// Gate and up, SiLU.
    Silu,
    /// Gate and up, GELU in its approximation with tanh.
    Gelu,
    /// Gate and up in one matrix `ffn_up`, the gate first; SiLU.
    FusedSilu,
    /// Experts and their router.
    Experts(Experts),
}

/// A stack of equal blocks.
#[derive(Debug)]
pub struct DenseBlock {
    pub(super) hyperparameters: Hyperparameters,
    pub(super) attention: AttentionShape,
    pub(super) rope: Rope,
    pub(super) local: Option<Local>,
    /// Queries, keys and values come from one matrix `attn_qkv`.
    pub(super) fused_attention: bool,
    pub(super) feed_forward: FeedForward,
    /// Multiplies the token embeddings.
    pub(super) embedding_scale: Option<f32>,
}

/// Attention of one layer.
pub(super) struct LayerAttention<'a> {
    pub shape: &'a AttentionShape,
    pub rope: &'a Rope,
}

impl DenseBlock {
    /// Reads sizes under the architecture's name, and `rope_freqs` if the model has it. Experts are used where there is
    /// a router.
    ///
    /// Biases, norms of single heads (`attn_q_norm`, `attn_k_norm`) and norms of what is added to the hidden state
    /// (`post_attention_norm`, `post_ffw_norm`) are used where the tensors exist.
    pub fn new(source: &dyn TensorSource, name: &str, pairing: Pairing) -> Result<Self, ModelError> {
        let h = Self::sizes(source, name)?;
        let divisors = read_optional_vector(source, "rope_freqs.weight", h.rotated / 2)?;
        let rope = Rope::new(pairing, h.rotated, h.rope_base, h.rope_scaling, divisors.as_deref());
        let rope = rope.ok_or_else(|| bad_divisors("rope_freqs.weight", h.rotated, divisors.as_deref()))?;
        let feed_forward = match source.shape("blk.0.ffn_gate_inp.weight") {
            Some(_) => FeedForward::Experts(experts(source, name, &h)?),
            None => FeedForward::Silu,
        };
        Ok(Self {
            attention: Self::full_attention(&h),
            hyperparameters: h,
            rope,
            local: None,
            fused_attention: false,
            feed_forward,
            embedding_scale: None,
        })
    }

    /// Sizes of the model.
    pub(super) fn sizes(source: &dyn TensorSource, name: &str) -> Result<Hyperparameters, ModelError> {
        const EMBEDDING: &str = "token_embd.weight";
        let missing = || ModelError::MissingTensor { tensor: EMBEDDING.to_owned() };
        let embedding = source.shape(EMBEDDING).ok_or_else(missing)?;
        Hyperparameters::read(source.metadata(), name, embedding.rows)
    }

    /// Attention to everything before a token.
    pub(super) fn full_attention(h: &Hyperparameters) -> AttentionShape {
        AttentionShape {
            heads: h.heads,
            kv_heads: h.kv_heads,
            key_width: h.key_width,
            value_width: h.value_width,
            scale: 1.0 / (h.key_width as f32).sqrt(),
            window: None,
        }
    }

    /// Attention of a layer.
    pub(super) fn layer_attention(&self, layer: usize) -> LayerAttention<'_> {
        match &self.local {
            Some(local) if !(layer + 1).is_multiple_of(local.period) => {
                LayerAttention { shape: &local.attention, rope: &local.rope }
            }
            _ => LayerAttention { shape: &self.attention, rope: &self.rope },
        }
    }

    /// Queries, keys and values of normed hidden states.
    pub(super) fn project(
        &self,
        weights: &LayerWeights,
        normed: &[f32],
    ) -> Result<[Vec<f32>; 3], ModelError> {
        if !self.fused_attention {
            return weights.apply_all(["attn_q", "attn_k", "attn_v"], normed);
        }
        let all = weights.linear("attn_qkv")?.apply(normed)?;
        let [queries, keys, values] = self.projection_rows();
        let mut split = [Vec::new(), Vec::new(), Vec::new()];
        for row in all.chunks_exact((queries + keys + values).max(1)) {
            let (first, values) = row.split_at(queries + keys);
            let (queries, keys) = first.split_at(queries);
            for (out, part) in split.iter_mut().zip([queries, keys, values]) {
                out.extend_from_slice(part);
            }
        }
        Ok(split)
    }

    /// Values of queries, keys and values of one token.
    pub(super) fn projection_rows(&self) -> [usize; 3] {
        let h = &self.hyperparameters;
        [h.heads * h.key_width, h.kv_heads * h.key_width, h.kv_heads * h.value_width]
    }

    /// What the down projection multiplies, from normed hidden states. Not for experts.
    fn activate(&self, weights: &LayerWeights, normed: &[f32]) -> Result<Vec<f32>, ModelError> {
        if self.feed_forward == FeedForward::FusedSilu {
            let [mut gate, up] = self.split_fused(weights.linear("ffn_up")?.apply(normed)?);
            multiply_silu(&mut gate, &up);
            return Ok(gate);
        }
        let [mut gate, up] = weights.apply_all(["ffn_gate", "ffn_up"], normed)?;
        match self.feed_forward {
            FeedForward::Gelu => multiply_gelu(&mut gate, &up),
            _ => multiply_silu(&mut gate, &up),
        }
        Ok(gate)
    }

    /// Gate and up of the matrix that holds both.
    pub(super) fn split_fused(&self, both: Vec<f32>) -> [Vec<f32>; 2] {
        let width = self.hyperparameters.feed_forward;
        let mut split = [Vec::new(), Vec::new()];
        for row in both.chunks_exact(2 * width) {
            let (gate, up) = row.split_at(width);
            split[0].extend_from_slice(gate);
            split[1].extend_from_slice(up);
        }
        split
    }
}

/// What is wrong with divisors of the rotation's angles.
pub(super) fn bad_divisors(tensor: &str, rotated: usize, found: Option<&[f32]>) -> ModelError {
    ModelError::shape(tensor, format!("{} positive divisors", rotated / 2), format!("{found:?}"))
}

/// Sizes of the experts.
fn experts(source: &dyn TensorSource, name: &str, h: &Hyperparameters) -> Result<Experts, ModelError> {
    if let Some(shape) = source.shape("blk.0.ffn_gate_shexp.weight") {
        return Err(ModelError::shape("blk.0.ffn_gate_shexp.weight", "no shared expert", shape));
    }
    let keys = Keys::new(source.metadata(), name);
    let count = keys.required("expert_count", MAX_EXPERTS)?;
    let used = keys.required("expert_used_count", count)?;
    let width = keys.count("expert_feed_forward_length", usize::MAX >> 32)?.unwrap_or(h.feed_forward);
    if keys.float("expert_weights_scale")?.is_some_and(|scale| scale != 0.0 && scale != 1.0) {
        return Err(ModelError::metadata(&format!("{name}.expert_weights_scale"), "1", "another"));
    }
    Ok(Experts { count, used, width })
}

impl Architecture for DenseBlock {
    fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    fn linears(&self, layer: usize) -> Vec<LinearSlot> {
        let h = &self.hyperparameters;
        let [queries, keys, values] = self.projection_rows();
        let mut slots = match self.fused_attention {
            true => vec![("attn_qkv", InputKind::Attention, queries + keys + values, h.width, 1)],
            false => vec![
                ("attn_q", InputKind::Attention, queries, h.width, 1),
                ("attn_k", InputKind::Attention, keys, h.width, 1),
                ("attn_v", InputKind::Attention, values, h.width, 1),
            ],
        };
        slots.push(("attn_output", InputKind::AttentionOutput, h.width, h.heads * h.value_width, 1));
        let wide = h.feed_forward;
        match self.feed_forward {
            FeedForward::Silu | FeedForward::Gelu => slots.extend([
                ("ffn_gate", InputKind::FeedForward, wide, h.width, 1),
                ("ffn_up", InputKind::FeedForward, wide, h.width, 1),
                ("ffn_down", InputKind::FeedForwardDown, h.width, wide, 1),
            ]),
            FeedForward::FusedSilu => slots.extend([
                ("ffn_up", InputKind::FeedForward, 2 * wide, h.width, 1),
                ("ffn_down", InputKind::FeedForwardDown, h.width, wide, 1),
            ]),
            FeedForward::Experts(Experts { count, width, .. }) => slots.extend([
                ("ffn_gate_exps", InputKind::FeedForward, width, h.width, count),
                ("ffn_up_exps", InputKind::FeedForward, width, h.width, count),
                ("ffn_down_exps", InputKind::FeedForwardDown, h.width, width, count),
            ]),
        }
        let slot = |(role, input, rows, columns, experts): (&'static str, InputKind, usize, usize, usize)| {
            LinearSlot {
                role,
                tensor: format!("blk.{layer}.{role}.weight"),
                input,
                shape: TensorShape { columns, rows: rows.saturating_mul(experts) },
                experts,
            }
        };
        slots.into_iter().map(slot).collect()
    }

    fn load(&self, source: &dyn TensorSource, layer: usize) -> Result<LayerWeights, ModelError> {
        let h = &self.hyperparameters;
        let mut weights = LayerWeights::default();
        for slot in self.linears(layer) {
            match slot.experts {
                1 => weights.set_linear(slot.role, read_linear(source, &slot)?),
                _ => weights.set_experts(slot.role, read_experts(source, &slot)?),
            }
        }
        if let FeedForward::Experts(experts) = self.feed_forward {
            let role = "ffn_gate_inp";
            let tensor = format!("blk.{layer}.{role}.weight");
            let shape = TensorShape { columns: h.width, rows: experts.count };
            let slot = LinearSlot { role, tensor, input: InputKind::FeedForward, shape, experts: 1 };
            weights.set_linear(role, read_linear(source, &slot)?);
        }
        for name in ["attn_norm", "ffn_norm"] {
            let shape = TensorShape { columns: h.width, rows: 1 };
            weights.set_vector(name, read_tensor(source, &format!("blk.{layer}.{name}.weight"), shape)?);
        }
        for (name, width) in [
            ("attn_q_norm", h.key_width),
            ("attn_k_norm", h.key_width),
            ("post_attention_norm", h.width),
            ("post_ffw_norm", h.width),
        ] {
            let tensor = format!("blk.{layer}.{name}.weight");
            if let Some(scale) = read_optional_vector(source, &tensor, width)? {
                weights.set_vector(name, scale);
            }
        }
        Ok(weights)
    }

    fn cache_shape(&self, _layer: usize) -> CacheShape {
        let h = &self.hyperparameters;
        CacheShape { heads: h.kv_heads, key_width: h.key_width, value_width: h.value_width }
    }

    fn prepare(&self, hidden: &mut [f32]) {
        if let Some(scale) = self.embedding_scale {
            hidden.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn forward_half(
        &self,
        half: Half,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError> {
        if half == Half::FeedForward {
            return self.forward_feed_forward(weights, hidden, call.observer);
        }
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
        let layer = self.layer_attention(call.layer);
        let mut normed = vec![0.0; hidden.len()];
        rms_norm(hidden, weights.vector("attn_norm")?, h.epsilon, &mut normed);
        observer.input(InputKind::Attention, &normed, h.width)?;
        if observer.enough() {
            return Ok(());
        }
        let [mut queries, mut keys, values] = self.project(weights, &normed)?;
        for (heads, norm) in [(&mut queries, "attn_q_norm"), (&mut keys, "attn_k_norm")] {
            if let Some(scale) = weights.optional_vector(norm) {
                rms_norm_in_place(heads, scale, h.epsilon);
            }
            layer.rope.rotate(heads, h.key_width, &positions);
        }
        let mut heads = vec![0.0; tokens * h.heads * h.value_width];
        let mut received = if observer.wants_attention() { vec![0.0; tokens] } else { Vec::new() };
        match call.cache {
            None => {
                let source = KeyValues::Batch { keys: &keys, values: &values };
                attend(layer.shape, call.spans, &queries, source, &mut heads, &mut received)?;
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
                let source = KeyValues::Cache(cache);
                attend(layer.shape, call.spans, &queries, source, &mut heads, &mut [])?;
                received.clear();
            }
        }
        if !received.is_empty() {
            observer.attention(&normed, h.width, &received)?;
        }
        self.finish_half(Half::Attention, weights, &heads, hidden, observer)
    }

    fn finish_half(
        &self,
        half: Half,
        weights: &LayerWeights,
        x: &[f32],
        hidden: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let h = &self.hyperparameters;
        let kind = half.last_input();
        let (role, norm, width) = match half {
            Half::Attention => ("attn_output", "post_attention_norm", h.heads * h.value_width),
            Half::FeedForward => ("ffn_down", "post_ffw_norm", h.feed_forward),
        };
        let norm = weights.optional_vector(norm);
        if norm.is_none() {
            observer.residual(kind, hidden)?;
        }
        observer.input(kind, x, width)?;
        if observer.enough() {
            return Ok(());
        }
        let mut added = weights.linear(role)?.apply(x)?;
        observer.output(kind, &added)?;
        if let Some(scale) = norm {
            rms_norm_in_place(&mut added, scale, h.epsilon);
        }
        add_assign(hidden, &added);
        Ok(())
    }

    fn backward(
        &self,
        weights: &LayerWeights,
        gradient: &mut [f32],
        call: GradientCall<'_>,
    ) -> Result<(), ModelError> {
        self.gradient(weights, gradient, call)
    }
}

impl DenseBlock {
    fn forward_feed_forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let h = &self.hyperparameters;
        let mut normed = vec![0.0; hidden.len()];
        rms_norm(hidden, weights.vector("ffn_norm")?, h.epsilon, &mut normed);
        observer.input(InputKind::FeedForward, &normed, h.width)?;
        if observer.enough() {
            return Ok(());
        }
        let FeedForward::Experts(experts) = self.feed_forward else {
            let active = self.activate(weights, &normed)?;
            return self.finish_half(Half::FeedForward, weights, &active, hidden, observer);
        };
        let mut added = experts.forward(weights, &normed, h.width, observer)?;
        if let Some(scale) = weights.optional_vector("post_ffw_norm") {
            rms_norm_in_place(&mut added, scale, h.epsilon);
        }
        add_assign(hidden, &added);
        Ok(())
    }
}
