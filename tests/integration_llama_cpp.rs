//! `integrations/llama.cpp` against an installed llama.cpp: the plugin and the static variant give the logits of the
//! unpacked model.
//!
//! Needs `WSIC_LLAMA_SOURCE` (llama.cpp's folder, for its headers), `WSIC_LLAMA_LIBRARIES` (the folder with its shared
//! libraries) and `WSIC_LLAMA_MODEL` (a converted model); skipped without them.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const TOKENS: usize = 48;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name);
    if value.is_none() {
        eprintln!("skipped: {name} is not set (see integrations/llama.cpp/README.md)");
    }
    value.map(PathBuf::from)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn succeed(command: &mut Command) {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = errors.lines().rev().take(20).collect();
    assert!(output.status.success(), "{command:?}: {}\n{last:#?}", output.status);
}

/// Log of the probabilities of each token, from a file of logits.
fn log_probabilities(path: &Path) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let numbers = bytes.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)));
    let logits: Vec<f64> = numbers.collect();
    assert!(!logits.is_empty() && logits.len().is_multiple_of(TOKENS));
    let normalised = |logits: &[f64]| {
        let largest = logits.iter().copied().fold(f64::MIN, f64::max);
        let total = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - total).collect()
    };
    logits.chunks(logits.len() / TOKENS).map(normalised).collect()
}

fn divergence(reference: &[f64], other: &[f64]) -> f64 {
    reference.iter().zip(other).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn top(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap()
}

/// Builds the integration; the folder with its programs, or `None` if there is no llama.cpp.
fn built() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let source = variable("WSIC_LLAMA_SOURCE")?;
        let libraries = variable("WSIC_LLAMA_LIBRARIES")?;
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let built = target.join("llama_cpp");
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--quiet", "--locked", "--release", "-p", "wsic-capi"]);
        succeed(build.arg("--target-dir").arg(target));
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut make = Command::new("make");
        make.arg("-C").arg(root().join("integrations/llama.cpp"));
        make.args([set("LLAMA_SOURCE", &source), set("LLAMA_LIBRARIES", &libraries)]);
        make.arg(set("WSIC_ARCHIVE", &target.join("release/libwsic_capi.a")));
        succeed(make.arg(set("OUT", &built)));
        Some(built)
    };
    BUILT.get_or_init(build).as_deref()
}

#[test]
fn each_operation_gives_the_products_of_the_weights() {
    let Some(built) = built() else { return };
    let vectors = root().join("spec/vectors/valid");
    let names =
        ["experts", "two-tensors", "split-00001-of-00002", "alignment-64", "three-dimensions-one-matrix"];
    let files = names.map(|name| vectors.join(name).with_extension("gguf"));
    for isa in ["scalar", "avx2", "avx512"] {
        // An instruction set that this machine lacks is not an error: the default is used.
        succeed(Command::new(built.join("ops")).args(&files).env("WSIC_ISA", isa));
    }
}

#[test]
fn an_unpatched_llama_cpp_gives_the_logits_of_the_unpacked_model() {
    let Some(built) = built() else { return };
    let Some(model) = variable("WSIC_LLAMA_MODEL") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let wsic = || Command::new(env!("CARGO_BIN_EXE_wsic"));
    succeed(wsic().arg("skeleton").arg(&model).arg("-o").arg(file("skeleton.gguf")));
    succeed(wsic().args(["unpack", "--type", "f32"]).arg(&model).arg("-o").arg(file("plain.gguf")));
    let logits = |model: &str, threads: &str, output: &str| {
        let mut command = Command::new(built.join("logits"));
        command.arg(file(model)).arg(root().join("spec/FORMAT.md")).arg(TOKENS.to_string()).arg(threads);
        command.arg(file(output)).env_remove("GGML_BACKEND_PATH").env_remove("WSIC_MODEL");
        command
    };
    let plugin = built.join("libggml-wsic.so");
    succeed(&mut logits("plain.gguf", "2", "plain"));
    succeed(logits("skeleton.gguf", "1", "exact").arg(&model).env("WSIC_EXACT", "1"));
    succeed(logits("skeleton.gguf", "1", "static").arg(&model));
    let mut loaded = logits("skeleton.gguf", "2", "plugin");
    succeed(loaded.env("GGML_BACKEND_PATH", &plugin).env("WSIC_MODEL", &model));

    let read = |name: &str| std::fs::read(file(name)).unwrap();
    assert!(
        read("static") == read("plugin"),
        "the plugin on two threads gives what the static variant gives on one"
    );
    let plain = log_probabilities(&file("plain"));
    // Floats are those of the unpacked model but for the order of additions. A batch is rounded to eight bits and
    // outliers, which single tokens after it notice by its keys and values.
    for (name, most, fewest_same) in [("exact", [1e-5, 1e-5], TOKENS), ("static", [1e-3, 3e-4], TOKENS - 2)] {
        let ours = log_probabilities(&file(name));
        let divergences: Vec<f64> = plain.iter().zip(&ours).map(|(p, q)| divergence(p, q)).collect();
        let same = plain.iter().zip(&ours).filter(|(p, q)| top(p) == top(q)).count();
        for ((half, step), most) in divergences.chunks(TOKENS / 2).zip(["batch", "single tokens"]).zip(most) {
            let mean = half.iter().sum::<f64>() / half.len() as f64;
            eprintln!("{name}, {step}: KL divergence {mean:.6}");
            assert!(mean < most, "{name}, {step}: {mean}");
        }
        eprintln!("{name}: the same first choice for {same} of {TOKENS}");
        assert!(same >= fewest_same, "{name}: {same}");
    }

    // Damage is refused while loading.
    let mut damaged = std::fs::read(&model).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    std::fs::write(file("damaged.gguf"), damaged).unwrap();
    let mut refused = logits("skeleton.gguf", "1", "damaged");
    refused.env("GGML_BACKEND_PATH", &plugin).env("WSIC_MODEL", file("damaged.gguf")).env("WSIC_VERIFY", "1");
    let output = run(&mut refused);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad-checksum"));
    let mut absent = logits("skeleton.gguf", "1", "absent");
    absent.env("GGML_BACKEND_PATH", &plugin).env("WSIC_MODEL", file("no-such-file.gguf"));
    assert!(String::from_utf8_lossy(&run(&mut absent).stderr).contains("no GGUF file"));
}
