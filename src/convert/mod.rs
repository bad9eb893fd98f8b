//! The whole conversion: from a model to a file with tensors of our type.

mod keys;

pub use keys::*;
