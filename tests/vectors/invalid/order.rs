//! Payloads that are wrong in two places: the check that comes first in the text decides the class.

use super::*;

/// Section 3.1.
pub fn payload_headers(cases: &mut Cases) {
    let section = "3.1";
    cases.raw("order-31-bytes-and-version", section, "truncated", |b| {
        b[4] = 2;
        b.truncate(31);
    });
    cases.raw("order-version-and-32-bytes", section, "unsupported-version", |b| {
        b[4] = 2;
        b.truncate(32);
    });
    cases.signed("order-version-and-features", section, "unsupported-version", |b| (b[4], b[5]) = (2, 1));
    cases.signed("order-version-and-length", section, "unsupported-version", |b| {
        b[4] = 2;
        b[8..16].fill(0);
    });
    cases.signed("order-features-and-length", section, "unsupported-feature", |b| {
        b[30] = 1;
        b[8..16].fill(0);
    });
    cases.signed("order-features-and-cut", section, "unsupported-feature", |b| (b[6], b[15]) = (1, 0xFF));
    cases.raw("order-length-and-no-rows", section, "truncated", |b| {
        b[8] += 1;
        put32(b, 20, 0);
    });
    cases.raw("order-no-columns-and-limits", section, "bad-header", |b| {
        put32(b, 16, 0);
        put32(b, 20, (1 << 24) + 1);
    });
    cases.raw("order-limits-and-ends", section, "limit-exceeded", |b| {
        put32(b, 16, (1 << 20) + 1);
        put32(b, 24, 1 << 14);
    });
    // Matrix after matrix: the first one is opened before the end of the second is looked at.
    let mut wrong = base().section();
    wrong.fields[0] = 8;
    let mut bytes = payload(20, 10, &[wrong.bytes(), base().section().bytes()]);
    bytes[40] += 1;
    resign(&mut bytes, false);
    cases.add("order-first-matrix-and-second-end", section, "bad-header", bytes);
    let mut bytes = payload(20, 10, &[wrong.bytes()]);
    bytes.push(0);
    bytes[8] += 1;
    resign(&mut bytes, false);
    cases.add("order-matrix-and-bytes-after", section, "bad-header", bytes);
}

/// Section 3.2.
pub fn matrix_headers(cases: &mut Cases) {
    let section = "3.2";
    let mut short = vec![0; 24];
    short[0] = 26;
    cases.add("order-header-beyond-and-short", section, "truncated", payload(20, 10, &[short]));
    cases.raw("order-checksum-and-chunk", section, "bad-checksum", |b| b[MATRIX + 4] = 8);
    // Neighbours in the list of checks that have different classes: (offset, value) each.
    for (name, class, first, second) in [
        ("order-chunk-and-trellis", "bad-header", (4, 8), (5, 3)),
        ("order-trellis-and-classes", "unsupported-feature", (5, 3), (8, 33)),
        ("order-classes-and-column-kind", "bad-header", (8, 33), (9, 2)),
        ("order-row-kind-and-tensor-scale", "unsupported-feature", (10, 3), (15, 0)),
        ("order-reserved-byte-and-tensor-scale", "unsupported-feature", (11, 1), (15, 0)),
        ("order-reserved-byte-and-extra", "unsupported-feature", (11, 1), (17, 1)),
    ] {
        cases.signed(name, section, class, |b| {
            for (at, value) in [first, second] {
                b[MATRIX + at] = value;
            }
        });
    }
}

/// Sections 3.2 and 4.
pub fn side_information(cases: &mut Cases) {
    let class = "bad-side-information";
    // The directory of another number of rows, and side information that ends in another code.
    cases.signed("order-side-information-and-directory", "3.2", class, |b| {
        put32(b, 20, 16);
        let last = directory(b) - 1;
        b[last] ^= 1;
    });
    // The last byte of the side information counts to the directory, whose length is then no multiple of 12.
    cases.signed("order-side-cut-and-directory", "3.2", class, |b| {
        let less = get32(b, MATRIX + 20) - 1;
        put32(b, MATRIX + 20, less);
    });
    // The rules of a table are checked when all of it is read.
    let broken = Table { raw_bits: 7, ..blocks(0, [-1, -1], [&[128, 128], &[128, 128]]) };
    let mut plan = inline();
    plan.classes = vec![Class::Inline(broken)];
    let mut section = inline().section();
    section.side = plan.side();
    section.side.truncate(4);
    section.side.extend(too_long(Context::Length));
    cases.add("order-number-and-raw-bits", "4.1", class, payload(20, 10, &[section.bytes()]));
    let mut section = inline_pairs().section();
    section.side.truncate(4);
    section.side.extend([Side::Number { context: Context::Frequency, value: 200 }; 2]);
    section.side.extend(too_long(Context::Frequency));
    cases.add("order-number-and-sum-of-pairs", "4.1", class, payload(20, 10, &[section.bytes()]));
    // A table that breaks a rule comes before the columns, and these before row scales.
    plan.first[0].scale = 300;
    let mut section = inline().section();
    section.side = plan.side();
    cases.add("order-table-and-scale", "4.3", "bad-table", payload(20, 10, &[section.bytes()]));
}

/// Sections 5 and 9.
pub fn tiles(cases: &mut Cases) {
    cases.parts("order-tile-and-escapes", "5.3", "corrupt-tile", |s| {
        s.tiles[1].renormalisation.push(0);
        s.tiles[1].escapes = vec![200];
    });
    cases.parts("order-first-tile-and-second", "5.4", "bad-escape", |s| {
        s.tiles[0].escapes = vec![200];
        s.tiles[1].states.fill(0);
    });
    // All matrices are opened before a tile is decoded.
    let (mut first, mut second) = (base().section(), base().section());
    first.tiles[0].states.fill(0);
    second.fields[4] = 33;
    let bytes = payload(20, 10, &[first.bytes(), second.bytes()]);
    cases.add("order-second-matrix-and-first-tile", "3.2", "bad-header", bytes);
}
