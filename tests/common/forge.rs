//! A second encoder, written from `spec/FORMAT.md` alone, that can also write what the format forbids.
//!
//! The encoder of the library chooses classes and tables itself and refuses bad input. Test vectors and fuzzing need
//! the opposite: every field is given. Nothing here uses the library's coders, so that an agreement of both is a
//! check of the text.

/// A class table as the text has it: runs are (symbol, length).
#[derive(Clone, Debug)]
pub struct Table {
    pub raw_bits: u32,
    pub smallest: [i32; 2],
    pub runs: [Vec<(u32, u32)>; 2],
}

/// A pair table as the text has it: for each parity `side * side` frequencies.
#[derive(Clone, Debug)]
pub struct PairTable {
    pub smallest: [i32; 2],
    pub side: [usize; 2],
    pub frequencies: [Vec<u32>; 2],
}

/// How a class names its table.
#[derive(Clone, Debug)]
pub enum Class {
    Standard(u32),
    Inline(Table),
    StandardPairs(u32),
    InlinePairs(PairTable),
}

/// A stream column in the order of the side information.
#[derive(Clone, Debug)]
pub struct Entry {
    pub input: u32,
    pub class: usize,
    pub scale: u32,
    pub integers: Vec<i32>,
}

/// Everything that a matrix section says.
#[derive(Clone, Debug)]
pub struct Plan {
    pub rows: usize,
    pub columns: usize,
    pub width: usize,
    pub steps: usize,
    pub trellis: u8,
    pub column_kind: u8,
    pub row_kind: u8,
    pub tensor_scale: f32,
    pub classes: Vec<Class>,
    /// First stream column of each live input column, rising.
    pub first: Vec<Entry>,
    /// Further stream columns, rising by input column.
    pub extra: Vec<Entry>,
    pub row_scales: Vec<u32>,
}

/// A context of the side information coder, by its name in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    Symbol,
    Length,
    Frequency,
    Class(u32),
    Gap,
    ColumnScale,
    RowScale,
}

/// One call of the side information coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Direct { value: u32, bits: u32 },
    Tree { context: Context, value: u32, bits: u32 },
    Number { context: Context, value: u32 },
}

/// The bytes of one tile, in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tile {
    pub raw: Vec<u8>,
    pub states: Vec<u8>,
    pub renormalisation: Vec<u8>,
    pub escapes: Vec<u8>,
}

/// Where the symbols of a chunk stand.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    steps: usize,
    first_row: usize,
    rows: usize,
}

/// A matrix section in parts.
#[derive(Clone, Debug)]
pub struct Section {
    /// Bytes 4 to 19 of the matrix header.
    pub fields: [u8; 16],
    pub side: Vec<Side>,
    pub tiles: Vec<Tile>,
}

/// CRC of section "Checksums", bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// The number that `signed` of the text turns into `value`.
pub fn unsigned(value: i32) -> u32 {
    if value < 0 {
        (-value) as u32 * 2 - 1
    } else {
        value as u32 * 2
    }
}

/// The coder of section "Side information coder", backwards: the smallest number of the final interval, carries put in place.
struct SideWriter {
    bytes: Vec<u8>,
    low: u32,
    range: u32,
    contexts: std::collections::HashMap<(Context, u32), u32>,
}

impl SideWriter {
    fn split(&mut self, bound: u32, bit: u32) {
        if bit == 0 {
            self.range = bound;
        } else {
            let (low, carry) = self.low.overflowing_add(bound);
            self.low = low;
            self.range -= bound;
            if carry {
                for byte in self.bytes.iter_mut().rev() {
                    *byte = byte.wrapping_add(1);
                    if *byte != 0 {
                        break;
                    }
                }
            }
        }
        while self.range < 1 << 24 {
            self.bytes.push((self.low >> 24) as u8);
            self.low <<= 8;
            self.range <<= 8;
        }
    }

    fn adaptive(&mut self, context: Context, index: u32, bit: u32) {
        let p = *self.contexts.entry((context, index)).or_insert(2048);
        self.split((self.range >> 12) * p, bit);
        let changed = if bit == 0 { p + ((4096 - p) >> 4) } else { p - (p >> 4) };
        self.contexts.insert((context, index), changed);
    }

    fn direct(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            self.split(self.range >> 1, value >> bit & 1);
        }
    }

    fn put(&mut self, call: &Side) {
        match *call {
            Side::Direct { value, bits } => self.direct(value, bits),
            Side::Tree { context, value, bits } => {
                for bit in (0..bits).rev() {
                    self.adaptive(context, (1 << bits | value) >> (bit + 1), value >> bit & 1);
                }
            }
            Side::Number { context, value } => {
                // Exponents at even indices, first bits at odd ones. An exponent of 24 is the illegal number.
                let exponent = (value + 1).ilog2();
                for level in 0..exponent {
                    self.adaptive(context, 2 * level, 1);
                }
                if exponent <= 23 {
                    self.adaptive(context, 2 * exponent, 0);
                    if exponent > 0 {
                        self.adaptive(context, 2 * exponent + 1, (value + 1) >> (exponent - 1) & 1);
                        self.direct((value + 1) & ((1 << (exponent - 1)) - 1), exponent - 1);
                    }
                }
            }
        }
    }
}

/// Bytes of the side information.
pub fn write_side(calls: &[Side]) -> Vec<u8> {
    let mut writer =
        SideWriter { bytes: Vec::new(), low: 0, range: u32::MAX, contexts: std::collections::HashMap::new() };
    calls.iter().for_each(|call| writer.put(call));
    writer.bytes.extend(writer.low.to_be_bytes());
    writer.bytes
}

/// Bits, the first one least significant.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    pub bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    pub fn put(&mut self, value: u64, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    pub fn unary(&mut self, zeros: u64) {
        (0..zeros).for_each(|_| self.put(0, 1));
        self.put(1, 1);
    }
}

/// The escape list of (position, code) pairs with the parameter `gap_bits`.
pub fn write_escapes(escapes: &[(u64, u32)], gap_bits: u32) -> Vec<u8> {
    if escapes.is_empty() {
        return Vec::new();
    }
    let mut bits = Bits::default();
    bits.put(u64::from(gap_bits), 8);
    let mut next = 0;
    for &(position, code) in escapes {
        let gap = position - next;
        next = position + 1;
        bits.unary(gap >> gap_bits);
        bits.put(gap, gap_bits);
        bits.unary(u64::from(code.ilog2()));
        bits.put(u64::from(code), code.ilog2());
    }
    bits.bytes
}

/// Standard table `identifier` of `spec/standard-tables.txt`.
pub fn standard(identifier: u32) -> Table {
    let text = include_str!("../../spec/standard-tables.txt");
    let line = text.lines().filter(|line| !line.starts_with('#')).nth(identifier as usize).unwrap();
    let fields: Vec<&str> = line.split('/').collect();
    let mut table =
        Table { raw_bits: fields[0].trim().parse().unwrap(), smallest: [0; 2], runs: [vec![], vec![]] };
    for q in 0..2 {
        let (smallest, runs) = fields[q + 1].split_once(':').unwrap();
        table.smallest[q] = smallest.trim().parse().unwrap();
        for run in runs.split_whitespace() {
            let (symbol, length) = run.split_once('*').unwrap();
            table.runs[q].push((symbol.parse().unwrap(), length.parse().unwrap()));
        }
    }
    table
}

/// Standard pair table `identifier` of `spec/standard-pair-tables.txt`.
pub fn standard_pairs(identifier: u32) -> PairTable {
    let text = include_str!("../../spec/standard-pair-tables.txt");
    let line = text.lines().filter(|line| !line.starts_with('#')).nth(identifier as usize).unwrap();
    let mut table = PairTable { smallest: [0; 2], side: [0; 2], frequencies: [vec![], vec![]] };
    for (q, part) in line.split('/').enumerate() {
        let (head, list) = part.split_once(':').unwrap();
        let head: Vec<&str> = head.split_whitespace().collect();
        table.smallest[q] = head[0].parse().unwrap();
        table.side[q] = head[1].parse().unwrap();
        table.frequencies[q] = list.split_whitespace().map(|f| f.parse().unwrap()).collect();
    }
    table
}

impl PairTable {
    /// Indices of the pairs that can be coded, each with its slots.
    pub fn pairs(&self, q: usize) -> Vec<([i32; 2], Vec<u32>)> {
        let mut cells: Vec<usize> =
            (0..self.frequencies[q].len()).filter(|&cell| self.frequencies[q][cell] > 0).collect();
        cells.sort_by_key(|&cell| (256 - self.frequencies[q][cell] as i32, cell));
        let mut slot = 0;
        let mut pairs = Vec::new();
        for cell in cells {
            let indices = [cell / self.side[q], cell % self.side[q]].map(|s| self.smallest[q] + s as i32);
            let end = slot + self.frequencies[q][cell];
            pairs.push((indices, (slot..end).collect()));
            slot = end;
        }
        pairs
    }
}

impl Table {
    /// Slots of `symbol` for parity `q`, in order.
    fn slots(&self, q: usize, symbol: u32) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut slot = 0;
        for &(of, length) in &self.runs[q] {
            if of == symbol {
                slots.extend(slot..slot + length);
            }
            slot += length;
        }
        slots
    }

    /// The index nearest to `k`, of the same parity, that the table can code without an escape.
    fn nearest(&self, q: usize, k: i32) -> Option<i32> {
        let of_symbol = |symbol: u32| {
            let first = (self.smallest[q] + symbol as i32) << self.raw_bits;
            first..first + (1 << self.raw_bits)
        };
        let codable = self.runs[q].iter().flat_map(|&(symbol, _)| of_symbol(symbol));
        codable.filter(|other| (other ^ k) & 1 == 0).min_by_key(|other| ((other - k).abs(), *other))
    }
}

const NEXT: [[usize; 2]; 8] = [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]];

/// AFTER_PAIR of the text.
fn after_pair(state: usize, b: usize) -> usize {
    let mut next = state >> 1;
    if state % 2 == 1 {
        next ^= 45;
    }
    if b == 1 {
        next ^= 17;
    }
    next
}

impl Plan {
    pub fn table(&self, class: usize) -> Table {
        let mut table = match &self.classes[class] {
            Class::Standard(identifier) => standard(*identifier),
            Class::Inline(table) => table.clone(),
            _ => panic!("a pair table"),
        };
        if self.trellis == 0 {
            table.smallest[1] = table.smallest[0];
            table.runs[1] = table.runs[0].clone();
        }
        table
    }

    /// The pair table of a class that has one.
    pub fn pair_table(&self, class: usize) -> Option<PairTable> {
        match &self.classes[class] {
            Class::StandardPairs(identifier) => Some(standard_pairs(*identifier)),
            Class::InlinePairs(table) => Some(table.clone()),
            _ => None,
        }
    }

    /// With trellis 2 the state has two bits more inside a pair: that its first integer is done, and the lowest bit of
    /// that one's index.
    fn next_state(&self, state: usize, k: i32) -> usize {
        let bit = (k & 1) as usize;
        match (self.trellis, state >> 6 & 1) {
            (0, _) => 0,
            (1, _) => NEXT[state][bit],
            (_, 0) => state | 1 << 6 | bit << 7,
            _ => after_pair(state & 63, bit ^ state >> 7),
        }
    }

    /// Turns wishes into integers that the trellis allows: in each state the nearest one with the right parity.
    pub fn obey(&self, wishes: &mut [i32]) {
        let stride = 64 / self.width;
        for tile in wishes.chunks_mut(stride * self.steps) {
            for first in 0..stride.min(tile.len()) {
                let mut state = 0;
                for row in (first..tile.len()).step_by(stride) {
                    let q = (state & 1) as i32;
                    let m = &mut tile[row];
                    if (*m ^ q) & 1 == 1 {
                        *m += if *m > 0 { -1 } else { 1 };
                    }
                    state = self.next_state(state, (*m - q) >> 1);
                }
            }
        }
    }

    /// Entries by stream position, `None` for padding.
    pub fn positions(&self) -> Vec<Option<&Entry>> {
        let count = self.first.len() + self.extra.len();
        let mut positions: Vec<Option<&Entry>> = vec![None; count.div_ceil(self.width) * self.width - count];
        for class in 0..self.classes.len() {
            positions.extend(self.first.iter().chain(&self.extra).filter(|e| e.class == class).map(Some));
        }
        positions
    }

    fn scales(&self, kind: u8, context: Context, prediction: &mut i32, code: u32, calls: &mut Vec<Side>) {
        if kind == 1 {
            calls.push(Side::Direct { value: code, bits: 16 });
            return;
        }
        let error = code as i32 - ((*prediction + 8) >> 4);
        calls.push(Side::Number { context, value: unsigned(error) });
        *prediction += (code as i32 * 16 - *prediction) >> 2;
    }

    /// The calls of the side information coder, in order.
    pub fn side(&self) -> Vec<Side> {
        let mut calls = Vec::new();
        for class in &self.classes {
            match class {
                Class::Standard(identifier) => calls.push(Side::Direct { value: *identifier, bits: 8 }),
                Class::StandardPairs(identifier) => {
                    calls.push(Side::Direct { value: 253, bits: 8 });
                    calls.push(Side::Direct { value: *identifier, bits: 8 });
                }
                Class::InlinePairs(table) => {
                    calls.push(Side::Direct { value: 254, bits: 8 });
                    for q in 0..2 {
                        calls.push(Side::Direct { value: table.smallest[q] as u32 & 255, bits: 8 });
                        calls.push(Side::Direct { value: table.side[q] as u32 - 1, bits: 4 });
                        for &value in &table.frequencies[q] {
                            calls.push(Side::Number { context: Context::Frequency, value });
                        }
                    }
                }
                Class::Inline(table) => {
                    calls.push(Side::Direct { value: 255, bits: 8 });
                    calls.push(Side::Direct { value: table.raw_bits, bits: 3 });
                    for q in 0..if self.trellis == 0 { 1 } else { 2 } {
                        calls.push(Side::Direct { value: table.smallest[q] as u32 & 255, bits: 8 });
                        for &(symbol, length) in &table.runs[q] {
                            calls.push(Side::Tree { context: Context::Symbol, value: symbol, bits: 6 });
                            calls.push(Side::Number { context: Context::Length, value: length - 1 });
                        }
                    }
                }
            }
        }
        if !self.classes.is_empty() {
            let bits = (self.classes.len() as u32 + 1).next_power_of_two().ilog2();
            let context = Context::Class(bits);
            let mut predictions = vec![2048; self.classes.len()];
            let mut entry = |entry: &Entry, calls: &mut Vec<Side>| {
                calls.push(Side::Tree { context, value: entry.class as u32 + 1, bits });
                let prediction = &mut predictions[entry.class];
                self.scales(self.column_kind, Context::ColumnScale, prediction, entry.scale, calls);
            };
            let mut live = self.first.iter().peekable();
            for input in 0..self.columns as u32 {
                match live.next_if(|entry| entry.input == input) {
                    Some(found) => entry(found, &mut calls),
                    None => calls.push(Side::Tree { context, value: 0, bits }),
                }
            }
            let mut previous = 0;
            for extra in &self.extra {
                calls.push(Side::Number { context: Context::Gap, value: extra.input - previous });
                previous = extra.input;
                entry(extra, &mut calls);
            }
        }
        let mut prediction = 2048;
        for &code in &self.row_scales {
            self.scales(self.row_kind - 1, Context::RowScale, &mut prediction, code, &mut calls);
        }
        calls
    }

    /// Rows of tile `tile`, and its steps.
    pub fn rows_and_steps(&self, tile: usize) -> (usize, usize) {
        let stride = 64 / self.width;
        let rows = (self.rows - tile * stride * self.steps).min(stride * self.steps);
        (rows, rows.div_ceil(stride))
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        if self.first.is_empty() && self.extra.is_empty() {
            return 0;
        }
        self.rows.div_ceil(64 / self.width * self.steps)
    }

    /// Symbols and escapes of one chunk of a class with a pair table.
    fn pair_chunk(
        &self,
        table: &PairTable,
        columns: &[Option<&Entry>],
        place: Place,
        coded: &mut Vec<(usize, Vec<u32>)>,
        escapes: &mut Vec<(u64, u32)>,
    ) {
        let pairs = [table.pairs(0), table.pairs(1)];
        let mut state = [0usize; 64];
        for step in (0..place.steps).step_by(2) {
            let mut found = Vec::new();
            for (lane, state) in state.iter_mut().enumerate() {
                let q = *state & 1;
                let wanted = [step, step + 1].map(|step| {
                    let row = step * (64 / self.width) + lane / self.width;
                    let entry =
                        columns[lane % self.width].filter(|_| row < place.rows && step < place.steps)?;
                    Some((entry.integers[place.first_row + row] - q as i32) >> 1)
                });
                // The nearest pair with the same lowest bits, of integers that are there; few changes before small ones.
                let fits = |pair: &[i32; 2]| {
                    pair.iter()
                        .zip(wanted)
                        .all(|(k, wanted)| wanted.is_none_or(|wanted| (wanted ^ k) & 1 == 0))
                };
                let distance = |pair: &[i32; 2]| {
                    let differences =
                        pair.iter().zip(wanted).map(|(k, wanted)| (wanted.unwrap_or(0) - k).abs());
                    (differences.clone().filter(|d| *d > 0).count(), differences.sum::<i32>(), *pair)
                };
                let candidates = pairs[q].iter().filter(|(pair, _)| fits(pair));
                let (pair, slots) = candidates
                    .min_by_key(|(pair, _)| distance(pair))
                    .expect("a pair table that reaches pairs of all lowest bits");
                coded.push((lane, slots.clone()));
                for which in 0..2 {
                    if let Some(k) = wanted[which].filter(|&k| k != pair[which]) {
                        let position = (place.chunk * place.steps + step + which) * 64 + lane;
                        found.push((position as u64, unsigned((k - pair[which]) / 2)));
                    }
                }
                *state = after_pair(*state, ((pair[0] ^ pair[1]) & 1) as usize);
            }
            found.sort_unstable();
            escapes.extend(found);
        }
    }

    /// One tile, and its escapes as (position, code).
    pub fn tile(&self, tile: usize) -> (Tile, Vec<(u64, u32)>) {
        self.tile_that_ends(tile, [256; 64])
    }

    /// The same with other final states of the lanes, from 256 to 65,535.
    pub fn tile_that_ends(&self, tile: usize, mut x: [u32; 64]) -> (Tile, Vec<(u64, u32)>) {
        let positions = self.positions();
        let (rows, steps) = self.rows_and_steps(tile);
        let first_row = tile * 64 / self.width * self.steps;
        let mut coded = Vec::new();
        let (mut raw_plane, mut escapes) = (Vec::new(), Vec::new());
        for (chunk, columns) in positions.chunks(self.width).enumerate() {
            let class = columns.iter().flatten().next().expect("a chunk of padding only").class;
            if let Some(table) = self.pair_table(class) {
                let place = Place { chunk, steps, first_row, rows };
                self.pair_chunk(&table, columns, place, &mut coded, &mut escapes);
                continue;
            }
            let table = self.table(class);
            let mut state = [0usize; 64];
            for step in 0..steps {
                let plane = raw_plane.len();
                raw_plane.resize(plane + 8 * table.raw_bits as usize, 0u8);
                for lane in 0..64 {
                    let row = step * (64 / self.width) + lane / self.width;
                    let q = state[lane] & 1;
                    let wanted = columns[lane % self.width].filter(|_| row < rows);
                    let k = wanted.map_or(0, |entry| (entry.integers[first_row + row] - q as i32) >> 1);
                    let mut nearest = table.nearest(q, k);
                    if wanted.is_none() {
                        nearest = nearest.or(table.nearest(q, 1));
                    }
                    let nearest = nearest.expect("a table that reaches no index of this parity");
                    if wanted.is_some() && nearest != k {
                        let position = (chunk * steps + step) * 64 + lane;
                        escapes.push((position as u64, unsigned((k - nearest) / 2)));
                    }
                    state[lane] = self.next_state(state[lane], nearest);
                    let symbol = (nearest >> table.raw_bits) - table.smallest[q];
                    coded.push((lane, table.slots(q, symbol as u32)));
                    for bit in 0..table.raw_bits as usize {
                        raw_plane[plane + 8 * bit + lane / 8] |= ((nearest >> bit & 1) as u8) << (lane % 8);
                    }
                }
            }
        }
        let mut renormalisation = Vec::new();
        for (lane, slots) in coded.iter().rev() {
            let f = slots.len() as u32;
            if x[*lane] >= f << 8 {
                renormalisation.push(x[*lane] as u8);
                x[*lane] >>= 8;
            }
            x[*lane] = (x[*lane] / f) << 8 | slots[(x[*lane] % f) as usize];
        }
        renormalisation.reverse();
        let states = x.iter().map(|x| (x >> 8) as u8).chain(x.iter().map(|x| *x as u8)).collect();
        (Tile { raw: raw_plane, states, renormalisation, escapes: write_escapes(&escapes, 5) }, escapes)
    }

    /// The matrix section in parts.
    pub fn section(&self) -> Section {
        let mut fields = [0; 16];
        fields[0] = self.width as u8;
        fields[1] = self.trellis;
        fields[2..4].copy_from_slice(&(self.steps as u16).to_le_bytes());
        fields[4] = self.classes.len() as u8;
        fields[5] = self.column_kind;
        fields[6] = self.row_kind;
        fields[8..12].copy_from_slice(&self.tensor_scale.to_le_bytes());
        fields[12..16].copy_from_slice(&(self.extra.len() as u32).to_le_bytes());
        Section {
            fields,
            side: self.side(),
            tiles: (0..self.tiles()).map(|tile| self.tile(tile).0).collect(),
        }
    }
}

impl Section {
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with_side(&write_side(&self.side))
    }

    /// The section with other side information.
    pub fn bytes_with_side(&self, side: &[u8]) -> Vec<u8> {
        let length = 24 + side.len() + 12 * self.tiles.len() + 4;
        let mut bytes = (length as u32).to_le_bytes().to_vec();
        bytes.extend(self.fields);
        bytes.extend((side.len() as u32).to_le_bytes());
        bytes.extend(side);
        let tiles: Vec<Vec<u8>> = self.tiles.iter().map(Tile::bytes).collect();
        let mut end = 0;
        for (tile, coded) in self.tiles.iter().zip(&tiles) {
            end += coded.len();
            bytes.extend((end as u32).to_le_bytes());
            bytes.extend((tile.escapes.len() as u32).to_le_bytes());
            bytes.extend(crc(coded).to_le_bytes());
        }
        bytes.extend(crc(&bytes).to_le_bytes());
        bytes.extend(tiles.concat());
        bytes
    }
}

impl Tile {
    pub fn bytes(&self) -> Vec<u8> {
        [&self.raw[..], &self.states, &self.renormalisation, &self.escapes].concat()
    }
}

/// A payload of matrix sections.
pub fn payload(rows: usize, columns: usize, sections: &[Vec<u8>]) -> Vec<u8> {
    let length = 36 + 8 * sections.len() + sections.iter().map(Vec::len).sum::<usize>();
    let mut bytes = b"WSIC\x01\0\0\0".to_vec();
    bytes.extend((length as u64).to_le_bytes());
    for number in [columns, rows, sections.len(), 0] {
        bytes.extend((number as u32).to_le_bytes());
    }
    let mut end = 0;
    for section in sections {
        end += section.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    bytes.extend(crc(&bytes).to_le_bytes());
    bytes.extend(sections.concat());
    bytes
}
