//! What is done with a folder: the plain file of it, one view of folders and GGUF models, and what is turned down.

mod import_support;

use import_support::{bytes, floats, llama, values, Recipe};
use serde_json::json;
use wsic::gguf::{self, GgmlType, GgufModel, Metadata};
use wsic::import::{self, Folder, ImportError, Input, Limits, Options};
use wsic::model::{TensorShape, TensorSource};

#[track_caller]
fn open(recipe: &Recipe) -> (tempfile::TempDir, Folder) {
    let (kept, folder) = recipe.open();
    (kept, folder.unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn plain_files_hold_the_same_numbers() {
    for dtype in ["F32", "F16", "BF16"] {
        let (kept, folder) = open(&llama(dtype));
        for (ty, file_type) in [(GgmlType::F32, 0), (GgmlType::F16, 1), (GgmlType::BF16, 32)] {
            let path = kept.path().join("plain.gguf");
            let mut seen = Vec::new();
            let size =
                import::write_plain(&folder, ty, &path, &mut |name| seen.push(name.to_owned())).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
            let model = GgufModel::open(&path, &gguf::Limits::default()).unwrap();
            assert_eq!(model.metadata().u32("general.file_type").unwrap(), file_type);
            assert_eq!(seen.len(), model.tensor_count());
            for tensor in model.tensors() {
                let exact = tensor.dims.len() == 1;
                assert_eq!(tensor.ty, if exact { GgmlType::F32 } else { ty }, "{}", tensor.name);
                // The values were chosen so that all three types hold them.
                assert_eq!(
                    model.tensor_f32(tensor).unwrap(),
                    floats(&folder, &tensor.name),
                    "{}",
                    tensor.name
                );
            }
        }
    }
    let (kept, folder) = open(&llama("F32"));
    let refused = import::write_plain(&folder, GgmlType::Q8_0, &kept.path().join("x"), &mut |_| {});
    assert!(matches!(refused, Err(ImportError::Unsupported { .. })));
}

#[test]
fn weights_beyond_half_floats_are_refused_as_such() {
    let mut recipe = llama("BF16");
    let mut large = values("lm_head.weight", 64);
    large[5] = 1e6;
    recipe.tensors.insert("lm_head.weight".into(), ("BF16", vec![8, 8], bytes("BF16", &large)));
    let (kept, folder) = open(&recipe);
    let path = kept.path().join("plain.gguf");
    let error = import::write_plain(&folder, GgmlType::F16, &path, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("output.weight") && error.contains("bf16"), "{error}");
    assert!(!path.exists());
    import::write_plain(&folder, GgmlType::BF16, &path, &mut |_| {}).unwrap();
}

#[test]
fn both_inputs_look_alike() {
    let (kept, folder) = open(&llama("BF16"));
    let path = kept.path().join("plain.gguf");
    import::write_plain(&folder, GgmlType::BF16, &path, &mut |_| {}).unwrap();
    let inputs = [kept.path(), path.as_path()]
        .map(|path| Input::open(path, &Limits::default(), &Options::default()).unwrap());
    let [from_folder, from_file] = &inputs;
    assert_eq!(from_folder.specs(), from_file.specs());
    assert_eq!(from_folder.joined_metadata(), from_file.joined_metadata());
    for spec in from_folder.specs() {
        assert_eq!(from_folder.get_spec(&spec.name), Some(spec.clone()));
        let shape = TensorSource::shape(from_folder, &spec.name);
        assert_eq!(shape, TensorSource::shape(from_file, &spec.name));
        let TensorShape { columns, rows } = shape.unwrap();
        let read = |input: &Input| {
            let (mut floats, mut through) = (vec![0.0; columns * rows], vec![0.0; columns * rows]);
            input.dequantize_rows(&spec.name, 0..rows as u64, &mut floats).unwrap();
            input.read_rows(&spec.name, 0..rows, &mut through).unwrap();
            assert_eq!(floats, through);
            let mut bytes = Vec::new();
            input
                .copy_tensor(&spec.name, |part| {
                    bytes.extend_from_slice(part);
                    Ok::<(), ImportError>(())
                })
                .unwrap();
            (floats, bytes)
        };
        assert_eq!(read(from_folder), read(from_file), "{}", spec.name);
    }
    let outside = from_folder.dequantize_rows("token_embd.weight", 7..9, &mut [0.0; 16]);
    assert!(outside.unwrap_err().to_string().contains("token_embd.weight"));
    assert!(from_folder.read_rows("nothing", 0..1, &mut [0.0]).is_err());
}

#[test]
fn what_cannot_be_imported_is_said() {
    let mut recipe = llama("F32");
    recipe.config["architectures"] = json!(["MambaForCausalLM"]);
    recipe.refused(&["MambaForCausalLM", "not supported", "LlamaForCausalLM", "Phi3ForCausalLM"]);
    recipe.config.as_object_mut().unwrap().remove("architectures");
    recipe.refused(&["config.json", "of type llama"]);

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), "").unwrap();
    let error = Folder::open(folder.path(), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("LoRA") && error.contains("merge"), "{error}");

    // A tensor without a place would be lost silently.
    let mut recipe = llama("F32");
    recipe.add("F32", "model.layers.0.mystery.weight", &[2]);
    recipe.refused(&["model.layers.0.mystery.weight", "no place", "llama"]);

    // Integers of another quantization.
    let mut recipe = llama("F32");
    recipe.config["quantization_config"] = json!({"quant_method": "gptq"});
    recipe.tensors.insert("lm_head.weight".into(), ("I32", vec![8, 8], vec![0; 256]));
    recipe.refused(&["lm_head.weight", "I32", "gptq"]);

    // A pre-tokenizer that nobody knows, until it is named.
    let mut recipe = llama("F32");
    let tokenizer = String::from_utf8(recipe.files["tokenizer.json"].clone()).unwrap();
    recipe.file("tokenizer.json", tokenizer.replace("\"ByteLevel\"", "\"Runes\""));
    recipe.refused(&["tokenizer.json", "pre_tokenizer", "Runes"]);
    let folder = tempfile::tempdir().unwrap();
    recipe.write(folder.path());
    let options = Options { pre_tokenizer: Some("llama-bpe".into()) };
    let named = Folder::open_with(folder.path(), &Limits::default(), &options).unwrap();
    assert_eq!(named.metadata().str("tokenizer.ggml.pre").unwrap(), "llama-bpe");

    // GGUF files that hold no model.
    for (key, value, word) in [
        ("general.type", "adapter", "LoRA"),
        ("general.architecture", "clip", "mmproj"),
        ("general.type", "mmproj", "mmproj"),
        ("general.type", "imatrix", "importance"),
    ] {
        let mut metadata = Metadata::new("x.gguf");
        metadata.set(key, value.into());
        let path = folder.path().join("x.gguf");
        gguf::GgufWriter::create(&path, metadata, Vec::new()).unwrap().finish().unwrap();
        let error = Input::open(&path, &Limits::default(), &Options::default()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
