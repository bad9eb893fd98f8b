//! Keys and values of past tokens.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::error::ModelError;

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

#[derive(Clone, Debug)]
enum Store {
    Half(Vec<f16>),
    Single(Vec<f32>),
}

impl Store {
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
                    slot.convert_to_f32_slice(out);
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

/// Keys and values of one layer: for each sequence and head one row per position.
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
        let rows = sequences.checked_mul(context)?.checked_mul(shape.heads)?;
        let keys = Store::new(precision, rows.checked_mul(shape.key_width)?);
        let values = Store::new(precision, rows.checked_mul(shape.value_width)?);
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

    fn row(&self, sequence: usize, head: usize, position: usize) -> usize {
        (sequence * self.shape.heads + head) * self.context + position
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
            let row = self.row(sequence, head, position);
            self.keys.write(row * key_width, key);
            self.values.write(row * value_width, value);
        }
        Ok(())
    }

    /// Reads the first positions of one head: as many as `keys` and `values` have rows.
    pub fn load(&self, sequence: usize, head: usize, keys: &mut [f32], values: &mut [f32]) {
        let row = self.row(sequence, head, 0);
        self.keys.read(row * self.shape.key_width, keys);
        self.values.read(row * self.shape.value_width, values);
    }
}
