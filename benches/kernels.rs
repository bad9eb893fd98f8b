//! Kernels in all their operations, and other entropy decoders on the same symbols:
//! `cargo bench --bench kernels [-- FILTER]`.
//!
//! Wall-clock time, on a quiet machine; `wsic bench kernels` takes processor time and is made for busy ones.

use constriction::stream::model::{ContiguousCategoricalEntropyModel, ContiguousLookupDecoderModel};
use constriction::stream::stack::SmallAnsCoder;
use constriction::stream::Decode;
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;
use wsic::kernels::measure::synthetic_payload;
use wsic::kernels::{Isa, PreparedMatrix, Rounding, Scratch};
use wsic::payload::{Limits, Payload};

const SHAPES: [(usize, usize); 4] = [(4096, 4096), (4096, 14336), (576, 1536), (2048, 8192)];
const BITS: [f64; 4] = [1.6, 2.1, 2.6, 3.6];
const BATCHES: [usize; 6] = [2, 8, 32, 64, 128, 512];
/// Bytes that no cache holds.
const COLD_BYTES: usize = 256 << 20;

fn vector(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

/// All operations on one matrix. Only the narrowest shape runs at all rates, the others at 2.1 bits.
fn operations(c: &mut Criterion) {
    for (rows, columns) in SHAPES {
        for bits in BITS {
            if bits != 2.1 && rows != 576 {
                continue;
            }
            let bytes = synthetic_payload(rows, columns, bits, 7);
            let limits = Limits::default();
            let name = format!("{rows}x{columns}@{bits}");
            let mut group = c.benchmark_group("open");
            group.throughput(Throughput::Elements((rows * columns) as u64));
            group.bench_function(&name, |b| {
                b.iter(|| {
                    let payload = Payload::open(&bytes, &limits).unwrap();
                    black_box(PreparedMatrix::new(&payload.matrices()[0]));
                });
            });
            group.finish();
            for isa in Isa::all_available() {
                one_isa(c, &bytes, &name, isa);
            }
        }
    }
}

fn one_isa(c: &mut Criterion, bytes: &[u8], name: &str, isa: Isa) {
    let limits = Limits::default();
    let copies: Vec<Vec<u8>> =
        (0..(COLD_BYTES / bytes.len()).clamp(1, 128)).map(|_| bytes.to_vec()).collect();
    let payloads: Vec<_> = copies.iter().map(|bytes| Payload::open(bytes, &limits).unwrap()).collect();
    let plans: Vec<_> =
        payloads.iter().map(|payload| PreparedMatrix::with_isa(&payload.matrices()[0], isa)).collect();
    let plan = &plans[0];
    let (rows, columns) = (plan.rows(), plan.columns());
    let weights = (rows * columns) as u64;
    let x = vector(columns);
    let mut y = vec![0.0; rows];

    let mut buffer = vec![0; plan.activation_bytes(1, Rounding::OneTerm)];
    let activations = plan.prepare(&x, 1, Rounding::OneTerm, &mut buffer).unwrap();
    let mut scratch = Scratch::with_bytes(plan.matvec_scratch(Rounding::OneTerm));
    let mut group = c.benchmark_group(format!("matvec/{isa}"));
    group.throughput(Throughput::Elements(weights));
    group.bench_function(BenchmarkId::new("warm", name), |b| {
        b.iter(|| plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap());
    });
    let mut turn = 0;
    group.bench_function(BenchmarkId::new("cold", name), |b| {
        b.iter(|| {
            turn = (turn + 1) % plans.len();
            plans[turn].matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap();
        });
    });
    group.bench_function(BenchmarkId::new("2 threads", name), |b| {
        b.iter(|| plan.matvec_threads(&x, &mut y, 2).unwrap());
    });
    group.finish();

    let mut group = c.benchmark_group(format!("matmul/{isa}"));
    for batch in BATCHES {
        let x = vector(columns * batch);
        let mut y = vec![0.0; rows * batch];
        let mut buffer = vec![0; plan.activation_bytes(batch, Rounding::OneTerm)];
        let activations = plan.prepare(&x, batch, Rounding::OneTerm, &mut buffer).unwrap();
        let mut scratch = Scratch::with_bytes(plan.matmul_scratch(batch, Rounding::OneTerm));
        group.throughput(Throughput::Elements(weights * batch as u64));
        group.bench_function(BenchmarkId::new(batch.to_string(), name), |b| {
            b.iter(|| plan.matmul(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()).unwrap());
        });
    }
    group.finish();

    let mut scratch = Scratch::with_bytes(plan.decode_scratch().max(plan.dequantize_scratch()));
    let wanted: Vec<u32> = (0..64).map(|i| (i * 997 % rows) as u32).collect();
    let mut weights_of_rows = vec![0.0; wanted.len() * columns];
    let mut group = c.benchmark_group(format!("get_rows/{isa}"));
    group.throughput(Throughput::Elements(weights_of_rows.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| plan.get_rows(&wanted, &mut weights_of_rows, scratch.as_bytes()).unwrap());
    });
    group.finish();
    let mut integers = vec![0; plan.rows_of(0..1).len() * plan.matrix().stream_length()];
    let mut group = c.benchmark_group(format!("decode to i32/{isa}"));
    group.throughput(Throughput::Elements(integers.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| plan.decode_rows(0..1, &mut integers, scratch.as_bytes()).unwrap());
    });
    group.finish();
}

/// Other decoders on Gaussian symbols of about 2.1 bits: one symbol of theirs is one weight of ours.
fn entropy_decoders(c: &mut Criterion) {
    const COUNT: usize = 1 << 20;
    const SYMBOLS: usize = 64;
    let mut state = 88_172_645_463_325_252u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut draw = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    let bytes: Vec<u8> = (0..COUNT).map(|_| (32.0 + 1.03 * draw()).round().clamp(0.0, 63.0) as u8).collect();
    let mut group = c.benchmark_group("entropy decoders");
    group.throughput(Throughput::Elements(COUNT as u64));

    let mut counts = [0.5f64; SYMBOLS];
    bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1.0);
    let encoder =
        ContiguousCategoricalEntropyModel::<u16, Vec<u16>, 12>::from_floating_point_probabilities_fast(
            &counts, None,
        )
        .unwrap();
    let lookup = ContiguousLookupDecoderModel::<u16, Vec<u16>, Box<[u16]>, 12>::from_floating_point_probabilities_fast(
        &counts, None,
    )
    .unwrap();
    let mut coder = SmallAnsCoder::new();
    coder.encode_iid_symbols_reverse(bytes.iter().map(|&byte| usize::from(byte)), &encoder).unwrap();
    let stored = 16.0 * coder.num_words() as f64 / COUNT as f64;
    group.bench_function(format!("constriction ANS, lookup, {stored:.3} bits"), |b| {
        b.iter(|| {
            let mut coder = coder.clone();
            let sum: usize = coder.decode_iid_symbols(COUNT, &lookup).map(|symbol| symbol.unwrap()).sum();
            black_box(sum)
        });
    });
    for level in [1, 19] {
        let compressed = zstd::bulk::compress(&bytes, level).unwrap();
        let stored = 8.0 * compressed.len() as f64 / COUNT as f64;
        let mut out = vec![0; COUNT];
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        group.bench_function(format!("zstd -{level} (huff0), {stored:.3} bits"), |b| {
            b.iter(|| decompressor.decompress_to_buffer(&compressed, &mut out).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = entropy_decoders, operations
}
criterion_main!(benches);
