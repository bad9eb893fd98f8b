//! Tokenizers of folders: the metadata that is written, and the ids that our own tokenizer gives with it.

mod import_support;

use import_support::{llama, Recipe};
use serde_json::{json, Value};
use wsic::gguf::Metadata;
use wsic::import::Folder;
use wsic::model::Tokenizer;

/// A protobuf field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, bytes.len() as u8];
    out.extend_from_slice(bytes);
    out
}

/// `tokenizer.model` with pieces of text, score and kind.
fn sentencepiece(pieces: &[(&str, f32, u8)]) -> Vec<u8> {
    let mut model = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, *kind]);
        model.extend(field(1, &piece));
    }
    model
}

fn resize(recipe: &mut Recipe, vocabulary: usize) {
    recipe.config["vocab_size"] = json!(vocabulary);
    recipe.add("F32", "model.embed_tokens.weight", &[vocabulary, 8]);
    recipe.add("F32", "lm_head.weight", &[vocabulary, 8]);
}

#[track_caller]
fn open(recipe: &Recipe) -> (tempfile::TempDir, Folder) {
    let (kept, folder) = recipe.open();
    (kept, folder.unwrap_or_else(|error| panic!("{error}")))
}

fn tokens(metadata: &Metadata) -> Vec<String> {
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    tokens.map(|token| String::from_utf8_lossy(token).into_owned()).collect()
}

#[test]
fn sentencepiece_models_and_what_is_added_to_them() {
    let mut recipe = llama("F32");
    resize(&mut recipe, 12);
    recipe.files.remove("tokenizer.json");
    recipe.file(
        "tokenizer.model",
        sentencepiece(&[
            ("<unk>", 0.0, 2),
            ("<s>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("<0x0A>", 0.0, 6),
            ("\u{2581}a", -1.0, 1),
            ("b", -2.0, 4),
            ("reserved", -3.0, 5),
        ]),
    );
    recipe.file("added_tokens.json", r#"{"<extra>": 7, "<beyond>": 99}"#);
    let decoder = json!({
        "8": {"content": "<|user|>", "special": false}, "9": {"content": "\u{2581}x", "special": false},
        "2": {"content": "</s>", "special": true},
    });
    let config = json!({
        "add_prefix_space": false, "add_bos_token": true, "bos_token": {"content": "<s>"}, "added_tokens_decoder": decoder,
        "chat_template": [{"name": "default", "template": "A"}, {"name": "tool use", "template": "B"}],
    });
    recipe.file("tokenizer_config.json", config.to_string());
    recipe.config["bos_token_id"] = json!(1);
    recipe.config["eos_token_id"] = json!([2, 3]);
    recipe.config["pad_token_id"] = json!(99);
    let (_kept, folder) = open(&recipe);
    let metadata = folder.metadata();
    assert_eq!(
        tokens(metadata),
        [
            "<unk>",
            "<s>",
            "</s>",
            "<0x0A>",
            "\u{2581}a",
            "b",
            "reserved",
            "<extra>",
            "<|user|>",
            " x",
            "[PAD10]",
            "[PAD11]"
        ]
    );
    let kinds: Vec<i32> = metadata.integer_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(kinds, [2, 3, 3, 6, 1, 1, 5, 4, 3, 4, 5, 5]);
    let scores = metadata.f32_array("tokenizer.ggml.scores").unwrap();
    assert_eq!(scores[3..8], [0.0, -1.0, -2.0, -3.0, -1000.0]);
    assert_eq!((scores[2], scores[11]), (-1000.0, -10_000.0));
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), "llama");
    assert_eq!(metadata.str("tokenizer.ggml.pre").unwrap(), "default");
    assert!(!metadata.bool("tokenizer.ggml.add_space_prefix").unwrap());
    assert!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(metadata.u32("tokenizer.ggml.bos_token_id").unwrap(), 1);
    // A list of ends is not one id, and an id must be in the vocabulary.
    assert!(!metadata.contains("tokenizer.ggml.eos_token_id"));
    assert!(!metadata.contains("tokenizer.ggml.padding_token_id"));
    assert_eq!(metadata.str("tokenizer.chat_template").unwrap(), "A");
    assert_eq!(metadata.str("tokenizer.chat_template.tool_use").unwrap(), "B");
}

/// Merges that make words of the letters of "the cat".
const MERGES: [(&str, &str); 9] = [
    ("h", "e"),
    ("t", "he"),
    ("\u{2581}", "the"),
    ("a", "t"),
    ("c", "at"),
    ("\u{2581}", "cat"),
    ("t", "h"),
    ("\u{2581}", "a"),
    ("a", "c"),
];

/// A SentencePiece model as transformers saves it today: merges in `tokenizer.json`, no `tokenizer.model`.
fn merged(prefix: bool) -> (Value, usize) {
    let mut texts: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    texts.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(["\u{2581}", "t", "h", "e", "a", "c"].map(String::from));
    texts.extend(MERGES.iter().map(|(left, right)| format!("{left}{right}")));
    let count = texts.len();
    let vocabulary: serde_json::Map<String, Value> =
        texts.into_iter().enumerate().map(|(id, text)| (text, json!(id))).collect();
    let added: Vec<Value> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(|(id, text)| {
            json!({"id": id, "content": text, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let normalizer = match prefix {
        true => {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]})
        }
        false => replace,
    };
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocabulary,
            "merges": MERGES.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>()},
    });
    (tokenizer, count)
}

#[test]
fn scores_rebuilt_from_merges_give_the_same_ids() {
    for prefix in [true, false] {
        let (json, count) = merged(prefix);
        let mut recipe = llama("F32");
        resize(&mut recipe, count + 2);
        recipe.file("tokenizer.json", json.to_string());
        recipe.file(
            "tokenizer_config.json",
            r#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#,
        );
        let (_kept, folder) = open(&recipe);
        let metadata = folder.metadata();
        assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), "llama");
        assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix").unwrap(), prefix);
        assert!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap());
        assert!(!metadata.bool("tokenizer.ggml.add_sep_token").unwrap());
        let kinds: Vec<i32> = metadata.integer_array("tokenizer.ggml.token_type").unwrap();
        assert_eq!(kinds[..5], [2, 3, 3, 6, 6]);
        assert_eq!(kinds[count..], [5, 5]);
        assert!(folder.warnings().iter().any(|warning| warning.contains("tokenizer.model")));
        let ours = Tokenizer::from_metadata(metadata).unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
        for text in [
            "the cat",
            " the cat ",
            "thecat",
            "a cat at the act",
            "tthhee ccaatt",
            "the  cat\nate \u{e9}\u{6771}",
            "hehehe thth",
            "cathethe acacat",
        ] {
            let expected = theirs.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(ours.encode(text, false).unwrap(), expected, "{text:?} with prefix {prefix}");
        }
    }
}

#[test]
fn templates_in_files_of_their_own() {
    for (name, content) in [("chat_template.jinja", "T"), ("chat_template.json", r#"{"chat_template": "T"}"#)]
    {
        let mut recipe = llama("F32");
        recipe.file("tokenizer_config.json", "{}");
        recipe.file(name, content);
        let (_kept, folder) = open(&recipe);
        assert_eq!(folder.metadata().str("tokenizer.chat_template").unwrap(), "T", "{name}");
    }
}

#[test]
fn special_tokens_from_all_files() {
    let mut recipe = llama("F32");
    recipe
        .file("special_tokens_map.json", r#"{"eos_token": {"content": "<|end|>"}, "pad_token": "<|end|>"}"#);
    recipe.file(
        "tokenizer_config.json",
        r#"{"pad_token": null, "add_eos_token": true, "bos_token": "<|end|>"}"#,
    );
    recipe.config["bos_token_id"] = json!(3);
    recipe.config["unk_token_id"] = json!(4);
    let (_kept, folder) = open(&recipe);
    let metadata = folder.metadata();
    for (key, id) in [("bos", 7), ("eos", 7), ("padding", 7), ("unknown", 4)] {
        assert_eq!(metadata.u32(&format!("tokenizer.ggml.{key}_token_id")).unwrap(), id, "{key}");
    }
    assert!(metadata.bool("tokenizer.ggml.add_eos_token").unwrap());
}

#[test]
fn a_known_tokenizer_is_told_by_its_expressions() {
    let cl100k = |number: &str| {
        format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |regex: String| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
    let digits = json!({"type": "Digits", "individual_digits": true});
    for (rule, whole_words, name) in [
        (bytes(true), false, "gpt-2"),
        (sequence(&[digits, bytes(true)]), false, "smollm"),
        (sequence(&[split(cl100k(r"\p{N}{1,3}")), bytes(false)]), true, "llama-bpe"),
        (sequence(&[split(cl100k(r"\p{N}{1,3}")), bytes(false)]), false, "dbrx"),
        (sequence(&[split(cl100k(r"\p{N}")), bytes(false)]), false, "qwen2"),
    ] {
        let mut recipe = llama("F32");
        let mut tokenizer: Value = serde_json::from_slice(&recipe.files["tokenizer.json"]).unwrap();
        tokenizer["pre_tokenizer"] = rule;
        tokenizer["model"]["ignore_merges"] = json!(whole_words);
        recipe.file("tokenizer.json", tokenizer.to_string());
        let (_kept, folder) = open(&recipe);
        assert_eq!(folder.metadata().str("tokenizer.ggml.pre").unwrap(), name);
    }
}
