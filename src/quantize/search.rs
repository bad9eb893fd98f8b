//! Rate search: the step at which a layer's stored bits meet a target.

use super::factored::{first_guess, solve_step, Factored, Survey};
use super::{Layer, Prepared, QuantizeError, Report, Settings};
use crate::payload::QuantizedMatrix;

/// Measured slopes of the rate over the step are believed within these multiples of the predicted slope.
const SLOPE_RATIOS: std::ops::RangeInclusive<f64> = 0.4..=2.0;
/// Least slope that a prediction may have, in bits per octave.
const LEAST_SLOPE: f64 = 0.02;
/// The covariance is factored again when the step leaves the one it was factored for by more octaves than this.
const FACTOR_RANGE: f64 = 0.12;
/// How much steeper the rate falls when mu follows the step.
const FOLLOWING_MU: f64 = 1.2;
/// Steps this factor apart give the slope of the prediction.
const STENCIL: f64 = 1.1;
/// Factorizations spent on the first step, before anything is quantized.
const FIRST_FACTORS: usize = 3;
/// Longest move of the step between two evaluations, in octaves.
const LONGEST_MOVE: f64 = 4.0;

/// What [`search`] looks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateTarget {
    /// Stored bits per weight.
    pub bits: f64,
    /// Relative deviation that is good enough.
    pub tolerance: f64,
    /// Most evaluations (each quantizes the whole matrix and measures it once).
    pub evaluations: usize,
    /// Bits that the measured rate is expected to lie above [`Prepared::predicted_bits`]: tables, scales, lane states,
    /// and what the prediction misses. [`Searched::overhead`] of a similar layer is a good guess, and good guesses save
    /// evaluations.
    pub overhead: f64,
    /// Step to start from, e.g. that of a similar layer; predicted from the covariance if absent.
    pub first_step: Option<f64>,
}

impl RateTarget {
    /// `bits` per weight within 0.3 %, in at most four evaluations.
    pub const fn new(bits: f64) -> Self {
        Self { bits, tolerance: 0.003, evaluations: 4, overhead: 0.03, first_step: None }
    }
}

/// The best evaluation of a search.
#[derive(Clone, Debug)]
pub struct Searched<T> {
    /// The quantized matrix.
    pub matrix: QuantizedMatrix,
    /// What it loses; `report.c` is the step.
    pub report: Report,
    /// Its stored bits per weight, as measured.
    pub bits: f64,
    /// What the measuring function returned beside the bits (e.g. the encoded bytes).
    pub value: T,
    /// Measured minus predicted bits: see [`RateTarget::overhead`].
    pub overhead: f64,
    /// Evaluations made.
    pub evaluations: usize,
}

/// Why the caller's measuring function failed.
pub type MeasureError = Box<dyn std::error::Error + Send + Sync>;

/// A layer that is ready to be quantized at steps near one.
pub(super) trait AtStep {
    /// The result.
    type Matrix;
    /// Quantizes at step c.
    fn quantize(&self, c: f64) -> Result<Self::Matrix, QuantizeError>;
    /// Class entropy in bits per weight to be expected.
    fn predicted_bits(&self, c: f64) -> f64;
    /// mu of the MMSE target.
    fn mu(&self) -> f64;
}

impl AtStep for Prepared<'_> {
    type Matrix = QuantizedMatrix;

    fn quantize(&self, c: f64) -> Result<QuantizedMatrix, QuantizeError> {
        self.quantize(c)
    }

    fn predicted_bits(&self, c: f64) -> f64 {
        self.predicted_bits(c)
    }

    fn mu(&self) -> f64 {
        self.mu()
    }
}

/// One evaluation.
pub(super) struct Evaluation<M, T> {
    matrix: M,
    pub(super) value: T,
    bits: f64,
    overhead: f64,
    c: f64,
    mu: f64,
    evaluations: usize,
}

/// Finds the step at which `measure`, the stored bits per weight of a quantized matrix, meets the target. Returns the
/// evaluation nearest to the target, whether or not it is within the tolerance.
///
/// # Errors
/// Bad input (see [`Prepared::new`]), a target that is not positive, or a failure of `measure`.
pub fn search<T>(
    layer: &Layer<'_>,
    settings: &Settings,
    target: &RateTarget,
    measure: impl FnMut(&QuantizedMatrix) -> Result<(f64, T), MeasureError>,
) -> Result<Searched<T>, QuantizeError> {
    let survey = Survey::new(layer, settings)?;
    let first = first_step(layer, settings, &survey, target)?;
    let again = |c| Ok(Prepared::from_factored(Factored::surveyed(layer, settings, c, &survey)?));
    let (found, prepared) = find(first, target, Prepared::from_factored, again, measure)?;
    let Evaluation { matrix, value, bits, overhead, c, mu, evaluations } = found;
    let report = Report { mu, ..prepared.report(&matrix, c) };
    Ok(Searched { matrix, report, bits, value, overhead, evaluations })
}

/// A step, the first step to try, which is near it, and the covariance factored for the former.
pub(super) struct FirstStep<'a> {
    factored_for: f64,
    c: f64,
    factored: Factored<'a>,
}

/// The search: from `first`, made ready by `ready`; `again` makes the layer ready for another step. Returns the nearest
/// evaluation, and the layer as it was ready last.
pub(super) fn find<'a, Q: AtStep, T>(
    first: FirstStep<'a>,
    target: &RateTarget,
    ready: impl FnOnce(Factored<'a>) -> Q,
    again: impl Fn(f64) -> Result<Q, QuantizeError>,
    mut measure: impl FnMut(&Q::Matrix) -> Result<(f64, T), MeasureError>,
) -> Result<(Evaluation<Q::Matrix, T>, Q), QuantizeError> {
    let FirstStep { mut factored_for, mut c, factored } = first;
    let (name, zero) = (factored.layer.name, factored.is_zero());
    let mut prepared = ready(factored);
    let mut best: Option<Evaluation<Q::Matrix, T>> = None;
    let mut history: Vec<(f64, f64)> = Vec::new();
    let mut evaluations = 0;
    loop {
        let matrix = prepared.quantize(c)?;
        let (bits, value) =
            measure(&matrix).map_err(|source| QuantizeError::Measure { layer: name.to_owned(), source })?;
        evaluations += 1;
        history.push((c.log2(), bits));
        let overhead = bits - prepared.predicted_bits(c);
        let nearer = best.as_ref().is_none_or(|b| (bits - target.bits).abs() < (b.bits - target.bits).abs());
        if nearer {
            best = Some(Evaluation { matrix, value, bits, overhead, c, mu: prepared.mu(), evaluations });
        }
        let close = (bits / target.bits - 1.0).abs() <= target.tolerance;
        if close || zero || evaluations >= target.evaluations || !bits.is_finite() {
            break;
        }
        let slope = (prepared.predicted_bits(c / STENCIL) - prepared.predicted_bits(c * STENCIL))
            / (2.0 * STENCIL.log2());
        let slope = slope.max(LEAST_SLOPE);
        c = next_step(&history, target.bits, slope).exp2();
        if (c / factored_for).log2().abs() > FACTOR_RANGE {
            // Rates at another mu do not compare: the secant starts again.
            let last = history.split_off(history.len() - 1);
            history.clear();
            c = next_step(&last, target.bits, slope * FOLLOWING_MU).exp2();
            prepared = again(c)?;
            factored_for = c;
        }
    }
    match best {
        Some(found) => Ok((Evaluation { evaluations, ..found }, prepared)),
        None => Err(invalid(name, "measured rate", f64::NAN, "a number")),
    }
}

fn invalid(name: &str, setting: &'static str, value: f64, expected: &'static str) -> QuantizeError {
    QuantizeError::Setting { layer: name.to_owned(), setting, value, expected }
}

/// Where a search starts.
pub(super) fn first_step<'a>(
    layer: &Layer<'a>,
    settings: &Settings,
    survey: &Survey,
    target: &RateTarget,
) -> Result<FirstStep<'a>, QuantizeError> {
    if !(target.bits > 0.0 && target.bits.is_finite()) {
        return Err(invalid(layer.name, "target rate", target.bits, "above 0 bits"));
    }
    if target.evaluations == 0 {
        return Err(invalid(layer.name, "number of evaluations", 0.0, "1 or more"));
    }
    let at = |c| Factored::surveyed(layer, settings, c, survey);
    if let Some(c) = target.first_step {
        return Ok(FirstStep { factored_for: c, c, factored: at(c)? });
    }
    let bits = (target.bits - target.overhead).max(0.5 * target.bits);
    let mut c = first_guess(layer, settings, survey, bits);
    for _ in 0..FIRST_FACTORS {
        let factored = at(c)?;
        let step = solve_step(bits, |c| factored.predicted_bits(c));
        let octaves = (step / c).log2();
        if octaves.abs() <= FACTOR_RANGE {
            return Ok(FirstStep { factored_for: c, c: step, factored });
        }
        c *= octaves.clamp(-LONGEST_MOVE, LONGEST_MOVE).exp2();
    }
    Ok(FirstStep { factored_for: c, c, factored: at(c)? })
}

/// Base-2 logarithm of the next step: the secant through the two evaluations nearest to the target, one on each side
/// of it where there are such.
fn next_step(history: &[(f64, f64)], bits: f64, predicted_slope: f64) -> f64 {
    let mut sorted: Vec<(f64, f64)> = history.to_vec();
    sorted.sort_by(|a, b| (a.1 - bits).abs().total_cmp(&(b.1 - bits).abs()));
    let Some(&(step, found)) = sorted.first() else { return 0.0 };
    let other = sorted.iter().skip(1).find(|o| (o.1 > bits) != (found > bits)).or(sorted.get(1));
    let slope = match other {
        Some(&(other_step, other_found)) => (other_found - found) / (step - other_step),
        None => predicted_slope,
    };
    let slope = if SLOPE_RATIOS.contains(&(slope / predicted_slope)) { slope } else { predicted_slope };
    step + ((found - bits) / slope).clamp(-LONGEST_MOVE, LONGEST_MOVE)
}
