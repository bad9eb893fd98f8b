//! The tile coder: 64 interleaved range coders with 16-bit states, run backwards (spec section "Tiles").

use super::histogram::clip_index;
use super::{index_of, padding_integer, parallel, Stream};
use crate::payload::bits::BitWriter;
use crate::payload::layout::{FINAL_STATE, MAX_GAP_BITS};
use crate::payload::side::zigzag;
use crate::payload::table::{ClassTable, SLOTS};
use crate::payload::LANES;

/// The bytes of one tile; the last `escape_bytes` of them are escapes.
pub(super) struct CodedTile {
    pub(super) bytes: Vec<u8>,
    pub(super) escape_bytes: usize,
}

/// Slot of each symbol and rank.
struct SlotTable {
    /// Frequency and first index into `slots`, by parity and symbol.
    symbols: [[(u32, usize); 64]; 2],
    slots: [[u8; SLOTS]; 2],
}

impl SlotTable {
    fn new(table: &ClassTable) -> Self {
        let mut symbols = [[(0, 0); 64]; 2];
        let mut slots = [[0; SLOTS]; 2];
        for q in 0..2 {
            let frequencies = table.frequencies(q);
            let mut start = 0;
            for (symbol, &frequency) in frequencies.iter().enumerate() {
                symbols[q][symbol] = (u32::from(frequency), start);
                start += usize::from(frequency);
            }
            let mut next = symbols[q].map(|(_, start)| start);
            let mut slot = 0;
            for run in table.runs(q) {
                for _ in 0..run.length {
                    slots[q][next[usize::from(run.symbol)]] = slot as u8;
                    next[usize::from(run.symbol)] += 1;
                    slot += 1;
                }
            }
        }
        Self { symbols, slots }
    }
}

pub(super) fn encode_all(stream: &Stream, threads: usize) -> Vec<CodedTile> {
    let tables: Vec<SlotTable> = stream.classes.iter().map(|class| SlotTable::new(&class.table)).collect();
    let matrix = stream.matrix;
    parallel(matrix.geometry.tiles(matrix.rows), threads, |range| {
        range.map(|tile| encode_tile(stream, &tables, tile)).collect()
    })
}

/// The escape list for (gap, code) pairs: the parameter that makes it shortest, then the bits.
fn pack_escapes(escapes: &[(u64, u32)]) -> Vec<u8> {
    if escapes.is_empty() {
        return Vec::new();
    }
    let gap_length = |bits: u32| escapes.iter().map(|(gap, _)| (gap >> bits) + u64::from(bits)).sum::<u64>();
    let gap_bits = (0..=MAX_GAP_BITS).min_by_key(|&bits| gap_length(bits)).unwrap_or(0);
    let mut writer = BitWriter::default();
    writer.put(u64::from(gap_bits), 8);
    for &(gap, code) in escapes {
        writer.unary(gap >> gap_bits);
        writer.put(gap, gap_bits);
        let exponent = code.ilog2();
        writer.unary(u64::from(exponent));
        writer.put(u64::from(code), exponent);
    }
    writer.into_bytes()
}

fn encode_tile(stream: &Stream, tables: &[SlotTable], tile: usize) -> CodedTile {
    let matrix = stream.matrix;
    let geometry = matrix.geometry;
    let width = geometry.columns_per_chunk();
    let steps = geometry.steps_in_tile(matrix.rows, tile);
    let first_row = tile * geometry.rows_per_tile();
    let rows = geometry.rows_in_tile(matrix.rows, tile);

    // Forward: follow the trellis, split indices into symbols, raw bits and escapes.
    let mut raw_plane = Vec::new();
    let mut escapes = Vec::new();
    let mut next_symbol = 0u64;
    let mut symbols: Vec<u8> = Vec::with_capacity(stream.positions.len() / width * LANES * steps);
    let mut chunk = 0;
    for class in &stream.classes {
        let table = &class.table;
        let raw_bits = table.raw_bits();
        let ranges = [table.range(0), table.range(1)];
        for _ in 0..class.chunks {
            let mut states = [0u8; LANES];
            for step in 0..steps {
                let raw_at = raw_plane.len();
                raw_plane.resize(raw_at + 8 * raw_bits as usize, 0u8);
                for (lane, state) in states.iter_mut().enumerate() {
                    let row = step * geometry.rows_per_step() + lane / width;
                    let column = stream.positions[chunk * width + lane % width];
                    let q = padding_integer(matrix.trellis, *state);
                    let m = match column {
                        Some(column) if row < rows => matrix.stream[column].get(first_row + row),
                        _ => q,
                    };
                    *state = matrix.trellis.next(*state, m);
                    let (first, last) = ranges[q as usize];
                    let index = index_of(m, q);
                    let clipped = clip_index(index, first, last);
                    if clipped != index {
                        let symbol = ((chunk * steps + step) * LANES + lane) as u64;
                        escapes.push((symbol - next_symbol, zigzag((index - clipped) / 2)));
                        next_symbol = symbol + 1;
                    }
                    let from_first = (clipped - first) as u32;
                    symbols.push((from_first >> raw_bits) as u8 | (q as u8) << 7);
                    for bit in 0..raw_bits {
                        raw_plane[raw_at + 8 * bit as usize + lane / 8] |=
                            ((from_first >> bit & 1) as u8) << (lane & 7);
                    }
                }
            }
            chunk += 1;
        }
    }

    // Backward: the decoder reads the bytes in the opposite order.
    let mut x = [FINAL_STATE; LANES];
    let mut reversed = Vec::with_capacity(symbols.len() / 2);
    let mut rest = symbols.as_slice();
    for (class, table) in stream.classes.iter().zip(tables).rev() {
        let (before, of_class) = rest.split_at(rest.len() - class.chunks * steps * LANES);
        rest = before;
        for step in of_class.as_chunks::<LANES>().0.iter().rev() {
            for lane in (0..LANES).rev() {
                let q = usize::from(step[lane] >> 7);
                let (frequency, start) = table.symbols[q][usize::from(step[lane] & 63)];
                if x[lane] >= frequency << 8 {
                    reversed.push(x[lane] as u8);
                    x[lane] >>= 8;
                }
                let (quotient, rank) = (x[lane] / frequency, x[lane] % frequency);
                x[lane] = quotient << 8 | u32::from(table.slots[q][start + rank as usize]);
            }
        }
    }
    let escapes = pack_escapes(&escapes);
    let mut bytes = raw_plane;
    bytes.reserve_exact(2 * LANES + reversed.len() + escapes.len());
    bytes.extend(x.iter().map(|&state| (state >> 8) as u8));
    bytes.extend(x.iter().map(|&state| state as u8));
    bytes.extend(reversed.iter().rev());
    bytes.extend_from_slice(&escapes);
    CodedTile { bytes, escape_bytes: escapes.len() }
}
