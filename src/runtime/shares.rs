//! Work on a matrix product cut into ranges of weight rows.

use crate::model::spread::spread;
use rayon::prelude::*;
use std::ops::Range;

/// A piece of work: neighbouring units (row tiles, blocks of rows) and the weight rows they cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) units: Range<usize>,
    pub(super) rows: Range<usize>,
}

/// Cuts `units` units of `height` rows (the last may have fewer) into about equal shares, as many for each of `threads`
/// threads, of at most `at_once` units: as many as a kernel takes in one go.
///
/// The cut depends on the number of threads; it may be used only where results do not depend on the cut.
pub(super) fn shares(units: usize, at_once: usize, height: usize, rows: usize, threads: usize) -> Vec<Share> {
    let parts = (threads * units.div_ceil(at_once.saturating_mul(threads))).clamp(1, units.max(1));
    let bound = |part: usize| units * part / parts;
    (0..parts)
        .map(|part| {
            let units = bound(part)..bound(part + 1);
            let rows = (units.start * height).min(rows)..(units.end * height).min(rows);
            Share { units, rows }
        })
        .collect()
}

/// Runs `work` for every share in parallel and puts the results together in `y`, tokens × rows, row-major.
///
/// The shares cover all rows in order. `work` writes tokens × (rows of the share), row-major. Of several errors the
/// first share's is returned.
pub(super) fn multiply<E: Send>(
    shares: &[Share],
    tokens: usize,
    y: &mut [f32],
    work: impl Fn(&Share, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let run = |target: &mut [f32]| -> Result<(), E> {
        let mut pieces = Vec::with_capacity(shares.len());
        let mut rest = target;
        for share in shares {
            let (piece, others) = rest.split_at_mut(share.rows.len() * tokens);
            pieces.push((share, piece));
            rest = others;
        }
        let mut results: Vec<_> = shares.iter().map(|_| Ok(())).collect();
        spread(pieces.into_iter().zip(&mut results), |((share, piece), result)| *result = work(share, piece));
        results.into_iter().collect()
    };
    let rows = shares.last().map_or(0, |share| share.rows.end);
    if tokens <= 1 || shares.len() <= 1 || rows == 0 {
        return run(y);
    }
    let mut blocks = vec![0.0; y.len()];
    run(&mut blocks)?;
    y.par_chunks_mut(rows).enumerate().for_each(|(token, y)| {
        for Share { rows, .. } in shares {
            let at = rows.start * tokens + token * rows.len();
            y[rows.clone()].copy_from_slice(&blocks[at..at + rows.len()]);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_rows_and_results_land_in_place() {
        for (rows, height) in [(1usize, 64usize), (576, 256), (1000, 64), (8192, 256)] {
            let shares = shares(rows.div_ceil(height), 6, height, rows, 2);
            assert_eq!(shares[0].rows.start, 0);
            assert_eq!(shares.last().unwrap().rows.end, rows);
            assert!(shares.windows(2).all(|pair| pair[0].rows.end == pair[1].rows.start));
            for tokens in [1, 3] {
                let mut y = vec![0.0; tokens * rows];
                let work = |share: &Share, piece: &mut [f32]| -> Result<(), ()> {
                    for (token, piece) in piece.chunks_mut(share.rows.len()).enumerate() {
                        piece
                            .iter_mut()
                            .zip(share.rows.clone())
                            .for_each(|(y, r)| *y = (token * rows + r) as f32);
                    }
                    Ok(())
                };
                multiply(&shares, tokens, &mut y, work).unwrap();
                assert!(y.iter().enumerate().all(|(i, &y)| y == i as f32), "{rows} {tokens}");
            }
        }
    }

    #[test]
    fn the_first_error_counts() {
        let shares = shares(40, 4, 1, 40, 2);
        let fail = |share: &Share, _: &mut [f32]| if share.units.contains(&30) { Err(30) } else { Ok(()) };
        assert_eq!(multiply(&shares, 2, &mut [0.0; 80], fail), Err(30));
        assert_eq!(multiply(&shares, 1, &mut [0.0; 40], |share, _| Err(share.units.start)), Err(0));
    }
}
