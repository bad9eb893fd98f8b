//! C and C++ programs against the library, on every instruction set, with guard pages, under valgrind and with the
//! sanitizers: all test vectors, wrong calls, the examples, an installation with pkg-config.
//!
//! Needs `CC` (else `cc`) and `CXX` (else `c++`); what is absent is skipped with a message, but never compilers if
//! `CI=true`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use wsic_core::kernels::{Isa, PreparedMatrix, Rounding};
use wsic_core::payload::{crc32c, Limits, Payload};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn vectors() -> PathBuf {
    root().join("../spec/vectors")
}

/// The folder where cargo put the libraries that belong to this test.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

fn outputs() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf()
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command that has to succeed; its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = errors.lines().take(60).collect::<Vec<_>>().join("\n");
    let program = command.get_program();
    assert!(output.status.success(), "{program:?}: {}\n{lines}", output.status);
    text
}

fn compiler(variable: &str, default: &str) -> Option<String> {
    let name = std::env::var(variable).unwrap_or_else(|_| default.into());
    if runs(Command::new(&name).arg("--version")) {
        return Some(name);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no compiler `{name}`, and CI=true");
    eprintln!("skipped: no compiler `{name}`");
    None
}

/// Libraries that Rust's standard library needs.
const NATIVE: [&str; 5] = ["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lrt"];
const STRICT: [&str; 6] = ["-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror"];
const C: [&str; 3] = ["-std=c99", "-D_DEFAULT_SOURCE", "-pedantic"];
const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// Compiles a C program and links it with the static library.
fn compile(source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let program = outputs().join(name);
    let mut command = Command::new(compiler("CC", "cc")?);
    command.args(C).args(STRICT).args(flags).arg("-I").arg(root().join("../include"));
    command.arg(root().join(source)).arg(libraries().join("libwsic_capi.a")).args(NATIVE);
    output(command.arg("-o").arg(&program));
    Some(program)
}

/// The payloads among the test vectors (paths in their folder), with both verdicts.
fn payloads() -> Vec<(PathBuf, [String; 2])> {
    let manifest = std::fs::read_to_string(vectors().join("manifest.tsv")).unwrap();
    let lines = manifest.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let payloads = lines.filter(|fields| fields[0].ends_with(".wsic"));
    payloads.map(|fields| (fields[0].into(), [fields[1].into(), fields[2].into()])).collect()
}

/// CRCs of each matrix in `expected.tsv`: inputs, scales, integers, weights.
fn expected() -> BTreeMap<PathBuf, Vec<String>> {
    let table = std::fs::read_to_string(vectors().join("expected.tsv")).unwrap();
    let header: Vec<_> = table.lines().next().unwrap().split('\t').collect();
    let start = header.iter().position(|&name| name == "inputs").unwrap();
    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let crcs = fields[start..start + 4].join(" ");
        expected.entry(fields[0].into()).or_default().push(crcs);
    }
    expected
}

fn input(columns: usize) -> Vec<f32> {
    (0..columns).map(|column| (37 * column % 101) as f32 - 50.0).collect()
}

/// Products of all matrices of a payload by the crate itself, scalar.
fn products(path: &Path) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let payload = Payload::open(&bytes, &Limits::default()).unwrap();
    let product = |matrix| {
        let plan = PreparedMatrix::with_isa(matrix, Isa::Scalar);
        let mut y = vec![0.0; plan.rows()];
        let mut buffer = vec![0; plan.activation_bytes(1, Rounding::TwoTerms)];
        let activations = plan.prepare(&input(plan.columns()), 1, Rounding::TwoTerms, &mut buffer).unwrap();
        let mut scratch = vec![0; plan.matmul_scratch(1, Rounding::TwoTerms)];
        plan.matvec(0..plan.tiles(), &activations, &mut y, &mut scratch)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        y
    };
    payload.matrices().iter().map(product).collect()
}

/// What `vectors.c` has to print.
fn wanted() -> String {
    let expected = expected();
    let mut text = String::new();
    for (path, [decoder, verifier]) in payloads() {
        text += &format!("{decoder} {verifier}\n");
        if verifier == "ok" {
            let products = products(&vectors().join(&path));
            assert_eq!(expected[&path].len(), products.len());
            for (crcs, product) in expected[&path].iter().zip(products) {
                let bytes: Vec<u8> = product.iter().flat_map(|value| value.to_le_bytes()).collect();
                text += &format!("{crcs} {:08X}\n", crc32c(&bytes));
            }
        }
    }
    text
}

fn check_vectors(command: &mut Command) {
    let printed = output(command.current_dir(vectors()).args(payloads().into_iter().map(|(path, _)| path)));
    let wanted = wanted();
    for (line, (printed, wanted)) in printed.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(printed, wanted, "{command:?}, line {}", line + 1);
    }
    assert_eq!(printed.lines().count(), wanted.lines().count());
}

#[test]
fn all_vectors_on_every_instruction_set_between_guard_pages() {
    assert!(payloads().len() > 150);
    let Some(program) = compile("tests/c/vectors.c", "capi_vectors", &[]) else { return };
    for isa in Isa::all_available() {
        for fill in ["0", "255", "77"] {
            let mut command = Command::new(&program);
            check_vectors(command.env("WSIC_ISA", isa.name()).env("GUARD", "1").env("FILL", fill));
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    let Some(program) = compile("tests/c/misuse.c", "capi_misuse", &[]) else { return };
    let payload = vectors().join("valid/exact-k64.wsic");
    assert_eq!(output(Command::new(&program).arg(&payload)), "all refused\n");
    assert_eq!(output(Command::new(&program).arg(&payload).env("GUARD", "1")), "all refused\n");
}

#[test]
fn vectors_and_wrong_calls_with_sanitizers() {
    let probe = outputs().join("capi_probe.c");
    std::fs::write(&probe, "int main(void) { return 0; }\n").unwrap();
    let Some(name) = compiler("CC", "cc") else { return };
    let program = probe.with_extension("out");
    if !runs(Command::new(name).args(SANITIZERS).arg(&probe).arg("-o").arg(&program))
        || !runs(&mut Command::new(program))
    {
        eprintln!("skipped: the C compiler has no sanitizers");
        return;
    }
    let Some(program) = compile("tests/c/vectors.c", "capi_vectors_checked", &SANITIZERS) else { return };
    check_vectors(&mut Command::new(program));
    let Some(program) = compile("tests/c/misuse.c", "capi_misuse_checked", &SANITIZERS) else { return };
    assert_eq!(output(Command::new(program).arg(vectors().join("valid/exact-k64.wsic"))), "all refused\n");
}

/// Valgrind knows no AVX-512 and says so to programs, so the library takes AVX2.
#[test]
fn vectors_and_wrong_calls_under_valgrind() {
    if !runs(Command::new("valgrind").arg("--version")) {
        eprintln!("skipped: valgrind is not installed");
        return;
    }
    let valgrind = || {
        let mut command = Command::new("valgrind");
        command.args([
            "--quiet",
            "--error-exitcode=9",
            "--leak-check=full",
            "--show-leak-kinds=definite,indirect",
        ]);
        command
    };
    let Some(program) = compile("tests/c/vectors.c", "capi_vectors_valgrind", &[]) else { return };
    check_vectors(valgrind().arg(program));
    let Some(program) = compile("tests/c/misuse.c", "capi_misuse_valgrind", &[]) else { return };
    let payload = vectors().join("valid/exact-k64.wsic");
    assert_eq!(output(valgrind().arg(program).arg(payload)), "all refused\n");
}

/// Installs below a temporary folder, compiles both examples against it, shared and static, and runs them.
#[test]
fn the_examples_against_an_installation() {
    if !cfg!(target_os = "linux") || !runs(Command::new("make").arg("--version")) {
        eprintln!("skipped: the Makefile needs Linux and make");
        return;
    }
    let (Some(c), Some(cpp)) = (compiler("CC", "cc"), compiler("CXX", "c++")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("usr");
    let set = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut make = Command::new("make");
    make.args(["--silent", "-C"]).arg(root()).args([format!("CC={c}"), set("PREFIX", &prefix)]);
    make.arg(set("ARCHIVE", &libraries().join("libwsic_capi.a"))).arg(set("OUT", &folder.path().join("out")));
    output(make.arg("install"));

    let library = prefix.join("lib");
    let package = std::fs::read_to_string(library.join("pkgconfig/wsic.pc")).unwrap();
    assert!(package.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))), "{package}");
    assert!(!package.contains('@'), "{package}");
    let mut flags = vec![
        format!("-I{}", prefix.join("include").display()),
        format!("-L{}", library.display()),
        "-lwsic".into(),
    ];
    if runs(Command::new("pkg-config").arg("--version")) {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", library.join("pkgconfig")).args(["--cflags", "--libs", "wsic"]);
        flags = output(&mut command).split_whitespace().map(String::from).collect();
    }
    let symbols = output(
        Command::new("readelf").args(["--wide", "--dyn-syms", "--dynamic"]).arg(library.join("libwsic.so")),
    );
    assert!(symbols.contains("[libwsic.so.0]"), "{symbols}");
    let defined: Vec<_> =
        symbols.lines().filter(|line| line.contains(" GLOBAL ") && !line.contains(" UND ")).collect();
    assert!(defined.iter().filter(|line| line.contains(" FUNC ")).count() >= 26, "{symbols}");
    assert!(
        defined
            .iter()
            .all(|line| line.contains("wsic_") && line.contains("@@WSIC_0") || line.contains(" WSIC_0")),
        "{defined:?}"
    );

    let payload = vectors().join("valid/odd-k16.wsic");
    let wanted = products(&payload).remove(0);
    let program = folder.path().join("program");
    let check = |command: &mut Command| {
        output(command.args(STRICT).arg("-o").arg(&program));
        let printed = output(Command::new(&program).arg(&payload).env("LD_LIBRARY_PATH", &library));
        let printed: Vec<f32> = printed.lines().map(|line| line.parse().unwrap()).collect();
        assert!(printed == wanted, "{printed:?} {wanted:?}");
        let refused = Command::new(&program)
            .arg(vectors().join("manifest.tsv"))
            .env("LD_LIBRARY_PATH", &library)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("bad-magic"));
    };
    check(Command::new(&c).args(C).arg(root().join("examples/matvec.c")).args(&flags));
    check(
        Command::new(&cpp)
            .args(["-std=c++17", "-pedantic", "-pthread"])
            .arg(root().join("examples/matvec.cpp"))
            .args(&flags),
    );
    let include = format!("-I{}", prefix.join("include").display());
    check(
        Command::new(&c)
            .args(C)
            .arg(include)
            .arg(root().join("examples/matvec.c"))
            .arg(library.join("libwsic.a"))
            .args(NATIVE),
    );
}
