//! Damages payloads in ways that reach deep code: through the fields of headers, the calls of the side information,
//! the parts of tiles; with checksums made right again.

use super::forge::{payload, write_escapes, write_side, Side};
use super::reread::{parts, Parts};
use super::resign::resign;
use super::Random;

const INTERESTING: [u32; 16] =
    [0, 1, 2, 3, 4, 16, 63, 64, 127, 128, 255, 256, 257, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF];

/// A value near `old`, or one of those that break things.
fn other(old: u32, random: &mut Random) -> u32 {
    match random.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old ^ 1 << random.below(32),
        _ => INTERESTING[random.below(INTERESTING.len())],
    }
}

fn some_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        match random.below(6) {
            0 => {
                let at = random.below(bytes.len() + 1);
                bytes.insert(at, random.next() as u8);
            }
            1 if !bytes.is_empty() => {
                bytes.remove(random.below(bytes.len()));
            }
            2 => bytes.truncate(random.below(bytes.len() + 1)),
            _ if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = other(u32::from(bytes[at]), random) as u8;
            }
            _ => bytes.push(0),
        }
    }
}

/// One of the fixed fields: (size, offset) in the payload header, or in the header of the first matrix.
fn field(bytes: &mut [u8], random: &mut Random) {
    const FIELDS: [(usize, usize); 26] = [
        (1, 0),
        (1, 4),
        (1, 5),
        (1, 7),
        (4, 8),
        (4, 12),
        (4, 16),
        (4, 20),
        (4, 24),
        (1, 28),
        (4, 32),
        (4, 36),
        (4, 40),
        (4, 44),
        (1, 48),
        (1, 49),
        (1, 50),
        (1, 51),
        (1, 52),
        (1, 53),
        (1, 54),
        (1, 55),
        (4, 56),
        (4, 60),
        (4, 64),
        (4, 68),
    ];
    let (size, at) = FIELDS[random.below(FIELDS.len())];
    let Some(place) = bytes.get_mut(at..at + size) else { return };
    let mut word = [0; 4];
    word[..size].copy_from_slice(place);
    place.copy_from_slice(&other(u32::from_le_bytes(word), random).to_le_bytes()[..size]);
}

fn calls(calls: &mut Vec<Side>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if calls.is_empty() {
            return;
        }
        let at = random.below(calls.len());
        match random.below(8) {
            0 => {
                calls.remove(at);
            }
            1 => calls.insert(at, calls[at]),
            2 => {
                let with = random.below(calls.len());
                calls.swap(at, with);
            }
            _ => match &mut calls[at] {
                Side::Direct { value, bits } | Side::Tree { value, bits, .. } => {
                    *value = other(*value, random) & ((1 << *bits) - 1);
                }
                // 2^24 - 1 is the smallest number that is refused.
                Side::Number { value, .. } => *value = other(*value, random).min((1 << 24) - 1),
            },
        }
    }
}

fn tiles(parts: &mut Parts, random: &mut Random) {
    let matrix = random.below(parts.sections.len());
    let count = parts.sections[matrix].tiles.len();
    if count == 0 {
        return;
    }
    let at = random.below(count);
    if random.below(8) == 0 {
        let with = random.below(count);
        parts.sections[matrix].tiles.swap(at, with);
        return;
    }
    let tile = &mut parts.sections[matrix].tiles[at];
    match random.below(8) {
        0 => some_bytes(&mut tile.states, random),
        1 | 2 => some_bytes(&mut tile.renormalisation, random),
        3 | 4 => some_bytes(&mut tile.escapes, random),
        _ => {
            let mut position = 0;
            let list: Vec<(u64, u32)> = (0..random.below(6))
                .map(|_| {
                    position += random.below(300) as u64 + 1;
                    (position - 1, 1 + (random.next() as u32 >> (10 + random.below(22))))
                })
                .collect();
            tile.escapes = write_escapes(&list, random.below(12) as u32);
        }
    }
}

fn assemble(parts: &Parts) -> Vec<u8> {
    let sections: Vec<Vec<u8>> =
        parts.sections.iter().map(|s| s.bytes_with_side(&write_side(&s.side))).collect();
    payload(parts.rows, parts.columns, &sections)
}

/// A damaged (or, rarely, another valid) payload made from `bytes`; `spare` lends a matrix now and then.
pub fn mutate(bytes: &[u8], spare: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(2) {
        let way = random.below(10);
        if way < 4 {
            match way {
                0 => some_bytes(&mut bytes, random),
                1 => {
                    let keep = random.below(bytes.len() + 1);
                    bytes.truncate(keep);
                }
                _ => field(&mut bytes, random),
            }
            if random.below(8) > 0 {
                let length = random.below(2) == 0;
                resign(&mut bytes, length);
            }
            continue;
        }
        let Some(mut taken) = parts(&bytes).filter(|parts| !parts.sections.is_empty()) else { continue };
        match way {
            4..7 => {
                let matrix = random.below(taken.sections.len());
                calls(&mut taken.sections[matrix].side, random);
            }
            7 => {
                taken.rows = (taken.rows + random.below(3)).saturating_sub(1);
                taken.columns = (taken.columns + random.below(3)).saturating_sub(1);
            }
            8 if random.below(4) == 0 => match parts(spare) {
                Some(other) => taken.sections.extend(other.sections.into_iter().take(2)),
                None => taken.sections.truncate(1),
            },
            _ => tiles(&mut taken, random),
        }
        bytes = assemble(&taken);
    }
    bytes
}
