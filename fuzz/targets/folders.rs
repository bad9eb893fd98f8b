//! Model folders as one input: files one after another, each with its name's number and length. Small valid ones of
//! all supported architectures, and damage through the structure of their JSON.

use crate::common::Random;
use crate::import_support::{base, raw_safetensors, with_feed_forward, Recipe};
use libfuzzer_sys::fuzzer_mutate;
use serde_json::{json, Map, Value};

/// Files that the readers look for.
pub const NAMES: [&str; 16] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "generation_config.json",
    "README.md",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "adapter_config.json",
    "vocab.json",
];

pub type Files = Vec<(usize, Vec<u8>)>;

/// The files of an input; what is left over at the end is nothing.
pub fn read(mut bytes: &[u8]) -> Files {
    let mut files = Files::new();
    while let Some(([name, length @ ..], rest)) = bytes.split_first_chunk::<4>() {
        let [a, b, c] = length.map(usize::from);
        let (file, rest) = rest.split_at((a | b << 8 | c << 16).min(rest.len()));
        files.push((usize::from(*name) % NAMES.len(), file.to_vec()));
        bytes = rest;
    }
    files
}

pub fn write(files: &Files) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, file) in files {
        bytes.push(*name as u8);
        bytes.extend(&(file.len() as u32).to_le_bytes()[..3]);
        bytes.extend(file);
    }
    bytes
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, bytes.len() as u8];
    field.extend(bytes);
    field
}

/// `tokenizer.model` with pieces of text, score and kind.
fn sentencepiece() -> Vec<u8> {
    let pieces: [(&str, f32, u8); 8] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("\u{2581}a", -1.0, 1),
        ("a", -2.0, 1),
        ("b", -3.0, 1),
        ("ab", -4.0, 4),
    ];
    let piece = |(text, score, kind): (&str, f32, u8)| {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, kind]);
        field(1, &piece)
    };
    pieces.into_iter().flat_map(piece).collect()
}

fn recipe(random: &mut Random) -> Recipe {
    let dtype = ["F32", "F16", "BF16"][random.below(3)];
    let each_layer = |recipe: &mut Recipe, tensors: &[(&str, &[usize])]| {
        for layer in 0..2 {
            for (name, shape) in tensors {
                recipe.add(dtype, &format!("model.layers.{layer}.{name}"), shape);
            }
        }
    };
    let norms: [(&str, &[usize]); 2] = [("self_attn.q_norm.weight", &[4]), ("self_attn.k_norm.weight", &[4])];
    let mut recipe = match random.below(8) {
        0 => {
            let mut recipe = with_feed_forward(base("Qwen2ForCausalLM", "qwen2", dtype, 4), dtype);
            let biases: [(&str, &[usize]); 3] = [
                ("self_attn.q_proj.bias", &[8]),
                ("self_attn.k_proj.bias", &[4]),
                ("self_attn.v_proj.bias", &[4]),
            ];
            each_layer(&mut recipe, &biases);
            recipe
        }
        1 => {
            let mut recipe = with_feed_forward(base("Qwen3ForCausalLM", "qwen3", dtype, 4), dtype);
            each_layer(&mut recipe, &norms);
            recipe
        }
        2 => {
            let mut recipe = with_feed_forward(base("Gemma3ForCausalLM", "gemma3_text", dtype, 4), dtype);
            recipe.config["sliding_window"] = json!(32);
            recipe.config["sliding_window_pattern"] = json!(2);
            recipe.config["hidden_activation"] = json!("gelu_pytorch_tanh");
            each_layer(&mut recipe, &norms);
            let more: [(&str, &[usize]); 2] =
                [("pre_feedforward_layernorm.weight", &[8]), ("post_feedforward_layernorm.weight", &[8])];
            each_layer(&mut recipe, &more);
            recipe
        }
        3 => {
            let mut recipe = base("Phi3ForCausalLM", "phi3", dtype, 4);
            recipe.tensors.retain(|name, _| !name.contains("_proj"));
            let fused: [(&str, &[usize]); 4] = [
                ("self_attn.qkv_proj.weight", &[16, 8]),
                ("self_attn.o_proj.weight", &[8, 8]),
                ("mlp.gate_up_proj.weight", &[24, 8]),
                ("mlp.down_proj.weight", &[8, 12]),
            ];
            each_layer(&mut recipe, &fused);
            recipe
        }
        4 => {
            let mut recipe = base("MixtralForCausalLM", "mixtral", dtype, 4);
            recipe.config["num_local_experts"] = json!(2);
            recipe.config["num_experts_per_tok"] = json!(1);
            for expert in 0..2 {
                let name = |weight: &str| format!("block_sparse_moe.experts.{expert}.{weight}.weight");
                let (one, two, three) = (name("w1"), name("w2"), name("w3"));
                each_layer(&mut recipe, &[(&one, &[12, 8]), (&two, &[8, 12]), (&three, &[12, 8])]);
            }
            each_layer(&mut recipe, &[("block_sparse_moe.gate.weight", &[2, 8])]);
            recipe
        }
        kind => {
            let class = if kind == 5 { "MistralForCausalLM" } else { "LlamaForCausalLM" };
            let mut recipe = with_feed_forward(base(class, "llama", dtype, 4), dtype);
            match random.below(4) {
                0 => {
                    recipe.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0,
                        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32})
                }
                1 => {
                    recipe.config["rope_scaling"] = json!({"type": "yarn", "factor": 4.0,
                    "original_max_position_embeddings": 16})
                }
                _ => {}
            }
            recipe
        }
    };
    if random.below(3) == 0 {
        recipe.files.remove("tokenizer.json");
        recipe.file("tokenizer.model", sentencepiece());
        recipe.file("added_tokens.json", "{\"<x>\":7}");
    }
    if random.below(3) == 0 {
        recipe.file("generation_config.json", "{\"temperature\":0.5,\"top_k\":40,\"eos_token_id\":[7,2]}");
        recipe.file("README.md", "---\nlicense: mit\nlanguage:\n- en\ntags: [a, b]\n---\ntext\n");
        recipe.file("special_tokens_map.json", "{\"bos_token\":{\"content\":\"<s>\"}}");
        recipe.file("chat_template.jinja", "{{ messages }}");
    }
    recipe
}

/// A safetensors file of some of the recipe's tensors.
fn checkpoint(recipe: &Recipe, of: impl Fn(usize) -> bool) -> (Vec<u8>, Vec<String>) {
    let (mut header, mut data, mut names) = (Map::new(), Vec::new(), Vec::new());
    for (_, (name, (dtype, shape, bytes))) in recipe.tensors.iter().enumerate().filter(|(at, _)| of(*at)) {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
        names.push(name.clone());
    }
    (raw_safetensors(&Value::Object(header).to_string(), &data), names)
}

/// A small valid folder.
pub fn fresh(random: &mut Random) -> Files {
    let recipe = recipe(random);
    let number = |name: &str| NAMES.iter().position(|other| *other == name).expect("a known name");
    let mut files = vec![(number("config.json"), recipe.config.to_string().into_bytes())];
    files.extend(recipe.files.iter().map(|(name, bytes)| (number(name), bytes.clone())));
    if random.below(3) > 0 {
        files.push((1, checkpoint(&recipe, |_| true).0));
        return files;
    }
    let mut index = Map::new();
    for part in 0..2 {
        let (bytes, tensors) = checkpoint(&recipe, |at| at % 2 == part);
        index.extend(tensors.into_iter().map(|tensor| (tensor, json!(NAMES[12 + part]))));
        files.push((12 + part, bytes));
    }
    files.push((11, json!({"metadata": {}, "weight_map": index}).to_string().into_bytes()));
    files
}

/// Nodes of a value, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Node number `at`.
fn find<'v>(value: &'v mut Value, at: &mut usize) -> Option<&'v mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| find(value, at)),
        Value::Object(map) => map.values_mut().find_map(|value| find(value, at)),
        _ => None,
    }
}

fn other(random: &mut Random) -> Value {
    const NUMBERS: [i64; 14] =
        [0, 1, 2, 3, 4, 8, 12, 16, 64, -1, 4096, 1 << 22, u32::MAX as i64 + 1, i64::MAX];
    const TEXTS: [&str; 14] = [
        "",
        "llama3",
        "yarn",
        "linear",
        "longrope",
        "F16",
        "BF16",
        "F8_E4M3",
        "U8",
        "LlamaForCausalLM",
        "fp8",
        "Phi3ForCausalLM",
        "BPE",
        "Unigram",
    ];
    match random.below(8) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!([1e-300, 1e300, 0.5, -0.0, 1.5][random.below(5)]),
        3 => json!(TEXTS[random.below(TEXTS.len())]),
        4 => json!([]),
        5 => json!({}),
        _ => json!(NUMBERS[random.below(NUMBERS.len())]),
    }
}

fn change_json(root: &mut Value, random: &mut Random) {
    let mut at = random.below(count(root));
    let Some(node) = find(root, &mut at) else { return };
    let way = random.below(4);
    match node {
        Value::Array(list) if way < 3 && !list.is_empty() => {
            let at = random.below(list.len());
            match way {
                0 => drop(list.remove(at)),
                1 => list.insert(at, list[at].clone()),
                _ => list.push(other(random)),
            }
        }
        Value::Object(map) if way < 3 && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).expect("a key").clone();
            match way {
                0 => drop(map.remove(&key)),
                1 => {
                    let value = map[&key].clone();
                    let with = map.keys().nth(random.below(map.len())).expect("a key").clone();
                    map.insert(with, value);
                }
                _ => {
                    let value = map.remove(&key).expect("found");
                    map.insert(format!("{key}x"), value);
                }
            }
        }
        Value::Number(number) if way < 2 => {
            *node = json!(number.as_i64().unwrap_or(0).wrapping_add(2 * way as i64 - 1));
        }
        node => *node = other(random),
    }
}

/// Changes one file of a folder: through its JSON if it has any, else its bytes.
pub fn change(files: &mut Files, random: &mut Random) {
    if files.is_empty() {
        *files = fresh(random);
        return;
    }
    let at = random.below(files.len());
    match random.below(12) {
        0 => drop(files.remove(at)),
        1 => files[at].0 = random.below(NAMES.len()),
        2 => {
            let file = &mut files[at].1;
            let (size, most) = (file.len(), file.len() + 64);
            file.resize(most, 0);
            let size = fuzzer_mutate(file, size, most);
            file.truncate(size);
        }
        _ => {
            let file = &mut files[at].1;
            // The header of a safetensors file stands behind its length.
            let is_json = file.first() == Some(&b'{');
            let header = file.first_chunk::<8>().map(|length| u64::from_le_bytes(*length) as usize);
            let range = match header.filter(|length| !is_json && *length <= file.len() - 8) {
                Some(length) => 8..8 + length,
                None => 0..file.len(),
            };
            let Ok(mut root) = serde_json::from_slice::<Value>(&file[range.clone()]) else { return };
            (0..=random.below(3)).for_each(|_| change_json(&mut root, random));
            let text = root.to_string().into_bytes();
            if range.start > 0 {
                file[..8].copy_from_slice(&(text.len() as u64).to_le_bytes());
            }
            file.splice(range, text);
        }
    }
}
