//! Drift correction: the second pass of a conversion, for the inputs that quantized tensors give.

mod model_support;

use assert_cmd::Command;
use model_support::{add_tokenizer, Tiny, TinyModel};
use predicates::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wsic::gguf::{Array, GgufFile, GgufModel, GgufWriter, Limits, TensorSpec, Value};

const TINY: Tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let mut model = TinyModel::new(TINY, 5);
        add_tokenizer(&mut model.metadata, TINY.vocabulary);
        model.write(&bench.path("model.gguf"));
        for (name, seed) in [("calibration.txt", 9), ("other.txt", 10)] {
            let mut random = wsic::model::Random::new(seed, 9);
            let text: String = (0..9_000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
            std::fs::write(bench.path(name), text).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        Command::new(env!("CARGO_BIN_EXE_wsic")).current_dir(self.0.path()).args(arguments).assert()
    }

    fn tensors(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let model = GgufModel::open(self.path(name), &Limits::default()).unwrap();
        let bytes = |tensor| model.tensor_bytes(tensor).unwrap().to_vec();
        model.tensors().map(|tensor| (tensor.name.clone(), bytes(tensor))).collect()
    }

    fn divergence(&self, name: &str) -> f64 {
        let common =
            ["--reference", "model.gguf", "--text", "other.txt", "--ctx", "128", "--chunks", "40", "--json"];
        let report = self.wsic(&[&["eval", name], &common[..]].concat()).success();
        let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
        report["kld"].as_f64().unwrap_or_else(|| panic!("{report}"))
    }
}

#[test]
fn the_second_pass_lowers_the_divergence_at_the_same_size() {
    let bench = Bench::new();
    bench
        .wsic(&["calibrate", "model.gguf", "-o", "stats.gguf", "--calibration", "calibration.txt"])
        .success();
    let settings = ["--stats", "stats.gguf", "--size", "45kB"];
    bench.wsic(&[&["convert", "model.gguf", "-o", "with.gguf"], &settings[..]].concat()).success();
    bench
        .wsic(&[&["convert", "model.gguf", "-o", "without.gguf", "--no-drift"], &settings[..]].concat())
        .success();
    let (with, without) = (bench.tensors("with.gguf"), bench.tensors("without.gguf"));
    for (name, bytes) in &with {
        if name == "token_embd.weight" {
            // Quantized once, at the level of a first pass that need not be as near to its target.
            continue;
        }
        let quantized_again = name.starts_with("blk.") && !name.contains("norm");
        assert_eq!(*bytes != without[name], quantized_again, "{name}");
    }
    let size = |name: &str| std::fs::metadata(bench.path(name)).unwrap().len();
    assert!(size("with.gguf") <= 45_000 && size("with.gguf") as f64 > 0.985 * size("without.gguf") as f64);
    let (better, worse) = (bench.divergence("with.gguf"), bench.divergence("without.gguf"));
    assert!(better < worse, "{better} {worse}");
    bench.wsic(&["verify", "with.gguf"]).success();
}

#[test]
fn statistics_without_tokens_and_methods_without_feedback_have_one_pass() {
    let bench = Bench::new();
    let common = [
        "convert",
        "model.gguf",
        "--bpw",
        "3",
        "--calibration",
        "calibration.txt",
        "--calibration-tokens",
        "2048",
    ];
    for method in ["gptq", "rtn"] {
        bench.wsic(&[&common[..], &["--method", method, "-o", "a.gguf"]].concat()).success();
        bench.wsic(&[&common[..], &["--method", method, "-o", "b.gguf", "--no-drift"]].concat()).success();
        assert!(bench.tensors("a.gguf") == bench.tensors("b.gguf"), "{method}");
    }
    bench.wsic(&[&common[..], &["--method", "watersic", "-o", "a.gguf"]].concat()).success();
    bench.wsic(&[&common[..], &["--method", "watersic", "-o", "b.gguf", "--no-drift"]].concat()).success();
    assert!(bench.tensors("a.gguf") != bench.tensors("b.gguf"));
}

/// A statistics file comes from anywhere: whatever is wrong with it, the error names the file or what it holds.
#[test]
fn damaged_statistics_are_refused() {
    let bench = Bench::new();
    let calibrate = ["calibrate", "model.gguf", "-o", "stats.gguf", "--calibration", "calibration.txt"];
    bench.wsic(&[&calibrate[..], &["--calibration-tokens", "2048"]].concat()).success();
    let whole = std::fs::read(bench.path("stats.gguf")).unwrap();
    let file = GgufFile::open(bench.path("stats.gguf"), &Limits::default()).unwrap();
    let list = |key: &str| match file.metadata().get(key) {
        Some(Value::Array(array)) => array.to_integers::<u32>().unwrap(),
        other => panic!("{key}: {other:?}"),
    };
    let (tokens, lengths) = (list("wsic.statistics.tokens"), list("wsic.statistics.sequence_lengths"));
    assert!(lengths.len() > 1);
    // The same file with other metadata.
    let rewrite = |key: &str, values: &[u32]| {
        let mut metadata = file.metadata().clone();
        metadata.set(key, Value::Array(Array::from_u32(values)));
        let specs = file.tensors().iter().map(TensorSpec::from).collect();
        let mut writer = GgufWriter::create(bench.path("damaged.gguf"), metadata, specs).unwrap();
        for tensor in file.tensors() {
            writer.write_tensor(&tensor.name, file.tensor_bytes(tensor).unwrap()).unwrap();
        }
        writer.finish().unwrap();
    };
    let refused = |words: &str| {
        let convert = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "3", "--stats", "damaged.gguf"];
        let told = predicate::str::contains(words).and(predicate::str::contains("panicked").not());
        bench.wsic(&convert).failure().code(1).stderr(told);
        assert!(!bench.path("a.gguf").exists(), "{words}");
    };
    let changed = |list: &[u32], at: usize, value: u32| {
        let mut list = list.to_vec();
        list[at] = value;
        list
    };
    for token in [TINY.vocabulary as u32, u32::MAX] {
        rewrite("wsic.statistics.tokens", &vec![token; tokens.len()]);
        refused("damaged.gguf: holds token");
    }
    let apart = "damaged.gguf";
    rewrite("wsic.statistics.tokens", &tokens[1..]);
    refused(apart);
    for value in [lengths[0] - 1, lengths[0] + 1, u32::MAX] {
        rewrite("wsic.statistics.sequence_lengths", &changed(&lengths, 0, value));
        refused(apart);
    }
    rewrite("wsic.statistics.sequence_lengths", &[]);
    refused(apart);
    for end in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(bench.path("damaged.gguf"), &whole[..end]).unwrap();
        refused(apart);
    }
}
