//! The command line: one file per command; the only place that prints.
//!
//! Results go to standard output, progress and messages to standard error. Exit codes: 0 success, 1 failure (a file
//! that cannot be read, a check that failed), 2 wrong usage. `docs/COMMANDS.md` holds the help of every command.

mod bench;
mod calibrate;
mod compare;
mod convert;
mod documents;
mod eval;
mod inspect;
mod interrupt;
mod memory;
mod merge;
mod output;
mod outputs;
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

use clap::{CommandFactory, Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Shrinks language models for local inference: WaterSIC quantization, entropy-coded GGUF tensors.
#[derive(Debug, Parser)]
#[command(
    name = "wsic",
    version,
    max_term_width = 100,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Threads to use, up to 1024 (default, and 0: all cores). Results never depend on it.
    #[arg(long, global = true, value_name = "N", env = "WSIC_THREADS", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Print no progress and no notes.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more on standard error: each tensor when it is done, times, memory.
    #[arg(long, short, global = true)]
    verbose: bool,
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
    Completions(documents::CompletionsArguments),
    Man(documents::ManArguments),
}

/// What every command can ask for.
struct Context {
    quiet: bool,
    verbose: bool,
    /// What `--threads` says.
    threads: Option<usize>,
}

const AFTER_HELP: &str = "\
Examples:
  wsic convert model.gguf -o small.gguf --bpw 2.5
  wsic run small.gguf -p 'The capital of France is'
  wsic convert --help

Results go to standard output, progress and messages to standard error; --json prints results as JSON.
Exit codes: 0 success, 1 failure (an error, or a check that failed), 2 wrong usage.
Environment: WSIC_THREADS (as --threads), WSIC_ISA (scalar, avx2, avx2-vnni, avx512 or avx512-vpermb), NO_COLOR (no colours).";

/// All commands with their arguments, for documents made from them.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line, runs the command, prints errors.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = std::env::var_os("WSIC_ISA").filter(|name| !name.is_empty()) {
        if name.to_str().and_then(crate::kernels::Isa::from_name).is_none() {
            eprintln!(
                "error: WSIC_ISA={}: expected scalar, avx2, avx2-vnni, avx512 or avx512-vpermb",
                name.display()
            );
            return ExitCode::from(2);
        }
    }
    interrupt::watch();
    let threads = arguments.threads.unwrap_or(0);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        eprintln!("error: cannot start {}: {error}", units::counted(threads, "thread"));
        return ExitCode::FAILURE;
    }
    let context = Context { quiet: arguments.quiet, verbose: arguments.verbose, threads: arguments.threads };
    if context.verbose {
        eprintln!(
            "wsic {}, {}, {}",
            env!("CARGO_PKG_VERSION"),
            units::counted(rayon::current_num_threads(), "thread"),
            crate::kernels::Isa::selected()
        );
    }
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
        Command::Completions(arguments) => documents::completions(&arguments, &context),
        Command::Man(arguments) => documents::man(&arguments, &context),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            match std::io::stderr().is_terminal() && !no_colour {
                true => eprintln!("\x1b[1;31merror:\x1b[0m {}", message(&error)),
                false => eprintln!("error: {}", message(&error)),
            }
            ExitCode::FAILURE
        }
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&threads| threads <= 1024)
        .ok_or_else(|| "expected a number up to 1024".to_owned())
}

/// Whether standard output was closed by its reader.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(is_pipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|error| error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}

/// Ends the program as the parser does on wrong usage of the command that runs.
fn usage_error(message: &str) -> ! {
    let mut all = Arguments::command();
    all.build();
    // The first word that names a command: options before it take no such words.
    let called = std::env::args().skip(1).find(|word| all.find_subcommand(word).is_some());
    let command = called.and_then(|name| all.find_subcommand(name).cloned()).unwrap_or(all);
    command.clone().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
}

/// The error and its causes, but for those that the text before them says already: errors of the library name their
/// cause themselves.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if cause.starts_with(&text) {
            text = cause;
        } else if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_twice() {
        let io = || std::io::Error::other("no such file");
        let inner = || anyhow::Error::new(io()).context("a.gguf: cannot open: no such file");
        assert_eq!(message(&inner()), "a.gguf: cannot open: no such file");
        assert_eq!(message(&inner().context("a.gguf")), "a.gguf: cannot open: no such file");
        assert_eq!(
            message(&anyhow::Error::new(io()).context("b: cannot read")),
            "b: cannot read: no such file"
        );
    }
}
