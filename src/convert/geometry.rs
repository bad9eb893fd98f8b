//! How a tensor is cut into tiles.

use crate::payload::Geometry;

/// Columns from which wide chunks pay: narrow ones give finer classes, wide ones smaller tiles.
const WIDE: usize = 2048;
/// Steps of a tile of a wide matrix: restarting the trellis costs .008 bit.
const WIDE_STEPS: usize = 128;
/// Steps of a tile of a token embedding: one row is looked up by decoding one tile.
const EMBEDDING_STEPS: usize = 64;
/// Longest path of a narrow matrix.
const NARROW_STEPS: usize = 192;

/// Tiles for a matrix whose rows are used all together (a linear layer) or one by one (`by_row`, an embedding).
pub fn geometry(rows: usize, columns: usize, by_row: bool) -> Geometry {
    let (width, most) = match (columns >= WIDE, by_row) {
        (true, false) => (64, WIDE_STEPS),
        (true, true) => (64, EMBEDDING_STEPS),
        (false, false) => (16, NARROW_STEPS),
        (false, true) => (16, EMBEDDING_STEPS),
    };
    let all = rows.div_ceil(64 / width).max(1);
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
        let shape = |rows, columns, by_row| {
            let g = geometry(rows, columns, by_row);
            (g.columns_per_chunk(), g.steps(), g.tiles(rows))
        };
        assert_eq!(shape(576, 576, false), (16, 144, 1));
        assert_eq!(shape(192, 576, false), (16, 48, 1));
        assert_eq!(shape(1536, 576, false), (16, 192, 2));
        assert_eq!(shape(4096, 14336, false), (64, 128, 32));
        assert_eq!(shape(49152, 576, true), (16, 64, 192));
        assert_eq!(shape(300, 576, false), (16, 76, 1));
        assert_eq!(shape(1, 1, false), (16, 1, 1));
        assert_eq!(shape(1, 4096, false), (64, 1, 1));
    }
}
