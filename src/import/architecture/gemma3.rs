//! Gemma 3, the language model. Runtimes multiply by the stored norms, the class by one more: 1 is added.

use super::common::{self, Keys, DEFAULTS};
use super::Family;
use crate::gguf::Metadata;
use crate::import::config::{Config, Defaults, Rope, Sizes};
use crate::import::error::ImportError;
use crate::import::plan::Plan;
use crate::import::tokenizer::Preference;

pub(super) const GEMMA3: Family = Family {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    name: "gemma3",
    tokenizer: Preference::SentencePiece { space_prefix: Some(false) },
    describe,
};

const GEMMA: Defaults = Defaults {
    head_width: Some(256),
    heads: Some(8),
    kv_heads: Some(4),
    context: 131_072,
    rope_base: 1_000_000.0,
    ..DEFAULTS
};

/// Parts of the names of tensors that belong to images.
const VISION: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

fn describe(config: &Config, plan: &mut Plan<'_>, metadata: &mut Metadata) -> Result<(), ImportError> {
    config.check_activation(&["gelu_pytorch_tanh"])?;
    let sizes = Sizes::read(config, &GEMMA)?;
    let mut rope = Rope::read(config)?;
    // The base of sliding-window layers has been the same in all models; old files do not state it.
    rope.sliding_base.get_or_insert(10_000.0);
    common::check_rope(&rope, &["linear"], plan)?;
    if config.get("attn_logit_softcapping").is_some() {
        return Err(config.wrong("attn_logit_softcapping", "nothing: Gemma 3 has none"));
    }
    if plan.drop_matching(&VISION) > 0 {
        plan.warnings.push("the part of the model that reads images is left out".into());
    }
    let mut keys = Keys { name: GEMMA3.name, metadata };
    keys.sizes(config, &sizes, &rope, &GEMMA)?;
    keys.head_width(&sizes);
    keys.file_type();
    if let Some(cap) = config.positive("final_logit_softcapping")? {
        keys.float("final_logit_softcapping", cap);
    }
    let pattern = config.count("sliding_window_pattern")?;
    if pattern != Some(1) {
        let Some(window) = config.u32("sliding_window")? else {
            return Err(config.wrong("sliding_window", "the width of the window"));
        };
        keys.count("attention.sliding_window", window.into());
    }
    check_pattern(config)?;

    common::embedding(plan, &sizes)?;
    for layer in 0..sizes.layers {
        common::norm(plan, layer, ("attn_norm", "input_layernorm"), sizes.width, 1.0)?;
        common::attention(plan, &sizes, layer, false)?;
        common::norm(plan, layer, ("attn_q_norm", "self_attn.q_norm"), sizes.head_width, 1.0)?;
        common::norm(plan, layer, ("attn_k_norm", "self_attn.k_norm"), sizes.head_width, 1.0)?;
        let after = ("post_attention_norm", "post_attention_layernorm");
        common::norm(plan, layer, after, sizes.width, 1.0)?;
        common::norm(plan, layer, ("ffn_norm", "pre_feedforward_layernorm"), sizes.width, 1.0)?;
        common::feed_forward(plan, &sizes, layer)?;
        common::norm(plan, layer, ("post_ffw_norm", "post_feedforward_layernorm"), sizes.width, 1.0)?;
    }
    common::head(config, plan, &sizes, 1.0, true)
}

/// Runtimes take every sixth layer to be one of full attention.
fn check_pattern(config: &Config) -> Result<(), ImportError> {
    let Some(kinds) = config.get("layer_types").and_then(serde_json::Value::as_array) else { return Ok(()) };
    for (layer, kind) in kinds.iter().enumerate() {
        let expected = if layer % 6 == 5 { "full_attention" } else { "sliding_attention" };
        if kind.as_str() != Some(expected) {
            return Err(config.wrong(
                "layer_types",
                format!("{expected} for layer {layer}: runtimes want full attention in every sixth layer"),
            ));
        }
    }
    Ok(())
}
