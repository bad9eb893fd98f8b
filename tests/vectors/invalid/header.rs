//! Invalid headers and directories: sections 3.1 to 3.3.

use super::*;

pub fn payload_header(cases: &mut Cases) {
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
    cases.signed("feature-bit-middle", "3.1", "unsupported-feature", |b| b[6] = 4);
    cases.signed("feature-bit-last", "3.1", "unsupported-feature", |b| b[7] = 0x80);
    cases.signed("reserved-field", "3.1", "unsupported-feature", |b| b[28] = 1);
    cases.signed("reserved-field-second", "3.1", "unsupported-feature", |b| b[29] = 1);
    cases.signed("reserved-field-third", "3.1", "unsupported-feature", |b| b[30] = 0x10);
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

pub fn limits(cases: &mut Cases) {
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
    let shape = |b: &mut [u8], shape: [u32; 3]| (0..3).for_each(|i| put32(b, 16 + 4 * i, shape[i]));
    // 2^25 + 1; 2^32, which 32 bits take for none.
    for (name, numbers) in [
        ("most-rows-and-columns-by-one", [10, 11_184_801, 3]),
        ("most-rows-and-columns-32-bits", [1 << 17, 1 << 17, 1 << 14]),
    ] {
        cases.raw(name, "3.1", "limit-exceeded", |b| shape(b, numbers));
    }
    // What meets a limit passes it; then the checksum decides.
    for (name, numbers) in [
        ("columns-meet-limit", [1 << 20, 20, 1]),
        ("rows-meet-limit", [10, 1 << 24, 1]),
        ("rows-and-columns-meet-limit", [10, (1 << 24) - 10, 2]),
    ] {
        cases.raw(name, "3.1", "bad-checksum", |b| shape(b, numbers));
    }
}

pub fn matrix_header(cases: &mut Cases) {
    let short = payload(20, 10, &[vec![0; 23]]);
    cases.add("matrix-of-23-bytes", "3.2", "truncated", short);
    cases.add("matrix-of-0-bytes", "3.2", "truncated", payload(20, 10, &[vec![]]));
    let mut least = vec![0; 24];
    least[0] = 24;
    cases.add("matrix-of-24-bytes", "3.2", "bad-header", payload(20, 10, &[least]));
    cases.signed("matrix-header-beyond", "3.2", "truncated", |b| {
        let size = (b.len() - MATRIX) as u32;
        put32(b, MATRIX, size + 1);
    });
    cases.signed("matrix-header-27-bytes", "3.2", "bad-header", |b| put32(b, MATRIX, 27));
    cases.raw("matrix-checksum", "3.2", "bad-checksum", |b| b[MATRIX + 24] ^= 0x10);
    let field = |cases: &mut Cases, name, class, at: usize, value: u8| {
        cases.signed(name, "3.2", class, |b| b[MATRIX + at] = value);
    };
    for (name, width) in [
        ("chunk-of-8", 8),
        ("chunk-of-0", 0),
        ("chunk-of-1", 1),
        ("chunk-of-2", 2),
        ("chunk-of-32", 32),
        ("chunk-of-128", 128),
    ] {
        field(cases, name, "bad-header", 4, width);
    }
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

pub fn directories(cases: &mut Cases) {
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
    // One more entry behind those of all tiles, of a tile without bytes.
    cases.signed("directory-one-entry-more", "3.3", "bad-directory", |b| {
        let end = MATRIX + get32(b, MATRIX) as usize - 4;
        let entry: Vec<u8> = [&b[end - 12..end - 8], &[0; 8]].concat();
        b.splice(end..end, entry);
        for at in [8, 32, MATRIX] {
            let longer = get32(b, at) + 12;
            put32(b, at, longer);
        }
    });
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
