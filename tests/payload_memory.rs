//! The memory of an opened payload is bounded by its bytes and by what its limits let through; kernels allocate nothing.
//!
//! One test only: the allocator that counts serves the whole process.

mod common;

use common::forge::{payload, Class, Entry, Plan};
use common::mutate::mutate;
use common::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wsic::kernels::Rounding::{Mixed, OneTerm, TwoTerms};
use wsic::kernels::{Isa, PreparedMatrix};
use wsic::payload::{Limits, Payload};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        System.dealloc(pointer, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that `work` has allocated at once.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// What the documentation of [`Limits`] promises.
fn promised(bytes: usize, rows_and_columns: usize) -> usize {
    64 * 1024 + 128 * bytes + 100 * rows_and_columns
}

/// What the documentation of [`PreparedMatrix`] promises for an opened payload and all its matrices made ready.
fn promised_ready(bytes: usize, rows_and_columns: usize, classes: usize) -> usize {
    promised(bytes, rows_and_columns) + 9 * 1024 * classes
}

fn ready(bytes: &[u8], isa: Isa) -> usize {
    peak(|| {
        let Ok(payload) = Payload::open(bytes, &Limits::default()) else { return };
        let plans = payload.matrices().iter().map(|matrix| PreparedMatrix::with_isa(matrix, isa));
        drop(plans.collect::<Vec<_>>());
    })
}

fn open(bytes: &[u8], limits: &Limits) -> usize {
    peak(|| drop(Payload::open(bytes, limits)))
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn plan(rows: usize, columns: usize) -> Plan {
    Plan {
        rows,
        columns,
        width: 64,
        steps: 256,
        trellis: 1,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![],
        first: vec![],
        extra: vec![],
        row_scales: vec![],
    }
}

/// Runs every operation of the kernels; the most bytes that one of them allocated, and whether all gave results.
fn operations(plan: &PreparedMatrix<'_>) -> (usize, bool) {
    let (rows, columns, tiles) = (plan.rows(), plan.columns(), plan.tiles());
    let mut scratch = vec![0; plan.decode_scratch().max(plan.dequantize_scratch())];
    let mut integers = vec![0; rows * plan.matrix().stream_length()];
    let (mut weights, mut few) = (vec![0.0; rows * columns], vec![0.0; 3 * columns]);
    let wanted = [rows as u32 - 1, 0, 0];
    let (mut most, mut done) = (0, true);
    let mut watch = |work: &mut dyn FnMut() -> bool| most = most.max(peak(|| done &= work()));
    watch(&mut || plan.decode_rows(0..tiles, &mut integers, &mut scratch).is_ok());
    watch(&mut || plan.dequantize_rows(0..tiles, &mut weights, &mut scratch).is_ok());
    watch(&mut || plan.get_rows(&wanted, &mut few, &mut scratch).is_ok());
    for (batch, rounding) in [(1, OneTerm), (1, TwoTerms), (3, TwoTerms), (9, Mixed)] {
        let x = vec![0.5; batch * columns];
        let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
        let mut memory = vec![0; plan.matmul_scratch(batch, rounding)];
        let mut y = vec![0.0; batch * rows];
        watch(&mut || plan.prepare(&x, batch, rounding, &mut buffer).is_ok());
        let prepared = plan.prepare(&x, batch, rounding, &mut buffer).expect("buffers of the right sizes");
        watch(&mut || plan.matmul(0..tiles, &prepared, &mut y, &mut memory).is_ok());
        if batch == 1 {
            watch(&mut || plan.matvec(0..tiles, &prepared, &mut y, &mut memory).is_ok());
        }
    }
    (most, done)
}

#[test]
fn memory_is_bounded() {
    // The standard tables are read once; they are not part of any payload.
    wsic::payload::standard::standard_tables();
    wsic::payload::standard::standard_pair_tables();
    let defaults = Limits::default();

    // Headers that announce much and have nothing.
    let small = payload(1, 1, &[plan(1, 1).section().bytes()]);
    for (columns, rows, matrices) in [
        (1 << 20, 1 << 24, 1),
        (1 << 20, 16, 16),
        (1, 1, 1 << 14),
        (u32::MAX, u32::MAX, u32::MAX),
        (1 << 20, 1, 1),
    ] {
        let mut bytes = small.clone();
        put(&mut bytes, 16, columns);
        put(&mut bytes, 20, rows);
        put(&mut bytes, 24, matrices);
        common::resign::resign(&mut bytes, true);
        // A dead matrix of any shape is legal and small.
        assert!(open(&bytes, &defaults) < 4096, "{columns} {rows} {matrices}");
    }

    // Columns and row scales that end early take no more than those that are there.
    let mut short = plan(1, 1);
    (short.row_kind, short.row_scales) = (2, vec![0x3C00]);
    short.classes.push(Class::Standard(20));
    short.first.push(Entry { input: 0, class: 0, scale: 128, integers: vec![0] });
    for (columns, rows) in [(1 << 20, 1), (1, 1 << 24)] {
        let mut bytes = payload(1, 1, &[short.section().bytes()]);
        put(&mut bytes, 16, columns);
        put(&mut bytes, 20, rows);
        common::resign::resign(&mut bytes, false);
        assert!(Payload::open(&bytes, &defaults).is_err());
        assert!(open(&bytes, &defaults) < 1 << 17, "{columns} {rows}");
    }

    // Much for little: row scales that all are as predicted, columns that all are alike or dead.
    let mut rows = plan(1 << 20, 1);
    (rows.row_kind, rows.row_scales) = (1, vec![128; 1 << 20]);
    let bytes = payload(1 << 20, 1, &[rows.section().bytes()]);
    assert!(bytes.len() < 1 << 11);
    let long = bytes.clone();
    let peak_rows = open(&bytes, &defaults);
    assert!(peak_rows < promised(bytes.len(), (1 << 20) + 1), "{peak_rows}");
    let columns = 3 * (1 << 15) / 2;
    let mut many = plan(1, columns);
    many.classes.push(Class::Standard(20));
    let entry = |input: usize| Entry { input: input as u32, class: 0, scale: 128, integers: vec![0] };
    many.first = (0..columns).map(entry).collect();
    many.extra = (0..2 * columns).map(|index| entry(index / 2)).collect();
    let bytes = payload(1, columns, &[many.section().bytes()]);
    let peak_columns = open(&bytes, &defaults);
    println!("{} bytes for a row, {} for a column", peak_rows >> 20, peak_columns / columns);
    assert!(peak_columns < promised(bytes.len(), columns + 1), "{peak_columns} for {columns} columns");

    // As many classes as can be, in many matrices.
    let mut classes = plan(1, 128);
    classes.width = 4;
    classes.classes = (0..32).map(Class::Standard).collect();
    classes.first = (0..128).map(|i| Entry { class: i / 4, ..entry(i) }).collect();
    let crowded = payload(1, 128, &vec![classes.section().bytes(); 16]);
    let cases = [(&long, (1 << 20) + 1, 0), (&bytes, columns + 1, 1), (&crowded, 16 * 129, 16 * 32)];
    for isa in Isa::all_available() {
        for (bytes, lines, classes) in cases {
            let found = ready(bytes, isa);
            println!(
                "{isa}: {found} bytes for a payload of {}, {lines} lines, {classes} classes",
                bytes.len()
            );
            assert!(found < promised_ready(bytes.len(), lines, classes), "{isa}: {found}");
        }
    }

    // The same headers, refused by limits, take nothing.
    let limits = Limits { rows_and_columns: 1 << 10, ..defaults };
    assert!(open(&bytes, &limits) == 0);

    // Damage of all kinds. A decoder gets its buffers from the caller; it allocates nothing but those of
    // `dequantize_tile`.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/valid");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wsic"));
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut random = Random(0xA110C);
    let (mut done, mut refused) = (0, 0);
    for round in 0..10_000 {
        let seed = &seeds[random.below(seeds.len())];
        let bytes = mutate(seed, seed, &mut random);
        let field = |at: usize| {
            bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize)
        };
        let lines = (field(16).saturating_add(field(20))).saturating_mul(field(24));
        let found = open(&bytes, &defaults);
        assert!(found <= promised(bytes.len(), lines.min(1 << 25)), "round {round}: {found}");
        let Ok(payload) = Payload::open(&bytes, &defaults) else { continue };
        for matrix in payload.matrices() {
            for tile in 0..matrix.tile_count() {
                let size = matrix.geometry().rows_in_tile(matrix.rows(), tile) * matrix.stream_length();
                if size > 1 << 22 {
                    continue;
                }
                let mut integers = vec![0; size];
                let found = peak(|| drop(matrix.decode_tile(tile, &mut integers)));
                assert_eq!(found, 0, "decoding allocates");
            }
            // Kernels neither, whatever they find.
            if round % 10 > 0 || matrix.rows() * matrix.stream_length().max(matrix.columns()) > 1 << 16 {
                continue;
            }
            for isa in Isa::all_available() {
                let (found, whole) = operations(&PreparedMatrix::with_isa(matrix, isa));
                assert_eq!(found, 0, "{isa}, round {round}: an operation allocates");
                *(if whole { &mut done } else { &mut refused }) += 1;
            }
        }
    }
    assert!(done > 500 && refused > 50, "{done} done, {refused} refused");
}
