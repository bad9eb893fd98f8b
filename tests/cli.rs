//! The command from outside: convert a tiny model, verify, inspect, unpack, and every kind of bad input.

mod model_support;

use assert_cmd::Command;
use model_support::{add_tokenizer, Tiny, TinyModel};
use predicates::prelude::*;
use std::path::{Path, PathBuf};
use wsic::gguf::{GgmlType, GgufFile, Limits};

const TINY: Tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };

/// A folder with a tiny model and a calibration text.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(tiny: Tiny) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut model = TinyModel::new(tiny, 5);
        add_tokenizer(&mut model.metadata, tiny.vocabulary);
        model.write(&folder.path().join("model.gguf"));
        let mut random = wsic::model::Random::new(9, 9);
        let text: String = (0..12_000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
        std::fs::write(folder.path().join("text.txt"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
        command.current_dir(self.folder.path()).args(arguments).assert()
    }

    fn convert(&self, output: &str, more: &[&str]) -> assert_cmd::assert::Assert {
        let fixed = ["convert", "model.gguf", "-o", output, "--calibration", "text.txt"];
        self.wsic(&[&fixed, more].concat())
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn open(path: &Path) -> GgufFile {
    GgufFile::open(path, &Limits::default()).unwrap()
}

/// Mean squared error of the blocks' linear layers over their mean square.
fn relative_error(original: &Path, other: &Path) -> f64 {
    let (original, other) = (open(original), open(other));
    let (mut error, mut energy) = (0.0, 0.0);
    for tensor in
        original.tensors().iter().filter(|tensor| tensor.name.starts_with("blk") && tensor.dims.len() == 2)
    {
        let a = original.tensor_f32(tensor).unwrap();
        let b = other.tensor_f32(other.tensor(&tensor.name).unwrap()).unwrap();
        for (a, b) in a.iter().zip(&b) {
            error += f64::from(a - b).powi(2);
            energy += f64::from(*a).powi(2);
        }
    }
    error / energy
}

#[test]
fn convert_verify_inspect_unpack() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "6"]).success().stdout(predicate::str::contains("linear layers"));
    assert_eq!(bench.files(), ["model.gguf", "small.gguf", "text.txt"], "no temporary file is left");
    bench.wsic(&["verify", "small.gguf"]).success();

    let output = bench.wsic(&["inspect", "small.gguf", "--json"]).success().get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(report["totals"]["wsic_tensors"], 15);
    let linear = report["tensors"].as_array().unwrap().iter().filter(|t| {
        let name = t["name"].as_str().unwrap();
        name.starts_with("blk") && t["type"] == "WSIC"
    });
    let (mut bits, mut weights) = (0.0, 0.0);
    for tensor in linear {
        let count: f64 = tensor["dims"].as_array().unwrap().iter().map(|d| d.as_f64().unwrap()).product();
        bits += tensor["bytes"].as_f64().unwrap() * 8.0;
        weights += count;
    }
    // Matrices of a few thousand weights move in steps of a byte in thousands: the half percent still holds.
    assert!((bits / weights / 6.0 - 1.0).abs() < 0.005, "{}", bits / weights);
    assert!(report["provenance"]["quantize.wsic.calibration"].as_str().unwrap().contains("text.txt"));

    for ty in ["f16", "bf16", "f32", "q8_0"] {
        let name = format!("plain-{ty}.gguf");
        bench.wsic(&["unpack", "small.gguf", "--type", ty, "-o", &name]).success();
        let file = open(&bench.path(&name));
        assert!(file.tensors().iter().all(|tensor| tensor.ty != GgmlType::Wsic));
        assert!(!file.metadata().contains("wsic.version"));
        let error = relative_error(&bench.path("model.gguf"), &bench.path(&name));
        assert!((1e-5..0.05).contains(&error), "{ty}: {error}");
        bench.wsic(&["verify", &name]).success();
    }
}

#[test]
fn eval_compares_with_a_reference() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "6"]).success();
    let measure = |model: &str| -> serde_json::Value {
        let arguments = [
            "eval",
            model,
            "--reference",
            "model.gguf",
            "--text",
            "text.txt",
            "--ctx",
            "64",
            "--chunks",
            "6",
            "--json",
        ];
        serde_json::from_slice(&bench.wsic(&arguments).success().get_output().stdout).unwrap()
    };
    let (same, small) = (measure("model.gguf"), measure("small.gguf"));
    let number = |report: &serde_json::Value, key: &str| report[key].as_f64().unwrap();
    assert!(number(&same, "kld").abs() < 1e-6 && number(&same, "top1") == 1.0, "{same}");
    assert!(number(&small, "kld") > 1e-5 && number(&small, "kld") < 0.2, "{small}");
    assert_eq!(small["ref_ppl"], same["ppl"]);
    // The unpacked file is the same model.
    bench.wsic(&["unpack", "small.gguf", "--type", "f32", "-o", "plain.gguf"]).success();
    assert!((number(&measure("plain.gguf"), "kld") - number(&small, "kld")).abs() < 1e-6);
    bench.wsic(&["eval", "small.gguf", "--text", "text.txt", "--ctx", "64"]).success();
}

#[test]
fn metadata_of_the_source_is_kept() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "3"]).success();
    let (source, small) = (open(&bench.path("model.gguf")), open(&bench.path("small.gguf")));
    for (key, value) in source.metadata().iter() {
        if !["general.file_type", "general.quantization_version"].contains(&key) {
            assert_eq!(small.metadata().get(key), Some(value), "{key}");
        }
    }
    let names: Vec<_> = small.tensors().iter().map(|tensor| (&tensor.name, &tensor.dims)).collect();
    let expected: Vec<_> = source.tensors().iter().map(|tensor| (&tensor.name, &tensor.dims)).collect();
    assert_eq!(names, expected);
}

#[test]
fn the_same_file_for_any_number_of_threads() {
    let bench = Bench::new(TINY);
    bench.convert("one.gguf", &["--bpw", "2.5", "--threads", "1"]).success();
    bench.convert("two.gguf", &["--bpw", "2.5", "--threads", "2"]).success();
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(read("one.gguf") == read("two.gguf"));
}

#[test]
fn verbose_names_every_tensor() {
    let bench = Bench::new(TINY);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
    command.current_dir(bench.folder.path()).timeout(std::time::Duration::from_secs(300));
    command.args(["convert", "model.gguf", "-o", "v.gguf", "--calibration", "text.txt", "--bpw", "3", "-v"]);
    let output = command.assert().success().get_output().stderr.clone();
    let output = String::from_utf8(output).unwrap();
    for phase in ["planning", "trying rates", "drift"] {
        let named = |line: &&str| line.contains(phase) && line.ends_with("blk.1.ffn_down.weight");
        assert!(output.lines().any(|line| named(&line)), "{phase}: {output}");
    }
}

#[test]
fn a_model_calibrates_itself() {
    let bench = Bench::new(TINY);
    let arguments = ["convert", "model.gguf", "--bpw", "3", "--calibration-tokens", "2048"];
    bench.wsic(&[&arguments[..], &["-o", "a.gguf"]].concat()).success();
    bench.wsic(&[&arguments[..], &["-o", "b.gguf"]].concat()).success();
    bench.wsic(&[&arguments[..], &["-o", "c.gguf", "--seed", "1"]].concat()).success();
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"), "the seed decides");
    assert!(read("a.gguf") != read("c.gguf"), "another seed, another text");
    // Correlations of its own text are believed less.
    bench.wsic(&[&arguments[..], &["-o", "d.gguf", "--shrinkage", "0.03"]].concat()).success();
    bench.wsic(&[&arguments[..], &["-o", "e.gguf", "--shrinkage", "0"]].concat()).success();
    assert!(read("a.gguf") == read("d.gguf") && read("a.gguf") != read("e.gguf"));
    bench.wsic(&[&arguments[..], &["-o", "f.gguf", "--shrinkage", "1"]].concat()).code(2);
}

#[test]
fn sizes_are_met_from_below() {
    // Large enough for half a percent to be more than a tensor's granularity.
    let bench = Bench::new(Tiny { width: 128, feed_forward: 384, head_width: 32, vocabulary: 512, ..TINY });
    let full = std::fs::metadata(bench.path("model.gguf")).unwrap().len();
    let target = full / 8;
    bench.convert("small.gguf", &["--size", &target.to_string()]).success();
    let size = std::fs::metadata(bench.path("small.gguf")).unwrap().len();
    assert!(size <= target && size as f64 > target as f64 * 0.995, "{size} of {target}");
    bench
        .convert("tiny.gguf", &["--size", "1kB"])
        .failure()
        .stderr(predicate::str::contains("allow a larger size"));
    assert!(!bench.path("tiny.gguf").exists());
    // It is said before any work, and the size that is named can be reached.
    let refused = bench.convert("tiny.gguf", &["--size", "1kB", "--dry-run"]).failure();
    let refused = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    let least = refused.split(" bytes) is the least").next().unwrap().rsplit('(').next().unwrap();
    let least: u64 = least.parse().unwrap();
    assert!(least > 1000 && least < target, "{refused}");
    bench.convert("least.gguf", &["--size", &(least * 21 / 20).to_string()]).success();
    bench
        .convert("tiny.gguf", &["--file-bpw", "0.1"])
        .failure()
        .stderr(predicate::str::contains("bits per weight is the least"));
}

#[test]
fn verify_agrees_with_the_vectors_of_the_specification() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors");
    let manifest = std::fs::read_to_string(folder.join("manifest.tsv")).unwrap();
    let mut checked = 0;
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[file, _, verifier, ..] = fields.as_slice() else { panic!("{line}") };
        if !file.ends_with(".gguf") {
            continue;
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_wsic"))
            .arg("verify")
            .arg(folder.join(file))
            .output()
            .unwrap();
        assert_eq!(
            output.status.success(),
            verifier == "ok",
            "{file}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(i32::from(verifier != "ok")), "{file}");
        checked += 1;
    }
    assert!(checked > 30);
}

/// All that llama.cpp looks at before it loads data is that of the model; the data is a hole of ordinary types.
#[test]
fn a_skeleton_has_everything_but_the_weights() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "4"]).success();
    bench.wsic(&["skeleton", "small.gguf", "-o", "skeleton.gguf"]).success();
    let (small, skeleton) = (open(&bench.path("small.gguf")), open(&bench.path("skeleton.gguf")));
    let mut coded = 0;
    for (a, b) in small.tensors().iter().zip(skeleton.tensors()) {
        assert_eq!((&a.name, &a.dims), (&b.name, &b.dims));
        if a.ty == GgmlType::Wsic {
            coded += 1;
            let wanted = if a.columns() % 32 == 0 { GgmlType::Q4_0 } else { GgmlType::F16 };
            assert_eq!(b.ty, wanted, "{}", a.name);
            assert!(skeleton.tensor_bytes(b).unwrap().iter().all(|&byte| byte == 0));
        } else {
            assert_eq!(small.tensor_bytes(a).unwrap(), skeleton.tensor_bytes(b).unwrap());
        }
    }
    assert!(coded > 0 && small.tensors().len() == skeleton.tensors().len());
    for (key, value) in small.metadata().iter().filter(|(key, _)| !key.starts_with("wsic.")) {
        assert_eq!(skeleton.metadata().get(key), Some(value), "{key}");
    }
    assert!(
        !skeleton.metadata().contains("wsic.tensor_names") && skeleton.metadata().contains("wsic.skeleton")
    );
    bench
        .wsic(&["skeleton", "model.gguf", "-o", "no.gguf"])
        .failure()
        .stderr(predicate::str::contains("no WSIC tensors"));
}

#[test]
fn retagging_changes_ids_only() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "3"]).success();
    bench.wsic(&["retag", "small.gguf", "--type-id", "910", "-o", "other.gguf"]).success();
    let other = open(&bench.path("other.gguf"));
    assert!(other.tensors().iter().any(|tensor| tensor.ty == GgmlType::Unknown(910)));
    bench.wsic(&["retag", "other.gguf", "--type-id", "704", "-o", "back.gguf"]).success();
    assert!(
        std::fs::read(bench.path("small.gguf")).unwrap() == std::fs::read(bench.path("back.gguf")).unwrap()
    );
    for command in [&["verify", "other.gguf"][..], &["run", "other.gguf", "-p", "a"]] {
        bench.wsic(command).failure().code(1).stderr(predicate::str::contains("--type-id 704"));
    }
    bench.wsic(&["retag", "small.gguf", "--type-id", "8", "-o", "no.gguf"]).failure();
    bench.wsic(&["retag", "model.gguf", "--type-id", "910", "-o", "no.gguf"]).failure();
}

#[test]
fn overrides_decide_for_single_tensors() {
    let bench = Bench::new(TINY);
    let more = [
        "--bpw",
        "3",
        "--tensor",
        "token_embd|output=keep",
        "--tensor",
        "ffn_down=5",
        "--tensor",
        "blk.0.attn_q=q8_0",
    ];
    bench.convert("small.gguf", &more).success();
    let file = open(&bench.path("small.gguf"));
    let ty = |name: &str| file.tensor(name).unwrap().ty;
    assert_eq!(ty("token_embd.weight"), GgmlType::F32);
    assert_eq!(ty("blk.0.attn_q.weight"), GgmlType::Q8_0);
    assert_eq!(ty("blk.1.attn_q.weight"), GgmlType::Wsic);
    assert_eq!(ty("blk.0.attn_output.weight"), GgmlType::Wsic);
    let down = file.tensor("blk.1.ffn_down.weight").unwrap();
    let bits = down.byte_len as f64 * 8.0 / down.elements() as f64;
    assert!((bits - 5.0).abs() < 0.1, "{bits}");
    bench
        .convert("x.gguf", &["--bpw", "3", "--tensor", "nothing=keep"])
        .failure()
        .stderr(predicate::str::contains("matches no tensor"));
}

#[test]
fn baselines_convert_too() {
    let bench = Bench::new(TINY);
    for method in ["watersic", "gptq", "rtn"] {
        let name = format!("{method}.gguf");
        bench.convert(&name, &["--bpw", "3", "--method", method]).success();
        bench.wsic(&["verify", &name]).success();
    }
}

#[test]
fn an_interrupted_conversion_goes_on() {
    let bench = Bench::new(TINY);
    bench.convert("whole.gguf", &["--bpw", "3"]).success();
    // Interrupt: kill the process at several points, then resume.
    for delay in [20, 60, 120, 250] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_wsic"))
            .current_dir(bench.folder.path())
            .args([
                "convert",
                "model.gguf",
                "-o",
                "part.gguf",
                "--calibration",
                "text.txt",
                "--bpw",
                "3",
                "-q",
            ])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        if bench.path("part.gguf.partial").join("fingerprint.txt").exists() {
            bench
                .convert("part.gguf", &["--bpw", "3.5", "--resume"])
                .failure()
                .stderr(predicate::str::contains("begun with --bpw 3, this one with --bpw 3.5"));
        }
        bench.convert("part.gguf", &["--bpw", "3", "--resume"]).success();
        let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
        assert!(read("whole.gguf") == read("part.gguf"), "interrupted after {delay} ms");
        std::fs::remove_file(bench.path("part.gguf")).unwrap();
    }
}

#[test]
fn bad_input_gives_a_clear_error_and_no_output() {
    let bench = Bench::new(TINY);
    let whole = std::fs::read(bench.path("model.gguf")).unwrap();
    let refuse = |input: &str, expected: &str| {
        bench
            .wsic(&["convert", input, "-o", "out.gguf", "--bpw", "3", "--calibration", "text.txt"])
            .failure()
            .code(1)
            .stderr(predicate::str::contains(expected).and(predicate::str::contains(input)));
        assert!(!bench.path("out.gguf").exists());
    };
    refuse("missing.gguf", "missing.gguf");
    std::fs::write(bench.path("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    refuse("cut.gguf", "tensor");
    std::fs::write(bench.path("text.gguf"), "not a model").unwrap();
    refuse("text.gguf", "GGUF");
    std::fs::write(bench.path("big.gguf"), [b"GGUF", &3u32.to_be_bytes()[..], &[0; 16]].concat()).unwrap();
    refuse("big.gguf", "endian");

    bench.convert("small.gguf", &["--bpw", "3"]).success();
    refuse("small.gguf", "already of type WSIC");
    bench.wsic(&["convert", "model.gguf", "-o", "model.gguf", "--bpw", "3"]).failure();
    assert_eq!(std::fs::read(bench.path("model.gguf")).unwrap(), whole);

    // One damaged byte in a payload: verify names the tensor.
    let mut damaged = std::fs::read(bench.path("small.gguf")).unwrap();
    let file = open(&bench.path("small.gguf"));
    let tensor = file.tensor("blk.1.ffn_up.weight").unwrap();
    let at = (file.data_start() + tensor.offset + tensor.byte_len - 9) as usize;
    damaged[at] ^= 4;
    std::fs::write(bench.path("damaged.gguf"), damaged).unwrap();
    bench
        .wsic(&["verify", "damaged.gguf"])
        .failure()
        .stdout(predicate::str::contains("blk.1.ffn_up.weight").and(predicate::str::contains("checksum")));

    bench.wsic(&["convert", "model.gguf", "-o", "x.gguf"]).failure().code(2);
    bench.wsic(&["convert", "model.gguf", "-o", "x.gguf", "--bpw", "99"]).failure().code(2);
    bench.wsic(&["convert", "model.gguf", "-o", "x.gguf", "--bpw", "3", "--size", "1MB"]).failure().code(2);
}

#[test]
fn outputs_never_replace_what_is_read() {
    let bench = Bench::new(TINY);
    bench.convert("small.gguf", &["--bpw", "3", "--no-drift"]).success();
    bench.wsic(&["calibrate", "model.gguf", "-o", "stats.gguf", "--calibration", "text.txt"]).success();
    std::fs::create_dir(bench.path("folder")).unwrap();
    std::fs::copy(bench.path("small.gguf"), bench.path("page.html")).unwrap();
    let (files, content) = (bench.files(), |name: &str| std::fs::read(bench.path(name)).unwrap());
    let before: Vec<_> =
        ["model.gguf", "small.gguf", "stats.gguf", "text.txt", "page.html"].map(content).into();
    let convert = ["convert", "model.gguf", "--bpw", "3"];
    let with = |more: &[&'static str]| [&convert[..], more].concat();
    let cases: [(Vec<&str>, &str); 12] = [
        (vec!["inspect", "small.gguf", "--report", "small.gguf"], "is the input"),
        (with(&["-o", "x.gguf", "--log", "model.gguf"]), "is the input"),
        (with(&["-o", "x.gguf", "--log", "x.gguf"]), "two outputs"),
        (with(&["-o", "stats.gguf", "--stats", "stats.gguf"]), "is the input"),
        (with(&["-o", "text.txt", "--calibration", "text.txt"]), "is the input"),
        (with(&["-o", "folder"]), "is a folder"),
        (with(&["-o", "none/x.gguf"]), "does not exist"),
        (with(&["-o", "x.gguf", "--log", "none/log.json"]), "does not exist"),
        (with(&["-o", "-"]), "standard output"),
        (
            vec!["compare", "model.gguf", "--text", "text.txt", "--file", "page.html", "--plot", "page.html"],
            "is the input",
        ),
        (vec!["unpack", "small.gguf", "-o", "folder"], "is a folder"),
        (vec!["unpack", "small.gguf", "-o", if cfg!(unix) { "/dev/null" } else { "folder" }], "is"),
    ];
    for (arguments, expected) in cases {
        bench.wsic(&arguments).failure().code(1).stderr(predicate::str::contains(expected));
        assert_eq!(bench.files(), files, "{arguments:?}");
    }
    let after: Vec<_> =
        ["model.gguf", "small.gguf", "stats.gguf", "text.txt", "page.html"].map(content).into();
    assert!(before == after);
}

/// Sends a signal to a command once it has begun the folder of a conversion, or without one a file; `before` is what the
/// command's process does with such a signal when it begins. The signal that ended it, and what it said.
#[cfg(unix)]
fn interrupted(
    bench: &Bench,
    signal: i32,
    before: libc::sighandler_t,
    arguments: &[&str],
    folder: Option<&str>,
) -> (Option<i32>, String) {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wsic"));
    command.current_dir(bench.folder.path()).args(arguments).stderr(std::process::Stdio::piped());
    // SAFETY: `signal` may be called between fork and exec, and nothing else is.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal, before);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    // A conversion's folder is of use once it has a fingerprint; other commands begin a hidden file.
    let begun = || match folder {
        Some(folder) => bench.path(folder).join("fingerprint.txt").exists(),
        None => bench.files().iter().any(|name| name.starts_with('.') && name.contains(".partial")),
    };
    let start = std::time::Instant::now();
    while !begun() && start.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // SAFETY: sends a signal to a child that was not waited for, so its number is still its own.
    assert_eq!(unsafe { libc::kill(child.id().try_into().unwrap(), signal) }, 0);
    let output = child.wait_with_output().unwrap();
    (output.status.signal(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(unix)]
#[test]
fn signals_leave_no_half_files_and_say_how_to_go_on() {
    let bench = Bench::new(TINY);
    let convert = ["convert", "model.gguf", "-o", "x.gguf", "--bpw", "3", "--calibration", "text.txt"];
    let calibrate = ["calibrate", "model.gguf", "-o", "s.gguf", "--calibration", "text.txt"];
    let part = Some("x.gguf.partial");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (ended_by, said) = interrupted(&bench, signal, libc::SIG_DFL, &convert, part);
        assert_eq!(ended_by, Some(signal), "{said}");
        assert!(said.contains("--resume") && bench.path("x.gguf.partial").is_dir(), "{said}");
        bench.wsic(&convert).success().stderr(predicate::str::contains("is dropped"));
        std::fs::remove_file(bench.path("x.gguf")).unwrap();

        let (ended_by, said) = interrupted(&bench, signal, libc::SIG_DFL, &calibrate, None);
        // It may have ended before.
        assert!(ended_by == Some(signal) || bench.path("s.gguf").exists(), "{said}");
        assert!(bench.files().iter().all(|name| !name.contains(".partial")), "{:?}", bench.files());
        let _ = std::fs::remove_file(bench.path("s.gguf"));
    }
    // A search for a divergence is not resumed.
    let files = bench.files();
    let search = ["convert", "model.gguf", "-o", "x.gguf", "--kld", "0.01", "--kld-text", "text.txt"];
    let (ended_by, said) =
        interrupted(&bench, libc::SIGINT, libc::SIG_DFL, &search, Some("x.gguf.trial.partial"));
    assert_eq!(ended_by, Some(libc::SIGINT), "{said}");
    assert_eq!(bench.files(), files, "{said}");
    bench
        .wsic(&[&convert[..], &["--resume"]].concat())
        .success()
        .stderr(predicate::str::contains("from the beginning"));
    // A script's job in the background is begun with the signal ignored, and goes on.
    if cfg!(target_os = "linux") {
        std::fs::remove_file(bench.path("x.gguf")).unwrap();
        let (ended_by, said) = interrupted(&bench, libc::SIGINT, libc::SIG_IGN, &convert, part);
        assert!(ended_by.is_none() && bench.path("x.gguf").exists(), "{said}");
    }
}

#[test]
fn compare_measures_rates_methods_and_files() {
    let bench = Bench::new(TINY);
    bench.convert("existing.gguf", &["--bpw", "5"]).success();
    let arguments = [
        "compare",
        "model.gguf",
        "--text",
        "text.txt",
        "--ctx",
        "64",
        "--chunks",
        "4",
        "--calibration",
        "text.txt",
        "--rates",
        "3,6",
        "--methods",
        "trellis,rtn",
        "--file",
        "existing.gguf",
    ];
    let output = bench.wsic(&[&arguments[..], &["--json", "--plot", "curve.svg"]].concat()).success();
    let entries: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let entries = entries.as_array().unwrap();
    let of = |series: &str, rate: Option<f64>| {
        let entry = entries.iter().find(|entry| entry["series"] == series && entry["rate"].as_f64() == rate);
        entry.unwrap_or_else(|| panic!("{series} at {rate:?}")).clone()
    };
    assert_eq!(entries.len(), 5);
    let kl = |series: &str, rate: Option<f64>| of(series, rate)["kld"].as_f64().unwrap();
    assert!(
        kl("trellis", Some(6.0)) < kl("existing", None) && kl("existing", None) < kl("trellis", Some(3.0))
    );
    assert!(kl("trellis", Some(3.0)) < kl("rtn", Some(3.0)));
    let size = std::fs::metadata(bench.path("existing.gguf")).unwrap().len();
    assert_eq!(of("existing", None)["bytes"], size);
    let drawing = std::fs::read_to_string(bench.path("curve.svg")).unwrap();
    assert_eq!(drawing.matches("<title>").count(), 2 * 5, "a point for each entry, twice");

    let page = bench.wsic(&[&arguments[..], &["--plot", "curve.html", "--keep", "kept"]].concat()).success();
    page.stdout(predicate::str::contains("KL (nats/token)").and(predicate::str::contains("existing")));
    assert!(std::fs::read_to_string(bench.path("curve.html")).unwrap().contains("<td>rtn</td><td>6</td>"));
    bench.wsic(&["verify", "kept/rtn-6.gguf"]).success();
    bench
        .wsic(&["compare", "model.gguf", "--text", "text.txt"])
        .failure()
        .stderr(predicate::str::contains("--rates"));
    bench
        .wsic(&["compare", "model.gguf", "--text", "text.txt", "--rates", "2", "--plot", "curve.png"])
        .failure()
        .stderr(predicate::str::contains(".svg"));
}

#[test]
fn a_divergence_is_met_by_the_smallest_file() {
    let bench = Bench::new(TINY);
    let evaluate = |name: &str| -> f64 {
        let arguments = [
            "eval",
            name,
            "--reference",
            "model.gguf",
            "--text",
            "text.txt",
            "--chunks",
            "16",
            "--json",
            "-q",
        ];
        let output = bench.wsic(&arguments).success();
        serde_json::from_slice::<serde_json::Value>(&output.get_output().stdout).unwrap()["kld"]
            .as_f64()
            .unwrap()
    };
    bench.convert("four.gguf", &["--bpw", "4"]).success();
    let wanted = evaluate("four.gguf");
    let text = wanted.to_string();
    bench.convert("close.gguf", &["--kld", &text, "--kld-text", "text.txt"]).success();
    let reached = evaluate("close.gguf");
    assert!(reached <= wanted && reached > 0.9 * wanted, "{reached} for {wanted}");
    let size = |name: &str| std::fs::metadata(bench.path(name)).unwrap().len() as f64;
    assert!(size("close.gguf") < 1.02 * size("four.gguf"));
    assert_eq!(bench.files(), ["close.gguf", "four.gguf", "model.gguf", "text.txt"], "no trial is left");

    let bad = bench.convert("bad.gguf", &["--kld", "0", "--kld-text", "text.txt"]).failure();
    bad.stderr(predicate::str::contains("positive"));
    bench.convert("bad.gguf", &["--kld", "0.1", "--bpw", "2"]).failure();
    bench.convert("bad.gguf", &["--bpw", "2", "--kld-text", "text.txt"]).failure();
    // All of the text is used for calibration.
    let whole = bench.convert("bad.gguf", &["--kld", "0.1"]).failure();
    whole.stderr(predicate::str::contains("--kld-text"));
}
