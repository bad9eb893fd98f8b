//! The worked example of `spec/FORMAT.md`: bytes, trace and tables are made here, and compared with the text.

use crate::common::forge::{payload, standard, Class, Entry, Plan, Side};
use crate::common::reread::SideReader;
use std::fmt::Write;

/// Four rows, three columns, the second one dead.
pub fn plan() -> Plan {
    Plan {
        rows: 4,
        columns: 3,
        width: 64,
        steps: 4,
        trellis: 1,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0 / 1_048_576.0,
        classes: vec![Class::Standard(20)],
        first: vec![
            Entry { input: 0, class: 0, scale: 130, integers: vec![2, 0, -1, 1] },
            Entry { input: 2, class: 0, scale: 129, integers: vec![0, 44, -2, 0] },
        ],
        extra: vec![],
        row_scales: vec![],
    }
}

pub fn bytes() -> Vec<u8> {
    payload(4, 3, &[plan().section().bytes()])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

fn read(reader: &mut SideReader, call: &Side) -> Option<u32> {
    match *call {
        Side::Direct { bits, .. } => reader.direct(bits),
        Side::Tree { context, bits, .. } => reader.tree(context, bits),
        Side::Number { context, .. } => reader.number(context),
    }
}

fn dump(text: &mut String, bytes: &[u8], at: &mut usize, fields: &[(usize, &str)]) {
    text.push_str("| offset | bytes | meaning |\n|---|---|---|\n");
    for &(size, meaning) in fields {
        let _ = writeln!(text, "| {at} | `{}` | {meaning} |", hex(&bytes[*at..*at + size]));
        *at += size;
    }
    text.push('\n');
}

fn headers(text: &mut String, bytes: &[u8], side: usize) -> usize {
    let mut at = 0;
    text.push_str("**Payload header**\n\n");
    let end = (bytes.len() - 44).to_string();
    let length = bytes.len().to_string();
    dump(
        text,
        bytes,
        &mut at,
        &[
            (4, "magic"),
            (1, "version 1"),
            (3, "feature bits"),
            (8, &format!("length: {length} bytes")),
            (4, "3 columns"),
            (4, "4 rows"),
            (4, "1 matrix"),
            (4, "reserved"),
            (8, &format!("end of matrix 0: {end} bytes after offset 44")),
            (4, "CRC of bytes 0 to 39"),
        ],
    );
    text.push_str("**Matrix header**\n\n");
    let header = 24 + side + 12 + 4;
    let tile = bytes.len() - 44 - header;
    let escapes = plan().tile(0).0.escapes.len();
    dump(
        text,
        bytes,
        &mut at,
        &[
            (4, &format!("header_length: {header}")),
            (1, "K = 64"),
            (1, "trellis 1"),
            (2, "S = 4"),
            (1, "C = 1 class"),
            (1, "logarithmic column scales"),
            (1, "no row scales"),
            (1, "reserved"),
            (4, "tensor scale 2^−20: bits 0x35800000"),
            (4, "no extra columns"),
            (4, &format!("side_length: {side}")),
            (side, "side information, see below"),
            (4, &format!("directory: tile 0 ends after {tile} bytes")),
            (4, &format!("{escapes} bytes of them are escapes")),
            (4, "CRC of the tile"),
            (4, &format!("CRC of bytes 44 to {}", 44 + header - 5)),
        ],
    );
    at
}

fn side_trace(text: &mut String, side: &[u8]) {
    let mut tracer = SideReader::new(side).unwrap();
    let _ = writeln!(
        text,
        "**Side information.** start() takes four bytes: code = 0x{:08X}. Bits are the results of split().\n",
        tracer.code
    );
    text.push_str(
        "| call | bits | result | range after | code after | position |\n|---|---|---|---|---|---|\n",
    );
    let names = [
        "direct(8): table of class 0",
        "tree(T): column 0",
        "number(D): its scale, predicted 128",
        "tree(T): column 1",
        "tree(T): column 2",
        "number(D): its scale, predicted 129",
    ];
    let meanings = [
        "20: standard table 20",
        "1: class 0",
        "4: signed +2, code 130; p = 2056",
        "0: dead",
        "1: class 0",
        "0: code 129; p = 2058",
    ];
    let calls = plan().side();
    assert_eq!(calls.len(), names.len());
    for ((call, name), meaning) in calls.iter().zip(names).zip(meanings) {
        tracer.decisions.clear();
        let got = read(&mut tracer, call).unwrap().to_string();
        assert!(meaning.starts_with(&got), "{name}: {got}");
        let _ = writeln!(
            text,
            "| {name} | {} | {meaning} | 0x{:08X} | 0x{:08X} | {} |",
            tracer.decisions, tracer.range, tracer.code, tracer.position
        );
    }
    assert!(tracer.finished());
    text.push_str("\nfinish(): the code is 0 and all bytes are used.\n\n");
}

fn tile_trace(text: &mut String, bytes: &[u8], at: usize) {
    let tile = plan().tile(0).0;
    text.push_str("**Tile 0**\n\n| offset | bytes | meaning |\n|---|---|---|\n");
    let states = &tile.states;
    assert!((1..62).all(|lane| states[lane] == states[0] && states[64 + lane] == states[64]));
    for (start, what) in [(0, "high"), (64, "low")] {
        let rows = [
            (0, 62, format!("{what} bytes of lanes 0 to 61, all equal")),
            (62, 2, format!("{what} bytes of lanes 62 and 63")),
        ];
        for (lane, count, meaning) in rows {
            let field = &states[start + lane..start + lane + count];
            let shown = if count > 2 {
                format!("`{:02X}` × {count}", field[0])
            } else {
                format!("`{}`", hex(field))
            };
            let _ = writeln!(text, "| {} | {shown} | {meaning} |", at + start + lane);
        }
    }
    let _ = writeln!(text, "| {} | `{}` | renormalisation |", at + 128, hex(&tile.renormalisation));
    let escapes_at = at + 128 + tile.renormalisation.len();
    let _ = writeln!(text, "| {escapes_at} | `{}` | escapes |\n", hex(&tile.escapes));
    assert_eq!(&bytes[at..], tile.bytes());
    text.push_str(
        "One row of this table is one symbol; lanes 0 to 61 are padding and go through the same four states each.\n\n\
         | step | lane | x before | state | q | slot | symbol | f | rank | x after | byte | k | m |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let table = standard(20);
    let mut state = [0usize; 64];
    let mut x: Vec<u32> = (0..64).map(|l| u32::from(states[l]) << 8 | u32::from(states[64 + l])).collect();
    let mut renormalisation = tile.renormalisation.iter();
    for step in 0..4 {
        for lane in 0..64 {
            let (before, q, slot) = (x[lane], state[lane] & 1, x[lane] & 255);
            let mut first = 0;
            let run = table.runs[q].iter().position(|&(_, length)| {
                first += length;
                slot < first
            });
            let symbol = table.runs[q][run.unwrap()].0;
            let slots: Vec<u32> = {
                let mut start = 0;
                let mut slots = Vec::new();
                for &(of, length) in &table.runs[q] {
                    slots.extend((start..start + length).filter(|_| of == symbol));
                    start += length;
                }
                slots
            };
            let rank = slots.iter().position(|&s| s == slot).unwrap();
            x[lane] = slots.len() as u32 * (before >> 8) + rank as u32;
            let mut byte = "".to_string();
            let mut after = x[lane].to_string();
            if x[lane] < 256 {
                let next = *renormalisation.next().unwrap();
                byte = format!("{next:02X}");
                x[lane] = x[lane] << 8 | u32::from(next);
                after = format!("{after} → {}", x[lane]);
            }
            let k = table.smallest[q] + symbol as i32;
            let old = state[lane];
            state[lane] =
                [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]][old][(k & 1) as usize];
            if lane == 0 || lane >= 62 {
                let lanes = if lane == 0 { "0–61".to_string() } else { lane.to_string() };
                let _ = writeln!(
                    text,
                    "| {step} | {lanes} | {before} | {old} | {q} | {slot} | {symbol} | {} | {rank} | {after} | {byte} | {k} | {} |",
                    slots.len(),
                    2 * k + q as i32
                );
            }
        }
    }
    assert!(x.iter().all(|&x| x == 256) && renormalisation.next().is_none());
    text.push_str("\nEvery x is 256 and no byte is left.\n\n");
}

/// The generated part of the section.
pub fn text() -> String {
    let bytes = bytes();
    let side = crate::common::forge::write_side(&plan().side());
    let mut text = String::new();
    let at = headers(&mut text, &bytes, side.len());
    side_trace(&mut text, &side);
    text.push_str(
        "**Stream order.** Two entries, K = 64: one chunk of 64 positions, the first 62 of them padding, column 0 at\n\
         position 62 and column 2 at position 63. The scales are 2^−20 · E[2] · 2^16 (bits 0x3D9837F0) and 2^−20 · E[1] · 2^16\n\
         (bits 0x3D8B95C2).\n\n",
    );
    tile_trace(&mut text, &bytes, at);
    let (tile, escapes) = plan().tile(0);
    let bits: String = tile.escapes[1..]
        .iter()
        .flat_map(|byte| (0..8).map(move |i| if byte >> i & 1 == 1 { '1' } else { '0' }))
        .collect();
    assert_eq!(escapes, [(127, 20)]);
    assert_eq!(bits, "000111111000010010000000");
    let _ = writeln!(
        text,
        "**Escapes.** g = {}; the bits that follow, in reading order, are\n\
         `{bits}`: unary() = 3 (`0001`), bits(5) = 31 (`11111`), so p = 3·32 + 31 = 127: lane 63, step 1, chunk 0, that is row 1 of position 63. unary() = 4 (`00001`),\n\
         bits(4) = 4 (`0010`), so code = 16 + 4 = 20, signed +10, and 40 is added: m = 4 + 40 = 44. Six bits are\n\
         left, all 0: the end.\n",
        tile.escapes[0]
    );
    text.push_str("**Weights** (binary32, written with 9 digits)\n\n| row | column 0 | column 1 | column 2 |\n|---|---|---|---|\n");
    let scales = [f32::from_bits(0x3D98_37F0), f32::from_bits(0x3D8B_95C2)];
    for row in 0..4 {
        let weight = |entry: usize| {
            let m = plan().first[entry].integers[row];
            let weight = scales[entry] * m as f32;
            format!("{m} · scale = {weight:.9} (0x{:08X})", weight.to_bits())
        };
        let _ = writeln!(text, "| {row} | {} | 0 | {} |", weight(0), weight(1));
    }
    text
}
