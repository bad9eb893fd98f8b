//! Importance matrices of both formats, and hostile ones.

use std::path::Path;
use wsic::gguf::{Array, GgmlType, GgufWriter, Metadata, TensorSpec, Value};
use wsic::import::imatrix::{self, Entry};
use wsic::import::{ImportError, Limits};

/// The old format: entries of (name, calls, values), then an optional tail.
fn legacy(entries: &[(&str, i32, &[f32])], tail: Option<(i32, &str)>) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    if let Some((chunks, dataset)) = tail {
        bytes.extend(chunks.to_le_bytes());
        bytes.extend((dataset.len() as i32).to_le_bytes());
        bytes.extend(dataset.as_bytes());
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<imatrix::ImportanceMatrix, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.dat");
    std::fs::write(&path, bytes).unwrap();
    imatrix::read(&path, &Limits::default())
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let message = read(bytes).expect_err("must be refused").to_string();
    for word in ["i.dat"].iter().chain(words) {
        assert!(message.contains(word), "`{word}` missing in: {message}");
    }
}

#[test]
fn the_old_format() {
    let entries: [(&str, i32, &[f32]); 3] = [
        ("blk.0.attn_q.weight", 4, &[8.0, 2.0, 0.0, 1.0]),
        ("blk.0.ffn_gate_exps.weight", 2, &[2.0, 4.0, 6.0, 8.0]),
        ("blk.1.attn_q.weight", 0, &[0.0, 0.0]),
    ];
    for tail in [None, Some((7, "wiki.train"))] {
        let matrix = read(&legacy(&entries, tail)).unwrap();
        assert_eq!(matrix.entries.len(), 3);
        let entry = &matrix.entries["blk.0.attn_q.weight"];
        assert_eq!(entry, &Entry { mean_squares: vec![vec![2.0, 0.5, 0.0, 0.25]], counts: vec![4.0] });
        // Never called: all inputs alike.
        assert_eq!(matrix.entries["blk.1.attn_q.weight"].mean_squares, [[1.0, 1.0]]);
        assert_eq!(matrix.chunks, tail.map(|tail| tail.0 as u64));
        assert_eq!(matrix.datasets, tail.map(|tail| tail.1.to_owned()).into_iter().collect::<Vec<_>>());
        let split = matrix.entries["blk.0.ffn_gate_exps.weight"].split(2).unwrap();
        assert_eq!(split.mean_squares, [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(split.counts, [2.0, 2.0]);
        assert_eq!(entry.split(3), None);
        assert_eq!(entry.split(0), None);
    }
}

#[test]
fn lies_of_the_old_format() {
    let good = legacy(&[("a", 1, &[1.0, 2.0]), ("b", 1, &[3.0])], Some((1, "text")));
    let second = legacy(&[("a", 1, &[1.0, 2.0]), ("b", 1, &[3.0])], None).len();
    for len in 0..good.len() {
        // Without its tail, or with the chunks alone, it is a whole older file.
        assert_eq!(read(&good[..len]).is_ok(), len == second || len == second + 4, "cut at {len}");
    }
    refused(&[&good[..], &[0]].concat(), &["the end", "1 more bytes"]);
    refused(&i32::MAX.to_le_bytes(), &["max_imatrix_entries"]);
    refused(&(-1i32).to_le_bytes(), &["number of entries", "-1"]);
    refused(&0i32.to_le_bytes(), &["number of entries"]);
    refused(&legacy(&[("a", -1, &[1.0])], None), &["entry 0 (`a`)", "-1"]);
    refused(&legacy(&[("a", 1, &[])], None), &["entry 0", "from 1"]);
    refused(&legacy(&[("a", 1, &[1.0]), ("a", 1, &[1.0])], None), &["second time"]);
    refused(&legacy(&[("a", 1, &[f32::NAN])], None), &["NaN"]);
    refused(&legacy(&[("a", 1, &[f32::INFINITY])], None), &["inf"]);
    refused(&legacy(&[("a", 1, &[-1.0])], None), &["-1"]);
    let mut huge = 1i32.to_le_bytes().to_vec();
    huge.extend(i32::MAX.to_le_bytes());
    refused(&huge, &["max_imatrix_name_bytes"]);
    let mut huge = legacy(&[("a", 1, &[1.0])], None);
    let at = huge.len() - 8;
    huge[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    refused(&huge, &["8589934588 bytes"]);
    let mut bad = legacy(&[("abc", 1, &[1.0])], None);
    bad[8] = 0xff;
    refused(&bad, &["UTF-8"]);
}

type Stored<'a> = (&'a str, &'a [u64], &'a [f32]);

fn write_gguf(path: &Path, kind: &str, tensors: &[Stored<'_>]) {
    let mut metadata = Metadata::new(path);
    metadata.set("general.type", kind.into());
    metadata.set("imatrix.datasets", Value::Array(Array::from_strings(["one", "two"])));
    metadata.set("imatrix.chunk_count", Value::U32(5));
    metadata.set("imatrix.chunk_size", Value::U32(512));
    let spec = |(name, dims, _): &Stored<'_>| TensorSpec {
        name: (*name).to_owned(),
        dims: dims.to_vec(),
        ty: GgmlType::F32,
    };
    let mut writer = GgufWriter::create(path, metadata, tensors.iter().map(spec).collect()).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write_tensor(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

fn gguf(kind: &str, tensors: &[Stored<'_>]) -> Result<imatrix::ImportanceMatrix, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.gguf");
    write_gguf(&path, kind, tensors);
    imatrix::read(&path, &Limits::default())
}

#[test]
fn the_new_format() {
    let matrix = gguf(
        "imatrix",
        &[
            ("blk.0.ffn_up_exps.weight.in_sum2", &[3, 2], &[4.0, 8.0, 0.0, 9.0, 9.0, 9.0]),
            ("blk.0.ffn_up_exps.weight.counts", &[1, 2], &[4.0, 0.0]),
            ("blk.0.attn_q.weight.in_sum2", &[2], &[1.0, 3.0]),
            ("blk.0.attn_q.weight.counts", &[1], &[2.0]),
        ],
    )
    .unwrap();
    assert_eq!((matrix.chunks, matrix.chunk_tokens), (Some(5), Some(512)));
    assert_eq!(matrix.datasets, ["one", "two"]);
    let experts = &matrix.entries["blk.0.ffn_up_exps.weight"];
    assert_eq!(experts.mean_squares, [[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]);
    assert_eq!(experts.counts, [4.0, 0.0]);
    assert_eq!(matrix.entries["blk.0.attn_q.weight"].mean_squares, [[0.5, 1.5]]);
}

#[test]
fn lies_of_the_new_format() {
    let sums: Stored<'_> = ("w.in_sum2", &[2, 2], &[1.0; 4]);
    let wrong = |kind: &str, tensors: &[Stored<'_>], word: &str| {
        let message = gguf(kind, tensors).expect_err("must be refused").to_string();
        assert!(message.contains(word) && message.contains("i.gguf"), "`{word}` missing in: {message}");
    };
    wrong("model", &[], "\"imatrix\"");
    wrong("imatrix", &[sums], "w.counts");
    wrong("imatrix", &[("w.counts", &[1, 2], &[1.0; 2])], "w.counts");
    wrong("imatrix", &[sums, ("w.counts", &[1, 3], &[1.0; 3])], "2 counts");
    wrong("imatrix", &[sums, ("w.counts", &[1, 2], &[1.0, -1.0])], "counts from 0");
    wrong("imatrix", &[sums, ("w.counts", &[1, 2], &[1.0, f32::NAN])], "counts from 0");
    let bad: Stored<'_> = ("w.in_sum2", &[2, 2], &[1.0, 1.0, -2.0, 1.0]);
    wrong("imatrix", &[bad, ("w.counts", &[1, 2], &[1.0; 2])], "-2");
}
