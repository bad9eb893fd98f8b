//! The tile coder: 64 interleaved range coders with 16-bit states, run backwards (spec section "Tiles").

use super::histogram::clip_index;
use super::pair_histogram::{cell, clip_pair, PairCodes, FIRST};
use super::{index_of, padding_integer, parallel, Stream};
use crate::payload::bits::BitWriter;
use crate::payload::layout::{FINAL_STATE, MAX_GAP_BITS};
use crate::payload::side::zigzag;
use crate::payload::table::{ClassTable, SLOTS};
use crate::payload::{Trellis, LANES};

/// The bytes of one tile; the last `escape_bytes` of them are escapes.
pub(super) struct CodedTile {
    pub(super) bytes: Vec<u8>,
    pub(super) escape_bytes: usize,
}

/// How the symbols of one class are coded.
struct Coder {
    /// Frequency and first index into `slots`, by parity and symbol.
    symbols: [[(u32, usize); 64]; 2],
    slots: [[u8; SLOTS]; 2],
    /// For a pair table.
    pairs: Option<PairCodes>,
}

impl Coder {
    fn new(table: &ClassTable) -> Self {
        let mut symbols = [[(0, 0); 64]; 2];
        let mut slots = [[0; SLOTS]; 2];
        if let Some(grids) = table.pairs() {
            for (q, grid) in grids.iter().enumerate() {
                let mut start = 0;
                for (symbol, pair) in symbols[q].iter_mut().zip(grid.in_slot_order()) {
                    *symbol = (u32::from(pair.frequency), start);
                    start += usize::from(pair.frequency);
                }
                slots[q] = std::array::from_fn(|slot| slot as u8);
            }
            return Self { symbols, slots, pairs: Some(PairCodes::of(table)) };
        }
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
        Self { symbols, slots, pairs: None }
    }

    /// Steps that one symbol stands for.
    fn steps_in_symbol(&self) -> usize {
        if self.pairs.is_some() {
            2
        } else {
            1
        }
    }
}

pub(super) fn encode_all(stream: &Stream, threads: usize) -> Vec<CodedTile> {
    let coders: Vec<Coder> = stream.classes.iter().map(|class| Coder::new(&class.table)).collect();
    let matrix = stream.matrix;
    parallel(matrix.geometry.tiles(matrix.rows), threads, |range| {
        range.map(|tile| encode_tile(stream, &coders, tile)).collect()
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

/// The integers of one tile on their way to symbols and escapes.
struct Forward<'s> {
    stream: &'s Stream<'s>,
    steps: usize,
    first_row: usize,
    rows: usize,
    raw_plane: Vec<u8>,
    /// Gap and code of each.
    escapes: Vec<(u64, u32)>,
    next_symbol: u64,
    /// Parity in bit 7, symbol below it: in the order of decoding.
    symbols: Vec<u8>,
}

impl Forward<'_> {
    /// The integer at a lane of a step; `None` where there is no weight.
    fn integer(&self, chunk: usize, step: usize, lane: usize) -> Option<i32> {
        let geometry = self.stream.matrix.geometry;
        let width = geometry.columns_per_chunk();
        let row = step * geometry.rows_per_step() + lane / width;
        let column = self.stream.positions[chunk * width + lane % width]?;
        (row < self.rows).then(|| self.stream.matrix.stream[column].get(self.first_row + row))
    }

    /// Notes that the index `index` is coded as `coded`.
    fn escape(&mut self, chunk: usize, step: usize, lane: usize, index: i32, coded: i32) {
        if index != coded {
            let symbol = ((chunk * self.steps + step) * LANES + lane) as u64;
            self.escapes.push((symbol - self.next_symbol, zigzag((index - coded) / 2)));
            self.next_symbol = symbol + 1;
        }
    }

    /// One chunk of a class with a single table.
    fn single(&mut self, chunk: usize, table: &ClassTable) {
        let trellis = self.stream.matrix.trellis;
        let raw_bits = table.raw_bits();
        let ranges = [table.range(0), table.range(1)];
        let mut states = [0u8; LANES];
        for step in 0..self.steps {
            let raw_at = self.raw_plane.len();
            self.raw_plane.resize(raw_at + 8 * raw_bits as usize, 0u8);
            for (lane, state) in states.iter_mut().enumerate() {
                let q = padding_integer(trellis, *state);
                let m = self.integer(chunk, step, lane).unwrap_or(q);
                *state = trellis.next(*state, m);
                let (first, last) = ranges[q as usize];
                let index = index_of(m, q);
                let clipped = clip_index(index, first, last);
                self.escape(chunk, step, lane, index, clipped);
                let from_first = (clipped - first) as u32;
                self.symbols.push((from_first >> raw_bits) as u8 | (q as u8) << 7);
                for bit in 0..raw_bits {
                    self.raw_plane[raw_at + 8 * bit as usize + lane / 8] |=
                        ((from_first >> bit & 1) as u8) << (lane & 7);
                }
            }
        }
    }

    /// One chunk of a class with a pair table.
    fn pairs(&mut self, chunk: usize, codes: &PairCodes) {
        let mut states = [0u8; LANES];
        for step in (0..self.steps).step_by(2) {
            // Escapes stand in the order of the steps.
            let mut second_step = [None; LANES];
            for (lane, state) in states.iter_mut().enumerate() {
                let q = padding_integer(Trellis::Pairs, *state);
                let integers = [step, step + 1].map(|step| {
                    let integer = if step < self.steps { self.integer(chunk, step, lane) } else { None };
                    integer.map(|m| index_of(m, q))
                });
                let inside = clip_pair(integers.map(|index| index.unwrap_or(0)));
                let place = match integers {
                    [Some(_), None] => codes.place_of_first[q as usize][(inside[0] - FIRST) as usize],
                    _ => codes.place[q as usize][cell(inside[0], inside[1])],
                };
                let coded = codes.pairs[q as usize][usize::from(place)];
                if let Some(index) = integers[0] {
                    self.escape(chunk, step, lane, index, coded[0]);
                }
                second_step[lane] = integers[1].map(|index| (index, coded[1]));
                self.symbols.push(place | (q as u8) << 7);
                *state = Trellis::after_pair(*state, ((coded[0] ^ coded[1]) & 1) as u8);
            }
            for (lane, second) in second_step.into_iter().enumerate() {
                if let Some((index, coded)) = second {
                    self.escape(chunk, step + 1, lane, index, coded);
                }
            }
        }
    }
}

fn encode_tile(stream: &Stream, coders: &[Coder], tile: usize) -> CodedTile {
    let matrix = stream.matrix;
    let geometry = matrix.geometry;
    let steps = geometry.steps_in_tile(matrix.rows, tile);
    // Follow the trellis, split indices into symbols, raw bits and escapes.
    let mut forward = Forward {
        stream,
        steps,
        first_row: tile * geometry.rows_per_tile(),
        rows: geometry.rows_in_tile(matrix.rows, tile),
        raw_plane: Vec::new(),
        escapes: Vec::new(),
        next_symbol: 0,
        symbols: Vec::with_capacity(stream.positions.len() / geometry.columns_per_chunk() * LANES * steps),
    };
    let mut chunk = 0;
    for (class, coder) in stream.classes.iter().zip(coders) {
        for _ in 0..class.chunks {
            match &coder.pairs {
                Some(codes) => forward.pairs(chunk, codes),
                None => forward.single(chunk, &class.table),
            }
            chunk += 1;
        }
    }
    let Forward { raw_plane, escapes, symbols, .. } = forward;

    // Backward: the decoder reads the bytes in the opposite order.
    let mut x = [FINAL_STATE; LANES];
    let mut reversed = Vec::with_capacity(symbols.len() / 2);
    let mut rest = symbols.as_slice();
    for (class, coder) in stream.classes.iter().zip(coders).rev() {
        let symbols_in_lane = steps.div_ceil(coder.steps_in_symbol());
        let (before, of_class) = rest.split_at(rest.len() - class.chunks * symbols_in_lane * LANES);
        rest = before;
        for step in of_class.as_chunks::<LANES>().0.iter().rev() {
            for lane in (0..LANES).rev() {
                let q = usize::from(step[lane] >> 7);
                let (frequency, start) = coder.symbols[q][usize::from(step[lane] & 63)];
                if x[lane] >= frequency << 8 {
                    reversed.push(x[lane] as u8);
                    x[lane] >>= 8;
                }
                let (quotient, rank) = (x[lane] / frequency, x[lane] % frequency);
                x[lane] = quotient << 8 | u32::from(coder.slots[q][start + rank as usize]);
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
