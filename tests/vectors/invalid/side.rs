//! Invalid side information: sections 4.1, 4.2 and 4.4 to 4.6, and identifiers of tables.

use super::*;

pub fn side_coder(cases: &mut Cases) {
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
        calls.extend(too_long(Context::ColumnScale));
    });
    // The same inside inline tables, which makes no table of them that breaks a rule.
    let inline = inline();
    cases.side("table-number-too-long", "4.1", class, &inline, |calls| {
        calls.truncate(4);
        calls.extend(too_long(Context::Length));
    });
    let cut = |plan: &Plan, calls: usize, context: Context| {
        let mut calls = plan.side()[..calls].to_vec();
        calls.push(Side::Number { context, value: 1 << 23 });
        payload(20, 10, &[plan.section().bytes_with_side(&write_side(&calls)[..9])])
    };
    cases.add("table-cut", "4.1", class, cut(&inline, 4, Context::Length));
    let paired = inline_pairs();
    cases.side("pairs-number-too-long", "4.1", class, &paired, |calls| {
        calls.truncate(5);
        calls.extend(too_long(Context::Frequency));
    });
    cases.add("pairs-cut", "4.1", class, cut(&paired, 3, Context::Frequency));
}

fn scale_call(calls: &mut [Side], context: Context) -> &mut Side {
    let found =
        calls.iter_mut().find(|call| matches!(call, Side::Number { context: c, .. } if *c == context));
    found.expect("a scale")
}

pub fn side_values(cases: &mut Cases) {
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
