//! Tokenizers and forward passes against a foreign engine.
//!
//! Run only if WSIC_JUDGE_PYTHON names a Python with the packages that tests/judge/engine.py asks for; tests of a
//! real model also need WSIC_TEST_GGUF, a llama model with a byte-level tokenizer.

mod model_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use model_support::{tokens, Tiny, TinyModel};
use wsic::gguf::{Array, GgufFile, GgufWriter, Limits, Metadata, Value, ValueType};
use wsic::model::eval::{score, Windows};
use wsic::model::{LayerRunner, Model, Tokenizer};

struct Engine {
    python: PathBuf,
    folder: tempfile::TempDir,
}

impl Engine {
    fn find() -> Option<Self> {
        let Some(python) = std::env::var_os("WSIC_JUDGE_PYTHON") else {
            eprintln!("skipped: WSIC_JUDGE_PYTHON is not set");
            return None;
        };
        Some(Self { python: python.into(), folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, model: &Path, arguments: &[&str]) -> Vec<u8> {
        let out = self.path("out");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/engine.py");
        let status = Command::new(&self.python)
            .arg(script)
            .arg(command)
            .arg(model)
            .args(arguments)
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success(), "{command} {}: {status}; WSIC_JUDGE_VERBOSE=1 says why", model.display());
        std::fs::read(out).unwrap()
    }

    fn tokenize(&self, model: &Path, text: &str, parse_special: bool, add_special: bool) -> Vec<u32> {
        let file = self.path("text");
        std::fs::write(&file, text).unwrap();
        let flag = |on| if on { "1" } else { "0" };
        let arguments = [file.to_str().unwrap(), flag(parse_special), flag(add_special)];
        let ids = String::from_utf8(self.run("tokenize", model, &arguments)).unwrap();
        ids.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    fn with_ids(&self, command: &str, model: &Path, ids: &[u32]) -> Vec<u8> {
        let file = self.path("ids");
        std::fs::write(&file, ids.iter().map(|id| format!("{id} ")).collect::<String>()).unwrap();
        self.run(command, model, &[file.to_str().unwrap()])
    }

    fn logits(&self, model: &Path, ids: &[u32]) -> Vec<f32> {
        let bytes = self.with_ids("logits", model, ids);
        bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

fn test_model() -> Option<PathBuf> {
    let path = std::env::var_os("WSIC_TEST_GGUF").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: WSIC_TEST_GGUF is not set");
    }
    path
}

/// Text with about everything that tokenizers treat differently.
const MIXED: &str = concat!(
    "Hello, world!  This is a   test.\tTabs\tand  double  spaces.   \nIt's the user's: I'LL we've they'd CAN'T you're \
     ’tis l'été 'ſ.\n\ndef f(x, y=1_000):\n    \"\"\"Doc\"\"\"\n\treturn x**2 + y // 3  # 12345678 3.14159e-10 0xFF\n\n\n\
     if (a != b && c <= d) { printf(\"%d\\n\", a[i]++); }\nGröße, naïve café, ñandú, Łódź, ſtrange\n",
    "Привет, мир! 12 345 рублей.\n你好，世界！３个苹果和１２３４５个梨。日本語のテキスト。한국어 문장입니다.\n\
     مرحبا بالعالم ١٢٣٤٥ שלום नमस्ते दुनिया १२३ ไทยภาษา\n😀👨\u{200d}👩\u{200d}👧 🇩🇪 👍🏽 ❤\u{fe0f} ™ © ½ ² ¼ Ⅳ ①\n",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|endoftext|> <repo_name>x<file_sep> <|user|>hi[tool] <s> </s><unk>\n\
     a\u{a0}b\u{2003}c\u{3000}d\u{200b}e\u{202f}f\u{85}g\u{feff}\nCamelCaseHTTPServer aBcDEfG iPhone ABC123def\n\
     $100 + €50 = £75 ^_^ ~~~ |pipe| <tag attr=\"v\"> `code` @user #hash 50% \\back\\ /slash/path\n\
     1 12 123 1234 12345 123456 1,234,567.89 2024-01-15T10:20:30Z\n----====____****////....,,,,;;;;::::!!!!????\n",
    "     leading\ntrailing     \n\n\n\t\n \t mixed \t whitespace \t\r\ncrlf\r\n\r\n  x \r y\n\u{7}\ne\u{301} vs é ﬁ Ǆ ǅ ª ʰ ŉ\n   ",
);

/// A file with metadata and no tensors.
fn write_metadata(path: &Path, metadata: &Metadata) {
    GgufWriter::create(path, metadata.clone(), Vec::new()).unwrap().finish().unwrap();
}

/// Compares ids of all texts, in all ways of encoding, and the bytes of every token used.
fn compare_tokenizers(engine: &Engine, path: &Path, texts: &[&str]) {
    let file = GgufFile::open(path, &Limits::default()).unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let mut used = Vec::new();
    for text in texts {
        for (parse_special, add_special) in [(false, true), (true, false)] {
            let expected = engine.tokenize(path, text, parse_special, add_special);
            let found = tokenizer.encode_with(text, add_special, parse_special).unwrap();
            let differ = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                found == expected,
                "{}: {} and {} tokens, different from {differ:?} on",
                path.display(),
                found.len(),
                expected.len()
            );
            used.extend(found);
        }
    }
    used.sort_unstable();
    used.dedup();
    let pieces = String::from_utf8(engine.with_ids("pieces", path, &used)).unwrap();
    assert_eq!(pieces.lines().count(), used.len());
    for (&token, expected) in used.iter().zip(pieces.lines()) {
        let found: String = tokenizer.piece(token, true).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, expected, "piece of token {token} {:?}", tokenizer.vocabulary().text(token));
    }
}

#[test]
fn byte_pairs_are_tokenized_as_the_engine_does() {
    let (Some(engine), Some(model)) = (Engine::find(), test_model()) else { return };
    let file = GgufFile::open(&model, &Limits::default()).unwrap();
    for pre in [
        "smollm",
        "default",
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "dbrx",
        "tekken",
        "gpt-4o",
        "falcon",
        "starcoder",
    ] {
        let mut metadata = file.metadata().clone();
        metadata.set("tokenizer.ggml.pre", Value::from(pre));
        let path = engine.path(&format!("{pre}.gguf"));
        write_metadata(&path, &metadata);
        compare_tokenizers(&engine, &path, &[MIXED, &"x ".repeat(300), "", " "]);
    }
}

#[test]
fn scored_pieces_are_tokenized_as_the_engine_does() {
    let (Some(engine), Some(model)) = (Engine::find(), test_model()) else { return };
    // A vocabulary of substrings of the text, scored by length and place with many ties.
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut kinds = vec![2, 3, 3];
    let mut scores = vec![0.0f32; 3];
    for byte in 0..=255u8 {
        texts.push(format!("<0x{byte:02X}>"));
        kinds.push(6);
        scores.push(0.0);
    }
    let escaped = MIXED.replace(' ', "\u{2581}");
    let characters: Vec<char> = escaped.chars().collect();
    let marks = [("<|user|>", 4), ("[tool]", 3)];
    let mut known: std::collections::HashSet<String> = texts.iter().cloned().collect();
    known.extend(marks.map(|(text, _)| text.to_owned()));
    for length in [1, 2, 3, 4, 6, 8] {
        for start in (0..characters.len().saturating_sub(length)).step_by(1 + length % 3) {
            let piece: String = characters[start..start + length].iter().collect();
            if !piece.contains('\n') && known.insert(piece.clone()) {
                texts.push(piece);
                kinds.push(1);
                scores.push(-(((start * 7 + length * 131) % 97) as f32));
            }
        }
    }
    for (text, kind) in marks {
        texts.push(text.into());
        kinds.push(kind);
        scores.push(0.0);
    }
    let mut metadata = Metadata::new("pieces.gguf");
    for (key, value) in GgufFile::open(&model, &Limits::default()).unwrap().metadata().iter() {
        if !key.starts_with("tokenizer.") && !key.ends_with("vocab_size") {
            metadata.set(key, value.clone());
        }
    }
    let array = |kind, values: Vec<Value>| Value::Array(Array::from_values(kind, &values).unwrap());
    metadata.set("tokenizer.ggml.model", Value::from("llama"));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::from_strings(&texts)));
    metadata
        .set("tokenizer.ggml.scores", array(ValueType::F32, scores.into_iter().map(Value::F32).collect()));
    metadata
        .set("tokenizer.ggml.token_type", array(ValueType::I32, kinds.into_iter().map(Value::I32).collect()));
    for (name, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        metadata.set(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    for (prefix, end) in [(None, false), (Some(false), true)] {
        if let Some(prefix) = prefix {
            metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        }
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(end));
        let path = engine.path("pieces.gguf");
        write_metadata(&path, &metadata);
        compare_tokenizers(&engine, &path, &[MIXED, "", " ", "  a"]);
    }
}

/// Largest difference of logits relative to their spread, over all tokens.
fn difference(found: &[f32], expected: &[f32], vocabulary: usize) -> f64 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(vocabulary).zip(expected.chunks(vocabulary));
    rows.map(|(found, expected)| {
        let mean = expected.iter().map(|&v| f64::from(v)).sum::<f64>() / vocabulary as f64;
        let spread = expected.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / vocabulary as f64;
        let worst = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        worst / spread.sqrt()
    })
    .fold(0.0, f64::max)
}

#[test]
fn tiny_models_give_the_logits_of_the_engine() {
    let Some(engine) = Engine::find() else { return };
    let base = Tiny {
        width: 128,
        feed_forward: 96,
        heads: 4,
        kv_heads: 2,
        head_width: 32,
        vocabulary: 96,
        ..Tiny::LLAMA
    };
    // Divisors of rotations (rope_freqs) are left out: this engine ignores them for its llama architecture.
    let variants = [
        ("llama", base),
        ("untied", Tiny { tied: false, ..base }),
        ("linear", Tiny { linear_scaling: Some(4.0), ..base }),
        ("biases", Tiny { biases: true, ..base }),
        ("yarn", base),
        ("qwen2", Tiny { architecture: "qwen2", biases: true, ..base }),
        ("qwen3", Tiny { architecture: "qwen3", head_norms: true, tied: false, ..base }),
    ];
    for (name, tiny) in variants {
        let mut model = TinyModel::new(tiny, 11);
        if tiny.architecture == "qwen2" {
            // The engine knows biases of queries, keys and values only.
            model.tensors.retain(|tensor, _| !tensor.ends_with("attn_output.bias"));
        }
        if name == "yarn" {
            model.metadata.set("llama.rope.scaling.type", Value::from("yarn"));
            model.metadata.set("llama.rope.scaling.factor", Value::F32(4.0));
            model.metadata.set("llama.rope.scaling.original_context_length", Value::U32(64));
        }
        model.metadata.set(format!("{}.vocab_size", tiny.architecture), Value::U32(96));
        model.metadata.set("tokenizer.ggml.bos_token_id", Value::U32(95));
        let path = engine.path(&format!("{name}.gguf"));
        model.write(&path);
        let ids = tokens(130, 96, 4);
        let expected = engine.logits(&path, &ids);
        let own = model.open();
        let mut runner = LayerRunner::new(&own, &[ids]).unwrap();
        runner.finish().unwrap();
        let worst = difference(&own.logits(runner.hidden()).unwrap(), &expected, 96);
        println!("{name}: largest difference {worst:.2e} standard deviations");
        // The engine keeps keys and values in half precision.
        assert!(worst < 0.02, "{name}: {worst}");
    }
}

#[test]
fn a_real_model_gives_the_logits_and_the_perplexity_of_the_engine() {
    let (Some(engine), Some(path)) = (Engine::find(), test_model()) else { return };
    let file = Arc::new(GgufFile::open(&path, &Limits::default()).unwrap());
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let model = Model::open(file).unwrap();
    let text = include_str!("../LICENSE-APACHE");
    let ids = tokenizer.encode(text, false).unwrap();
    const CONTEXT: usize = 256;
    let bos = tokenizer.vocabulary().bos.filter(|_| tokenizer.vocabulary().add_bos);
    let windows = Windows::new(&ids, CONTEXT, 4, bos).unwrap();
    let vocabulary = model.hyperparameters().vocabulary;
    let mut losses = Vec::new();
    let mut worst = 0.0f64;
    for window in &windows.sequences {
        let logits = engine.logits(&path, window);
        let mut runner = LayerRunner::new(&model, std::slice::from_ref(window)).unwrap();
        runner.finish().unwrap();
        worst = worst.max(difference(&model.logits(runner.hidden()).unwrap(), &logits, vocabulary));
        for position in windows.first_scored..CONTEXT - 1 {
            let row = &logits[position * vocabulary..][..vocabulary];
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
            losses.push(f64::from(max) + sum.ln() - f64::from(row[window[position + 1] as usize]));
        }
    }
    let own = score(&model, &windows).unwrap();
    assert_eq!(own.len(), losses.len());
    let perplexity = |losses: &[f64]| (losses.iter().sum::<f64>() / losses.len() as f64).exp();
    let (own, theirs) = (perplexity(&own), perplexity(&losses));
    println!(
        "perplexity {own:.4}, engine {theirs:.4}; largest logit difference {worst:.2e} standard deviations"
    );
    assert!((own / theirs - 1.0).abs() < 0.005);
    assert!(worst < 0.1);
}
