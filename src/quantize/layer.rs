//! The quantizer's input: weights and second moments of one linear layer, checked before use.

use super::QuantizeError;

/// Second moment `E[x xᵀ]` of a layer's input, `columns` x `columns` (or its diagonal), in any common unit.
#[derive(Clone, Copy, Debug)]
pub enum Covariance<'a> {
    /// Row-major and symmetric; only the upper triangle is read.
    Full(&'a [f32]),
    /// As `Full`, in double precision.
    Full64(&'a [f64]),
    /// The diagonal only: columns get the right steps, but there is no feedback between them.
    Diagonal(&'a [f32]),
}

/// Statistics that move the target when the layer will run behind already quantized layers
/// (paper section "drift correction"). With them [`Layer::covariance`] is that of the drifted input x'.
#[derive(Clone, Copy, Debug)]
pub enum Drift<'a> {
    /// The outputs are to be those for the original input x.
    Inputs {
        /// `E[x x'ᵀ]`, row-major, `columns` x `columns`; rows belong to x.
        cross: &'a [f32],
    },
    /// The outputs are to be y, e.g. `W x + r - r'`, which makes up for what the residual stream r lost.
    Outputs {
        /// `E[y x'ᵀ]`, row-major, `rows` x `columns`.
        target: &'a [f32],
        /// `E[x_j x'_j]`, `columns` values: what shrinkage leaves alone.
        diagonal: &'a [f32],
    },
}

/// One linear layer `y = W x`.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Name for error messages.
    pub name: &'a str,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// W, row-major, `rows` x `columns`.
    pub weights: &'a [f32],
    /// Second moment of x.
    pub covariance: Covariance<'a>,
    /// Statistics of the input behind quantized layers, if they are to be corrected for.
    pub drift: Option<Drift<'a>>,
    /// Importance of each row's squared output error, e.g. `E[(dLoss/dy_r)^2]`; any common unit.
    pub row_weights: Option<&'a [f32]>,
}

impl<'a> Layer<'a> {
    /// A layer without drift and row weights.
    pub fn new(
        name: &'a str,
        rows: usize,
        columns: usize,
        weights: &'a [f32],
        covariance: Covariance<'a>,
    ) -> Self {
        Self { name, rows, columns, weights, covariance, drift: None, row_weights: None }
    }

    /// Checks lengths, signs, and that every number is finite.
    ///
    /// # Errors
    /// Names the first offending slice and index.
    pub fn check(&self) -> Result<(), QuantizeError> {
        self.check_statistics()?;
        self.check_weights()
    }

    /// Checks the weights, after everything else was checked.
    pub(super) fn check_weights(&self) -> Result<(), QuantizeError> {
        self.check_slice("weights", self.weights, self.rows * self.columns)
    }

    /// Checks all but the weights, whose number fits the machine if this succeeds.
    pub(super) fn check_statistics(&self) -> Result<(), QuantizeError> {
        let (rows, columns) = (self.rows, self.columns);
        let shape = || QuantizeError::Shape { layer: self.name.to_owned(), rows, columns };
        let weights = rows.checked_mul(columns).filter(|&n| n > 0).ok_or_else(shape)?;
        let square = columns.checked_mul(columns).ok_or_else(shape)?;
        if u32::try_from(columns).is_err() || u32::try_from(rows).is_err() {
            return Err(shape());
        }
        match self.covariance {
            Covariance::Full(c) => {
                self.check_slice("covariance", c, square)?;
                self.check_diagonal(c.iter().step_by(columns + 1).map(|&v| f64::from(v)))?;
            }
            Covariance::Full64(c) => {
                self.check_slice("covariance", c, square)?;
                self.check_diagonal(c.iter().step_by(columns + 1).copied())?;
            }
            Covariance::Diagonal(c) => {
                self.check_slice("covariance", c, columns)?;
                self.check_diagonal(c.iter().map(|&v| f64::from(v)))?;
            }
        }
        if let Some(drift) = self.drift {
            match drift {
                Drift::Inputs { cross } => self.check_slice("cross covariance", cross, square)?,
                Drift::Outputs { target, diagonal } => {
                    self.check_slice("covariance with the outputs", target, weights)?;
                    self.check_slice("diagonal of the cross covariance", diagonal, columns)?;
                }
            }
            if matches!(self.covariance, Covariance::Diagonal(_)) {
                let what = "drift correction needs a full covariance";
                return Err(QuantizeError::Unsupported { layer: self.name.to_owned(), what });
            }
        }
        if let Some(g) = self.row_weights {
            self.check_slice("row weights", g, rows)?;
            if let Some(index) = g.iter().position(|&v| v < 0.0) {
                return Err(self.value("row weights", index, f64::from(g[index]), "zero or more"));
            }
        }
        Ok(())
    }

    fn check_slice<T: Copy + Into<f64>>(
        &self,
        what: &'static str,
        slice: &[T],
        expected: usize,
    ) -> Result<(), QuantizeError> {
        if slice.len() != expected {
            let layer = self.name.to_owned();
            return Err(QuantizeError::Length { layer, what, found: slice.len(), expected });
        }
        match slice.iter().position(|&v| !v.into().is_finite()) {
            Some(index) => Err(self.value(what, index, slice[index].into(), "a finite number")),
            None => Ok(()),
        }
    }

    fn check_diagonal(&self, diagonal: impl Iterator<Item = f64>) -> Result<(), QuantizeError> {
        match diagonal.enumerate().find(|&(_, v)| v < 0.0) {
            Some((index, value)) => {
                Err(self.value("diagonal of the covariance", index, value, "zero or more"))
            }
            None => Ok(()),
        }
    }

    fn value(&self, what: &'static str, index: usize, value: f64, expected: &'static str) -> QuantizeError {
        QuantizeError::Value { layer: self.name.to_owned(), what, index, value, expected }
    }

    /// The diagonal of the covariance.
    pub(super) fn diagonal(&self) -> Vec<f64> {
        let step = self.columns + 1;
        match self.covariance {
            Covariance::Full(c) => c.iter().step_by(step).map(|&v| f64::from(v)).collect(),
            Covariance::Full64(c) => c.iter().step_by(step).copied().collect(),
            Covariance::Diagonal(c) => c.iter().map(|&v| f64::from(v)).collect(),
        }
    }

    /// Element (i, j) of the covariance; symmetric by construction.
    pub(super) fn moment(&self, i: usize, j: usize) -> f64 {
        let (low, high) = (i.min(j), i.max(j));
        match self.covariance {
            Covariance::Full(c) => f64::from(c[low * self.columns + high]),
            Covariance::Full64(c) => c[low * self.columns + high],
            Covariance::Diagonal(c) => f64::from(if i == j { c[i] } else { 0.0 }),
        }
    }
}
