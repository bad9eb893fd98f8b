//! Joining neighbouring pieces of a text to tokens, the best pair first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A run of characters of the text in the chain of what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// First byte.
    pub(super) start: usize,
    /// Length in bytes; 0 once joined to the piece before.
    pub(super) len: usize,
    /// The token of exactly this text.
    pub(super) token: Option<u32>,
    before: Option<usize>,
    after: Option<usize>,
}

impl Piece {
    /// Its part of the text.
    pub(super) fn text<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// A pair that would form a token. The largest is joined first: by key, then from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair<K> {
    key: K,
    left: Reverse<usize>,
    right: usize,
    /// Length of both in bytes when the pair was found: tells whether one changed since.
    len: usize,
    token: u32,
}

/// Cuts `text` into characters and joins neighbours until no pair forms a token.
///
/// `single` gives the token of a character, `pair` key and token of two neighbours that may be joined: the pair with the
/// largest key goes first, of equal ones the leftmost. Time n log n in the length of the text.
pub(super) fn join<K: Ord + Copy>(
    text: &str,
    single: impl Fn(&str) -> Option<u32>,
    pair: impl Fn(&Piece, &Piece) -> Option<(K, u32)>,
) -> impl Iterator<Item = Piece> {
    let count = text.chars().count();
    let mut pieces: Vec<Piece> = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, character))| Piece {
            start,
            len: character.len_utf8(),
            token: single(character.encode_utf8(&mut [0; 4])),
            before: index.checked_sub(1),
            after: Some(index + 1).filter(|&after| after < count),
        })
        .collect();
    let candidate = |pieces: &[Piece], left: Option<usize>, right: Option<usize>| -> Option<Pair<K>> {
        let (left, right) = (left?, right?);
        let (first, second) = (pieces.get(left)?, pieces.get(right)?);
        let (key, token) = pair(first, second)?;
        Some(Pair { key, left: Reverse(left), right, len: first.len + second.len, token })
    };
    let mut queue: BinaryHeap<Pair<K>> =
        (1..count).filter_map(|right| candidate(&pieces, Some(right - 1), Some(right))).collect();
    while let Some(Pair { left: Reverse(left), right, len, token, .. }) = queue.pop() {
        let (Some(&first), Some(&second)) = (pieces.get(left), pieces.get(right)) else { continue };
        if first.len == 0 || second.len == 0 || first.len + second.len != len {
            continue;
        }
        if let Some(piece) = pieces.get_mut(left) {
            piece.len = len;
            piece.token = Some(token);
            piece.after = second.after;
        }
        if let Some(piece) = pieces.get_mut(right) {
            piece.len = 0;
        }
        if let Some(piece) = second.after.and_then(|after| pieces.get_mut(after)) {
            piece.before = Some(left);
        }
        queue.extend(candidate(&pieces, first.before, Some(left)));
        queue.extend(candidate(&pieces, Some(left), second.after));
    }
    pieces.into_iter().filter(|piece| piece.len > 0)
}
