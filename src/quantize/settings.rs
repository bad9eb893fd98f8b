//! How a layer is to be quantized.

use super::QuantizeError;
use crate::payload::{Geometry, ScaleKind, Trellis};

/// The quantization method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    /// Waterfilling column steps, successive interference cancellation, 64-state trellis of pairs, MMSE target.
    #[default]
    Trellis,
    /// WaterSIC as published (arXiv 2603.04956): scalar rounding, LMMSE shrink of each column, dead columns erased;
    /// `rescale` adds the diagonal rescalers of rows and columns after the loop.
    WaterSic {
        /// Fit row and column rescalers after the loop.
        rescale: bool,
    },
    /// One step for all columns, with feedback; the steps are entropy coded like the others.
    Gptq,
    /// One step for all columns, no feedback.
    RoundToNearest,
}

impl Method {
    /// The method of this name: "trellis", "watersic" (with rescalers), "gptq" or "rtn".
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "trellis" => Some(Method::Trellis),
            "watersic" => Some(Method::WaterSic { rescale: true }),
            "gptq" => Some(Method::Gptq),
            "rtn" => Some(Method::RoundToNearest),
            _ => None,
        }
    }

    /// Its name, as [`from_name`](Self::from_name) knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Trellis => "trellis",
            Method::WaterSic { .. } => "watersic",
            Method::Gptq => "gptq",
            Method::RoundToNearest => "rtn",
        }
    }

    /// The trellis that the method's integers obey.
    pub const fn trellis(self) -> Trellis {
        match self {
            Method::Trellis => Trellis::Pairs,
            _ => Trellis::Scalar,
        }
    }
}

/// What is added to the diagonal of the covariance so that its factor exists.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damping {
    /// A multiple of the median of the diagonal; massive activations do not move it.
    Median(f64),
    /// A multiple of the mean of the diagonal.
    Mean(f64),
}

/// When a column is stored as a coarse and a fine part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outliers {
    /// Integers of larger magnitude do not fit a class well.
    pub limit: f32,
    /// A column whose share of such integers is above this gets a coarse part.
    pub share: f32,
}

/// Settings of the quantizer; [`Settings::new`] gives the defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The method.
    pub method: Method,
    /// How the payload cuts the matrix: fixes where trellis paths start.
    pub geometry: Geometry,
    /// Damping of the covariance.
    pub damping: Damping,
    /// Moments off the diagonal are multiplied by 1 − `shrinkage`, as if every input had that share of noise of its own:
    /// correlations learned from one kind of text hold less on others. Losses are reported for these moments.
    pub shrinkage: f64,
    /// The MMSE target adds mu = `mmse` · c² / mean(W²) to the diagonal ([`Method::Trellis`] only). Real layers are best
    /// at .3 (below 2 bits) to .25 (above 2.5 bits), flat within ±.03; at .2 and .4 they lose .005 bit or more.
    pub mmse: f64,
    /// Storage of the column scales of [`Method::Trellis`]: eighths of an octave, or half floats (closer to the
    /// exact steps; for studies).
    pub column_scales: ScaleKind,
    /// Row scales that come from row weights are powers of 2^(n/8); this is n, 1 to 8.
    pub row_scale_step: u16,
    /// Row weights are raised to at least this share of their mean.
    pub row_weight_floor: f64,
    /// Splitting of wide columns.
    pub outliers: Outliers,
    /// What the encoder will pay for pair tables, as
    /// [`EncodeOptions::worth_of_pairs`](crate::payload::encode::EncodeOptions::worth_of_pairs): where it will take
    /// them, the search avoids most of the pairs that they do not hold, which leaves on average two thirds of the
    /// escapes at about the same rate and error. `None`: it minds the squared error alone.
    pub worth_of_pairs: Option<f64>,
    /// One trellis path per column instead of the geometry's: for studies, such a matrix cannot be encoded.
    pub whole_column_paths: bool,
}

impl Settings {
    /// The defaults for a method and a geometry.
    pub const fn new(method: Method, geometry: Geometry) -> Self {
        Self {
            method,
            geometry,
            damping: Damping::Median(1e-6),
            shrinkage: 0.0,
            mmse: 0.28,
            column_scales: ScaleKind::Log8,
            row_scale_step: 2,
            row_weight_floor: 0.02,
            outliers: Outliers { limit: 100.0, share: 1.0 / 64.0 },
            worth_of_pairs: None,
            whole_column_paths: false,
        }
    }

    pub(super) fn check(&self, layer: &str) -> Result<(), QuantizeError> {
        let (Damping::Median(damping) | Damping::Mean(damping)) = self.damping;
        let checks = [
            ("damping", damping, damping.is_finite() && damping >= 0.0, "zero or more"),
            ("shrinkage", self.shrinkage, (0.0..1.0).contains(&self.shrinkage), "0 to less than 1"),
            ("mmse factor", self.mmse, self.mmse.is_finite() && self.mmse >= 0.0, "zero or more"),
            (
                "row scale step",
                f64::from(self.row_scale_step),
                (1..=8).contains(&self.row_scale_step),
                "1 to 8 eighths of an octave",
            ),
            (
                "floor of the row weights",
                self.row_weight_floor,
                self.row_weight_floor > 0.0 && self.row_weight_floor <= 1.0,
                "above 0, at most 1",
            ),
            (
                "outlier limit",
                f64::from(self.outliers.limit),
                self.outliers.limit.is_finite() && self.outliers.limit >= 64.0,
                "64 or more",
            ),
            (
                "outlier share",
                f64::from(self.outliers.share),
                (0.0..=1.0).contains(&self.outliers.share),
                "0 to 1",
            ),
        ];
        match checks.into_iter().find(|check| !check.2) {
            Some((setting, value, _, expected)) => {
                Err(QuantizeError::Setting { layer: layer.to_owned(), setting, value, expected })
            }
            None => Ok(()),
        }
    }
}
