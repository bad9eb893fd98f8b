//! Llama 1 to 3, Mistral and everything that shares their classes; Mixtral with its experts.

use super::common::{self, Keys, DEFAULTS};
use super::Family;
use crate::gguf::Metadata;
use crate::import::config::{Config, Defaults, Rope, Sizes};
use crate::import::error::ImportError;
use crate::import::plan::Plan;
use crate::import::tokenizer::Preference;

const NAME: &str = "llama";

pub(super) const DENSE: Family = Family {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
    name: NAME,
    tokenizer: Preference::Llama,
    describe: |config, plan, metadata| describe(config, plan, metadata, false),
};

pub(super) const MIXTRAL: Family = Family {
    classes: &["MixtralForCausalLM"],
    name: NAME,
    tokenizer: Preference::Llama,
    describe: |config, plan, metadata| describe(config, plan, metadata, true),
};

fn defaults(config: &Config) -> Defaults {
    match config.text("model_type") {
        Some("mistral") => Defaults { kv_heads: Some(8), context: 131_072, ..DEFAULTS },
        Some("mixtral") => Defaults {
            kv_heads: Some(8),
            context: 131_072,
            rope_base: 1_000_000.0,
            epsilon: 1e-5,
            ..DEFAULTS
        },
        _ => DEFAULTS,
    }
}

fn describe(
    config: &Config,
    plan: &mut Plan<'_>,
    metadata: &mut Metadata,
    mixture: bool,
) -> Result<(), ImportError> {
    let defaults = defaults(config);
    config.check_activation(&["silu", "swish"])?;
    let sizes = Sizes::read(config, &defaults)?;
    let rope = Rope::read(config)?;
    common::check_rope(&rope, &["linear", "yarn", "llama3"], plan)?;
    let mut keys = Keys { name: NAME, metadata };
    keys.sizes(config, &sizes, &rope, &defaults)?;
    let experts = match mixture {
        true => Some(mixture_sizes(config, &mut keys)?),
        false => None,
    };
    // transformers fills in the head width of the dense classes, so it is always known there.
    if !mixture || config.get("head_dim").is_some() {
        keys.head_width(&sizes);
    }
    keys.file_type();
    keys.count("vocab_size", sizes.vocabulary);
    keys.count("rope.dimension_count", sizes.head_width);

    common::embedding(plan, &sizes)?;
    if rope.kind() == "llama3" {
        let base = rope.number("rope_theta")?.unwrap_or(defaults.rope_base);
        plan.computed("rope_freqs.weight", llama3_factors(&rope, base, sizes.head_width)?);
    }
    for layer in 0..sizes.layers {
        common::norm(plan, layer, ("attn_norm", "input_layernorm"), sizes.width, 0.0)?;
        common::attention(plan, &sizes, layer, true)?;
        common::norm(plan, layer, ("ffn_norm", "post_attention_layernorm"), sizes.width, 0.0)?;
        match experts {
            Some(count) => {
                let shape = (count, sizes.feed_forward, sizes.width);
                common::experts(plan, layer, shape, "block_sparse_moe", ["w1", "w3", "w2"])?;
            }
            None => common::feed_forward(plan, &sizes, layer)?,
        }
    }
    common::head(config, plan, &sizes, 0.0, false)
}

/// Sets the keys of the experts; returns how many there are.
fn mixture_sizes(config: &Config, keys: &mut Keys<'_>) -> Result<u64, ImportError> {
    let count = config.count_up_to("num_local_experts", config.limits().max_experts)?.unwrap_or(8);
    let used = config.count_up_to("num_experts_per_tok", count)?.unwrap_or(2);
    keys.count("expert_count", count);
    keys.count("expert_used_count", used);
    Ok(count)
}

/// Factors by which Llama 3.1 and later divide the frequencies of the `head_width / 2` pairs: 1 for wavelengths
/// well inside the original context, `factor` for those beyond it, in between a blend.
fn llama3_factors(rope: &Rope, base: f64, head_width: u64) -> Result<Vec<f32>, ImportError> {
    let factor = rope.number("factor")?.unwrap_or(8.0);
    let low = rope.number("low_freq_factor")?.unwrap_or(1.0);
    let high = rope.number("high_freq_factor")?.unwrap_or(4.0);
    let context = rope.number("original_max_position_embeddings")?.unwrap_or(8192.0);
    if high <= low {
        return Err(rope.wrong("high_freq_factor", format!("more than the low_freq_factor of {low}")));
    }
    let pair = |index: u64| {
        let frequency = base.powf(-(2.0 * index as f64) / head_width as f64);
        let wavelength = std::f64::consts::TAU / frequency;
        let value = if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        value as f32
    };
    Ok((0..head_width / 2).map(pair).collect())
}
