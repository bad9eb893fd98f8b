//! The command `wsic`.

fn main() -> std::process::ExitCode {
    wsic::cli::main()
}
