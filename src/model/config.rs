//! The sizes of a model, from its metadata.

use super::error::ModelError;
use super::ops::RopeScaling;
use crate::gguf::Metadata;

/// Largest width, head count or vocabulary accepted: far above any published model, far below overflow.
const MAX_WIDTH: usize = 1 << 22;
/// Largest number of layers accepted.
const MAX_LAYERS: usize = 1 << 12;

/// Typed access to the metadata keys of one architecture (`llama.block_count` and the like).
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    /// Keys that start with `prefix` and a dot.
    pub fn new(metadata: &'a Metadata, prefix: &'a str) -> Self {
        Self { metadata, prefix }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A count from 1 to `limit`; `None` if the key is absent. An array counts if all its elements are equal.
    pub fn count(&self, name: &str, limit: usize) -> Result<Option<usize>, ModelError> {
        let key = self.key(name);
        let value = match self.metadata.optional(&key, Metadata::array) {
            Ok(Some(_)) => {
                let values = self.metadata.integer_array::<usize>(&key)?;
                let first = values.first().copied();
                if values.iter().any(|&value| Some(value) != first) {
                    return Err(ModelError::metadata(
                        &key,
                        "the same value for each layer",
                        "different ones",
                    ));
                }
                first
            }
            _ => self.metadata.optional(&key, Metadata::usize)?,
        };
        match value {
            Some(value) if value == 0 || value > limit => {
                Err(ModelError::metadata(&key, format!("1 to {limit}"), value))
            }
            value => Ok(value),
        }
    }

    /// A count that must be there.
    pub fn required(&self, name: &str, limit: usize) -> Result<usize, ModelError> {
        let missing = || ModelError::metadata(&self.key(name), format!("1 to {limit}"), "nothing");
        self.count(name, limit)?.ok_or_else(missing)
    }

    /// A finite float; `None` if the key is absent.
    pub fn float(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let key = self.key(name);
        match self.metadata.optional(&key, Metadata::f32)? {
            Some(value) if !value.is_finite() => Err(ModelError::metadata(&key, "a finite number", value)),
            value => Ok(value),
        }
    }

    /// A positive float; `None` if the key is absent.
    pub fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.float(name)? {
            Some(value) if value <= 0.0 => {
                Err(ModelError::metadata(&self.key(name), "a positive number", value))
            }
            value => Ok(value),
        }
    }

    /// A text; `None` if the key is absent.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let key = self.key(name);
        Ok(match self.metadata.get(&key) {
            Some(_) => Some(self.metadata.str(&key)?),
            None => None,
        })
    }
}

/// Sizes that every decoder-only transformer has.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden state.
    pub width: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of one query or key.
    pub key_width: usize,
    /// Elements of one value.
    pub value_width: usize,
    /// Elements of each head that are rotated.
    pub rotated: usize,
    /// Base of the rotation's angles.
    pub rope_base: f32,
    /// Change of the angles for long contexts.
    pub rope_scaling: RopeScaling,
    /// Added to the mean square in norms.
    pub epsilon: f32,
    /// Longest context the model was made for.
    pub context: usize,
    /// Number of tokens.
    pub vocabulary: usize,
}

impl Hyperparameters {
    /// Reads the keys of architecture `name`. `vocabulary` is the number of rows of the embedding.
    pub fn read(metadata: &Metadata, name: &str, vocabulary: usize) -> Result<Self, ModelError> {
        let keys = Keys::new(metadata, name);
        let layers = keys.required("block_count", MAX_LAYERS)?;
        let width = keys.required("embedding_length", MAX_WIDTH)?;
        let feed_forward = keys.required("feed_forward_length", MAX_WIDTH)?;
        let heads = keys.required("attention.head_count", MAX_WIDTH)?;
        let kv_heads = keys.count("attention.head_count_kv", MAX_WIDTH)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::metadata(
                &format!("{name}.attention.head_count"),
                format!("a multiple of the {kv_heads} key-value heads"),
                heads,
            ));
        }
        let key_width = match keys.count("attention.key_length", MAX_WIDTH)? {
            Some(key_width) => key_width,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                return Err(ModelError::metadata(
                    &format!("{name}.embedding_length"),
                    format!("a multiple of the {heads} heads"),
                    width,
                ))
            }
        };
        let value_width = keys.count("attention.value_length", MAX_WIDTH)?.unwrap_or(key_width);
        let rotated = keys.count("rope.dimension_count", MAX_WIDTH)?.unwrap_or(key_width);
        if rotated > key_width || !rotated.is_multiple_of(2) {
            return Err(ModelError::metadata(
                &format!("{name}.rope.dimension_count"),
                format!("an even number up to {key_width}"),
                rotated,
            ));
        }
        let context = keys.required("context_length", usize::MAX >> 1)?;
        Ok(Self {
            layers,
            width,
            feed_forward,
            heads,
            kv_heads,
            key_width,
            value_width,
            rotated,
            rope_base: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: Self::rope_scaling(keys, context)?,
            epsilon: keys.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            context,
            vocabulary,
        })
    }

    fn rope_scaling(keys: Keys<'_>, context: usize) -> Result<RopeScaling, ModelError> {
        let factor = match keys.positive("rope.scaling.factor")? {
            Some(factor) => factor,
            None => keys.positive("rope.scale_linear")?.unwrap_or(1.0),
        };
        match keys.text("rope.scaling.type")? {
            _ if factor == 1.0 => Ok(RopeScaling::None),
            Some("none") => Ok(RopeScaling::None),
            // Files with a factor but no type mean a linear one.
            None | Some("linear") => Ok(RopeScaling::Linear { factor }),
            Some("yarn") => Ok(RopeScaling::Yarn {
                factor,
                original_context: keys
                    .count("rope.scaling.original_context_length", usize::MAX >> 1)?
                    .unwrap_or(context),
                attention_factor: keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
                beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }),
            Some(other) => Err(ModelError::metadata(
                &keys.key("rope.scaling.type"),
                "\"none\", \"linear\" or \"yarn\"",
                format!("{other:?}"),
            )),
        }
    }

    /// Bytes of f32 that one token of the widest intermediate takes.
    pub(crate) fn widest(&self) -> usize {
        let queries = self.heads * self.key_width.max(self.value_width);
        self.width.max(self.feed_forward).max(queries) * size_of::<f32>()
    }
}
