//! Any bytes as a payload: opened, verified, decoded. The mutator damages payloads through their structure and makes
//! checksums right again, so that the fuzzer reaches what lies behind them; now and then it draws a valid one.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod draw;
mod guard;
mod inputs;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use wsic::payload::{announced_length, Limits, Payload, MAX_INTEGER};

const LIMITS: Limits = Limits { rows: 4096, columns: 1024, matrices: 64, rows_and_columns: 16_384 };
/// Integers of the tiles that are decoded; larger tiles are legal and only slow.
const MOST: usize = 1 << 18;

fuzz_target!(|bytes: &[u8]| guard::in_time(3000, || decode(bytes)));

fn decode(bytes: &[u8]) {
    wsic::payload::standard::standard_tables();
    let _ = announced_length(bytes);
    // The promise of the documentation of the limits.
    let promised = (64 << 10) + 128 * bytes.len() + 100 * LIMITS.rows_and_columns;
    let Ok(payload) = guard::within(promised, || Payload::open(bytes, &LIMITS)) else { return };
    assert_eq!(announced_length(bytes), Some(bytes.len() as u64));
    let (mut integers, mut weights, mut scratch) =
        (vec![0; MOST], vec![0.0f32; MOST], Vec::with_capacity(MOST));
    for matrix in payload.matrices() {
        let width = matrix.stream_length();
        for tile in 0..matrix.geometry().tiles(matrix.rows()) {
            let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
            if rows * width.max(matrix.columns()) > MOST {
                continue;
            }
            let mut good = true;
            if tile < matrix.tile_count() {
                let _ = matrix.verify_tile(tile);
                let integers = &mut integers[..rows * width];
                integers.fill(i32::MIN);
                let decoded = guard::within(0, || matrix.decode_tile(tile, integers));
                assert_eq!(guard::within(0, || matrix.check_tile(tile)), decoded);
                good = decoded.is_ok();
                assert!(
                    !good || integers.iter().all(|m| m.abs() <= MAX_INTEGER),
                    "an integer was not written"
                );
                for escape in matrix.escapes(tile) {
                    let Ok(escape) = escape else { break };
                    assert!(escape.row < rows && escape.position < width && escape.addend % 4 == 0);
                }
            }
            let weights = &mut weights[..rows * matrix.columns()];
            weights.fill(f32::NAN);
            let same = guard::within(0, || matrix.dequantize_tile(tile, &mut scratch, weights)).is_ok();
            assert_eq!(same, good);
            assert!(!good || weights.iter().all(|weight| weight.is_finite()), "a weight was not written");
        }
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    inputs::change(data, size, most, seed, 0)
});
