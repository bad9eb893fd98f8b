//! Classes, columns and scales of a matrix header (spec section "Side information"): reader and writer.

use super::error::{ErrorKind, PayloadError};
use super::layout::*;
use super::open::{Class, Header, SharedTable, TableIdentifier, PADDING};
use super::side::{unzigzag, zigzag, NumberContexts, Prediction, SideDecoder, SideEncoder, TreeContexts};
use super::standard::{standard_pair_table, standard_table};
use super::table::{ClassTable, PairGrid, Run, SLOTS};
use super::{ScaleKind, Trellis};
use std::sync::Arc;

/// What the side information says, in the form decoders use.
pub(super) struct SideInformation {
    pub(super) classes: Vec<Class>,
    pub(super) stream_inputs: Vec<u32>,
    pub(super) stream_scales: Vec<f32>,
    pub(super) row_scales: Option<Vec<f32>>,
}

/// One stream column in the order of the side information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnEntry {
    pub(super) input: u32,
    pub(super) class: u8,
    pub(super) scale: u16,
}

/// Contexts of the scales: one prediction for each class, shared statistics of the errors.
struct ScaleContexts {
    kind: ScaleKind,
    predictions: Vec<Prediction>,
    errors: NumberContexts,
}

impl ScaleContexts {
    fn new(kind: ScaleKind, classes: usize) -> Self {
        Self { kind, predictions: vec![Prediction::new(); classes], errors: NumberContexts::new() }
    }

    fn read(&mut self, decoder: &mut SideDecoder, class: usize) -> Result<u16, PayloadError> {
        if self.kind == ScaleKind::Half {
            return Ok(decoder.direct(16)? as u16);
        }
        let prediction = &mut self.predictions[class];
        let code = prediction.value() + unzigzag(decoder.number(&mut self.errors)?);
        if !(0..256).contains(&code) {
            return Err(bad(decoder, "a scale code of 0 to 255"));
        }
        prediction.update(code);
        Ok(code as u16)
    }

    fn write(&mut self, encoder: &mut SideEncoder, class: usize, scale: u16) {
        if self.kind == ScaleKind::Half {
            return encoder.direct(u32::from(scale), 16);
        }
        let prediction = &mut self.predictions[class];
        encoder.number(&mut self.errors, zigzag(i32::from(scale) - prediction.value()));
        prediction.update(i32::from(scale));
    }
}

/// Contexts of class tables that are written out.
struct TableContexts {
    symbol: TreeContexts,
    length: NumberContexts,
    frequency: NumberContexts,
}

impl TableContexts {
    fn new() -> Self {
        Self { symbol: TreeContexts::new(6), length: NumberContexts::new(), frequency: NumberContexts::new() }
    }
}

fn bad(decoder: &SideDecoder, expected: &'static str) -> PayloadError {
    PayloadError::new(ErrorKind::BadSideInformation, decoder.position(), expected)
}

/// Parities whose runs are written out: without a trellis only parity 0 occurs, and parity 1 repeats it.
const fn written_parities(trellis: Trellis) -> usize {
    match trellis {
        Trellis::Scalar => 1,
        Trellis::EightState | Trellis::Pairs => 2,
    }
}

fn read_table(
    decoder: &mut SideDecoder,
    contexts: &mut TableContexts,
    trellis: Trellis,
) -> Result<ClassTable, PayloadError> {
    let raw_bits = decoder.direct(3)?;
    let mut smallest = [0i8; 2];
    let mut runs = [Vec::new(), Vec::new()];
    for q in 0..written_parities(trellis) {
        smallest[q] = decoder.direct(8)? as u8 as i8;
        let mut slots = 0;
        while slots < SLOTS {
            let symbol = decoder.tree(&mut contexts.symbol)? as u8;
            let length = decoder.number(&mut contexts.length)? as usize + 1;
            slots += length;
            if length > 255 || slots > SLOTS {
                return Err(PayloadError::new(ErrorKind::BadTable, decoder.position(), "256 slots in runs"));
            }
            runs[q].push(Run { symbol, length: length as u8 });
        }
    }
    if trellis == Trellis::Scalar {
        smallest[1] = smallest[0];
        runs[1] = runs[0].clone();
    }
    ClassTable::new(raw_bits, smallest, runs).map_err(|e| e.shifted(decoder.position()))
}

fn write_table(
    encoder: &mut SideEncoder,
    contexts: &mut TableContexts,
    table: &ClassTable,
    trellis: Trellis,
) {
    encoder.direct(table.raw_bits(), 3);
    for q in 0..written_parities(trellis) {
        encoder.direct(u32::from(table.smallest()[q] as u8), 8);
        for run in table.runs(q) {
            encoder.tree(&mut contexts.symbol, u32::from(run.symbol));
            encoder.number(&mut contexts.length, u32::from(run.length) - 1);
        }
    }
}

fn read_pair_table(
    decoder: &mut SideDecoder,
    contexts: &mut TableContexts,
) -> Result<ClassTable, PayloadError> {
    let mut grid = || {
        let smallest = decoder.direct(8)? as u8 as i8;
        let side = decoder.direct(4)? as usize + 1;
        let mut frequencies = Vec::with_capacity(side * side);
        let mut slots = 0;
        for _ in 0..side * side {
            let frequency = decoder.number(&mut contexts.frequency)?;
            let Ok(frequency) = u8::try_from(frequency) else {
                return Err(PayloadError::new(ErrorKind::BadTable, decoder.position(), "at most 255 slots"));
            };
            slots += usize::from(frequency);
            frequencies.push(frequency);
        }
        if slots != SLOTS {
            return Err(PayloadError::new(ErrorKind::BadTable, decoder.position(), "256 slots of pairs"));
        }
        Ok((smallest, side, frequencies))
    };
    // Both parities are read before the other rules are checked: reading can be refused too, as another class.
    let grids =
        [grid()?, grid()?].map(|(smallest, side, frequencies)| PairGrid::new(smallest, side, frequencies));
    let [even, odd] = grids;
    let table = even.and_then(|even| ClassTable::of_pairs([even, odd?]));
    table.map_err(|e| e.shifted(decoder.position()))
}

fn write_pair_table(encoder: &mut SideEncoder, contexts: &mut TableContexts, grids: &[PairGrid; 2]) {
    for grid in grids {
        encoder.direct(u32::from(grid.smallest() as u8), 8);
        encoder.direct(u32::from(grid.side()) - 1, 4);
        for &frequency in grid.frequencies() {
            encoder.number(&mut contexts.frequency, u32::from(frequency));
        }
    }
}

/// Reads the table of one class, and its identifier if it is a standard table.
fn read_class_table(
    decoder: &mut SideDecoder,
    contexts: &mut TableContexts,
    trellis: Trellis,
) -> Result<(SharedTable, Option<TableIdentifier>), PayloadError> {
    let own = |table| (SharedTable::Own(Arc::new(table)), None);
    let pairs = trellis == Trellis::Pairs;
    match decoder.direct(8)? {
        INLINE_TABLE => read_table(decoder, contexts, trellis).map(own),
        INLINE_PAIR_TABLE if pairs => read_pair_table(decoder, contexts).map(own),
        STANDARD_PAIR_TABLE if pairs => {
            let identifier = decoder.direct(8)? as u8;
            let Some(table) = standard_pair_table(identifier) else {
                return Err(bad(decoder, "the identifier of a standard pair table"));
            };
            Ok((SharedTable::Standard(table), Some(TableIdentifier::Pair(identifier))))
        }
        identifier => {
            let Some(table) = standard_table(identifier as u8) else {
                return Err(bad(decoder, "the identifier of a standard table, or of a kind of table"));
            };
            Ok((SharedTable::Standard(table), Some(TableIdentifier::Single(identifier as u8))))
        }
    }
}

/// Reads and checks the side information; `bytes` is used up exactly.
pub(super) fn read(
    bytes: &[u8],
    header: &Header,
    rows: usize,
    columns: usize,
) -> Result<SideInformation, PayloadError> {
    let mut decoder = SideDecoder::new(bytes)?;
    let decoder = &mut decoder;
    let mut classes = Vec::with_capacity(header.classes);
    let mut table_contexts = TableContexts::new();
    for _ in 0..header.classes {
        let (table, table_identifier) = read_class_table(decoder, &mut table_contexts, header.trellis)?;
        classes.push(Class { table, table_identifier, first_chunk: 0, chunks: 0 });
    }
    let entries = read_columns(decoder, header, columns)?;
    let row_scales = match header.row_scale_kind {
        None => None,
        Some(kind) => {
            let mut contexts = ScaleContexts::new(kind, 1);
            let mut scales = Vec::new();
            for _ in 0..rows {
                let code = contexts.read(decoder, 0)?;
                let Some(scale) = scale_value(kind, code, ROW_SCALE_OCTAVES) else {
                    return Err(bad(decoder, "a positive, finite, normal row scale"));
                };
                scales.push(scale);
            }
            Some(scales)
        }
    };
    let position = decoder.position();
    std::mem::replace(decoder, SideDecoder::new(&[0; 4])?).finish()?;
    arrange(header, classes, &entries)
        .map(|(classes, stream_inputs, stream_scales)| SideInformation {
            classes,
            stream_inputs,
            stream_scales,
            row_scales,
        })
        .map_err(|expected| PayloadError::new(ErrorKind::BadSideInformation, position, expected))
}

fn read_columns(
    decoder: &mut SideDecoder,
    header: &Header,
    columns: usize,
) -> Result<Vec<ColumnEntry>, PayloadError> {
    let mut entries = Vec::new();
    if header.classes == 0 {
        return if header.extra_columns == 0 {
            Ok(entries)
        } else {
            Err(bad(decoder, "classes for extra columns"))
        };
    }
    let mut class_contexts = TreeContexts::new(class_bits(header.classes));
    let mut scale_contexts = ScaleContexts::new(header.column_scale_kind, header.classes);
    let mut gap_contexts = NumberContexts::new();
    let (mut input, mut copies) = (0u32, 0);
    for index in 0..columns + header.extra_columns {
        let first = index < columns;
        if first {
            input = index as u32;
        } else {
            let gap = decoder.number(&mut gap_contexts)?;
            copies = if index > columns && gap == 0 { copies + 1 } else { 1 };
            input = if index == columns { gap } else { input.saturating_add(gap) };
            if input as usize >= columns || copies > MAX_EXTRA_COPIES {
                return Err(bad(
                    decoder,
                    "extra columns in rising order inside the matrix, each at most twice",
                ));
            }
        }
        let class = decoder.tree(&mut class_contexts)?;
        if class as usize > header.classes || (class == 0 && !first) {
            return Err(bad(decoder, "a class of the matrix"));
        }
        if class > 0 {
            let scale = scale_contexts.read(decoder, class as usize - 1)?;
            entries.push(ColumnEntry { input, class: class as u8 - 1, scale });
        }
    }
    Ok(entries)
}

/// Stream positions of the columns: classes in order, padding first, columns of a class in entry order.
#[allow(clippy::type_complexity)]
fn arrange(
    header: &Header,
    mut classes: Vec<Class>,
    entries: &[ColumnEntry],
) -> Result<(Vec<Class>, Vec<u32>, Vec<f32>), &'static str> {
    let width = header.geometry.columns_per_chunk();
    let mut counts = [0usize; MAX_CLASSES];
    for entry in entries {
        counts[usize::from(entry.class)] += 1;
    }
    let length = padded(entries.len(), header.geometry);
    let mut next = [0usize; MAX_CLASSES];
    let mut position = length - entries.len();
    for (index, class) in classes.iter_mut().enumerate() {
        let count = counts[index];
        if count == 0 {
            return Err("at least one column in every class");
        }
        next[index] = position;
        class.first_chunk = if index == 0 { 0 } else { position / width };
        position += count;
        if !position.is_multiple_of(width) {
            return Err("whole chunks in every class, padding in the first");
        }
        class.chunks = position / width - class.first_chunk;
    }
    let mut stream_inputs = vec![PADDING; length];
    let mut stream_scales = vec![0.0f32; length];
    for entry in entries {
        let Some(scale) = scale_value(header.column_scale_kind, entry.scale, 0) else {
            return Err("positive, finite, normal column scales");
        };
        let slot = &mut next[usize::from(entry.class)];
        stream_inputs[*slot] = entry.input;
        stream_scales[*slot] = header.tensor_scale * scale;
        *slot += 1;
    }
    Ok((classes, stream_inputs, stream_scales))
}

/// Writes the side information. `entries` holds the first stream column of each live input column in rising order,
/// then the extra ones in rising order; `tables` has the standard identifier of each class or a table of its own.
pub(super) fn write(
    header: &Header,
    columns: usize,
    tables: &[(Option<TableIdentifier>, ClassTable)],
    entries: &[ColumnEntry],
    row_scales: Option<&[u16]>,
) -> Vec<u8> {
    let mut encoder = SideEncoder::new();
    let mut table_contexts = TableContexts::new();
    for (identifier, table) in tables {
        match (identifier, table.pairs()) {
            (Some(TableIdentifier::Single(identifier)), _) => encoder.direct(u32::from(*identifier), 8),
            (Some(TableIdentifier::Pair(identifier)), _) => {
                encoder.direct(STANDARD_PAIR_TABLE, 8);
                encoder.direct(u32::from(*identifier), 8);
            }
            (None, Some(grids)) => {
                encoder.direct(INLINE_PAIR_TABLE, 8);
                write_pair_table(&mut encoder, &mut table_contexts, grids);
            }
            (None, None) => {
                encoder.direct(INLINE_TABLE, 8);
                write_table(&mut encoder, &mut table_contexts, table, header.trellis);
            }
        }
    }
    if header.classes > 0 {
        let mut class_contexts = TreeContexts::new(class_bits(header.classes));
        let mut scale_contexts = ScaleContexts::new(header.column_scale_kind, header.classes);
        let (first, extra) = entries.split_at(entries.len() - header.extra_columns);
        let mut live = first.iter().peekable();
        for input in 0..columns as u32 {
            match live.next_if(|entry| entry.input == input) {
                None => encoder.tree(&mut class_contexts, 0),
                Some(entry) => {
                    encoder.tree(&mut class_contexts, u32::from(entry.class) + 1);
                    scale_contexts.write(&mut encoder, usize::from(entry.class), entry.scale);
                }
            }
        }
        let mut gap_contexts = NumberContexts::new();
        let mut previous = 0;
        for entry in extra {
            encoder.number(&mut gap_contexts, entry.input - previous);
            previous = entry.input;
            encoder.tree(&mut class_contexts, u32::from(entry.class) + 1);
            scale_contexts.write(&mut encoder, usize::from(entry.class), entry.scale);
        }
    }
    if let (Some(kind), Some(scales)) = (header.row_scale_kind, row_scales) {
        let mut contexts = ScaleContexts::new(kind, 1);
        for &scale in scales {
            contexts.write(&mut encoder, 0, scale);
        }
    }
    encoder.finish()
}
