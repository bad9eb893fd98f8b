//! What the families share: keys that every architecture has, embedding, head and attention.

use crate::gguf::{Metadata, Value};
use crate::import::config::{Config, Defaults, Rope, Sizes};
use crate::import::error::ImportError;
use crate::import::plan::Plan;

/// Most classes' values where config.json is silent.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_width: None,
    heads: None,
    kv_heads: None,
    context: 2048,
    rope_base: 10_000.0,
    epsilon: 1e-6,
};

/// Sets keys that start with the architecture's name.
pub(super) struct Keys<'a> {
    pub name: &'static str,
    pub metadata: &'a mut Metadata,
}

impl Keys<'_> {
    /// Sets `NAME.key`.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.set(format!("{}.{key}", self.name), value);
    }

    /// Sets a UINT32. Sizes are bounded far below 2^32 by the limits.
    pub fn count(&mut self, key: &str, value: u64) {
        self.set(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
    }

    /// Sets a FLOAT32.
    pub fn float(&mut self, key: &str, value: f64) {
        self.set(key, Value::F32(value as f32));
    }

    /// Sets the keys of sizes and of positions that every architecture has.
    pub fn sizes(
        &mut self,
        config: &Config,
        sizes: &Sizes,
        rope: &Rope,
        defaults: &Defaults,
    ) -> Result<(), ImportError> {
        self.count("block_count", sizes.layers);
        self.set("context_length", Value::U32(sizes.context));
        self.count("embedding_length", sizes.width);
        self.count("feed_forward_length", sizes.feed_forward);
        self.count("attention.head_count", sizes.heads);
        self.count("attention.head_count_kv", sizes.kv_heads);
        self.rope_scaling(rope)?;
        self.float("rope.freq_base", rope.number("rope_theta")?.unwrap_or(defaults.rope_base));
        if let Some(base) = rope.sliding_base {
            self.float("rope.freq_base_swa", base);
        }
        let epsilon = config.positive("rms_norm_eps")?.unwrap_or(defaults.epsilon);
        self.float("attention.layer_norm_rms_epsilon", epsilon);
        Ok(())
    }

    /// Sets the keys of the scalings "linear" and "yarn".
    fn rope_scaling(&mut self, rope: &Rope) -> Result<(), ImportError> {
        match rope.kind().as_str() {
            "linear" => {
                self.set("rope.scaling.type", "linear".into());
                self.float("rope.scaling.factor", rope.required("factor")?);
            }
            "yarn" => {
                self.set("rope.scaling.type", "yarn".into());
                self.float("rope.scaling.factor", rope.required("factor")?);
                let original = rope.required("original_max_position_embeddings")?;
                self.count("rope.scaling.original_context_length", original as u64);
                let attention = match rope.number("attention_factor")? {
                    Some(factor) => Some(factor),
                    None => rope.number("attn_factor")?,
                };
                for (key, value) in [
                    ("yarn_ext_factor", rope.number("extrapolation_factor")?),
                    ("yarn_attn_factor", attention),
                    ("yarn_beta_fast", rope.number("beta_fast")?),
                    ("yarn_beta_slow", rope.number("beta_slow")?),
                ] {
                    if let Some(value) = value {
                        self.float(&format!("rope.scaling.{key}"), value);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Sets the widths of one head.
    pub fn head_width(&mut self, sizes: &Sizes) {
        self.count("attention.key_length", sizes.head_width);
        self.count("attention.value_length", sizes.head_width);
    }

    /// Reserves the place of the file type, which is known when the type of the weights is chosen.
    pub fn file_type(&mut self) {
        self.metadata.set("general.file_type", Value::U32(0));
    }
}

/// Fails for scalings of positions that are not among `allowed` ("default" is always allowed).
pub(super) fn check_rope(rope: &Rope, allowed: &[&str], plan: &mut Plan<'_>) -> Result<(), ImportError> {
    match rope.kind().as_str() {
        "default" => Ok(()),
        kind if allowed.contains(&kind) => Ok(()),
        "dynamic" => {
            plan.warnings.push(
                "the scaling of positions is `dynamic`, which runtimes do not have: texts longer than the model \
                 was trained on will fare worse than in transformers"
                    .into(),
            );
            Ok(())
        }
        _ => Err(rope.wrong("rope_type", format!("default, {}", allowed.join(" or ")))),
    }
}

/// The embedding.
pub(super) fn embedding(plan: &mut Plan<'_>, sizes: &Sizes) -> Result<(), ImportError> {
    plan.matrix("token_embd.weight".into(), "model.embed_tokens.weight", sizes.vocabulary, sizes.width)
}

/// The norm before the head, and the head unless it is the embedding again. `tied` is what the class has where
/// config.json is silent.
pub(super) fn head(
    config: &Config,
    plan: &mut Plan<'_>,
    sizes: &Sizes,
    norm_add: f32,
    tied: bool,
) -> Result<(), ImportError> {
    const HEAD: &str = "lm_head.weight";
    plan.vector("output_norm.weight".into(), "model.norm.weight", sizes.width, norm_add)?;
    let stated = config.bool("tie_word_embeddings")?;
    if !plan.has(HEAD) {
        if stated == Some(false) {
            plan.warnings.push(
                "config.json says that the output head is not the embedding, but the checkpoint has no head: the \
                 embedding is used"
                    .into(),
            );
        }
        return Ok(());
    }
    if stated.unwrap_or(tied) {
        if plan.bytes(HEAD) != plan.bytes("model.embed_tokens.weight") {
            plan.warnings.push(
                "config.json says that the output head is the embedding: the different head in the checkpoint is \
                 left out, as transformers does"
                    .into(),
            );
        }
        plan.drop_tensor(HEAD);
        return Ok(());
    }
    plan.matrix("output.weight".into(), HEAD, sizes.vocabulary, sizes.width)
}

/// Query, key, value and output projections of a layer. With `rotate_pairs` queries and keys are rearranged for
/// runtimes that rotate neighbouring elements.
pub(super) fn attention(
    plan: &mut Plan<'_>,
    sizes: &Sizes,
    layer: u64,
    rotate_pairs: bool,
) -> Result<(), ImportError> {
    let (from, to) = (format!("model.layers.{layer}.self_attn"), format!("blk.{layer}"));
    let head = rotate_pairs.then_some(sizes.head_width);
    let (query, kv, width) = (sizes.query_rows(), sizes.kv_rows(), sizes.width);
    plan.linear(&format!("{to}.attn_q"), &format!("{from}.q_proj"), (query, width), head)?;
    plan.linear(&format!("{to}.attn_k"), &format!("{from}.k_proj"), (kv, width), head)?;
    plan.linear(&format!("{to}.attn_v"), &format!("{from}.v_proj"), (kv, width), None)?;
    plan.linear(&format!("{to}.attn_output"), &format!("{from}.o_proj"), (width, query), None)
}

/// Gate, up and down projections of a layer.
pub(super) fn feed_forward(plan: &mut Plan<'_>, sizes: &Sizes, layer: u64) -> Result<(), ImportError> {
    let (wide, width) = (sizes.feed_forward, sizes.width);
    for (to, from, shape) in [
        ("ffn_gate", "gate_proj", (wide, width)),
        ("ffn_up", "up_proj", (wide, width)),
        ("ffn_down", "down_proj", (width, wide)),
    ] {
        plan.linear(&format!("blk.{layer}.{to}"), &format!("model.layers.{layer}.mlp.{from}"), shape, None)?;
    }
    Ok(())
}

/// The norms of a layer: (ggml name, checkpoint name).
pub(super) fn norm(
    plan: &mut Plan<'_>,
    layer: u64,
    (to, from): (&str, &str),
    len: u64,
    add: f32,
) -> Result<(), ImportError> {
    plan.vector(format!("blk.{layer}.{to}.weight"), &format!("model.layers.{layer}.{from}.weight"), len, add)
}

/// Router and experts of a layer. Checkpoints hold one matrix for each expert, or (`fused`) two stacks: gate and up
/// over each other, and down. `names` are those of the gate, up and down matrices of an expert.
pub(super) fn experts(
    plan: &mut Plan<'_>,
    layer: u64,
    (count, wide, width): (u64, u64, u64),
    block: &str,
    names: [&str; 3],
) -> Result<(), ImportError> {
    let (from, to) = (format!("model.layers.{layer}"), format!("blk.{layer}"));
    let fused = format!("{from}.mlp.experts.gate_up_proj");
    if plan.has(&fused) {
        plan.matrix(format!("{to}.ffn_gate_inp.weight"), &format!("{from}.mlp.gate.weight"), count, width)?;
        let (shape, stored) = ((wide, width), wide.saturating_mul(2));
        plan.stacked(format!("{to}.ffn_gate_exps.weight"), &fused, count, shape, (0, stored))?;
        plan.stacked(format!("{to}.ffn_up_exps.weight"), &fused, count, shape, (wide, stored))?;
        let down = format!("{from}.mlp.experts.down_proj");
        return plan.stacked(format!("{to}.ffn_down_exps.weight"), &down, count, (width, wide), (0, width));
    }
    plan.matrix(format!("{to}.ffn_gate_inp.weight"), &format!("{from}.{block}.gate.weight"), count, width)?;
    let [gate, up, down] = names;
    for (kind, name, shape) in
        [("gate", gate, (wide, width)), ("up", up, (wide, width)), ("down", down, (width, wide))]
    {
        let source = |expert| format!("{from}.{block}.experts.{expert}.{name}.weight");
        plan.experts(format!("{to}.ffn_{kind}_exps.weight"), source, count, shape)?;
    }
    Ok(())
}
