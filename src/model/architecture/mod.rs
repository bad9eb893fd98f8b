//! The supported architectures: one file each, and a line in [`ARCHITECTURES`].

mod block;
mod block_gradient;
mod experts;
mod gemma3;
mod llama;
mod phi3;
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
const ARCHITECTURES: &[(&str, Build)] = &[
    ("llama", llama::build),
    ("qwen2", qwen::build),
    ("qwen3", qwen::build),
    ("qwen3moe", qwen::build),
    ("gemma3", gemma3::build),
    ("phi3", phi3::build),
];

/// Sees the input of every linear layer while a batch passes through a layer.
pub trait Observer {
    /// `x` holds one row of `width` values for each token of the batch.
    fn input(&mut self, kind: InputKind, x: &[f32], width: usize) -> Result<(), ModelError>;

    /// The input of the matrices of one expert: one row for each token that the router sent there, possibly none at
    /// all. What all tokens together would be is shown to [`input`](Self::input) where it exists, before.
    fn expert_input(
        &mut self,
        _kind: InputKind,
        _expert: usize,
        _x: &[f32],
        _width: usize,
    ) -> Result<(), ModelError> {
        Ok(())
    }

    /// The hidden state (tokens × model width) to which the output of the linear layer of input `kind` will be added;
    /// called just before [`input`](Self::input), for layers that write to the hidden state with no norm between.
    fn residual(&mut self, _kind: InputKind, _hidden: &[f32]) -> Result<(), ModelError> {
        Ok(())
    }

    /// What the linear layer whose `input` was just shown gives (tokens × model width, with its bias); for layers that
    /// write to the hidden state.
    fn output(&mut self, _kind: InputKind, _y: &[f32]) -> Result<(), ModelError> {
        Ok(())
    }

    /// Whether everything wanted was seen. The layer then need not go on, and may leave the hidden state as something in
    /// between: only for callers that throw it away.
    fn enough(&self) -> bool {
        false
    }

    /// Whether [`attention`](Self::attention) is to be called, which costs some time.
    fn wants_attention(&self) -> bool {
        false
    }

    /// How much attention each token receives: probabilities summed over heads and over the tokens that look at it,
    /// divided by the number of heads. `x` is what [`input`](Self::input) saw as [`InputKind::Attention`].
    fn attention(&mut self, _x: &[f32], _width: usize, _received: &[f32]) -> Result<(), ModelError> {
        Ok(())
    }
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

/// Sees the gradient of every linear layer's output while a batch goes back through a layer.
pub trait GradientObserver {
    /// `gradient` holds, for each token of the batch, one row with a value for each of the `rows` of the weight matrix
    /// of this role.
    fn output(&mut self, role: &'static str, gradient: &[f32], rows: usize) -> Result<(), ModelError>;

    /// As [`output`](Self::output), for the matrix of one expert, which has `rows` rows: one row of `gradient` for each
    /// token that the router sent there.
    fn expert_output(
        &mut self,
        _role: &'static str,
        _expert: usize,
        _gradient: &[f32],
        _rows: usize,
    ) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Sees nothing.
impl GradientObserver for () {
    fn output(&mut self, _: &'static str, _: &[f32], _: usize) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Any closure of the right shape.
impl<F: FnMut(&'static str, &[f32], usize) -> Result<(), ModelError>> GradientObserver for F {
    fn output(&mut self, role: &'static str, gradient: &[f32], rows: usize) -> Result<(), ModelError> {
        self(role, gradient, rows)
    }
}

/// What the way back through a layer is given besides its weights and the gradient.
pub struct GradientCall<'a> {
    /// Number of the layer.
    pub layer: usize,
    /// Which tokens the rows are; every span is a whole sequence.
    pub spans: &'a [Span],
    /// The hidden state that entered the layer: tokens × width.
    pub hidden: &'a [f32],
    /// Sees the gradients of the linear layers' outputs.
    pub observer: &'a mut dyn GradientObserver,
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

/// What a layer does one after the other, each on the hidden state that the other leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Attention, up to what it adds to the hidden state.
    Attention,
    /// The feed-forward network.
    FeedForward,
}

impl Half {
    /// Input of the linear layer that ends it.
    pub fn last_input(self) -> InputKind {
        match self {
            Self::Attention => InputKind::AttentionOutput,
            Self::FeedForward => InputKind::FeedForwardDown,
        }
    }
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

    /// Turns token embeddings (tokens × width) into the first layer's hidden state; most do nothing. Must be a scaling
    /// of each coordinate, because gradients go back by the same.
    fn prepare(&self, _hidden: &mut [f32]) {}

    /// Passes the hidden state (tokens × width, row-major) through one half of a layer, in place.
    fn forward_half(
        &self,
        half: Half,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError>;

    /// The end of a half whose last linear layer was shown the input `x`: shows `x` again, multiplies, and adds to the
    /// hidden state. With what the half showed it does what [`forward_half`](Self::forward_half) does, to the bit. Not
    /// for halves that do not show such an input (experts).
    fn finish_half(
        &self,
        half: Half,
        weights: &LayerWeights,
        x: &[f32],
        hidden: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError>;

    /// Passes the hidden state (tokens × width, row-major) through one layer, in place.
    fn forward(
        &self,
        weights: &LayerWeights,
        hidden: &mut [f32],
        call: LayerCall<'_>,
    ) -> Result<(), ModelError> {
        let LayerCall { layer, spans, cache, observer } = call;
        let first = LayerCall { layer, spans, cache, observer: &mut *observer };
        self.forward_half(Half::Attention, weights, hidden, first)?;
        if observer.enough() {
            return Ok(());
        }
        let second = LayerCall { layer, spans, cache: None, observer };
        self.forward_half(Half::FeedForward, weights, hidden, second)
    }

    /// Takes the gradient of the hidden state that leaves a layer (tokens × width) to that of the one that entered it,
    /// in place. Statistics of the loss need it; without it the model is converted with `--no-loss-weights`.
    fn backward(
        &self,
        _weights: &LayerWeights,
        _gradient: &mut [f32],
        _call: GradientCall<'_>,
    ) -> Result<(), ModelError> {
        Err(ModelError::request(
            "backward pass",
            "an architecture that has one",
            "one that only goes forward",
        ))
    }

    /// Normed final hidden state: the input of the output head. `scale` is `output_norm.weight`.
    fn final_norm(&self, hidden: &[f32], scale: &[f32], out: &mut [f32]) {
        super::ops::rms_norm(hidden, scale, self.hyperparameters().epsilon, out);
    }

    /// Takes the gradient of [`final_norm`](Self::final_norm)'s result to that of its input `hidden`, in place.
    fn final_norm_gradient(&self, hidden: &[f32], scale: &[f32], gradient: &mut [f32]) {
        super::ops::rms_norm_gradient_in_place(hidden, scale, self.hyperparameters().epsilon, gradient);
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
