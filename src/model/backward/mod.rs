//! From the loss back to the embedding, one layer at a time: gradients of hidden states and of every linear layer's
//! output.
//!
//! A caller keeps the hidden state that entered each layer ([`LayerRunner::hidden`](super::LayerRunner::hidden)),
//! starts with [`loss_gradient`] and goes on with [`layer_gradient`] from the last layer to the first. A layer's
//! forward pass is computed again for a few sequences at a time, so memory holds the states the caller keeps, one
//! layer, and the intermediates of a round. No gradients of weights are computed.

mod head;
mod layer;

pub use head::{loss_gradient, LossGradient};
pub use layer::layer_gradient;
