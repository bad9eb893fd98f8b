//! Gradients of the loss on tiny models against differences of a plain f64 forward pass.

mod model_support;

use model_support::{tokens, with_threads, Tiny, TinyModel};
use wsic::model::{layer_gradient, loss_gradient, LayerRunner, Model};
use wsic::stats::{Sensitivity, SensitivitySettings, Tape};

/// Gradients of one linear layer's outputs over all tokens: tokens × rows.
type OutputGradient = (usize, &'static str, Vec<f32>);

struct Pass {
    labels: Vec<u32>,
    outputs: Vec<OutputGradient>,
    embeddings: Vec<f32>,
}

/// Everything that goes back from the loss of these sequences.
fn pass(model: &Model, sequences: &[Vec<u32>]) -> Pass {
    let layers = model.hyperparameters().layers;
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let mut runner = LayerRunner::new(model, sequences).unwrap();
    let mut states = vec![runner.hidden().to_vec()];
    for layer in 0..layers {
        runner.advance(&model.load_layer(layer).unwrap(), &mut ()).unwrap();
        states.push(runner.hidden().to_vec());
    }
    let loss = loss_gradient(model, &states[layers], 5).unwrap();
    let mut gradient = loss.hidden;
    let mut outputs: Vec<OutputGradient> = Vec::new();
    for layer in (0..layers).rev() {
        let weights = model.load_layer(layer).unwrap();
        let mut observer = |role: &'static str, dy: &[f32], _: usize| {
            match outputs.iter_mut().find(|known| (known.0, known.1) == (layer, role)) {
                Some((_, _, values)) => values.extend(dy),
                None => outputs.push((layer, role, dy.to_vec())),
            }
            Ok(())
        };
        layer_gradient(model, &weights, layer, &lengths, &states[layer], &mut gradient, &mut observer)
            .unwrap();
    }
    Pass { labels: loss.labels, outputs, embeddings: gradient }
}

/// Sum of -ln p(label) over all tokens, in f64.
fn loss(model: &TinyModel, sequences: &[Vec<u32>], labels: &[u32]) -> f64 {
    let logits = sequences.iter().flat_map(|sequence| model.logits(sequence));
    logits
        .zip(labels)
        .map(|(row, &label)| row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[label as usize])
        .sum()
}

/// Change of the loss for one weight of a tensor, by central differences.
fn difference(model: &mut TinyModel, tensor: &str, at: usize, sequences: &[Vec<u32>], labels: &[u32]) -> f64 {
    let value = model.tensors[tensor].1[at];
    let mut at_value = |moved: f32| {
        model.tensors.get_mut(tensor).unwrap().1[at] = moved;
        loss(model, sequences, labels)
    };
    let (high, low) = (value + 1e-3, value - 1e-3);
    let slope = (at_value(high) - at_value(low)) / (f64::from(high) - f64::from(low));
    at_value(value);
    slope
}

#[test]
fn gradients_agree_with_differences_of_the_loss() {
    let grouped = Tiny { rope_divisors: true, biases: true, tied: false, ..Tiny::LLAMA };
    for tiny in [Tiny::LLAMA, grouped, Tiny { tied: false, ..Tiny::QWEN2 }, Tiny::QWEN3] {
        let mut reference = TinyModel::new(tiny, 3);
        let model = reference.open();
        let vocabulary = tiny.vocabulary;
        let sequences = [tokens(9, vocabulary, 1), tokens(6, vocabulary, 2)];
        let found = pass(&model, &sequences);
        assert_eq!(found.outputs.len(), 7 * tiny.layers);
        let inputs: Vec<_> = sequences.iter().map(|sequence| reference.inputs(sequence).0).collect();
        for (layer, role, dy) in &found.outputs {
            let slots = model.linears(*layer);
            let slot = slots.iter().find(|slot| slot.role == *role).unwrap();
            let kind = ["attention", "attention_output", "feed_forward", "feed_forward_down"]
                .iter()
                .position(|name| *name == slot.input.name())
                .unwrap();
            let x: Vec<&Vec<f64>> = inputs.iter().flat_map(|layers| &layers[*layer][kind]).collect();
            let rows = slot.shape.rows;
            assert_eq!(dy.len(), 15 * rows);
            for (row, column) in [(0, 0), (rows / 2, 3), (rows - 1, slot.shape.columns - 1)] {
                // dLoss/dW_rc is the sum over tokens of dLoss/dy_r x_c.
                let products: Vec<f64> =
                    x.iter().enumerate().map(|(t, x)| f64::from(dy[t * rows + row]) * x[column]).collect();
                let scale: f64 = products.iter().map(|p| p * p).sum::<f64>().sqrt();
                let at = row * slot.shape.columns + column;
                let expected = difference(&mut reference, &slot.tensor, at, &sequences, &found.labels);
                let sum: f64 = products.iter().sum();
                assert!(
                    (sum - expected).abs() < 1e-4 * scale + 1e-5,
                    "{tiny:?}: {} [{row}, {column}]: {sum} is not {expected}",
                    slot.tensor
                );
            }
        }
        if !tiny.tied {
            let all: Vec<u32> = sequences.concat();
            for (token, column) in [(all[0], 0), (all[7], 5), (all[14], tiny.width - 1)] {
                let of_token = all.iter().enumerate().filter(|(_, &other)| other == token);
                let sum: f64 =
                    of_token.map(|(t, _)| f64::from(found.embeddings[t * tiny.width + column])).sum();
                let at = token as usize * tiny.width + column;
                let expected = difference(&mut reference, "token_embd.weight", at, &sequences, &found.labels);
                assert!((sum - expected).abs() < 2e-4 * (1.0 + expected.abs()), "{sum} is not {expected}");
            }
        }
    }
}

#[test]
fn predictions_agree_with_plain_softmax() {
    let reference = TinyModel::new(Tiny::QWEN3, 4);
    let model = reference.open();
    let sequence = tokens(40, 50, 3);
    let mut runner = LayerRunner::new(&model, std::slice::from_ref(&sequence)).unwrap();
    runner.finish().unwrap();
    let found = loss_gradient(&model, runner.hidden(), 9).unwrap();
    let (mut probability, mut moment) = (vec![0.0; 50], vec![0.0; 50]);
    for row in reference.logits(&sequence) {
        let total: f64 = row.iter().map(|l| l.exp()).sum();
        for (r, logit) in row.iter().enumerate() {
            let p = logit.exp() / total;
            probability[r] += p / 40.0;
            moment[r] += p * (1.0 - p) / 40.0;
        }
    }
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&found.probability, &probability) && close(&found.logit_moment, &moment));
    assert_eq!(found.labels.len(), 40);
    assert_ne!(found.labels, loss_gradient(&model, runner.hidden(), 10).unwrap().labels);
}

#[test]
fn labels_follow_the_predictions() {
    // Every row of the batch is the same state, so the labels are draws from one distribution.
    let reference = TinyModel::new(Tiny::LLAMA, 6);
    let model = reference.open();
    const DRAWS: usize = 4000;
    let state: Vec<f32> = (0..24).map(|i| (i as f32 * 1.3).sin()).collect();
    let found = loss_gradient(&model, &state.repeat(DRAWS), 1).unwrap();
    for (token, &p) in found.probability.iter().enumerate() {
        let count = found.labels.iter().filter(|&&label| label as usize == token).count();
        let deviation = (count as f64 / DRAWS as f64 - p).abs();
        assert!(deviation < 4.5 * (p * (1.0 - p) / DRAWS as f64).sqrt() + 1e-9, "{token}: {count}");
    }
}

fn sensitivity(model: &Model, sequences: &[Vec<u32>], settings: SensitivitySettings) -> Sensitivity {
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let mut tape = Tape::new(model, &lengths, settings);
    let mut runner = LayerRunner::new(model, sequences).unwrap();
    for layer in 0..model.hyperparameters().layers {
        tape.record(&runner);
        runner.advance(&model.load_layer(layer).unwrap(), &mut ()).unwrap();
    }
    tape.record(&runner);
    tape.differentiate(model, &mut |_| {}).unwrap()
}

#[test]
fn row_weights_are_mean_squares_of_the_gradients() {
    let model = TinyModel::new(Tiny { layers: 5, ..Tiny::QWEN3 }, 7).open();
    let sequences: Vec<Vec<u32>> = (0..6).map(|i| tokens(20, 50, i)).collect();
    let settings = SensitivitySettings { tokens: 65, seed: 5, memory: usize::MAX };
    let found = sensitivity(&model, &sequences, settings);
    // Room for 65 tokens: three of the six sequences.
    let chosen = [0, 2, 4].map(|i| sequences[i].clone());
    let plain = pass(&model, &chosen);
    assert_eq!((found.tokens, found.linears.len()), (60, 35));
    for (layer, role, dy) in &plain.outputs {
        let slots = model.linears(*layer);
        let slot = slots.iter().find(|slot| slot.role == *role).unwrap();
        let (_, rows) = found.linears.iter().find(|(tensor, _)| *tensor == slot.tensor).unwrap();
        for (row, &weight) in rows.iter().enumerate() {
            let squares = dy.iter().skip(row).step_by(rows.len()).map(|&d| f64::from(d).powi(2));
            let mean = squares.sum::<f64>() / 60.0;
            assert!((f64::from(weight) - mean).abs() < 1e-5 * mean, "{} {row}", slot.tensor);
        }
    }
    for column in 0..24 {
        let of_column = plain.embeddings.iter().skip(column).step_by(24);
        let mean = of_column.map(|&d| f64::from(d).powi(2)).sum::<f64>() / 60.0;
        assert!((found.embedding.get(column, column) - mean).abs() < 1e-5 * mean);
    }
    let order: Vec<&str> = found.linears.iter().map(|(tensor, _)| tensor.as_str()).collect();
    let expected: Vec<String> =
        (0..5).flat_map(|layer| model.linears(layer)).map(|slot| slot.tensor).collect();
    assert_eq!(order, expected);
    // Fewer kept states: the same numbers, computed again.
    for memory in [60 * 24 * 4 * 5, 0] {
        assert_eq!(sensitivity(&model, &sequences, SensitivitySettings { memory, ..settings }), found);
    }
}

#[test]
fn row_weights_do_not_depend_on_the_number_of_threads() {
    let model = TinyModel::new(Tiny::RICH, 8).open();
    let sequences: Vec<Vec<u32>> = (0..4).map(|i| tokens(200, 50, i)).collect();
    let settings = SensitivitySettings { tokens: 600, ..SensitivitySettings::default() };
    let one = with_threads(1, || sensitivity(&model, &sequences, settings));
    assert_eq!(one.tokens, 600);
    assert_eq!(with_threads(2, || sensitivity(&model, &sequences, settings)), one);
    assert_eq!(with_threads(3, || sensitivity(&model, &sequences, settings)), one);
}

#[test]
fn an_incomplete_tape_is_an_error() {
    let model = TinyModel::new(Tiny::LLAMA, 1).open();
    let sequences = [tokens(10, 50, 1)];
    let mut tape = Tape::new(&model, &[10], SensitivitySettings::default());
    assert!(tape.clone().differentiate(&model, &mut |_| {}).is_err());
    tape.record(&LayerRunner::new(&model, &sequences).unwrap());
    assert!(tape.differentiate(&model, &mut |_| {}).is_err());
    assert!(loss_gradient(&model, &[0.0; 5], 0).is_err());
    assert!(loss_gradient(&model, &[f32::NAN; 24], 0).is_err());
    let weights = model.load_layer(0).unwrap();
    assert!(layer_gradient(&model, &weights, 0, &[1], &[0.0; 24], &mut [0.0; 23], &mut ()).is_err());
    assert!(layer_gradient(&model, &weights, 2, &[1], &[0.0; 24], &mut [0.0; 24], &mut ()).is_err());
}
