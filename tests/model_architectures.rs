//! Every architecture beyond the plain block: imported from a folder, its logits those of transformers
//! (tests/judge/architecture_logits.py wrote them down), the way back a derivative of the way forth, statistics per
//! expert, and the whole conversion.

mod import_support;

use std::path::Path;
use std::sync::Arc;

use assert_cmd::Command;
use import_support::{bytes, values, Recipe};
use serde_json::Value;
use wsic::import::{Folder, Limits};
use wsic::model::{
    layer_gradient, CachePrecision, Decoder, DecoderOptions, InputKind, LayerRunner, Model, Random,
};
use wsic::stats::{collect, input_kinds};

fn fixture() -> serde_json::Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model_data/architectures.json");
    match serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() {
        Value::Object(models) => models,
        other => panic!("{other}"),
    }
}

/// The folder of one of the models.
fn recipe(model: &Value) -> Recipe {
    let mut recipe = Recipe::new(model["config"].clone());
    for (name, shape) in model["tensors"].as_object().unwrap() {
        let shape: Vec<usize> =
            shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let matrix = shape.len() > 1;
        let weights: Vec<f32> = values(name, shape.iter().product())
            .into_iter()
            .map(|v| if matrix { v / 4.0 } else { 1.0 + v / 8.0 })
            .collect();
        recipe.tensors.insert(name.clone(), ("F32", shape, bytes("F32", &weights)));
    }
    recipe
}

fn open(model: &Value) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    recipe(model).write(folder.path());
    let folder = Folder::open(folder.path(), &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(Model::open(Arc::new(folder)).unwrap())
}

fn tokens(model: &Value) -> Vec<u32> {
    model["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for (name, fixture) in &fixture() {
        let model = open(fixture);
        let sequence = tokens(fixture);
        let mut runner = LayerRunner::new(&model, std::slice::from_ref(&sequence)).unwrap();
        runner.finish().unwrap();
        let batched = model.logits(runner.hidden()).unwrap();
        let options = DecoderOptions { precision: CachePrecision::Single, ..DecoderOptions::default() };
        let mut decoder = Decoder::new(Arc::clone(&model), 1, sequence.len(), &options).unwrap();
        let mut cached = Vec::new();
        for step in [&sequence[..3], &sequence[3..4], &sequence[4..]] {
            let hidden = decoder.append(&[(0, step)]).unwrap();
            cached.extend(decoder.logits(&hidden).unwrap());
        }
        for (position, expected) in fixture["logits"].as_object().unwrap() {
            let expected: Vec<f64> =
                expected.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            let start = position.parse::<usize>().unwrap() * expected.len();
            for (how, logits) in [("batched", &batched), ("cached", &cached)] {
                for (found, expected) in logits[start..start + expected.len()].iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(
                        error < 2e-4 * (1.0 + expected.abs()),
                        "{name} {how} {position}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_way_back_is_the_derivative() {
    for (name, fixture) in &fixture() {
        let model = open(fixture);
        let width = model.hyperparameters().width;
        let sequence = tokens(fixture);
        let lengths = [sequence.len()];
        // The first layer, and the last one, which in Gemma sees another part of the past.
        for layer in [0, model.hyperparameters().layers - 2] {
            let mut runner = LayerRunner::new(&model, std::slice::from_ref(&sequence)).unwrap();
            while runner.layer() < layer {
                runner.advance(&model.load_layer(runner.layer()).unwrap(), &mut ()).unwrap();
            }
            let weights = model.load_layer(layer).unwrap();
            let hidden = runner.into_hidden();
            let mut random = Random::new(1, layer as u64);
            let mut draw = || (0..hidden.len()).map(|_| random.unit() as f32 - 0.5).collect::<Vec<f32>>();
            let (direction, loss) = (draw(), draw());
            let value = |step: f32| -> f64 {
                let moved = hidden.iter().zip(&direction).map(|(h, d)| h + step * d).collect();
                let mut runner = LayerRunner::resume(&model, &lengths, moved, layer).unwrap();
                runner.advance(&weights, &mut ()).unwrap();
                runner.hidden().iter().zip(&loss).map(|(h, l)| f64::from(*h) * f64::from(*l)).sum()
            };
            let mut gradient = loss.clone();
            let mut roles = Vec::new();
            let mut observer = |role: &'static str, gradient: &[f32], rows: usize| {
                roles.push((role, gradient.len() / rows));
                Ok(())
            };
            layer_gradient(&model, &weights, layer, &lengths, &hidden, &mut gradient, &mut observer).unwrap();
            let slope: f64 =
                gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let measured = (value(1e-3) - value(-1e-3)) / 2e-3;
            let scale: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!((slope - measured).abs() < 5e-3 * scale, "{name} {layer}: {slope} {measured} {scale}");
            // Dense matrices are shown with every token.
            let dense: Vec<_> = model.linears(layer).into_iter().filter(|slot| slot.experts == 1).collect();
            assert_eq!(roles.len(), dense.len(), "{name}");
            assert!(roles.iter().all(|(_, tokens)| *tokens == sequence.len()));
        }
        assert_eq!(width, 32);
    }
}

#[test]
fn each_expert_has_its_own_statistics() {
    for (name, used) in [("mixtral", 2), ("qwen3moe", 3)] {
        let model = open(&fixture()[name]);
        let sequences: Vec<Vec<u32>> =
            (0..4).map(|s| (0..40).map(|i| (i * 7 + s * 11 + i * i % 5) % 40).collect()).collect();
        let mut runner = LayerRunner::new(&model, &sequences).unwrap();
        let weights = model.load_layer(0).unwrap();
        let linears = model.linears(0);
        let statistics = collect(&mut runner, &weights, &input_kinds(&linears)).unwrap();
        let tokens = statistics.expert_tokens(InputKind::FeedForward);
        let routed: u64 = tokens.iter().map(|(_, tokens)| tokens).sum();
        assert_eq!(routed, 160 * used, "{name}: every token goes to {used} experts");
        assert_eq!(tokens, statistics.expert_tokens(InputKind::FeedForwardDown));
        let common = statistics.input(InputKind::FeedForward).unwrap();
        assert_eq!(common.tokens(), 160);
        assert_eq!(statistics.input(InputKind::FeedForwardDown).unwrap().tokens(), routed);
        // An expert that does not exist was never chosen: it has the common moment.
        let never = statistics.expert(InputKind::FeedForward, 1000);
        assert!((never(3, 2) - common.get(3, 2)).abs() < 1e-12);
        // One that was chosen lies between its own moment and the common one; all together they are the common one
        // twice over (three times), and the common parts.
        let width = common.width() as f64;
        let mut sum = 0.0;
        for &(expert, count) in &tokens {
            let count = count as f64;
            sum += statistics.expert(InputKind::FeedForward, expert)(1, 1) * (count + width);
            sum -= width * common.get(1, 1);
        }
        let expected = common.get(1, 1) * 160.0 * used as f64;
        assert!((sum / expected - 1.0).abs() < 1e-3, "{name}: {sum} {expected}");
    }
}

#[test]
fn all_of_them_convert() {
    for (name, fixture) in &fixture() {
        let folder = tempfile::tempdir().unwrap();
        let hf = folder.path().join("hf");
        std::fs::create_dir(&hf).unwrap();
        recipe(fixture).write(&hf);
        let text: String = (0..3000u32).map(|i| char::from(b'a' + (i * i / 7 % 6) as u8)).collect();
        std::fs::write(folder.path().join("text.txt"), text).unwrap();
        let wsic = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
            command.current_dir(folder.path()).args(arguments).assert().success()
        };
        wsic(&["convert", "hf", "-o", "a.gguf", "--bpw", "10", "--calibration", "text.txt", "-q"]);
        wsic(&["verify", "a.gguf"]);
        let eval =
            ["eval", "a.gguf", "--reference", "hf", "--text", "text.txt", "--ctx", "32", "--chunks", "4"];
        let output = wsic(&[&eval[..], &["--json"]].concat()).get_output().stdout.clone();
        let report: Value = serde_json::from_slice(&output).unwrap();
        let kld = report["kld"].as_f64().unwrap();
        assert!(kld < 0.02, "{name}: {kld}");
    }
}
