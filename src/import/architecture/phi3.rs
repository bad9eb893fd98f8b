//! Phi-3, Phi-3.5 and Phi-4 (text). Query, key and value stay one tensor, gate and up another, as runtimes have them.

use super::common::{self, Keys, DEFAULTS};
use super::Family;
use crate::gguf::{Metadata, Value};
use crate::import::config::{Config, Defaults, Rope, Sizes};
use crate::import::error::ImportError;
use crate::import::plan::Plan;
use crate::import::tokenizer::Preference;

pub(super) const PHI3: Family =
    Family { classes: &["Phi3ForCausalLM"], name: "phi3", tokenizer: Preference::Phi3, describe };

const PHI: Defaults = Defaults { context: 4096, epsilon: 1e-5, ..DEFAULTS };

fn describe(config: &Config, plan: &mut Plan<'_>, metadata: &mut Metadata) -> Result<(), ImportError> {
    config.check_activation(&["silu", "swish"])?;
    let sizes = Sizes::read(config, &PHI)?;
    let rope = Rope::read(config)?;
    common::check_rope(&rope, &["su", "longrope", "yarn"], plan)?;
    let original = rope.number("original_max_position_embeddings")?.unwrap_or(f64::from(PHI.context));
    let rotated = rotated(&rope, &sizes)?;
    let mut keys = Keys { name: PHI3.name, metadata };
    keys.set("context_length", Value::U32(sizes.context));
    keys.count("rope.scaling.original_context_length", original as u64);
    keys.count("embedding_length", sizes.width);
    keys.count("feed_forward_length", sizes.feed_forward);
    keys.count("block_count", sizes.layers);
    keys.count("attention.head_count", sizes.heads);
    keys.count("attention.head_count_kv", sizes.kv_heads);
    keys.float("attention.layer_norm_rms_epsilon", config.positive("rms_norm_eps")?.unwrap_or(PHI.epsilon));
    keys.count("rope.dimension_count", rotated);
    keys.float("rope.freq_base", rope.number("rope_theta")?.unwrap_or(PHI.rope_base));
    keys.file_type();
    // 0 tells runtimes that the model has no window, as Phi-4.
    keys.count("attention.sliding_window", config.u32("sliding_window")?.unwrap_or(0).into());

    common::embedding(plan, &sizes)?;
    if rope.kind() != "default" {
        let scale = f64::from(sizes.context) / original;
        let attention = match rope.kind().as_str() {
            _ if scale <= 1.0 => 1.0,
            "yarn" => 0.1 * scale.ln() + 1.0,
            _ => (1.0 + scale.ln() / original.ln()).sqrt(),
        };
        keys.float("rope.scaling.attn_factor", attention);
        for (name, key) in
            [("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")]
        {
            let factors = rope.numbers(key, rotated / 2)?;
            let factors = factors.ok_or_else(|| rope.wrong(key, format!("{} numbers", rotated / 2)))?;
            plan.computed(name, factors);
        }
    }
    let qkv = sizes.query_rows().saturating_add(sizes.kv_rows().saturating_mul(2));
    let wide = sizes.feed_forward;
    for layer in 0..sizes.layers {
        let (from, to) = (format!("model.layers.{layer}"), format!("blk.{layer}"));
        common::norm(plan, layer, ("attn_norm", "input_layernorm"), sizes.width, 0.0)?;
        let matrices = [
            ("attn_qkv", "self_attn.qkv_proj", (qkv, sizes.width)),
            ("attn_output", "self_attn.o_proj", (sizes.width, sizes.query_rows())),
        ];
        for (name, source, shape) in matrices {
            plan.linear(&format!("{to}.{name}"), &format!("{from}.{source}"), shape, None)?;
        }
        common::norm(plan, layer, ("ffn_norm", "post_attention_layernorm"), sizes.width, 0.0)?;
        let matrices = [
            ("ffn_up", "mlp.gate_up_proj", (wide.saturating_mul(2), sizes.width)),
            ("ffn_down", "mlp.down_proj", (sizes.width, wide)),
        ];
        for (name, source, shape) in matrices {
            plan.linear(&format!("{to}.{name}"), &format!("{from}.{source}"), shape, None)?;
        }
    }
    common::head(config, plan, &sizes, 0.0, false)
}

/// Elements of a head that are rotated.
fn rotated(rope: &Rope, sizes: &Sizes) -> Result<u64, ImportError> {
    const KEY: &str = "partial_rotary_factor";
    let part = rope.number(KEY)?.unwrap_or(1.0);
    let rotated = (part * sizes.width as f64) as u64 / sizes.heads;
    if rotated == 0 || rotated > sizes.head_width || !rotated.is_multiple_of(2) {
        let expected = format!("a factor that gives an even number of at most {} elements", sizes.head_width);
        return Err(rope.wrong(KEY, expected));
    }
    Ok(rotated)
}
