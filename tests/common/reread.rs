//! Takes valid payloads apart into the parts that [`super::forge`] puts together.

use super::forge::{Context, Section, Side, Tile};
use std::collections::HashMap;

/// The decoder of section "Side information coder", with its state in sight. `None` where the text refuses.
#[derive(Clone, Debug)]
pub struct SideReader<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
    pub range: u64,
    pub code: u64,
    /// Results of all decisions so far, as digits.
    pub decisions: String,
    contexts: HashMap<(Context, u32), u64>,
}

impl<'a> SideReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let code = u64::from(u32::from_be_bytes(*bytes.first_chunk::<4>()?));
        let (position, range) = (4, 0xFFFF_FFFF);
        let (decisions, contexts) = (String::new(), HashMap::new());
        (code < range).then_some(Self { bytes, position, range, code, decisions, contexts })
    }

    fn split(&mut self, bound: u64) -> Option<u32> {
        let bit = u32::from(self.code >= bound);
        if bit == 1 {
            self.range -= bound;
            self.code -= bound;
        } else {
            self.range = bound;
        }
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.code = self.code << 8 | u64::from(*self.bytes.get(self.position)?);
            self.position += 1;
        }
        self.decisions.push(if bit == 1 { '1' } else { '0' });
        Some(bit)
    }

    fn adaptive(&mut self, context: Context, index: u32) -> Option<u32> {
        let p = *self.contexts.entry((context, index)).or_insert(2048);
        let bit = self.split((self.range >> 12) * p)?;
        let changed = if bit == 0 { p + ((4096 - p) >> 4) } else { p - (p >> 4) };
        self.contexts.insert((context, index), changed);
        Some(bit)
    }

    pub fn direct(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value, _| Some(value << 1 | self.split(self.range >> 1)?))
    }

    pub fn tree(&mut self, context: Context, bits: u32) -> Option<u32> {
        let node = (0..bits).try_fold(1, |node, _| Some(node << 1 | self.adaptive(context, node)?))?;
        Some(node - (1 << bits))
    }

    pub fn number(&mut self, context: Context) -> Option<u32> {
        let mut exponent = 0;
        while self.adaptive(context, 2 * exponent)? == 1 {
            exponent += 1;
            if exponent > 23 {
                return None;
            }
        }
        if exponent == 0 {
            return Some(0);
        }
        let value = 2 | self.adaptive(context, 2 * exponent + 1)?;
        Some((value << (exponent - 1) | self.direct(exponent - 1)?) - 1)
    }

    pub fn finished(&self) -> bool {
        self.position == self.bytes.len() && self.code == 0
    }
}

/// Reads the calls of the side information of a matrix with these header fields.
pub fn read_side(bytes: &[u8], fields: &[u8; 16], rows: usize, columns: usize) -> Option<Vec<Side>> {
    let mut reader = SideReader::new(bytes)?;
    let mut calls = Vec::new();
    let reader = &mut reader;
    let direct = |reader: &mut SideReader, bits, calls: &mut Vec<Side>| {
        let value = reader.direct(bits)?;
        calls.push(Side::Direct { value, bits });
        Some(value)
    };
    let number = |reader: &mut SideReader, context, calls: &mut Vec<Side>| {
        let value = reader.number(context)?;
        calls.push(Side::Number { context, value });
        Some(value)
    };
    let tree = |reader: &mut SideReader, context, bits, calls: &mut Vec<Side>| {
        let value = reader.tree(context, bits)?;
        calls.push(Side::Tree { context, value, bits });
        Some(value)
    };
    let classes = u32::from(fields[4]);
    for _ in 0..classes {
        match direct(reader, 8, &mut calls)? {
            253 if fields[1] == 2 => {
                direct(reader, 8, &mut calls)?;
                continue;
            }
            254 if fields[1] == 2 => {
                for _ in 0..2 {
                    direct(reader, 8, &mut calls)?;
                    let side = direct(reader, 4, &mut calls)? + 1;
                    for _ in 0..side * side {
                        number(reader, Context::Frequency, &mut calls)?;
                    }
                }
                continue;
            }
            255 => {}
            _ => continue,
        }
        direct(reader, 3, &mut calls)?;
        for _ in 0..if fields[1] == 0 { 1 } else { 2 } {
            direct(reader, 8, &mut calls)?;
            let mut slots = 0;
            while slots < 256 {
                tree(reader, Context::Symbol, 6, &mut calls)?;
                slots += number(reader, Context::Length, &mut calls)? + 1;
            }
        }
    }
    let bits = (classes + 1).next_power_of_two().ilog2();
    let extra = u32::from_le_bytes(*fields.last_chunk::<4>()?) as usize;
    let entries = if classes == 0 { 0 } else { columns + extra };
    for index in 0..entries {
        if index >= columns {
            number(reader, Context::Gap, &mut calls)?;
        }
        if tree(reader, Context::Class(bits), bits, &mut calls)? > 0 {
            match fields[5] {
                0 => number(reader, Context::ColumnScale, &mut calls)?,
                _ => direct(reader, 16, &mut calls)?,
            };
        }
    }
    for _ in 0..if fields[6] == 0 { 0 } else { rows } {
        match fields[6] {
            1 => number(reader, Context::RowScale, &mut calls)?,
            _ => direct(reader, 16, &mut calls)?,
        };
    }
    reader.finished().then_some(calls)
}

/// A payload in parts.
#[derive(Clone, Debug)]
pub struct Parts {
    pub rows: usize,
    pub columns: usize,
    pub sections: Vec<Section>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?) as usize)
}

/// Takes a payload apart; `None` for most invalid ones. Raw planes are left at the front of `states`.
pub fn parts(bytes: &[u8]) -> Option<Parts> {
    let (columns, rows, count) = (u32_at(bytes, 16)?, u32_at(bytes, 20)?, u32_at(bytes, 24)?);
    let body = bytes.get(count.checked_mul(8)?.checked_add(36)?..)?;
    let mut sections = Vec::new();
    let mut start = 0;
    for matrix in 0..count {
        let end = u32_at(bytes, 32 + 8 * matrix)?;
        sections.push(section(body.get(start..end)?, rows, columns)?);
        start = end;
    }
    Some(Parts { rows, columns, sections })
}

fn section(bytes: &[u8], rows: usize, columns: usize) -> Option<Section> {
    let fields = *bytes.get(4..)?.first_chunk::<16>()?;
    let (header, length) = (u32_at(bytes, 0)?, u32_at(bytes, 20)?);
    let side = read_side(bytes.get(24..24usize.checked_add(length)?)?, &fields, rows, columns)?;
    let body = bytes.get(header..)?;
    let mut tiles = Vec::new();
    let mut start = 0;
    for at in (24 + length..header.checked_sub(4)?).step_by(12) {
        let (end, escapes) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
        let tile = body.get(start..end)?;
        let (stream, escapes) = tile.split_at_checked(tile.len().checked_sub(escapes)?)?;
        let (states, renormalisation) = stream.split_at_checked(128)?;
        tiles.push(Tile {
            raw: Vec::new(),
            states: states.to_vec(),
            renormalisation: renormalisation.to_vec(),
            escapes: escapes.to_vec(),
        });
        start = end;
    }
    Some(Section { fields, side, tiles })
}
