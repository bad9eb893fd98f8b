//! Qwen 2, 2.5 and 3, with and without experts: the block with halves rotated together. Version 2 has biases of queries,
//! keys and values, version 3 norms of single heads; both are read where the tensors exist.

use super::block::DenseBlock;
use super::Architecture;
use crate::model::error::ModelError;
use crate::model::ops::Pairing;
use crate::model::source::TensorSource;

/// Builds either version.
pub(super) fn build(
    source: &dyn TensorSource,
    name: &'static str,
) -> Result<Box<dyn Architecture>, ModelError> {
    Ok(Box::new(DenseBlock::new(source, name, Pairing::Halves)?))
}
