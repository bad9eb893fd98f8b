//! Hostile folders and importance matrices: one named test for each class of lie, and random mutations. Every one
//! must give an error (or, for mutations, anything but a panic), with memory bounded by the files' size.

mod import_support;

use import_support::{llama, raw_safetensors};
use serde_json::{json, Value};
use wsic::import::{Folder, ImportError, Limits};

/// Opens the small llama with another safetensors file.
fn with_checkpoint(file: &[u8]) -> Result<Folder, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    llama("F32").write_texts(folder.path());
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    Folder::open(folder.path(), &Limits::default())
}

#[track_caller]
fn refused(file: &[u8], words: &[&str]) {
    let message = with_checkpoint(file).expect_err("must be refused").to_string();
    for word in ["model.safetensors"].iter().chain(words) {
        assert!(message.contains(word), "`{word}` missing in: {message}");
    }
}

fn entry(dtype: &str, shape: Value, start: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

#[test]
fn headers_that_are_not_there() {
    for len in 0..8 {
        refused(&vec![0xff; len], &["a length of 8 bytes"]);
    }
    refused(&u64::MAX.to_le_bytes(), &["max_header_bytes"]);
    refused(&99_999_999u64.to_le_bytes(), &["99999999 bytes", "found 0 bytes"]);
    refused(&raw_safetensors("", &[]), &["JSON"]);
    refused(&raw_safetensors("[1]", &[]), &["JSON"]);
    refused(&raw_safetensors("{} x", &[]), &["JSON"]);
    refused(&raw_safetensors("{\"a\":\u{0}}", &[]), &["JSON"]);
    refused(&[&5u64.to_le_bytes()[..], b"{\"\xff\":"].concat(), &["JSON"]);
}

#[test]
fn a_hundred_thousand_entries_take_no_time() {
    let started = std::time::Instant::now();
    let tensors: serde_json::Map<String, Value> =
        (0..100_000u64).map(|i| (format!("t{i}"), entry("F32", json!([]), 4 * i, 4 * i + 4))).collect();
    let file = raw_safetensors(&Value::Object(tensors).to_string(), &vec![0; 400_000]);
    let error = with_checkpoint(&file).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight") && error.contains("missing"), "{error}");
    // The same tensor again and again: nothing is kept of it.
    let repeated =
        format!("{{{}}}", vec![r#""a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}"#; 100_000].join(","));
    refused(&raw_safetensors(&repeated, &[0]), &["`a` a second time"]);
    let limits = Limits { max_tensors: 100, ..Limits::default() };
    let folder = tempfile::tempdir().unwrap();
    llama("F32").write_texts(folder.path());
    std::fs::write(folder.path().join("model.safetensors"), &file).unwrap();
    let error = Folder::open(folder.path(), &limits).unwrap_err().to_string();
    assert!(error.contains("max_tensors"), "{error}");
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn depth_is_bounded() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&raw_safetensors(&deep, &[]), &["JSON"]);
    let meta = format!("{{\"__metadata__\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&raw_safetensors(&meta, &[]), &["JSON"]);
    let mut recipe = llama("F32");
    recipe.file("tokenizer.json", deep.clone());
    recipe.refused(&["tokenizer.json", "JSON"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), deep).unwrap();
    let error = Folder::open(folder.path(), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("JSON"), "{error}");
}

#[test]
fn offsets_that_lie() {
    let one = |entry: Value, data: usize| raw_safetensors(&json!({"a": entry}).to_string(), &vec![0; data]);
    refused(&one(entry("F32", json!([2]), 0, 8), 4), &["tensor `a`", "up to 4", "0 to 8"]);
    refused(&one(entry("F32", json!([2]), 8, 0), 8), &["tensor `a`", "8 to 0"]);
    refused(&one(entry("F32", json!([2]), 4, 12), 12), &["header"]);
    refused(&one(entry("F32", json!([3]), 0, 8), 8), &["tensor `a`", "8 bytes", "[3]"]);
    refused(&one(entry("F32", json!([2]), 0, 8), 9), &["header"]);
    refused(&one(entry("F32", json!([u64::MAX, 2]), 0, 8), 8), &["tensor `a`"]);
    refused(&one(entry("F32", json!([1u64 << 62, 8]), 0, 0), 0), &["tensor `a`"]);
    refused(&one(entry("F32", json!([2.5]), 0, 8), 8), &["JSON"]);
    refused(&one(entry("F32", json!([-1]), 0, 8), 8), &["JSON"]);
    refused(&one(entry("Q4", json!([2]), 0, 8), 8), &["JSON"]);
    refused(&one(json!({"dtype": "F32", "shape": [2]}), 8), &["JSON"]);
    let two = |a: Value, b: Value| raw_safetensors(&json!({"a": a, "b": b}).to_string(), &[0; 16]);
    let f = |start, end| entry("F32", json!([2]), start, end);
    refused(&two(f(0, 8), f(4, 12)), &["header"]);
    refused(&two(f(0, 8), f(0, 8)), &["header"]);
    refused(&two(f(0, 8), f(12, 20)), &["tensor `b`"]);
}

#[test]
fn ends_near_the_largest_integer_do_not_overflow() {
    // Eight tensors of 2^61 bytes less the last few: with the header the sum passes 2^64.
    let size = 1u64 << 61;
    let mut tensors: serde_json::Map<String, Value> =
        (0..7u64).map(|i| (format!("t{i}"), entry("U8", json!([size]), i * size, (i + 1) * size))).collect();
    tensors.insert("t7".into(), entry("U8", json!([size - 8]), 7 * size, 7 * size + (size - 8)));
    refused(&raw_safetensors(&Value::Object(tensors).to_string(), &[]), &["data offsets"]);
}

#[test]
fn shapes_must_be_those_of_the_configuration() {
    let mut recipe = llama("F32");
    recipe.add("F32", "model.layers.1.self_attn.k_proj.weight", &[8, 4]);
    recipe.refused(&["model.layers.1.self_attn.k_proj.weight", "[4, 8]", "[8, 4]"]);
    let mut recipe = llama("F32");
    recipe.add("F32", "model.norm.weight", &[8, 1]);
    recipe.refused(&["model.norm.weight", "[8]", "[8, 1]"]);
    let mut recipe = llama("F32");
    recipe.tensors.remove("model.layers.1.mlp.up_proj.weight");
    recipe.refused(&["model.layers.1.mlp.up_proj.weight", "missing"]);
    let mut recipe = llama("F32");
    recipe.tensors.insert("model.norm.weight".into(), ("BOOL", vec![8], vec![0; 8]));
    recipe.refused(&["model.norm.weight", "BOOL"]);
}

#[test]
fn absurd_numbers_of_the_configuration() {
    let cases = [
        ("num_hidden_layers", json!(1e9 as u64), "integer from 1 to 4096"),
        ("num_hidden_layers", json!(0), "integer from 1"),
        ("num_hidden_layers", json!(-3), "integer from 1"),
        ("num_hidden_layers", json!(3), "model.layers.2.input_layernorm.weight"),
        ("hidden_size", json!(u64::MAX), "integer from 1"),
        ("hidden_size", json!("8"), "\"8\""),
        ("hidden_size", json!(null), "nothing"),
        ("hidden_size", json!(8.5), "8.5"),
        ("vocab_size", json!(4_000_000), "[4000000, 8]"),
        ("vocab_size", json!(1u64 << 40), "integer from 1"),
        ("num_attention_heads", json!(0), "integer from 1"),
        ("num_key_value_heads", json!(3), "divisor of the 2 heads"),
        ("head_dim", json!(3), "even"),
        ("head_dim", json!(65_536), "shape"),
        ("head_dim", json!(65_538), "head_dim"),
        ("head_dim", json!(4_194_304), "at most 65536 elements"),
        ("max_position_embeddings", json!(1u64 << 33), "2^32-1"),
        ("rms_norm_eps", json!(0), "positive"),
        ("rms_norm_eps", json!([]), "positive"),
        ("rope_theta", json!(-1), "positive"),
        ("rope_theta", json!("x"), "positive"),
        ("tie_word_embeddings", json!(1), "true or false"),
        ("hidden_act", json!("relu2"), "silu"),
        ("architectures", json!("LlamaForCausalLM"), "of type llama"),
        ("architectures", json!([1, {}]), "of type llama"),
        ("quantization_config", json!({"weight_block_size": [0, 1]}), "weight_block_size"),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": "x"}), "rope_parameters.factor"),
        ("rope_scaling", json!({"rope_type": "llama3", "low_freq_factor": 4.0}), "high_freq_factor"),
        ("rope_scaling", json!({"rope_type": "yarn"}), "rope_parameters.factor"),
    ];
    for (key, value, word) in cases {
        let mut recipe = llama("F32");
        recipe.config[key] = value.clone();
        let message = recipe.open().1.expect_err("must be refused").to_string();
        assert!(message.contains(word), "{key} = {value}: `{word}` missing in: {message}");
    }
    let mut recipe = llama("F32");
    recipe.config["head_dim"] = json!(null);
    recipe.config["hidden_size"] = json!(4_194_304);
    recipe.refused(&["num_attention_heads", "at most 65536 elements"]);
    let mut recipe = llama("F32");
    recipe.config = json!([1]);
    recipe.refused(&["config.json", "JSON object"]);
}

#[test]
fn absurd_numbers_of_experts() {
    let mut recipe = import_support::base("MixtralForCausalLM", "mixtral", "F32", 4);
    recipe.config["num_local_experts"] = json!(1u64 << 40);
    recipe.refused(&["num_local_experts", "integer from 1"]);
    recipe.config["num_local_experts"] = json!(4);
    recipe.config["num_experts_per_tok"] = json!(5);
    recipe.refused(&["num_experts_per_tok", "1 to 4"]);
}

#[test]
fn indices_that_lie() {
    let recipe = llama("F32");
    let write = |index: Value| {
        let folder = tempfile::tempdir().unwrap();
        recipe.write_sharded(folder.path(), 2);
        let path = folder.path().join("model.safetensors.index.json");
        let mut whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        match index {
            Value::Object(changes) => {
                for (tensor, file) in changes {
                    match file {
                        Value::Null => whole["weight_map"].as_object_mut().unwrap().remove(&tensor),
                        file => whole["weight_map"].as_object_mut().unwrap().insert(tensor, file),
                    };
                }
            }
            other => whole = other,
        }
        std::fs::write(&path, whole.to_string()).unwrap();
        Folder::open(folder.path(), &Limits::default()).expect_err("must be refused").to_string()
    };
    for (index, word) in [
        (json!({"lm_head.weight": "../../etc/x.safetensors"}), "the name of a safetensors file"),
        (json!({"lm_head.weight": "/etc/passwd"}), "the name of a safetensors file"),
        (json!({"lm_head.weight": 5}), "the name of a safetensors file"),
        (json!({"lm_head.weight": "model-00009-of-00002.safetensors"}), "model-00009-of-00002.safetensors"),
        (json!({"lm_head.weight": "model-00002-of-00002.safetensors"}), "lm_head.weight"),
        (json!({"ghost.weight": "model-00001-of-00002.safetensors"}), "ghost.weight"),
        (json!({"lm_head.weight": null}), "lm_head.weight"),
        (json!([]), "JSON object"),
        (json!(1), "JSON object"),
    ] {
        let message = write(index.clone());
        assert!(message.contains(word), "{index}: `{word}` missing in: {message}");
    }
    // A shard that is gone.
    let folder = tempfile::tempdir().unwrap();
    recipe.write_sharded(folder.path(), 3);
    std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    let message = Folder::open(folder.path(), &Limits::default()).unwrap_err().to_string();
    assert!(message.contains("model-00002-of-00003.safetensors") && message.contains("missing"), "{message}");
    // Two files with the same tensor, without an index.
    let folder = tempfile::tempdir().unwrap();
    recipe.write(folder.path());
    std::fs::copy(folder.path().join("model.safetensors"), folder.path().join("model-2.safetensors"))
        .unwrap();
    let message = Folder::open(folder.path(), &Limits::default()).unwrap_err().to_string();
    assert!(message.contains("once in all files"), "{message}");
}

#[test]
fn folders_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    llama("F32").write_texts(folder.path());
    let open = || Folder::open(folder.path(), &Limits::default()).unwrap_err().to_string();
    assert!(open().contains("no weights"));
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    let message = open();
    assert!(message.contains("pytorch_model.bin") && message.contains("save_pretrained"), "{message}");
    let message = Folder::open(folder.path().join("nowhere"), &Limits::default()).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("missing"), "{message}");
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(open().contains("not a regular file"));
}

#[test]
fn limits_of_text_files() {
    let folder = tempfile::tempdir().unwrap();
    llama("F32").write(folder.path());
    let limits = Limits { max_text_bytes: 64, ..Limits::default() };
    let message = Folder::open(folder.path(), &limits).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("max_text_bytes"), "{message}");
    let limits = Limits { max_vocabulary: 4, ..Limits::default() };
    assert!(Folder::open(folder.path(), &limits).is_err());
}

#[test]
fn tokenizers_that_lie() {
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut recipe = llama("F32");
        let mut tokenizer: Value = serde_json::from_slice(&recipe.files["tokenizer.json"]).unwrap();
        edit(&mut tokenizer);
        recipe.file("tokenizer.json", tokenizer.to_string());
        recipe.open().1.map(|_| ()).expect_err("must be refused").to_string()
    };
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 11] = [
        (|t| t["model"]["vocab"]["a"] = json!(8), "an id below 8"),
        (|t| t["model"]["vocab"]["a"] = json!(u64::MAX), "an id below 8"),
        (|t| t["model"]["vocab"]["a"] = json!("x"), "an id below 8"),
        (|t| t["model"]["vocab"] = json!([]), "model.vocab"),
        (|t| t["model"]["merges"] = json!(["ab"]), "model.merges[0]"),
        (|t| t["model"]["merges"] = json!([["a", "b", "c"]]), "model.merges[0]"),
        (|t| t["model"]["merges"] = json!({"a": 1}), "model.merges"),
        (|t| t["added_tokens"][0]["id"] = json!(99), "below the vocabulary of 8"),
        (|t| t["added_tokens"] = json!([{"id": -1, "content": "x"}]), "added_tokens"),
        (|t| t["model"]["type"] = json!("Unigram"), "Unigram"),
        (|t| t["model"] = json!(null), "model"),
    ];
    for (edit, word) in cases {
        let message = change(&edit);
        assert!(
            message.contains("tokenizer.json") && message.contains(word),
            "`{word}` missing in: {message}"
        );
    }
    for (name, word) in [("vocab.json", "save_pretrained"), ("tekken.json", "tekken"), ("x", "no tokenizer")]
    {
        let mut recipe = llama("F32");
        recipe.files.remove("tokenizer.json");
        recipe.file(name, "{}");
        recipe.refused(&["tokenizer.json", word]);
    }
    let mut recipe = llama("F32");
    recipe.file("tokenizer.model", vec![0x0a, 0xff, 0xff]);
    recipe.refused(&["tokenizer.model", "at byte"]);
    let mut recipe = llama("F32");
    recipe.file("tokenizer_config.json", "{");
    recipe.refused(&["tokenizer_config.json", "JSON"]);
    // Nonsense where nonsense does no harm.
    let mut recipe = llama("F32");
    recipe.file(
        "tokenizer_config.json",
        r#"{"bos_token": 5, "chat_template": {"a": 1}, "add_bos_token": "yes"}"#,
    );
    recipe.file("generation_config.json", "{nonsense");
    recipe.file("README.md", vec![0x2d, 0x2d, 0x2d, 0x0a, 0xff, 0xfe, 0x3a, 0x20, 0x80]);
    recipe.open().1.unwrap();
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => bytes[at] = b"0123456789[]{},:\"-e."[random.below(20)],
            _ => {
                let copy: Vec<u8> = bytes[at..].iter().take(12).copied().collect();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

#[test]
fn mutations_never_panic() {
    let mut recipe = llama("BF16");
    recipe.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0});
    let folder = tempfile::tempdir().unwrap();
    recipe.write(folder.path());
    let names = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"];
    let originals = names.map(|name| std::fs::read(folder.path().join(name)).unwrap());
    let mut random = Random(0x5eed_1234_abcd_0001);
    let (mut opened, mut failed) = (0, 0);
    for round in 0..400 {
        let which = round % names.len();
        let mut bytes = originals[which].clone();
        mutate(&mut bytes, &mut random);
        // Written anew: the folder before may still be mapped by nobody, but a mapped file must not change.
        let path = folder.path().join(names[which]);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        match Folder::open(folder.path(), &Limits::default()) {
            Ok(open) => {
                opened += 1;
                for tensor in open.tensors() {
                    let mut out = vec![0.0; tensor.elements() as usize];
                    let _ = open.read_f32(tensor, 0..tensor.rows(), &mut out);
                }
            }
            Err(error) => {
                failed += 1;
                assert!(!error.to_string().is_empty());
            }
        }
        std::fs::write(&path, &originals[which]).unwrap();
    }
    assert!(opened > 0 && failed > 50, "{opened} opened, {failed} refused");
}

#[test]
fn every_cut_of_a_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    llama("F16").write(folder.path());
    let whole = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    for len in (0..whole.len()).step_by(37) {
        assert!(with_checkpoint(&whole[..len]).is_err(), "cut at {len}");
    }
}
