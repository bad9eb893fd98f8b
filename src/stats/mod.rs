//! Second moments of every linear layer's input, and the calibration text they come from.
//!
//! In: a model and calibration tokens, from a text ([`CalibrationTokens::from_text`]) or written by the model itself
//! ([`SelfCalibration`]). Out: for each layer the [`Covariance`] of each distinct input of its linear layers
//! ([`collect()`]), that of the output head's input ([`collect_head`]), token frequencies for the embedding, and what an
//! error of each output costs in the loss ([`Sensitivity`], from a [`Tape`] recorded on the way).
//! Beside these: moments weighted by attention ([`collect_weighted`]) and the drift of a quantized model beside the
//! original ([`SideBySide`]). One layer at a time: the caller drives a
//! [`LayerRunner`](crate::model::LayerRunner). Sums are f64 over f32 products of fixed blocks, the same bits for any
//! number of threads. Knows nothing of quantization, and prints nothing.
//!
//! ```no_run
//! use std::sync::Arc;
//! use wsic::gguf::{GgufModel, Limits};
//! use wsic::model::{LayerRunner, Model, Tokenizer};
//! use wsic::stats::{collect, input_kinds, SelfCalibration};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = Arc::new(GgufModel::open("model.gguf", &Limits::default())?);
//! let tokenizer = Tokenizer::from_metadata(file.metadata())?;
//! let model = Arc::new(Model::open(file)?);
//! let calibration = SelfCalibration::default().run(&model, &tokenizer, &mut |_tokens| ())?;
//! let mut runner = LayerRunner::new(&model, &calibration.sequences)?;
//! for layer in 0..model.hyperparameters().layers {
//!     let mut weights = model.load_layer(layer)?;
//!     let linears = model.linears(layer);
//!     let statistics = collect(&mut runner, &weights, &input_kinds(&linears))?;
//!     for slot in &linears {
//!         let covariance = statistics.of(slot).map(|covariance| covariance.to_dense());
//!         // Quantize the tensor `slot.tensor`, then let the next layers see the result:
//!         // weights.replace(slot.role, matrix)?;
//!         # let _ = (covariance, &mut weights);
//!     }
//!     runner.advance(&weights, &mut ())?;
//! }
//! # Ok(())
//! # }
//! ```

mod calibration;
mod collect;
mod covariance;
mod drift;
mod error;
mod prompts;
mod sensitivity;

pub use calibration::{
    recommended_tokens, too_few_tokens, CalibrationSource, CalibrationTokens, SelfCalibration,
};
pub use collect::{
    collect, collect_and_advance, collect_head, collect_weighted, input_kinds, Collector, LayerStatistics,
};
pub use covariance::{Covariance, CrossMoment};
pub use drift::{Drift, DriftMoments, SideBySide, WantedMoment};
pub use error::StatsError;
pub use sensitivity::{smoothed, Sensitivity, SensitivitySettings, Tape};
