//! Opening, decoding and the kernels take time linear in the size of the payload, for payloads made to be slow too.
//!
//! One test only, so that nothing else runs beside the clock.

mod common;

use common::forge::{payload, Bits, Class, Entry, Plan, Table};
use std::time::Duration;
use wsic::kernels::{Isa, PreparedMatrix, Rounding};
use wsic::payload::{Limits, Payload};

fn plan(rows: usize, columns: usize, width: usize, steps: usize) -> Plan {
    Plan {
        rows,
        columns,
        width,
        steps,
        trellis: 0,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![],
        first: vec![],
        extra: vec![],
        row_scales: vec![],
    }
}

/// All columns live, in one class of which almost every symbol is the same.
fn cheap(rows: usize, columns: usize, width: usize, steps: usize) -> Plan {
    let mut plan = plan(rows, columns, width, steps);
    let runs = [0, 1].map(|_| vec![(0, 255), (1, 1)]);
    plan.classes.push(Class::Inline(Table { raw_bits: 0, smallest: [0, 0], runs }));
    let entry = |input: usize| Entry { input: input as u32, class: 0, scale: 128, integers: vec![0; rows] };
    plan.first = (0..columns).map(entry).collect();
    plan
}

/// Payloads of growing size, by name; `n` is the size.
fn family(name: &str, n: usize) -> Vec<u8> {
    let one = |plan: &Plan| payload(plan.rows, plan.columns, &[plan.section().bytes()]);
    match name {
        "columns" => one(&cheap(1, n, 64, 1)),
        "row scales" => {
            let mut plan = plan(n, 1, 64, 256);
            (plan.row_kind, plan.row_scales) = (1, vec![128; n]);
            one(&plan)
        }
        "symbols" => one(&cheap(64, n / 16, 64, 64)),
        "tiles" => one(&cheap(n / 16, 1, 64, 1)),
        "matrices" => {
            let section = cheap(1, 1, 64, 1).section().bytes();
            payload(1, 1, &vec![section; n / 16])
        }
        "escapes" => {
            let mut section = cheap(64, n / 16, 64, 64).section();
            let mut bits = Bits::default();
            bits.put(0, 8);
            for _ in 0..n {
                bits.unary(0);
                bits.unary(0);
            }
            section.tiles[0].escapes = bits.bytes;
            payload(64, n / 16, &[section.bytes()])
        }
        "zeros in an escape list" => {
            let mut section = cheap(64, 64, 64, 64).section();
            section.tiles[0].escapes = vec![0; 64 * n];
            payload(64, 64, &[section.bytes()])
        }
        _ => unreachable!(),
    }
}

fn open(bytes: &[u8]) -> Payload<'_> {
    Payload::open(bytes, &Limits { matrices: 1 << 20, ..Limits::default() }).expect("opens")
}

fn definition(bytes: &[u8]) {
    for matrix in open(bytes).matrices() {
        let width = matrix.stream_length();
        let mut integers = vec![0; matrix.rows().min(matrix.geometry().rows_per_tile()) * width];
        for tile in 0..matrix.tile_count() {
            let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
            // A list of zeros is refused after all of it was read.
            let _ = matrix.decode_tile(tile, &mut integers[..rows * width]);
            let _ = matrix.verify_tile(tile);
        }
    }
}

fn kernels(bytes: &[u8], isa: Isa) {
    for matrix in open(bytes).matrices() {
        let plan = PreparedMatrix::with_isa(matrix, isa);
        let tiles = 0..plan.tiles();
        let mut integers = vec![0; plan.rows() * matrix.stream_length()];
        let mut y = vec![0.0; plan.rows()];
        let mut scratch = vec![0; plan.decode_scratch().max(plan.matvec_scratch(Rounding::OneTerm))];
        let _ = plan.decode_rows(tiles.clone(), &mut integers, &mut scratch);
        let mut buffer = vec![0; plan.activation_bytes(1, Rounding::OneTerm)];
        let x = vec![1.0; plan.columns()];
        let activations =
            plan.prepare(&x, 1, Rounding::OneTerm, &mut buffer).expect("buffers of the right sizes");
        let _ = plan.matvec(tiles, &activations, &mut y, &mut scratch);
    }
}

/// Processor time of this thread so far: what other processes take does not count.
#[cfg(unix)]
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn now() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// The shortest of several runs.
fn clock(work: &dyn Fn()) -> Duration {
    (0..4)
        .map(|_| {
            let start = now();
            work();
            now() - start
        })
        .min()
        .unwrap()
}

type Work = Box<dyn Fn(&[u8])>;

#[test]
fn time_is_linear() {
    wsic::payload::standard::standard_tables();
    let mut works: Vec<(String, Work)> = vec![("definition".into(), Box::new(definition))];
    for isa in [Isa::Scalar, Isa::selected()] {
        works.push((format!("kernels, {isa}"), Box::new(move |bytes| kernels(bytes, isa))));
    }
    works.dedup_by(|a, b| a.0 == b.0);
    for name in
        ["columns", "row scales", "symbols", "tiles", "matrices", "escapes", "zeros in an escape list"]
    {
        let n = 1 << 14;
        let (small, large) = (family(name, n), family(name, 8 * n));
        for (what, work) in &works {
            // Quadratic time would be a ratio of 64.
            let time = |bytes: &[u8]| clock(&|| work(bytes)).as_secs_f64();
            let best = (0..3).map(|_| time(&large) / time(&small)).fold(f64::INFINITY, f64::min);
            println!("{name}, {what}: {} -> {} bytes, time x {best:.1}", small.len(), large.len());
            assert!(best < 24.0, "{name}, {what}: eight times the size takes {best:.1} times as long");
        }
    }
}
