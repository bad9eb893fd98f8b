//! `wsic bench`: how fast this machine is.

use super::{progress, Context};
use crate::kernels::measure::{measure_each, Case, Measurement, Operation};
use crate::kernels::{Isa, Rounding};
use anyhow::{bail, Result};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Measure speeds on this machine.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  wsic bench kernels\n  wsic bench kernels --help"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Kernels(Kernels),
}

/// Time the kernels that decode and multiply, on synthetic matrices.
///
/// Times are processor times of the threads, best of several rounds; with several threads the slowest one counts.
/// "cold" means that copies of the matrix take turns, more than the caches hold. Each operation counts the weights it
/// used: a matmul rows x columns x vectors, a get_rows only the rows asked for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic bench kernels\n  wsic bench kernels --json --isa avx512 --op matvec \\\n      --shape 4096x4096 --shape 576x1536 --bits 1.6,2.1\n\nThe global option --threads chooses one number of threads; without it, 1 and all cores are measured."
)]
struct Kernels {
    /// Rows (output features) by columns (input features); can be given several times.
    #[arg(long = "shape", value_name = "ROWSxCOLUMNS", value_parser = parse_shape, default_value = "4096x14336")]
    shapes: Vec<(usize, usize)>,
    /// Bits per weight of the synthetic matrices, 0.5 to 7.
    #[arg(long, value_name = "BITS", value_parser = parse_bits, value_delimiter = ',', default_value = "2.1")]
    bits: Vec<f64>,
    /// Instruction sets: scalar, avx2, avx2-vnni, avx512, avx512-vpermb (default: all that this machine has).
    #[arg(long, value_name = "NAME", value_parser = parse_isa, value_delimiter = ',')]
    isa: Vec<Isa>,
    /// Operations: decode, matvec, matmul, get_rows, open, prepare.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = parse_operation,
        value_delimiter = ',',
        default_value = "decode,matvec,matmul,get_rows"
    )]
    op: Vec<Operation>,
    /// Vectors of a matmul and rows of a get_rows.
    #[arg(long, value_name = "N", value_parser = parse_count, value_delimiter = ',', default_value = "128")]
    batch: Vec<usize>,
    /// How activations are rounded: to 8 bits (one-term), 8 bits and 15 where one is far larger than its neighbours
    /// (mixed; prompts of `run`), or twice 8 bits (two-terms; single tokens of `run`).
    #[arg(long, value_name = "HOW", value_parser = parse_rounding, default_value = "one-term")]
    rounding: Rounding,
    /// Processor time for each case, at least.
    #[arg(long, value_name = "SECONDS", value_parser = parse_time, default_value = "0.6")]
    time: Duration,
    /// Print a JSON list instead of a table.
    #[arg(long)]
    json: bool,
}

/// One measurement, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Row {
    /// Family of instruction sets: scalar, avx2, avx512.
    isa: &'static str,
    /// The kernels' own name of it, which `--isa` and `WSIC_ISA` take.
    variant: &'static str,
    op: &'static str,
    rows: usize,
    cols: usize,
    bits: f64,
    /// Bits per weight that the matrix really took.
    stored_bits: f64,
    threads: usize,
    batch: usize,
    rounding: &'static str,
    cold: bool,
    gweights_per_s: f64,
}

impl Row {
    fn new(measurement: &Measurement) -> Self {
        let Measurement { isa, case, stored_bits, gweights_per_s } = *measurement;
        let digits = |value: f64| (value * 1e4).round() / 1e4;
        Self {
            isa: isa.family(),
            variant: isa.name(),
            op: case.operation.name(),
            rows: case.rows,
            cols: case.columns,
            bits: case.bits,
            stored_bits: digits(stored_bits),
            threads: case.threads,
            batch: case.batch,
            rounding: case.rounding.name(),
            cold: case.cold,
            gweights_per_s: digits(gweights_per_s),
        }
    }
}

fn parse_rounding(text: &str) -> Result<Rounding, String> {
    let known = Rounding::ALL.into_iter().find(|rounding| rounding.name() == text);
    known.ok_or_else(|| format!("one of {}", Rounding::ALL.map(Rounding::name).join(", ")))
}

fn parse_shape(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(rows, columns)| rows.parse().ok().zip(columns.parse().ok()));
    match sides {
        Some((rows @ 1.., columns @ 1..))
            if rows <= 1 << 20 && columns <= 1 << 20 && rows * columns <= 1 << 30 =>
        {
            Ok((rows, columns))
        }
        _ => Err(format!("'{text}' is no shape: expected something like 4096x14336, at most 2^30 weights")),
    }
}

fn parse_bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.5..=7.0).contains(&bits) => Ok(bits),
        _ => Err(format!("'{text}': expected a number from 0.5 to 7")),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=4096) => Ok(count),
        _ => Err(format!("'{text}': expected a number from 1 to 4096")),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("'{text}': expected a number of seconds up to 3600")),
    }
}

fn parse_isa(text: &str) -> Result<Isa, String> {
    let isa = Isa::from_name(text)
        .ok_or_else(|| format!("'{text}': expected scalar, avx2, avx2-vnni, avx512 or avx512-vpermb"))?;
    if isa.available() {
        Ok(isa)
    } else {
        Err(format!("this machine does not have {text}"))
    }
}

fn parse_operation(text: &str) -> Result<Operation, String> {
    let found = Operation::ALL.into_iter().find(|operation| operation.name() == text);
    found.ok_or_else(|| format!("'{text}': expected decode, matvec, matmul, get_rows, open or prepare"))
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    match &arguments.what {
        What::Kernels(kernels) => run_kernels(kernels, context),
    }
}

fn run_kernels(arguments: &Kernels, context: &Context) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match context.threads {
        Some(threads) => vec![threads.max(1)],
        None if cores > 1 => vec![1, cores],
        None => vec![1],
    };
    let isas: Vec<Isa> =
        if arguments.isa.is_empty() { Isa::all_available().collect() } else { arguments.isa.clone() };
    let cases = cases(arguments, &threads);
    if cases.is_empty() {
        bail!("nothing to measure");
    }
    let bar = progress::bar((cases.len() * isas.len()) as u64, "measuring", context.quiet);
    let mut rows = Vec::new();
    measure_each(&cases, &isas, arguments.time, |measurement| {
        bar.set_message(format!("{} {}", measurement.isa, measurement.case.operation.name()));
        bar.inc(1);
        rows.push(Row::new(&measurement));
    })?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &rows)?;
        writeln!(out)?;
    } else {
        print(&rows, &mut out)?;
    }
    Ok(())
}

/// All combinations that make sense, grouped by matrix.
fn cases(arguments: &Kernels, threads: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(rows, columns) in &arguments.shapes {
        for &bits in &arguments.bits {
            for &operation in &arguments.op {
                let batches = match operation {
                    Operation::Matmul | Operation::GetRows => arguments.batch.as_slice(),
                    _ => &[1],
                };
                // Looking rows up, opening and preparing are not spread over threads.
                let threads = match operation {
                    Operation::Decode | Operation::Matvec | Operation::Matmul => threads,
                    _ => &[1],
                };
                let cold: &[bool] = match operation {
                    Operation::Decode | Operation::Matvec => &[false, true],
                    _ => &[false],
                };
                for &batch in batches {
                    for &threads in threads {
                        for &cold in cold {
                            let rounding = arguments.rounding;
                            cases.push(Case {
                                operation,
                                rows,
                                columns,
                                bits,
                                batch,
                                rounding,
                                threads,
                                cold,
                            });
                        }
                    }
                }
            }
        }
    }
    cases
}

fn print(rows: &[Row], out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "{:9}  {:8}  {:>13}  {:>11}  {:>7}  {:>5}  {:5}  {:>10}",
        "isa", "op", "rows x cols", "bits/weight", "threads", "batch", "cache", "Gweights/s"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:9}  {:8}  {:>13}  {:>11.3}  {:>7}  {:>5}  {:5}  {:>10.3}",
            row.variant,
            row.op,
            format!("{} x {}", row.rows, row.cols),
            row.stored_bits,
            row.threads,
            row.batch,
            if row.cold { "cold" } else { "warm" },
            row.gweights_per_s
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        assert_eq!(parse_shape("576x1536"), Ok((576, 1536)));
        for bad in ["", "x", "0x5", "5x0", "5", "4096x", "-1x4", "1048577x1", "1000000x1000000"] {
            assert!(parse_shape(bad).is_err(), "{bad}");
        }
        assert!(parse_bits("2.1").is_ok() && parse_bits("nan").is_err() && parse_bits("9").is_err());
        assert!(parse_count("0").is_err() && parse_isa("sse9").is_err() && parse_operation("add").is_err());
    }
}
