//! Upper bounds that a caller puts on what a foreign file may declare.

/// Bounds checked before anything is allocated. Independently of them no allocation exceeds a small multiple of
/// the size of the file it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files of one checkpoint.
    pub max_shards: u64,
    /// Bytes of the header of one safetensors file; the format's own limit is 100 MB.
    pub max_header_bytes: u64,
    /// Tensors of one checkpoint.
    pub max_tensors: u64,
    /// Bytes of one JSON, template, model card or tokenizer file.
    pub max_text_bytes: u64,
    /// Tokens of the vocabulary.
    pub max_vocabulary: u64,
    /// Layers of the model.
    pub max_layers: u64,
    /// Experts of a layer.
    pub max_experts: u64,
    /// Hidden, feed-forward and head widths, head counts.
    pub max_width: u64,
    /// Entries of a legacy importance matrix.
    pub max_imatrix_entries: u64,
    /// Bytes of a tensor or data set name in a legacy importance matrix.
    pub max_imatrix_name_bytes: u64,
}

impl Default for Limits {
    /// Ten times and more what the largest published models need.
    fn default() -> Self {
        Self {
            max_shards: 4096,
            max_header_bytes: 100_000_000,
            max_tensors: 1 << 20,
            max_text_bytes: 1 << 28,
            max_vocabulary: 1 << 22,
            max_layers: 1 << 12,
            max_experts: 1 << 14,
            max_width: 1 << 22,
            max_imatrix_entries: 1 << 18,
            max_imatrix_name_bytes: 1 << 16,
        }
    }
}
