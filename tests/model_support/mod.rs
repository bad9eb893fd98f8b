//! A tiny random model in a GGUF file, and its forward pass written down again in f64 without any cleverness.
#![allow(dead_code, clippy::needless_range_loop)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use wsic::gguf::{Array, GgmlType, GgufModel, GgufWriter, Limits, Metadata, TensorSpec, Value, ValueType};
use wsic::model::{Model, Random};

/// What a tiny model has.
#[derive(Clone, Copy, Debug)]
pub struct Tiny {
    pub architecture: &'static str,
    pub layers: usize,
    pub width: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub vocabulary: usize,
    pub biases: bool,
    pub head_norms: bool,
    pub tied: bool,
    pub rope_divisors: bool,
    pub linear_scaling: Option<f32>,
}

impl Tiny {
    pub const LLAMA: Self = Self {
        architecture: "llama",
        layers: 2,
        width: 24,
        feed_forward: 40,
        heads: 4,
        kv_heads: 2,
        head_width: 8,
        vocabulary: 50,
        biases: false,
        head_norms: false,
        tied: true,
        rope_divisors: false,
        linear_scaling: None,
    };
    /// Larger matrices than one task of a product takes, everything the block can have.
    pub const RICH: Self = Self {
        width: 208,
        feed_forward: 400,
        kv_heads: 1,
        head_width: 48,
        biases: true,
        tied: false,
        rope_divisors: true,
        linear_scaling: Some(2.0),
        ..Self::LLAMA
    };
    pub const QWEN2: Self = Self { architecture: "qwen2", biases: true, ..Self::LLAMA };
    pub const QWEN3: Self =
        Self { architecture: "qwen3", head_norms: true, tied: false, kv_heads: 4, ..Self::LLAMA };
}

pub const EPSILON: f32 = 1e-5;
pub const ROPE_BASE: f32 = 500.0;

/// One row of values for each token.
pub type Rows = Vec<Vec<f64>>;

/// A tiny model: its tensors and the metadata of its file.
pub struct TinyModel {
    pub tiny: Tiny,
    pub tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    pub metadata: Metadata,
}

impl TinyModel {
    pub fn new(tiny: Tiny, seed: u64) -> Self {
        let mut tensors = BTreeMap::new();
        let mut stream = 0;
        let mut add = |name: String, dims: &[usize], middle: f32, spread: f32| {
            let mut random = Random::new(seed, stream);
            stream += 1;
            let count = dims.iter().product::<usize>();
            let values = (0..count).map(|_| middle + spread * (random.unit() as f32 * 2.0 - 1.0)).collect();
            tensors.insert(name, (dims.iter().map(|&d| d as u64).collect::<Vec<_>>(), values));
        };
        let Tiny { width, feed_forward, heads, kv_heads, head_width, vocabulary, .. } = tiny;
        let fan_in = |n: usize| 2.0 / (n as f32).sqrt();
        add("token_embd.weight".into(), &[width, vocabulary], 0.0, 1.0);
        add("output_norm.weight".into(), &[width], 1.0, 0.3);
        if !tiny.tied {
            add("output.weight".into(), &[width, vocabulary], 0.0, fan_in(width));
        }
        if tiny.rope_divisors {
            add("rope_freqs.weight".into(), &[head_width / 2], 2.0, 1.0);
        }
        for layer in 0..tiny.layers {
            for (role, columns, rows) in [
                ("attn_q", width, heads * head_width),
                ("attn_k", width, kv_heads * head_width),
                ("attn_v", width, kv_heads * head_width),
                ("attn_output", heads * head_width, width),
                ("ffn_gate", width, feed_forward),
                ("ffn_up", width, feed_forward),
                ("ffn_down", feed_forward, width),
            ] {
                add(format!("blk.{layer}.{role}.weight"), &[columns, rows], 0.0, fan_in(columns));
                if tiny.biases && role.starts_with("attn") {
                    add(format!("blk.{layer}.{role}.bias"), &[rows], 0.0, 0.5);
                }
            }
            for norm in ["attn_norm", "ffn_norm"] {
                add(format!("blk.{layer}.{norm}.weight"), &[width], 1.0, 0.3);
            }
            if tiny.head_norms {
                for norm in ["attn_q_norm", "attn_k_norm"] {
                    add(format!("blk.{layer}.{norm}.weight"), &[head_width], 1.0, 0.3);
                }
            }
        }
        let name = tiny.architecture;
        let mut metadata = Metadata::new("tiny.gguf");
        metadata.set("general.architecture", Value::from(name));
        let mut count =
            |key: &str, value: usize| metadata.set(format!("{name}.{key}"), Value::U32(value as u32));
        count("block_count", tiny.layers);
        count("context_length", 4096);
        count("embedding_length", width);
        count("feed_forward_length", feed_forward);
        count("attention.head_count", heads);
        count("attention.head_count_kv", kv_heads);
        count("attention.key_length", head_width);
        count("attention.value_length", head_width);
        metadata.set(format!("{name}.attention.layer_norm_rms_epsilon"), Value::F32(EPSILON));
        metadata.set(format!("{name}.rope.freq_base"), Value::F32(ROPE_BASE));
        if let Some(factor) = tiny.linear_scaling {
            metadata.set(format!("{name}.rope.scaling.type"), Value::from("linear"));
            metadata.set(format!("{name}.rope.scaling.factor"), Value::F32(factor));
        }
        add_tokenizer(&mut metadata, vocabulary);
        Self { tiny, tensors, metadata }
    }

    pub fn write(&self, path: &Path) {
        let specs = self
            .tensors
            .iter()
            .map(|(name, (dims, _))| TensorSpec { name: name.clone(), dims: dims.clone(), ty: GgmlType::F32 })
            .collect();
        let mut writer = GgufWriter::create(path, self.metadata.clone(), specs).unwrap();
        for (name, (_, values)) in &self.tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write_tensor(name, &bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    pub fn open(&self) -> Model {
        Model::open(Arc::new(self.file())).unwrap()
    }

    pub fn file(&self) -> GgufModel {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        self.write(&path);
        GgufModel::open(&path, &Limits::default()).unwrap()
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|&value| f64::from(value)).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.tensor(&format!("{name}.weight"));
        let mut y: Vec<f64> =
            weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        if let Some((_, bias)) = self.tensors.get(&format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, &b)| *y += f64::from(b));
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        x.iter().zip(self.tensor(&format!("{name}.weight"))).map(|(x, s)| x * factor * s).collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let width = self.tiny.head_width;
        for i in 0..width / 2 {
            let mut angle = position as f64 * f64::from(ROPE_BASE).powf(-2.0 * i as f64 / width as f64);
            if self.tiny.rope_divisors {
                angle /= self.tensor("rope_freqs.weight")[i];
            }
            angle /= f64::from(self.tiny.linear_scaling.unwrap_or(1.0));
            let (a, b) =
                if self.tiny.architecture == "llama" { (2 * i, 2 * i + 1) } else { (i, i + width / 2) };
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = x * angle.sin() + y * angle.cos();
        }
    }

    fn heads(&self, layer: usize, role: &str, x: &[f64], position: usize) -> Vec<Vec<f64>> {
        let all = self.linear(&format!("blk.{layer}.{role}"), x);
        all.chunks(self.tiny.head_width)
            .map(|head| {
                let mut head = head.to_vec();
                if role != "attn_v" {
                    if self.tiny.head_norms {
                        head = self.norm(&format!("blk.{layer}.{role}_norm"), &head);
                    }
                    self.rotate(&mut head, position);
                }
                head
            })
            .collect()
    }

    /// The inputs of the linear layers of each layer and then the input of the head, of every token.
    pub fn inputs(&self, tokens: &[u32]) -> (Vec<[Rows; 4]>, Rows) {
        let Tiny { width, heads, kv_heads, head_width, .. } = self.tiny;
        let embedding = self.tensor("token_embd.weight");
        let mut hidden: Vec<Vec<f64>> =
            tokens.iter().map(|&token| embedding[token as usize * width..][..width].to_vec()).collect();
        let mut layers = Vec::new();
        for layer in 0..self.tiny.layers {
            let block = format!("blk.{layer}");
            let attention: Vec<Vec<f64>> =
                hidden.iter().map(|x| self.norm(&format!("{block}.attn_norm"), x)).collect();
            let each = |role| -> Vec<Vec<Vec<f64>>> {
                attention.iter().enumerate().map(|(p, x)| self.heads(layer, role, x, p)).collect()
            };
            let (queries, keys, values) = (each("attn_q"), each("attn_k"), each("attn_v"));
            let mut outputs = Vec::new();
            for position in 0..tokens.len() {
                let mut output = Vec::new();
                for head in 0..heads {
                    let shared = head / (heads / kv_heads);
                    let scores: Vec<f64> = (0..=position)
                        .map(|past| {
                            let product: f64 = queries[position][head]
                                .iter()
                                .zip(&keys[past][shared])
                                .map(|(q, k)| q * k)
                                .sum();
                            (product / (head_width as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for i in 0..head_width {
                        let sum: f64 = scores
                            .iter()
                            .enumerate()
                            .map(|(past, s)| s / total * values[past][shared][i])
                            .sum();
                        output.push(sum);
                    }
                }
                outputs.push(output);
            }
            let mut feed = Vec::new();
            let mut down = Vec::new();
            for (hidden, output) in hidden.iter_mut().zip(&outputs) {
                let add = self.linear(&format!("{block}.attn_output"), output);
                hidden.iter_mut().zip(add).for_each(|(h, a)| *h += a);
                let normed = self.norm(&format!("{block}.ffn_norm"), hidden);
                let gate = self.linear(&format!("{block}.ffn_gate"), &normed);
                let up = self.linear(&format!("{block}.ffn_up"), &normed);
                let active: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let add = self.linear(&format!("{block}.ffn_down"), &active);
                hidden.iter_mut().zip(add).for_each(|(h, a)| *h += a);
                feed.push(normed);
                down.push(active);
            }
            layers.push([attention, outputs, feed, down]);
        }
        (layers, hidden.iter().map(|x| self.norm("output_norm", x)).collect())
    }

    /// Logits of every token of one sequence.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let head = if self.tiny.tied { "token_embd" } else { "output" };
        self.inputs(tokens).1.iter().map(|x| self.linear(head, x)).collect()
    }
}

/// A byte-level tokenizer of the right number of tokens: the printable bytes first, the last one ends a text.
pub fn add_tokenizer(metadata: &mut Metadata, vocabulary: usize) {
    let mut texts: Vec<String> = ('!'..='~').take(vocabulary - 1).map(String::from).collect();
    while texts.len() + 1 < vocabulary {
        texts.push(format!("unused{}", texts.len()));
    }
    texts.push("<|endoftext|>".into());
    let kinds: Vec<Value> =
        (0..vocabulary).map(|id| Value::I32(if id + 1 == vocabulary { 3 } else { 1 })).collect();
    metadata.set("tokenizer.ggml.model", Value::from("gpt2"));
    metadata.set("tokenizer.ggml.pre", Value::from("smollm"));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::from_strings(&texts)));
    metadata
        .set("tokenizer.ggml.token_type", Value::Array(Array::from_values(ValueType::I32, &kinds).unwrap()));
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::from_strings(["! \"", "! !"])));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(vocabulary as u32 - 1));
}

/// Random tokens.
pub fn tokens(len: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed, 1000);
    (0..len).map(|_| (random.unit() * vocabulary as f64) as u32).collect()
}

/// Runs `work` on a pool of `threads` threads.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
