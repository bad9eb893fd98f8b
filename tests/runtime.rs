//! Models that run from their coded form, against the same models unpacked to floats.

mod model_support;

use model_support::{tokens, with_threads, Tiny, TinyModel};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use wsic::gguf::{GgmlType, GgufFile, Limits};
use wsic::model::CachePrecision;
use wsic::runtime::{Arithmetic, End, GenerateError, RunOptions, Sampling, TextModel};

/// Several row tiles in the larger matrices, and the last of them not full.
const TINY: Tiny = Tiny {
    width: 96,
    feed_forward: 600,
    heads: 6,
    kv_heads: 2,
    head_width: 16,
    vocabulary: 700,
    ..Tiny::LLAMA
};

/// A folder with a tiny model, its coded form `small.gguf` and that unpacked, `plain.gguf`.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(tiny: Tiny, more: &[&str]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        TinyModel::new(tiny, 5).write(&bench.path("model.gguf"));
        let mut random = wsic::model::Random::new(9, 9);
        let text: String = (0..6000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
        std::fs::write(bench.path("text.txt"), text).unwrap();
        let convert = ["convert", "model.gguf", "-o", "small.gguf", "--bpw", "3", "--method", "rtn", "-q"];
        bench.wsic(&[&convert[..], &["--calibration", "text.txt"], more].concat());
        bench.wsic(&["unpack", "small.gguf", "--type", "f32", "-o", "plain.gguf", "-q"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
        let output = command.current_dir(self.folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn open(&self, name: &str, arithmetic: Arithmetic) -> TextModel {
        let options = RunOptions { arithmetic, cache: CachePrecision::Single, ..RunOptions::default() };
        TextModel::open(self.path(name), &options).unwrap()
    }
}

/// Logits after each of some prefixes: the first in one batch, then token by token.
fn logits(model: &TextModel, tokens: &[u32], batch: usize) -> Vec<Vec<f32>> {
    let mut session = model.session(tokens.len()).unwrap();
    let (first, rest) = tokens.split_at(batch);
    let mut logits = vec![session.append(first).unwrap()];
    logits.extend(rest.iter().map(|&token| session.append(&[token]).unwrap()));
    logits
}

/// Largest difference in standard deviations of the expected logits.
fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let worst = found.iter().zip(expected).map(|(found, expected)| {
        assert_eq!(found.len(), expected.len());
        let count = expected.len() as f64;
        let mean = expected.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let spread = expected.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
        let worst = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        worst / spread.sqrt()
    });
    worst.fold(0.0, f64::max)
}

fn greedy(model: &TextModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = model.session(prompt.len() + count).unwrap();
    session.generate(prompt, count, Sampling::GREEDY, |_| ControlFlow::Continue(())).unwrap().tokens
}

#[test]
fn logits_and_texts_are_those_of_the_unpacked_model() {
    for (tiny, more) in [
        (TINY, &[][..]),
        (Tiny { architecture: "qwen2", biases: true, tied: false, ..TINY }, &["--tensor", "attn_k=q8_0"]),
        (
            Tiny { architecture: "qwen3", head_norms: true, tied: false, ..TINY },
            &["--tensor", "output|ffn_up=keep"],
        ),
    ] {
        let name = tiny.architecture;
        let bench = Bench::new(tiny, more);
        let plain = bench.open("plain.gguf", Arithmetic::Float);
        let exact = bench.open("small.gguf", Arithmetic::Float);
        let fast = bench.open("small.gguf", Arithmetic::Integer);
        let ids = tokens(300, tiny.vocabulary, 3);
        let expected = logits(&plain, &ids, 290);
        // Only the order of sums differs.
        let worst = difference(&logits(&exact, &ids, 290), &expected);
        assert!(worst < 1e-4, "{name}: {worst}");
        // Activations are rounded to 8 bits; this is the worst of thousands of logits.
        let worst = difference(&logits(&fast, &ids, 290), &expected);
        assert!(worst > 1e-6 && worst < 0.2, "{name}: {worst}");
        for seed in 0..4 {
            let prompt = tokens(5, tiny.vocabulary, seed);
            let expected = greedy(&plain, &prompt, 32);
            assert!(!expected.is_empty());
            assert_eq!(greedy(&exact, &prompt, 32), expected, "{name} {seed}");
        }
    }
}

#[test]
fn a_batch_gives_what_single_tokens_give() {
    let bench = Bench::new(TINY, &[]);
    for arithmetic in [Arithmetic::Integer, Arithmetic::Float] {
        let model = bench.open("small.gguf", arithmetic);
        let ids = tokens(40, TINY.vocabulary, 8);
        let worst = difference(&logits(&model, &ids, 39), &logits(&model, &ids, 1)[38..]);
        assert!(worst < 0.05, "{arithmetic:?}: {worst}");
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let bench = Bench::new(TINY, &["--tensor", "attn_k=keep"]);
    for arithmetic in [Arithmetic::Integer, Arithmetic::Float] {
        let model = bench.open("small.gguf", arithmetic);
        let ids = tokens(33, TINY.vocabulary, 8);
        let run = |threads| -> Vec<Vec<u32>> {
            let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
            with_threads(threads, || logits(&model, &ids, 30)).into_iter().map(bits).collect()
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == one, "{arithmetic:?}, {threads} threads");
        }
    }
}

#[test]
fn matrices_decoded_once_give_the_same_logits() {
    let bench = Bench::new(Tiny { tied: false, ..TINY }, &["--tensor", "attn_k=q8_0"]);
    let open = |decoded_bytes| {
        let options = RunOptions { decoded_bytes, ..RunOptions::default() };
        TextModel::open(bench.path("small.gguf"), &options).unwrap()
    };
    let ids = tokens(80, TINY.vocabulary, 3);
    let coded = open(0);
    let expected = logits(&coded, &ids, 60);
    assert!(coded.is_coded() && coded.left_coded() == 0);
    let all = open(usize::MAX);
    assert!(logits(&all, &ids, 60) == expected);
    assert_eq!(all.left_coded(), 0);
    // Room for some of them, and again for the next session.
    let some = open(20_000);
    let before = some.left_coded();
    assert!(logits(&some, &ids, 60) == expected);
    let of_layers = some.left_coded() - before;
    assert!((1..12).contains(&of_layers), "{of_layers}");
    assert!(logits(&some, &ids, 60) == expected);
    assert_eq!(some.left_coded() - before, 2 * of_layers);
}

#[test]
fn ordinary_files_run_too() {
    let bench = Bench::new(TINY, &[]);
    let model = bench.open("model.gguf", Arithmetic::Integer);
    let ids = tokens(20, TINY.vocabulary, 1);
    let expected = TinyModel::new(TINY, 5).logits(&ids);
    let last: Vec<f32> = expected[19].iter().map(|&logit| logit as f32).collect();
    assert!(difference(&logits(&model, &ids, 20), &[last]) < 1e-3);
    // Layers that do not fit are read again for every token.
    let options = RunOptions { cache: CachePrecision::Single, float_bytes: 0, ..RunOptions::default() };
    let small = TextModel::open(bench.path("model.gguf"), &options).unwrap();
    assert!(difference(&logits(&small, &ids, 15), &logits(&model, &ids, 15)) < 1e-5);
}

#[test]
fn generation_ends_where_it_should() {
    let bench = Bench::new(TINY, &[]);
    let model = bench.open("small.gguf", Arithmetic::Integer);
    let prompt = tokens(6, TINY.vocabulary, 2);
    let go = |_: &str| ControlFlow::Continue(());
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 4 };
    let mut session = model.session(20).unwrap();

    let mut text = String::new();
    let first = session
        .generate(&prompt, 5, sampling, |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((first.end, first.prompt_tokens, first.tokens.len()), (End::Length, 6, 5));
    let bytes: Vec<u8> =
        first.tokens.iter().flat_map(|&token| model.tokenizer().piece(token, false)).collect();
    assert_eq!(text.into_bytes(), bytes);
    // The last token drawn has not passed the model yet.
    assert_eq!(session.held(), 10);

    let second = session.generate(&first.tokens[4..], 50, sampling, go).unwrap();
    assert_eq!((second.end, second.tokens.len(), session.held()), (End::ContextFull, 10, 20));
    let full = session.append(&[1]).unwrap_err();
    assert!(matches!(full, GenerateError::Context { prompt: 1, context: 20, held: 20 }), "{full}");

    session.clear();
    let again = session.generate(&prompt, 5, sampling, go).unwrap();
    assert_eq!(again.tokens, first.tokens);
    session.clear();
    let stopped = session.generate(&prompt, 5, sampling, |_| ControlFlow::Break(())).unwrap();
    assert_eq!((stopped.end, stopped.tokens.as_slice()), (End::Stopped, &first.tokens[..1]));
    session.clear();
    let none = session.generate(&prompt, 0, sampling, go).unwrap();
    assert_eq!((none.end, none.tokens.len(), session.held()), (End::Length, 0, 6));
    assert!(matches!(session.generate(&[], 5, sampling, go), Err(GenerateError::EmptyPrompt)));
    assert!(matches!(model.question("why?", true), Err(GenerateError::NoChatFormat)));
}

fn damage(path: &Path, tensor: &str, from_end: u64) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let file = GgufFile::open(path, &Limits::default()).unwrap();
    let info = file.tensor(tensor).unwrap();
    assert_eq!(info.ty, GgmlType::Wsic);
    let at = file.data_start() + info.offset + info.byte_len - from_end;
    bytes[at as usize] ^= 0x55;
    bytes
}

#[test]
fn damage_is_named() {
    let bench = Bench::new(TINY, &[]);
    let tensor = "blk.1.ffn_down.weight";
    let length = GgufFile::open(bench.path("small.gguf"), &Limits::default())
        .unwrap()
        .tensor(tensor)
        .unwrap()
        .byte_len;
    // In the header: refused when the session starts. In a tile: found when it is decoded, or a wrong number.
    std::fs::write(bench.path("header.gguf"), damage(&bench.path("small.gguf"), tensor, length - 20))
        .unwrap();
    let model = bench.open("header.gguf", Arithmetic::Integer);
    let error = model.session(8).unwrap_err().to_string();
    assert!(error.contains(tensor) && error.contains("header.gguf"), "{error}");
    let mut refused = 0;
    for from_end in 1..30 {
        std::fs::write(bench.path("tile.gguf"), damage(&bench.path("small.gguf"), tensor, from_end)).unwrap();
        let model = bench.open("tile.gguf", Arithmetic::Integer);
        if let Err(error) = model.session(8).unwrap().append(&[1, 2, 3]) {
            assert!(error.to_string().contains(tensor), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0);
}
