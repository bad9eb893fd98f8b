//! Llama and the models that call themselves so in GGUF: Llama 1 to 3, Mistral, Mixtral, TinyLlama, SmolLM, ….

use super::block::DenseBlock;
use super::Architecture;
use crate::model::error::ModelError;
use crate::model::ops::Pairing;
use crate::model::source::TensorSource;

/// Queries and keys of this architecture are stored for interleaved rotation.
pub(super) fn build(
    source: &dyn TensorSource,
    name: &'static str,
) -> Result<Box<dyn Architecture>, ModelError> {
    Ok(Box::new(DenseBlock::new(source, name, Pairing::Interleaved)?))
}
