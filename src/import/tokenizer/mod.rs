//! Tokenizers: from the files of a folder to `tokenizer.*` metadata.

mod bytes;
mod json;
mod pretokenizer;
mod sentencepiece;
mod special;
mod vocabulary;

use super::config::Config;
use super::error::ImportError;
use super::files::Files;
use crate::gguf::{Metadata, Value};
use json::{TokenizerConfig, TokenizerJson};
use vocabulary::Tokens;

/// Which tokenizer a family's folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preference {
    /// SentencePiece or byte-level, and the peculiarities of some fine-tunes.
    Llama,
    /// SentencePiece if there is `tokenizer.model`, else byte-level.
    SentencePieceOrBytes,
    /// SentencePiece, with or without a space before a text.
    SentencePiece {
        /// Value of `add_space_prefix`; `None`: as the file says.
        space_prefix: Option<bool>,
    },
    /// Byte-level for the class of GPT-2 (Phi-4), else SentencePiece with its tokens taken literally.
    Phi3,
}

/// What a folder's tokenizer is read from.
pub(crate) struct Input<'a> {
    /// The folder.
    pub files: Files<'a>,
    /// config.json.
    pub config: &'a Config,
    /// Rows of the embedding.
    pub vocabulary: u64,
    /// Value of `tokenizer.ggml.pre` that the caller knows better.
    pub pre: Option<&'a str>,
}

const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// Writes all `tokenizer.*` keys.
pub(crate) fn describe(
    input: &Input<'_>,
    preference: Preference,
    metadata: &mut Metadata,
    warnings: &mut Vec<String>,
) -> Result<(), ImportError> {
    let files = input.files;
    let limit = files.limits.max_vocabulary.min(u32::MAX.into());
    ImportError::check_limit(input.config.path(), "tokens", "max_vocabulary", limit, input.vocabulary)?;
    let vocabulary = input.vocabulary as u32;
    let json = TokenizerJson::open(files)?;
    let config = TokenizerConfig::open(files)?;
    let (json, config) = (json.as_ref(), config.as_ref());
    if preference == Preference::Llama {
        if let Some(space) = config.and_then(|config| config.bool("add_prefix_space")) {
            metadata.set(SPACE_PREFIX, Value::Bool(space));
        }
    }
    let byte_class = config.and_then(|config| config.text("tokenizer_class"));
    let from_model = match preference {
        Preference::Phi3 if byte_class == Some("GPT2Tokenizer") => None,
        Preference::Phi3 => sentencepiece::from_model(files, json, config, vocabulary, true)?,
        _ => sentencepiece::from_model(files, json, config, vocabulary, false)?,
    };
    let pieces = match (from_model, json) {
        (Some(tokens), _) => Some(tokens),
        (None, Some(json)) if sentencepiece::is_rebuildable(json) => {
            Some(rebuild(json, config, vocabulary, metadata, warnings)?)
        }
        _ => None,
    };
    match (pieces, json) {
        (Some(tokens), _) => {
            tokens.write("llama", input.pre.unwrap_or("default"), metadata);
        }
        (None, Some(json)) => {
            let pre = match input.pre {
                Some(pre) => pre.to_owned(),
                None => {
                    let (pre, note) = pretokenizer::identify(json)?;
                    warnings.extend(note);
                    pre
                }
            };
            bytes::write(json, config, vocabulary, &pre, metadata)?;
        }
        (None, None) => {
            let mut hint =
                "the folder has no tokenizer; save it with transformers (`save_pretrained`)".to_owned();
            if files.has("tekken.json") {
                hint = "the folder has Mistral's own tekken.json, which is not read; take tokenizer.json from the \
                        model's Hugging Face version"
                    .to_owned();
            } else if files.has("vocab.json") {
                hint = "the folder has an old vocab.json; load and save the tokenizer with transformers \
                        (`AutoTokenizer`, `save_pretrained`) to get tokenizer.json"
                    .to_owned();
            }
            return Err(ImportError::MissingFile { path: files.path(TokenizerJson::NAME), hint });
        }
    }
    special::write(files, json, config, input.config, vocabulary, metadata)?;
    if let Preference::SentencePiece { space_prefix: Some(space) } = preference {
        if metadata.str("tokenizer.ggml.model").is_ok_and(|model| model == "llama") {
            metadata.set(SPACE_PREFIX, Value::Bool(space));
        }
    }
    if preference == Preference::Llama {
        fine_tunes(vocabulary, metadata);
    }
    Ok(())
}

/// SentencePiece without `tokenizer.model`.
fn rebuild(
    json: &TokenizerJson,
    config: Option<&TokenizerConfig>,
    vocabulary: u32,
    metadata: &mut Metadata,
    warnings: &mut Vec<String>,
) -> Result<Tokens, ImportError> {
    warnings.push(
        "the folder has no tokenizer.model: the scores of its tokens are rebuilt from the merges of tokenizer.json"
            .into(),
    );
    let space = sentencepiece::space_prefix(json);
    metadata.set(SPACE_PREFIX, Value::Bool(space));
    sentencepiece::from_merges(json, config, vocabulary)
}

/// Two families that are told by the size of their vocabulary.
fn fine_tunes(vocabulary: u32, metadata: &mut Metadata) {
    // CodeLlama: the tokens for filling in.
    if vocabulary == 32_016 {
        for (key, id) in [("prefix", 32_007), ("suffix", 32_008), ("middle", 32_009), ("eot", 32_010)] {
            metadata.set(format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
        }
    }
    // SmolLM and small Granite models: texts do not start with a token, whatever the files say.
    if vocabulary == 49_152 {
        metadata.set(ADD_BOS, Value::Bool(false));
    }
}
