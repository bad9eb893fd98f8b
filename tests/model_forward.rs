//! The forward pass against a plain one in f64, the cached one against the batched one, and bad models.

mod model_support;

use std::sync::Arc;

use model_support::{tokens, with_threads, Tiny, TinyModel};
use wsic::gguf::Value;
use wsic::model::{
    CachePrecision, Decoder, DecoderOptions, DenseMatrix, InputKind, LayerRunner, Model, ModelError,
};

const VARIANTS: [Tiny; 4] = [Tiny::LLAMA, Tiny::RICH, Tiny::QWEN2, Tiny::QWEN3];

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, e)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * (1.0 + e.abs());
        assert!((f64::from(f) - e).abs() < allowed, "{what}: value {i} is {f}, expected {e}");
    }
}

/// Last hidden states of a batch of sequences.
fn run(model: &Model, sequences: &[Vec<u32>]) -> Vec<f32> {
    let mut runner = LayerRunner::new(model, sequences).unwrap();
    runner.finish().unwrap();
    runner.into_hidden()
}

#[test]
fn logits_agree_with_a_plain_forward_pass() {
    for tiny in VARIANTS {
        let reference = TinyModel::new(tiny, 1);
        let model = reference.open();
        let sequences: Vec<Vec<u32>> =
            [1, 5, 150, 17].iter().map(|&len| tokens(len, tiny.vocabulary, len as u64)).collect();
        let logits = model.logits(&run(&model, &sequences)).unwrap();
        let expected: Vec<f64> = sequences.iter().flat_map(|s| reference.logits(s)).flatten().collect();
        assert_close(&logits, &expected, 2e-4, tiny.architecture);
    }
}

#[test]
fn batches_of_many_rounds_equal_single_sequences() {
    let model = TinyModel::new(Tiny::LLAMA, 2).open();
    // More tokens than one round holds, and more in one sequence than one task of a product.
    let sequences: Vec<Vec<u32>> =
        (0..8).map(|i| tokens(if i == 3 { 700 } else { 620 - i }, 50, i as u64)).collect();
    let runner = LayerRunner::new(&model, &sequences).unwrap();
    assert!(runner.rounds().len() > 1);
    let all = run(&model, &sequences);
    let width = model.hyperparameters().width;
    let mut start = 0;
    for sequence in &sequences {
        let alone: Vec<f64> = run(&model, &[sequence[..50].to_vec()]).into_iter().map(f64::from).collect();
        assert_close(&all[start..start + 50 * width], &alone, 1e-4, "start of a sequence");
        start += sequence.len() * width;
    }
    assert_eq!(start, all.len());
}

#[test]
fn observers_see_the_inputs_of_linear_layers() {
    for tiny in VARIANTS {
        let reference = TinyModel::new(tiny, 3);
        let model = reference.open();
        let sequence = tokens(20, tiny.vocabulary, 9);
        let (layers, head) = reference.inputs(&sequence);
        let mut runner = LayerRunner::new(&model, &[sequence]).unwrap();
        for expected in &layers {
            let weights = model.load_layer(runner.layer()).unwrap();
            let before = runner.hidden().to_vec();
            let mut seen = Vec::new();
            let mut observer = |kind: InputKind, x: &[f32], width: usize| {
                seen.push((kind, x.to_vec(), width));
                Ok(())
            };
            runner.observe(&weights, &mut observer).unwrap();
            assert_eq!(runner.hidden(), before);
            runner.advance(&weights, &mut ()).unwrap();
            let kinds = [
                InputKind::Attention,
                InputKind::AttentionOutput,
                InputKind::FeedForward,
                InputKind::FeedForwardDown,
            ];
            assert_eq!(seen.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), kinds);
            for ((kind, x, width), expected) in seen.iter().zip(expected) {
                assert_eq!(*width, expected[0].len());
                assert_close(x, &expected.concat(), 2e-4, kind.name());
            }
        }
        assert_eq!(runner.layer(), tiny.layers);
        assert_close(&model.final_norm(runner.hidden()), &head.concat(), 2e-4, "head");
        assert!(runner.advance(&model.load_layer(0).unwrap(), &mut ()).is_err());
    }
}

#[test]
fn replaced_weights_and_resumed_states_are_used() {
    let mut reference = TinyModel::new(Tiny::QWEN2, 4);
    let model = reference.open();
    let sequence = tokens(9, 50, 1);
    // Halve one matrix in the reference, and replace it in the model.
    let halved: Vec<f32> = reference.tensors["blk.1.ffn_up.weight"].1.iter().map(|v| v * 0.5).collect();
    reference.tensors.get_mut("blk.1.ffn_up.weight").unwrap().1.clone_from(&halved);
    let expected: Vec<f64> = reference.logits(&sequence).concat();

    let mut runner = LayerRunner::new(&model, std::slice::from_ref(&sequence)).unwrap();
    runner.advance(&model.load_layer(0).unwrap(), &mut ()).unwrap();
    let hidden = runner.into_hidden();
    let mut runner = LayerRunner::resume(&model, &[sequence.len()], hidden, 1).unwrap();
    let mut weights = model.load_layer(1).unwrap();
    weights.replace("ffn_up", Arc::new(DenseMatrix::new(40, 24, halved).unwrap())).unwrap();
    runner.advance(&weights, &mut ()).unwrap();
    assert_close(&model.logits(runner.hidden()).unwrap(), &expected, 2e-4, "replaced");

    let wrong = Arc::new(DenseMatrix::new(24, 40, vec![0.0; 960]).unwrap());
    assert!(matches!(weights.replace("ffn_up", wrong), Err(ModelError::Shape { .. })));
    assert!(LayerRunner::resume(&model, &[3], vec![0.0; 24], 0).is_err());
    assert!(LayerRunner::resume(&model, &[1], vec![0.0; 24], 3).is_err());
    let mut broken = LayerRunner::resume(&model, &[1], vec![f32::NAN; 24], 0).unwrap();
    let error = broken.advance(&weights, &mut ()).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 0, .. }), "{error}");
}

#[test]
fn cached_decoding_equals_the_batched_pass() {
    for tiny in VARIANTS {
        for (precision, resident_bytes, tolerance) in
            [(CachePrecision::Single, usize::MAX, 1e-4), (CachePrecision::Half, 0, 3e-2)]
        {
            let model = Arc::new(TinyModel::new(tiny, 5).open());
            let sequences = [tokens(40, tiny.vocabulary, 1), tokens(33, tiny.vocabulary, 2)];
            let whole = run(&model, &sequences);
            let whole_logits = model.logits(&whole).unwrap();
            let options = DecoderOptions { precision, resident_bytes };
            let mut decoder = Decoder::new(Arc::clone(&model), 3, 40, &options).unwrap();
            let width = tiny.width;
            let mut found = [Vec::new(), Vec::new()];
            // A few tokens at once, then one by one, the shorter sequence in another slot and first in order.
            let steps = std::iter::once(0..7).chain((7..40).map(|p| p..p + 1));
            for step in steps {
                let short = step.start.min(33)..step.end.min(33);
                let runs = [(2, &sequences[1][short.clone()]), (0, &sequences[0][step.clone()])];
                let hidden = decoder.append(&runs).unwrap();
                let logits = decoder.logits(&hidden).unwrap();
                assert_eq!(logits.len(), (short.len() + step.len()) * tiny.vocabulary);
                found[1].extend_from_slice(&logits[..short.len() * tiny.vocabulary]);
                found[0].extend_from_slice(&logits[short.len() * tiny.vocabulary..]);
                assert_eq!(hidden.len(), (short.len() + step.len()) * width);
            }
            let expected: Vec<f64> = whole_logits.iter().map(|&v| f64::from(v)).collect();
            assert_close(&found.concat(), &expected, tolerance, tiny.architecture);
            assert_eq!(decoder.lengths(), [40, 0, 33]);
            assert!(decoder.append(&[(0, &[1])]).is_err(), "the context is full");
            assert!(decoder.append(&[(1, &[1]), (1, &[2])]).is_err(), "a sequence twice");
            assert!(decoder.append(&[(3, &[1])]).is_err(), "no such sequence");
            decoder.clear();
            assert_eq!(decoder.append(&[(0, &[1])]).unwrap().len(), width);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let model = Arc::new(TinyModel::new(Tiny::RICH, 6).open());
    let sequences: Vec<Vec<u32>> = (0..5).map(|i| tokens(200 + 37 * i, 50, i as u64)).collect();
    let work = || {
        let hidden = run(&model, &sequences);
        let logits = model.logits(&hidden[..64 * 208]).unwrap();
        let mut decoder = Decoder::new(Arc::clone(&model), 5, 60, &DecoderOptions::default()).unwrap();
        let mut steps = Vec::new();
        for position in 0..20 {
            let runs: Vec<_> = (0..5).map(|s| (s, &sequences[s][position..position + 1])).collect();
            steps.extend(decoder.append(&runs).unwrap());
        }
        (hidden, logits, steps)
    };
    let one = with_threads(1, work);
    for threads in [2, 3] {
        assert!(with_threads(threads, work) == one, "{threads} threads");
    }
}

#[test]
fn impossible_models_are_refused() {
    let open = |change: &dyn Fn(&mut TinyModel)| {
        let mut tiny = TinyModel::new(Tiny::LLAMA, 7);
        change(&mut tiny);
        let source = Arc::new(tiny.file());
        Model::open(source).and_then(|model| model.load_layer(1).map(|_| ())).unwrap_err().to_string()
    };
    let set = |key: &'static str, value: Value| {
        open(&move |tiny: &mut TinyModel| tiny.metadata.set(key, value.clone()))
    };
    assert!(set("general.architecture", Value::from("mamba")).contains("llama, qwen2, qwen3"));
    assert!(set("llama.block_count", Value::U32(0)).contains("llama.block_count"));
    assert!(set("llama.block_count", Value::U64(u64::MAX)).contains("llama.block_count"));
    assert!(set("llama.embedding_length", Value::U32(25)).contains("token_embd.weight"));
    assert!(set("llama.attention.head_count_kv", Value::U32(3)).contains("multiple of the 3"));
    assert!(set("llama.attention.key_length", Value::U32(6)).contains("attn_q.weight"));
    assert!(set("llama.rope.dimension_count", Value::U32(7)).contains("even"));
    assert!(set("llama.rope.freq_base", Value::F32(f32::NAN)).contains("finite"));
    assert!(set("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)).contains("positive"));
    assert!(set("llama.feed_forward_length", Value::U32(u32::MAX)).contains("feed_forward_length"));
    let without = |name: &'static str| open(&move |tiny: &mut TinyModel| drop(tiny.tensors.remove(name)));
    for tensor in ["token_embd.weight", "output_norm.weight", "blk.1.attn_k.weight", "blk.1.ffn_norm.weight"]
    {
        assert!(without(tensor).contains(tensor));
    }
    let misshapen = open(&|tiny| {
        tiny.tensors.insert("blk.1.attn_v.weight".into(), (vec![16, 24], vec![0.0; 384]));
    });
    assert!(misshapen.contains("blk.1.attn_v.weight") && misshapen.contains("16 rows of 24"), "{misshapen}");
    let experts = open(&|tiny| {
        tiny.tensors.insert("blk.0.ffn_gate_inp.weight".into(), (vec![24, 4], vec![0.0; 96]));
    });
    assert!(experts.contains("llama.expert_count"), "{experts}");
    let freqs = open(&|tiny| {
        tiny.tensors.insert("rope_freqs.weight".into(), (vec![4], vec![1.0, 0.0, 1.0, 1.0]));
    });
    assert!(freqs.contains("rope_freqs.weight"));
}

#[test]
fn tokens_beyond_the_vocabulary_are_errors() {
    let model = TinyModel::new(Tiny::LLAMA, 8).open();
    let error = LayerRunner::new(&model, &[vec![1, 50]]).unwrap_err();
    assert!(matches!(error, ModelError::Token { token: 50, vocabulary: 50 }), "{error}");
    assert!(run(&model, &[vec![], vec![3]]).len() == 24);
}
