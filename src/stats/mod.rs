//! Second moments of every linear layer's input, and the calibration text they come from.
//!
//! In: a model and calibration tokens, from a text ([`CalibrationTokens::from_text`]) or written by the model itself
//! ([`SelfCalibration`]). Out: for each layer the [`Covariance`] of each distinct input of its linear layers
//! ([`collect()`]), that of the output head's input ([`collect_head`]), and token frequencies for the embedding.
//! One layer at a time: the caller drives a [`LayerRunner`](crate::model::LayerRunner). Sums are f64 over f32
//! products of fixed blocks, the same bits for any number of threads. Knows nothing of quantization, and prints
//! nothing.

mod calibration;
mod collect;
mod covariance;
mod error;
mod prompts;

pub use calibration::{
    recommended_tokens, too_few_tokens, CalibrationSource, CalibrationTokens, SelfCalibration,
};
pub use collect::{collect, collect_and_advance, collect_head, input_kinds, Collector, LayerStatistics};
pub use covariance::{Covariance, CrossMoment};
pub use error::StatsError;
