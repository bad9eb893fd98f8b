//! The vendorable C decoder where it uses vector instructions of aarch64, and its products, against the library.
//!
//! The products are also tested as this machine compiles them (`CC`, else `cc`). For aarch64 a cross compiler
//! (`aarch64-linux-gnu-gcc`, or `WSIC_AARCH64_CC`) and `qemu-aarch64` run the programs; Debian: `apt-get install
//! gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user`. What is absent is skipped with a message.

mod common;

use common::mutate::mutate;
use common::{matrix, Random, Recipe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use wsic::kernels::{Isa, PreparedMatrix, Rounding, Scratch};
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Payload, PayloadError, ScaleKind, Trellis};

fn spec() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec")
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command that has to succeed; its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

fn compile(compiler: &str, name: &str, flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let strict =
        ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"];
    let source = spec().join("decoder/test_vectors.c");
    output(Command::new(compiler).args(strict).args(flags).arg(source).arg("-o").arg(&program));
    program
}

/// How to start the C program: compiled for this machine, or for aarch64 and emulated.
type Program = (&'static str, Vec<PathBuf>);

fn programs() -> &'static [Program] {
    static PROGRAMS: OnceLock<Vec<Program>> = OnceLock::new();
    PROGRAMS.get_or_init(compile_all)
}

fn compile_all() -> Vec<Program> {
    let mut programs = Vec::new();
    let native = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if runs(Command::new(&native).arg("--version")) {
        programs.push(("native", vec![compile(&native, "multiply_native", &["-O2"])]));
    } else {
        eprintln!("skipped: no C compiler `{native}`");
    }
    let cross = std::env::var("WSIC_AARCH64_CC").unwrap_or_else(|_| "aarch64-linux-gnu-gcc".into());
    let emulators = ["qemu-aarch64", "qemu-aarch64-static"];
    let emulator = emulators.into_iter().find(|name| runs(Command::new(name).arg("--version")));
    match emulator {
        Some(emulator) if runs(Command::new(&cross).arg("--version")) => {
            let variants: [(&str, &str, &[&str]); 3] = [
                ("aarch64, dot products", "neon_dot", &["-static", "-O2", "-march=armv8.2-a+dotprod"]),
                // Compilers may fuse products with additions there; the source has to prevent it, not a flag.
                ("aarch64", "neon", &["-static", "-std=gnu99", "-O3", "-ffp-contract=fast"]),
                ("aarch64, portable", "neon_none", &["-static", "-O1", "-DWSIC_NO_NEON"]),
            ];
            for (what, name, flags) in variants {
                programs.push((what, vec![emulator.into(), compile(&cross, name, flags)]));
            }
        }
        _ => eprintln!("skipped: aarch64 needs `{cross}` and qemu-aarch64"),
    }
    programs
}

fn command(program: &[PathBuf]) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]);
    command
}

#[test]
fn aarch64_passes_all_vectors() {
    let manifest = std::fs::read_to_string(spec().join("vectors/manifest.tsv")).unwrap();
    let wanted = format!("{} passed, 0 failed", manifest.lines().count() - 1);
    for (what, program) in programs().iter().filter(|(what, _)| *what != "native") {
        let text = output(command(program).arg("vectors").arg(spec().join("vectors")));
        assert_eq!(text.lines().last(), Some(wanted.as_str()), "{what}: {text}");
    }
}

/// The vector that the C program multiplies with.
fn vector(columns: usize) -> Vec<f32> {
    let number = |j: usize| {
        let x = ((37 * j % 101) as f32 - 50.0) / 50.0;
        x * if j.is_multiple_of(29) { 40.0 } else { 1.0 }
    };
    (0..columns).map(number).collect()
}

/// Products of all matrices by the library.
fn products(bytes: &[u8], rounding: Rounding) -> Result<Vec<u8>, PayloadError> {
    let limits = Limits::default();
    let payload = Payload::open(bytes, &limits)?;
    let mut all = Vec::new();
    for matrix in payload.matrices() {
        let plan = PreparedMatrix::with_isa(matrix, Isa::selected());
        let mut buffer = vec![0; plan.activation_bytes(1, rounding)];
        let activations = plan.prepare(&vector(plan.columns()), 1, rounding, &mut buffer).unwrap();
        let mut scratch = Scratch::with_bytes(plan.matmul_scratch(1, rounding));
        let mut y = vec![f32::NAN; plan.rows()];
        match plan.matvec(0..plan.tiles(), &activations, &mut y, scratch.as_bytes()) {
            Ok(()) => all.extend(y.iter().flat_map(|y| y.to_le_bytes())),
            Err(wsic::kernels::KernelError::Payload(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        }
    }
    Ok(all)
}

/// Has every program multiply the payloads, and compares verdicts and products with the library's.
fn compare(payloads: &[Vec<u8>]) {
    let names: Vec<String> = (0..payloads.len()).map(|index| format!("{index}.wsic")).collect();
    for (terms, rounding) in [(1, Rounding::OneTerm), (2, Rounding::TwoTerms)] {
        let expected: Vec<_> = payloads.iter().map(|bytes| products(bytes, rounding)).collect();
        for (what, program) in programs() {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in names.iter().zip(payloads) {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            let mut command = command(program);
            command.current_dir(folder.path()).args(["multiply", &terms.to_string()]).args(&names);
            let text = output(&mut command);
            assert_eq!(text.lines().count(), names.len());
            for ((line, name), expected) in text.lines().zip(&names).zip(&expected) {
                let verdict = expected.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
                assert_eq!(line.split_once('\t'), Some((name.as_str(), verdict)), "{what}, {terms} terms");
                if let Ok(expected) = expected {
                    let found = std::fs::read(folder.path().join(name.clone() + ".product")).unwrap();
                    assert!(found == *expected, "{what}: {name} with {terms} terms differs");
                }
            }
        }
    }
}

fn generated() -> Vec<Vec<u8>> {
    let mut random = Random(0xA64);
    let payload = |case: usize| {
        let recipe = Recipe {
            rows: 1 + random.below(400),
            columns: 1 + random.below(400),
            geometry: Geometry::new([4, 16, 64][case % 3], [1, 7, 64, 256][case % 4]).unwrap(),
            trellis: match case % 5 {
                0 => Trellis::Scalar,
                1 | 3 => Trellis::EightState,
                _ => Trellis::Pairs,
            },
            deviation: (random.unit() * 9.0 - 2.0).exp2(),
            spread: random.unit() * 2.0,
        };
        let mut source = matrix(&recipe, &mut random);
        if case.is_multiple_of(2) {
            let codes = (0..recipe.rows).map(|_| 90 + random.below(70) as u16).collect();
            source.row_scales = Some((ScaleKind::Log8, codes));
        }
        if let Some(column) = source.stream.first_mut().filter(|_| case % 4 == 3) {
            column.integers = common::column(&recipe, 20_000.0, &mut random);
        }
        encode(&[source], &EncodeOptions::default()).unwrap()
    };
    (0..36).map(payload).collect()
}

fn valid_vectors() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(spec().join("vectors/valid")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wsic"));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn products_of_the_c_decoder_are_those_of_the_library() {
    compare(&[generated(), valid_vectors()].concat());
}

#[test]
fn damaged_payloads_have_the_same_products_or_refusals() {
    let seeds = [valid_vectors(), generated()].concat();
    let mut random = Random(0xBAD64);
    let damaged = |_| {
        let (seed, spare) = (random.below(seeds.len()), random.below(seeds.len()));
        mutate(&seeds[seed], &seeds[spare], &mut random)
    };
    compare(&(0..300).map(damaged).collect::<Vec<_>>());
}
