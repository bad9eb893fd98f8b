//! Valid payloads: every kind of matrix that the text allows, and its extremes.

use crate::common::forge::{payload, write_escapes, Class, Entry, PairTable, Plan, Section, Table};
use crate::common::Random;
use crate::draw::{
    blocks, class, empty, fill, integers, many_classes, many_classes_with, one_class, pair_class, pairs, set,
};
use crate::expected::Expected;

/// A payload and the matrices it was made from.
pub struct Valid {
    pub name: String,
    pub note: &'static str,
    pub plans: Vec<Plan>,
    pub bytes: Vec<u8>,
}

struct Cases(Vec<Valid>);

impl Cases {
    fn add(&mut self, name: &str, note: &'static str, plans: Vec<Plan>) {
        let sections: Vec<Section> = plans.iter().map(Plan::section).collect();
        self.add_sections(name, note, plans, &sections);
    }

    /// With sections that were changed after they were made from the plans.
    fn add_sections(&mut self, name: &str, note: &'static str, plans: Vec<Plan>, sections: &[Section]) {
        let sections: Vec<Vec<u8>> = sections.iter().map(Section::bytes).collect();
        let bytes = payload(plans[0].rows, plans[0].columns, &sections);
        self.0.push(Valid { name: name.to_string(), note, plans, bytes });
    }
}

/// All valid payloads.
pub fn all() -> Vec<Valid> {
    let mut cases = Cases(Vec::new());
    cases.add("worked-example", "the example of the text", vec![crate::example::plan()]);
    shapes(&mut cases);
    columns(&mut cases);
    scales(&mut cases);
    tables(&mut cases);
    escapes(&mut cases);
    matrices(&mut cases);
    pair_classes(&mut cases);
    cases.0
}

fn shapes(cases: &mut Cases) {
    cases.add("one-weight", "1 x 1", vec![one_class((1, 1), (64, 1), 2.0, 1)]);
    cases.add("one-row", "1 x 70", vec![one_class((1, 70), (64, 3), 2.0, 2)]);
    cases.add("one-column", "100 x 1", vec![one_class((100, 1), (4, 2), 2.0, 3)]);
    let exact = one_class((64, 64), (64, 32), 1.5, 4);
    cases.add("exact-k64", "shape is a multiple of every block, two full tiles", vec![exact]);
    cases.add("odd-k64", "shape is a multiple of no block", vec![one_class((37, 67), (64, 9), 2.5, 5)]);
    cases.add("odd-k16", "the same with K = 16", vec![one_class((43, 35), (16, 3), 2.5, 6)]);
    cases.add(
        "odd-k4",
        "the same with K = 4, last step has one row",
        vec![one_class((97, 7), (4, 3), 2.5, 7)],
    );
    cases.add("most-steps-k64", "S = 256, two tiles", vec![one_class((259, 3), (64, 256), 1.0, 8)]);
    cases.add("most-steps-k4", "S = 256, K = 4, partial tile", vec![one_class((517, 2), (4, 256), 1.0, 9)]);
    cases.add("one-step", "S = 1: no path has a second integer", vec![one_class((50, 18), (16, 1), 2.0, 10)]);
    let mut scalar = one_class((41, 20), (16, 4), 3.0, 11);
    scalar.trellis = 0;
    scalar.first.clear();
    fill(&mut scalar, 3.0, 12);
    cases.add("no-trellis", "trellis 0 with a standard table", vec![scalar.clone()]);
    let table = blocks(1, [-4, 0], [&[2, 10, 40, 76, 76, 40, 10, 2], &[]]);
    scalar.classes = vec![Class::Inline(table)];
    cases.add("no-trellis-inline", "trellis 0: an inline table has runs of one parity only", vec![scalar]);
    let mut most = empty(41, 20, 16, 4);
    most.trellis = 0;
    let runs = (0..32).map(|i| (i % 5, 8)).collect();
    most.classes.push(Class::Inline(Table { raw_bits: 0, smallest: [-2, 0], runs: [runs, vec![]] }));
    fill(&mut most, 2.0, 14);
    cases.add("no-trellis-most-runs", "trellis 0: 32 runs, which count twice", vec![most]);
    let wide = one_class((3, 300), (64, 2), 6.0, 13);
    cases.add("many-chunks", "five chunks, padding in the first one", vec![wide]);
}

fn columns(cases: &mut Cases) {
    let mut plan = one_class((30, 40), (16, 8), 2.0, 20);
    plan.first.retain(|entry| entry.input % 3 != 1 && entry.input > 2 && entry.input < 37);
    cases.add("dead-columns", "dead columns, also the first and the last", vec![plan.clone()]);
    cases.add("dead-matrix", "no classes, no tiles: all weights 0", vec![empty(30, 40, 16, 8)]);
    cases.add(
        "dead-matrix-most-columns",
        "as many columns as the default limits allow",
        vec![empty(1, 1 << 20, 64, 1)],
    );
    let single = empty(1, 1, 4, 1);
    cases.add(
        "dead-matrices",
        "1 x 1 without classes, often: the smallest matrices there are",
        vec![single; 40],
    );
    let mut dead = empty(5, 6, 64, 4);
    (dead.row_kind, dead.row_scales) = (1, vec![0, 128, 255, 130, 60]);
    cases.add("dead-matrix-row-scales", "row scales of a dead matrix", vec![dead]);
    let mut parts = one_class((33, 21), (16, 8), 2.0, 21);
    let mut random = Random(22);
    for input in [0u32, 3, 3, 7, 20, 20] {
        let integers = integers(&parts, 2.0, &mut random);
        parts.extra.push(Entry { input, class: 0, scale: 60 + input, integers });
    }
    cases.add("parts", "columns in one, two and three parts", vec![parts.clone()]);
    // The first column of input 3 is dead; its two others are not.
    parts.first.retain(|entry| entry.input != 3);
    cases.add("parts-dead-first", "extra columns of a column whose first is dead", vec![parts]);
    let mut only = empty(20, 9, 4, 4);
    only.classes.push(class(2.0));
    for input in [4u32, 8] {
        let integers = integers(&only, 2.0, &mut random);
        only.extra.push(Entry { input, class: 0, scale: 90, integers });
    }
    cases.add("parts-only", "all first columns dead", vec![only]);
    let mut most = one_class((7, 5), (16, 4), 2.0, 25);
    for input in 0..10 {
        let integers = integers(&most, 2.0, &mut random);
        most.extra.push(Entry { input: input / 2, class: 0, scale: 70 + input, integers });
    }
    cases.add("parts-most", "all columns in three parts", vec![most]);
    let mut far = empty(2, 40_000, 16, 1);
    far.classes.push(class(2.0));
    for input in [600u32, 1_700, 2_900, 8_000, 20_000, 39_999] {
        let integers = integers(&far, 2.0, &mut random);
        far.extra.push(Entry { input, class: 0, scale: 80, integers });
    }
    cases.add("parts-far-apart", "numbers with exponents from 9 to 14", vec![far]);
    let lopsided = blocks(0, [0, -1], [&[255, 1], &[1, 255]]);
    let mut many = empty(1, 70_000, 64, 1);
    many.classes.push(Class::Inline(lopsided));
    let entry = |input: u32| {
        let integers = vec![if [5, 64, 69_999].contains(&input) { 2 } else { 0 }];
        Entry { input, class: 0, scale: 128, integers }
    };
    many.first = (0..70_000).map(entry).collect();
    cases.add("many-positions", "more than 2^16 stream positions", vec![many]);
    let two = many_classes(20, (16, 4), vec![class(0.7), class(5.0)], &[0.7, 5.0], 3, 23);
    cases.add("two-classes", "two classes, their columns mixed", vec![two]);
    let deviations: Vec<f64> = (0..32).map(|i| 2f64.powf(f64::from(i) / 5.0 - 1.5)).collect();
    let classes: Vec<Class> = deviations.iter().map(|&deviation| class(deviation)).collect();
    let plan = many_classes(17, (4, 2), classes, &deviations, 2, 24);
    cases.add("most-classes", "32 classes, class symbols of six bits", vec![plan]);
}

fn scales(cases: &mut Cases) {
    let mut plan = one_class((6, 12), (64, 8), 3.0, 30);
    for (entry, scale) in plan.first.iter_mut().zip([0, 255, 0, 255, 128, 127, 1, 254, 7, 8, 247, 248]) {
        entry.scale = scale;
    }
    cases.add("scales-logarithmic", "smallest and largest codes, jumps between them", vec![plan.clone()]);
    (plan.row_kind, plan.row_scales) = (1, vec![0, 255, 0, 128, 127, 255]);
    cases.add("row-scales-logarithmic", "the same with row scales", vec![plan.clone()]);
    plan.column_kind = 1;
    for (entry, scale) in plan
        .first
        .iter_mut()
        .zip([0x0400, 0x7BFF, 0x3C00, 0x3C01, 0x3BFF, 0x0401, 0x07FF, 0x0800, 0x5555, 0x2AAA, 0x7800, 0x77FF])
    {
        entry.scale = scale;
    }
    (plan.row_kind, plan.row_scales) = (2, vec![0x0400, 0x7BFF, 0x3C00, 0x1234, 0x4321, 0x7ABC]);
    cases.add("scales-half", "half float scales, smallest and largest", vec![plan.clone()]);
    plan.tensor_scale = f32::from_bits(31 << 23);
    for entry in &mut plan.first {
        entry.scale = 0x0400;
    }
    plan.row_scales = vec![0x0400; 6];
    cases.add("smallest-weights", "2^-96 times 2^-14 times 2^-14", vec![plan.clone()]);
    (plan.row_kind, plan.row_scales) = (1, vec![0; 6]);
    cases.add(
        "smallest-weights-logarithmic",
        "rows of 2^-16: the smallest normal numbers",
        vec![plan.clone()],
    );
    let mut large = one_class((6, 3), (64, 8), 1.0, 31);
    large.tensor_scale = f32::from_bits((168 << 23) - 1);
    (large.row_kind, large.row_scales) = (2, vec![0x7BFF; 6]);
    for _ in 0..2 {
        large.extra.push(large.first[1].clone());
    }
    for entry in large.first.iter_mut().chain(&mut large.extra) {
        entry.scale = 255;
        for row in 0..6 {
            set(entry, row, if row % 2 == 0 { 8_388_607 } else { -8_388_604 });
        }
    }
    cases.add(
        "largest-weights",
        "the largest scales, integers and number of parts: still finite",
        vec![large],
    );
    let mut cancel = two_parts([2, 0, 15], [0, 0, -18]);
    (cancel.column_kind, cancel.tensor_scale) = (1, f32::from_bits(0x0FAA_AAAB));
    (cancel.first[0].scale, cancel.extra[0].scale) = (0x600, 0x500);
    let weights = Expected::of(&cancel).weights;
    assert!(weights[2].is_subnormal(), "{weights:?}");
    cases.add("subnormal-weights", "parts that cancel leave subnormal numbers", vec![cancel]);
    let mut rounded = two_parts([2, 0, 1], [2, 0, 5]);
    (rounded.tensor_scale, rounded.first[0].scale, rounded.extra[0].scale) = (1.0 / 1048576.0, 129, 129);
    let found = Expected::of(&rounded);
    let fused = found.scales[63].mul_add(5.0, found.scales[62]);
    assert_ne!(found.weights[2], fused);
    cases.add("parts-rounded", "a fused multiplication and addition would give another sum", vec![rounded]);
}

/// A matrix of one column in two parts with these integers.
fn two_parts(first: [i32; 3], second: [i32; 3]) -> Plan {
    let mut plan = empty(3, 1, 64, 4);
    plan.classes.push(class(2.0));
    let [first, second] = [first, second].map(|wanted| {
        let mut integers = wanted.to_vec();
        plan.obey(&mut integers);
        assert_eq!(integers, wanted);
        Entry { input: 0, class: 0, scale: 100, integers }
    });
    plan.first.push(first);
    plan.extra.push(second);
    plan
}

fn tables(cases: &mut Cases) {
    let with = |table: Table, deviation: f64, seed: u64| {
        let mut plan = empty(19, 10, 16, 4);
        plan.classes.push(Class::Inline(table));
        fill(&mut plan, deviation, seed);
        plan
    };
    let two = || blocks(0, [0, -1], [&[128, 128], &[128, 128]]);
    cases.add("table-smallest", "two symbols for each parity", vec![with(two(), 0.8, 40)]);
    let lopsided = blocks(0, [0, -1], [&[255, 1], &[1, 255]]);
    cases.add("table-lopsided", "frequencies 255 and 1", vec![with(lopsided, 0.8, 41)]);
    let mut alternating = two();
    alternating.runs = [0, 1].map(|q| (0..32).map(|i| ((i + q) % 2, 8)).collect());
    cases.add("table-most-runs", "64 runs, each symbol split", vec![with(alternating, 0.8, 42)]);
    let mut uneven = two();
    uneven.runs[0] = (0..62).map(|i| (i % 2, if i == 61 { 12 } else { 4 })).collect();
    cases.add("table-uneven-runs", "62 runs for parity 0, two for parity 1", vec![with(uneven, 0.8, 43)]);
    let mut adjacent = two();
    adjacent.runs = [0, 1].map(|_| vec![(0, 1), (0, 100), (1, 1), (1, 1), (0, 1), (1, 152)]);
    cases.add("table-adjacent-runs", "neighbouring runs of one symbol", vec![with(adjacent, 0.8, 44)]);
    let holes = Table {
        raw_bits: 0,
        smallest: [-20, -30],
        runs: [vec![(21, 100), (18, 50), (19, 20), (20, 86)], vec![(63, 1), (30, 120), (0, 3), (29, 132)]],
    };
    cases.add("table-holes", "symbols in any order, some absent, symbol 63", vec![with(holes, 1.2, 45)]);
    let mut rounded = two();
    (rounded.smallest, rounded.runs[0]) = ([-1, -1], vec![(0, 100), (1, 100), (62, 56)]);
    cases.add("table-rounded", "the offset 4 takes 122 to 126", vec![with(rounded, 0.8, 56)]);
    let largest = Table {
        raw_bits: 0,
        smallest: [-32, -32],
        runs: [0, 1].map(|_| (0..32).map(|i| (i * 2 + i % 2, 8)).collect()),
    };
    cases.add("table-widest", "integers from -64 to 63 without raw bits", vec![with(largest, 30.0, 46)]);
    for raw_bits in 1..=4u32 {
        let reach = (64 >> raw_bits).min(24);
        let table = blocks(raw_bits, [-reach, -2], [&bell(2 * reach as usize), &bell(4)]);
        cases.add(
            &format!("raw-bits-{raw_bits}"),
            "raw planes",
            vec![with(table, 20.0, 46 + u64::from(raw_bits))],
        );
    }
    let top =
        Table { raw_bits: 4, smallest: [-4, -4], runs: [0, 1].map(|_| (0..8).map(|i| (i, 32)).collect()) };
    cases.add(
        "table-full-range",
        "r = 4, integers from -128 to 127: all unsigned values",
        vec![with(top, 60.0, 52)],
    );
    let negative = blocks(0, [-128, -128], [&[32; 8], &[16; 16]]);
    cases.add("table-negative", "no integer above -225: padding is not 0", vec![shifted(negative, -240, 53)]);
    let positive = blocks(0, [60, 60], [&[64; 4], &[64; 4]]);
    cases.add("table-positive", "no integer below 120, offset 0", vec![shifted(positive, 123, 54)]);
    let mut mixed = many_classes(
        21,
        (16, 3),
        vec![
            Class::Inline(two()),
            class(1.5),
            Class::Inline(blocks(2, [-8, -8], [&bell(16), &bell(16)])),
            class(40.0),
        ],
        &[0.8, 1.5, 20.0, 40.0],
        5,
        55,
    );
    mixed.tensor_scale = 0.0625;
    cases.add("inline-and-standard", "contexts of inline tables go on from one to the next", vec![mixed]);
}

/// Frequencies of `count` symbols, those in the middle larger.
fn bell(count: usize) -> Vec<u32> {
    let middle = count / 4..count - count / 4;
    let share = (256 - count) / middle.len();
    let mut frequencies: Vec<u32> =
        (0..count).map(|i| if middle.contains(&i) { 1 + share as u32 } else { 1 }).collect();
    frequencies[count / 2] += 256 - frequencies.iter().sum::<u32>();
    frequencies
}

fn shifted(table: Table, centre: i32, seed: u64) -> Plan {
    let mut plan = empty(19, 10, 16, 4);
    plan.classes.push(Class::Inline(table));
    let mut random = Random(seed);
    for input in 0..10 {
        let mut wishes: Vec<i32> = (0..19).map(|_| centre + (2.0 * random.gaussian()) as i32).collect();
        plan.obey(&mut wishes);
        plan.first.push(Entry { input, class: 0, scale: 100, integers: wishes });
    }
    plan
}

fn escapes(cases: &mut Cases) {
    let mut single = empty(10, 70, 64, 4);
    single.classes.push(class(1.4));
    fill(&mut single, 0.7, 60);
    let escapes = |plan: &Plan| (0..plan.tiles()).map(|tile| plan.tile(tile).1.len()).sum::<usize>();
    assert_eq!(escapes(&single), 0);
    set(&mut single.first[33], 7, -90);
    assert_eq!(escapes(&single), 1);
    cases.add("escape-single", "one escape", vec![single.clone()]);
    let mut corners = single.clone();
    set(&mut corners.first[0], 0, 40);
    set(&mut corners.first[69], 3, -40);
    set(&mut corners.first[69], 9, 1000);
    set(&mut corners.first[6], 8, 1000);
    cases.add("escape-corners", "at the first and last position of chunks and tiles", vec![corners]);
    let mut extreme = single.clone();
    for (column, row, near) in [(3, 0, 8_388_607), (4, 1, -8_388_604), (5, 2, 8_388_600), (6, 9, -8_388_600)]
    {
        set(&mut extreme.first[column], row, near);
    }
    cases.add("escape-largest", "integers just below 2^23 in magnitude", vec![extreme]);
    // Parity 1 reaches -1 and 0 only: from -1 to the largest integer it is farther than from anywhere else.
    let mut far = empty(10, 2, 64, 10);
    far.classes.push(Class::Inline(blocks(0, [-1, -1], [&[64, 128, 64], &[128, 128]])));
    for (input, wish) in [(0, 8_388_607), (1, -8_388_607)] {
        let mut wishes = vec![2, 0, wish, 0, wish, 2, wish, 0, wish, wish];
        far.obey(&mut wishes);
        far.first.push(Entry { input, class: 0, scale: 100, integers: wishes });
    }
    assert!(far.tile(0).1.iter().any(|&(_, code)| code == 1 << 22));
    cases.add("escape-farthest", "an escape of exponent 22", vec![far]);
    let dense = {
        let mut plan = one_class((20, 24), (16, 4), 1.0, 61);
        plan.first.clear();
        fill(&mut plan, 40.0, 62);
        plan
    };
    cases.add("escape-dense", "most integers need an escape", vec![dense.clone()]);
    for gap_bits in [0u32, 24] {
        let mut section = dense.section();
        for (index, tile) in section.tiles.iter_mut().enumerate() {
            tile.escapes = write_escapes(&dense.tile(index).1, gap_bits);
        }
        let name = format!("escape-parameter-{gap_bits}");
        cases.add_sections(&name, "the extreme parameters of the gaps", vec![dense.clone()], &[section]);
    }
    let mut columns = one_class((40, 9), (4, 3), 2.0, 63);
    for (column, deviation) in [(2usize, 12_000.0), (5, 300.0), (8, 2_000_000.0)] {
        columns.first[column].integers = integers(&columns, deviation, &mut Random(64 + column as u64));
    }
    cases.add("escape-columns", "columns of massive activations", vec![columns]);
}

fn matrices(cases: &mut Cases) {
    let mut plans: Vec<Plan> =
        (0..3).map(|i| one_class((26, 18), (16, 4), 1.0 + f64::from(i), 70 + i as u64)).collect();
    plans[1] = empty(26, 18, 64, 7);
    (plans[2].row_kind, plans[2].row_scales) = (1, (0..26).map(|i| 118 + i % 20).collect());
    cases.add("experts", "three matrices, the second one dead", plans.clone());
    plans[1] = one_class((26, 18), (64, 256), 9.0, 74);
    plans[0] = one_class((26, 18), (4, 1), 0.5, 75);
    cases.add("experts-mixed", "matrices of different geometry", plans);
    let plans = (0..8)
        .map(|group: u32| {
            let identifiers: Vec<u32> = (0..32).map(|i| (group * 32 + i).min(251)).collect();
            let deviations: Vec<f64> =
                identifiers.iter().map(|id| 2f64.powf((f64::from(id % 63) - 20.0) / 8.0)).collect();
            let classes = identifiers.into_iter().map(Class::Standard).collect();
            many_classes(16, (4, 1), classes, &deviations, 0, 80 + u64::from(group))
        })
        .collect();
    cases.add("standard-tables", "all standard tables, 32 for each matrix", plans);
    let deviations = [0.4, 0.9, 1.8, 3.5];
    let mut typical = many_classes(160, (16, 8), deviations.map(class).to_vec(), &deviations, 7, 90);
    typical.first.retain(|entry| entry.class > 0 || entry.input % 2 == 0);
    let mut random = Random(91);
    while typical.first.iter().filter(|entry| entry.class == 0).count() % 16 == 0 {
        typical.first.remove(0);
    }
    for _ in 0..2 {
        let integers = integers(&typical, 0.4, &mut random);
        typical.extra.push(Entry { input: 30, class: 0, scale: 50, integers });
    }
    (typical.row_kind, typical.row_scales) = (1, (0..160).map(|_| 128 + random.below(9) as u32).collect());
    cases.add(
        "typical",
        "classes, dead columns, parts, row scales and several tiles together",
        vec![typical],
    );
}

fn pair_classes(cases: &mut Cases) {
    cases.add(
        "pairs-one-weight",
        "1 x 1: the second integer of the only pair is ignored",
        vec![pairs((1, 1), (64, 1), pair_class(1.0), 1.0, 100)],
    );
    cases.add(
        "pairs-k64",
        "two full tiles, an even number of steps",
        vec![pairs((64, 64), (64, 32), pair_class(1.5), 1.5, 101)],
    );
    for (name, shape, geometry, seed) in [
        ("pairs-odd-k64", (37, 67), (64, 9), 102),
        ("pairs-odd-k16", (43, 35), (16, 3), 103),
        ("pairs-odd-k4", (97, 7), (4, 3), 104),
    ] {
        let plan = pairs(shape, geometry, pair_class(2.0), 2.0, seed);
        cases.add(name, "an odd number of steps: the last pair of each chunk is half ignored", vec![plan]);
    }
    let single = |class: Class, deviation: f64, seed: u64| pairs((83, 21), (16, 7), class, deviation, seed);
    cases.add(
        "pairs-single-table",
        "trellis 2 with a single table, odd and even steps",
        vec![single(class(2.0), 2.0, 105)],
    );
    let raw = blocks(3, [-8, -8], [&bell(16), &bell(16)]);
    cases.add(
        "pairs-single-table-raw-bits",
        "trellis 2 with raw planes",
        vec![single(Class::Inline(raw), 20.0, 106)],
    );
    let table = |smallest: [i32; 2], side: [usize; 2], frequencies: [Vec<u32>; 2]| {
        Class::InlinePairs(PairTable { smallest, side, frequencies })
    };
    let smallest = table([-1, -1], [2, 2], [vec![1, 1, 1, 253], vec![64; 4]]);
    cases.add(
        "pairs-inline",
        "an inline pair table, a frequency above 127",
        vec![single(smallest, 0.6, 107)],
    );
    // Pairs of equal lowest bits leave the state 0.
    let lopsided = table([0, 0], [2, 2], [vec![255, 0, 0, 1], vec![64; 4]]);
    let mut equal = pairs((19, 21), (64, 8), lopsided, 0.0, 113);
    for (row, value) in [(0, 2), (1, 2), (16, 2), (17, 2), (18, 2)] {
        equal.first[20].integers[row] = value;
    }
    cases.add("pairs-lopsided", "frequencies 255 and 1", vec![equal]);
    let most = table([-4, -4], [8, 8], [vec![4; 64], vec![4; 64]]);
    cases.add(
        "pairs-most",
        "64 pairs for each parity, all of the same frequency",
        vec![single(most, 3.5, 108)],
    );
    let mut wide = [vec![0u32; 256], vec![0u32; 256]];
    for (q, grid) in wide.iter_mut().enumerate() {
        // The diagonals and the middle.
        for i in 0..16 {
            grid[16 * i + i] = 1 + (i as u32 + q as u32) % 3;
            grid[16 * i + 15 - i] = 2;
        }
        grid[16 * 7 + 6] = 20;
        let rest = 256 - grid.iter().sum::<u32>();
        grid[16 * 8 + 8] += rest;
    }
    let wide = table([-32, 16], [16, 16], wide);
    cases.add("pairs-widest", "grids of 16 x 16, values from 0 to 127", vec![single(wide, 25.0, 109)]);
    let mixed = many_classes_with(
        2,
        75,
        (16, 9),
        vec![
            pair_class(0.7),
            table([-1, -1], [2, 2], [vec![10, 60, 60, 126], vec![64; 4]]),
            class(2.0),
            pair_class(1.4),
            Class::Inline(blocks(1, [-8, -8], [&bell(16), &bell(16)])),
            table(
                [-2, -1],
                [3, 3],
                [vec![28, 29, 28, 29, 28, 29, 28, 29, 28], vec![2, 3, 5, 200, 7, 11, 13, 9, 6]],
            ),
        ],
        &[0.7, 0.8, 2.0, 1.4, 9.0, 1.0],
        5,
        110,
    );
    cases.add(
        "pairs-mixed",
        "pair tables and single tables in one matrix; contexts of frequencies go on",
        vec![mixed],
    );
    let mut escaped = pairs((22, 70), (64, 5), pair_class(1.0), 0.4, 111);
    for (column, row, near) in
        [(0, 0, 40), (69, 3, -40), (69, 9, 1000), (6, 4, 1000), (6, 21, -90), (5, 20, 30)]
    {
        set(&mut escaped.first[column], row, near);
    }
    set(&mut escaped.first[33], 10, -8_388_604);
    set(&mut escaped.first[33], 11, 8_388_600);
    cases.add(
        "pairs-escapes",
        "escapes of first and second integers, of both, and in half pairs",
        vec![escaped],
    );
    let plans = (0..4)
        .map(|group: u32| {
            let identifiers: Vec<u32> = (0..26).map(|i| group * 26 + i).collect();
            let deviations: Vec<f64> =
                identifiers.iter().map(|id| 2f64.powf((f64::from(id % 26) - 12.0) / 8.0)).collect();
            let classes = identifiers.into_iter().map(Class::StandardPairs).collect();
            many_classes_with(2, 48, (4, 2), classes, &deviations, 0, 112 + u64::from(group))
        })
        .collect();
    cases.add("standard-pair-tables", "all standard pair tables, 26 for each matrix", plans);
}
