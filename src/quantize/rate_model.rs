//! Predicted rate of a layer, for choosing steps of many layers before any is quantized.

use super::factored::{first_guess, predicted_bits, solve_step, Factored, Survey};
use super::{Layer, QuantizeError, Settings};

/// What the rate of a layer depends on: its variance and the pivots of its covariance's factor.
#[derive(Clone, Debug)]
pub struct RateModel {
    settings: Settings,
    columns: usize,
    variance: f64,
    pivots: Vec<f64>,
    mu: f64,
}

impl RateModel {
    /// Factors the covariance for a step near the one that gives `bits`.
    ///
    /// # Errors
    /// Bad input, as for [`search`](super::search).
    pub fn new(layer: &Layer<'_>, settings: &Settings, bits: f64) -> Result<Self, QuantizeError> {
        Self::surveyed(layer, settings, &Survey::new(layer, settings)?, bits)
    }

    /// The same for a layer that was looked at.
    pub(super) fn surveyed(
        layer: &Layer<'_>,
        settings: &Settings,
        survey: &Survey,
        bits: f64,
    ) -> Result<Self, QuantizeError> {
        let guess = first_guess(layer, settings, survey, bits);
        let factored = Factored::surveyed(layer, settings, guess, survey)?;
        let step = solve_step(bits, |c| factored.predicted_bits(c));
        let (variance, pivots, mu) = Factored::surveyed(layer, settings, step, survey)?.spectrum();
        Ok(Self { settings: *settings, columns: layer.columns, variance, pivots, mu })
    }

    /// Bits per weight predicted at step c, without storage overhead.
    pub fn bits(&self, c: f64) -> f64 {
        predicted_bits(&self.settings, self.columns, self.variance, &self.pivots, self.mu, c)
    }

    /// The step at which `bits` are predicted.
    pub fn step(&self, bits: f64) -> f64 {
        solve_step(bits, |c| self.bits(c))
    }
}
