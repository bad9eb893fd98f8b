//! `config.json`: sizes of the model, and how positions are encoded.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::ImportError;
use super::files::{kind, Files};
use super::limits::Limits;

/// The configuration, with the part of the language model on top of the rest.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
    limits: Limits,
}

impl Config {
    /// Reads `config.json`. Values of `text_config` (models with image or sound parts) replace those of the root.
    pub fn open(files: Files<'_>) -> Result<Self, ImportError> {
        const NAME: &str = "config.json";
        let Some(mut values) = files.object(NAME)? else {
            return Err(ImportError::MissingFile {
                path: files.path(NAME),
                hint: "a Hugging Face model folder has one".into(),
            });
        };
        if let Some(Value::Object(text)) = values.get("text_config").cloned() {
            for (key, value) in text {
                // The class of the whole model decides what is imported.
                if key != "architectures" || !values.contains_key("architectures") {
                    values.insert(key, value);
                }
            }
        }
        Ok(Self { path: files.path(NAME), values, limits: files.limits.clone() })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// The model classes, `architectures`.
    pub fn classes(&self) -> Vec<&str> {
        let list = self.get("architectures").and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> ImportError {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), kind);
        ImportError::value(&self.path, key, expected, found)
    }

    /// A count from 1 to `limit`; `None` if the key is absent.
    pub fn count_up_to(&self, key: &str, limit: u64) -> Result<Option<u64>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) if (1..=limit).contains(&count) => Ok(Some(count)),
                _ => Err(self.wrong(key, format!("an integer from 1 to {limit}"))),
            },
        }
    }

    /// A width or number of heads; `None` if the key is absent.
    pub fn count(&self, key: &str) -> Result<Option<u64>, ImportError> {
        self.count_up_to(key, self.limits.max_width)
    }

    /// A width or number of heads that must be there.
    pub fn required(&self, key: &str) -> Result<u64, ImportError> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    /// A UINT32 of any meaning, 0 included; `None` if the key is absent.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|value| u32::try_from(value).ok()) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(key, "an integer from 0 to 2^32-1")),
            },
        }
    }

    /// A positive finite number; `None` if the key is absent.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
                _ => Err(self.wrong(key, "a positive number")),
            },
        }
    }

    /// A boolean; `None` if the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A text; `None` if the key is absent or something else.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// An object; `None` if the key is absent or something else.
    pub fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.get(key).and_then(Value::as_object)
    }

    /// Fails unless the activation function is one of `allowed` (or not stated).
    pub fn check_activation(&self, allowed: &[&str]) -> Result<(), ImportError> {
        for key in ["hidden_activation", "hidden_act"] {
            match self.get(key) {
                None => continue,
                Some(Value::String(name)) if allowed.contains(&name.as_str()) => return Ok(()),
                Some(_) => {
                    return Err(self.wrong(key, format!("{}, which runtimes compute", allowed.join(" or "))))
                }
            }
        }
        Ok(())
    }
}

/// Sizes that every decoder-only transformer has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Number of layers.
    pub layers: u64,
    /// Width of the hidden state.
    pub width: u64,
    /// Width inside the feed-forward network.
    pub feed_forward: u64,
    /// Query heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Elements of one query, key or value.
    pub head_width: u64,
    /// Number of tokens.
    pub vocabulary: u64,
    /// Longest context.
    pub context: u32,
}

/// What a class has where `config.json` is silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// Elements of one head; `None`: hidden width divided by heads.
    pub head_width: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key-value heads; `None`: as many as query heads.
    pub kv_heads: Option<u64>,
    /// Longest context.
    pub context: u32,
    /// Base of the rotation's angles.
    pub rope_base: f64,
    /// Added to the mean square in norms.
    pub epsilon: f64,
}

/// A hundred times what models have. Factors of rotations are computed from this number alone, so it bounds memory.
const MOST_HEAD_WIDTH: u64 = 1 << 16;

impl Sizes {
    /// Reads the usual keys.
    pub fn read(config: &Config, defaults: &Defaults) -> Result<Self, ImportError> {
        let limits = config.limits();
        let layers = config.count_up_to("num_hidden_layers", limits.max_layers)?;
        let layers = layers.ok_or_else(|| config.wrong("num_hidden_layers", "a positive integer"))?;
        let width = config.required("hidden_size")?;
        let feed_forward = config.required("intermediate_size")?;
        let heads = match (config.count("num_attention_heads")?, defaults.heads) {
            (Some(heads), _) | (None, Some(heads)) => heads,
            (None, None) => config.required("num_attention_heads")?,
        };
        let kv_heads = config.count("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.wrong("num_key_value_heads", format!("a divisor of the {heads} heads")));
        }
        let head_width = match config.count("head_dim")?.or(defaults.head_width) {
            Some(head_width) => head_width,
            None if width.is_multiple_of(heads) => width / heads,
            None => return Err(config.wrong("hidden_size", format!("a multiple of the {heads} heads"))),
        };
        if !head_width.is_multiple_of(2) {
            return Err(config.wrong("head_dim", "an even number: pairs of elements are rotated"));
        }
        if head_width > MOST_HEAD_WIDTH {
            let key = if config.get("head_dim").is_some() { "head_dim" } else { "num_attention_heads" };
            return Err(config.wrong(key, format!("heads of at most {MOST_HEAD_WIDTH} elements")));
        }
        let vocabulary = config.count_up_to("vocab_size", limits.max_vocabulary)?;
        let vocabulary = vocabulary.ok_or_else(|| config.wrong("vocab_size", "a positive integer"))?;
        let context = config.u32("max_position_embeddings")?.unwrap_or(defaults.context);
        Ok(Self { layers, width, feed_forward, heads, kv_heads, head_width, vocabulary, context })
    }

    /// Rows of the query projection.
    pub fn query_rows(&self) -> u64 {
        // Both factors are at most `max_width`.
        self.heads.saturating_mul(self.head_width)
    }

    /// Rows of the key and of the value projection.
    pub fn kv_rows(&self) -> u64 {
        self.kv_heads.saturating_mul(self.head_width)
    }
}

/// How positions are encoded: the old keys (`rope_theta`, `rope_scaling`) and the new one (`rope_parameters`, which
/// may differ by kind of layer) read alike.
#[derive(Debug)]
pub(crate) struct Rope {
    path: PathBuf,
    /// Parameters of ordinary (full attention) layers.
    parameters: Map<String, Value>,
    /// Base of the angles in sliding-window layers.
    pub sliding_base: Option<f64>,
}

impl Rope {
    /// Reads the configuration.
    pub fn read(config: &Config) -> Result<Self, ImportError> {
        let given = config.object("rope_parameters").or_else(|| config.object("rope_scaling"));
        let by_kind = |kind: &str| given.and_then(|given| given.get(kind)).and_then(Value::as_object);
        let path = config.path().to_owned();
        let mut rope = match (by_kind("full_attention"), by_kind("sliding_attention")) {
            (None, None) => {
                let sliding_base = config.positive("rope_local_base_freq")?;
                Self { path, parameters: given.cloned().unwrap_or_default(), sliding_base }
            }
            (full, sliding) => {
                let base = sliding.and_then(|sliding| sliding.get("rope_theta"));
                let sliding_base =
                    base.and_then(Value::as_f64).filter(|base| base.is_finite() && *base > 0.0);
                if base.is_some() && sliding_base.is_none() {
                    return Err(config.wrong("rope_parameters", "a positive `sliding_attention.rope_theta`"));
                }
                Self { path, parameters: full.cloned().unwrap_or_default(), sliding_base }
            }
        };
        rope.parameters.retain(|_, value| !value.is_null());
        if !rope.parameters.contains_key("rope_type") {
            if let Some(kind) = rope.parameters.get("type").cloned() {
                rope.parameters.insert("rope_type".into(), kind);
            }
        }
        for key in ["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"] {
            if let (false, Some(value)) = (rope.parameters.contains_key(key), config.get(key)) {
                rope.parameters.insert(key.into(), value.clone());
            }
        }
        Ok(rope)
    }

    /// Kind of scaling for long contexts, in lower case; "default" if there is none.
    pub fn kind(&self) -> String {
        let kind = self.parameters.get("rope_type").and_then(Value::as_str);
        kind.unwrap_or("default").to_ascii_lowercase()
    }

    /// A positive finite number; `None` if it is absent.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.parameters.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(self.wrong(key, "a positive number")),
            },
        }
    }

    /// A number that must be there.
    pub fn required(&self, key: &str) -> Result<f64, ImportError> {
        self.number(key)?.ok_or_else(|| self.wrong(key, "a positive number"))
    }

    /// A list of `len` positive finite numbers; `None` if it is absent.
    pub fn numbers(&self, key: &str, len: u64) -> Result<Option<Vec<f32>>, ImportError> {
        let Some(value) = self.parameters.get(key) else { return Ok(None) };
        let list = value.as_array().filter(|list| list.len() as u64 == len);
        let numbers: Option<Vec<f32>> = list.and_then(|list| {
            let number =
                |value: &Value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
            list.iter().map(number).collect()
        });
        numbers.map(Some).ok_or_else(|| self.wrong(key, format!("{len} positive numbers")))
    }

    /// An error about one of the parameters.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> ImportError {
        let found = self.parameters.get(key).map_or_else(|| "nothing".to_owned(), kind);
        ImportError::value(&self.path, &format!("rope_parameters.{key}"), expected, found)
    }
}
