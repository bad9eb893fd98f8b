//! The encoder: a [`QuantizedMatrix`](super::QuantizedMatrix) becomes bytes.

mod fit;
mod histogram;
mod layout;
