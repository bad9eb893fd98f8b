//! What a decoder must give for a matrix, by the text's sections "Stream order" and "Reconstruction".

use crate::common::forge::{crc, Plan};

/// Results for one matrix.
pub struct Expected {
    pub tiles: usize,
    /// Input column of each position, 0xFFFFFFFF for padding.
    pub inputs: Vec<u32>,
    /// Scale of each position, 0 for padding.
    pub scales: Vec<f32>,
    /// Row-major, rows x positions.
    pub integers: Vec<i32>,
    /// Row-major, rows x columns.
    pub weights: Vec<f32>,
}

fn scale_value(kind: u8, code: u32, octaves: i32) -> f32 {
    if kind == 1 {
        return half::f16::from_bits(code as u16).to_f32();
    }
    let eighth = (f64::from(code & 7) / 8.0).exp2() as f32;
    eighth * 2f32.powi((code >> 3) as i32 - octaves)
}

impl Expected {
    pub fn of(plan: &Plan) -> Self {
        let positions = plan.positions();
        let inputs = positions.iter().map(|entry| entry.map_or(u32::MAX, |entry| entry.input)).collect();
        let value = |code| plan.tensor_scale * scale_value(plan.column_kind, code, 0);
        let scales: Vec<f32> =
            positions.iter().map(|entry| entry.map_or(0.0, |entry| value(entry.scale))).collect();
        let mut integers = Vec::with_capacity(plan.rows * positions.len());
        let mut weights = vec![0.0f32; plan.rows * plan.columns];
        for (row, weights) in weights.chunks_mut(plan.columns).enumerate() {
            for (entry, scale) in positions.iter().zip(&scales) {
                let m = entry.map_or(0, |entry| entry.integers[row]);
                integers.push(m);
                if let Some(entry) = entry {
                    weights[entry.input as usize] += scale * m as f32;
                }
            }
            if let Some(&code) = plan.row_scales.get(row) {
                let scale = scale_value(plan.row_kind - 1, code, 16);
                weights.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        Self { tiles: plan.tiles(), inputs, scales, integers, weights }
    }

    /// The same from the decoder of the library.
    pub fn decoded(matrix: &wsic::payload::Matrix) -> Result<Self, wsic::payload::PayloadError> {
        let (rows, columns, width) = (matrix.rows(), matrix.columns(), matrix.stream_length());
        let mut integers = vec![i32::MIN; rows * width];
        let mut weights = vec![f32::NAN; rows * columns];
        let per_tile = matrix.geometry().rows_per_tile();
        for tile in 0..matrix.tile_count() {
            matrix.verify_tile(tile)?;
            let end = ((tile + 1) * per_tile).min(rows);
            matrix.decode_tile(tile, &mut integers[tile * per_tile * width..end * width])?;
        }
        for tile in 0..matrix.geometry().tiles(rows) {
            let end = ((tile + 1) * per_tile).min(rows);
            let out = &mut weights[tile * per_tile * columns..end * columns];
            matrix.dequantize_tile(tile, &mut Vec::new(), out)?;
        }
        Ok(Self {
            tiles: matrix.tile_count(),
            inputs: matrix.stream_inputs().to_vec(),
            scales: matrix.stream_scales().to_vec(),
            integers,
            weights,
        })
    }

    /// Little-endian bytes of inputs, scales, integers and weights.
    pub fn bytes(&self) -> [Vec<u8>; 4] {
        [
            self.inputs.iter().flat_map(|v| v.to_le_bytes()).collect(),
            self.scales.iter().flat_map(|v| v.to_le_bytes()).collect(),
            self.integers.iter().flat_map(|v| v.to_le_bytes()).collect(),
            self.weights.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ]
    }

    /// Fields of `expected.tsv` after the name.
    pub fn fields(&self) -> String {
        let crcs = self.bytes().map(|bytes| format!("{:08X}", crc(&bytes)));
        format!("{}\t{}\t{}", self.tiles, self.inputs.len(), crcs.join("\t"))
    }
}
