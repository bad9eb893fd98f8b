//! Hostile payloads: no panic, every refusal reached, nothing left unwritten.

mod common;

use common::mutate::mutate;
use common::reread::parts;
use common::Random;
use std::collections::BTreeMap;
use wsic::payload::{ErrorKind, Limits, Payload, PayloadError, MAX_INTEGER};

/// Small enough that no case takes long.
const LIMITS: Limits = Limits { rows: 2048, columns: 512, matrices: 64, rows_and_columns: 8192 };

/// All valid payloads of the test vectors that are within the limits, in the order of their names.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/valid");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let payloads = paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "wsic"));
    let all = payloads.map(|path| (path.display().to_string(), std::fs::read(path).unwrap()));
    let large = |bytes: &[u8]| {
        Payload::open(bytes, &LIMITS).is_err_and(|error| error.kind() == ErrorKind::LimitExceeded)
    };
    all.filter(|(_, bytes)| !large(bytes)).collect()
}

/// Decodes everything; outputs start as values that no decoder yields, and none of them may be left.
fn decode(bytes: &[u8], limits: &Limits, verify: bool) -> Result<(), PayloadError> {
    let payload = Payload::open(bytes, limits)?;
    for matrix in payload.matrices() {
        let width = matrix.stream_length();
        for tile in 0..matrix.geometry().tiles(matrix.rows()) {
            let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
            if tile < matrix.tile_count() {
                if verify {
                    matrix.verify_tile(tile)?;
                }
                let mut integers = vec![i32::MIN; rows * width];
                let decoded = matrix.decode_tile(tile, &mut integers);
                assert_eq!(matrix.check_tile(tile), decoded);
                decoded?;
                assert!(integers.iter().all(|m| m.abs() <= MAX_INTEGER), "an integer was not written");
            }
            let mut weights = vec![f32::NAN; rows * matrix.columns()];
            matrix.dequantize_tile(tile, &mut Vec::new(), &mut weights)?;
            assert!(weights.iter().all(|weight| weight.is_finite()), "a weight was not written");
        }
    }
    Ok(())
}

#[test]
fn seeds_come_apart_and_together_again() {
    for (name, bytes) in seeds() {
        let parts = parts(&bytes).unwrap_or_else(|| panic!("{name}"));
        let sections: Vec<Vec<u8>> = parts.sections.iter().map(|section| section.bytes()).collect();
        assert!(common::forge::payload(parts.rows, parts.columns, &sections) == bytes, "{name}");
        decode(&bytes, &LIMITS, true).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn damaged_payloads_are_refused_or_decoded_whole() {
    let seeds = seeds();
    let mut random = Random(0x5EED);
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    let rounds = std::env::var("WSIC_HOSTILE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_000);
    for _ in 0..rounds {
        let (_, bytes) = &seeds[random.below(seeds.len())];
        let (_, spare) = &seeds[random.below(seeds.len())];
        let bytes = mutate(bytes, spare, &mut random);
        let verify = random.below(4) > 0;
        let verdict = decode(&bytes, &LIMITS, verify).map_or_else(|e| e.kind().name(), |()| "ok");
        *verdicts.entry(verdict).or_default() += 1;
    }
    // The mutations reach every check, and some leave valid payloads.
    println!("{verdicts:?}");
    for name in ErrorKind::ALL.iter().map(|kind| kind.name()).chain(["ok"]) {
        assert!(verdicts.get(name).is_some_and(|&count| count >= rounds / 10_000), "{name}: {verdicts:?}");
    }
}

#[test]
fn every_prefix_and_every_bit_of_a_small_payload() {
    let seeds = seeds();
    for name in ["worked-example", "experts", "dead-matrix-row-scales"] {
        let (_, bytes) = seeds.iter().find(|(path, _)| path.ends_with(&format!("{name}.wsic"))).unwrap();
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], &LIMITS, true).is_err(), "{name} cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged, &LIMITS, true).is_err(), "{name}: bit {bit} of byte {at} unnoticed");
            }
        }
    }
}
