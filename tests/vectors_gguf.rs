//! The container layer of the library on the GGUF vectors.
#![cfg(feature = "formats")]

use std::path::PathBuf;
use wsic::gguf::{GgmlType, GgufModel, Limits};
use wsic::payload::Payload;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("spec/vectors")
}

/// (path, verdict of a decoder) of all GGUF vectors.
fn manifest() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("manifest.tsv")).unwrap();
    let lines = text.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    lines
        .filter(|fields| fields[0].ends_with(".gguf"))
        .map(|fields| (fields[0].to_string(), fields[1].to_string()))
        .collect()
}

#[test]
fn valid_files_open_and_hold_the_payloads() {
    let expected = std::fs::read_to_string(folder().join("expected.tsv")).unwrap();
    let mut seen = 0;
    for (path, verdict) in manifest().into_iter().filter(|(path, _)| path.starts_with("valid/")) {
        assert_eq!(verdict, "ok");
        let model = GgufModel::open(folder().join(&path), &Limits::default()).unwrap();
        for tensor in model.tensors().filter(|tensor| tensor.ty == GgmlType::Wsic) {
            let bytes = model.tensor_bytes(tensor).unwrap();
            let payload = Payload::open(bytes, &Default::default()).unwrap();
            assert_eq!(tensor.dims[..2], [payload.columns() as u64, payload.rows() as u64]);
            let lines =
                expected.lines().filter(|line| line.starts_with(&format!("{path}:{}\t", tensor.name)));
            assert_eq!(lines.count(), payload.matrices().len());
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} tensors");
}

#[test]
fn the_container_layer_refuses_what_it_can_see() {
    // Everything else is found out by the payload, or by a comparison of both.
    let own = [
        "unknown-type-inside",
        "empty-tensor-inside",
        "two-tensors-at-one-offset",
        "offset-wraps",
        "length-beyond-32-bits",
        "foreign-tensor",
        "verifier-tensor-cut",
        "verifier-tensor-cut-without-wsic-tensor",
        "verifier-tensor-of-a-huge-size",
        "verifier-tensor-absent",
        "verifier-unknown-type-absent",
        "magic-and-sixteen-bytes",
        "order-dimensions-and-offset",
        "order-dimensions-and-magic",
        "order-length-and-listed-length",
        "order-listed-length-and-overlap",
        "order-magic-and-length",
        "order-magic-and-listed-length",
        "order-overlap-and-payload",
        "order-type-id-and-magic",
        "offset-not-aligned",
        "offset-beyond-file",
        "fifteen-bytes",
        "magic",
        "payload-cut",
        "overlap",
        "overlap-from-before",
        "overlap-by-a-huge-size",
        "offset-at-the-end",
        "offset-past-the-end",
        "first-tensor-first",
    ];
    let own = |name: &str| own.contains(&name) || name.starts_with("gguf-") || name.starts_with("split-");
    let mut seen = 0;
    for (path, _) in manifest().into_iter().filter(|(path, _)| path.starts_with("invalid/")) {
        let name = path.trim_start_matches("invalid/").trim_end_matches(".gguf");
        let opened = GgufModel::open(folder().join(&path), &Limits::default());
        assert_eq!(opened.is_err(), own(name), "{path}: {:?}", opened.err());
        seen += usize::from(own(name));
    }
    assert!(seen > 30, "{seen} files");
}
