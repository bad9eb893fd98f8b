//! How a matrix is cut into tiles, chunks, steps and lanes (spec section "Tiles").

/// Lanes of the coder: every step decodes this many symbols.
pub const LANES: usize = 64;

/// The shape of one tile: `columns_per_chunk` columns side by side, `steps` symbols in each lane.
///
/// Lane `l` of step `i` is column `l % columns_per_chunk` of the chunk and row
/// `i * rows_per_step() + l / columns_per_chunk` of the tile, so the rows that follow each other in one
/// lane (one *path* of the trellis) are `rows_per_step()` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    columns_per_chunk: usize,
    steps: usize,
}

impl Geometry {
    /// `columns_per_chunk` is 64, 16 or 4; `steps` is 1 to 256. `None` for anything else.
    pub const fn new(columns_per_chunk: usize, steps: usize) -> Option<Self> {
        if !matches!(columns_per_chunk, 4 | 16 | 64) || steps == 0 || steps > 256 {
            return None;
        }
        Some(Self { columns_per_chunk, steps })
    }

    /// Columns of one chunk (K in the specification).
    pub const fn columns_per_chunk(self) -> usize {
        self.columns_per_chunk
    }

    /// Steps of a full tile (S in the specification): the longest trellis path.
    pub const fn steps(self) -> usize {
        self.steps
    }

    /// Rows that one step covers: 64 / K.
    pub const fn rows_per_step(self) -> usize {
        LANES / self.columns_per_chunk
    }

    /// Rows of a full tile (R in the specification).
    pub const fn rows_per_tile(self) -> usize {
        self.rows_per_step() * self.steps
    }

    /// Number of tiles that hold `rows` rows.
    pub const fn tiles(self, rows: usize) -> usize {
        rows.div_ceil(self.rows_per_tile())
    }

    /// Rows present in tile `tile` of a matrix of `rows` rows.
    pub fn rows_in_tile(self, rows: usize, tile: usize) -> usize {
        rows.saturating_sub(tile * self.rows_per_tile()).min(self.rows_per_tile())
    }

    /// Steps coded for tile `tile`: the last tile stops after its last present row.
    pub fn steps_in_tile(self, rows: usize, tile: usize) -> usize {
        self.rows_in_tile(rows, tile).div_ceil(self.rows_per_step())
    }

    /// The trellis paths of one column: for each path its first row, the distance between its rows, and its
    /// number of rows that exist. Every row of the matrix is on exactly one path; each path starts in state 0.
    pub fn paths(self, rows: usize) -> impl Iterator<Item = Path> {
        let stride = self.rows_per_step();
        (0..self.tiles(rows)).flat_map(move |tile| {
            let present = self.rows_in_tile(rows, tile);
            (0..stride.min(present)).map(move |group| Path {
                first: tile * self.rows_per_tile() + group,
                stride,
                len: (present - group).div_ceil(stride),
            })
        })
    }
}

/// One trellis path: rows `first`, `first + stride`, … (`len` of them) of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// First row of the path.
    pub first: usize,
    /// Distance between consecutive rows of the path.
    pub stride: usize,
    /// Number of rows on the path.
    pub len: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cover_every_row_once() {
        for (k, s) in [(64, 1), (64, 128), (16, 3), (16, 64), (4, 2), (4, 256)] {
            let geometry = Geometry::new(k, s).unwrap();
            for rows in [1, 2, 15, 16, 17, 63, 64, 65, 191, 576, 1000] {
                let mut seen = vec![0u8; rows];
                for path in geometry.paths(rows) {
                    assert!(path.len <= s);
                    for i in 0..path.len {
                        seen[path.first + i * path.stride] += 1;
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "K={k} S={s} rows={rows}");
            }
        }
    }

    #[test]
    fn refuses_illegal_shapes() {
        for (k, s) in [(0, 1), (8, 1), (64, 0), (64, 257), (128, 4)] {
            assert_eq!(Geometry::new(k, s), None);
        }
    }
}
