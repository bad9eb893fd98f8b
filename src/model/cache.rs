//! Keys and values of past tokens.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::error::ModelError;
use super::ops::widen;

/// How cached values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CachePrecision {
    /// IEEE half: half the memory.
    #[default]
    Half,
    /// IEEE single: what the batched pass computes with.
    Single,
}

/// Width of what one layer keeps of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Key-value heads.
    pub heads: usize,
    /// Elements of one head's key.
    pub key_width: usize,
    /// Elements of one head's value.
    pub value_width: usize,
}

/// Positions that get their memory together.
const BLOCK: usize = 64;

/// Rows of numbers of some neighbouring positions: for each sequence and head [`BLOCK`] of them.
#[derive(Clone, Debug)]
enum Block {
    Half(Vec<f16>),
    Single(Vec<f32>),
}

impl Block {
    fn new(precision: CachePrecision, len: usize) -> Self {
        match precision {
            CachePrecision::Half => Self::Half(vec![f16::ZERO; len]),
            CachePrecision::Single => Self::Single(vec![0.0; len]),
        }
    }

    fn write(&mut self, at: usize, row: &[f32]) {
        let end = at + row.len();
        match self {
            Self::Half(values) => {
                if let Some(slot) = values.get_mut(at..end) {
                    slot.convert_from_f32_slice(row);
                }
            }
            Self::Single(values) => {
                if let Some(slot) = values.get_mut(at..end) {
                    slot.copy_from_slice(row);
                }
            }
        }
    }

    fn read(&self, at: usize, out: &mut [f32]) {
        let end = at + out.len();
        match self {
            Self::Half(values) => {
                if let Some(slot) = values.get(at..end) {
                    widen(slot, out);
                }
            }
            Self::Single(values) => {
                if let Some(slot) = values.get(at..end) {
                    out.copy_from_slice(slot);
                }
            }
        }
    }
}

/// The keys or the values of one layer.
#[derive(Clone, Debug)]
struct Store {
    precision: CachePrecision,
    width: usize,
    /// Sequences times heads.
    lines: usize,
    /// Made when their first position is stored.
    blocks: Vec<Block>,
}

impl Store {
    /// `None` if `positions` of them overflow.
    fn new(precision: CachePrecision, width: usize, lines: usize, positions: usize) -> Option<Self> {
        let block = lines.checked_mul(width)?.checked_mul(BLOCK)?;
        block.checked_mul(positions.div_ceil(BLOCK))?.checked_mul(size_of::<f32>())?;
        Some(Self { precision, width, lines, blocks: Vec::new() })
    }

    /// Writes the row of a line at a position below those that `new` was told.
    fn write(&mut self, line: usize, position: usize, row: &[f32]) {
        while self.blocks.len() <= position / BLOCK {
            self.blocks.push(Block::new(self.precision, self.lines * self.width * BLOCK));
        }
        if let Some(block) = self.blocks.get_mut(position / BLOCK) {
            block.write((line * BLOCK + position % BLOCK) * self.width, row);
        }
    }

    /// Reads rows of a line from position `first` on, as many as `out` has room for; zeros where nothing was stored.
    fn read(&self, line: usize, first: usize, out: &mut [f32]) {
        let (mut position, mut rest) = (first, out);
        while !rest.is_empty() && self.width > 0 {
            let count = (BLOCK - position % BLOCK).min(rest.len().div_ceil(self.width));
            let (here, others) = rest.split_at_mut((count * self.width).min(rest.len()));
            match self.blocks.get(position / BLOCK) {
                Some(block) => block.read((line * BLOCK + position % BLOCK) * self.width, here),
                None => here.fill(0.0),
            }
            (position, rest) = (position + count, others);
        }
    }
}

/// Keys and values of one layer: for each sequence and head one row per position. Memory is taken as positions are used.
#[derive(Clone, Debug)]
pub struct LayerCache {
    shape: CacheShape,
    sequences: usize,
    context: usize,
    keys: Store,
    values: Store,
}

impl LayerCache {
    /// Room for `context` tokens of `sequences` sequences; `None` if the size overflows.
    pub fn new(
        shape: CacheShape,
        sequences: usize,
        context: usize,
        precision: CachePrecision,
    ) -> Option<Self> {
        let lines = sequences.checked_mul(shape.heads)?;
        let keys = Store::new(precision, shape.key_width, lines, context)?;
        let values = Store::new(precision, shape.value_width, lines, context)?;
        Some(Self { shape, sequences, context, keys, values })
    }

    /// Width of the rows.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Positions of each sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    fn line(&self, sequence: usize, head: usize) -> usize {
        sequence * self.shape.heads + head
    }

    /// Stores the keys and values of one token: all heads one after another.
    pub fn store(
        &mut self,
        sequence: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), ModelError> {
        let CacheShape { heads, key_width, value_width } = self.shape;
        if sequence >= self.sequences || position >= self.context {
            return Err(ModelError::request(
                "key-value cache",
                format!("sequence below {} and position below {}", self.sequences, self.context),
                format!("sequence {sequence}, position {position}"),
            ));
        }
        if key.len() != heads * key_width || value.len() != heads * value_width {
            return Err(ModelError::request(
                "key-value cache",
                format!("{heads} keys of {key_width} and values of {value_width}"),
                format!("{} and {} elements", key.len(), value.len()),
            ));
        }
        let per_head = key.chunks_exact(key_width.max(1)).zip(value.chunks_exact(value_width.max(1)));
        for (head, (key, value)) in per_head.enumerate() {
            let line = self.line(sequence, head);
            self.keys.write(line, position, key);
            self.values.write(line, position, value);
        }
        Ok(())
    }

    /// Reads the keys of one head from position `first` on: as many as `out` has room for.
    pub fn load_keys(&self, sequence: usize, head: usize, first: usize, out: &mut [f32]) {
        self.keys.read(self.line(sequence, head), first, out);
    }

    /// Reads the values of one head from position `first` on: as many as `out` has room for.
    pub fn load_values(&self, sequence: usize, head: usize, first: usize, out: &mut [f32]) {
        self.values.read(self.line(sequence, head), first, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_across_blocks_and_memory_follows_use() {
        let shape = CacheShape { heads: 2, key_width: 3, value_width: 5 };
        for precision in [CachePrecision::Half, CachePrecision::Single] {
            let mut cache = LayerCache::new(shape, 2, 1000, precision).unwrap();
            let value = |sequence: usize, position: usize, at: usize| (sequence * 512 + position + at) as f32;
            for position in 0..150 {
                for sequence in 0..2 {
                    let row = |len: usize| -> Vec<f32> {
                        (0..len).map(|at| value(sequence, position, at)).collect()
                    };
                    cache.store(sequence, position, &row(6), &row(10)).unwrap();
                }
            }
            assert_eq!((cache.keys.blocks.len(), cache.values.blocks.len()), (3, 3));
            let mut keys = vec![9.0; 3 * 200];
            cache.load_keys(1, 1, 10, &mut keys);
            for (index, key) in keys.iter().enumerate() {
                let position = 10 + index / 3;
                let expected = if position < 150 { value(1, position, 3 + index % 3) } else { 0.0 };
                assert_eq!(*key, expected, "{index}");
            }
            let mut values = vec![9.0; 5];
            cache.load_values(0, 0, 149, &mut values);
            assert_eq!(values, [149.0, 150.0, 151.0, 152.0, 153.0]);
            assert!(cache.store(0, 1000, &[0.0; 6], &[0.0; 10]).is_err());
        }
        assert!(LayerCache::new(shape, 1 << 31, usize::MAX / 8, CachePrecision::Half).is_none());
    }
}
