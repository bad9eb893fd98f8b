//! Upper bounds that a caller puts on what a file may declare.

/// Bounds checked before anything is allocated. Independently of them no allocation exceeds a small multiple of
/// the file's real size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Metadata entries of one file.
    pub max_metadata_entries: u64,
    /// Tensors of one file.
    pub max_tensors: u64,
    /// Bytes of one string (key, value or array element).
    pub max_string_bytes: u64,
    /// Elements of one metadata array.
    pub max_array_elements: u64,
    /// Bytes of the whole metadata section.
    pub max_metadata_bytes: u64,
    /// Dimensions of one tensor; ggml has 4 and larger values are not accepted even if allowed here.
    pub max_dimensions: u32,
    /// Alignment of tensor data in bytes.
    pub max_alignment: u64,
    /// Files of one split model.
    pub max_shards: u32,
}

impl Default for Limits {
    /// Ten times and more what the largest published models need.
    fn default() -> Self {
        Self {
            max_metadata_entries: 1 << 14,
            max_tensors: 1 << 18,
            max_string_bytes: 1 << 26,
            max_array_elements: 1 << 26,
            max_metadata_bytes: 1 << 30,
            max_dimensions: 4,
            max_alignment: 1 << 20,
            max_shards: 4096,
        }
    }
}
