//! Qwen2 and 2.5, Qwen3, and Qwen3 with experts.

use super::common::{self, Keys, DEFAULTS};
use super::Family;
use crate::gguf::Metadata;
use crate::import::config::{Config, Defaults, Rope, Sizes};
use crate::import::error::ImportError;
use crate::import::plan::Plan;
use crate::import::tokenizer::Preference;

pub(super) const QWEN2: Family = Family {
    classes: &["Qwen2ForCausalLM"],
    name: "qwen2",
    tokenizer: Preference::SentencePieceOrBytes,
    describe: qwen2,
};

pub(super) const QWEN3: Family = Family {
    classes: &["Qwen3ForCausalLM"],
    name: "qwen3",
    tokenizer: Preference::SentencePieceOrBytes,
    describe: qwen3,
};

pub(super) const QWEN3_MOE: Family = Family {
    classes: &["Qwen3MoeForCausalLM"],
    name: "qwen3moe",
    tokenizer: Preference::SentencePieceOrBytes,
    describe: qwen3_moe,
};

const QWEN: Defaults = Defaults { context: 32_768, ..DEFAULTS };

fn qwen2(config: &Config, plan: &mut Plan<'_>, metadata: &mut Metadata) -> Result<(), ImportError> {
    let mut keys = Keys { name: QWEN2.name, metadata };
    let sizes = start(config, plan, &mut keys, &QWEN)?;
    if config.get("head_dim").is_some() {
        keys.head_width(&sizes);
    }
    keys.file_type();
    layers(config, plan, &sizes, false, &mut |plan, layer| common::feed_forward(plan, &sizes, layer))
}

fn qwen3(config: &Config, plan: &mut Plan<'_>, metadata: &mut Metadata) -> Result<(), ImportError> {
    let mut keys = Keys { name: QWEN3.name, metadata };
    let sizes = start(config, plan, &mut keys, &Defaults { head_width: Some(128), ..QWEN })?;
    keys.head_width(&sizes);
    keys.file_type();
    layers(config, plan, &sizes, true, &mut |plan, layer| common::feed_forward(plan, &sizes, layer))
}

fn qwen3_moe(config: &Config, plan: &mut Plan<'_>, metadata: &mut Metadata) -> Result<(), ImportError> {
    let mut keys = Keys { name: QWEN3_MOE.name, metadata };
    let sizes = start(config, plan, &mut keys, &Defaults { kv_heads: Some(4), ..QWEN })?;
    if config.get("decoder_sparse_step").is_some_and(|step| *step != 1) {
        return Err(config.wrong("decoder_sparse_step", "1: runtimes want experts in every layer"));
    }
    let dense = config.get("mlp_only_layers").and_then(serde_json::Value::as_array);
    if dense.is_some_and(|dense| !dense.is_empty()) {
        return Err(config.wrong("mlp_only_layers", "none: runtimes want experts in every layer"));
    }
    let most = config.limits().max_experts;
    let count = match config.count_up_to("num_experts", most)? {
        Some(count) => count,
        None => config.count_up_to("num_local_experts", most)?.unwrap_or(128),
    };
    let used = config.count_up_to("num_experts_per_tok", count)?.unwrap_or(8);
    let wide = config.count("moe_intermediate_size")?.unwrap_or(768);
    if config.bool("norm_topk_prob")? == Some(false) {
        plan.warnings.push(
            "norm_topk_prob is false, but runtimes divide the weights of the chosen experts by their sum: results \
             will differ from transformers'"
                .into(),
        );
    }
    keys.count("expert_count", count);
    keys.count("expert_used_count", used);
    if config.get("head_dim").is_some() {
        keys.head_width(&sizes);
    }
    keys.file_type();
    keys.count("expert_feed_forward_length", wide);
    layers(config, plan, &sizes, true, &mut |plan, layer| {
        common::experts(plan, layer, (count, wide, sizes.width), "mlp", ["gate_proj", "up_proj", "down_proj"])
    })
}

/// Sizes and the keys that all three have.
fn start(
    config: &Config,
    plan: &mut Plan<'_>,
    keys: &mut Keys<'_>,
    defaults: &Defaults,
) -> Result<Sizes, ImportError> {
    config.check_activation(&["silu", "swish"])?;
    let sizes = Sizes::read(config, defaults)?;
    let rope = Rope::read(config)?;
    common::check_rope(&rope, &["linear", "yarn"], plan)?;
    if config.bool("use_sliding_window")? == Some(true) {
        plan.warnings.push(
            "use_sliding_window is true, but runtimes attend to the whole context: results for long texts will \
             differ from transformers'"
                .into(),
        );
    }
    keys.sizes(config, &sizes, &rope, defaults)?;
    Ok(sizes)
}

/// Embedding, layers and head. With `head_norms` queries and keys have norms of their own.
fn layers(
    config: &Config,
    plan: &mut Plan<'_>,
    sizes: &Sizes,
    head_norms: bool,
    feed_forward: &mut dyn FnMut(&mut Plan<'_>, u64) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    common::embedding(plan, sizes)?;
    for layer in 0..sizes.layers {
        common::norm(plan, layer, ("attn_norm", "input_layernorm"), sizes.width, 0.0)?;
        common::attention(plan, sizes, layer, false)?;
        if head_norms {
            common::norm(plan, layer, ("attn_q_norm", "self_attn.q_norm"), sizes.head_width, 0.0)?;
            common::norm(plan, layer, ("attn_k_norm", "self_attn.k_norm"), sizes.head_width, 0.0)?;
        }
        common::norm(plan, layer, ("ffn_norm", "post_attention_layernorm"), sizes.width, 0.0)?;
        feed_forward(plan, layer)?;
    }
    common::head(config, plan, sizes, 0.0, false)
}
