//! The rate-distortion limit of a Gaussian matrix: the yardstick of every method.

use faer::{Mat, Side};

/// Reverse waterfilling over the eigenvalues of a covariance: the least rate at which a matrix of independent Gaussian
/// weights of a given variance can be described with a given distortion.
#[derive(Clone, Debug)]
pub struct GaussianLimit {
    /// Variances of the components of `w Sigma^(1/2)`.
    components: Vec<f64>,
}

impl GaussianLimit {
    /// `covariance` is row-major, `columns` x `columns`, symmetric; `variance` the mean square of the weights. `None`
    /// if the lengths disagree or the eigenvalues cannot be found.
    pub fn new(covariance: &[f32], columns: usize, variance: f64) -> Option<Self> {
        if columns == 0 || covariance.len() != columns.checked_mul(columns)? {
            return None;
        }
        let sigma =
            Mat::from_fn(columns, columns, |i, j| f64::from(covariance[i.max(j) * columns + i.min(j)]));
        let values = sigma.self_adjoint_eigenvalues(Side::Lower).ok()?;
        Some(Self { components: values.iter().map(|v| v.max(0.0) * variance).collect() })
    }

    /// Bits per weight at the distortion `per_row` = D / rows.
    pub fn rate(&self, per_row: f64) -> f64 {
        let total: f64 = self.components.iter().sum();
        if per_row >= total {
            return 0.0;
        }
        if per_row <= 0.0 {
            return f64::INFINITY;
        }
        let (mut low, mut high) = (0.0, self.components.iter().copied().fold(0.0, f64::max));
        for _ in 0..200 {
            let level = 0.5 * (low + high);
            if self.components.iter().map(|&v| v.min(level)).sum::<f64>() < per_row {
                low = level;
            } else {
                high = level;
            }
        }
        let level = 0.5 * (low + high);
        let bits: f64 =
            self.components.iter().filter(|&&v| v > level).map(|v| 0.5 * (v / level).log2()).sum();
        bits / self.components.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_covariance_gives_half_log_of_the_ratio() {
        let limit = GaussianLimit::new(&[2.0, 0.0, 0.0, 2.0], 2, 3.0).unwrap();
        assert!((limit.rate(12.0 / 16.0) - 2.0).abs() < 1e-9);
        assert_eq!(limit.rate(12.0), 0.0);
        assert_eq!(limit.rate(0.0), f64::INFINITY);
    }

    #[test]
    fn weak_components_are_left_out() {
        let limit = GaussianLimit::new(&[16.0, 0.0, 0.0, 1.0], 2, 1.0).unwrap();
        // Water level 2: the weak component is dropped (distortion 1), the strong one gets log2(16/2)/2 bits.
        assert!((limit.rate(3.0) - 0.75).abs() < 1e-9);
    }

    #[test]
    fn refuses_wrong_lengths() {
        assert!(GaussianLimit::new(&[1.0; 3], 2, 1.0).is_none());
        assert!(GaussianLimit::new(&[], 0, 1.0).is_none());
    }
}
