//! The tokens of a model as ggml metadata holds them.

use crate::gguf::{Array, Metadata, Value, ValueType};

/// Kind of a token (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// What stands for a space in SentencePiece.
pub(super) const SPACE: char = '\u{2581}';

/// Texts, kinds and scores by id.
#[derive(Debug)]
pub(super) struct Tokens {
    pub texts: Vec<Vec<u8>>,
    pub kinds: Vec<Kind>,
    /// For SentencePiece; else empty.
    pub scores: Vec<f32>,
}

impl Tokens {
    /// `count` unused tokens, with scores if `score` is given. The caller has checked `count` against the embedding.
    pub fn unused(count: u32, score: Option<f32>) -> Self {
        let texts = (0..count).map(|id| format!("[PAD{id}]").into_bytes()).collect();
        let scores = score.map_or_else(Vec::new, |score| vec![score; count as usize]);
        Self { texts, kinds: vec![Kind::Unused; count as usize], scores }
    }

    /// Sets a token; nothing happens if the id is beyond the vocabulary.
    pub fn set(&mut self, id: u32, text: &str, kind: Kind, score: f32) {
        let id = id as usize;
        if let (Some(to), Some(to_kind)) = (self.texts.get_mut(id), self.kinds.get_mut(id)) {
            *to = text.as_bytes().to_vec();
            *to_kind = kind;
        }
        if let Some(to) = self.scores.get_mut(id) {
            *to = score;
        }
    }

    /// Writes the keys of the vocabulary; `model` is "gpt2" or "llama".
    pub fn write(&self, model: &str, pre: &str, metadata: &mut Metadata) {
        metadata.set("tokenizer.ggml.model", model.into());
        metadata.set("tokenizer.ggml.pre", pre.into());
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::from_strings(&self.texts)));
        if !self.scores.is_empty() {
            let scores: Vec<Value> = self.scores.iter().map(|&score| Value::F32(score)).collect();
            set_array(metadata, "tokenizer.ggml.scores", ValueType::F32, &scores);
        }
        let kinds: Vec<Value> = self.kinds.iter().map(|&kind| Value::I32(kind as i32)).collect();
        set_array(metadata, "tokenizer.ggml.token_type", ValueType::I32, &kinds);
    }
}

fn set_array(metadata: &mut Metadata, key: &str, element: ValueType, values: &[Value]) {
    // All values are of the element type, so there is an array.
    if let Some(array) = Array::from_values(element, values) {
        metadata.set(key, Value::Array(array));
    }
}

/// Whether an added token is a control token although nothing marks it as one: markers in the usual brackets, fill
/// tokens, and reserved ones.
pub(super) fn looks_special(text: &str) -> bool {
    let bracketed = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || bracketed("<|", "|>")
        || bracketed("<\u{ff5c}", "\u{ff5c}>")
        || bracketed("<unused", ">")
}

/// Kind and text of an added token: what is not special is matched in the text as it is, so with true spaces.
pub(super) fn added_kind(text: &str, special: bool) -> (Kind, String) {
    if special || looks_special(text) {
        (Kind::Control, text.to_owned())
    } else {
        (Kind::UserDefined, text.replace(SPACE, " "))
    }
}
