//! The likeliest text of a compressed model is that of its unpacked form: 64 tokens on several prompts.
//!
//! Both compute the same weights, but with other roundings: activations of two terms of eight bits here, floats there. Where
//! two tokens are as likely as each other but for these, either may come; from there on texts differ. Such places are shown
//! and checked to be ties. `WSIC_GREEDY_MODEL` names a converted model to compare too (`--nocapture` shows the texts).

mod model_support;

use model_support::{add_tokenizer, Tiny, TinyModel};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use wsic::runtime::{Arithmetic, RunOptions, Sampling, TextModel};

const TOKENS: usize = 64;
/// Two logits this close, in units of the logits' standard deviation, are a tie.
const TIE: f64 = 0.01;

fn wsic(arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(env!("CARGO_BIN_EXE_wsic")).args(arguments).arg("-q").output().unwrap();
    assert!(status.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&status.stderr));
}

fn greedy(model: &TextModel, prompt: &[u32]) -> Vec<u32> {
    let mut session = model.session(prompt.len() + TOKENS).unwrap();
    session.generate(prompt, TOKENS, Sampling::GREEDY, |_| ControlFlow::Continue(())).unwrap().tokens
}

/// What the two likeliest tokens after a text have between them, in standard deviations of all logits.
fn gap(model: &TextModel, text: &[u32]) -> f64 {
    let logits = model.session(text.len()).unwrap().append(text).unwrap();
    let count = logits.len() as f64;
    let mean = logits.iter().map(|&logit| f64::from(logit)).sum::<f64>() / count;
    let square = logits.iter().map(|&logit| (f64::from(logit) - mean).powi(2)).sum::<f64>() / count;
    let mut sorted = logits;
    sorted.sort_by(|a, b| b.total_cmp(a));
    f64::from(sorted[0] - sorted[1]) / square.sqrt()
}

/// Compares the texts after all prompts; the number of prompts whose texts are equal.
fn compare(coded: &Path, plain: &Path, prompts: &[&str], arithmetics: &[Arithmetic]) -> usize {
    let open = |&arithmetic| {
        let options = RunOptions { arithmetic, ..RunOptions::default() };
        (arithmetic, TextModel::open(coded, &options).unwrap())
    };
    let models: Vec<_> = arithmetics.iter().map(open).collect();
    let plain = TextModel::open(plain, &RunOptions::default()).unwrap();
    let mut equal = 0;
    for prompt in prompts {
        let tokens = plain.prompt(prompt).unwrap();
        let expected = greedy(&plain, &tokens);
        for (arithmetic, model) in &models {
            assert_eq!(model.prompt(prompt).unwrap(), tokens, "the same tokenizer");
            let found = greedy(model, &tokens);
            let at = found.iter().zip(&expected).position(|(a, b)| a != b);
            match at {
                None => {
                    assert_eq!(found.len(), expected.len(), "{prompt:?}");
                    equal += usize::from(*arithmetic == Arithmetic::Integer);
                }
                Some(at) => {
                    let before = [&tokens[..], &expected[..at]].concat();
                    let gap = gap(&plain, &before);
                    println!("{prompt:?}, {arithmetic:?}: another token after {at}, {gap:.5} deviations between the first two");
                    assert!(gap < TIE, "{prompt:?}, {arithmetic:?}: token {at} differs and is no tie: {gap}");
                }
            }
        }
        println!("{prompt:?}: {:?}", String::from_utf8_lossy(&plain.tokenizer().decode(&expected)));
    }
    equal
}

#[test]
fn a_small_model_says_the_same_unpacked() {
    let tiny = Tiny {
        layers: 3,
        width: 128,
        feed_forward: 384,
        heads: 4,
        kv_heads: 2,
        head_width: 32,
        vocabulary: 256,
        ..Tiny::LLAMA
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut model = TinyModel::new(tiny, 11);
    add_tokenizer(&mut model.metadata, tiny.vocabulary);
    model.write(&path("model.gguf"));
    std::fs::write(path("text.txt"), "The quick brown fox jumps over the lazy dog. ".repeat(100)).unwrap();
    let (model, small, plain, text) =
        (path("model.gguf"), path("small.gguf"), path("plain.gguf"), path("text.txt"));
    let (input, output) = (model.as_os_str(), small.as_os_str());
    wsic(&[
        "convert".as_ref(),
        input,
        "-o".as_ref(),
        output,
        "--bpw".as_ref(),
        "2.5".as_ref(),
        "--calibration".as_ref(),
        text.as_os_str(),
    ]);
    wsic(&["unpack".as_ref(), output, "--type".as_ref(), "f32".as_ref(), "-o".as_ref(), plain.as_os_str()]);
    let prompts =
        ["a", "The quick", "zebra 123", "Hello, world!", "~~~~", "once upon a time there was", "q", "0"];
    // Products this small are not worth a second thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let both = [Arithmetic::Integer, Arithmetic::Float];
    let equal = pool.install(|| compare(&small, &plain, &prompts, &both));
    assert!(equal + 1 >= prompts.len(), "{equal} of {}: ties are rare", prompts.len());
}

#[test]
fn a_given_model_says_the_same_unpacked() {
    let Some(model) = std::env::var_os("WSIC_GREEDY_MODEL") else {
        eprintln!("skipped: WSIC_GREEDY_MODEL names no converted model");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.gguf");
    wsic(&[
        "unpack".as_ref(),
        model.as_os_str(),
        "--type".as_ref(),
        "f32".as_ref(),
        "-o".as_ref(),
        plain.as_os_str(),
    ]);
    let prompts = [
        "The capital of France is",
        "Once upon a time",
        "def fibonacci(n):",
        "Water boils at",
        "The three laws of thermodynamics are",
        "Dear Sir or Madam,",
        "1, 2, 3, 5, 8,",
        "In 1969, the first",
    ];
    let equal = compare(Path::new(&model), &plain, &prompts, &[Arithmetic::Integer]);
    println!("{equal} of {} texts are equal", prompts.len());
}
