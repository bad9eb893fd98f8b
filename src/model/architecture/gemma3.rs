//! Gemma 3 (text): norms before and after each half of a block, GELU, scaled embeddings; five of six layers see only a
//! window of the past, with a rotation of their own.

use super::block::{DenseBlock, FeedForward, Local};
use super::Architecture;
use crate::model::config::Keys;
use crate::model::error::ModelError;
use crate::model::ops::{AttentionShape, Pairing, Rope, RopeScaling};
use crate::model::source::TensorSource;

/// Every sixth layer sees everything.
const PERIOD: usize = 6;
/// Layers of the 27B model, which scales scores by the width of a head that it does not have.
const LAYERS_OF_27B: usize = 62;

pub(super) fn build(
    source: &dyn TensorSource,
    name: &'static str,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut block = DenseBlock::new(source, name, Pairing::Halves)?;
    let keys = Keys::new(source.metadata(), name);
    if keys.positive("final_logit_softcapping")?.is_some() {
        let key = format!("{name}.final_logit_softcapping");
        return Err(ModelError::metadata(&key, "nothing: capped logits are not computed here", "a cap"));
    }
    let h = &block.hyperparameters;
    if h.layers == LAYERS_OF_27B {
        block.attention.scale = 1.0 / (h.width as f32 / h.heads as f32).sqrt();
    }
    block.feed_forward = FeedForward::Gelu;
    block.embedding_scale = Some((h.width as f32).sqrt());
    if let Some(window) = keys.count("attention.sliding_window", usize::MAX >> 1)? {
        let base = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
        let rope = Rope::new(Pairing::Halves, h.rotated, base, RopeScaling::None, None);
        let rope = rope.ok_or_else(|| super::block::bad_divisors("rope_freqs.weight", h.rotated, None))?;
        let attention = AttentionShape { window: Some(window), ..block.attention };
        block.local = Some(Local { attention, rope, period: PERIOD });
    }
    Ok(Box::new(block))
}
