//! Invalid inline tables: section 4.3.

use super::*;

pub fn tables(cases: &mut Cases) {
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
    // Integers up to 124 and down to -2, whose next multiple of 4 is the offset 4: 128.
    let mut rounded = blocks(0, [-1, -1], [two, two]);
    rounded.runs[0] = vec![(0, 100), (1, 100), (63, 56)];
    cases.table("table-value-128-by-rounding", rounded);
    // Parity 1 begins at -65, so that 60 of parity 0 is 128.
    let mut other = blocks(0, [0, -33], [&[8; 31], two]);
    other.runs[0][0].1 = 16;
    cases.table("table-value-128-by-parity-1", other);
    // The smallest index counts, also if no symbol reaches it.
    let mut absent = blocks(0, [-33, -1], [two, two]);
    absent.runs[0] = vec![(32, 100), (33, 100), (63, 56)];
    cases.table("table-value-128-by-absent-symbols", absent);
}

pub fn pair_tables(cases: &mut Cases) {
    let four = || vec![64u32; 4];
    let with = |smallest: [i32; 2], side: [usize; 2], frequencies: [Vec<u32>; 2]| {
        Class::InlinePairs(PairTable { smallest, side, frequencies })
    };
    let legal = inline_pairs();
    let many = [vec![3u32; 61], vec![19, 18, 18, 18], vec![0; 16]].concat();
    let far = [vec![1], vec![0; 254], vec![255]].concat();
    // Only the first two of four, or the first of eleven indices have a frequency.
    let absent = vec![64, 64, 0, 0, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let eleven = [vec![128, 128], vec![0; 119]].concat();
    for (name, smallest, side, frequencies) in [
        ("pairs-255-slots", [-1, -1], [2, 2], [vec![64, 64, 64, 63], four()]),
        ("pairs-257-slots-parity-1", [-1, -1], [2, 2], [four(), vec![64, 64, 64, 65]]),
        ("pairs-256-slots-of-one", [-1, -1], [2, 2], [four(), vec![0, 256, 0, 0]]),
        ("pairs-huge-frequency", [-1, -1], [2, 2], [vec![64, 64, 64, (1 << 24) - 2], four()]),
        ("pairs-65", [-4, -1], [9, 2], [many.clone(), four()]),
        ("pairs-65-parity-1", [-1, -4], [2, 9], [four(), many]),
        ("pairs-value-128-of-absent-pair", [61, 60], [4, 2], [absent, four()]),
        ("pairs-value-128-by-parity-1", [20, -33], [11, 2], [eleven, four()]),
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

/// Whole payloads with pair tables, but for another trellis, which knows no identifiers above 252 but 255.
pub fn identifiers(cases: &mut Cases) {
    let standard = pairs((20, 10), (16, 4), pair_class(1.0), 1.0, 5);
    for (plan, names) in [
        (standard, ["pairs-standard-without-trellis", "pairs-standard-with-trellis-1"]),
        (inline_pairs(), ["pairs-inline-without-trellis", "pairs-inline-with-trellis-1"]),
    ] {
        for (name, trellis) in names.into_iter().zip([0, 1]) {
            let mut section = plan.section();
            section.fields[1] = trellis;
            cases.add(name, "4.3", "bad-side-information", payload(20, 10, &[section.bytes()]));
        }
    }
}
