//! Everything the converter reads besides one GGUF file: folders, split models; and what it writes without quantizing.

mod import_support;
mod model_support;

use assert_cmd::Command;
use import_support::llama;
use model_support::{Tiny, TinyModel};
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

/// A model in F32 with matrices of 64 columns and a text.
fn tiny(architecture: &'static str, change: impl FnOnce(&mut TinyModel)) -> Bench {
    let bench = Bench(tempfile::tempdir().unwrap());
    let sizes = Tiny { width: 64, feed_forward: 96, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };
    let mut model = TinyModel::new(Tiny { architecture, ..sizes }, 5);
    change(&mut model);
    model.write(&bench.path("model.gguf"));
    let mut random = wsic::model::Random::new(9, 9);
    let text: String = (0..12_000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
    std::fs::write(bench.path("text.txt"), text).unwrap();
    bench
}

/// An importance matrix in the old format: for each tensor its values, and how often they were added.
fn legacy_imatrix(entries: &[(&str, Vec<f32>)]) -> Vec<u8> {
    let int = |value: usize| (value as i32).to_le_bytes().to_vec();
    let mut bytes = int(entries.len());
    for (name, values) in entries {
        bytes.extend([int(name.len()), name.as_bytes().to_vec(), int(4), int(values.len())].concat());
        bytes.extend(values.iter().flat_map(|value| (value * 4.0).to_le_bytes()));
    }
    bytes
}

#[test]
fn an_importance_matrix_replaces_statistics() {
    let bench = tiny("llama", |_| ());
    let squares = |width: usize| (0..width).map(|i| if i % 3 == 0 { 25.0 } else { 0.01 }).collect();
    let entries: Vec<(String, Vec<f32>)> = (0..2)
        .flat_map(|layer| {
            let roles =
                [("attn_q", 64), ("attn_k", 64), ("attn_v", 64), ("attn_output", 64), ("ffn_gate", 64)];
            roles.map(|(role, width)| (format!("blk.{layer}.{role}.weight"), squares(width)))
        })
        .chain([("blk.0.ffn_down.weight".to_owned(), squares(96))])
        .collect();
    let entries: Vec<(&str, Vec<f32>)> = entries.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    std::fs::write(bench.path("a.dat"), legacy_imatrix(&entries)).unwrap();
    let convert = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "3", "--imatrix", "a.dat"];
    bench.wsic(&convert).success().stderr(
        predicate::str::contains("quality is lower").and(predicate::str::contains("does not know 3")),
    );
    bench.wsic(&["verify", "a.gguf"]).success();
    let file = open(&bench.path("a.gguf"));
    let calibration = file.metadata().str("quantize.wsic.calibration").unwrap();
    assert!(calibration.contains("importance matrix a.dat"), "{calibration}");
    // Columns with large inputs are stored more exactly.
    bench.wsic(&["unpack", "a.gguf", "--type", "f32", "-o", "plain.gguf"]).success();
    let (before, after) = (open(&bench.path("model.gguf")), open(&bench.path("plain.gguf")));
    let floats =
        |model: &GgufModel| model.tensor_f32(model.tensor("blk.0.ffn_gate.weight").unwrap()).unwrap();
    let (mut large, mut small) = (0.0, 0.0);
    for (i, (a, b)) in floats(&before).iter().zip(floats(&after)).enumerate() {
        let error = f64::from((a - b) * (a - b));
        if i % 64 % 3 == 0 {
            large += error;
        } else {
            small += error / 2.0;
        }
    }
    assert!(large * 20.0 < small, "{large} {small}");
    // As statistics of their own, they go with their model to any rate.
    bench.wsic(&["calibrate", "model.gguf", "-o", "s.gguf", "--imatrix", "a.dat"]).success();
    bench.wsic(&["convert", "model.gguf", "-o", "b.gguf", "--bpw", "3", "--stats", "s.gguf"]).success();
    assert!(tensors(&open(&bench.path("b.gguf"))) == tensors(&file));

    let wrong = legacy_imatrix(&[("blk.0.attn_q.weight", vec![1.0; 60])]);
    std::fs::write(bench.path("wrong.dat"), wrong).unwrap();
    let convert = ["convert", "model.gguf", "-o", "x.gguf", "--bpw", "3", "--imatrix", "wrong.dat"];
    bench.wsic(&convert).failure().stderr(predicate::str::contains("made with another model"));
}

#[test]
fn unknown_architectures_convert_without_statistics() {
    let bench = tiny("strange", |model| {
        model.tensors.insert("blk.0.ssm_conv1d.weight".into(), (vec![64, 64], vec![0.5; 4096]));
    });
    let convert = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "3"];
    let warned =
        predicate::str::contains("architecture 'strange'").and(predicate::str::contains("half a bit"));
    bench.wsic(&convert).success().stderr(warned);
    bench.wsic(&["verify", "a.gguf"]).success();
    let file = open(&bench.path("a.gguf"));
    let ty = |name: &str| file.tensor(name).unwrap().ty;
    assert_eq!(ty("blk.1.ffn_down.weight"), GgmlType::Wsic);
    assert_eq!(ty("token_embd.weight"), GgmlType::Wsic);
    assert_eq!(ty("blk.0.ssm_conv1d.weight"), GgmlType::F32);
    assert_eq!(ty("blk.0.attn_norm.weight"), GgmlType::F32);
    let (bytes, weights) = file
        .tensors()
        .filter(|tensor| tensor.ty == GgmlType::Wsic && tensor.name.starts_with("blk"))
        .fold((0, 0), |sum, tensor| (sum.0 + tensor.byte_len, sum.1 + tensor.elements()));
    let bits = bytes as f64 * 8.0 / weights as f64;
    assert!((bits / 3.0 - 1.0).abs() < 0.02, "{bits}");
}

#[test]
fn what_is_no_model_is_refused_with_advice() {
    for (key, value, words) in [
        ("general.type", "adapter", "merge it into its base model"),
        ("general.type", "mmproj", "use it as it is"),
        ("general.architecture", "clip", "use it as it is"),
        ("general.type", "imatrix", "--imatrix"),
    ] {
        let bench = tiny("llama", |model| model.metadata.set(key, wsic::gguf::Value::from(value)));
        let convert = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "3"];
        bench.wsic(&convert).failure().code(1).stderr(predicate::str::contains(words));
    }
    let bench = Bench(tempfile::tempdir().unwrap());
    std::fs::create_dir(bench.path("lora")).unwrap();
    std::fs::write(bench.path("lora/adapter_config.json"), "{}").unwrap();
    let convert = ["convert", "lora", "-o", "a.gguf", "--bpw", "3"];
    bench.wsic(&convert).failure().code(1).stderr(predicate::str::contains("merge it into its base model"));
}

#[test]
fn sources_of_few_bits_are_pointed_out() {
    let bench = tiny("llama", |_| ());
    let source = open(&bench.path("model.gguf"));
    // The same model with one matrix in Q4_0: scale 1, all weights 0.
    let specs = source.tensors().map(|tensor| {
        let mut spec = gguf::TensorSpec::from(tensor);
        if spec.name == "blk.0.attn_q.weight" {
            spec.ty = GgmlType::Q4_0;
        }
        spec
    });
    let path = bench.path("low.gguf");
    let mut writer = gguf::GgufWriter::create(&path, source.metadata().clone(), specs.collect()).unwrap();
    for tensor in source.tensors() {
        let bytes = match tensor.name.as_str() {
            "blk.0.attn_q.weight" => [&[0, 0x3c][..], &[0x79; 16]].concat().repeat(64 * 64 / 32),
            _ => source.tensor_bytes(tensor).unwrap().to_vec(),
        };
        writer.write_tensor(&tensor.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let convert = ["convert", "low.gguf", "-o", "a.gguf", "--bpw", "3", "--calibration", "text.txt"];
    let warned =
        predicate::str::contains("quantized before").and(predicate::str::contains("to Q4_0, 4.5 bits"));
    bench.wsic(&convert).success().stderr(warned);
    let convert = ["convert", "model.gguf", "-o", "b.gguf", "--bpw", "3", "--calibration", "text.txt"];
    bench.wsic(&convert).success().stderr(predicate::str::contains("quantized before").not());
}

#[test]
fn a_text_without_content_is_named() {
    let bench = tiny("llama", |_| ());
    std::fs::write(bench.path("nothing.txt"), " \n").unwrap();
    let convert = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "3", "--calibration", "nothing.txt"];
    let said = predicate::str::contains("nothing.txt: calibration needs a text of 2 tokens")
        .and(predicate::str::contains("this is an empty text"))
        .and(predicate::str::contains("leave out --calibration"));
    bench.wsic(&convert).failure().code(1).stderr(said);
    assert!(!bench.path("a.gguf").exists());
}

#[test]
fn a_dry_run_predicts_and_writes_nothing() {
    let bench = tiny("llama", |_| ());
    let before = std::fs::read_dir(bench.0.path()).unwrap().count();
    let arguments = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "10", "--calibration", "text.txt"];
    let output = bench.wsic(&[&arguments[..], &["--dry-run"]].concat()).success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert_eq!(std::fs::read_dir(bench.0.path()).unwrap().count(), before);
    for word in ["statistics", "loss weights", "planning", "trying rates", "writing", "all", "free there"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // Phases have the names that the progress shows.
    assert!(!text.contains("given rates") && !text.contains("quantizing"), "{text}");
    let given = bench.wsic(&[&arguments[..], &["--dry-run", "--embedding-bpw", "4"]].concat()).success();
    given.stdout(predicate::str::contains("given rates").and(predicate::str::contains("trying rates")));
    // The predicted size is near the true one (small matrices have more side information than large ones).
    let size = text.lines().find_map(|line| line.strip_prefix("output: ")).unwrap();
    let (number, unit) = size.split_once(' ').unwrap();
    assert_eq!(unit, "kB", "{size}");
    bench.wsic(&[&arguments[..], &["--log", "log.json"]].concat()).success();
    let true_size = std::fs::metadata(bench.path("a.gguf")).unwrap().len() as f64;
    let predicted = number.parse::<f64>().unwrap() * 1e3;
    assert!((predicted / true_size - 1.0).abs() < 0.2, "{predicted} {true_size}");

    let log: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.path("log.json")).unwrap()).unwrap();
    let file = open(&bench.path("a.gguf"));
    let records = log["tensors"].as_array().unwrap();
    assert_eq!(records.len(), file.tensor_count());
    for (record, tensor) in records.iter().zip(file.tensors()) {
        assert_eq!(record["name"], tensor.name.as_str());
        assert_eq!(record["to"], tensor.ty.to_string());
        assert_eq!(record["bytes"], tensor.byte_len);
        let quantized = tensor.ty == GgmlType::Wsic;
        assert_eq!(record["action"], if quantized { "quantized" } else { "copied" });
        assert_eq!(record["step"].is_number(), quantized);
    }
    assert_eq!(log["bytes"].as_f64().unwrap(), true_size);
}

#[test]
fn a_tensor_may_have_a_rate_and_a_method_of_its_own() {
    let bench = Bench::new("F32");
    let tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };
    let mut model = TinyModel::new(tiny, 5);
    model_support::add_tokenizer(&mut model.metadata, tiny.vocabulary);
    model.write(&bench.path("model.gguf"));
    let common = ["convert", "model.gguf", "-o", "a.gguf", "--bpw", "7", "--calibration", "text.txt"];
    let own = ["--tensor", "ffn_down=rtn:7.5", "--tensor", "attn_v=9", "--tensor", "attn_k=f16"];
    bench.wsic(&[&common[..], &own, &["--log", "log.json"]].concat()).success();
    let log: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.path("log.json")).unwrap()).unwrap();
    let tensor = |name: &str| {
        let all = log["tensors"].as_array().unwrap();
        all.iter().find(|tensor| tensor["name"] == name).unwrap().clone()
    };
    let down = tensor("blk.1.ffn_down.weight");
    assert_eq!((down["method"].as_str(), down["rate"].as_f64()), (Some("rtn"), Some(7.5)));
    assert!((down["bits_per_weight"].as_f64().unwrap() - 7.5).abs() < 0.3, "{down}");
    let value = tensor("blk.0.attn_v.weight");
    assert!(value["method"].is_null() && value["rate"].as_f64() == Some(9.0), "{value}");
    assert_eq!(tensor("blk.0.attn_k.weight")["action"], "stored");
    // The methods differ in the trellis of the payload.
    let report = bench.wsic(&["inspect", "a.gguf", "--json"]).success();
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    let trellis = |name: &str| {
        let all = report["tensors"].as_array().unwrap();
        all.iter().find(|tensor| tensor["name"] == name).unwrap()["payload"]["trellis"].clone()
    };
    assert_ne!(trellis("blk.1.ffn_down.weight"), trellis("blk.1.attn_v.weight"));
    let bad = [&common[..], &["--tensor", "ffn_down=rtn"]].concat();
    bench.wsic(&bad).failure().stderr(predicates::str::contains("needs a rate"));
}
