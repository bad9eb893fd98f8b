//! What a payload says about itself: rates of its columns, steps, escapes.

use crate::payload::table::ClassTable;
use crate::payload::{Matrix, Payload, PayloadError, TableIdentifier, Trellis, PADDING};
use serde::Serialize;

/// Figures of one WSIC tensor; for several matrices geometry and trellis of the first one, sums of the rest.
#[derive(Debug, Serialize)]
pub(super) struct PayloadReport {
    columns_per_chunk: usize,
    steps: usize,
    tiles: usize,
    trellis: &'static str,
    pub(super) classes: Vec<ClassReport>,
    pub(super) dead_columns: usize,
    pub(super) extra_columns: usize,
    row_scales: bool,
    header_bytes: u64,
    pub(super) escape_bytes: u64,
    pub(super) escapes: u64,
    /// Escapes by size: element i counts those that add 2^(i+2) to 2^(i+3) - 1 to an integer, of either sign.
    pub(super) escape_sizes: Vec<u64>,
    pub(super) column_steps: Option<Steps>,
    /// Step of each stream column, ascending.
    #[serde(skip)]
    pub(super) sorted_steps: Vec<f32>,
}

/// A class of columns.
#[derive(Debug, Serialize)]
pub(super) struct ClassReport {
    pub(super) columns: usize,
    /// Bits that an integer of the class takes if its values follow the class table; escapes come on top.
    pub(super) bits: f64,
    /// Whether one symbol stands for two integers.
    pairs: bool,
    /// Identifier of the standard table (or standard pair table); absent for a table of its own.
    standard_table: Option<u8>,
    raw_bits: u32,
}

/// Quantizer steps of the columns, in units of the weights.
#[derive(Debug, Serialize)]
pub(super) struct Steps {
    pub(super) least: f32,
    pub(super) median: f32,
    pub(super) most: f32,
}

/// Bits for one integer whose distribution is the table's: the entropy of both parities' symbols (of parity 0 where
/// there is no trellis), and the raw bits.
fn table_bits(table: &ClassTable, trellis: Trellis) -> f64 {
    let bits = |slots: f64| if slots > 0.0 { slots / 256.0 * (256.0 / slots).log2() } else { 0.0 };
    let entropy = |parity: usize| -> f64 {
        match table.pairs() {
            Some(grids) => {
                grids[parity].frequencies().iter().map(|&slots| bits(f64::from(slots)) / 2.0).sum()
            }
            None => table.frequencies(parity).iter().map(|&slots| bits(f64::from(slots))).sum(),
        }
    };
    let coded = match trellis {
        Trellis::Scalar => entropy(0),
        Trellis::EightState | Trellis::Pairs => (entropy(0) + entropy(1)) / 2.0,
    };
    coded + f64::from(table.raw_bits())
}

/// Live columns of a class.
fn live(matrix: &Matrix, chunks: std::ops::Range<usize>) -> usize {
    let width = matrix.geometry().columns_per_chunk();
    let inputs = matrix.stream_inputs().get(chunks.start * width..chunks.end * width);
    inputs.unwrap_or_default().iter().filter(|&&input| input != PADDING).count()
}

impl PayloadReport {
    /// Reads headers and escapes of a payload of `bytes` bytes.
    ///
    /// # Errors
    /// A damaged list of escapes.
    pub(super) fn new(payload: &Payload, bytes: u64) -> Result<Self, PayloadError> {
        let first = &payload.matrices()[0];
        let mut report = Self {
            columns_per_chunk: first.geometry().columns_per_chunk(),
            steps: first.geometry().steps(),
            tiles: 0,
            trellis: match first.trellis() {
                Trellis::Scalar => "none",
                Trellis::EightState => "8 states",
                Trellis::Pairs => "64 states, pairs",
            },
            classes: Vec::new(),
            dead_columns: 0,
            extra_columns: 0,
            row_scales: first.row_scales().is_some(),
            header_bytes: bytes,
            escape_bytes: 0,
            escapes: 0,
            escape_sizes: Vec::new(),
            column_steps: None,
            sorted_steps: Vec::new(),
        };
        for matrix in payload.matrices() {
            report.add(matrix)?;
        }
        let steps = &mut report.sorted_steps;
        steps.sort_by(f32::total_cmp);
        report.column_steps = match (steps.first(), steps.get(steps.len() / 2), steps.last()) {
            (Some(&least), Some(&median), Some(&most)) => Some(Steps { least, median, most }),
            _ => None,
        };
        Ok(report)
    }

    fn add(&mut self, matrix: &Matrix) -> Result<(), PayloadError> {
        let inputs = matrix.stream_inputs();
        let present = inputs.iter().filter(|&&input| input != PADDING).count();
        self.dead_columns += matrix.columns() + matrix.extra_columns() - present;
        self.extra_columns += matrix.extra_columns();
        self.tiles += matrix.tile_count();
        for number in 0..matrix.tile_count() {
            let tile = matrix.tile(number);
            self.escape_bytes += tile.escapes.len() as u64;
            self.header_bytes -= (tile.stream.len() + tile.escapes.len()) as u64;
            for escape in matrix.escapes(number) {
                // Addends are multiples of 4 and not zero.
                let size = escape?.addend.unsigned_abs().ilog2().saturating_sub(2) as usize;
                if self.escape_sizes.len() <= size {
                    self.escape_sizes.resize(size + 1, 0);
                }
                self.escape_sizes[size] += 1;
                self.escapes += 1;
            }
        }
        self.classes.extend(matrix.classes().iter().map(|class| ClassReport {
            columns: live(matrix, class.chunks()),
            bits: table_bits(class.table(), matrix.trellis()),
            pairs: class.table().pairs().is_some(),
            standard_table: class.standard_table().map(|table| match table {
                TableIdentifier::Single(identifier) | TableIdentifier::Pair(identifier) => identifier,
            }),
            raw_bits: class.table().raw_bits(),
        }));
        let steps = inputs.iter().zip(matrix.stream_scales()).filter(|(&input, _)| input != PADDING);
        self.sorted_steps.extend(steps.map(|(_, &step)| step));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::table::Run;

    #[test]
    fn bits_are_the_entropy_of_the_table() {
        let run = |symbol, length| Run { symbol, length };
        let even = vec![run(0, 128), run(1, 128)];
        let four = (0..4).map(|symbol| run(symbol, 64)).collect();
        let table = ClassTable::new(1, [-1, -2], [even, four]).unwrap();
        assert_eq!(table_bits(&table, Trellis::Scalar), 2.0);
        assert_eq!(table_bits(&table, Trellis::EightState), 2.5);
    }
}
