//! Invalid payloads: at least one for every check of the text, each wrong in one place only, checksums made right
//! again except where they are the point.

use crate::common::forge::{
    payload, write_escapes, write_side, Bits, Class, Context, PairTable, Plan, Section, Side, Table,
};
use crate::common::resign::resign;
use crate::draw::{blocks, class, empty, fill, many_classes, one_class, pair_class, pairs, set};

/// An invalid payload and how it has to be refused.
pub struct Invalid {
    pub name: &'static str,
    /// Section of the text that has the check.
    pub section: &'static str,
    /// Class that a verifier reports.
    pub class: &'static str,
    /// Whether a decoder that does not look at the checksums of tiles refuses it too.
    pub decoder: bool,
    pub bytes: Vec<u8>,
}

struct Cases(Vec<Invalid>);

impl Cases {
    fn add(&mut self, name: &'static str, section: &'static str, class: &'static str, bytes: Vec<u8>) {
        self.0.push(Invalid { name, section, class, decoder: true, bytes });
    }

    /// Damages the base payload without touching its checksums.
    fn raw(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Vec<u8>),
    ) {
        let mut bytes = base_bytes();
        edit(&mut bytes);
        self.add(name, section, class, bytes);
    }

    /// Damages the base payload and makes checksums right.
    fn signed(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Vec<u8>),
    ) {
        self.raw(name, section, class, |bytes| {
            edit(bytes);
            resign(bytes, false);
        });
    }

    /// Changes the parts of the base matrix.
    fn parts(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Section),
    ) {
        let mut parts = base().section();
        edit(&mut parts);
        self.add(name, section, class, payload(20, 10, &[parts.bytes()]));
    }

    /// Changes the calls of the side information of a plan.
    fn side(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        plan: &Plan,
        edit: impl Fn(&mut Vec<Side>),
    ) {
        let mut parts = plan.section();
        edit(&mut parts.side);
        self.add(name, section, class, payload(plan.rows, plan.columns, &[parts.bytes()]));
    }

    /// A matrix with an illegal inline table; its tiles are those of a legal one.
    fn table(&mut self, name: &'static str, table: Table) {
        let mut plan = empty(20, 10, 16, 4);
        plan.classes.push(Class::Inline(blocks(
            table.raw_bits.min(4),
            [-1, -1],
            [&[64, 128, 64], &[128, 128]],
        )));
        fill(&mut plan, 1.0, 3);
        let mut parts = plan.section();
        plan.classes = vec![Class::Inline(table)];
        parts.side = plan.side();
        self.add(name, "4.3", "bad-table", payload(20, 10, &[parts.bytes()]));
    }
}

/// 20 x 10, one chunk of 16 positions of which 6 are padding, two tiles of 4 and 1 steps, one escape in the second.
fn base() -> Plan {
    let mut plan = one_class((20, 10), (16, 4), 2.0, 1);
    set(&mut plan.first[9], 19, 300);
    plan
}

fn base_bytes() -> Vec<u8> {
    payload(20, 10, &[base().section().bytes()])
}

const MATRIX: usize = 44;

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Offset of the base payload's directory.
fn directory(bytes: &[u8]) -> usize {
    MATRIX + 24 + get32(bytes, MATRIX + 20) as usize
}

/// All invalid payloads.
pub fn all() -> Vec<Invalid> {
    let mut cases = Cases(Vec::new());
    payload_header(&mut cases);
    limits(&mut cases);
    matrix_header(&mut cases);
    directories(&mut cases);
    side_coder(&mut cases);
    side_values(&mut cases);
    tables(&mut cases);
    pair_tables(&mut cases);
    tiles(&mut cases);
    escapes(&mut cases);
    cases.0
}

fn payload_header(cases: &mut Cases) {
    cases.raw("empty", "3.1", "truncated", |b| b.clear());
    cases.raw("three-bytes", "3.1", "truncated", |b| b.truncate(3));
    cases.raw("magic", "3.1", "bad-magic", |b| b[3] = b'D');
    cases.raw("magic-and-short", "3.1", "bad-magic", |b| {
        b[0] = b'X';
        b.truncate(4);
    });
    cases.raw("header-31-bytes", "3.1", "truncated", |b| b.truncate(31));
    for (name, version) in [("version-0", 0), ("version-2", 2), ("version-255", 255)] {
        cases.signed(name, "3.1", "unsupported-version", |b| b[4] = version);
    }
    cases.signed("feature-bit", "3.1", "unsupported-feature", |b| b[5] = 1);
    cases.signed("feature-bit-last", "3.1", "unsupported-feature", |b| b[7] = 0x80);
    cases.signed("reserved-field", "3.1", "unsupported-feature", |b| b[28] = 1);
    cases.signed("reserved-field-last", "3.1", "unsupported-feature", |b| b[31] = 1);
    cases.raw("cut-by-one-byte", "3.1", "truncated", |b| b.truncate(b.len() - 1));
    cases.signed("length-too-large", "3.1", "truncated", |b| b[8] += 1);
    cases.signed("length-huge", "3.1", "truncated", |b| b[15] = 0xFF);
    cases.raw("one-byte-more", "3.1", "trailing-bytes", |b| b.push(0));
    cases.signed("length-zero", "3.1", "trailing-bytes", |b| b[8..16].fill(0));
    for (name, at) in [("no-columns", 16), ("no-rows", 20), ("no-matrices", 24)] {
        cases.signed(name, "3.1", "bad-header", |b| put32(b, at, 0));
    }
    cases.raw("payload-checksum", "3.1", "bad-checksum", |b| b[40] ^= 1);
    cases.raw("columns-without-checksum", "3.1", "bad-checksum", |b| b[16] += 1);
    cases.signed("ends-beyond-payload", "3.1", "truncated", |b| put32(b, 24, 1 << 14));
    cases.signed("matrix-end-beyond", "3.1", "bad-directory", |b| b[32] += 1);
    cases.signed("matrix-end-huge", "3.1", "bad-directory", |b| b[39] = 0x80);
    cases.signed("bytes-after-matrices", "3.1", "bad-directory", |b| {
        b.push(0);
        b[8] += 1;
    });
    let section = base().section().bytes();
    let mut falling = payload(20, 10, &[section.clone(), section]);
    let end = get32(&falling, 32);
    put32(&mut falling, 40, end - 1);
    resign(&mut falling, false);
    cases.add("matrix-ends-fall", "3.1", "bad-directory", falling);
}

fn limits(cases: &mut Cases) {
    for (name, at, value) in [
        ("most-columns", 16, (1 << 20) + 1),
        ("most-rows", 20, (1 << 24) + 1),
        ("most-matrices", 24, (1 << 14) + 1),
    ] {
        cases.raw(name, "3.1", "limit-exceeded", |b| put32(b, at, value));
    }
    cases.raw("most-rows-and-columns", "3.1", "limit-exceeded", |b| {
        put32(b, 20, 1 << 24);
        put32(b, 24, 2);
    });
}

fn matrix_header(cases: &mut Cases) {
    let short = payload(20, 10, &[vec![0; 23]]);
    cases.add("matrix-of-23-bytes", "3.2", "truncated", short);
    cases.add("matrix-of-0-bytes", "3.2", "truncated", payload(20, 10, &[vec![]]));
    cases.signed("matrix-header-beyond", "3.2", "truncated", |b| {
        let size = (b.len() - MATRIX) as u32;
        put32(b, MATRIX, size + 1);
    });
    cases.signed("matrix-header-27-bytes", "3.2", "bad-header", |b| put32(b, MATRIX, 27));
    cases.raw("matrix-checksum", "3.2", "bad-checksum", |b| b[MATRIX + 24] ^= 0x10);
    let field = |cases: &mut Cases, name, class, at: usize, value: u8| {
        cases.signed(name, "3.2", class, |b| b[MATRIX + at] = value);
    };
    field(cases, "chunk-of-8", "bad-header", 4, 8);
    field(cases, "chunk-of-0", "bad-header", 4, 0);
    field(cases, "trellis-3", "unsupported-feature", 5, 3);
    field(cases, "no-steps", "bad-header", 6, 0);
    cases.signed("steps-257", "3.2", "bad-header", |b| b[MATRIX + 6..MATRIX + 8].copy_from_slice(&[1, 1]));
    field(cases, "classes-33", "bad-header", 8, 33);
    field(cases, "column-scale-kind-2", "unsupported-feature", 9, 2);
    field(cases, "row-scale-kind-3", "unsupported-feature", 10, 3);
    field(cases, "matrix-reserved-byte", "unsupported-feature", 11, 1);
    for (name, bits) in [
        ("tensor-scale-zero", 0),
        ("tensor-scale-negative", 0xBF80_0000),
        ("tensor-scale-nan", 0x7FC0_0000),
        ("tensor-scale-infinite", 0x7F80_0000),
        ("tensor-scale-too-small", (31 << 23) - 1),
        ("tensor-scale-too-large", 168 << 23),
    ] {
        cases.signed(name, "3.2", "bad-header", |b| put32(b, MATRIX + 12, bits));
    }
    cases.signed("extra-columns-21", "3.2", "bad-header", |b| put32(b, MATRIX + 16, 21));
    cases.signed("side-information-beyond", "3.2", "bad-header", |b| {
        let most = get32(b, MATRIX) - 28;
        put32(b, MATRIX + 20, most + 1);
    });
}

fn directories(cases: &mut Cases) {
    let entry = |cases: &mut Cases, name, edit: fn(&mut [u8])| {
        cases.signed(name, "3.3", "bad-directory", |b| {
            let at = directory(b);
            edit(&mut b[at..]);
        });
    };
    entry(cases, "tile-end-beyond", |d| d[12] += 1);
    entry(cases, "tile-end-short", |d| d[12] -= 1);
    entry(cases, "tile-ends-fall", |d| put32(d, 0, get32(d, 12) + 1));
    entry(cases, "tile-without-states", |d| put32(d, 0, 127));
    entry(cases, "escapes-over-states", |d| put32(d, 4, get32(d, 0) - 127));
    entry(cases, "escapes-longer-than-tile", |d| put32(d, 4, get32(d, 0) + 1));
    // The directory of another number of rows: one entry more or less than there are tiles.
    cases.signed("directory-too-long", "3.3", "bad-directory", |b| put32(b, 20, 16));
    cases.signed("directory-too-short", "3.3", "bad-directory", |b| put32(b, 20, 33));
    let mut dead = empty(20, 10, 16, 4).section().bytes();
    dead.push(0);
    cases.add("dead-matrix-with-tiles", "3.3", "bad-directory", payload(20, 10, &[dead]));
    let mut raw = empty(20, 10, 16, 4);
    raw.classes.push(Class::Inline(blocks(4, [-4, -4], [&[32; 8], &[32; 8]])));
    fill(&mut raw, 40.0, 5);
    let mut parts = raw.section();
    let tile = &mut parts.tiles[1];
    tile.renormalisation.clear();
    tile.escapes.clear();
    tile.raw.pop();
    cases.add("raw-plane-cut", "3.3", "bad-directory", payload(20, 10, &[parts.bytes()]));
}

fn side_coder(cases: &mut Cases) {
    let with = |side: &[u8]| payload(20, 10, &[base().section().bytes_with_side(side)]);
    let good = write_side(&base().side());
    let class = "bad-side-information";
    cases.add("side-of-3-bytes", "4.1", class, with(&good[..3]));
    cases.add("side-empty", "4.1", class, with(&[]));
    let mut start = good.clone();
    start[..4].fill(0xFF);
    cases.add("side-start-out-of-range", "4.1", class, with(&start));
    cases.add("side-cut", "4.1", class, with(&good[..good.len() - 1]));
    cases.add("side-one-byte-more", "4.1", class, with(&[&good[..], &[0]].concat()));
    let mut end = good.clone();
    *end.last_mut().unwrap() ^= 1;
    cases.add("side-ends-in-another-code", "4.1", class, with(&end));
    cases.side("number-too-long", "4.1", class, &base(), |calls| {
        calls.truncate(2);
        calls.push(Side::Number { context: Context::ColumnScale, value: (1 << 24) - 1 });
    });
}

fn scale_call(calls: &mut [Side], context: Context) -> &mut Side {
    let found =
        calls.iter_mut().find(|call| matches!(call, Side::Number { context: c, .. } if *c == context));
    found.expect("a scale")
}

fn side_values(cases: &mut Cases) {
    let class_error = "bad-side-information";
    let mut dead = empty(20, 10, 16, 4).section();
    dead.fields[12] = 1;
    cases.add("extra-columns-of-a-dead-matrix", "4.2", class_error, payload(20, 10, &[dead.bytes()]));
    for (name, value) in [("table-252", 252), ("table-253", 253), ("table-254", 254)] {
        cases.side(name, "4.3", class_error, &base(), |calls| calls[0] = Side::Direct { value, bits: 8 });
    }
    let paired = pairs((20, 10), (16, 4), pair_class(1.0), 1.0, 5);
    cases.side("table-252-with-pairs", "4.3", class_error, &paired, |calls| {
        calls[0] = Side::Direct { value: 252, bits: 8 };
        calls.remove(1);
    });
    cases.side("pair-table-104", "4.3", class_error, &paired, |calls| {
        calls[1] = Side::Direct { value: 104, bits: 8 };
    });
    let mut parts = base();
    parts.extra = vec![parts.first[4].clone(), parts.first[4].clone(), parts.first[7].clone()];
    let gap = |calls: &mut Vec<Side>, nth: usize, value| {
        let is_gap = |call: &&mut Side| matches!(call, Side::Number { context: Context::Gap, .. });
        *calls.iter_mut().filter(is_gap).nth(nth).unwrap() = Side::Number { context: Context::Gap, value };
    };
    cases.side("part-of-column-10", "4.4", class_error, &parts, |calls| gap(calls, 2, 6));
    cases.side("first-part-of-column-10", "4.4", class_error, &parts, |calls| gap(calls, 0, 10));
    cases.side("part-far-outside", "4.4", class_error, &parts, |calls| gap(calls, 2, (1 << 24) - 2));
    cases.side("fourth-part", "4.4", class_error, &parts, |calls| gap(calls, 2, 0));
    let two = many_classes(20, (16, 4), vec![class(0.7), class(5.0)], &[0.7, 5.0], 3, 23);
    let tree = |value| Side::Tree { context: Context::Class(2), value, bits: 2 };
    cases.side("class-3-of-2", "4.4", class_error, &two, |calls| calls[2] = tree(3));
    cases.side("dead-part", "4.4", class_error, &parts, |calls| {
        let last = calls.len() - 2;
        calls[last] = Side::Tree { context: Context::Class(1), value: 0, bits: 1 };
        calls.pop();
    });
    for (name, value) in [("scale-code-256", 256), ("scale-code-negative", 257)] {
        // The first prediction is 128: 256 is signed +128, 257 is signed -129.
        cases.side(name, "4.5", class_error, &base(), |calls| {
            *scale_call(calls, Context::ColumnScale) = Side::Number { context: Context::ColumnScale, value };
        });
    }
    let mut rows = base();
    (rows.row_kind, rows.row_scales) = (1, vec![128; 20]);
    for (name, value) in [("row-scale-code-256", 256), ("row-scale-code-negative", 257)] {
        cases.side(name, "4.5", class_error, &rows, |calls| {
            *scale_call(calls, Context::RowScale) = Side::Number { context: Context::RowScale, value };
        });
    }
    let halves = [
        ("half-zero", "row-half-zero", 0),
        ("half-subnormal", "row-half-subnormal", 0x03FF),
        ("half-infinite", "row-half-infinite", 0x7C00),
        ("half-nan", "row-half-nan", 0x7E00),
        ("half-negative", "row-half-negative", 0xBC00),
    ];
    for (column_name, row_name, value) in halves {
        let mut columns = base();
        columns.column_kind = 1;
        columns.first.iter_mut().for_each(|entry| entry.scale = 0x3C00);
        columns.first[5].scale = value;
        cases.side(column_name, "4.5", class_error, &columns, |_| ());
        (rows.row_kind, rows.row_scales) = (2, vec![0x3C00; 20]);
        rows.row_scales[19] = value;
        cases.side(row_name, "4.5", class_error, &rows, |_| ());
    }
    let mut hollow = two.clone();
    hollow.classes.insert(1, class(1.0));
    hollow.first.iter_mut().filter(|entry| entry.class == 1).for_each(|entry| entry.class = 2);
    cases.side("class-without-columns", "4.6", class_error, &hollow, |_| ());
    let mut first = two.section();
    first.side.retain(|call| !matches!(call, Side::Number { .. }));
    first.side[2..].fill(tree(0));
    cases.add("all-columns-dead", "4.6", class_error, payload(two.rows, two.columns, &[first.bytes()]));
    let mut uneven = two.clone();
    uneven.first.iter_mut().find(|entry| entry.class == 0).unwrap().class = 1;
    let mut section = two.section();
    section.side = uneven.side();
    let bytes = payload(two.rows, two.columns, &[section.bytes()]);
    cases.add("class-of-broken-chunks", "4.6", class_error, bytes);
}

fn tables(cases: &mut Cases) {
    let two: &[u32] = &[128, 128];
    cases.table("table-raw-bits-5", blocks(5, [-1, -1], [two, two]));
    cases.table("table-raw-bits-7", blocks(7, [-1, -1], [two, two]));
    cases.table("table-run-of-256", blocks(0, [-1, -1], [&[256], two]));
    cases.table("table-257-slots", blocks(0, [-1, -1], [&[128, 129], two]));
    cases.table("table-257-slots-parity-1", blocks(0, [-1, -1], [two, &[250, 7]]));
    let mut whole = blocks(0, [-1, -1], [two, two]);
    whole.runs[1] = vec![(1, 100), (1, 156)];
    cases.table("table-symbol-of-256-slots", whole.clone());
    whole.runs = [
        (0..33).map(|i| (i % 2, if i == 0 { 128 } else { 4 })).collect(),
        (0..32).map(|i| (i % 2, 8)).collect(),
    ];
    cases.table("table-65-runs", whole.clone());
    whole.runs = [(0..256).map(|i| (i % 2, 1)).collect(), vec![(0, 128), (1, 128)]];
    cases.table("table-256-runs", whole);
    // With trellis 0 the copy of the list counts too.
    let mut scalar = empty(20, 10, 16, 4);
    scalar.trellis = 0;
    let runs = (0..33u32).map(|i| (i % 3, if i == 0 { 32 } else { 7 })).collect();
    scalar.classes.push(Class::Inline(Table { raw_bits: 0, smallest: [-1, -1], runs: [runs, vec![]] }));
    fill(&mut scalar, 1.0, 4);
    let bytes = payload(20, 10, &[scalar.section().bytes()]);
    cases.add("table-33-runs-without-trellis", "4.3", "bad-table", bytes);
    cases.table("table-value-128", blocks(0, [0, 63], [two, two]));
    cases.table("table-value-128-by-offset", blocks(0, [-33, 30], [&[8; 32], two]));
    cases.table("table-value-256", blocks(1, [63, -1], [two, two]));
    cases.table("table-value-256-by-offset", blocks(4, [-5, 2], [&[32; 8], two]));
    let mut far = blocks(0, [0, -1], [two, two]);
    far.runs[0] = vec![(0, 255), (63, 1)];
    far.smallest[0] = 1;
    cases.table("table-rare-symbol-too-far", far);
}

fn pair_tables(cases: &mut Cases) {
    let four = || vec![64u32; 4];
    let with = |smallest: [i32; 2], side: [usize; 2], frequencies: [Vec<u32>; 2]| {
        Class::InlinePairs(PairTable { smallest, side, frequencies })
    };
    let legal = pairs((20, 10), (16, 4), with([-1, -1], [2, 2], [four(), four()]), 0.8, 6);
    let many = [vec![3u32; 61], vec![19, 18, 18, 18], vec![0; 16]].concat();
    let far = [vec![1], vec![0; 254], vec![255]].concat();
    for (name, smallest, side, frequencies) in [
        ("pairs-255-slots", [-1, -1], [2, 2], [vec![64, 64, 64, 63], four()]),
        ("pairs-257-slots-parity-1", [-1, -1], [2, 2], [four(), vec![64, 64, 64, 65]]),
        ("pairs-256-slots-of-one", [-1, -1], [2, 2], [four(), vec![0, 256, 0, 0]]),
        ("pairs-huge-frequency", [-1, -1], [2, 2], [vec![64, 64, 64, (1 << 24) - 2], four()]),
        ("pairs-65", [-4, -1], [9, 2], [many, four()]),
        ("pairs-value-129", [-32, 31], [16, 2], [far.clone(), four()]),
        ("pairs-value-of-rare-pair", [50, 50], [16, 2], [far, four()]),
    ] {
        let mut section = legal.section();
        let mut plan = legal.clone();
        plan.classes = vec![with(smallest, side, frequencies)];
        section.side = plan.side();
        cases.add(name, "4.3", "bad-table", payload(20, 10, &[section.bytes()]));
    }
}

fn tiles(cases: &mut Cases) {
    let class = "corrupt-tile";
    cases.parts("state-below-256", "5.3", class, |s| {
        // Lane 40 of the second tile.
        s.tiles[1].states[40] = 0;
    });
    cases.parts("state-zero", "5.3", class, |s| s.tiles[0].states.fill(0));
    cases.parts("renormalisation-cut", "5.3", class, |s| {
        s.tiles[0].renormalisation.pop();
    });
    cases.parts("renormalisation-missing", "5.3", class, |s| s.tiles[0].renormalisation.clear());
    cases.parts("renormalisation-left", "5.3", class, |s| s.tiles[0].renormalisation.push(0));
    cases.parts("final-state", "5.3", class, |s| *s.tiles[1].states.last_mut().unwrap() ^= 1);
    cases.parts("renormalisation-changed", "5.3", class, |s| s.tiles[0].renormalisation[3] ^= 0x40);
    let mut raw = empty(20, 10, 16, 4);
    raw.classes.push(Class::Inline(blocks(4, [-4, -4], [&[32; 8], &[32; 8]])));
    raw.trellis = 0;
    fill(&mut raw, 40.0, 5);
    let mut bytes = payload(20, 10, &[raw.section().bytes()]);
    let at = bytes.len() - raw.tile(1).0.bytes().len();
    bytes[at + 9] ^= 4;
    // Raw bits are not coded: only the checksum tells.
    cases.0.push(Invalid {
        name: "tile-checksum",
        section: "9",
        class: "bad-checksum",
        decoder: false,
        bytes,
    });
    let mut bytes = base_bytes();
    let last = bytes.len() - 1;
    bytes[last] = 0xFF;
    cases.0.push(Invalid {
        name: "tile-checksum-first",
        section: "9",
        class: "bad-checksum",
        decoder: true,
        bytes,
    });
}

fn escapes(cases: &mut Cases) {
    let class = "bad-escape";
    let list = |cases: &mut Cases, name, bytes: Vec<u8>| {
        cases.parts(name, "5.4", class, move |s| s.tiles[1].escapes = bytes.clone());
    };
    // The second tile has one step: positions 0 to 63, four rows, columns 6 to 15 of the chunk are not padding.
    list(cases, "escape-parameter-25", write_escapes(&[(9, 2)], 25));
    list(cases, "escape-list-empty", vec![4]);
    list(cases, "escape-gap-endless", vec![4, 0, 0, 0]);
    list(cases, "escape-parameter-bits-missing", vec![24, 1, 0, 0]);
    let mut bits = Bits::default();
    bits.put(4, 8);
    bits.unary(0);
    bits.put(9, 4);
    let gap = bits.clone();
    bits.unary(23);
    bits.put(0, 23);
    list(cases, "escape-exponent-23", bits.bytes);
    let mut endless = gap.clone();
    endless.put(0, 11);
    list(cases, "escape-exponent-endless", endless.bytes);
    let mut cut = gap;
    cut.unary(10);
    list(cases, "escape-value-cut", cut.bytes);
    list(cases, "escape-at-padding", write_escapes(&[(16, 2)], 3));
    list(cases, "escape-beyond-chunks", write_escapes(&[(64 + 9, 2)], 3));
    list(
        cases,
        "escape-far-beyond",
        write_escapes(&[(1 << 40, 2)], 24)
            .into_iter()
            .take(1)
            .chain(vec![0; 300])
            .chain([1, 0, 0, 0, 1])
            .collect(),
    );
    let padded = |zeros: usize| [write_escapes(&[(9, 2)], 3), vec![0; zeros]].concat();
    list(cases, "escape-padding-of-a-byte", padded(1));
    let mut dirty = write_escapes(&[(9, 4)], 3);
    *dirty.last_mut().unwrap() |= 0x80;
    list(cases, "escape-padding-not-zero", dirty);
    list(cases, "escape-too-large", write_escapes(&[(9, (1 << 22) - 2), (10, 1 << 22)], 3));
    // Three rows: row 3 of the last step is absent.
    let mut plan = one_class((19, 10), (16, 4), 2.0, 1);
    plan.first[0].scale = 90;
    let mut parts = plan.section();
    parts.tiles[1].escapes = write_escapes(&[(48 + 9, 2)], 3);
    cases.add("escape-at-absent-row", "5.4", class, payload(19, 10, &[parts.bytes()]));
    cases.parts("escape-in-first-tile-malformed", "5.4", class, |s| s.tiles[0].escapes = vec![200]);
}
