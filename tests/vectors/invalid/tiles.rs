//! Invalid tiles and escapes: section 5, and checksums of tiles.

use super::*;

pub fn tiles(cases: &mut Cases) {
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
    // The path is legal, only the end is another.
    let base = base();
    cases.parts("final-state-of-lane-0", "5.3", class, |s| s.tiles[0] = ending(&base, 0, 0));
    cases.parts("final-state-of-lane-17", "5.3", class, |s| s.tiles[1] = ending(&base, 1, 17));
    // Lane 0 codes index 0 once; its first state is 255, the second of two slots.
    let mut table = blocks(0, [-1, -1], [&[128, 128], &[128, 128]]);
    table.runs[0] = vec![(0, 127), (2, 127), (1, 2)];
    let mut plan = inline();
    plan.classes = vec![Class::Inline(table)];
    let mut section = plan.section();
    early_byte(&mut section.tiles[1], &[254, 255]);
    cases.add("state-255-refilled", "5.3", class, payload(20, 10, &[section.bytes()]));
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

/// A tile of a plan where a lane ends in 257 instead of 256.
fn ending(plan: &Plan, tile: usize, lane: usize) -> Tile {
    let mut ends = [256; 64];
    ends[lane] = 257;
    plan.tile_that_ends(tile, ends).0
}

/// In a tile where lane 0 codes one symbol, with these slots: a first state below 256, which takes one byte, and is 256 then.
fn early_byte(tile: &mut Tile, slots: &[u32]) {
    let f = slots.len();
    assert_eq!((tile.states[0], tile.states[64]), ((256 / f) as u8, slots[256 % f] as u8));
    (tile.states[0], tile.states[64]) = (0, slots[1] as u8);
    tile.renormalisation.insert(0, 0);
}

/// The same with pair tables.
pub fn pair_tiles(cases: &mut Cases) {
    let mut plan = pairs((20, 10), (16, 4), pair_class(1.5), 1.5, 5);
    set(&mut plan.first[3], 2, 300);
    let mut part = |name, edit: &dyn Fn(&mut [Tile])| {
        let mut section = plan.section();
        edit(&mut section.tiles);
        cases.add(name, "5.3", "corrupt-tile", payload(20, 10, &[section.bytes()]));
    };
    let table = plan.pair_table(0).unwrap();
    let slots = table.pairs(0).into_iter().find(|(pair, _)| *pair == [0, 0]).unwrap().1;
    part("pairs-state-below-256", &|t| t[1].states[40] = 0);
    part("pairs-state-below-256-refilled", &|t| early_byte(&mut t[1], &slots));
    part("pairs-final-state", &|t| t[0] = ending(&plan, 0, 63));
    part("pairs-final-state-of-lane-0", &|t| t[1] = ending(&plan, 1, 0));
    part("pairs-renormalisation-left", &|t| t[0].renormalisation.push(0));
    part("pairs-renormalisation-cut", &|t| assert!(t[0].renormalisation.pop().is_some()));
    part("pairs-renormalisation-missing", &|t| t[0].renormalisation.clear());
    part("pairs-renormalisation-changed", &|t| t[0].renormalisation[1] ^= 0x40);
}

pub fn escapes(cases: &mut Cases) {
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
    // 2^32 and a position that exists.
    let mut wrapping = Bits::default();
    wrapping.put(24, 8);
    wrapping.unary(256);
    wrapping.put(9, 24);
    wrapping.unary(0);
    list(cases, "escape-beyond-32-bits", wrapping.bytes);
    let padded = |zeros: usize| [write_escapes(&[(9, 2)], 3), vec![0; zeros]].concat();
    list(cases, "escape-padding-of-a-byte", padded(1));
    let mut dirty = write_escapes(&[(9, 4)], 3);
    *dirty.last_mut().unwrap() |= 0x80;
    list(cases, "escape-padding-not-zero", dirty);
    list(cases, "escape-too-large", write_escapes(&[(9, (1 << 22) - 2), (10, 1 << 22)], 3));
    // Sums of 2^23 and -2^23 exactly, where m is a multiple of 4.
    let plan = base();
    let at = |lane: usize| plan.first[lane % 16 - 6].integers[16 + lane / 16];
    let lane = (0..4).flat_map(|row| row * 16 + 6..row * 16 + 15).find(|&lane| at(lane) % 4 == 0).unwrap();
    for (name, sum) in [("escape-to-8388608", 1 << 23), ("escape-to-minus-8388608", -1 << 23)] {
        list(cases, name, write_escapes(&[(lane as u64, unsigned((sum - at(lane)) / 4))], 3));
    }
    // Three rows: row 3 of the last step is absent.
    let mut plan = one_class((19, 10), (16, 4), 2.0, 1);
    plan.first[0].scale = 90;
    let mut parts = plan.section();
    parts.tiles[1].escapes = write_escapes(&[(48 + 9, 2)], 3);
    cases.add("escape-at-absent-row", "5.4", class, payload(19, 10, &[parts.bytes()]));
    cases.parts("escape-in-first-tile-malformed", "5.4", class, |s| s.tiles[0].escapes = vec![200]);
}
