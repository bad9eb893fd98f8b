//! Matrices for tests, from a seeded generator.
#![allow(dead_code)]

pub mod forge;
pub mod mutate;
pub mod reread;
pub mod resign;

use wsic::payload::{Geometry, QuantizedMatrix, ScaleKind, StreamColumn, Trellis};

/// A small generator (xorshift64*), so that tests need no crate and never change.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Nearly Gaussian: the sum of twelve uniform numbers.
    pub fn gaussian(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// What kind of matrix to draw.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub rows: usize,
    pub columns: usize,
    pub geometry: Geometry,
    pub trellis: Trellis,
    /// Standard deviation of the integers, in the middle of the columns.
    pub deviation: f64,
    /// Octaves of spread over the columns (standard deviation).
    pub spread: f64,
}

/// Integers of one column: Gaussian values rounded to the nearest point of the trellis state's codebook.
pub fn column(recipe: &Recipe, deviation: f64, random: &mut Random) -> Vec<i32> {
    let mut integers = vec![0; recipe.rows];
    for path in recipe.geometry.paths(recipe.rows) {
        let mut state = 0;
        for i in 0..path.len {
            let q = f64::from(recipe.trellis.parity(state));
            let value = deviation * random.gaussian();
            let m = (2.0 * ((value - q) / 2.0).round() + q).clamp(-8e6, 8e6) as i32;
            integers[path.first + i * path.stride] = m;
            state = recipe.trellis.next(state, m);
        }
    }
    integers
}

/// A matrix drawn from the recipe; scale codes follow the deviations as they do in quantized layers.
pub fn matrix(recipe: &Recipe, random: &mut Random) -> QuantizedMatrix {
    let stream = (0..recipe.columns)
        .map(|input| {
            let octaves = recipe.spread * random.gaussian();
            let deviation = recipe.deviation * octaves.exp2();
            let scale = (100.0 - 8.0 * octaves + random.gaussian()).clamp(0.0, 255.0) as u16;
            StreamColumn { input: input as u32, scale, integers: column(recipe, deviation, random) }
        })
        .collect();
    QuantizedMatrix {
        rows: recipe.rows,
        columns: recipe.columns,
        geometry: recipe.geometry,
        trellis: recipe.trellis,
        tensor_scale: 1.5e-4,
        column_scale_kind: ScaleKind::Log8,
        stream,
        row_scales: None,
    }
}

/// A matrix whose escapes stand in bursts with long gaps between, many in some tiles and none in others, some of them
/// as large as integers may be: six full tiles, and one of a few rows.
pub fn with_bursts(random: &mut Random) -> QuantizedMatrix {
    let (rows, columns) = (6 * 24 + 5, 80);
    let geometry = Geometry::new(64, 24).unwrap();
    let recipe = Recipe { rows, columns, geometry, trellis: Trellis::Scalar, deviation: 0.6, spread: 0.0 };
    let mut source = matrix(&recipe, random);
    for (position, column) in source.stream.iter_mut().enumerate() {
        for (row, integer) in column.integers.iter_mut().enumerate() {
            let tile = row / 24;
            let often = match tile {
                0 => position > 70,
                1 => row % 24 > 20,
                2 => (row, position) == (2 * 24, 3) || (row, position) == (3 * 24 - 1, 79),
                3 => false,
                _ => position % 16 == tile,
            };
            if often && random.below(3) > 0 {
                let size = 5 + random.below(if tile == 5 { 19 } else { 7 });
                let large = (random.next() >> (64 - size)) as i32 & !1;
                *integer = if random.below(2) == 0 { large } else { -large };
            }
        }
    }
    source
}
