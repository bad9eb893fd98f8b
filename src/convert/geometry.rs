//! How a tensor is cut into tiles.

use super::options::Prefer;
use crate::payload::Geometry;

/// Columns from which wide chunks pay: narrow ones give finer classes, wide ones smaller tiles.
const WIDE: usize = 2048;
/// Steps of a tile of a wide matrix: restarting the trellis costs .008 bit.
const WIDE_STEPS: usize = 128;
/// Steps of a tile of a token embedding: one row is looked up by decoding one tile.
const EMBEDDING_STEPS: usize = 64;
/// Longest path of a narrow matrix.
const NARROW_STEPS: usize = 192;
/// The same where speed counts: narrow matrices have few rows too, and kernels and threads want several tiles.
const FAST_STEPS: usize = 96;

/// Tiles for a matrix whose rows are used all together (a linear layer) or one by one (`by_row`, an embedding).
pub fn geometry(rows: usize, columns: usize, by_row: bool, prefer: Prefer) -> Geometry {
    let width = if columns >= WIDE { 64 } else { 16 };
    let all = rows.div_ceil(64 / width).max(1);
    let most = match (columns >= WIDE, by_row) {
        (_, true) => EMBEDDING_STEPS,
        (true, false) => WIDE_STEPS,
        (false, false) if prefer == Prefer::Speed => FAST_STEPS,
        (false, false) => NARROW_STEPS,
    };
    // Tiles of equal height rather than a short last one.
    let steps = all.div_ceil(all.div_ceil(most));
    // Whole pairs in every tile.
    let steps = if steps > 1 { steps.next_multiple_of(2) } else { steps };
    Geometry::new(width, steps).expect("between 1 and 256 steps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_even() {
        let cut = |rows, columns, by_row, prefer| {
            let g = geometry(rows, columns, by_row, prefer);
            (g.columns_per_chunk(), g.steps(), g.tiles(rows))
        };
        let shape = |rows, columns, by_row| cut(rows, columns, by_row, Prefer::Balance);
        let fast = |rows, columns, by_row| cut(rows, columns, by_row, Prefer::Speed);
        assert_eq!(shape(576, 576, false), (16, 144, 1));
        assert_eq!(shape(192, 576, false), (16, 48, 1));
        assert_eq!(shape(1536, 576, false), (16, 192, 2));
        assert_eq!(shape(4096, 14336, false), (64, 128, 32));
        assert_eq!(shape(49152, 576, true), (16, 64, 192));
        assert_eq!(shape(300, 576, false), (16, 76, 1));
        assert_eq!(shape(1, 1, false), (16, 1, 1));
        assert_eq!(shape(1, 4096, false), (64, 1, 1));
        assert_eq!(fast(576, 576, false), (16, 72, 2));
        assert_eq!(fast(192, 576, false), (16, 48, 1));
        assert_eq!(fast(1536, 576, false), (16, 96, 4));
        assert_eq!(fast(896, 896, false), (16, 76, 3));
        // Others are as they are.
        for (rows, columns, by_row) in [(4096, 14336, false), (49152, 576, true), (151_936, 2048, true)] {
            assert_eq!(fast(rows, columns, by_row), shape(rows, columns, by_row));
        }
    }
}
