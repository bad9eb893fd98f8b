//! Column steps and row scales in the form in which they are stored.

use crate::payload::ScaleKind;
use half::f16;

/// Base-2 logarithm of the ratio of a coarse part's scale to that of the part below it.
pub(super) const COARSE_LOG2: i32 = 6;
/// Coarse parts that a column may have on top of its fine part: as many as the format has room for (spec section
/// "Columns"). What they leave out of reach becomes escapes.
pub(super) const COARSE_PARTS: usize = 2;

/// Smallest exponent of a normal half float.
const HALF_LOWEST: i32 = -14;
/// Largest finite half float.
const HALF_LARGEST: f64 = 65504.0;
/// Smallest normal half float.
const HALF_SMALLEST: f64 = 1.0 / 16384.0;

/// Value of a stored column scale, without the tensor scale.
pub(super) fn scale_value(kind: ScaleKind, code: u16) -> f64 {
    match kind {
        ScaleKind::Log8 => (f64::from(code) / 8.0).exp2(),
        ScaleKind::Half => f16::from_bits(code).to_f64(),
    }
}

/// Value of a stored row scale.
pub(super) fn row_scale_value(kind: ScaleKind, code: u16) -> f64 {
    match kind {
        ScaleKind::Log8 => ((f64::from(code) - 128.0) / 8.0).exp2(),
        ScaleKind::Half => f16::from_bits(code).to_f64(),
    }
}

/// The nearest half float that is positive, normal and finite.
pub(super) fn to_half(value: f64) -> u16 {
    f16::from_f64(value.clamp(HALF_SMALLEST, HALF_LARGEST)).to_bits()
}

/// Stored scales of all columns.
#[derive(Clone, Debug)]
pub(super) struct ColumnScales {
    pub kind: ScaleKind,
    pub tensor_scale: f32,
    pub codes: Vec<u16>,
}

impl ColumnScales {
    /// Stores `steps` (positive). Steps too far above the smallest for the range of the codes (32 octaves for
    /// [`ScaleKind::Log8`], 30 for [`ScaleKind::Half`]) become as large as the range allows: such columns get finer
    /// steps than asked for, which costs bits but never accuracy. `None` if the tensor scale is not a normal f32.
    pub fn new(kind: ScaleKind, steps: &[f64]) -> Option<Self> {
        let smallest = steps.iter().copied().fold(f64::INFINITY, f64::min);
        let tensor_scale = match kind {
            ScaleKind::Log8 => smallest,
            ScaleKind::Half => smallest * f64::from(-HALF_LOWEST).exp2(),
        } as f32;
        if !tensor_scale.is_normal() || tensor_scale < 0.0 {
            return None;
        }
        let code = |&step: &f64| match kind {
            ScaleKind::Log8 => (8.0 * (step / smallest).log2()).round().clamp(0.0, 255.0) as u16,
            ScaleKind::Half => to_half(step / f64::from(tensor_scale)),
        };
        Some(Self { kind, tensor_scale, codes: steps.iter().map(code).collect() })
    }

    /// The step that is stored for a column.
    pub fn step(&self, column: usize) -> f64 {
        f64::from(self.tensor_scale) * scale_value(self.kind, self.codes[column])
    }

    /// Code of the coarse part `part` (1..) of a column: its step is `2^(COARSE_LOG2 * part)` times the column's.
    /// `None` if the range of the codes ends before it.
    pub fn coarse_code(&self, column: usize, part: usize) -> Option<u16> {
        let octaves = u16::try_from(COARSE_LOG2).ok()? * u16::try_from(part).ok()?;
        let code = self.codes[column];
        match self.kind {
            ScaleKind::Log8 => code.checked_add(8 * octaves).filter(|&code| code <= 255),
            ScaleKind::Half => {
                let value = f16::from_bits(code).to_f64() * f64::from(octaves).exp2();
                (value <= HALF_LARGEST).then(|| f16::from_f64(value).to_bits())
            }
        }
    }
}

/// Row factors of a weighting, as they are stored: row r is multiplied by `factors[r]` before it is quantized, and the
/// stored row scale undoes that exactly.
#[derive(Clone, Debug)]
pub(super) struct RowFactors {
    pub codes: Vec<u16>,
    pub factors: Vec<f64>,
}

impl RowFactors {
    /// Those of some rows.
    pub fn of(&self, rows: &[usize]) -> Self {
        Self {
            codes: rows.iter().map(|&row| self.codes[row]).collect(),
            factors: rows.iter().map(|&row| self.factors[row]).collect(),
        }
    }

    /// Factors `sqrt(max(weight, floor · mean) / mean)`, rounded to powers of `2^(grid/8)`. `None` if all weights
    /// are zero or there are none.
    pub fn new(weights: &[f32], floor: f64, grid: u16) -> Option<Self> {
        let mean = weights.iter().map(|&g| f64::from(g)).sum::<f64>() / weights.len().max(1) as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let grid = f64::from(grid.clamp(1, 8));
        let limit = (127.0 / grid).floor();
        let eighths = |&g: &f32| {
            let octaves = 0.5 * (f64::from(g) / mean).max(floor).log2();
            (octaves * 8.0 / grid).round().clamp(-limit, limit) * grid
        };
        let eighths: Vec<f64> = weights.iter().map(eighths).collect();
        Some(Self {
            codes: eighths.iter().map(|e| (128.0 - e) as u16).collect(),
            factors: eighths.iter().map(|e| (e / 8.0).exp2()).collect(),
        })
    }
}
