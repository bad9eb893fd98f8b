//! The one error type of the statistics layer.

use crate::model::ModelError;

/// What can go wrong while statistics are gathered.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The model or its tokenizer failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is nothing to calibrate on, or a request makes no sense.
    #[error("calibration: expected {expected}, found {found}")]
    Calibration {
        /// What is needed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A batch does not fit the statistics it was added to.
    #[error("covariance: expected {expected}, found {found}")]
    Shape {
        /// What fits.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The inputs of a layer left the finite numbers.
    #[error("the second moment of {what} holds a value that is not finite")]
    NotFinite {
        /// Layer and input.
        what: String,
    },
}

impl StatsError {
    pub(crate) fn shape(expected: impl ToString, found: impl ToString) -> Self {
        Self::Shape { expected: expected.to_string(), found: found.to_string() }
    }
}
