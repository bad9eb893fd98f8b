//! The command line is the same everywhere: help with examples, global options, JSON, exit codes, colours; and what is
//! made from it: completions, manual pages, `docs/COMMANDS.md`.
#![cfg(feature = "cli")]

use assert_cmd::Command;
use predicates::prelude::*;
use std::path::Path;

fn wsic(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_wsic")).args(arguments).assert()
}

/// Every command with its own commands, as words of the command line.
fn all() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(words: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        all.push((words.to_vec(), command.clone()));
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            walk(&[words, &[inner.get_name().to_owned()]].concat(), inner, all);
        }
    }
    let mut all = Vec::new();
    let mut command = wsic::cli::command();
    command.build();
    walk(&[], &command, &mut all);
    all
}

#[test]
fn every_command_explains_itself() {
    let all = all();
    assert!(all.len() > 15);
    for (words, command) in &all {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = wsic(&[&words[..], &["--help"]].concat()).success().stderr("").get_output().stdout.clone();
        let help = String::from_utf8(help).unwrap();
        let name = [&["wsic"], &words[..]].concat().join(" ");
        assert!(help.contains("Examples:\n"), "{name}: examples");
        let examples = help.split("Examples:\n").nth(1).unwrap();
        assert!(
            examples.lines().next().unwrap().trim().starts_with(&name),
            "{name}: the first example is of it"
        );
        assert!(help.contains(&format!("Usage: {name}")), "{name}: usage");
        for option in ["--threads", "--quiet", "--verbose", "--help"] {
            assert!(help.contains(option), "{name}: {option}");
        }
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} has help", argument.get_id());
        }
        // Commands of commands, and those that print a document, have no result of their own.
        let documents = ["completions", "man"].contains(&command.get_name());
        let json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
        assert_eq!(json, !command.has_subcommands() && !documents, "{name}: --json");
        wsic(&[&words[..], &["--no-such-option"]].concat()).code(2).stdout("");
    }
}

/// Examples keep their lines, and everything else is left to the terminal's width.
#[test]
fn help_is_wrapped_once() {
    for (words, command) in all() {
        let Some(after) = command.get_after_help().map(ToString::to_string) else { continue };
        for line in after.lines() {
            match line.starts_with("  ") {
                true => assert!(line.len() <= 80, "{words:?}: does not fit a terminal: {line}"),
                false => assert!(line.is_empty() || line.ends_with(['.', ':']), "{words:?}: broken: {line}"),
            }
        }
        let mut narrow = Command::new(env!("CARGO_BIN_EXE_wsic"));
        let help = narrow.args(&words).arg("--help").env("COLUMNS", "80").output().unwrap().stdout;
        let help = String::from_utf8(help).unwrap();
        let examples = after.lines().filter(|line| line.starts_with("  "));
        assert!(examples.clone().count() > 0);
        examples.for_each(|line| assert!(help.lines().any(|shown| shown == line), "{words:?}: {line}"));
    }
}

#[test]
fn a_missing_file_is_a_failure_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out").display().to_string();
    let missing = folder.path().join("missing.gguf").display().to_string();
    let out = ["-o", output.as_str()];
    let commands: [(&str, &[&str]); 12] = [
        ("convert", &["--bpw", "3", out[0], out[1]]),
        ("calibrate", &out),
        ("plan", &["--bpw", "3", out[0], out[1]]),
        ("merge", &out),
        ("eval", &["--text", "x"]),
        ("compare", &["--text", "x", "--rates", "3"]),
        ("run", &["-p", "x"]),
        ("verify", &[]),
        ("inspect", &[]),
        ("unpack", &out),
        ("retag", &["--type-id", "910", out[0], out[1]]),
        ("skeleton", &out),
    ];
    for (name, more) in commands {
        let failed = wsic(&[&[name, missing.as_str()], more].concat()).code(1).stdout("");
        failed.stderr(predicate::str::starts_with("error: ").and(predicate::str::contains("missing.gguf")));
    }
    // All commands that read a model are among them.
    let others = ["wsic", "bench", "kernels", "completions", "man"];
    for (_, command) in all() {
        let name = command.get_name();
        assert!(others.contains(&name) || commands.iter().any(|command| command.0 == name), "{name}");
    }
}

#[test]
fn wrong_values_are_wrong_usage() {
    let cases: [&[&str]; 16] = [
        &["convert", "m", "-o", "x", "--bpw", "-1"],
        &["convert", "m", "-o", "x", "--size", "1.2"],
        &["convert", "m", "-o", "x", "--size", "-5MB"],
        &["convert", "m", "-o", "x", "--bpw", "3", "--tensor", "=3"],
        &["convert", "m", "-o", "x", "--bpw", "3", "--calibration-tokens", "0"],
        &["compare", "m", "--text", "t"],
        &["eval", "m", "--text", "t", "--ctx", "1"],
        &["eval", "m", "--text", "t", "--chunks", "0"],
        &["verify", "m", "--threads", "100000"],
        &["convert", "m", "-o", "x", "--bpw", "99"],
        &["convert", "m", "-o", "x"],
        &["compare", "m", "--text", "t", "--rates", "2,0"],
        &["run", "m", "-p", "a", "--temp=-1"],
        &["run", "m", "-p", "a", "--top-p", "1.5"],
        &["verify", "m", "--quiet", "--verbose"],
        &["no-such-command"],
    ];
    for arguments in cases {
        wsic(arguments).code(2).stdout("").stderr(predicate::str::contains("error:"));
    }
    wsic(&[]).code(2);
    wsic(&["--version"]).success().stdout(predicate::str::starts_with("wsic "));
}

#[test]
fn output_for_programs_has_no_colours() {
    for arguments in [&["--help"][..], &["verify", "missing"], &["verify"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_wsic")).args(arguments).output().unwrap();
        for bytes in [output.stdout, output.stderr] {
            assert!(!bytes.contains(&0x1b), "{arguments:?}");
        }
    }
}

/// On a terminal, made by `script` where it is installed.
#[cfg(target_os = "linux")]
#[test]
fn terminals_get_colours_unless_no_color_is_set() {
    let shown = |no_colour: &str| {
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &format!("{} verify missing", env!("CARGO_BIN_EXE_wsic")), "/dev/null"]);
        command.env("NO_COLOR", no_colour).env("TERM", "xterm").stdin(std::process::Stdio::null());
        command.output().ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(colours) = shown("") else {
        eprintln!("skipped: no program `script` (util-linux)");
        return;
    };
    assert!(colours.contains("\x1b[1;31merror:"), "{colours:?}");
    let plain = shown("1").unwrap();
    assert!(plain.contains("error: ") && !plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = wsic(&["completions", shell]).success().get_output().stdout.clone();
        let script = String::from_utf8(script).unwrap();
        for (words, _) in all() {
            assert!(words.iter().all(|word| script.contains(word.as_str())), "{shell}: {words:?}");
        }
        assert!(script.contains("bpw"), "{shell}: options");
        // Each shell that is here reads its script.
        let check = match shell {
            "bash" | "zsh" => {
                std::process::Command::new(shell).args(["-n", "/dev/stdin"]).stdin(pipe(&script)).output()
            }
            "fish" => std::process::Command::new(shell).args(["--no-execute"]).stdin(pipe(&script)).output(),
            _ => continue,
        };
        match check {
            Ok(output) => {
                assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr))
            }
            Err(_) => eprintln!("{shell} is not installed: its script was not read by it"),
        }
    }
    wsic(&["completions", "tcsh"]).code(2);
    // bash really completes: the commands that begin with "co".
    let script = wsic(&["completions", "bash"]).get_output().stdout.clone();
    let script = String::from_utf8(script).unwrap()
        + "\nCOMP_WORDS=(wsic co); COMP_CWORD=1; _wsic wsic co wsic; echo \"${COMPREPLY[@]}\"";
    if let Ok(output) = std::process::Command::new("bash").args(["--norc", "-c", &script]).output() {
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "convert compare completions");
    }
}

fn pipe(text: &str) -> std::process::Stdio {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

#[test]
fn manual_pages_are_written_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man1");
    wsic(&["man", "-o", path.to_str().unwrap(), "-q"]).success().stdout("").stderr("");
    for (words, command) in all() {
        let page = [&["wsic".to_owned()], &words[..]].concat().join("-") + ".1";
        let text = std::fs::read_to_string(path.join(&page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains(".TH") && text.contains(".SH SYNOPSIS"), "{page}");
        assert!(text.contains("\n.SH EXAMPLES\n  ") && !text.contains(".SH EXTRA"), "{page}");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(text.contains(&option.replace('-', "\\-")), "{page}: {option}");
        }
        let check =
            std::process::Command::new("man").args(["--warnings", "-l"]).arg(path.join(&page)).output();
        match check {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{page}: {output:?}"),
            Err(_) => eprintln!("man is not installed: {page} was not read by it"),
        }
    }
    wsic(&["man"]).success().stdout(
        predicate::str::contains(".TH wsic 1").and(predicate::str::contains(".SH EXAMPLES\n  wsic convert")),
    );
}

/// The reference of all commands, from their own help.
fn reference() -> String {
    let mut text = String::new();
    for (words, mut command) in all() {
        let name = [&["wsic".to_owned()], &words[..]].concat().join(" ");
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        text += &format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    }
    text
}

/// `WSIC_WRITE_COMMANDS=1 cargo test --test commands` writes the file anew.
#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/COMMANDS.md");
    const MARK: &str = "<!-- from here on made by tests/commands.rs -->\n";
    let found = std::fs::read_to_string(&path).unwrap();
    let (introduction, rest) = found.split_once(MARK).unwrap();
    if std::env::var_os("WSIC_WRITE_COMMANDS").is_some() {
        std::fs::write(&path, format!("{introduction}{MARK}{}", reference())).unwrap();
        return;
    }
    assert!(rest == reference(), "docs/COMMANDS.md: write it anew with WSIC_WRITE_COMMANDS=1");
    for words in ["Exit codes", "NO_COLOR", "WSIC_THREADS", "WSIC_ISA", "--json", "--quiet", "--verbose"] {
        assert!(introduction.contains(words), "{words}");
    }
}
