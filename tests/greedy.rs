//! The likeliest text of a compressed model is that of its unpacked form: 64 tokens on several prompts.
//!
//! Both compute the same weights, but with other roundings: activations as integers here, floats there. Where two tokens are
//! as likely as each other but for these, either may come; from there on texts differ. Such places are shown and checked to
//! be ties, nearer ones for the finer roundings. `WSIC_GREEDY_MODEL` names a converted model to compare too (`--nocapture` shows the texts).

mod model_support;

use model_support::{add_tokenizer, Tiny, TinyModel};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use wsic::runtime::{Arithmetic, RunOptions, Sampling, TextModel};

const TOKENS: usize = 64;
/// Two logits this close, in units of the logits' standard deviation, are a tie.
fn tie(arithmetic: Arithmetic) -> f64 {
    match arithmetic {
        Arithmetic::Integer => 0.1,
        Arithmetic::FineInteger | Arithmetic::Float => 0.01,
    }
}

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

/// Compares the texts after all prompts; for each arithmetic the number of prompts whose texts are equal.
fn compare(coded: &Path, plain: &Path, prompts: &[&str], arithmetics: &[Arithmetic]) -> Vec<usize> {
    let open = |&arithmetic| {
        let options = RunOptions { arithmetic, ..RunOptions::default() };
        (arithmetic, TextModel::open(coded, &options).unwrap())
    };
    let models: Vec<_> = arithmetics.iter().map(open).collect();
    let plain = TextModel::open(plain, &RunOptions::default()).unwrap();
    let mut equal = vec![0; models.len()];
    for prompt in prompts {
        let tokens = plain.prompt(prompt).unwrap();
        let expected = greedy(&plain, &tokens);
        for ((arithmetic, model), equal) in models.iter().zip(&mut equal) {
            assert_eq!(model.prompt(prompt).unwrap(), tokens, "the same tokenizer");
            let found = greedy(model, &tokens);
            let at = found.iter().zip(&expected).position(|(a, b)| a != b);
            match at {
                None => {
                    assert_eq!(found.len(), expected.len(), "{prompt:?}");
                    *equal += 1;
                }
                Some(at) => {
                    let before = [&tokens[..], &expected[..at]].concat();
                    let gap = gap(&plain, &before);
                    println!("{prompt:?}, {arithmetic:?}: another token after {at}, {gap:.5} deviations between the first two");
                    assert!(
                        gap < tie(*arithmetic),
                        "{prompt:?}, {arithmetic:?}: token {at} differs and is no tie: {gap}"
                    );
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
    let all = [Arithmetic::FineInteger, Arithmetic::Float, Arithmetic::Integer];
    let equal = pool.install(|| compare(&small, &plain, &prompts, &all));
    let enough = |equal: &usize, ties: usize| equal + ties >= prompts.len();
    assert!(enough(&equal[0], 1) && enough(&equal[1], 1) && enough(&equal[2], 4), "{equal:?}: ties are rare");
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
    let ways = [Arithmetic::Integer, Arithmetic::FineInteger];
    let equal = compare(Path::new(&model), &plain, &prompts, &ways);
    println!("{equal:?} of {} texts are equal, {ways:?}", prompts.len());
}
