//! SentencePiece tokenization by scores (`tokenizer.ggml.model` = "llama").
//!
//! Starting from single characters, the adjacent pair whose joined text is the token of the highest score is
//! joined (the leftmost on a tie) until no pair forms a token. What is no token at the end is written as bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocabulary::Vocabulary;

/// The character that stands for a space in stored texts.
pub const SPACE: char = '\u{2581}';

/// A run of characters in the chain of what is left.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    /// Length in bytes; 0 once joined to the piece before.
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// A pair that would form a token.
#[derive(Clone, Copy, Debug)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of both in bytes when the pair was found: tells whether one changed since.
    len: usize,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
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
    let count = text.chars().count();
    let mut pieces: Vec<Piece> = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, character))| Piece {
            start,
            len: character.len_utf8(),
            before: index.checked_sub(1),
            after: Some(index + 1).filter(|&after| after < count),
        })
        .collect();
    let mut queue = BinaryHeap::new();
    for left in 0..count.saturating_sub(1) {
        queue.extend(pair(vocabulary, text, &pieces, Some(left), Some(left + 1)));
    }
    while let Some(Pair { left, right, len, .. }) = queue.pop() {
        let (Some(&first), Some(&second)) = (pieces.get(left), pieces.get(right)) else { continue };
        if first.len == 0 || second.len == 0 || first.len + second.len != len {
            continue;
        }
        if let Some(piece) = pieces.get_mut(left) {
            piece.len = len;
            piece.after = second.after;
        }
        if let Some(piece) = pieces.get_mut(right) {
            piece.len = 0;
        }
        if let Some(piece) = second.after.and_then(|after| pieces.get_mut(after)) {
            piece.before = Some(left);
        }
        queue.extend(pair(vocabulary, text, &pieces, first.before, Some(left)));
        queue.extend(pair(vocabulary, text, &pieces, Some(left), second.after));
    }
    for piece in pieces.iter().filter(|piece| piece.len > 0) {
        let part = text.get(piece.start..piece.start + piece.len).unwrap_or_default();
        match vocabulary.find(part) {
            Some(token) => out.push(token),
            // A piece that is no token is a single character: pieces are joined only to tokens.
            None => out.extend(part.bytes().filter_map(|byte| bytes.get(byte).or(vocabulary.unknown))),
        }
    }
}

fn pair(
    vocabulary: &Vocabulary,
    text: &str,
    pieces: &[Piece],
    left: Option<usize>,
    right: Option<usize>,
) -> Option<Pair> {
    let (left, right) = (left?, right?);
    let (first, second) = (pieces.get(left)?, pieces.get(right)?);
    let len = first.len + second.len;
    let token = vocabulary.find(text.get(first.start..first.start + len)?)?;
    Some(Pair { score: vocabulary.score(token), left, right, len })
}
