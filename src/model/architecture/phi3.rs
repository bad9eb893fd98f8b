//! Phi-3, Phi-3.5 and Phi-4: queries, keys and values in one matrix, gate and up in another; long contexts by factors of
//! the angles.

use super::block::{bad_divisors, DenseBlock, FeedForward};
use super::Architecture;
use crate::gguf::Metadata;
use crate::model::config::Keys;
use crate::model::error::ModelError;
use crate::model::ops::{Pairing, Rope};
use crate::model::source::TensorSource;
use crate::model::weights::read_optional_vector;

/// Factors for texts within the original context. Longer ones would need those of `rope_factors_long.weight`: what this
/// crate runs models on (calibration, evaluation) is far shorter.
const FACTORS: &str = "rope_factors_short.weight";

pub(super) fn build(
    source: &dyn TensorSource,
    name: &'static str,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut block = DenseBlock::new(source, name, Pairing::Halves)?;
    let keys = Keys::new(source.metadata(), name);
    let h = &block.hyperparameters;
    if let Some(factors) = read_optional_vector(source, FACTORS, h.rotated / 2)? {
        let rope = Rope::new(Pairing::Halves, h.rotated, h.rope_base, h.rope_scaling, Some(&factors));
        let rope = rope.ok_or_else(|| bad_divisors(FACTORS, h.rotated, Some(&factors)))?;
        block.rope = rope.with_magnitude(keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0));
    }
    // 0 means that there is no window.
    let window = format!("{name}.attention.sliding_window");
    let window = source.metadata().optional(&window, Metadata::usize)?;
    block.attention.window = window.filter(|window| *window > 0);
    block.fused_attention = true;
    block.feed_forward = FeedForward::FusedSilu;
    Ok(Box::new(block))
}
