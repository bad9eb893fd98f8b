//! Inputs of the targets that take a payload and a few bytes that steer what is done with it.

#![allow(dead_code)]

use crate::common::mutate::mutate;
use crate::common::resign::resign;
use crate::common::Random;
use crate::draw::payload_of;
use libfuzzer_sys::fuzzer_mutate;

/// Bytes that steer, in front of the payload. `fuzz/run.sh` puts zeros there for the seeds.
pub const STEERING: usize = 32;

/// Both parts of an input.
pub fn split(bytes: &[u8]) -> Option<(&[u8; STEERING], &[u8])> {
    bytes.split_first_chunk()
}

/// Random numbers that depend on the steering bytes.
pub fn random(steering: &[u8]) -> Random {
    let hash = steering.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    Random(hash | 1)
}

/// Changes an input in place: other steering, a payload damaged through its structure, a new valid payload, or what
/// the fuzzer does by itself with checksums made right again.
pub fn change(data: &mut [u8], size: usize, most: usize, seed: u32, steering: usize) -> usize {
    let mut random = Random(u64::from(seed) << 1 | 1);
    random.next();
    if most < steering + 1024 {
        return fuzzer_mutate(data, size, most);
    }
    let way = random.below(16);
    if size <= steering || way == 0 {
        let bytes = payload_of(&mut random, most - steering);
        data[..steering].iter_mut().for_each(|byte| *byte = random.next() as u8);
        data[steering..steering + bytes.len()].copy_from_slice(&bytes);
        return steering + bytes.len();
    }
    if way < 5 && steering > 0 {
        for _ in 0..=random.below(4) {
            data[random.below(steering)] = random.next() as u8;
        }
        return size;
    }
    let (payload, room) = (&mut data[steering..], most - steering);
    let length = size - steering;
    if way < 9 {
        let length = fuzzer_mutate(payload, length, room);
        resign(&mut payload[..length], random.below(2) == 0);
        return steering + length;
    }
    let changed = mutate(&payload[..length], &payload[..length], &mut random);
    let length = changed.len().min(room);
    payload[..length].copy_from_slice(&changed[..length]);
    steering + length
}
