//! Perplexity and divergence against sums written down again in f64.

mod model_support;

use model_support::{tokens, with_threads, Tiny, TinyModel};
use wsic::model::eval::{divergence, perplexity, score, Reference, Windows};

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
    logits.iter().map(|l| l - max - sum.ln()).collect()
}

/// Log probabilities and targets of the last halves of windows.
fn plain(model: &TinyModel, windows: &Windows) -> Vec<(Vec<f64>, usize)> {
    let mut rows = Vec::new();
    for window in &windows.sequences {
        let logits = model.logits(window);
        for position in window.len() / 2..window.len() - 1 {
            rows.push((log_softmax(&logits[position]), window[position + 1] as usize));
        }
    }
    rows
}

#[test]
fn windows_follow_the_protocol() {
    let text: Vec<u32> = (0..35).collect();
    let windows = Windows::new(&text, 10, 5, Some(49)).unwrap();
    assert_eq!(windows.sequences.len(), 3);
    assert_eq!(windows.sequences[1], [49, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!(windows.first_scored, 5);
    // Positions 5 to 8 predict 6 to 9.
    assert_eq!(windows.scored(), 12);
    assert_eq!(Windows::new(&text, 10, 2, None).unwrap().sequences[1][0], 10);
    assert!(Windows::new(&text, 36, 1, None).is_err());
    assert!(Windows::new(&text, 3, 1, None).is_err());
    assert!(Windows::new(&text, 10, 0, None).is_err());
}

#[test]
fn perplexity_and_divergence_agree_with_plain_sums() {
    for tiny in [Tiny::LLAMA, Tiny::RICH] {
        let reference = TinyModel::new(tiny, 1);
        let mut candidate = TinyModel::new(tiny, 1);
        for (name, (_, values)) in &mut candidate.tensors {
            if name.contains("ffn_down") {
                values.iter_mut().for_each(|value| *value *= 0.7);
            }
        }
        let windows = Windows::new(&tokens(200, 50, 3), 32, 5, None).unwrap();
        let (p, q) = (plain(&reference, &windows), plain(&candidate, &windows));
        let count = p.len() as f64;
        assert_eq!(windows.scored(), p.len());
        let loss = |rows: &[(Vec<f64>, usize)]| rows.iter().map(|(l, t)| -l[*t]).sum::<f64>() / count;
        let mut kl: Vec<f64> = p
            .iter()
            .zip(&q)
            .map(|((p, _), (q, _))| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum())
            .collect();
        let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let same = p.iter().zip(&q).filter(|((p, _), (q, _))| top(p) == top(q)).count() as f64 / count;
        let mean = kl.iter().sum::<f64>() / count;
        let variance = kl.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / count;
        kl.sort_by(f64::total_cmp);

        let (p_model, q_model) = (reference.open(), candidate.open());
        let found = divergence(&p_model, &q_model, &windows).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{a} {b}");
        close(found.reference.negative_log_likelihood.mean, loss(&p));
        close(found.candidate.negative_log_likelihood.mean, loss(&q));
        close(found.candidate.perplexity.mean, loss(&q).exp());
        close(found.kl.mean, mean);
        close(found.kl.standard_error, (variance / count).sqrt());
        close(found.kl_max, *kl.last().unwrap());
        close(found.kl_median, (kl[kl.len() / 2] + kl[(kl.len() - 1) / 2]) / 2.0);
        let at = 0.99 * (count - 1.0);
        let (low, high) = (kl[at as usize], kl[at as usize + 1]);
        close(found.kl_99, low + (high - low) * at.fract());
        close(found.same_top.mean, same);
        close(found.same_top.standard_error, (same * (1.0 - same) / count).sqrt());
        assert_eq!(found.tokens, p.len());
        assert!(mean > 1e-3, "the test compares models that differ");

        assert_eq!(perplexity(&p_model, &windows).unwrap(), found.reference);
        for (found, (row, target)) in score(&p_model, &windows).unwrap().iter().zip(&p) {
            close(*found, -row[*target]);
        }
        let kept = Reference::new(&p_model, &windows).unwrap();
        assert_eq!(kept.divergence(&q_model).unwrap(), found);
        let none = kept.divergence(&p_model).unwrap();
        assert!(none.kl.mean.abs() < 1e-12 && none.same_top.mean == 1.0);
        let threads = |n| with_threads(n, || divergence(&p_model, &q_model, &windows).unwrap());
        assert_eq!(threads(1), found);
        assert_eq!(threads(2), found);
    }
}

#[test]
fn models_of_other_vocabularies_cannot_be_compared() {
    let windows = Windows::new(&tokens(40, 40, 3), 16, 2, None).unwrap();
    let reference = TinyModel::new(Tiny::LLAMA, 1).open();
    let other = TinyModel::new(Tiny { vocabulary: 51, ..Tiny::LLAMA }, 1).open();
    assert!(divergence(&reference, &other, &windows).is_err());
}
