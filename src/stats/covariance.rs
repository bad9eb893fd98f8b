//! Second moments: means of x xᵀ over tokens.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::error::StatsError;

/// Rows and columns of a tile.
const TILE: usize = 192;
/// Tokens whose products are summed as f32 before they enter the f64 sums.
const TOKENS_PER_BLOCK: usize = 1024;

/// The symmetric second moment E[x xᵀ] of vectors x of fixed width.
///
/// Products are f32 matrix products of up to 1024 tokens, their sums f64, in an order that depends on the data
/// alone. Only tiles on and below the diagonal are stored: about 4·width² bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Covariance {
    width: usize,
    tokens: u64,
    /// Tile (i, j), j <= i, at index i·(i+1)/2 + j: sums, row-major, row of i and column of j. Tiles on the diagonal
    /// are valid on and below their own diagonal.
    tiles: Vec<Vec<f64>>,
}

/// Tile row and column of a tile index.
fn tile_position(index: usize) -> (usize, usize) {
    // The root is exact enough for any width that fits in memory; the loops make it certain.
    let mut i = ((2.0 * index as f64 + 0.25).sqrt() - 0.5) as usize;
    while i * (i + 1) / 2 > index {
        i -= 1;
    }
    while (i + 1) * (i + 2) / 2 <= index {
        i += 1;
    }
    (i, index - i * (i + 1) / 2)
}

impl Covariance {
    /// Nothing seen yet. An error for width 0 or one whose square overflows.
    pub fn new(width: usize) -> Result<Self, StatsError> {
        if width == 0 || width.checked_mul(width).is_none_or(|square| square > isize::MAX as usize / 8) {
            return Err(StatsError::shape("a positive width that fits memory", width));
        }
        let count = width.div_ceil(TILE);
        let side = |tile: usize| TILE.min(width - tile * TILE);
        let tiles = (0..count)
            .flat_map(|i| (0..=i).map(move |j| (i, j)))
            .map(|(i, j)| vec![0.0; side(i) * side(j)])
            .collect();
        Ok(Self { width, tokens: 0, tiles })
    }

    /// A moment known only on its diagonal (mean squares), of which everything else is taken as 0.
    pub fn from_diagonal(mean_squares: &[f64], tokens: u64) -> Result<Self, StatsError> {
        let mut covariance = Self::new(mean_squares.len())?;
        covariance.tokens = tokens.max(1);
        for (i, &mean) in mean_squares.iter().enumerate() {
            if let Some(sum) = covariance.slot(i, i) {
                *sum = mean * tokens.max(1) as f64;
            }
        }
        Ok(covariance)
    }

    /// A moment given as a row-major width × width matrix of means, of which the lower half is read.
    pub fn from_dense(width: usize, means: &[f64], tokens: u64) -> Result<Self, StatsError> {
        let mut covariance = Self::new(width)?;
        if means.len() != width * width {
            return Err(StatsError::shape(format!("{width} x {width} values"), means.len()));
        }
        covariance.tokens = tokens.max(1);
        let tokens = covariance.tokens as f64;
        for (i, row) in means.chunks_exact(width).enumerate() {
            for (j, &mean) in row.iter().enumerate().take(i + 1) {
                if let Some(sum) = covariance.slot(i, j) {
                    *sum = mean * tokens;
                }
            }
        }
        Ok(covariance)
    }

    /// Width of the vectors.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Vectors seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds vectors: one row of `width` values for each token.
    pub fn add(&mut self, x: &[f32]) -> Result<(), StatsError> {
        if !x.len().is_multiple_of(self.width) {
            return Err(StatsError::shape(format!("rows of {}", self.width), format!("{} values", x.len())));
        }
        let width = self.width;
        self.tiles.par_iter_mut().enumerate().for_each(|(index, sums)| {
            let (i, j) = tile_position(index);
            add_tile(x, width, i * TILE, x, width, j * TILE, i == j, sums);
        });
        self.tokens += (x.len() / width) as u64;
        Ok(())
    }

    /// Adds what another moment of the same width has seen.
    pub fn merge(&mut self, other: &Self) -> Result<(), StatsError> {
        if self.width != other.width {
            return Err(StatsError::shape(format!("width {}", self.width), other.width));
        }
        for (sums, more) in self.tiles.iter_mut().zip(&other.tiles) {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.tokens += other.tokens;
        Ok(())
    }

    fn place(&self, i: usize, j: usize) -> (usize, usize) {
        let (i, j) = if i < j { (j, i) } else { (i, j) };
        let (tile_i, tile_j) = (i / TILE, j / TILE);
        let columns = TILE.min(self.width - tile_j * TILE);
        (tile_i * (tile_i + 1) / 2 + tile_j, i % TILE * columns + j % TILE)
    }

    fn slot(&mut self, i: usize, j: usize) -> Option<&mut f64> {
        let (tile, at) = self.place(i, j);
        self.tiles.get_mut(tile)?.get_mut(at)
    }

    /// E[x_i x_j]; 0 before anything was added or beyond the width.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        if i >= self.width || j >= self.width {
            return 0.0;
        }
        let (tile, at) = self.place(i, j);
        let sum = self.tiles.get(tile).and_then(|tile| tile.get(at)).copied().unwrap_or(0.0);
        sum / self.tokens.max(1) as f64
    }

    /// Mean squares.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.width).map(|i| self.get(i, i)).collect()
    }

    /// The whole matrix of means, width × width (symmetric, so row-major and column-major alike).
    pub fn to_dense(&self) -> Vec<f64> {
        let mut dense = vec![0.0; self.width * self.width];
        dense.par_chunks_mut(self.width).enumerate().for_each(|(i, row)| {
            row.iter_mut().enumerate().for_each(|(j, value)| *value = self.get(i, j));
        });
        dense
    }

    /// Whether every entry is a finite number.
    pub fn is_finite(&self) -> bool {
        // Cauchy-Schwarz bounds every entry by the diagonal, but a sum of NaN and infinity must be found anywhere.
        self.tiles.par_iter().all(|tile| tile.iter().all(|sum| sum.is_finite()))
    }
}

/// The moment E[x yᵀ] of pairs of vectors of fixed widths: of a layer's input before and after quantization of what
/// comes before it, or of a change of the hidden state and an input.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossMoment {
    rows: usize,
    columns: usize,
    tokens: u64,
    /// Strips of up to a tile's rows, row-major over all columns: sums.
    strips: Vec<Vec<f64>>,
}

impl CrossMoment {
    /// Nothing seen yet: x of `rows` values, y of `columns`.
    pub fn new(rows: usize, columns: usize) -> Result<Self, StatsError> {
        let len = rows.checked_mul(columns).filter(|&len| len > 0 && len <= isize::MAX as usize / 8);
        if len.is_none() {
            return Err(StatsError::shape(
                "positive widths that fit memory",
                format!("{rows} and {columns}"),
            ));
        }
        let strips = (0..rows).step_by(TILE).map(|first| vec![0.0; TILE.min(rows - first) * columns]);
        Ok(Self { rows, columns, tokens: 0, strips: strips.collect() })
    }

    /// Width of x.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of y.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Pairs seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds pairs: for each token one row of x and one of y.
    pub fn add(&mut self, x: &[f32], y: &[f32]) -> Result<(), StatsError> {
        let tokens = x.len() / self.rows;
        if x.len() != tokens * self.rows || y.len() != tokens * self.columns {
            return Err(StatsError::shape(
                format!("as many rows of {} as of {}", self.rows, self.columns),
                format!("{} and {} values", x.len(), y.len()),
            ));
        }
        let (rows, columns) = (self.rows, self.columns);
        self.strips.par_iter_mut().enumerate().for_each(|(strip, sums)| {
            add_tile(x, rows, strip * TILE, y, columns, 0, false, sums);
        });
        self.tokens += tokens as u64;
        Ok(())
    }

    /// The matrix of means, rows × columns, row-major.
    pub fn to_dense(&self) -> Vec<f64> {
        let tokens = self.tokens.max(1) as f64;
        self.strips.iter().flatten().map(|sum| sum / tokens).collect()
    }
}

/// Adds to `sums` the products of a range of columns of x, from `x_first` on, with one of y. The tile has as many
/// rows as x has columns left, up to a tile; its columns follow from its size. With `lower` only the entries on and
/// below the diagonal are valid.
#[allow(clippy::too_many_arguments)]
fn add_tile(
    x: &[f32],
    x_width: usize,
    x_first: usize,
    y: &[f32],
    y_width: usize,
    y_first: usize,
    lower: bool,
    sums: &mut [f64],
) {
    let rows = TILE.min(x_width - x_first);
    let columns = sums.len() / rows;
    let mut products = vec![0.0f32; sums.len()];
    for (x, y) in x.chunks(TOKENS_PER_BLOCK * x_width).zip(y.chunks(TOKENS_PER_BLOCK * y_width)) {
        let tokens = x.len() / x_width;
        let x = MatRef::from_row_major_slice(x, tokens, x_width).subcols(x_first, rows).transpose();
        let y = MatRef::from_row_major_slice(y, tokens, y_width).subcols(y_first, columns);
        let out = MatMut::from_row_major_slice_mut(&mut products, rows, columns);
        if lower {
            use BlockStructure::{Rectangular, TriangularLower};
            triangular::matmul(
                out,
                TriangularLower,
                Accum::Replace,
                x,
                Rectangular,
                y,
                Rectangular,
                1.0,
                Par::Seq,
            );
        } else {
            matmul(out, Accum::Replace, x, y, 1.0, Par::Seq);
        }
        for (sum, &product) in sums.iter_mut().zip(&products) {
            *sum += f64::from(product);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(tokens: usize, width: usize) -> Vec<f32> {
        (0..tokens * width).map(|i| ((i * 7919 + i / 13) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn tile_indices_run_through_the_triangle() {
        let mut index = 0;
        for i in 0..40 {
            for j in 0..=i {
                assert_eq!(tile_position(index), (i, j));
                index += 1;
            }
        }
    }

    #[test]
    fn moments_are_means_of_products() {
        for (tokens, width) in [(3, 1), (40, 7), (70, 193), (2100, 30), (50, 400)] {
            let x = samples(tokens, width);
            let mut covariance = Covariance::new(width).unwrap();
            let half = tokens / 2 * width;
            covariance.add(&x[..half]).unwrap();
            covariance.add(&x[half..]).unwrap();
            assert_eq!(covariance.tokens(), tokens as u64);
            let dense = covariance.to_dense();
            for i in (0..width).step_by(1 + width / 17) {
                for j in (0..width).step_by(1 + width / 13) {
                    let exact = x.chunks(width).map(|row| f64::from(row[i]) * f64::from(row[j])).sum::<f64>()
                        / tokens as f64;
                    assert!((covariance.get(i, j) - exact).abs() < 1e-5, "{tokens} {width} {i} {j}");
                    assert_eq!(covariance.get(i, j), covariance.get(j, i));
                    assert_eq!(dense[i * width + j], covariance.get(i, j));
                }
            }
            assert!(covariance.is_finite());
            let again = Covariance::from_dense(width, &dense, 1).unwrap();
            assert_eq!(again.to_dense(), dense);
        }
    }

    #[test]
    fn cross_moments_are_means_of_products() {
        let (tokens, rows, columns) = (1500, 200, 33);
        let (x, y) = (samples(tokens, rows), samples(tokens, columns));
        let mut moment = CrossMoment::new(rows, columns).unwrap();
        moment.add(&x, &y).unwrap();
        let dense = moment.to_dense();
        assert_eq!((moment.tokens(), dense.len()), (1500, rows * columns));
        for (i, j) in [(0, 0), (199, 32), (193, 5), (7, 30)] {
            let exact: f64 =
                (0..tokens).map(|t| f64::from(x[t * rows + i]) * f64::from(y[t * columns + j])).sum();
            assert!((dense[i * columns + j] - exact / tokens as f64).abs() < 1e-5);
        }
        assert!(moment.add(&x, &y[1..]).is_err());
    }

    #[test]
    fn merging_adds_what_both_saw() {
        let x = samples(64, 20);
        let mut whole = Covariance::new(20).unwrap();
        let (mut first, mut second) = (whole.clone(), whole.clone());
        whole.add(&x).unwrap();
        first.add(&x[..400]).unwrap();
        second.add(&x[400..]).unwrap();
        first.merge(&second).unwrap();
        assert_eq!(first.tokens(), 64);
        for (a, b) in first.to_dense().iter().zip(whole.to_dense()) {
            assert!((a - b).abs() < 1e-6);
        }
        assert!(first.merge(&Covariance::new(21).unwrap()).is_err());
    }

    #[test]
    fn bad_shapes_are_errors() {
        assert!(Covariance::new(0).is_err());
        assert!(Covariance::new(usize::MAX).is_err());
        assert!(CrossMoment::new(0, 3).is_err());
        let mut covariance = Covariance::new(3).unwrap();
        assert!(covariance.add(&[0.0; 4]).is_err());
        assert!(Covariance::from_dense(3, &[0.0; 8], 1).is_err());
        let diagonal = Covariance::from_diagonal(&[1.0, 2.0, 3.0], 10).unwrap();
        assert_eq!(diagonal.diagonal(), [1.0, 2.0, 3.0]);
        assert_eq!(diagonal.get(0, 1), 0.0);
        covariance.add(&[f32::INFINITY, 0.0, 1.0]).unwrap();
        assert!(!covariance.is_finite());
    }
}
