//! SentencePiece ("llama"): from `tokenizer.model`, or rebuilt from the merges of a `tokenizer.json`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::bytes::all_added;
use super::json::{TokenizerConfig, TokenizerJson};
use super::vocabulary::{added_kind, Kind, Tokens};
use crate::import::error::ImportError;
use crate::import::files::{kind, Files};

/// Name of the trained model.
pub(super) const MODEL: &str = "tokenizer.model";

/// Score of tokens that no text leads to.
const UNUSED_SCORE: f32 = -10_000.0;
/// Score of added tokens, which are matched before anything else.
const ADDED_SCORE: f32 = -1000.0;

/// One piece of a trained model.
#[derive(Debug, PartialEq)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// The tokens of `tokenizer.model` and of the files that add to it; `None` if there is no such file. With `literal`
/// (Phi-3) added tokens are taken as they are, and those of `tokenizer.json` too.
pub(super) fn from_model(
    files: Files<'_>,
    json: Option<&TokenizerJson>,
    config: Option<&TokenizerConfig>,
    vocabulary: u32,
    literal: bool,
) -> Result<Option<Tokens>, ImportError> {
    let Some(bytes) = files.bytes(MODEL)? else { return Ok(None) };
    let pieces = parse(&files.path(MODEL), &bytes, files.limits.max_vocabulary)?;
    let mut tokens = Tokens::unused(vocabulary, Some(UNUSED_SCORE));
    for (id, piece) in (0..vocabulary).zip(&pieces) {
        tokens.set(id, &piece.text, piece.kind, piece.score);
    }
    const ADDED: &str = "added_tokens.json";
    for (text, id) in files.object(ADDED)?.unwrap_or_default() {
        match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => tokens.set(id, &text, Kind::UserDefined, ADDED_SCORE),
            None => return Err(ImportError::value(&files.path(ADDED), &text, "an id", kind(&id))),
        }
    }
    let mut added = config.map_or_else(|| Ok(Vec::new()), TokenizerConfig::added)?;
    if literal {
        added.extend(json.map(TokenizerJson::added).unwrap_or_default().iter().cloned());
    }
    for token in added {
        let (kind, text) = match (literal, token.special) {
            (true, true) => (Kind::Control, token.text),
            (true, false) => (Kind::UserDefined, token.text),
            (false, special) => added_kind(&token.text, special),
        };
        tokens.set(token.id, &text, kind, ADDED_SCORE);
    }
    Ok(Some(tokens))
}

/// Whether `tokenizer.json` is a SentencePiece model in other clothes: byte pair encoding of characters, with a token
/// for each byte.
pub(super) fn is_rebuildable(json: &TokenizerJson) -> bool {
    let sequence = json.root().get("decoder").and_then(|decoder| decoder.get("type")).and_then(Json::as_str);
    json.is_bpe() && json.byte_fallback() && sequence == Some("Sequence")
}

/// The tokens of a `tokenizer.json` without its `tokenizer.model`. Runtimes merge by the score of the result, the
/// file lists merges by rank: a token's score is minus its best rank, which gives the same merges in the same order.
pub(super) fn from_merges(
    json: &TokenizerJson,
    config: Option<&TokenizerConfig>,
    vocabulary: u32,
) -> Result<Tokens, ImportError> {
    let mut tokens = Tokens::unused(vocabulary, Some(UNUSED_SCORE));
    let entries = json.vocabulary(vocabulary)?;
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let merges = json.merges()?;
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let unknown = json.model().get("unk_token").and_then(Json::as_str);
    for (text, id) in entries {
        let kind = match text {
            text if Some(text) == unknown => Kind::Unknown,
            text if is_byte(text) => Kind::Byte,
            _ => Kind::Normal,
        };
        let rank = ranks.get(text).copied().unwrap_or(merges.len());
        tokens.set(id, text, kind, -(rank as f32) - 1.0);
    }
    for token in all_added(json, config)? {
        if token.id >= vocabulary {
            let found = format!("{} for {:?}", token.id, token.text);
            let expected = format!("an id below the vocabulary of {vocabulary}");
            return Err(ImportError::value(json.path(), "added_tokens", expected, found));
        }
        if Some(token.text.as_str()) != unknown {
            let (kind, text) = added_kind(&token.text, token.special);
            tokens.set(token.id, &text, kind, ADDED_SCORE);
        }
    }
    Ok(tokens)
}

/// Whether the rebuilt tokenizer puts a space before a text; `None` if the file does not say.
pub(super) fn space_prefix(json: &TokenizerJson) -> bool {
    let has = |key: &str, list: &str, test: &dyn Fn(&Json) -> bool| {
        let Some(value) = json.root().get(key) else { return false };
        let single = std::slice::from_ref(value);
        value.get(list).and_then(Json::as_array).map_or(single, Vec::as_slice).iter().any(test)
    };
    let kind = |value: &Json, name: &str| value.get("type").and_then(Json::as_str) == Some(name);
    let prepends = |value: &Json| kind(value, "Prepend");
    let metaspace = |value: &Json| {
        let scheme = value.get("prepend_scheme").and_then(Json::as_str);
        let old = value.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(true);
        kind(value, "Metaspace") && scheme.map_or(old, |scheme| scheme != "never")
    };
    has("normalizer", "normalizers", &prepends) || has("pre_tokenizer", "pretokenizers", &metaspace)
}

/// `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Reads protobuf fields from a slice; positions are those in the file.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

/// A field's number and value.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes {
        start: usize,
        bytes: &'a [u8],
    },
    /// 64 bits, which no field here has.
    Other,
}

impl<'a> Fields<'a> {
    fn broken(&self, expected: &str) -> ImportError {
        let found = format!("the end of the message at byte {}", self.end);
        ImportError::malformed(self.path, "SentencePiece model", self.at as u64, expected, found)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(..self.end)?.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= self.end)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// The next field; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, ImportError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let tag = self.varint().ok_or_else(|| self.broken("a field's tag of at most 64 bits"))?;
        let field = match tag & 7 {
            0 => self.varint().map(Field::Varint),
            1 => self.take(8).map(|_| Field::Other),
            2 => self.varint().and_then(|length| {
                let start = self.at;
                self.take(length).map(|bytes| Field::Bytes { start, bytes })
            }),
            5 => self.take(4).and_then(|bytes| bytes.try_into().ok()).map(Field::Fixed32),
            _ => return Err(self.broken("a wire type of 0, 1, 2 or 5")),
        };
        field.map(|field| Some((tag >> 3, field))).ok_or_else(|| self.broken("a whole field"))
    }
}

/// The pieces of a model: field 1 of the message, each with text (1), score (2) and kind (3).
fn parse(path: &Path, bytes: &[u8], limit: u64) -> Result<Vec<Piece>, ImportError> {
    let mut message = Fields { path, bytes, at: 0, end: bytes.len() };
    let mut pieces = Vec::new();
    while let Some((number, field)) = message.next()? {
        let (1, Field::Bytes { start, bytes: inner }) = (number, field) else { continue };
        ImportError::check_limit(path, "pieces", "max_vocabulary", limit, pieces.len() as u64 + 1)?;
        let mut fields = Fields { path, bytes, at: start, end: start + inner.len() };
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        let item = || format!("piece {}", pieces.len());
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes { start, bytes }) => {
                    let text = std::str::from_utf8(bytes);
                    let wrong =
                        |_| ImportError::malformed(path, item(), start as u64, "UTF-8", "other bytes");
                    piece.text = text.map_err(wrong)?.to_owned();
                }
                (2, Field::Fixed32(bytes)) => {
                    piece.score = f32::from_le_bytes(bytes);
                    if !piece.score.is_finite() {
                        let found = piece.score;
                        return Err(ImportError::malformed(
                            path,
                            item(),
                            start as u64,
                            "a finite score",
                            found,
                        ));
                    }
                }
                (3, Field::Varint(kind)) => {
                    // 4 is "user defined", which converters and runtimes take as ordinary here.
                    piece.kind = match kind {
                        1 | 4 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => {
                            let expected = "a kind from 1 to 6";
                            return Err(ImportError::malformed(path, item(), start as u64, expected, kind));
                        }
                    };
                }
                _ => {}
            }
        }
        pieces.push(piece);
    }
    if pieces.is_empty() {
        let found = format!("none in {} bytes", bytes.len());
        return Err(ImportError::malformed(path, "SentencePiece model", 0, "pieces", found));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 1 with text and score, then a kind.
    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut inner = vec![0x0a, text.len() as u8];
        inner.extend_from_slice(text.as_bytes());
        inner.push(0x15);
        inner.extend_from_slice(&score.to_le_bytes());
        inner.extend_from_slice(&[0x18, kind]);
        let mut out = vec![0x0a, inner.len() as u8];
        out.extend(inner);
        out
    }

    #[test]
    fn reads_pieces_and_skips_other_fields() {
        let mut bytes = piece("<unk>", 0.0, 2);
        bytes.extend([0x12, 3, 1, 2, 3, 0x78, 0x96, 0x01]);
        bytes.extend(piece("\u{2581}a", -1.5, 1));
        let pieces = parse(Path::new("m"), &bytes, 10).expect("a model");
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces.first().map(|piece| piece.kind), Some(Kind::Unknown));
        let second = Piece { text: "\u{2581}a".into(), score: -1.5, kind: Kind::Normal };
        assert_eq!(pieces.get(1), Some(&second));
        assert!(parse(Path::new("m"), &bytes, 1).is_err());
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_a_model() {
        let mut bytes = piece("<s>", 0.0, 3);
        bytes.extend(piece("<0x0A>", -2.0, 6));
        let whole = piece("<s>", 0.0, 3).len();
        for len in 0..bytes.len() {
            let found = parse(Path::new("m"), bytes.get(..len).unwrap_or_default(), 10);
            assert_eq!(found.is_ok(), len == whole, "cut at {len}");
        }
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut broken = bytes.clone();
                if let Some(byte) = broken.get_mut(at) {
                    *byte = value;
                }
                let _ = parse(Path::new("m"), &broken, 10);
            }
        }
    }

    #[test]
    fn byte_tokens() {
        assert!(is_byte("<0x0A>") && is_byte("<0xff>"));
        assert!(!is_byte("<0x0>") && !is_byte("<0x0G>") && !is_byte("0x0A"));
    }
}
