//! Matrices for the vectors, from a seeded generator.

use crate::common::forge::{Class, Entry, Plan, Table};
use crate::common::Random;

/// The standard table fitted to a Gaussian of this standard deviation.
pub fn class(deviation: f64) -> Class {
    Class::Standard(((deviation.log2() * 8.0).round() + 20.0).clamp(0.0, 62.0) as u32)
}

/// The standard pair table fitted to a Gaussian of this standard deviation.
pub fn pair_class(deviation: f64) -> Class {
    Class::StandardPairs(((deviation.log2() * 8.0).round() + 12.0).clamp(0.0, 25.0) as u32)
}

/// A matrix with the trellis of pairs whose columns are all live and in one class.
pub fn pairs(
    shape: (usize, usize),
    geometry: (usize, usize),
    class: Class,
    deviation: f64,
    seed: u64,
) -> Plan {
    let mut plan = empty(shape.0, shape.1, geometry.0, geometry.1);
    plan.trellis = 2;
    plan.classes.push(class);
    fill(&mut plan, deviation, seed);
    plan
}

/// Integers of one column.
pub fn integers(plan: &Plan, deviation: f64, random: &mut Random) -> Vec<i32> {
    let mut wishes: Vec<i32> =
        (0..plan.rows).map(|_| (deviation * random.gaussian()).round().clamp(-8e6, 8e6) as i32).collect();
    plan.obey(&mut wishes);
    wishes
}

/// A matrix without columns.
pub fn empty(rows: usize, columns: usize, width: usize, steps: usize) -> Plan {
    Plan {
        rows,
        columns,
        width,
        steps,
        trellis: 1,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.5e-4,
        classes: vec![],
        first: vec![],
        extra: vec![],
        row_scales: vec![],
    }
}

/// A matrix whose columns are all live and in one class.
pub fn one_class(shape: (usize, usize), geometry: (usize, usize), deviation: f64, seed: u64) -> Plan {
    let mut plan = empty(shape.0, shape.1, geometry.0, geometry.1);
    plan.classes.push(class(deviation));
    fill(&mut plan, deviation, seed);
    plan
}

/// Gives every input column one stream column of class 0.
pub fn fill(plan: &mut Plan, deviation: f64, seed: u64) {
    let mut random = Random(seed);
    for input in 0..plan.columns as u32 {
        let scale = (100.0 + 9.0 * random.gaussian()).clamp(0.0, 255.0) as u32;
        let integers = integers(plan, deviation, &mut random);
        plan.first.push(Entry { input, class: 0, scale, integers });
    }
}

/// A matrix with one class for each deviation; every class gets `chunks` chunks, the first one less `padding` columns,
/// in mixed order of the columns.
pub fn many_classes(
    rows: usize,
    geometry: (usize, usize),
    classes: Vec<Class>,
    deviations: &[f64],
    padding: usize,
    seed: u64,
) -> Plan {
    many_classes_with(1, rows, geometry, classes, deviations, padding, seed)
}

/// The same for a trellis.
pub fn many_classes_with(
    trellis: u8,
    rows: usize,
    geometry: (usize, usize),
    classes: Vec<Class>,
    deviations: &[f64],
    padding: usize,
    seed: u64,
) -> Plan {
    let mut random = Random(seed);
    let mut class_of: Vec<usize> = (0..classes.len()).flat_map(|class| vec![class; geometry.0]).collect();
    class_of.drain(..padding);
    for i in (1..class_of.len()).rev() {
        class_of.swap(i, random.below(i + 1));
    }
    let mut plan = empty(rows, class_of.len(), geometry.0, geometry.1);
    plan.trellis = trellis;
    plan.classes = classes;
    for (input, &class) in class_of.iter().enumerate() {
        let integers = integers(&plan, deviations[class], &mut random);
        let scale = (120.0 - 8.0 * deviations[class].log2() + random.gaussian()) as u32;
        plan.first.push(Entry { input: input as u32, class, scale, integers });
    }
    plan
}

/// An inline table from symbol frequencies, each symbol in one run.
pub fn blocks(raw_bits: u32, smallest: [i32; 2], frequencies: [&[u32]; 2]) -> Table {
    let runs = frequencies.map(|list| list.iter().enumerate().map(|(s, &f)| (s as u32, f)).collect());
    Table { raw_bits, smallest, runs }
}

/// Sets an integer and keeps its path legal: the new value differs by a multiple of 4 from the old one.
pub fn set(entry: &mut Entry, row: usize, near: i32) {
    let old = entry.integers[row];
    entry.integers[row] = near - (near - old).rem_euclid(4);
}
