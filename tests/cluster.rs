//! One conversion by several processes: statistics, plan, parts, merge; the file is that of a single process.

mod model_support;

use assert_cmd::Command;
use model_support::{add_tokenizer, Tiny, TinyModel};
use predicates::prelude::*;
use std::path::{Path, PathBuf};

const TINY: Tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, seed) in [("model.gguf", 5), ("other.gguf", 6)] {
            let mut model = TinyModel::new(TINY, seed);
            add_tokenizer(&mut model.metadata, TINY.vocabulary);
            model.write(&bench.path(name));
        }
        let mut random = wsic::model::Random::new(9, 9);
        let text: String = (0..12_000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
        std::fs::write(bench.path("text.txt"), text).unwrap();
        bench.wsic(&["calibrate", "model.gguf", "-o", "stats.gguf", "--calibration", "text.txt"]).success();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wsic"));
        command.current_dir(self.0.path()).args(arguments);
        command
    }

    fn wsic(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        Command::from_std(self.command(arguments)).assert()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

const PATTERNS: [&str; 3] = ["blk.0", "blk.1", "token_embd|output"];

#[test]
fn several_processes_make_the_file_of_one() {
    for target in [["--bpw", "2.5"], ["--size", "50kB"]] {
        let bench = Bench::new();
        let settings = [&["--stats", "stats.gguf", "--tensor", "blk.1.attn_v=q8_0"], &target[..]].concat();
        let one = ["convert", "model.gguf", "-o", "one.gguf", "--no-drift"];
        bench.wsic(&[&one[..], &settings].concat()).success();
        let mut parts: Vec<String> = Vec::new();
        let mut last = Vec::new();
        for round in 1..8 {
            let plan = format!("plan-{round}.json");
            let mut arguments = vec!["plan", "model.gguf", "-o", &plan];
            arguments.extend(&settings);
            if !parts.is_empty() {
                arguments.push("--measured");
                arguments.extend(parts.iter().map(String::as_str));
            }
            let settled = bench.wsic(&arguments).success();
            let settled = String::from_utf8_lossy(&settled.get_output().stdout).contains("settled");
            // All parts at the same time.
            last = (0..PATTERNS.len()).map(|part| format!("part-{round}-{part}.gguf")).collect::<Vec<_>>();
            let children: Vec<_> = PATTERNS
                .iter()
                .zip(&last)
                .map(|(pattern, part)| {
                    let mut arguments = vec!["convert", "model.gguf", "-o", part, "--plan", &plan];
                    arguments.extend(["--only", pattern, "--threads", "1", "-q"]);
                    arguments.extend(&settings);
                    bench.command(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap()
                })
                .collect();
            assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
            if settled {
                break;
            }
            assert!(round < 7, "the plan never settles");
            parts.extend(last.clone());
        }
        let mut arguments = vec!["merge", "-o", "merged.gguf"];
        arguments.extend(last.iter().rev().map(String::as_str));
        bench.wsic(&arguments).success().stdout(predicate::str::contains("linear layers"));
        assert!(bench.read("merged.gguf") == bench.read("one.gguf"), "{target:?}");
        bench.wsic(&["verify", "merged.gguf"]).success();
    }
}

#[test]
fn one_plan_serves_whole_and_parts() {
    let bench = Bench::new();
    let settings = ["--stats", "stats.gguf", "--bpw", "3"];
    bench.wsic(&[&["plan", "model.gguf", "-o", "plan.json"], &settings[..]].concat()).success();
    let whole = ["convert", "model.gguf", "-o", "whole.gguf", "--plan", "plan.json"];
    bench.wsic(&[&whole[..], &settings].concat()).success();
    let part = |name: &str, pattern: &str, more: &[&str]| {
        let part = ["convert", "model.gguf", "-o", name, "--only", pattern];
        bench.wsic(&[&part[..], &settings, more].concat())
    };
    // A part without a plan makes the first plan by itself.
    part("a.gguf", "blk.0|token_embd", &[]).success();
    part("b.gguf", "blk.1|output", &["--plan", "plan.json"]).success();
    bench.wsic(&["merge", "a.gguf", "b.gguf", "-o", "merged.gguf"]).success();
    assert!(bench.read("merged.gguf") == bench.read("whole.gguf"));

    part("c.gguf", "nothing", &[]).failure().stderr(predicate::str::contains("matches no tensor"));
    part("c.gguf", "blk.1", &[]).success();
    let refuse = |arguments: &[&str], words: &str| {
        bench.wsic(arguments).failure().code(1).stderr(predicate::str::contains(words));
        assert!(!Path::new(&bench.path("x.gguf")).exists());
    };
    refuse(&["merge", "a.gguf", "c.gguf", "-o", "x.gguf"], "output_norm.weight");
    refuse(&["merge", "a.gguf", "b.gguf", "c.gguf", "-o", "x.gguf"], "exclude one another");
    refuse(&["merge", "a.gguf", "model.gguf", "-o", "x.gguf"], "is no part");
    let plain = ["convert", "model.gguf", "-o", "d.gguf", "--stats", "stats.gguf", "--only", "blk.1|output"];
    bench.wsic(&[&plain[..], &["--bpw", "4"]].concat()).success();
    refuse(&["merge", "a.gguf", "d.gguf", "-o", "x.gguf"], "with other settings");
    let other_rate = ["convert", "model.gguf", "-o", "x.gguf", "--stats", "stats.gguf", "--bpw", "4"];
    refuse(
        &[&other_rate[..], &["--plan", "plan.json"]].concat(),
        "was planned with --bpw 3, this conversion was begun with --bpw 4",
    );
}

#[test]
fn statistics_know_their_model() {
    let bench = Bench::new();
    let convert = |model: &str, more: &[&str]| {
        bench.wsic(
            &[&["convert", model, "-o", "x.gguf", "--stats", "stats.gguf", "--bpw", "3"], more].concat(),
        )
    };
    convert("other.gguf", &[]).failure().stderr(predicate::str::contains("another model"));
    // The same statistics serve any rate and method, and give what a conversion that computes them gives.
    convert("model.gguf", &["--method", "gptq"]).success();
    convert("model.gguf", &[]).success();
    let direct = ["convert", "model.gguf", "-o", "y.gguf", "--calibration", "text.txt", "--bpw", "3"];
    bench.wsic(&direct).success();
    let tensors = |name: &str| -> Vec<Vec<u8>> {
        let file = wsic::gguf::GgufFile::open(bench.path(name), &wsic::gguf::Limits::default()).unwrap();
        file.tensors().iter().map(|tensor| file.tensor_bytes(tensor).unwrap().to_vec()).collect()
    };
    assert!(tensors("x.gguf") == tensors("y.gguf"));
    let both = ["--calibration", "text.txt"];
    convert("model.gguf", &both).failure().code(2);
    bench
        .wsic(&["convert", "model.gguf", "-o", "z.gguf", "--stats", "model.gguf", "--bpw", "3"])
        .failure()
        .stderr(predicate::str::contains("no file of statistics"));
}
