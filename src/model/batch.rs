//! Which tokens a batch holds.

/// A run of consecutive tokens of one sequence. The rows of a batch are those of its spans, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Sequence the tokens belong to: the slot of a cache.
    pub sequence: usize,
    /// Position of the first token in its sequence.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

/// Position of every row of a batch.
pub(crate) fn positions(spans: &[Span]) -> Vec<usize> {
    spans.iter().flat_map(|span| span.start..span.start + span.len).collect()
}
