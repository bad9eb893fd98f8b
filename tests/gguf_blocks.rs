//! Dequantization and encoders against gguf-py, bit for bit.
//!
//! The committed fixture always runs. For more blocks: `python tests/gguf_data/blocks.py /tmp/more.bin 4000000 7`
//! and run this test with `WSIC_TEST_BLOCKS=/tmp/more.bin`.

use std::collections::BTreeSet;

use wsic::gguf::{dequantize, encode, GgmlType};

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

fn u32_of(bytes: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(bytes, 4).try_into().unwrap())
}

/// Checks every record and returns the types seen in the direction from blocks to floats.
fn check(mut bytes: &[u8]) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    while !bytes.is_empty() {
        let direction = take(&mut bytes, 1)[0];
        let ty = GgmlType::from_id(u32_of(&mut bytes));
        let count = u32_of(&mut bytes) as usize;
        let block = ty.block().unwrap();
        let blocks = take(&mut bytes, count * block.bytes);
        let floats: Vec<f32> = take(&mut bytes, count * block.elements * 4)
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        if direction == 0 {
            seen.insert(ty.id());
            let mut out = vec![0.0f32; floats.len()];
            dequantize(ty, blocks, &mut out).unwrap();
            for (at, (value, expected)) in out.iter().zip(&floats).enumerate() {
                // Which NaN an operation on infinities yields differs between processors; plain types only copy.
                let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
                assert!(
                    same,
                    "{ty} block {} element {}: {value} != {expected}",
                    at / block.elements,
                    at % block.elements
                );
            }
            // Any range of blocks gives the same alone.
            let (from, to) = (count / 3, count / 2);
            let mut part = vec![0.0f32; (to - from) * block.elements];
            dequantize(ty, &blocks[from * block.bytes..to * block.bytes], &mut part).unwrap();
            for (a, b) in part.iter().zip(&out[from * block.elements..]) {
                assert!(a.to_bits() == b.to_bits(), "{ty}");
            }
        } else {
            let mut out = Vec::new();
            encode(ty, &floats, &mut out).unwrap();
            for (number, (a, b)) in out.chunks(block.bytes).zip(blocks.chunks(block.bytes)).enumerate() {
                assert_eq!(a, b, "{ty} block {number}");
            }
        }
    }
    seen
}

#[test]
fn equals_gguf_py_on_the_committed_blocks() {
    let seen = check(include_bytes!("gguf_data/blocks.bin"));
    // Not in the fixture, because gguf-py has no conversion: Q8_1, Q8_K, Q1_0, Q2_0; or it is a plain cast.
    let missing: Vec<_> = GgmlType::ALL.iter().filter(|ty| !seen.contains(&ty.id())).collect();
    use GgmlType::*;
    assert_eq!(missing, [&Q8_1, &Q8_K, &I8, &I16, &I32, &I64, &F64, &Q1_0, &Q2_0]);
}

#[test]
fn equals_gguf_py_on_more_blocks() {
    match std::env::var_os("WSIC_TEST_BLOCKS") {
        Some(path) => assert!(!check(&std::fs::read(path).unwrap()).is_empty()),
        None => eprintln!("skipped: set WSIC_TEST_BLOCKS to an output of tests/gguf_data/blocks.py"),
    }
}

#[test]
fn plain_types_and_activation_blocks() {
    let convert = |ty, bytes: &[u8], count: usize| {
        let mut out = vec![0.0f32; count];
        dequantize(ty, bytes, &mut out).unwrap();
        out
    };
    assert_eq!(convert(GgmlType::I8, &[0x80, 5], 2), [-128.0, 5.0]);
    assert_eq!(convert(GgmlType::I16, &(-300i16).to_le_bytes(), 1), [-300.0]);
    assert_eq!(convert(GgmlType::I32, &i32::MIN.to_le_bytes(), 1), [-2147483648.0]);
    assert_eq!(convert(GgmlType::I64, &(1i64 << 40).to_le_bytes(), 1), [1099511627776.0]);
    assert_eq!(convert(GgmlType::F64, &0.1f64.to_le_bytes(), 1), [0.1]);
    let mut q8_1 = vec![0x00, 0x38, 0xff, 0xff];
    q8_1.extend((0..32).map(|q: i8| (q - 16) as u8));
    assert_eq!(convert(GgmlType::Q8_1, &q8_1, 32)[..3], [-8.0, -7.5, -7.0]);
    let mut q8_k = 0.25f32.to_le_bytes().to_vec();
    q8_k.extend((0..=255u8).map(|q| q.wrapping_sub(128)));
    q8_k.extend([0xff; 32]);
    assert_eq!(convert(GgmlType::Q8_K, &q8_k, 256)[..3], [-32.0, -31.75, -31.5]);
}

#[test]
fn refuses_lengths_that_do_not_match() {
    for &ty in GgmlType::ALL {
        let block = ty.block().unwrap();
        let mut out = vec![0.0; 2 * block.elements];
        assert!(dequantize(ty, &vec![0; 2 * block.bytes], &mut out).is_ok());
        assert!(dequantize(ty, &vec![0; 2 * block.bytes - 1], &mut out).is_err());
        assert!(dequantize(ty, &vec![0; 3 * block.bytes], &mut out).is_err());
        if block.elements > 1 {
            assert!(dequantize(ty, &vec![0; block.bytes], &mut out[1..block.elements]).is_err());
        }
    }
    assert!(dequantize(GgmlType::Wsic, &[], &mut []).is_err());
    assert!(dequantize(GgmlType::Unknown(5), &[], &mut []).is_err());
}
