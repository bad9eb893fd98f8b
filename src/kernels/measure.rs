//! Measuring the kernels on this machine, on synthetic matrices: what `wsic bench kernels` prints.
//!
//! Times are processor times of the threads, where the system tells them.

use super::activations::Rounding;
use super::isa::Isa;
use super::plan::PreparedMatrix;
use super::scratch::{Carver, Scratch};
use super::KernelError;
use crate::payload::encode::{encode, EncodeOptions};
use crate::payload::{Geometry, Limits, Payload, QuantizedMatrix, ScaleKind, StreamColumn, Trellis};
use std::time::{Duration, Instant};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Decoding to bytes, which are then dropped.
    Decode,
    /// Product with one vector, activations prepared already.
    Matvec,
    /// Product with a batch of vectors, activations prepared already; weights are counted once for each vector.
    Matmul,
    /// Dequantization of rows spread over the matrix; only the rows asked for are counted.
    GetRows,
    /// Opening the payload, checking all headers, and deriving the kernels' tables; the matrix's weights are counted.
    Open,
    /// Preparing one vector of activations; the matrix's weights are counted.
    Prepare,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 6] =
        [Self::Decode, Self::Matvec, Self::Matmul, Self::GetRows, Self::Open, Self::Prepare];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Matvec => "matvec",
            Self::Matmul => "matmul",
            Self::GetRows => "get_rows",
            Self::Open => "open",
            Self::Prepare => "prepare",
        }
    }
}

/// One case to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// What is timed.
    pub operation: Operation,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// Storage in bits per weight that the synthetic integers aim at.
    pub bits: f64,
    /// Vectors of a matmul, rows of a get_rows; else 1.
    pub batch: usize,
    /// How activations are rounded.
    pub rounding: Rounding,
    /// Threads, each with its own share of the tiles.
    pub threads: usize,
    /// Whether the working set exceeds the caches: copies of the matrix take turns.
    pub cold: bool,
}

/// Time that the calling thread ran: other programs on the machine disturb it less than they disturb a wall clock.
/// Where there is no such clock, the wall clock.
fn thread_time() -> Duration {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        extern "C" {
            fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
        }
        /// `CLOCK_THREAD_CPUTIME_ID` of Linux.
        const THREAD_CLOCK: i32 = 3;
        let mut time = Timespec { seconds: 0, nanoseconds: 0 };
        // SAFETY: the C library's function, which std links, with the layout of its structure on 64-bit Linux.
        if unsafe { clock_gettime(THREAD_CLOCK, &mut time) } == 0 {
            return Duration::new(time.seconds as u64, time.nanoseconds as u32);
        }
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Instruction set.
    pub isa: Isa,
    /// The case.
    pub case: Case,
    /// Storage of the matrix as it is, in bits per weight.
    pub stored_bits: f64,
    /// 10^9 weights per second, in the best of several rounds.
    pub gweights_per_s: f64,
}

/// Bytes that no cache holds.
const COLD_BYTES: usize = 384 << 20;
/// Most copies of a matrix: small ones are cold enough with fewer bytes.
const MOST_COPIES: usize = 256;
/// Time for one case that gives steady results.
pub const USUAL_BUDGET: Duration = Duration::from_millis(600);
/// Rounds at least, unless they take several budgets.
const LEAST_ROUNDS: usize = 5;
/// Budgets after which a case ends whatever the number of rounds.
const MOST_BUDGETS: u32 = 3;

/// Deterministic noise (xorshift64*).
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly Gaussian: the sum of twelve uniform numbers.
    fn gaussian(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// The geometry that the converter chooses for a linear layer of this shape: tiles of equal height.
pub fn usual_geometry(rows: usize, columns: usize) -> Geometry {
    let (width, most) = if columns >= 2048 { (64, 128) } else { (16, 192) };
    let all = rows.div_ceil(64 / width).max(1);
    let steps = all.div_ceil(all.div_ceil(most));
    // Whole pairs in every tile.
    let steps = if steps > 1 { steps.next_multiple_of(2) } else { steps };
    Geometry::new(width, steps).unwrap_or_else(|| unreachable!("legal constants"))
}

/// A payload of Gaussian integers with half an octave of spread between columns, about `bits` bits per weight.
pub fn synthetic_payload(rows: usize, columns: usize, bits: f64, seed: u64) -> Vec<u8> {
    // What small samples took tells how wide the integers must be.
    let sample = (rows.min(1024), columns.min(512));
    let mut deviation = 0.46 * bits.exp2();
    for _ in 0..2 {
        let stored = 8.0 * gaussian_payload(sample.0, sample.1, deviation, seed).len() as f64;
        deviation *= (bits - stored / (sample.0 * sample.1) as f64).clamp(-1.0, 1.0).exp2();
    }
    gaussian_payload(rows, columns, deviation, seed)
}

fn gaussian_payload(rows: usize, columns: usize, deviation: f64, seed: u64) -> Vec<u8> {
    let geometry = usual_geometry(rows, columns);
    let mut noise = Noise(seed | 1);
    // One period of integers is drawn and repeated over rows: the kernels' work depends on statistics alone.
    let period = rows.min(1024);
    let stream = (0..columns)
        .map(|input| {
            let octaves = 0.5 * noise.gaussian();
            let deviation = deviation * octaves.exp2();
            let draws: Vec<f64> = (0..period).map(|_| deviation * noise.gaussian()).collect();
            let mut integers = vec![0; rows];
            for path in geometry.paths(rows) {
                let mut state = 0;
                for i in 0..path.len {
                    let row = path.first + i * path.stride;
                    let q = f64::from(Trellis::Pairs.parity(state));
                    let m = (2.0 * ((draws[row % period] - q) / 2.0).round() + q) as i32;
                    integers[row] = m;
                    state = Trellis::Pairs.next(state, m);
                }
            }
            let scale = (100.0 - 8.0 * octaves).clamp(0.0, 255.0) as u16;
            StreamColumn { input: input as u32, scale, integers }
        })
        .collect();
    let matrix = QuantizedMatrix {
        rows,
        columns,
        geometry,
        trellis: Trellis::Pairs,
        tensor_scale: 1e-4,
        column_scale_kind: ScaleKind::Log8,
        stream,
        row_scales: None,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    encode(&[matrix], &EncodeOptions::new(threads))
        .unwrap_or_else(|error| unreachable!("synthetic integers obey the trellis: {error}"))
}

/// Measures `cases` on each of `isas` that this machine has. Cases of the same matrix should follow each other: it
/// is made once for them.
///
/// # Errors
/// [`KernelError`] if a kernel refuses a synthetic matrix: an error in this crate.
pub fn measure(cases: &[Case], isas: &[Isa]) -> Result<Vec<Measurement>, KernelError> {
    let mut results = Vec::new();
    measure_each(cases, isas, USUAL_BUDGET, |measurement| results.push(measurement))?;
    Ok(results)
}

/// The same with processor time `budget` for each case, telling each result as soon as it is known.
///
/// # Errors
/// As [`measure`].
pub fn measure_each(
    cases: &[Case],
    isas: &[Isa],
    budget: Duration,
    mut tell: impl FnMut(Measurement),
) -> Result<(), KernelError> {
    let same = |a: &Case, b: &Case| (a.rows, a.columns, a.bits) == (b.rows, b.columns, b.bits);
    for cases in cases.chunk_by(same) {
        let Case { rows, columns, bits, .. } = cases[0];
        let bytes = synthetic_payload(rows, columns, bits, 7);
        let stored_bits = 8.0 * bytes.len() as f64 / (rows as f64 * columns as f64);
        for case in cases {
            let copies = if case.cold { (COLD_BYTES / bytes.len()).clamp(2, MOST_COPIES) } else { 1 };
            let payloads: Vec<Vec<u8>> = (0..copies).map(|_| bytes.clone()).collect();
            for &isa in isas.iter().filter(|isa| isa.available()) {
                let seconds = seconds(case, isa, &payloads, budget)?;
                let weights = match case.operation {
                    Operation::Matmul => rows * columns * case.batch,
                    Operation::GetRows => case.batch * columns,
                    _ => rows * columns,
                };
                let gweights_per_s = weights as f64 / seconds / 1e9;
                tell(Measurement { isa, case: *case, stored_bits, gweights_per_s });
            }
        }
    }
    Ok(())
}

/// Seconds of processor time that one execution takes, in the best round over all copies; with threads that of the
/// slowest one.
fn seconds(case: &Case, isa: Isa, payloads: &[Vec<u8>], budget: Duration) -> Result<f64, KernelError> {
    let limits = Limits::default();
    let open = |bytes| Payload::open(bytes, &limits);
    let opened = payloads.iter().map(|bytes| open(bytes)).collect::<Result<Vec<_>, _>>()?;
    let plans: Vec<_> =
        opened.iter().map(|payload| PreparedMatrix::with_isa(&payload.matrices()[0], isa)).collect();
    let plan = &plans[0];
    let x: Vec<f32> = (0..case.columns * case.batch).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let batch = if case.operation == Operation::Matmul { case.batch } else { 1 };
    let x = &x[..case.columns * batch];
    let rounding = case.rounding;
    let mut buffer = vec![0; plan.activation_bytes(batch, rounding)];
    let mut spare = buffer.clone();
    let activations = plan.prepare(x, batch, rounding, &mut buffer)?;
    let threads = case.threads.clamp(1, plan.tiles());
    let rows: Vec<u32> = (0..case.batch).map(|i| (i * 997 % case.rows) as u32).collect();
    let scratch = plan.matmul_scratch(batch, rounding).max(plan.dequantize_scratch());
    let mut workers: Vec<_> = (0..threads)
        .map(|thread| {
            let tiles = plan.tiles() * thread / threads..plan.tiles() * (thread + 1) / threads;
            let results = match case.operation {
                Operation::GetRows => rows.len() * case.columns,
                _ => plan.rows_of(tiles.clone()).len() * batch,
            };
            (tiles, vec![0.0f32; results], Scratch::with_bytes(scratch))
        })
        .collect();

    let work = |plan: &PreparedMatrix<'_>, worker: &mut (std::ops::Range<usize>, Vec<f32>, Scratch)| {
        let (tiles, results, scratch) = worker;
        let scratch = scratch.as_bytes();
        match case.operation {
            Operation::Matvec => plan.matvec(tiles.clone(), &activations, results, scratch),
            Operation::Matmul => plan.matmul(tiles.clone(), &activations, results, scratch),
            Operation::GetRows => plan.get_rows(&rows, results, scratch),
            _ => plan.for_each_group(tiles.clone(), |group| {
                let mut carver = Carver::new(scratch, plan.decode_groups_scratch(Rounding::OneTerm))?;
                plan.decode_groups(group, Rounding::OneTerm, &mut carver, |decoded| {
                    std::hint::black_box(decoded.values);
                })
            }),
        }
    };
    let mut best = f64::INFINITY;
    let mut spent = Duration::ZERO;
    let mut rounds = 0;
    while rounds == 0 || spent < budget || (rounds < LEAST_ROUNDS && spent < MOST_BUDGETS * budget) {
        let start = thread_time();
        let time = match case.operation {
            Operation::Open => {
                for bytes in payloads {
                    let payload = open(bytes)?;
                    std::hint::black_box(PreparedMatrix::with_isa(&payload.matrices()[0], isa));
                }
                thread_time() - start
            }
            Operation::Prepare => {
                for plan in &plans {
                    std::hint::black_box(plan.prepare(x, batch, rounding, &mut spare)?);
                }
                thread_time() - start
            }
            _ => slowest(&mut workers, |worker| plans.iter().try_for_each(|plan| work(plan, worker)))?,
        };
        best = best.min(time.as_secs_f64() / plans.len() as f64);
        spent += time;
        rounds += 1;
    }
    Ok(best)
}

/// Runs `work` for all workers, each on a thread of its own, and gives the longest of their times.
fn slowest<W: Send>(
    workers: &mut [W],
    work: impl Fn(&mut W) -> Result<(), KernelError> + Sync,
) -> Result<Duration, KernelError> {
    let timed = |worker: &mut W| {
        let start = thread_time();
        work(worker).map(|()| thread_time() - start)
    };
    if let [worker] = workers {
        return timed(worker);
    }
    std::thread::scope(|scope| {
        let timed = &timed;
        let handles: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || timed(worker))).collect();
        handles.into_iter().try_fold(Duration::ZERO, |longest, handle| match handle.join() {
            Ok(time) => Ok(longest.max(time?)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_measured_on_every_instruction_set() {
        use Operation::*;
        let isas: Vec<Isa> = Isa::all_available().collect();
        let case = |operation| Case {
            operation,
            rows: 300,
            columns: 200,
            bits: 2.1,
            batch: if operation == Matmul { 3 } else { 1 },
            rounding: if operation == Matvec { Rounding::TwoTerms } else { Rounding::Mixed },
            threads: 2,
            cold: operation == Matvec,
        };
        let cases = [Decode, Matvec, Matmul, GetRows, Open, Prepare].map(case);
        let results = measure(&cases, &isas).unwrap();
        assert_eq!(results.len(), cases.len() * isas.len());
        for result in results {
            assert!(result.gweights_per_s > 0.0, "{result:?}");
            assert!((1.6..3.5).contains(&result.stored_bits), "{result:?}");
        }
    }
}
