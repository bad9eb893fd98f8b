//! `tokenizer.json`, `tokenizer_config.json` and the small files beside them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::import::error::ImportError;
use crate::import::files::{kind, Files};

/// A token that was added to the vocabulary after training.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    pub text: String,
    /// Whether it has a meaning of its own (start, end, roles).
    pub special: bool,
}

/// A parsed `tokenizer.json`.
#[derive(Debug)]
pub(super) struct TokenizerJson {
    path: PathBuf,
    bytes: Vec<u8>,
    root: Map<String, Value>,
    model: Map<String, Value>,
    added: Vec<Added>,
}

impl TokenizerJson {
    pub const NAME: &'static str = "tokenizer.json";

    /// Reads the file; `None` if there is none.
    pub fn open(files: Files<'_>) -> Result<Option<Self>, ImportError> {
        let Some(bytes) = files.bytes(Self::NAME)? else { return Ok(None) };
        let path = files.path(Self::NAME);
        let root: Value = serde_json::from_slice(&bytes)
            .map_err(|source| ImportError::Json { path: path.clone(), source })?;
        let Value::Object(mut root) = root else {
            return Err(ImportError::value(&path, "the file", "a JSON object", kind(&root)));
        };
        let model = match root.remove("model") {
            Some(Value::Object(model)) => model,
            other => {
                let found = other.as_ref().map_or_else(|| "nothing".to_owned(), kind);
                return Err(ImportError::value(&path, "model", "an object", found));
            }
        };
        let added = match root.get("added_tokens") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(tokens)) => {
                let limit = files.limits.max_vocabulary;
                ImportError::check_limit(
                    &path,
                    "added tokens",
                    "max_vocabulary",
                    limit,
                    tokens.len() as u64,
                )?;
                tokens.iter().map(|token| added_token(&path, token)).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(ImportError::value(&path, "added_tokens", "an array", kind(other))),
        };
        Ok(Some(Self { path, bytes, root, model, added }))
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Everything but the model.
    pub fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    /// Vocabulary, merges and their switches.
    pub fn model(&self) -> &Map<String, Value> {
        &self.model
    }

    /// The added tokens, in order.
    pub fn added(&self) -> &[Added] {
        &self.added
    }

    /// Whether the model is byte pair encoding.
    pub fn is_bpe(&self) -> bool {
        match self.model.get("type").and_then(Value::as_str) {
            Some(kind) => kind == "BPE",
            None => self.model.contains_key("merges"),
        }
    }

    /// Whether characters without a token become one token for each byte, `<0x0A>`.
    pub fn byte_fallback(&self) -> bool {
        self.model.get("byte_fallback").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The vocabulary of the model: texts and ids below `vocabulary`.
    pub fn vocabulary(&self, vocabulary: u32) -> Result<Vec<(&str, u32)>, ImportError> {
        let map = self.model.get("vocab").and_then(Value::as_object);
        let Some(map) = map else {
            let found = self.model.get("vocab").map_or_else(|| "nothing".to_owned(), kind);
            return Err(ImportError::value(&self.path, "model.vocab", "an object of ids", found));
        };
        let token = |(text, id): (&'_ String, &Value)| match id.as_u64().and_then(|id| u32::try_from(id).ok())
        {
            Some(id) if id < vocabulary => Ok(id),
            _ => {
                let key = format!("model.vocab.{text}");
                Err(ImportError::value(&self.path, &key, format!("an id below {vocabulary}"), kind(id)))
            }
        };
        map.iter().map(|(text, id)| Ok((text.as_str(), token((text, id))?))).collect()
    }

    /// The merges, first to last: left and right part.
    pub fn merges(&self) -> Result<Vec<(&str, &str)>, ImportError> {
        let wrong = |at: usize, found: &Value| {
            let key = format!("model.merges[{at}]");
            ImportError::value(&self.path, &key, "two texts", kind(found))
        };
        let list = match self.model.get("merges") {
            Some(Value::Array(list)) => list,
            None => return Ok(Vec::new()),
            Some(other) => {
                return Err(ImportError::value(&self.path, "model.merges", "an array", kind(other)))
            }
        };
        let mut merges = Vec::with_capacity(list.len());
        for (at, merge) in list.iter().enumerate() {
            let parts = match merge {
                Value::String(text) => text.split_once(' '),
                Value::Array(parts) => match parts.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                    _ => None,
                },
                _ => None,
            };
            merges.push(parts.ok_or_else(|| wrong(at, merge))?);
        }
        Ok(merges)
    }
}

fn added_token(path: &Path, token: &Value) -> Result<Added, ImportError> {
    let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let text = token.get("content").and_then(Value::as_str);
    let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
    match (id, text) {
        (Some(id), Some(text)) => Ok(Added { id, text: text.to_owned(), special }),
        _ => Err(ImportError::value(path, "added_tokens", "an id and a text (`content`)", kind(token))),
    }
}

/// `tokenizer_config.json`, with the special tokens of `special_tokens_map.json` where it has none.
#[derive(Debug)]
pub(super) struct TokenizerConfig {
    path: PathBuf,
    pub values: Map<String, Value>,
}

impl TokenizerConfig {
    /// Reads the files; `None` if neither exists.
    pub fn open(files: Files<'_>) -> Result<Option<Self>, ImportError> {
        const NAME: &str = "tokenizer_config.json";
        let special = files.object("special_tokens_map.json")?;
        let values = match (files.object(NAME)?, special) {
            (None, None) => return Ok(None),
            (values, special) => {
                let mut values = values.unwrap_or_default();
                for (key, value) in special.unwrap_or_default() {
                    if key.ends_with("_token") && values.get(&key).is_none_or(Value::is_null) {
                        values.insert(key, value);
                    }
                }
                values
            }
        };
        Ok(Some(Self { path: files.path(NAME), values }))
    }

    /// A text; `None` if there is none.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(Value::as_str)
    }

    /// A boolean; `None` if there is none.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.values.get(key).and_then(Value::as_bool)
    }

    /// The text of a special token (`bos_token`), given as such or as an object; `None` if there is none.
    pub fn token(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::String(text) => Some(text),
            Value::Object(token) => token.get("content").and_then(Value::as_str),
            _ => None,
        }
    }

    /// `added_tokens_decoder`: tokens by their ids.
    pub fn added(&self) -> Result<Vec<Added>, ImportError> {
        let Some(Value::Object(tokens)) = self.values.get("added_tokens_decoder") else {
            return Ok(Vec::new());
        };
        let token = |(id, token): (&String, &Value)| {
            let text = token.get("content").and_then(Value::as_str);
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            match (id.parse().ok(), text) {
                (Some(id), Some(text)) => Ok(Added { id, text: text.to_owned(), special }),
                _ => {
                    let key = format!("added_tokens_decoder.{id}");
                    Err(ImportError::value(&self.path, &key, "an id and its `content`", kind(token)))
                }
            }
        };
        tokens.iter().map(token).collect()
    }
}
