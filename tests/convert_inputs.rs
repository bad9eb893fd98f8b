//! Everything the converter reads besides one GGUF file: folders, split models; and what it writes without quantizing.

mod import_support;

use assert_cmd::Command;
use import_support::llama;
use predicates::prelude::*;
use std::path::{Path, PathBuf};
use wsic::gguf::{self, GgmlType, GgufModel};

/// A folder to work in, with a small Hugging Face folder `hf` and a calibration text.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(dtype: &'static str) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(bench.path("hf")).unwrap();
        llama(dtype).write(&bench.path("hf"));
        let text: String = (0..4000u32).map(|i| char::from(b'a' + (i * i / 7 % 6) as u8)).collect();
        std::fs::write(bench.path("text.txt"), text).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        Command::new(env!("CARGO_BIN_EXE_wsic")).current_dir(self.0.path()).args(arguments).assert()
    }
}

fn open(path: &Path) -> GgufModel {
    GgufModel::open(path, &gguf::Limits::default()).unwrap()
}

/// Names and bytes of all tensors.
fn tensors(model: &GgufModel) -> Vec<(String, GgmlType, Vec<u8>)> {
    let tensor = |t: &gguf::TensorInfo| (t.name.clone(), t.ty, model.tensor_bytes(t).unwrap().to_vec());
    model.tensors().map(tensor).collect()
}

#[test]
fn a_folder_converts_as_its_plain_file_does() {
    let bench = Bench::new("BF16");
    bench.wsic(&["convert", "hf", "-o", "plain.gguf", "--method", "none"]).success();
    let plain = open(&bench.path("plain.gguf"));
    assert_eq!(plain.tensor("blk.0.attn_q.weight").unwrap().ty, GgmlType::BF16);
    assert_eq!(plain.tensor("blk.0.attn_norm.weight").unwrap().ty, GgmlType::F32);
    assert_eq!(plain.metadata().u32("general.file_type").unwrap(), 32);
    let more = ["--bpw", "6", "--calibration", "text.txt", "--calibration-tokens", "1024"];
    bench.wsic(&[&["convert", "hf", "-o", "a.gguf"], &more[..]].concat()).success();
    bench.wsic(&[&["convert", "plain.gguf", "-o", "b.gguf"], &more[..]].concat()).success();
    let (a, b) = (open(&bench.path("a.gguf")), open(&bench.path("b.gguf")));
    assert!(tensors(&a) == tensors(&b));
    assert_eq!(a.tensor("blk.1.ffn_down.weight").unwrap().ty, GgmlType::Wsic);
    bench.wsic(&["verify", "a.gguf"]).success();
    // Both kinds of input are also models to measure and to look at.
    let eval = ["eval", "a.gguf", "--reference", "hf", "--text", "text.txt", "--ctx", "64", "--chunks", "2"];
    bench.wsic(&eval).success().stdout(predicate::str::contains("Mean    KLD"));
    bench.wsic(&["inspect", "hf"]).success().stdout(predicate::str::contains("blk.1.ffn_down.weight"));
}

#[test]
fn plain_files_have_the_types_asked_for() {
    let bench = Bench::new("F32");
    bench.wsic(&["convert", "hf", "-o", "f16.gguf", "--method", "none"]).success();
    bench.wsic(&["convert", "hf", "-o", "f32.gguf", "--method", "none", "--type", "f32"]).success();
    let again = ["convert", "f32.gguf", "-o", "again.gguf", "--method", "none", "--type", "f16"];
    bench.wsic(&[&again[..], &["--tensor", "output=keep"]].concat()).success();
    let (half, single, again) =
        (open(&bench.path("f16.gguf")), open(&bench.path("f32.gguf")), open(&bench.path("again.gguf")));
    assert_eq!(half.tensor("output.weight").unwrap().ty, GgmlType::F16);
    assert!(single.tensors().all(|tensor| tensor.ty == GgmlType::F32));
    assert_eq!(again.tensor("output.weight").unwrap().ty, GgmlType::F32);
    let q = |model: &GgufModel| {
        let tensor = model.tensor("blk.0.attn_q.weight").unwrap();
        (tensor.ty, model.tensor_bytes(tensor).unwrap().to_vec())
    };
    assert_eq!(q(&half), q(&again));

    let refuse = |more: &[&str], code: i32, words: &str| {
        bench
            .wsic(&[&["convert", "hf", "-o", "x.gguf"], more].concat())
            .failure()
            .code(code)
            .stderr(predicate::str::contains(words));
        assert!(!bench.path("x.gguf").exists());
    };
    refuse(&["--method", "none", "--bpw", "3"], 2, "quantizes nothing");
    refuse(&["--bpw", "3", "--type", "f16"], 2, "--method none");
    refuse(&[], 2, "--bpw");
    refuse(&["--method", "none", "--tensor", "output=3"], 1, "quantization method");
}

#[test]
fn split_models_go_in_and_out() {
    let bench = Bench::new("F16");
    let split = ["--split-size", "1kB"];
    bench.wsic(&[&["convert", "hf", "-o", "plain.gguf", "--method", "none"], &split[..]].concat()).success();
    let shards: Vec<PathBuf> = std::fs::read_dir(bench.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("plain-0"))
        .collect();
    assert!(shards.len() > 2, "{shards:?}");
    let first = format!("plain-00001-of-{:05}.gguf", shards.len());
    bench.wsic(&["convert", "hf", "-o", "whole.gguf", "--method", "none"]).success();
    assert!(tensors(&open(&bench.path(&first))) == tensors(&open(&bench.path("whole.gguf"))));

    let more = ["--bpw", "6", "--calibration", "text.txt", "--calibration-tokens", "1024"];
    bench.wsic(&[&["convert", &first, "-o", "a.gguf"], &more[..]].concat()).success();
    bench.wsic(&[&["convert", "whole.gguf", "-o", "b.gguf"], &more[..], &split].concat()).success();
    let parts = (1..100).find(|n| bench.path(&format!("b-00001-of-{n:05}.gguf")).exists()).unwrap();
    let b = format!("b-00001-of-{parts:05}.gguf");
    assert!(parts > 1);
    assert!(tensors(&open(&bench.path("a.gguf"))) == tensors(&open(&bench.path(&b))));
    bench.wsic(&["verify", &b]).success();
    // A model that is split is found under its first name only.
    let second = b.replace("00001-of", "00002-of");
    bench.wsic(&["verify", &second]).failure().stderr(predicate::str::contains("first of"));
}
