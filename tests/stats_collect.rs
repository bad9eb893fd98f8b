//! Statistics and calibration tokens of a tiny model.

mod model_support;

use std::sync::Arc;

use model_support::{tokens, with_threads, Tiny, TinyModel};
use wsic::gguf::Value;
use wsic::model::{CachePrecision, InputKind, LayerRunner, Model, Sampler, Tokenizer};
use wsic::stats::{
    collect, collect_and_advance, collect_head, collect_weighted, input_kinds, recommended_tokens,
    too_few_tokens, CalibrationSource, CalibrationTokens, SelfCalibration, SideBySide, StatsError,
    WantedMoment,
};

/// Mean of x xᵀ, row-major.
fn moment(rows: &[Vec<f64>]) -> Vec<f64> {
    let width = rows[0].len();
    let mut sums = vec![0.0; width * width];
    for row in rows {
        for i in 0..width {
            for j in 0..width {
                sums[i * width + j] += row[i] * row[j] / rows.len() as f64;
            }
        }
    }
    sums
}

#[test]
fn moments_agree_with_those_of_a_plain_forward_pass() {
    for tiny in [Tiny::LLAMA, Tiny { width: 208, heads: 2, kv_heads: 1, ..Tiny::RICH }] {
        let reference = TinyModel::new(tiny, 1);
        let model = reference.open();
        let sequences = [tokens(40, 50, 1), tokens(23, 50, 2)];
        let plain: Vec<_> = sequences.iter().map(|s| reference.inputs(s)).collect();
        let joined = |pick: &dyn Fn(usize) -> Vec<Vec<f64>>| moment(&[pick(0), pick(1)].concat());
        let close = |found: &[f64], expected: &[f64]| {
            let scale = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-4 * scale));
        };
        let mut runner = LayerRunner::new(&model, &sequences).unwrap();
        for layer in 0..tiny.layers {
            let weights = model.load_layer(layer).unwrap();
            let linears = model.linears(layer);
            let kinds = input_kinds(&linears);
            assert_eq!(kinds.len(), 4);
            let kept = collect(&mut runner, &weights, &kinds).unwrap();
            let statistics = collect_and_advance(&mut runner, &weights, &kinds).unwrap();
            assert_eq!(kept, statistics);
            assert_eq!(statistics.layer, layer);
            for (index, (kind, covariance)) in statistics.inputs().iter().enumerate() {
                assert_eq!(*kind, kinds[index]);
                assert_eq!(covariance.tokens(), 63);
                close(&covariance.to_dense(), &joined(&|s| plain[s].0[layer][index].clone()));
            }
            for slot in &linears {
                assert_eq!(statistics.of(slot).unwrap().width(), slot.shape.columns);
            }
            assert!(statistics.input(InputKind::Head).is_none());
            if layer + 1 < tiny.layers {
                assert!(collect_head(&runner).is_err());
            }
        }
        let head = collect_head(&runner).unwrap();
        close(&head.input(InputKind::Head).unwrap().to_dense(), &joined(&|s| plain[s].1.clone()));
    }
}

#[test]
fn attention_weighs_tokens() {
    for tiny in [Tiny::LLAMA, Tiny::QWEN3] {
        let reference = TinyModel::new(tiny, 1);
        let model = reference.open();
        let sequences = [tokens(30, 50, 1), tokens(140, 50, 2)];
        let mut runner = LayerRunner::new(&model, &sequences).unwrap();
        let weights = model.load_layer(0).unwrap();
        let found = collect_weighted(&mut runner, &weights).unwrap().unwrap().to_dense();
        let mut scaled = Vec::new();
        let mut total = 0.0;
        for sequence in &sequences {
            let received = reference.received(sequence).swap_remove(0);
            assert!((received.iter().sum::<f64>() - sequence.len() as f64).abs() < 1e-9);
            let (layers, _) = reference.inputs(sequence);
            for (x, weight) in layers[0][0].iter().zip(&received) {
                scaled.push(x.iter().map(|x| x * weight.sqrt()).collect::<Vec<f64>>());
                total += weight;
            }
        }
        let tokens = scaled.len() as f64;
        let expected: Vec<f64> = moment(&scaled).into_iter().map(|m| m * tokens / total).collect();
        let scale = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-4 * scale));
    }
}

#[test]
fn drift_is_that_of_two_plain_passes() {
    let reference = TinyModel::new(Tiny::LLAMA, 1);
    let mut changed = TinyModel::new(Tiny::LLAMA, 1);
    for (name, (_, values)) in &mut changed.tensors {
        if name.starts_with("blk") && name.ends_with("_v.weight") {
            values.iter_mut().for_each(|value| *value *= 0.5);
        }
    }
    let (original, quantized) = (reference.open(), changed.open());
    let sequences = [tokens(30, 50, 1), tokens(25, 50, 2)];
    let mut runner = LayerRunner::new(&original, &sequences).unwrap();
    let mut drifted = LayerRunner::new(&quantized, &sequences).unwrap();
    runner.advance(&original.load_layer(0).unwrap(), &mut ()).unwrap();
    let apart = SideBySide::new(runner, LayerRunner::new(&quantized, &sequences).unwrap()).unwrap_err();
    assert!(apart.to_string().contains("layers 1 and 0"), "{apart}");
    let mut runner = LayerRunner::new(&original, &sequences).unwrap();
    runner.advance(&original.load_layer(0).unwrap(), &mut ()).unwrap();
    drifted.advance(&quantized.load_layer(0).unwrap(), &mut ()).unwrap();
    let (weights, replaced) = (original.load_layer(1).unwrap(), quantized.load_layer(1).unwrap());
    let mut models = SideBySide::new(runner, drifted).unwrap();
    let states = |runner: &LayerRunner<'_>| runner.hidden().to_vec();
    let mut entered = [states(models.original()), states(models.drifted())];
    let rows = |model: &TinyModel, input: usize| -> Vec<Vec<f64>> {
        sequences.iter().flat_map(|s| model.inputs(s).0[1][input].clone()).collect()
    };
    let kinds = [
        InputKind::Attention,
        InputKind::AttentionOutput,
        InputKind::FeedForward,
        InputKind::FeedForwardDown,
    ];
    for (input, kind) in kinds.into_iter().enumerate() {
        if kind == InputKind::FeedForward {
            models.advance_attention(&weights, &replaced).unwrap();
            entered = [states(models.original()), states(models.drifted())];
        }
        let drift = models.collect(kind, &weights, &replaced, |sequence| sequence == 1).unwrap();
        assert_eq!((drift.kind, drift.learned.tokens(), drift.held_out.tokens()), (kind, 30, 25));
        assert_eq!(drift.learned.attended.is_some(), kind == InputKind::Attention);
        let (x, y) = (rows(&reference, input), rows(&changed, input));
        let width = x[0].len();
        for (moments, tokens) in [(&drift.learned, 0..30), (&drift.held_out, 30..55)] {
            let count = tokens.len() as f64;
            let mean = |value: &dyn Fn(usize) -> f64| tokens.clone().map(value).sum::<f64>() / count;
            for (i, j) in [(0, 0), (3, 7), (width - 1, 2), (5, width - 1)] {
                let expected = mean(&|t| y[t][i] * y[t][j]);
                assert!((moments.drifted.get(i, j) - expected).abs() < 1e-4, "{kind:?} {i} {j}");
            }
            match &moments.wanted {
                WantedMoment::Inputs(cross) => {
                    assert!(matches!(kind, InputKind::Attention | InputKind::FeedForward));
                    let cross = cross.to_dense();
                    for (i, j) in [(0, 0), (3, 7), (width - 1, 2), (5, width - 1)] {
                        let expected = mean(&|t| x[t][i] * y[t][j]);
                        assert!((cross[i * width + j] - expected).abs() < 1e-4, "{kind:?} {i} {j}");
                    }
                }
                WantedMoment::Outputs { moment, diagonal } => {
                    // What the layer adds to the hidden state, and what that has lost.
                    let role = if kind == InputKind::AttentionOutput { "attn_output" } else { "ffn_down" };
                    let x32: Vec<f32> = x.iter().flatten().map(|&v| v as f32).collect();
                    let mut added = vec![0.0; 55 * 24];
                    weights.linear(role).unwrap().matrix.multiply(&x32, &mut added).unwrap();
                    let output = |t: usize, i: usize| {
                        let lost = entered[0][t * 24 + i] - entered[1][t * 24 + i];
                        f64::from(added[t * 24 + i] + lost)
                    };
                    assert_eq!((moment.rows(), moment.columns()), (24, width));
                    let dense = moment.to_dense();
                    for (i, j) in [(0, 0), (23, width - 1), (4, 17)] {
                        let expected = mean(&|t| output(t, i) * y[t][j]);
                        assert!((dense[i * width + j] - expected).abs() < 1e-4, "{kind:?} {i} {j}");
                    }
                    let expected = mean(&|t| x[t][5] * y[t][5]);
                    assert!((diagonal[5] / count - expected).abs() < 1e-4, "{kind:?}");
                    assert!((0..55).any(|t| (entered[0][t * 24] - entered[1][t * 24]).abs() > 1e-3));
                }
            }
        }
    }
    // Both have gone on as two plain passes do.
    models.advance(1, &weights, &replaced).unwrap();
    for (model, runner) in [(&original, models.original()), (&quantized, models.drifted())] {
        let mut plain = LayerRunner::new(model, &sequences).unwrap();
        plain.advance(&model.load_layer(0).unwrap(), &mut ()).unwrap();
        plain.advance(&model.load_layer(1).unwrap(), &mut ()).unwrap();
        assert_eq!((plain.layer(), plain.hidden()), (runner.layer(), runner.hidden()));
    }
}

#[test]
fn only_wanted_inputs_are_collected() {
    let model = TinyModel::new(Tiny::LLAMA, 1).open();
    let mut runner = LayerRunner::new(&model, &[tokens(10, 50, 1)]).unwrap();
    let weights = model.load_layer(0).unwrap();
    let statistics = collect(&mut runner, &weights, &[InputKind::FeedForwardDown]).unwrap();
    assert_eq!(statistics.inputs().len(), 1);
    assert!(statistics.input(InputKind::FeedForwardDown).is_some());
    let mut broken = LayerRunner::resume(&model, &[1], vec![f32::INFINITY; 24], 0).unwrap();
    let error = collect(&mut broken, &weights, &[InputKind::Attention]).unwrap_err();
    assert!(matches!(&error, StatsError::NotFinite { what } if what.contains("layer 0")), "{error}");
}

#[test]
fn moments_do_not_depend_on_the_number_of_threads() {
    let model = TinyModel::new(Tiny::RICH, 2).open();
    let sequences: Vec<Vec<u32>> = (0..4).map(|i| tokens(300, 50, i)).collect();
    let work = || {
        let mut runner = LayerRunner::new(&model, &sequences).unwrap();
        let weights = model.load_layer(0).unwrap();
        collect(&mut runner, &weights, &input_kinds(&model.linears(0))).unwrap()
    };
    let one = with_threads(1, work);
    assert_eq!(with_threads(2, work), one);
    assert_eq!(with_threads(4, work), one);
}

fn tokenizer(model: &TinyModel) -> Tokenizer {
    Tokenizer::from_metadata(&model.metadata).unwrap()
}

#[test]
fn texts_are_cut_into_windows() {
    let mut tiny = TinyModel::new(Tiny::LLAMA, 1);
    let text: String = (0..100).map(|i| char::from(b'#' + (i % 7) as u8)).collect();
    let cut = |tiny: &TinyModel, context, max| {
        CalibrationTokens::from_text(&tokenizer(tiny), "sample", &text, context, max)
    };
    let all = cut(&tiny, 10, 1000).unwrap();
    assert_eq!((all.sequences.len(), all.total()), (10, 100));
    assert_eq!(all.sequences.concat(), tokenizer(&tiny).encode(&text, false).unwrap());
    assert_eq!(all.source, CalibrationSource::Text { name: "sample".into() });
    let some = cut(&tiny, 10, 35).unwrap();
    assert_eq!(
        some.sequences,
        [all.sequences[0].clone(), all.sequences[3].clone(), all.sequences[6].clone()]
    );
    assert_ne!(some.fingerprint(), all.fingerprint());
    assert_eq!(cut(&tiny, 128, 128).unwrap().sequences, [all.sequences.concat()]);
    let counts = all.frequencies(50);
    assert_eq!(counts.iter().sum::<u64>(), 100);
    assert_eq!(counts[tokenizer(&tiny).encode("#", false).unwrap()[0] as usize], 15);
    for (context, max) in [(1, 100), (10, 9)] {
        assert!(matches!(cut(&tiny, context, max), Err(StatsError::Calibration { .. })));
    }
    tiny.metadata.set("tokenizer.ggml.bos_token_id", Value::U32(49));
    tiny.metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let started = cut(&tiny, 10, 1000).unwrap();
    assert_eq!(started.sequences.len(), 11);
    assert!(started.sequences.iter().all(|s| s[0] == 49 && s.len() == 10 && !s[1..].contains(&49)));
}

#[test]
fn fingerprints_tell_sequences_apart() {
    let of = |sequences: &[&[u32]]| {
        let sequences = sequences.iter().map(|s| s.to_vec()).collect();
        CalibrationTokens { sequences, source: CalibrationSource::Text { name: String::new() } }.fingerprint()
    };
    assert_ne!(of(&[&[1, 2], &[3]]), of(&[&[1], &[2, 3]]));
    assert_ne!(of(&[&[1, 2]]), of(&[&[2, 1]]));
    // FNV-1a of the bytes 01 00 00 00 61 00 00 00, worked out by hand.
    let expected = [1u8, 0, 0, 0, 0x61, 0, 0, 0]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(of(&[&[0x61]]), expected);
}

/// A model whose vocabulary has all letters, so that prompts survive.
fn writer() -> (Arc<Model>, Tokenizer) {
    let mut tiny = TinyModel::new(Tiny { vocabulary: 96, ..Tiny::LLAMA }, 3);
    tiny.metadata.set("tokenizer.ggml.bos_token_id", Value::U32(94));
    tiny.metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    (Arc::new(tiny.open()), tokenizer(&tiny))
}

#[test]
fn models_write_their_own_calibration_text() {
    let (model, tokenizer) = writer();
    let mut request = SelfCalibration {
        tokens: 1000,
        context: 150,
        seed: 5,
        sampler: Sampler { temperature: 1.0, min_p: 0.0 },
        ..SelfCalibration::default()
    };
    let run = |request: &SelfCalibration, threads| {
        let mut last = 0;
        let tokens = with_threads(threads, || {
            request.run(&model, &tokenizer, &mut |done| {
                assert!(done > last);
                last = done;
            })
        });
        let tokens = tokens.unwrap();
        assert_eq!(last, tokens.total());
        tokens
    };
    let one = run(&request, 1);
    assert_eq!((one.sequences.len(), one.total()), (7, 1050));
    assert_eq!(one.source, CalibrationSource::SelfSampled { seed: 5, temperature: 1.0 });
    // Each starts with the start token and a prompt of its own, and goes on by itself in its own way.
    let starts: std::collections::HashSet<&[u32]> = one.sequences.iter().map(|s| &s[..12]).collect();
    assert_eq!(starts.len(), 7);
    assert!(one.sequences.iter().all(|s| s[0] == 94 && s.iter().all(|&t| t < 96)));
    let first: String = include_str!("../src/stats/passages/spaced.txt").chars().take(20).collect();
    assert!(one.sequences[0].starts_with(&tokenizer.encode(&first, true).unwrap()));
    // Whenever a text ends, the next one starts with the start token.
    let mut ends = 0;
    for sequence in &one.sequences {
        for pair in sequence.windows(2) {
            if tokenizer.vocabulary().ends_generation(pair[0]) {
                assert_eq!(pair[1], 94);
                ends += 1;
            }
        }
    }
    assert!(ends > 0, "the sample ends some text");
    assert_eq!(run(&request, 2), one);

    // Batches of two instead of one of seven: the same numbers up to rounding in the products.
    request.decoder.precision = CachePrecision::Single;
    request.cache_bytes = 2 * 150 * 2 * 2 * 16 * 4;
    assert_eq!(run(&request, 2).sequences.len(), 7);
    request.seed = 6;
    assert_ne!(run(&request, 2).sequences, one.sequences);
    request.context = 2;
    assert!(request.run(&model, &tokenizer, &mut |_| ()).is_err());
}

#[test]
fn sampled_text_follows_the_model() {
    // The mean surprise of the sampled tokens is close to the entropy the model gives.
    let (model, tokenizer) = writer();
    let request = SelfCalibration { tokens: 64 * 200, context: 200, seed: 9, ..SelfCalibration::default() };
    let sample = request.run(&model, &tokenizer, &mut |_| ()).unwrap();
    let mut runner = LayerRunner::new(&model, &sample.sequences).unwrap();
    runner.finish().unwrap();
    let logits = model.logits(runner.hidden()).unwrap();
    let rows: Vec<&[f32]> = logits.chunks(96).collect();
    let (mut difference, mut variance) = (0.0, 0.0);
    for (s, sequence) in sample.sequences.iter().enumerate() {
        // Prompts have up to 100 tokens; after an end of text another one follows.
        let first = sequence.iter().rposition(|&t| t >= 94).map_or(100, |end| end + 100);
        for position in first..199 {
            let row = rows[s * 200 + position];
            let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            let surprise: Vec<f64> = row.iter().map(|&l| total.ln() - f64::from(l)).collect();
            let entropy: f64 = surprise.iter().map(|s| (-s).exp() * s).sum();
            variance += surprise.iter().map(|s| (-s).exp() * (s - entropy).powi(2)).sum::<f64>();
            difference += surprise[sequence[position + 1] as usize] - entropy;
        }
    }
    assert!(variance > 100.0, "enough samples: {variance}");
    assert!(difference.abs() < 4.0 * variance.sqrt(), "{difference} of {variance}");
}

#[test]
fn few_tokens_are_warned_of() {
    assert!(too_few_tokens(1000, 1536).unwrap().contains("singular"));
    assert!(too_few_tokens(8192, 1536).unwrap().contains("12288"));
    assert_eq!(too_few_tokens(12288, 1536), None);
    assert_eq!(recommended_tokens(1536), 32768);
    assert_eq!(recommended_tokens(14336), 229_376);
}
