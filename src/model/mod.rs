//! Tokenizer, forward and backward pass of the supported architectures.
//!
//! In: a [`TensorSource`] (an open GGUF file) and text or token ids. Out: token ids, hidden states, the inputs of
//! every linear layer, logits, perplexity and KL divergence. Batches of sequences pass one layer at a time
//! ([`LayerRunner`]), so memory holds one layer and the hidden states; [`Decoder`] goes on token by token with a
//! key-value cache. Weights are floats or anything that multiplies ([`MatrixProduct`]), so a caller may put
//! quantized ones in. [`loss_gradient`] and [`layer_gradient`] go back from the loss to the embedding the same way, and
//! show the gradients of every linear layer's output. Results are the same bits for any number of threads. Knows nothing of quantization, and
//! prints nothing.
//!
//! A new architecture is one file in `architecture/` and a line in its registry.

mod architecture;
mod backward;
mod batch;
mod cache;
mod config;
mod decode;
mod error;
pub mod eval;
mod forward;
mod head;
mod ops;
mod runner;
mod sampling;
mod source;
pub(crate) mod spread;
pub mod tokenizer;
mod weights;

pub use architecture::{supported, Architecture, GradientCall, GradientObserver, Half, LayerCall, Observer};
pub use backward::{layer_gradient, loss_gradient, LossGradient};
pub use batch::Span;
pub use cache::{CachePrecision, CacheShape, LayerCache};
pub use config::Hyperparameters;
pub use decode::{Decoder, DecoderOptions};
pub use error::ModelError;
pub use forward::{Model, EMBEDDING, OUTPUT};
pub use head::{RowTable, TokenTable};
pub use ops::{Beside, DenseMatrix, MatrixProduct, RopeScaling};
pub use runner::{LayerRunner, Round};
pub use sampling::{Random, Sampler};
pub use source::{TensorShape, TensorSource};
pub use tokenizer::Tokenizer;
pub use weights::{InputKind, LayerWeights, Linear, LinearSlot};
