//! The tokens of a model, from its metadata.

use super::texts::Texts;
use crate::gguf::Metadata;
use crate::model::error::ModelError;

/// Kind of a token (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Never written by a user: start and end marks, roles.
    Control,
    /// Added text that is never split.
    UserDefined,
    /// A gap in the numbering.
    Unused,
    /// One byte (SentencePiece byte fallback, `<0x0A>`).
    Byte,
}

impl TokenKind {
    fn from_id(id: i32) -> Self {
        match id {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// The tokens, their kinds and scores, and which of them have a special meaning.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    texts: Texts,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    /// Token that starts a sequence.
    pub bos: Option<u32>,
    /// Token that ends a sequence.
    pub eos: Option<u32>,
    /// Token for text that has no token.
    pub unknown: Option<u32>,
    /// Whether sequences start with `bos`.
    pub add_bos: bool,
    /// Whether sequences end with `eos`.
    pub add_eos: bool,
    /// Tokens that end a turn or a text, in ascending order.
    end_of_generation: Vec<u32>,
}

/// Texts that end a turn in the published chat formats, whatever their kind says.
const END_TEXTS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<EOT>",
    "<|return|>",
    "<|end_of_turn|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

impl Vocabulary {
    /// Reads `tokenizer.ggml.*`. `add_bos` is the default of the tokenizer's kind where the file is silent.
    pub fn from_metadata(metadata: &Metadata, add_bos: bool) -> Result<Self, ModelError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        for (id, text) in metadata.strings(TOKENS)?.enumerate() {
            std::str::from_utf8(text)
                .map_err(|_| ModelError::metadata(TOKENS, "UTF-8", format!("other bytes in token {id}")))?;
        }
        let texts = Texts::new(metadata.strings(TOKENS)?.filter_map(|text| std::str::from_utf8(text).ok()));
        let texts = texts.filter(|texts| texts.len() > 0).ok_or_else(|| {
            let found = metadata.strings(TOKENS).map_or(0, |texts| texts.len());
            ModelError::metadata(TOKENS, "1 to 2^32-2 tokens of less than 4 GiB", found)
        })?;
        let check = |key: &str, len: usize| match len == texts.len() {
            true => Ok(()),
            false => Err(ModelError::metadata(key, format!("{} elements", texts.len()), len)),
        };
        const KINDS: &str = "tokenizer.ggml.token_type";
        let kinds: Vec<TokenKind> = match metadata.optional(KINDS, Metadata::integer_array::<i32>)? {
            Some(ids) => {
                check(KINDS, ids.len())?;
                ids.into_iter().map(TokenKind::from_id).collect()
            }
            None => vec![TokenKind::Normal; texts.len()],
        };
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = metadata.optional(SCORES, Metadata::f32_array)?.unwrap_or_default();
        if !scores.is_empty() {
            check(SCORES, scores.len())?;
        }
        let special = |name: &str| -> Result<Option<u32>, ModelError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.optional(&key, Metadata::i64)? else { return Ok(None) };
            // Some files say -1 for "none".
            Ok(u32::try_from(id).ok().filter(|&id| (id as usize) < texts.len()))
        };
        let (bos, eos, unknown) = (special("bos")?, special("eos")?, special("unknown")?);
        let flag = |name: &str| metadata.optional(&format!("tokenizer.ggml.{name}"), Metadata::bool);
        let add_bos = flag("add_bos_token")?.unwrap_or(add_bos) && bos.is_some();
        let add_eos = flag("add_eos_token")?.unwrap_or(false) && eos.is_some();
        let mut end_of_generation: Vec<u32> = ["eos", "eot", "eom"]
            .into_iter()
            .map(special)
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect();
        let mut vocabulary =
            Self { texts, kinds, scores, bos, eos, unknown, add_bos, add_eos, end_of_generation: vec![] };
        for text in END_TEXTS {
            if let Some(id) = vocabulary.find(text) {
                // A turn's end is a control token even where the file calls it ordinary text.
                if vocabulary.kind(id) != TokenKind::UserDefined {
                    vocabulary.set_control(id);
                }
                end_of_generation.push(id);
            }
        }
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        vocabulary.end_of_generation = end_of_generation;
        Ok(vocabulary)
    }

    fn set_control(&mut self, id: u32) {
        if let Some(kind) = self.kinds.get_mut(id as usize) {
            *kind = TokenKind::Control;
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no token; never true for a vocabulary read from metadata.
    pub fn is_empty(&self) -> bool {
        self.texts.len() == 0
    }

    /// Stored text of a token (byte-level BPE texts are still in their printable form); empty beyond the end.
    pub fn text(&self, token: u32) -> &str {
        self.texts.text(token)
    }

    /// Kind of a token.
    pub fn kind(&self, token: u32) -> TokenKind {
        self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// Score of a token; 0 where the file has none.
    pub fn score(&self, token: u32) -> f32 {
        self.scores.get(token as usize).copied().unwrap_or(0.0)
    }

    /// The token of exactly this stored text.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.texts.find(text)
    }

    /// Whether the token ends a turn or a text.
    pub fn ends_generation(&self, token: u32) -> bool {
        self.end_of_generation.binary_search(&token).is_ok()
    }

    /// Stored texts in order of ids.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|id| self.text(id as u32))
    }

    /// Tokens that are looked for in a text before anything else, the longest first.
    pub(crate) fn special_tokens(&self) -> Vec<u32> {
        let mut special: Vec<u32> = (0..self.len() as u32)
            .filter(|&id| {
                use TokenKind::{Control, Unknown, UserDefined};
                matches!(self.kind(id), Control | Unknown | UserDefined) && !self.text(id).is_empty()
            })
            .collect();
        special.sort_by_key(|&id| std::cmp::Reverse(self.text(id).len()));
        special
    }
}
