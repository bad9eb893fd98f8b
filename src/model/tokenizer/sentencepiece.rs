//! SentencePiece tokenization by scores (`tokenizer.ggml.model` = "llama").
//!
//! Starting from single characters, the adjacent pair whose joined text is the token of the highest score is
//! joined (the leftmost on a tie) until no pair forms a token. What is no token at the end is written as bytes.

use std::cmp::Ordering;

use super::join::{join, Piece};
use super::vocabulary::Vocabulary;

/// The character that stands for a space in stored texts.
pub const SPACE: char = '\u{2581}';

/// A score, ordered also where it is no number.
#[derive(Clone, Copy, Debug)]
struct Score(f32);

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Tokens of single bytes.
#[derive(Clone, Debug)]
pub struct ByteTokens(Vec<Option<u32>>);

impl ByteTokens {
    /// Finds `<0x00>` to `<0xFF>`, or where one is missing the token of the byte itself.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let token = |byte: u8| {
            let own = || byte.is_ascii().then(|| vocabulary.find(&char::from(byte).to_string())).flatten();
            vocabulary.find(&format!("<0x{byte:02X}>")).or_else(own)
        };
        Self((0..=255).map(token).collect())
    }

    fn get(&self, byte: u8) -> Option<u32> {
        self.0.get(usize::from(byte)).copied().flatten()
    }
}

/// The byte that the text of a byte token names.
pub fn byte_of(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// Appends the tokens of `text`, in which spaces are already written as [`SPACE`].
///
/// Bytes without a token become the unknown token, or nothing if there is none.
pub fn encode(vocabulary: &Vocabulary, bytes: &ByteTokens, text: &str, out: &mut Vec<u32>) {
    let pair = |left: &Piece, right: &Piece| {
        let token = vocabulary.find(text.get(left.start..right.start + right.len)?)?;
        Some((Score(vocabulary.score(token)), token))
    };
    for piece in join(text, |character| vocabulary.find(character), pair) {
        match piece.token {
            Some(token) => out.push(token),
            // A piece that is no token is a single character: pieces are joined only to tokens.
            None => {
                let each = piece.text(text).bytes();
                out.extend(each.filter_map(|byte| bytes.get(byte).or(vocabulary.unknown)));
            }
        }
    }
}
