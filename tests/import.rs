//! Folders of every architecture, written by hand: metadata and tensors.

mod import_support;

use import_support::{base, floats, llama, values, with_feed_forward, Recipe};
use serde_json::json;
use wsic::gguf::{GgmlType, Value};
use wsic::import::{write_plain, Folder, Limits};

#[track_caller]
fn open(recipe: &Recipe) -> (tempfile::TempDir, Folder) {
    let (kept, folder) = recipe.open();
    (kept, folder.unwrap_or_else(|error| panic!("{error}")))
}

/// Rows of `values` in the order of a runtime that rotates neighbours: (0, half), (1, half + 1), …
fn interleave(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let head = rows / heads;
    let mut out = Vec::new();
    for h in 0..heads {
        for pair in 0..head / 2 {
            for part in 0..2 {
                let row = h * head + part * (head / 2) + pair;
                out.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

#[test]
fn llama_has_names_order_and_rearranged_projections() {
    let mut recipe = llama("BF16");
    recipe.add("BF16", "model.layers.1.self_attn.q_proj.bias", &[8]);
    recipe.add("BF16", "model.layers.0.self_attn.rotary_emb.inv_freq", &[2]);
    let (_kept, folder) = open(&recipe);
    let names: Vec<&str> = folder.tensors().iter().map(|tensor| tensor.spec.name.as_str()).collect();
    assert_eq!(names.first(), Some(&"token_embd.weight"));
    assert_eq!(&names[names.len() - 2..], ["output_norm.weight", "output.weight"]);
    assert_eq!(
        &names[1..10],
        [
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_k.weight",
            "blk.0.attn_v.weight",
            "blk.0.attn_output.weight",
            "blk.0.ffn_norm.weight",
            "blk.0.ffn_gate.weight",
            "blk.0.ffn_up.weight",
            "blk.0.ffn_down.weight",
        ]
    );
    let query = values("model.layers.0.self_attn.q_proj.weight", 64);
    assert_eq!(floats(&folder, "blk.0.attn_q.weight"), interleave(&query, 2, 8));
    let key = values("model.layers.1.self_attn.k_proj.weight", 32);
    assert_eq!(floats(&folder, "blk.1.attn_k.weight"), interleave(&key, 1, 8));
    let bias = values("model.layers.1.self_attn.q_proj.bias", 8);
    assert_eq!(floats(&folder, "blk.1.attn_q.bias"), interleave(&bias, 2, 1));
    assert_eq!(floats(&folder, "blk.0.attn_v.weight"), values("model.layers.0.self_attn.v_proj.weight", 32));
    assert_eq!(floats(&folder, "output.weight"), values("lm_head.weight", 64));
    let down = folder.get_tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!((down.spec.dims.as_slice(), down.spec.ty), (&[12u64, 8][..], GgmlType::BF16));
    assert_eq!(folder.get_tensor("blk.0.attn_norm.weight").unwrap().spec.ty, GgmlType::F32);
    // A range of rows, not aligned to heads.
    let mut rows = vec![0.0; 24];
    folder.read_f32(folder.get_tensor("blk.0.attn_q.weight").unwrap(), 3..6, &mut rows).unwrap();
    assert_eq!(rows, interleave(&query, 2, 8)[24..48]);
}

#[test]
fn llama_has_the_metadata_that_runtimes_want() {
    let mut recipe = llama("F16");
    recipe.file("generation_config.json", r#"{"temperature": 0.5, "top_k": 40, "repetition_penalty": null}"#);
    recipe.file("README.md", "---\nlicense: mit\nlanguage:\n- en\nbase_model: org/Base-7B\n---\n# Title\n");
    let (kept, folder) = open(&recipe);
    let metadata = folder.metadata();
    let integers = [
        ("llama.block_count", 2),
        ("llama.context_length", 64),
        ("llama.embedding_length", 8),
        ("llama.feed_forward_length", 12),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.attention.key_length", 4),
        ("llama.attention.value_length", 4),
        ("llama.vocab_size", 8),
        ("llama.rope.dimension_count", 4),
        ("general.file_type", 1),
        ("general.quantization_version", 2),
        ("tokenizer.ggml.eos_token_id", 7),
        ("general.base_model.count", 1),
    ];
    for (key, value) in integers {
        assert_eq!(metadata.get(key), Some(&Value::U32(value)), "{key}");
    }
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), 10_000.0);
    assert_eq!(metadata.f32("llama.attention.layer_norm_rms_epsilon").unwrap(), 1e-5);
    let texts = [
        ("general.architecture", "llama"),
        ("general.type", "model"),
        ("general.license", "mit"),
        ("general.base_model.0.name", "Base 7B"),
        ("general.base_model.0.organization", "Org"),
        ("general.base_model.0.repo_url", "https://huggingface.co/org/Base-7B"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "gpt-2"),
        ("tokenizer.chat_template", "{{ messages }}"),
    ];
    for (key, value) in texts {
        assert_eq!(metadata.str(key).unwrap(), value, "{key}");
    }
    assert_eq!(metadata.get("general.sampling.top_k"), Some(&Value::I32(40)));
    assert_eq!(metadata.get("general.sampling.temp"), Some(&Value::F32(0.5)));
    assert!(!metadata.contains("general.sampling.penalty_repeat"));
    let tokens: Vec<&[u8]> = metadata.strings("tokenizer.ggml.tokens").unwrap().collect();
    assert_eq!(tokens, [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"ab", b"<|end|>"]);
    let kinds: Vec<i32> = metadata.integer_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(kinds, [1, 1, 1, 1, 1, 1, 1, 3]);
    let merges: Vec<&[u8]> = metadata.strings("tokenizer.ggml.merges").unwrap().collect();
    assert_eq!(merges, [b"a b"]);
    // The rule was recognised by its expressions, and that is said.
    assert!(folder.warnings().iter().any(|warning| warning.contains("gpt-2")), "{:?}", folder.warnings());
    assert_eq!(folder.path(), kept.path());
}

#[test]
fn files_of_a_sharded_checkpoint_are_one_model() {
    let recipe = llama("F32");
    let (_kept, whole) = open(&recipe);
    let kept = tempfile::tempdir().unwrap();
    recipe.write_sharded(kept.path(), 3);
    let sharded = Folder::open(kept.path(), &Limits::default()).unwrap();
    for tensor in whole.tensors() {
        assert_eq!(
            floats(&whole, &tensor.spec.name),
            floats(&sharded, &tensor.spec.name),
            "{}",
            tensor.spec.name
        );
    }
    // Without the index the files are found by their names.
    std::fs::remove_file(kept.path().join("model.safetensors.index.json")).unwrap();
    let found = Folder::open(kept.path(), &Limits::default()).unwrap();
    assert_eq!(found.tensors().len(), whole.tensors().len());
}

#[test]
fn tied_heads_are_not_written_twice() {
    let mut recipe = llama("F32");
    recipe.config["tie_word_embeddings"] = json!(true);
    let (_kept, folder) = open(&recipe);
    assert!(folder.get_tensor("output.weight").is_none());
    assert!(
        folder.warnings().iter().any(|warning| warning.contains("output head")),
        "{:?}",
        folder.warnings()
    );
    recipe.tensors.remove("lm_head.weight");
    let (_kept, folder) = open(&recipe);
    assert!(folder.get_tensor("output.weight").is_none());
    assert!(!folder.warnings().iter().any(|warning| warning.contains("output head")));
}

#[test]
fn llama_3_frequencies_are_a_tensor() {
    let mut recipe = llama("F32");
    recipe.config["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let (_kept, folder) = open(&recipe);
    let factors = floats(&folder, "rope_freqs.weight");
    // Wavelengths 6.3 and 628 of an original context of 64.
    assert_eq!(factors, [1.0, 8.0]);
    let tensor = folder.get_tensor("rope_freqs.weight").unwrap();
    assert_eq!((tensor.spec.dims.as_slice(), tensor.spec.ty), (&[2u64][..], GgmlType::F32));
    recipe.config["rope_scaling"]["rope_type"] = json!("spiral");
    recipe.refused(&["rope_type", "spiral", "llama3"]);
}

#[test]
fn yarn_is_metadata() {
    let mut recipe = with_feed_forward(base("Qwen2ForCausalLM", "qwen2", "F32", 4), "F32");
    recipe.config["rope_scaling"] =
        json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16.0});
    for name in ["q_proj", "k_proj", "v_proj"] {
        let rows = if name == "q_proj" { 8 } else { 4 };
        for layer in 0..2 {
            recipe.add("F32", &format!("model.layers.{layer}.self_attn.{name}.bias"), &[rows]);
        }
    }
    let (_kept, folder) = open(&recipe);
    let metadata = folder.metadata();
    assert_eq!(metadata.str("qwen2.rope.scaling.type").unwrap(), "yarn");
    assert_eq!(metadata.f32("qwen2.rope.scaling.factor").unwrap(), 4.0);
    assert_eq!(metadata.u32("qwen2.rope.scaling.original_context_length").unwrap(), 16);
    assert_eq!(metadata.f32("qwen2.rope.scaling.yarn_beta_fast").unwrap(), 16.0);
    // Queries keep their order, and have biases.
    let query = values("model.layers.0.self_attn.q_proj.weight", 64);
    assert_eq!(floats(&folder, "blk.0.attn_q.weight"), query);
    assert_eq!(floats(&folder, "blk.1.attn_k.bias"), values("model.layers.1.self_attn.k_proj.bias", 4));
}

/// A Mixtral with one matrix for each expert.
fn mixtral() -> Recipe {
    let mut recipe = base("MixtralForCausalLM", "mixtral", "F32", 4);
    recipe.config["num_local_experts"] = json!(3);
    recipe.config["num_experts_per_tok"] = json!(2);
    for layer in 0..2 {
        let block = format!("model.layers.{layer}.block_sparse_moe");
        recipe.add("F32", &format!("{block}.gate.weight"), &[3, 8]);
        for expert in 0..3 {
            recipe.add("F32", &format!("{block}.experts.{expert}.w1.weight"), &[12, 8]);
            recipe.add("F32", &format!("{block}.experts.{expert}.w2.weight"), &[8, 12]);
            recipe.add("F32", &format!("{block}.experts.{expert}.w3.weight"), &[12, 8]);
        }
    }
    recipe
}

#[test]
fn experts_are_stacked() {
    let (_kept, folder) = open(&mixtral());
    for (name, source, dims) in
        [("gate", "w1", [8u64, 12, 3]), ("up", "w3", [8, 12, 3]), ("down", "w2", [12, 8, 3])]
    {
        let name = format!("blk.1.ffn_{name}_exps.weight");
        assert_eq!(folder.get_tensor(&name).unwrap().spec.dims, dims);
        let expected: Vec<f32> = (0..3)
            .flat_map(|e| values(&format!("model.layers.1.block_sparse_moe.experts.{e}.{source}.weight"), 96))
            .collect();
        assert_eq!(floats(&folder, &name), expected, "{name}");
        // Across the border of two experts.
        let columns = dims[0] as usize;
        let mut rows = vec![0.0; 2 * columns];
        let border = dims[1] - 1;
        folder.read_f32(folder.get_tensor(&name).unwrap(), border..border + 2, &mut rows).unwrap();
        assert_eq!(rows, expected[border as usize * columns..(border as usize + 2) * columns]);
    }
    let router = folder.get_tensor("blk.0.ffn_gate_inp.weight").unwrap();
    assert_eq!((router.spec.dims.as_slice(), router.spec.ty), (&[8u64, 3][..], GgmlType::F32));
    let metadata = folder.metadata();
    assert_eq!(metadata.u32("llama.expert_count").unwrap(), 3);
    assert_eq!(metadata.u32("llama.expert_used_count").unwrap(), 2);
    assert!(metadata.str("general.size_label").unwrap().starts_with("3x"));
}

#[test]
fn fused_experts_are_the_same_model() {
    let mut recipe = base("Qwen3MoeForCausalLM", "qwen3_moe", "F32", 4);
    recipe.config["num_experts"] = json!(2);
    recipe.config["num_experts_per_tok"] = json!(1);
    recipe.config["moe_intermediate_size"] = json!(6);
    recipe.config["norm_topk_prob"] = json!(true);
    for layer in 0..2 {
        let name = format!("model.layers.{layer}");
        recipe.add("F32", &format!("{name}.self_attn.q_norm.weight"), &[4]);
        recipe.add("F32", &format!("{name}.self_attn.k_norm.weight"), &[4]);
        recipe.add("F32", &format!("{name}.mlp.gate.weight"), &[2, 8]);
        for expert in 0..2 {
            for (kind, shape) in [("gate", [6, 8]), ("up", [6, 8]), ("down", [8, 6])] {
                recipe.add("F32", &format!("{name}.mlp.experts.{expert}.{kind}_proj.weight"), &shape);
            }
        }
    }
    let (_kept, apart) = open(&recipe);
    assert_eq!(apart.metadata().u32("qwen3moe.expert_feed_forward_length").unwrap(), 6);
    for layer in 0..2 {
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        for expert in 0..2 {
            let mut take = |kind: &str| {
                recipe
                    .tensors
                    .remove(&format!("model.layers.{layer}.mlp.experts.{expert}.{kind}_proj.weight"))
                    .unwrap()
                    .2
            };
            gate_up.extend(take("gate"));
            gate_up.extend(take("up"));
            down.extend(take("down"));
        }
        let name = format!("model.layers.{layer}.mlp.experts");
        recipe.tensors.insert(format!("{name}.gate_up_proj"), ("F32", vec![2, 12, 8], gate_up));
        recipe.tensors.insert(format!("{name}.down_proj"), ("F32", vec![2, 8, 6], down));
    }
    let (_kept, fused) = open(&recipe);
    for tensor in apart.tensors() {
        let name = &tensor.spec.name;
        assert_eq!(fused.get_tensor(name).unwrap().spec, tensor.spec);
        assert_eq!(floats(&fused, name), floats(&apart, name), "{name}");
    }
}

#[test]
fn gemma_norms_are_one_more() {
    for class in ["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"] {
        let mut recipe = with_feed_forward(base(class, "gemma3_text", "BF16", 4), "BF16");
        recipe.tensors.remove("lm_head.weight");
        recipe.config.as_object_mut().unwrap().remove("tie_word_embeddings");
        recipe.config["sliding_window"] = json!(16);
        for layer in 0..2 {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
            recipe.add("BF16", &name("self_attn.q_norm"), &[4]).add("BF16", &name("self_attn.k_norm"), &[4]);
            recipe.add("BF16", &name("pre_feedforward_layernorm"), &[8]);
            recipe.add("BF16", &name("post_feedforward_layernorm"), &[8]);
        }
        if class == "Gemma3ForConditionalGeneration" {
            // The whole model: sizes of the text model inside, other names, and a part for images.
            let text = recipe.config.clone();
            recipe.config = json!({"architectures": [class], "model_type": "gemma3", "text_config": text});
            let renamed = std::mem::take(&mut recipe.tensors).into_iter();
            recipe.tensors =
                renamed.map(|(name, tensor)| (format!("language_model.{name}"), tensor)).collect();
            recipe.add("BF16", "vision_tower.encoder.weight", &[2, 2]);
        }
        let (_kept, folder) = open(&recipe);
        let add = |name: &str, len| values(name, len).iter().map(|v| v + 1.0).collect::<Vec<f32>>();
        let source = |name: &str| format!("model.layers.1.{name}.weight");
        if class == "Gemma3ForCausalLM" {
            for (ours, theirs, len) in [
                ("attn_q_norm", "self_attn.q_norm", 4),
                ("post_attention_norm", "post_attention_layernorm", 8),
                ("ffn_norm", "pre_feedforward_layernorm", 8),
                ("post_ffw_norm", "post_feedforward_layernorm", 8),
            ] {
                assert_eq!(
                    floats(&folder, &format!("blk.1.{ours}.weight")),
                    add(&source(theirs), len),
                    "{ours}"
                );
            }
            assert_eq!(floats(&folder, "output_norm.weight"), add("model.norm.weight", 8));
        } else {
            assert!(folder.warnings().iter().any(|warning| warning.contains("images")));
        }
        let metadata = folder.metadata();
        assert_eq!(metadata.f32("gemma3.rope.freq_base_swa").unwrap(), 10_000.0);
        assert_eq!(metadata.u32("gemma3.attention.sliding_window").unwrap(), 16);
        assert_eq!(floats(&folder, "blk.0.ffn_up.weight").len(), 96);
    }
}

#[test]
fn phi_3_keeps_its_fused_tensors() {
    let mut recipe = Recipe::new(import_support::config("Phi3ForCausalLM", "phi3"));
    recipe.config["original_max_position_embeddings"] = json!(16);
    recipe.config["rope_scaling"] =
        json!({"type": "longrope", "long_factor": [2.0, 3.0], "short_factor": [1.0, 1.5]});
    recipe.config["sliding_window"] = json!(null);
    recipe.add("F16", "model.embed_tokens.weight", &[8, 8]).add("F16", "lm_head.weight", &[8, 8]);
    recipe.add("F16", "model.norm.weight", &[8]);
    for layer in 0..2 {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        recipe.add("F16", &name("input_layernorm"), &[8]).add("F16", &name("post_attention_layernorm"), &[8]);
        recipe.add("F16", &name("self_attn.qkv_proj"), &[16, 8]).add(
            "F16",
            &name("self_attn.o_proj"),
            &[8, 8],
        );
        recipe.add("F16", &name("mlp.gate_up_proj"), &[24, 8]).add("F16", &name("mlp.down_proj"), &[8, 12]);
    }
    let (_kept, folder) = open(&recipe);
    let qkv = values("model.layers.0.self_attn.qkv_proj.weight", 128);
    assert_eq!(floats(&folder, "blk.0.attn_qkv.weight"), qkv);
    assert_eq!(folder.get_tensor("blk.0.ffn_up.weight").unwrap().spec.dims, [8, 24]);
    assert_eq!(floats(&folder, "rope_factors_long.weight"), [2.0, 3.0]);
    assert_eq!(floats(&folder, "rope_factors_short.weight"), [1.0, 1.5]);
    let metadata = folder.metadata();
    let factor = metadata.f32("phi3.rope.scaling.attn_factor").unwrap();
    assert!((factor - (1.0f32 + 4f32.ln() / 16f32.ln()).sqrt()).abs() < 1e-6);
    assert_eq!(metadata.u32("phi3.attention.sliding_window").unwrap(), 0);
    recipe.config["rope_scaling"]["long_factor"] = json!([1.0]);
    recipe.refused(&["long_factor", "2 positive numbers"]);
}

/// E4M3 floats: 1, 1.5, -2, 448, the smallest, 0, -0.0625, 16.
const E4M3: [(u8, f32); 8] = [
    (0x38, 1.0),
    (0x3c, 1.5),
    (0xc0, -2.0),
    (0x7e, 448.0),
    (0x01, 0.001_953_125),
    (0x00, 0.0),
    (0x98, -0.0625),
    (0x58, 16.0),
];

#[test]
fn eight_bit_floats_have_scales() {
    let codes: Vec<u8> = (0..96).map(|i| E4M3[(i * 5 + i / 8) % 8].0).collect();
    let plain: Vec<f32> = (0..96).map(|i| E4M3[(i * 5 + i / 8) % 8].1).collect();
    let name = "model.layers.0.mlp.down_proj.weight";
    // Scale tensor, configured block, and the scale of row r, column c of the 8 x 12 matrix.
    type Case = (&'static str, Vec<usize>, Option<[usize; 2]>, fn(usize, usize) -> usize);
    let cases: [Case; 5] = [
        ("weight_scale", vec![], None, |_, _| 0),
        ("weight_scale", vec![1], None, |_, _| 0),
        ("weight_scale", vec![8, 1], None, |r, _| r),
        ("weight_scale_inv", vec![2, 3], Some([4, 4]), |r, c| r / 4 * 3 + c / 4),
        ("weight_scale_inv", vec![3, 2], Some([3, 8]), |r, c| r / 3 * 2 + c / 8),
    ];
    for (suffix, shape, block, index) in cases {
        let mut recipe = llama("BF16");
        recipe.tensors.insert(name.into(), ("F8_E4M3", vec![8, 12], codes.clone()));
        let scale = format!("model.layers.0.mlp.down_proj.{suffix}");
        recipe.add("F32", &scale, &shape);
        if let Some(block) = block {
            recipe.config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": block});
        }
        let scales = values(&scale, shape.iter().product());
        let expected: Vec<f32> = (0..96).map(|i| plain[i] * scales[index(i / 12, i % 12)]).collect();
        let (kept, folder) = open(&recipe);
        assert_eq!(floats(&folder, "blk.0.ffn_down.weight"), expected, "{suffix} {shape:?}");
        assert_eq!(folder.get_tensor("blk.0.ffn_down.weight").unwrap().spec.ty, GgmlType::BF16);
        write_plain(&folder, GgmlType::F32, &kept.path().join("x.gguf"), &mut |_| {}).unwrap();
        // A shape that fits nothing.
        recipe.add("F32", &scale, &[5, 7]);
        recipe.refused(&["down_proj", "one scale", "[5, 7]"]);
    }
}

#[test]
fn five_two_floats_need_no_scale() {
    let mut recipe = llama("F16");
    // E5M2 is the upper half of a half float: 1, -2, 0.375, 57344.
    let codes: Vec<u8> = [0x3c, 0xc0, 0x36, 0x7b].iter().copied().cycle().take(64).collect();
    recipe.tensors.insert("lm_head.weight".into(), ("F8_E5M2", vec![8, 8], codes));
    let (_kept, folder) = open(&recipe);
    assert_eq!(floats(&folder, "output.weight")[..4], [1.0, -2.0, 0.375, 57344.0]);
}
