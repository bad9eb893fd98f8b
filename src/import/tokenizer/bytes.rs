//! Byte-level byte pair encoding ("gpt2"): GPT-2, Llama 3, Qwen, SmolLM, Phi-4 and most others.

use serde_json::Value as Json;

use super::json::{Added, TokenizerConfig, TokenizerJson};
use super::special::SPECIAL;
use super::vocabulary::{added_kind, Kind, Tokens};
use crate::gguf::{Array, Metadata, Value};
use crate::import::error::ImportError;
use std::collections::HashSet;

/// Writes tokens and merges; `pre` is the value of `tokenizer.ggml.pre`.
pub(super) fn write(
    json: &TokenizerJson,
    config: Option<&TokenizerConfig>,
    vocabulary: u32,
    pre: &str,
    metadata: &mut Metadata,
) -> Result<(), ImportError> {
    if !json.is_bpe() {
        let kind = json.model().get("type").and_then(Json::as_str).unwrap_or("(none)");
        let hint = "byte pair encoding is read, and SentencePiece where tokenizer.model is there";
        return Err(ImportError::unsupported(json.path(), format!("a tokenizer of type {kind}"), hint));
    }
    let mut tokens = Tokens::unused(vocabulary, None);
    for (text, id) in json.vocabulary(vocabulary)? {
        tokens.set(id, text, Kind::Normal, 0.0);
    }
    // What the classes of transformers take as special without the file saying so.
    let named: HashSet<&str> = config
        .map(|config| SPECIAL.iter().filter_map(|special| config.token(special.token)).collect())
        .unwrap_or_default();
    for token in all_added(json, config)? {
        if token.id >= vocabulary {
            let expected = format!("an id below the vocabulary of {vocabulary}");
            let found = format!("{} for {:?}", token.id, token.text);
            return Err(ImportError::value(json.path(), "added_tokens", expected, found));
        }
        let (kind, text) = added_kind(&token.text, token.special || named.contains(token.text.as_str()));
        tokens.set(token.id, &text, kind, 0.0);
    }
    tokens.write("gpt2", pre, metadata);
    // A space inside a part would look like the border between the parts: it is written as its byte-level letter.
    let part = |text: &str| text.replace(' ', "\u{120}");
    let merges: Vec<String> =
        json.merges()?.iter().map(|(left, right)| format!("{} {}", part(left), part(right))).collect();
    if !merges.is_empty() {
        metadata.set("tokenizer.ggml.merges", Value::Array(Array::from_strings(&merges)));
    }
    Ok(())
}

/// The added tokens of both files; `tokenizer.json` counts where both have an id.
pub(super) fn all_added(
    json: &TokenizerJson,
    config: Option<&TokenizerConfig>,
) -> Result<Vec<Added>, ImportError> {
    let mut all = json.added().to_vec();
    let known: HashSet<u32> = all.iter().map(|token| token.id).collect();
    if let Some(config) = config {
        all.extend(config.added()?.into_iter().filter(|token| !known.contains(&token.id)));
    }
    Ok(all)
}
