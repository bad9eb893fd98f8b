//! Cutting a text at its special tokens, before the rest is tokenized.

use super::vocabulary::{TokenKind, Vocabulary};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment<'t> {
    /// Text still to be tokenized; never empty.
    Text(&'t str),
    /// A special token found in the text.
    Token(u32),
}

/// Cuts `text` at the texts of `special` (longest first). Control and unknown tokens are recognised only with
/// `parse_special`; tokens that a model's author added as text always are.
pub fn partition<'t>(
    vocabulary: &Vocabulary,
    special: &[u32],
    text: &'t str,
    parse_special: bool,
) -> Vec<Fragment<'t>> {
    let mut fragments = Vec::new();
    if !text.is_empty() {
        fragments.push(Fragment::Text(text));
    }
    for &token in special {
        if !parse_special && vocabulary.kind(token) != TokenKind::UserDefined {
            continue;
        }
        let mark = vocabulary.text(token);
        let holds = |fragment: &Fragment| matches!(fragment, Fragment::Text(part) if part.contains(mark));
        if mark.is_empty() || !fragments.iter().any(holds) {
            continue;
        }
        let mut cut = Vec::with_capacity(fragments.len() + 2);
        for fragment in fragments {
            let Fragment::Text(part) = fragment else {
                cut.push(fragment);
                continue;
            };
            for (index, piece) in part.split(mark).enumerate() {
                if index > 0 {
                    cut.push(Fragment::Token(token));
                }
                if !piece.is_empty() {
                    cut.push(Fragment::Text(piece));
                }
            }
        }
        fragments = cut;
    }
    fragments
}
