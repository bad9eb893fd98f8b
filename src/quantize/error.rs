//! What can go wrong between a matrix and its integers.

/// Errors of the quantizer. `layer` is the name the caller gave in [`super::Layer::name`].
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A slice does not have the length that the shape of the layer asks for.
    #[error("{layer}: {what} has {found} elements, expected {expected}")]
    Length {
        /// Name of the layer.
        layer: String,
        /// Which slice.
        what: &'static str,
        /// Elements given.
        found: usize,
        /// Elements that the shape asks for.
        expected: usize,
    },
    /// The layer has no rows, no columns, or more weights than can be addressed.
    #[error("{layer}: a matrix of {rows} x {columns} weights cannot be quantized")]
    Shape {
        /// Name of the layer.
        layer: String,
        /// Output features.
        rows: usize,
        /// Input features.
        columns: usize,
    },
    /// A value is NaN, infinite, or negative where that has no meaning.
    #[error("{layer}: {what}[{index}] is {value}, expected {expected}")]
    Value {
        /// Name of the layer.
        layer: String,
        /// Which slice.
        what: &'static str,
        /// Index into the slice.
        index: usize,
        /// The value found.
        value: f64,
        /// What was expected of it.
        expected: &'static str,
    },
    /// Every input is dead: the diagonal of the covariance is zero.
    #[error("{layer}: the covariance is zero, no input was ever active")]
    NoLiveColumns {
        /// Name of the layer.
        layer: String,
    },
    /// The covariance has no Cholesky factor, even with strong damping.
    #[error("{layer}: the covariance is not positive definite at column {column}, even with {damping:.3e} added to its diagonal")]
    NotPositiveDefinite {
        /// Name of the layer.
        layer: String,
        /// Input column of the failing pivot.
        column: usize,
        /// What was added to the diagonal in the last attempt.
        damping: f64,
    },
    /// A setting has a value that makes no sense.
    #[error("{layer}: {setting} is {value}, expected {expected}")]
    Setting {
        /// Name of the layer.
        layer: String,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What was expected.
        expected: &'static str,
    },
    /// Two inputs exclude each other.
    #[error("{layer}: {what}")]
    Unsupported {
        /// Name of the layer.
        layer: String,
        /// What was asked for.
        what: &'static str,
    },
    /// The caller's function that reads weights failed.
    #[error("{layer}: cannot read the weights")]
    Read {
        /// Name of the layer.
        layer: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller's function that measures stored bits failed.
    #[error("{layer}: cannot measure the stored bits")]
    Measure {
        /// Name of the layer.
        layer: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl QuantizeError {
    /// The same error with an index that counts `before` more values.
    pub(super) fn behind(mut self, before: usize) -> Self {
        if let Self::Value { index, .. } = &mut self {
            *index += before;
        }
        self
    }
}
