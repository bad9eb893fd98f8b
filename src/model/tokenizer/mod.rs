//! Text to token ids and back, from a model's own metadata.
//!
//! In: `tokenizer.*` metadata and text. Out: the ids the model was trained with, the same that llama.cpp gives.
//! Two kinds exist: byte-level byte pair encoding ("gpt2", by the ranks of merges) and SentencePiece by
//! scores ("llama"). Special tokens are cut out first, see [`partition`].

mod bpe;
mod chat;
mod join;
mod partition;
mod pretokenizer;
mod sentencepiece;
mod texts;
mod vocabulary;

pub use chat::ChatFormat;
pub use partition::{partition, Fragment};
pub use vocabulary::{TokenKind, Vocabulary};

use super::error::ModelError;
use crate::gguf::Metadata;
use bpe::BytePairs;
use pretokenizer::PreTokenizer;

/// How the text between special tokens is tokenized.
#[derive(Debug)]
enum Kind {
    BytePairs(Box<BytePairs>),
    SentencePiece { bytes: sentencepiece::ByteTokens, space_prefix: bool },
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    special: Vec<u32>,
    kind: Kind,
    chat: Option<ChatFormat>,
    warnings: Vec<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.*`. Kinds other than "gpt2" and "llama" are an error.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, ModelError> {
        const MODEL: &str = "tokenizer.ggml.model";
        let mut warnings = Vec::new();
        let name = metadata.str(MODEL)?;
        let (vocabulary, kind) = match name {
            "gpt2" => {
                let pre = metadata.optional("tokenizer.ggml.pre", Metadata::str)?;
                let (words, warning) = PreTokenizer::named(pre)?;
                warnings.extend(warning);
                let vocabulary = Vocabulary::from_metadata(metadata, words.add_bos)?;
                let (pairs, warning) = BytePairs::new(metadata, &vocabulary, words)?;
                warnings.extend(warning);
                (vocabulary, Kind::BytePairs(Box::new(pairs)))
            }
            "llama" => {
                let vocabulary = Vocabulary::from_metadata(metadata, true)?;
                let bytes = sentencepiece::ByteTokens::new(&vocabulary);
                let prefix = metadata.optional("tokenizer.ggml.add_space_prefix", Metadata::bool)?;
                (vocabulary, Kind::SentencePiece { bytes, space_prefix: prefix.unwrap_or(true) })
            }
            other => {
                return Err(ModelError::metadata(MODEL, "\"gpt2\" or \"llama\"", format!("{other:?}")));
            }
        };
        let special = vocabulary.special_tokens();
        let template = metadata.optional("tokenizer.chat_template", Metadata::text)?;
        let chat = template.and_then(|template| ChatFormat::recognise(&template));
        Ok(Self { vocabulary, special, kind, chat, warnings })
    }

    /// The tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The chat format of the model's template, if it has one that is known here.
    pub fn chat(&self) -> Option<ChatFormat> {
        self.chat
    }

    /// What may make the token ids differ from the model's own; empty if nothing does.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tokens of `text`. With `add_special` the start and end tokens that the model asks for are added. Control
    /// tokens written in the text are ordinary text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        self.encode_with(text, add_special, false)
    }

    /// As [`Tokenizer::encode`]; with `parse_special` control tokens written in the text become these tokens.
    pub fn encode_with(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let vocabulary = &self.vocabulary;
        let mut tokens = Vec::new();
        if add_special && vocabulary.add_bos {
            tokens.extend(vocabulary.bos);
        }
        let mut after_special = true;
        for fragment in partition(vocabulary, &self.special, text, parse_special) {
            match (fragment, &self.kind) {
                (Fragment::Token(token), _) => tokens.push(token),
                (Fragment::Text(part), Kind::BytePairs(pairs)) => pairs.encode(vocabulary, part, &mut tokens),
                (Fragment::Text(part), Kind::SentencePiece { bytes, space_prefix }) => {
                    let mut escaped = String::with_capacity(part.len() + 2);
                    if *space_prefix && after_special {
                        escaped.push(sentencepiece::SPACE);
                    }
                    escaped.extend(part.chars().map(|c| if c == ' ' { sentencepiece::SPACE } else { c }));
                    sentencepiece::encode(vocabulary, bytes, &escaped, &mut tokens);
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if add_special && vocabulary.add_eos {
            tokens.extend(vocabulary.eos);
        }
        Ok(tokens)
    }

    /// Bytes of one token: those it stands for in a text. Control tokens give their name if `special`, else
    /// nothing; so do unknown ones. A character may be spread over several tokens, so this need not be UTF-8.
    pub fn piece(&self, token: u32, special: bool) -> Vec<u8> {
        let text = self.vocabulary.text(token);
        let mut bytes = Vec::with_capacity(text.len());
        match (self.vocabulary.kind(token), &self.kind) {
            (TokenKind::Control | TokenKind::Unknown, _) if special => {
                bytes.extend_from_slice(text.as_bytes())
            }
            (TokenKind::UserDefined, _) => bytes.extend_from_slice(text.as_bytes()),
            (TokenKind::Normal, Kind::BytePairs(pairs)) => pairs.decode(text, &mut bytes),
            (TokenKind::Normal, Kind::SentencePiece { .. }) => {
                bytes.extend_from_slice(text.replace(sentencepiece::SPACE, " ").as_bytes());
            }
            (TokenKind::Byte, Kind::SentencePiece { .. }) => bytes.extend(sentencepiece::byte_of(text)),
            _ => {}
        }
        bytes
    }

    /// Bytes of a sequence of tokens, control tokens by their names. The space that SentencePiece puts before a
    /// text is taken off again.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.piece(token, true)).collect();
        if matches!(self.kind, Kind::SentencePiece { space_prefix: true, .. }) && bytes.first() == Some(&b' ')
        {
            bytes.remove(0);
        }
        bytes
    }
}
