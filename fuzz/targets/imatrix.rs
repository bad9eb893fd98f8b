//! Any bytes as an importance matrix, old format and new: read, compared with what a second reader of the old format
//! says. The mutator makes valid files of both formats and damages their numbers.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod guard;
mod scratch_file;

use common::Random;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use std::path::PathBuf;
use std::sync::OnceLock;
use wsic::import::imatrix;
use wsic::import::Limits;

static FILE: OnceLock<PathBuf> = OnceLock::new();

fn read(bytes: &[u8]) {
    let path = FILE.get_or_init(|| scratch_file::folder("imatrix").join("file"));
    std::fs::write(path, bytes).expect("room for a file");
    // Every name and number costs bytes of the file, an entry some hundred bytes of memory.
    let most = (64 << 10) + 128 * bytes.len();
    let Ok(matrix) = guard::within(most, || imatrix::read(path, &Limits::default())) else { return };
    let mut numbers = 0;
    for entry in matrix.entries.values() {
        assert_eq!(entry.mean_squares.len(), entry.counts.len());
        assert!(entry.counts.iter().all(|count| count.is_finite() && *count >= 0.0));
        for means in &entry.mean_squares {
            // A sum divided by a count below one may overflow.
            assert!(means.iter().all(|mean| *mean >= 0.0), "{means:?}");
            numbers += means.len();
        }
        for columns in [0, 1, 2, 3, usize::MAX] {
            if let Some(split) = entry.split(columns) {
                assert!(split.mean_squares.iter().all(|means| means.len() == columns));
            }
        }
    }
    assert!(4 * numbers <= bytes.len(), "more numbers than the file has");
}

fuzz_target!(|bytes: &[u8]| guard::in_time(3000, || read(bytes)));

fn text(name: &str, out: &mut Vec<u8>) {
    out.extend((name.len() as u64).to_le_bytes());
    out.extend(name.as_bytes());
}

fn legacy(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(4);
    let mut bytes = (count as i32).to_le_bytes().to_vec();
    for entry in 0..count {
        let name = format!("blk.{entry}.attn_q.weight");
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((random.below(3) as i32).to_le_bytes());
        let values = 1 + random.below(9);
        bytes.extend((values as i32).to_le_bytes());
        (0..values).for_each(|_| bytes.extend((random.unit() as f32).to_le_bytes()));
    }
    if random.below(2) == 0 {
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(4i32.to_le_bytes());
        bytes.extend(b"text");
    }
    bytes
}

/// A GGUF file: type "imatrix", the usual keys, sums and counts of some weights.
fn gguf(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(3);
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((2 * count as u64).to_le_bytes());
    bytes.extend(4u64.to_le_bytes());
    text("general.type", &mut bytes);
    bytes.extend(8u32.to_le_bytes());
    text("imatrix", &mut bytes);
    for key in ["imatrix.chunk_count", "imatrix.chunk_size"] {
        text(key, &mut bytes);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
    }
    text("imatrix.datasets", &mut bytes);
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    text("one", &mut bytes);
    let mut data = Vec::new();
    for entry in 0..count {
        let (columns, matrices) = (1 + random.below(6), 1 + random.below(3));
        for (kind, columns) in [(".in_sum2", columns), (".counts", 1)] {
            text(&format!("blk.{entry}.ffn_up.weight{kind}"), &mut bytes);
            bytes.extend(2u32.to_le_bytes());
            bytes.extend((columns as u64).to_le_bytes());
            bytes.extend((matrices as u64).to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            (0..columns * matrices).for_each(|_| data.extend((random.below(5) as f32).to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
        }
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    let mut random = Random(u64::from(seed) << 1 | 1);
    random.next();
    let fresh = match random.below(if size == 0 { 2 } else { 40 }) {
        0 => legacy(&mut random),
        1 => gguf(&mut random),
        way => {
            // Words are what the formats consist of.
            if way < 16 && size >= 8 {
                const WORDS: [u32; 10] =
                    [0, 1, 2, 8, 0x7F80_0000, 0x7FC0_0000, 0x8000_0000, 0x7FFF_FFFF, u32::MAX, 1 << 20];
                let at = random.below(size - 3);
                data[at..at + 4].copy_from_slice(&WORDS[random.below(WORDS.len())].to_le_bytes());
                return size;
            }
            return fuzzer_mutate(data, size, most);
        }
    };
    let size = fresh.len().min(most);
    data[..size].copy_from_slice(&fresh[..size]);
    size
});
