//! The command line: one file per command; the only place that prints.
//!
//! Results go to standard output, progress and messages to standard error. Exit codes: 0 success, 1 failure (a file
//! that cannot be read, a check that failed), 2 wrong usage.

mod bench;
mod calibrate;
mod compare;
mod convert;
mod eval;
mod inspect;
mod merge;
mod plan;
mod plot;
mod progress;
mod retag;
mod run;
mod settings;
mod skeleton;
mod smallest;
mod units;
mod unpack;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Shrinks language models for local inference: WaterSIC quantization, entropy-coded GGUF tensors.
#[derive(Debug, Parser)]
#[command(
    name = "wsic",
    version,
    max_term_width = 100,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Threads to use (default: all cores). Results never depend on it.
    #[arg(long, global = true, value_name = "N", env = "WSIC_THREADS")]
    threads: Option<usize>,
    /// Print no progress and no notes.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Convert(Box<convert::Arguments>),
    Calibrate(calibrate::Arguments),
    Plan(Box<plan::Arguments>),
    Merge(merge::Arguments),
    Eval(eval::Arguments),
    Compare(Box<compare::Arguments>),
    Run(run::Arguments),
    Verify(verify::Arguments),
    Inspect(inspect::Arguments),
    Unpack(unpack::Arguments),
    Retag(retag::Arguments),
    Skeleton(skeleton::Arguments),
    Bench(bench::Arguments),
}

/// What every command can ask for.
struct Context {
    quiet: bool,
    /// What `--threads` says.
    threads: Option<usize>,
}

/// Parses the command line, runs the command, prints errors.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.unwrap_or(0);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        eprintln!("error: cannot start {threads} threads: {error}");
        return ExitCode::FAILURE;
    }
    let context = Context { quiet: arguments.quiet, threads: arguments.threads };
    let result = match arguments.command {
        Command::Convert(arguments) => convert::run(&arguments, &context),
        Command::Calibrate(arguments) => calibrate::run(&arguments, &context),
        Command::Plan(arguments) => plan::run(&arguments, &context),
        Command::Merge(arguments) => merge::run(&arguments, &context),
        Command::Eval(arguments) => eval::run(&arguments, &context),
        Command::Compare(arguments) => compare::run(&arguments, &context),
        Command::Run(arguments) => run::run(&arguments, &context),
        Command::Verify(arguments) => verify::run(&arguments, &context),
        Command::Inspect(arguments) => inspect::run(&arguments, &context),
        Command::Unpack(arguments) => unpack::run(&arguments, &context),
        Command::Retag(arguments) => retag::run(&arguments, &context),
        Command::Skeleton(arguments) => skeleton::run(&arguments, &context),
        Command::Bench(arguments) => bench::run(&arguments, &context),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends the program as the parser does on wrong usage.
fn usage_error(message: &str) -> ! {
    use clap::CommandFactory;
    Arguments::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
}

/// An output that is the input would destroy it.
fn refuse_same_file(input: &std::path::Path, output: &std::path::Path) -> anyhow::Result<()> {
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    anyhow::ensure!(!same, "{}: the output is the input; choose another name", output.display());
    Ok(())
}
