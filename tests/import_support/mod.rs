//! Model folders written by hand.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{json, Map, Value};
use wsic::import::{Folder, ImportError, Limits};

/// Element type, shape (the slowest varying first), bytes.
pub type Stored = (&'static str, Vec<usize>, Vec<u8>);

/// A folder to be written: `config.json`, tensors, and other files.
pub struct Recipe {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Numbers that a half float and a bfloat16 hold exactly, different for each tensor.
pub fn values(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    (0..count as u32)
        .map(|i| {
            let hash = (seed ^ i.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b) >> 24;
            (hash as f32 - 128.0) / 64.0
        })
        .collect()
}

/// Floats as elements of `dtype`.
pub fn bytes(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        other => panic!("no encoder for {other}"),
    }
}

impl Recipe {
    pub fn new(config: Value) -> Self {
        let mut recipe = Recipe { config, tensors: BTreeMap::new(), files: BTreeMap::new() };
        recipe.byte_tokenizer(8);
        recipe
    }

    /// Adds a tensor with its own values.
    pub fn add(&mut self, dtype: &'static str, name: &str, shape: &[usize]) -> &mut Self {
        let data = bytes(dtype, &values(name, shape.iter().product()));
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec(), data));
        self
    }

    pub fn file(&mut self, name: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// A byte-level `tokenizer.json` with `count` one-letter tokens and one merge.
    pub fn byte_tokenizer(&mut self, count: usize) -> &mut Self {
        let mut vocabulary: Map<String, Value> =
            (0..count - 2).map(|id| (((b'a' + id as u8) as char).to_string(), json!(id))).collect();
        vocabulary.insert("ab".into(), json!(count - 2));
        let tokenizer = json!({
            "added_tokens": [{"id": count - 1, "content": "<|end|>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]},
        });
        self.file("tokenizer.json", tokenizer.to_string());
        let config = json!({"eos_token": "<|end|>", "chat_template": "{{ messages }}"});
        self.file("tokenizer_config.json", config.to_string())
    }

    /// Writes everything, the tensors in one file.
    pub fn write(&self, folder: &Path) {
        let tensors: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        std::fs::write(folder.join("model.safetensors"), safetensors(&tensors)).unwrap();
        self.write_texts(folder);
    }

    pub fn write_texts(&self, folder: &Path) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        for (name, content) in &self.files {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    /// Writes everything, the tensors in several files with an index.
    pub fn write_sharded(&self, folder: &Path, count: usize) {
        let tensors: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        let mut index = Map::new();
        for (number, part) in tensors.chunks(tensors.len().div_ceil(count)).enumerate() {
            let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
            std::fs::write(folder.join(&name), safetensors(part)).unwrap();
            index.extend(part.iter().map(|(tensor, _)| ((*tensor).clone(), json!(name))));
        }
        let index = json!({"metadata": {}, "weight_map": index});
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        self.write_texts(folder);
    }

    /// Writes the folder into a temporary one and opens it.
    pub fn open(&self) -> (tempfile::TempDir, Result<Folder, ImportError>) {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let opened = Folder::open(folder.path(), &Limits::default());
        (folder, opened)
    }

    /// Opening fails with a message that holds all `words`.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        let message = self.open().1.expect_err("must be refused").to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` missing in: {message}");
        }
    }
}

/// A safetensors file.
pub fn safetensors(tensors: &[(&String, &Stored)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, (dtype, shape, bytes)) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            (*name).clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    raw_safetensors(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with any header.
pub fn raw_safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Sizes of the small models: vocabulary 8, width 8, feed-forward 12, 2 heads of 4 (1 for keys and values), 2 layers.
pub fn config(class: &str, kind: &str) -> Value {
    json!({
        "architectures": [class], "model_type": kind, "vocab_size": 8, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "rope_theta": 10000.0, "tie_word_embeddings": false,
    })
}

/// What all small models share: embedding, norms, attention, and the head unless it is tied.
pub fn base(class: &str, kind: &str, dtype: &'static str, head_width: usize) -> Recipe {
    let mut recipe = Recipe::new(config(class, kind));
    recipe.config["head_dim"] = json!(head_width);
    recipe.add(dtype, "model.embed_tokens.weight", &[8, 8]);
    recipe.add(dtype, "lm_head.weight", &[8, 8]).add(dtype, "model.norm.weight", &[8]);
    for layer in 0..2 {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        recipe.add(dtype, &name("input_layernorm"), &[8]);
        recipe.add(dtype, &name("post_attention_layernorm"), &[8]);
        recipe.add(dtype, &name("self_attn.q_proj"), &[2 * head_width, 8]);
        recipe.add(dtype, &name("self_attn.k_proj"), &[head_width, 8]);
        recipe.add(dtype, &name("self_attn.v_proj"), &[head_width, 8]);
        recipe.add(dtype, &name("self_attn.o_proj"), &[8, 2 * head_width]);
    }
    recipe
}

/// Adds the dense feed-forward network.
pub fn with_feed_forward(mut recipe: Recipe, dtype: &'static str) -> Recipe {
    for layer in 0..2 {
        let name = |rest: &str| format!("model.layers.{layer}.mlp.{rest}_proj.weight");
        recipe.add(dtype, &name("gate"), &[12, 8]).add(dtype, &name("up"), &[12, 8]);
        recipe.add(dtype, &name("down"), &[8, 12]);
    }
    recipe
}

pub fn llama(dtype: &'static str) -> Recipe {
    with_feed_forward(base("LlamaForCausalLM", "llama", dtype, 4), dtype)
}

/// All elements of a tensor.
#[track_caller]
pub fn floats(folder: &Folder, name: &str) -> Vec<f32> {
    let tensor = folder.get_tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let mut out = vec![0.0; tensor.elements() as usize];
    folder.read_f32(tensor, 0..tensor.rows(), &mut out).unwrap();
    out
}
