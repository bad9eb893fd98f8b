//! The damped covariance of the live columns, factored, and the rates it predicts.

use super::scales::RowFactors;
use super::{cholesky, Covariance, Damping, Layer, Method, QuantizeError, Settings};
use faer::Mat;
use std::cmp::Ordering;
use std::sync::Arc;

/// Columns below this share of the median diagonal are erased by [`Method::WaterSic`] (paper section on dead features).
const DEAD_SHARE: f64 = 1e-3;
/// Damping is multiplied by this when the factorization fails, at most to `LARGEST_DAMPING` times the median.
const DAMPING_GROWTH: f64 = 10.0;
const LARGEST_DAMPING: f64 = 0.1;

/// What has to be known of all weights of a layer before its covariance is factored.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// Input column of each live column, ascending.
    pub live: Vec<u32>,
    /// Median of the diagonal over the columns that are not exactly zero.
    median: f64,
    pub row_factors: Option<RowFactors>,
    /// Mean square of the weighted weights of the live columns.
    pub variance: f64,
}

impl Survey {
    /// Checks the layer.
    pub fn new(layer: &Layer<'_>, settings: &Settings) -> Result<Self, QuantizeError> {
        layer.check()?;
        Self::by_parts(layer, settings, |visit| {
            visit(0, layer.weights);
            Ok(())
        })
    }

    /// Of a layer whose weights come in parts: `parts` calls its argument with the first row and the weights of each
    /// part, in order. The layer itself is to be checked before, the parts by the caller.
    pub fn by_parts(
        layer: &Layer<'_>,
        settings: &Settings,
        parts: impl FnOnce(&mut dyn FnMut(usize, &[f32])) -> Result<(), QuantizeError>,
    ) -> Result<Self, QuantizeError> {
        settings.check(layer.name)?;
        let (live, median) = live_columns(layer, settings, &layer.diagonal())?;
        let row_factors = layer
            .row_weights
            .and_then(|g| RowFactors::new(g, settings.row_weight_floor, settings.row_scale_step));
        let mut sum = 0.0;
        parts(&mut |first, weights| {
            for (row, weights) in (first..).zip(weights.chunks_exact(layer.columns)) {
                let squares: f64 = live.iter().map(|&j| f64::from(weights[j as usize]).powi(2)).sum();
                sum += squares * row_factors.as_ref().map_or(1.0, |f| f.factors[row].powi(2));
            }
        })?;
        let variance = sum / (layer.rows as f64 * live.len() as f64);
        Ok(Self { live, median, row_factors, variance })
    }
}

/// A layer whose covariance is factored for the MMSE target of one step: what rates can be predicted from.
pub(super) struct Factored<'a> {
    pub layer: Layer<'a>,
    pub settings: Settings,
    pub live: Vec<u32>,
    /// L; `None` if the covariance is diagonal.
    pub factor: Option<Arc<Mat<f64>>>,
    pub pivots: Vec<f64>,
    pub row_factors: Option<RowFactors>,
    pub variance: f64,
    pub mu: f64,
    pub damping: f64,
}

impl<'a> Factored<'a> {
    /// Checks the layer and factors its covariance.
    pub fn new(layer: &Layer<'a>, settings: &Settings, c: f64) -> Result<Self, QuantizeError> {
        Self::surveyed(layer, settings, c, &Survey::new(layer, settings)?)
    }

    /// Factors the covariance of a layer that was looked at. Reads no weights.
    pub fn surveyed(
        layer: &Layer<'a>,
        settings: &Settings,
        c: f64,
        survey: &Survey,
    ) -> Result<Self, QuantizeError> {
        if !(c > 0.0 && c.is_finite()) {
            let layer = layer.name.to_owned();
            return Err(QuantizeError::Setting { layer, setting: "step c", value: c, expected: "above 0" });
        }
        let Survey { live, median, row_factors, variance } = survey.clone();
        let diagonal = layer.diagonal();
        let base = match settings.damping {
            Damping::Median(share) => share * median,
            Damping::Mean(share) => {
                share * live.iter().map(|&j| diagonal[j as usize]).sum::<f64>() / live.len() as f64
            }
        };
        let mut factored = Self {
            layer: *layer,
            settings: *settings,
            live,
            factor: None,
            pivots: Vec::new(),
            row_factors,
            variance,
            mu: 0.0,
            damping: base,
        };
        factored.mu = factored.mmse_mu(c);
        let factor;
        (factor, factored.damping) =
            factor_with_damping(layer, settings, &factored.live, factored.mu, base, median)?;
        factored.factor = factor.map(Arc::new);
        let extra = factored.mu + factored.damping;
        factored.pivots = match &factored.factor {
            Some(l) => (0..factored.live.len()).map(|i| l[(i, i)]).collect(),
            None => factored.live.iter().map(|&j| (diagonal[j as usize] + extra).sqrt()).collect(),
        };
        Ok(factored)
    }

    /// The same factor for some rows of the layer, of which `weights` are the weights.
    pub fn part<'p>(&self, rows: &[usize], weights: &'p [f32]) -> Factored<'p>
    where
        'a: 'p,
    {
        Factored {
            layer: Layer { rows: rows.len(), weights, row_weights: None, ..self.layer },
            settings: self.settings,
            live: self.live.clone(),
            factor: self.factor.clone(),
            pivots: self.pivots.clone(),
            row_factors: self.row_factors.as_ref().map(|factors| factors.of(rows)),
            variance: self.variance,
            mu: self.mu,
            damping: self.damping,
        }
    }

    /// mu of the MMSE target at step c.
    fn mmse_mu(&self, c: f64) -> f64 {
        if self.settings.method == Method::Trellis && self.variance > 0.0 {
            self.settings.mmse * c * c / self.variance
        } else {
            0.0
        }
    }

    /// Class entropy in bits per weight to be expected at step c with this factor.
    pub fn predicted_bits(&self, c: f64) -> f64 {
        predicted_bits(&self.settings, self.layer.columns, self.variance, &self.pivots, self.mu, c)
    }

    /// Variance of the (weighted) weights, the pivots, and mu.
    pub fn spectrum(&self) -> (f64, Vec<f64>, f64) {
        (self.variance, self.pivots.clone(), self.mu)
    }

    /// True if every live weight is zero.
    pub fn is_zero(&self) -> bool {
        self.variance == 0.0
    }
}

/// Mean over all `columns` of the class entropy of columns of variance `variance · (pivot² - mu)`: mu is that of
/// the factored matrix and carries no signal.
pub(super) fn predicted_bits(
    settings: &Settings,
    columns: usize,
    variance: f64,
    pivots: &[f64],
    mu: f64,
    c: f64,
) -> f64 {
    // Square of the ratio between the step and the error of its quantizer.
    let scale = match settings.method {
        Method::Trellis => 4.0,
        _ => 12.0,
    };
    let uniform = matches!(settings.method, Method::Gptq | Method::RoundToNearest);
    let bits = |&pivot: &f64| {
        let signal = if uniform { 1.0 } else { (pivot * pivot - mu).max(0.0) };
        0.5 * (1.0 + scale * variance * signal / (c * c)).log2()
    };
    let ideal = pivots.iter().map(bits).sum::<f64>() / columns as f64;
    match settings.method {
        // What the trellis loses to the ideal quantizer, and what real weights cost less than Gaussian ones of the same
        // variance: fitted to real layers at 0.7 to 3.6 bits, within .07 bit.
        Method::Trellis => (ideal + 0.06 - 0.47 * (-ideal).exp2()).max(0.1 * ideal),
        _ => ideal,
    }
}

/// A step at which the diagonal alone, without correlations, predicts `bits`: where a search starts. Any step will do
/// for weights that are all zero.
pub(super) fn first_guess(layer: &Layer<'_>, settings: &Settings, survey: &Survey, bits: f64) -> f64 {
    if survey.variance == 0.0 {
        return 1.0;
    }
    let diagonal = layer.diagonal();
    let pivots: Vec<f64> = survey.live.iter().map(|&j| diagonal[j as usize].sqrt()).collect();
    solve_step(bits, |c| predicted_bits(settings, layer.columns, survey.variance, &pivots, 0.0, c))
}

/// The step at which a falling prediction equals `bits`.
pub(super) fn solve_step(bits: f64, predicted: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-140.0f64, 140.0f64);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if predicted(middle.exp2()) > bits {
            low = middle;
        } else {
            high = middle;
        }
    }
    (0.5 * (low + high)).exp2()
}

/// Live columns and the median of the diagonal over the columns that are not exactly zero.
fn live_columns(
    layer: &Layer<'_>,
    settings: &Settings,
    diagonal: &[f64],
) -> Result<(Vec<u32>, f64), QuantizeError> {
    let mut active: Vec<f64> = diagonal.iter().copied().filter(|&d| d > 0.0).collect();
    active.sort_by(f64::total_cmp);
    let Some(&median) = active.get(active.len() / 2) else {
        return Err(QuantizeError::NoLiveColumns { layer: layer.name.to_owned() });
    };
    let least = if matches!(settings.method, Method::WaterSic { .. }) { DEAD_SHARE * median } else { 0.0 };
    let live = diagonal.iter().zip(0u32..).filter(|(&d, _)| d > 0.0 && d >= least).map(|(_, j)| j).collect();
    Ok((live, median))
}

/// L of the live columns (`None` for a diagonal covariance or a method without feedback), and the damping it took.
fn factor_with_damping(
    layer: &Layer<'_>,
    settings: &Settings,
    live: &[u32],
    mu: f64,
    base: f64,
    median: f64,
) -> Result<(Option<Mat<f64>>, f64), QuantizeError> {
    if matches!(layer.covariance, Covariance::Diagonal(_)) {
        return Ok((None, base));
    }
    let mut damping = base;
    loop {
        let mut l = Mat::from_fn(live.len(), live.len(), |i, j| {
            let moment = |j: usize| layer.moment(live[i] as usize, live[j] as usize);
            match j.cmp(&i) {
                Ordering::Less => moment(j) * (1.0 - settings.shrinkage),
                Ordering::Equal => moment(j) + mu + damping,
                Ordering::Greater => 0.0,
            }
        });
        let pivot = match cholesky::factor(&mut l) {
            Ok(()) => return Ok((Some(l), damping)),
            Err(pivot) => pivot,
        };
        if damping >= LARGEST_DAMPING * median {
            let (layer, column) = (layer.name.to_owned(), live[pivot] as usize);
            return Err(QuantizeError::NotPositiveDefinite { layer, column, damping });
        }
        damping = (damping * DAMPING_GROWTH).max(1e-7 * median).min(LARGEST_DAMPING * median);
    }
}
