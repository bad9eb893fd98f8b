//! Valid payloads from a seeded generator: through the library's encoder, which chooses tables as it likes, and from
//! plans with tables of any legal form.

use crate::common::forge::{payload, Class, Entry, PairTable, Plan, Table};
use crate::common::{column, matrix, Random, Recipe};
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::table::{ClassTable, Run};
use wsic::payload::{Geometry, ScaleKind, Trellis};

/// A valid payload of at most `most` bytes.
pub fn payload_of(random: &mut Random, most: usize) -> Vec<u8> {
    loop {
        let bytes = if random.below(2) == 0 { encoded(random) } else { planned(random) };
        if bytes.len() <= most {
            return bytes;
        }
    }
}

fn deviation(random: &mut Random) -> f64 {
    (7.0 * random.unit() - 2.0).exp2()
}

fn encoded(random: &mut Random) -> Vec<u8> {
    let width = [4, 16, 64][random.below(3)];
    let steps = [1 + random.below(20), 1 + random.below(256)][random.below(2)];
    let recipe = Recipe {
        rows: 1 + random.below(150),
        columns: 1 + random.below(100),
        geometry: Geometry::new(width, steps).expect("a legal geometry"),
        trellis: [Trellis::Scalar, Trellis::EightState, Trellis::Pairs, Trellis::Pairs][random.below(4)],
        deviation: deviation(random),
        spread: 2.5 * random.unit(),
    };
    let matrices: Vec<_> = (0..1 + random.below(8) / 6)
        .map(|_| {
            let mut source = matrix(&recipe, random);
            if random.below(3) == 0 {
                let codes = (0..recipe.rows).map(|_| 110 + random.below(36) as u16).collect();
                source.row_scales = Some((ScaleKind::Log8, codes));
            }
            if random.below(3) == 0 {
                source.stream.retain(|_| random.below(5) > 0);
            }
            if random.below(3) == 0 {
                for _ in 0..source.stream.len() / 4 {
                    // At most three parts of one column.
                    let input = source.stream[random.below(source.stream.len())].input;
                    if source.stream.iter().filter(|column| column.input == input).count() < 3 {
                        let integers = column(&recipe, deviation(random), random);
                        let scale = random.below(256) as u16;
                        source.stream.push(wsic::payload::StreamColumn { input, scale, integers });
                    }
                }
            }
            source
        })
        .collect();
    encode(&matrices, &EncodeOptions::new(1)).expect("a legal matrix")
}

/// A table of any legal form: symbols absent, in any order, split into many runs.
fn table(random: &mut Random, trellis: u8) -> Table {
    loop {
        let raw_bits = [0, 0, random.below(5) as u32][random.below(3)];
        let reach = (1 + random.below(40)) as i32;
        let mut table = Table { raw_bits, smallest: [0; 2], runs: [vec![], vec![]] };
        for q in 0..2 {
            table.smallest[q] = (-reach >> raw_bits) + random.below(3) as i32 - 1;
            let symbols = 2 + random.below((2 * reach as usize >> raw_bits).clamp(1, 40));
            let most = [30, 6][random.below(2)];
            let count = 2 + random.below(most);
            let mut left = 256;
            for run in 0..count {
                let runs_left = (count - run) as u32;
                let length = match runs_left {
                    1 => left,
                    _ => (1 + random.below((2 * left / runs_left) as usize) as u32).min(left - runs_left + 1),
                };
                left -= length;
                table.runs[q].push((random.below(symbols) as u32, length));
            }
        }
        if trellis == 0 {
            table.smallest[1] = table.smallest[0];
            table.runs[1] = table.runs[0].clone();
        }
        // The encoder needs indices of both parities, for both parities of the state.
        let reaches = |q: usize, parity: i32| {
            raw_bits > 0 || table.runs[q].iter().any(|run| (table.smallest[q] + run.0 as i32) & 1 == parity)
        };
        let run = |&(symbol, length): &(u32, u32)| Run { symbol: symbol as u8, length: length as u8 };
        let legal = table.runs.iter().flatten().all(|run| run.1 < 256)
            && ClassTable::new(
                raw_bits,
                table.smallest.map(|smallest| smallest as i8),
                [0, 1].map(|q| table.runs[q].iter().map(run).collect()),
            )
            .is_ok();
        if legal && (0..2).all(|q| reaches(q, 0) && reaches(q, 1)) {
            return table;
        }
    }
}

/// A pair table of any legal form that has pairs of all lowest bits.
fn pair_table(random: &mut Random) -> PairTable {
    let mut table = PairTable { smallest: [0; 2], side: [0; 2], frequencies: [vec![], vec![]] };
    for q in 0..2 {
        let side = 2 + random.below(15);
        let mut frequencies = vec![0u32; side * side];
        for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            frequencies[first * side + second] = 1;
        }
        let most = [4, 20, 64][random.below(3)];
        let mut left = 252;
        while left > 0 {
            let used = frequencies.iter().filter(|&&f| f > 0).count();
            let cell = random.below(side * side);
            if frequencies[cell] > 0 || used < most {
                let more = (1 + random.below(40) as u32).min(left).min(255 - frequencies[cell]);
                frequencies[cell] += more;
                left -= more;
            }
        }
        table.smallest[q] = random.below(20) as i32 - 16;
        table.side[q] = side;
        table.frequencies[q] = frequencies;
    }
    table
}

fn plan(random: &mut Random, rows: usize, columns: usize) -> Plan {
    let width = [4, 16, 64][random.below(3)];
    let trellis = [0, 1, 2, 2][random.below(4)];
    let mut plan = Plan {
        rows,
        columns,
        width,
        steps: [1 + random.below(8), 1 + random.below(256)][random.below(2)],
        trellis,
        column_kind: random.below(2) as u8,
        row_kind: random.below(3) as u8,
        tensor_scale: f32::from_bits(((31 + random.below(137)) as u32) << 23 | random.below(1 << 23) as u32),
        classes: vec![],
        first: vec![],
        extra: vec![],
        row_scales: vec![],
    };
    // Sizes of the classes: all but the first are multiples of the width.
    let live = columns - random.below(columns.min(1 + columns / 4));
    let classes = 1 + random.below((live / width).clamp(1, 32));
    let mut class_of: Vec<usize> = (0..live).map(|_| 0).collect();
    for class in 1..classes {
        for at in live - class * width..live - (class - 1) * width {
            class_of[at] = class;
        }
    }
    if !class_of.contains(&0) {
        return plan;
    }
    let wide = deviation(random);
    for _ in 0..classes {
        plan.classes.push(match random.below(if trellis == 2 { 4 } else { 2 }) {
            0 => Class::Standard(random.below(252) as u32),
            2 => Class::StandardPairs(random.below(104) as u32),
            3 => Class::InlinePairs(pair_table(random)),
            _ => Class::Inline(table(random, trellis)),
        });
    }
    for at in (1..live).rev() {
        class_of.swap(at, random.below(at + 1));
    }
    let half = |random: &mut Random| 0x0400 + random.below(0x7800) as u32;
    let logarithmic = |random: &mut Random| random.below(256) as u32;
    for (input, &class) in class_of.iter().enumerate() {
        let mut integers: Vec<i32> =
            (0..rows).map(|_| (wide * random.gaussian()).round().clamp(-8e6, 8e6) as i32).collect();
        if random.below(20) == 0 {
            integers[random.below(rows)] = random.below(1 << 24) as i32 - (1 << 23) + 1;
        }
        plan.obey(&mut integers);
        let scale = if plan.column_kind == 0 { logarithmic(random) } else { half(random) };
        plan.first.push(Entry { input: input as u32, class, scale, integers });
    }
    plan.row_scales = match plan.row_kind {
        0 => vec![],
        1 => (0..rows).map(|_| logarithmic(random)).collect(),
        _ => (0..rows).map(|_| half(random)).collect(),
    };
    plan
}

fn planned(random: &mut Random) -> Vec<u8> {
    let (rows, columns) = (1 + random.below(100), 1 + random.below(90));
    let sections: Vec<Vec<u8>> =
        (0..1 + random.below(8) / 6).map(|_| plan(random, rows, columns).section().bytes()).collect();
    payload(rows, columns, &sections)
}
