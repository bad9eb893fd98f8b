//! `wsic run` from outside.

mod model_support;

use assert_cmd::assert::Assert;
use assert_cmd::Command;
use model_support::{Tiny, TinyModel};
use predicates::prelude::*;
use std::path::PathBuf;
use wsic::gguf::Value;

const TINY: Tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(template: Option<&str>) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        let mut model = TinyModel::new(TINY, 5);
        if let Some(template) = template {
            model.metadata.set("tokenizer.chat_template", Value::from(template));
        }
        model.write(&bench.path("model.gguf"));
        std::fs::write(bench.path("text.txt"), "abcdefgh".repeat(500)).unwrap();
        let convert = ["convert", "model.gguf", "-o", "small.gguf", "--bpw", "6", "--method", "rtn", "-q"];
        bench.wsic(&[&convert[..], &["--calibration", "text.txt"]].concat()).success();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) -> Assert {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
        command.current_dir(self.folder.path()).args(arguments).write_stdin("abc").assert()
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.wsic(&[&["run"], arguments].concat()).success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    }
}

#[test]
fn texts_are_reproducible() {
    let bench = Bench::new(None);
    let base = ["small.gguf", "-p", "abc", "-n", "20"];
    let with = |more: &[&str]| bench.text(&[&base, more].concat());
    let text = with(&[]);
    assert!(text.ends_with('\n') && text.len() > 10, "{text:?}");
    assert_eq!(with(&["--threads", "1"]), text);
    assert_eq!(with(&["--threads", "3", "--quiet"]), text);
    assert_eq!(with(&["--resident", "int8"]), text);
    assert_ne!(with(&["--seed", "1"]), text);
    let greedy = with(&["--temp", "0"]);
    assert_eq!(with(&["--temp", "0", "--seed", "5"]), greedy);
    assert_eq!(with(&["--top-k", "1"]), greedy);
    assert_eq!(with(&["--top-p", "0"]), greedy);
    assert_eq!(bench.text(&["small.gguf", "-f", "-", "-n", "20"]), text, "from standard input");
    std::fs::write(bench.path("prompt.txt"), "abc").unwrap();
    assert_eq!(bench.text(&["small.gguf", "-f", "prompt.txt", "-n", "20"]), text);
}

#[test]
fn coded_and_unpacked_models_say_the_same() {
    let bench = Bench::new(None);
    bench.wsic(&["unpack", "small.gguf", "--type", "f32", "-o", "plain.gguf"]).success();
    for prompt in ["abc", "xyz", "Hello!", "q"] {
        let arguments = ["-p", prompt, "-n", "40", "--temp", "0"];
        let plain = bench.text(&[&["plain.gguf"], &arguments[..]].concat());
        assert_eq!(bench.text(&[&["small.gguf", "--exact"], &arguments[..]].concat()), plain, "{prompt}");
    }
    let decoded = ["run", "plain.gguf", "-p", "abc", "-n", "2", "--resident", "int8"];
    bench.wsic(&decoded).success().stderr(predicate::str::contains("this model has none"));
    bench.wsic(&[&decoded[..], &["--exact"]].concat()).failure().code(2);
}

#[test]
fn speeds_go_to_standard_error() {
    let bench = Bench::new(None);
    let run = ["run", "small.gguf", "-p", "abc", "-n", "3"];
    bench.wsic(&run).success().stderr(predicate::str::is_match("prompt 3 tokens, .* tokens/s").unwrap());
    bench.wsic(&[&run[..], &["-q"]].concat()).success().stderr("");
}

#[test]
fn chat_uses_the_models_template() {
    let bench = Bench::new(Some("{{'[INST]' + content}}"));
    let question = ["small.gguf", "-p", "abc", "-n", "12", "--temp", "0"];
    let chat = bench.text(&[&question[..], &["--chat"]].concat());
    let written = bench.text(&["small.gguf", "-p", "[INST] abc [/INST]", "-n", "12", "--temp", "0"]);
    assert_eq!(chat, written);
    assert_ne!(chat, bench.text(&question));
    Bench::new(None)
        .wsic(&["run", "small.gguf", "-p", "abc", "--chat"])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("chat template"));
}

#[test]
fn wrong_usage_is_explained() {
    let bench = Bench::new(None);
    // A text from a pipe needs no option; without one nothing is to be done.
    bench.wsic(&["run", "small.gguf", "-n", "2"]).success();
    let empty =
        |command: &mut Command| command.current_dir(bench.folder.path()).args(["run", "small.gguf"]).assert();
    empty(&mut Command::new(env!("CARGO_BIN_EXE_wsic")))
        .failure()
        .code(2)
        .stderr(predicate::str::contains("--prompt"));
    bench
        .wsic(&["run", "small.gguf", "-p", &"word ".repeat(20_000)])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("made for a context of"));
    bench
        .wsic(&["run", "small.gguf", "-p", ""])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("no token"));
    bench
        .wsic(&["run", "missing.gguf", "-p", "a"])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("missing.gguf"));
    bench.wsic(&["run", "text.txt", "-p", "a"]).failure().code(1);
    bench
        .wsic(&["run", "small.gguf", "-f", "none.txt"])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("none.txt"));
    for (flag, value) in [("--temp", "-1"), ("--temp", "nan"), ("--top-p", "1.5")] {
        let flag = format!("{flag}={value}");
        bench
            .wsic(&["run", "small.gguf", "-p", "a", &flag])
            .failure()
            .stderr(predicate::str::contains("expected"));
    }
}
