//! The supported architectures: one file each, and a line in [`ARCHITECTURES`].

mod block;
mod llama;
mod qwen;

use super::batch::Span;
use super::cache::{CacheShape, LayerCache};
use super::config::Hyperparameters;
use super::error::ModelError;
use super::source::TensorSource;
use super::weights::{InputKind, LayerWeights, LinearSlot};

/// Makes an architecture from a model's metadata and tensors.
type Build = fn(&dyn TensorSource, &'static str) -> Result<Box<dyn Architecture>, ModelError>;

/// Values of `general.architecture` and what builds them.
const ARCHITECTURES: &[(&str, Build)] =
    &[("llama", llama::build), ("qwen2", qwen::build), ("qwen3", qwen::build)];

/// Sees the input of every linear layer while a batch passes through a layer.
pub trait Observer {
    /// `x` holds one row of `width` values for each token of the batch.
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError>;
}

/// Sees nothing.
impl Observer for () {
    fn input(&mut self, _: InputKind, _: &[f32], _: usize) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Any closure of the right shape.
impl<F: FnMut(InputKind, &[f32], usize) -> Result<(), ModelError>> Observer for F {
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError> {
        self(kind, x, width)
    }
}

/// What a layer is given besides its weights and the hidden state.
pub struct LayerCall<'a> {
    /// Number of the layer.
    pub layer: usize,
    /// Which tokens the rows are.
    pub spans: &'a [Span],
    /// Past tokens; without it every span starts at position 0.
    pub cache: Option<&'a mut LayerCache>,
    /// Sees the inputs of linear layers.
    pub observer: &'a mut dyn Observer,
}

/// How one kind of model computes. Sizes are checked when it is built.
pub trait Architecture: Send + Sync {
    /// Sizes of the model.
    fn hyperparameters(&self) -> &Hyperparameters;

    /// The linear layers of a layer, in the order they are used; those that share an input follow each other.
    fn linears(&self, layer: usize) -> Vec<LinearSlot>;

    /// Reads one layer: matrices as the source multiplies them, else as floats.
    fn load(&self, source: &dyn TensorSource, layer: usize) -> Result<LayerWeights, ModelError>;

    /// What the cache keeps of each token in a layer.
    fn cache_shape(&self, layer: usize) -> CacheShape;

    /// Turns token embeddings (tokens × width) into the first layer's hidden state; most do nothing.
    fn prepare(&self, _hidden: &mut [f32]) {}

    /// Passes the hidden state (tokens × width, row-major) through one layer, in place.
    fn forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError>;

    /// Normed final hidden state: the input of the output head. `scale` is `output_norm.weight`.
    fn final_norm(&self, hidden: &[f32], scale: &[f32], out: &mut [f32]) {
        super::ops::rms_norm(hidden, scale, self.hyperparameters().epsilon, out);
    }
}

/// The architecture that `general.architecture` names.
pub(crate) fn open(source: &dyn TensorSource) -> Result<Box<dyn Architecture>, ModelError> {
    let name = source.metadata().str("general.architecture")?;
    let Some(&(name, build)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let supported: Vec<&str> = supported().collect();
        return Err(ModelError::Architecture { name: name.to_owned(), supported: supported.join(", ") });
    };
    build(source, name)
}

/// Names of the supported architectures.
pub fn supported() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}
