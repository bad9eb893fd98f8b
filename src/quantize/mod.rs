//! WaterSIC and its trellis successor: matrices in, integers and scales out.
//!
//! In: a [`Layer`] (weights and the second moment of the input), [`Settings`], a step c or a target rate. Out: a
//! [`QuantizedMatrix`] for the payload's encoder and a [`Report`]. Knows nothing of
//! models and files, and of the payload only its integers, scales and geometry, and which pairs have slots in a table.
//!
//! Results are bit-identical for any number of threads (rayon's current pool): work is cut by shape only.

mod baseline;
mod blend;
mod blocks;
mod cholesky;
pub mod entropy;
mod error;
mod factored;
mod feedback;
mod layer;
mod limit;
mod pair_search;
mod parts;
mod pilot;
mod prepare;
mod rate_model;
mod report;
mod rescale;
mod scales;
mod search;
mod settings;
mod sic;
pub mod viterbi;

pub use blend::{choose_share, BlendRow, DriftedMoments, Wanted, SHARES};
pub use error::QuantizeError;
pub use layer::{Covariance, Drift, Layer};
pub use limit::GaussianLimit;
pub use parts::{PartedLayer, ReadRows};
pub use prepare::Prepared;
pub use rate_model::RateModel;
pub use report::{reconstruct, Report};
pub use search::{search, MeasureError, RateTarget, Searched};
pub use settings::{Damping, Method, Outliers, Settings};

use crate::payload::QuantizedMatrix;

impl Prepared<'_> {
    /// Quantizes at step c: for [`Method::Trellis`] half the distance between integers of one parity, for
    /// [`Method::WaterSic`] the step in the space of Y, for the others the step of the weights.
    ///
    /// # Errors
    /// A step so small or large that it is no normal f32.
    pub fn quantize(&self, c: f64) -> Result<QuantizedMatrix, QuantizeError> {
        match self.settings.method {
            Method::Trellis => sic::quantize(self, c),
            _ => baseline::quantize(self, c),
        }
    }

    fn bad_step(&self, c: f64) -> QuantizeError {
        let layer = self.layer.name.to_owned();
        QuantizeError::Setting { layer, setting: "step c", value: c, expected: "a step that is a normal f32" }
    }
}
