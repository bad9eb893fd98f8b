//! Blocked Cholesky factorization whose result does not depend on the number of threads.
//!
//! Work is cut into panels and chunks of fixed size; every chunk is one sequential call, so each element sees the
//! same operations in the same order however many threads there are.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

/// Columns factored at a time.
const PANEL: usize = 128;
/// Rows or columns of one task.
const CHUNK: usize = 128;

/// Replaces the lower triangle of the square matrix `a` by its Cholesky factor L (a = L Lᵀ) and zeroes the rest.
/// Only the lower triangle is read.
///
/// # Errors
/// The index of the first pivot that is not positive; `a` is then left half done.
pub(super) fn factor(a: &mut Mat<f64>) -> Result<(), usize> {
    let n = a.nrows();
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        let (left, right) = a.as_mut().split_at_col_mut(end);
        let (_, panel) = left.split_at_col_mut(start);
        let (diagonal, below) = panel.split_at_row_mut(start).1.split_at_row_mut(end - start);
        let mut diagonal = diagonal;
        factor_block(diagonal.as_mut()).map_err(|pivot| start + pivot)?;
        if end == n {
            break;
        }
        let mut below = below;
        solve_below(diagonal.as_ref(), below.as_mut());
        let below = below.as_ref();
        right.split_at_row_mut(end).1.par_col_chunks_mut(CHUNK).enumerate().for_each(|(chunk, trailing)| {
            let first = chunk * CHUNK;
            let width = trailing.ncols();
            let rows = below.subrows(first, below.nrows() - first);
            let columns = below.subrows(first, width).transpose();
            let lower = trailing.split_at_row_mut(first).1;
            matmul(lower, Accum::Add, rows, columns, -1.0, Par::Seq);
        });
    }
    for j in 1..n {
        a.as_mut().subrows_mut(0, j).col_mut(j).fill(0.0);
    }
    Ok(())
}

/// Unblocked factorization of a small diagonal block.
fn factor_block(mut a: MatMut<'_, f64>) -> Result<(), usize> {
    let n = a.nrows();
    for j in 0..n {
        for k in 0..j {
            let factor = a[(j, k)];
            for i in j..n {
                a[(i, j)] -= a[(i, k)] * factor;
            }
        }
        let pivot = a[(j, j)];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(j);
        }
        let root = pivot.sqrt();
        for i in j..n {
            a[(i, j)] /= root;
        }
    }
    Ok(())
}

/// Rows below a factored diagonal block: X := X L^-T.
fn solve_below(factored: MatRef<'_, f64>, below: MatMut<'_, f64>) {
    below.par_row_chunks_mut(CHUNK).for_each(|chunk| {
        solve_lower_triangular_in_place(factored, chunk.transpose_mut(), Par::Seq);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive_definite(n: usize) -> Mat<f64> {
        let g = Mat::from_fn(n, n, |i, j| ((i * 31 + j * 17 + i * j) % 101) as f64 / 50.0 - 1.0);
        let mut a = &g * g.transpose();
        for i in 0..n {
            a[(i, i)] += 0.5;
        }
        a
    }

    #[test]
    fn product_of_factors_is_the_matrix() {
        for n in [1, 2, 7, 127, 128, 129, 300] {
            let a = positive_definite(n);
            let mut l = a.clone();
            factor(&mut l).unwrap();
            let back = &l * l.transpose();
            for i in 0..n {
                assert!(l[(i, i)] > 0.0);
                for j in 0..n {
                    assert!(
                        (back[(i, j)] - a[(i, j)]).abs() < 1e-9 * a[(i, i)].max(a[(j, j)]),
                        "{n} {i} {j}"
                    );
                    assert!(j <= i || l[(i, j)] == 0.0);
                }
            }
        }
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut l = positive_definite(517);
            pool.install(|| factor(&mut l)).unwrap();
            l
        };
        assert!(run(1) == run(2) && run(1) == run(3));
    }

    #[test]
    fn names_the_failing_pivot() {
        let mut a = positive_definite(200);
        a[(150, 150)] = -1.0;
        assert_eq!(factor(&mut a), Err(150));
    }
}
