//! The scalar tile decoder: the definition of the format (spec section "Tiles").

use super::bits::BitReader;
use super::error::{ErrorKind, PayloadError};
use super::layout::{FINAL_STATE, MAX_ESCAPE_EXPONENT, MAX_GAP_BITS, STATE_BYTES};
use super::open::{Matrix, PADDING};
use super::side::unzigzag;
use super::{LANES, MAX_INTEGER};

/// The bytes of one tile.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// Raw plane, initial states, renormalisation bytes.
    pub stream: &'a [u8],
    /// Escapes.
    pub escapes: &'a [u8],
    /// Offset of the tile in the payload.
    pub offset: usize,
}

/// One escape: `addend` is added to the integer at (row of the tile, stream position).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape {
    /// Chunk-major position of the symbol: (chunk * steps + step) * 64 + lane.
    pub symbol: u64,
    /// Row inside the tile.
    pub row: usize,
    /// Stream position (chunk * columns per chunk + column of the chunk).
    pub position: usize,
    /// A multiple of 4, not zero.
    pub addend: i32,
}

/// Reads the escapes of one tile in order, each checked.
#[derive(Clone, Debug)]
pub struct Escapes<'m, 'a> {
    matrix: &'m Matrix<'a>,
    bits: BitReader<'a>,
    /// Low bits of a gap that follow its unary part; `None` before the first and after the last escape.
    gap_bits: Option<u32>,
    /// Whether no escape was read yet: a list holds at least one.
    first: bool,
    offset: usize,
    next: u64,
    steps: usize,
    rows: usize,
}

impl Escapes<'_, '_> {
    fn read(&mut self, gap_bits: u32) -> Option<Escape> {
        let quotient = self.bits.unary()?;
        let gap = (quotient << gap_bits) + u64::from(self.bits.take(gap_bits)?);
        let exponent = u32::try_from(self.bits.unary()?).ok().filter(|&e| e <= MAX_ESCAPE_EXPONENT)?;
        let code = (1 << exponent) + self.bits.take(exponent)?;
        let symbol = self.next + gap;
        self.next = symbol + 1;
        let geometry = self.matrix.geometry;
        let (width, lane) = (geometry.columns_per_chunk(), (symbol % LANES as u64) as usize);
        let step_of_all = symbol / LANES as u64;
        let chunk = step_of_all / self.steps as u64;
        let step = (step_of_all % self.steps as u64) as usize;
        let position = usize::try_from(chunk).ok()?.checked_mul(width)?.checked_add(lane % width)?;
        let row = step * geometry.rows_per_step() + lane / width;
        let input = *self.matrix.stream_inputs.get(position)?;
        let addend = 4 * unzigzag(code);
        (input != PADDING && row < self.rows).then_some(Escape { symbol, row, position, addend })
    }
}

impl Iterator for Escapes<'_, '_> {
    type Item = Result<Escape, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let gap_bits = self.gap_bits?;
        if !self.first && self.bits.only_padding() {
            self.gap_bits = None;
            return None;
        }
        self.first = false;
        let at = self.offset + self.bits.byte();
        let escape = if gap_bits <= MAX_GAP_BITS { self.read(gap_bits) } else { None };
        if escape.is_none() {
            self.gap_bits = None;
        }
        let expected = "escapes in rising order, each at a weight";
        Some(escape.ok_or_else(|| PayloadError::new(ErrorKind::BadEscape, at, expected)))
    }
}

impl<'a> Matrix<'a> {
    /// The escapes of tile `tile`.
    pub fn escapes(&self, tile: usize) -> Escapes<'_, 'a> {
        let Tile { stream, escapes, offset } = self.tile(tile);
        let (gap_bits, list) = match escapes.split_first() {
            Some((&first, rest)) => (Some(u32::from(first)), rest),
            None => (None, escapes),
        };
        Escapes {
            matrix: self,
            bits: BitReader::new(list),
            gap_bits,
            first: true,
            offset: offset + stream.len() + 1,
            next: 0,
            steps: self.geometry.steps_in_tile(self.rows, tile),
            rows: self.geometry.rows_in_tile(self.rows, tile),
        }
    }

    /// Integers of tile `tile`, row-major: `rows in the tile` x [`Self::stream_length`], padding columns 0.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptTile`] or [`ErrorKind::BadEscape`].
    ///
    /// # Panics
    /// If `tile` is not below [`Self::tile_count`], or `out` has another length.
    pub fn decode_tile(&self, tile: usize, out: &mut [i32]) -> Result<(), PayloadError> {
        let rows = self.geometry.rows_in_tile(self.rows, tile);
        let width = self.stream_inputs.len();
        assert!(tile < self.tile_count() && out.len() == rows * width, "a buffer of the tile's size");
        let (rows_per_step, per_chunk) = (self.geometry.rows_per_step(), self.geometry.columns_per_chunk());
        self.decode_symbols(tile, |chunk, step, integers| {
            for (lane, &integer) in integers.iter().enumerate() {
                let row = step * rows_per_step + lane / per_chunk;
                let position = chunk * per_chunk + lane % per_chunk;
                if row < rows {
                    let present = self.stream_inputs[position] != PADDING;
                    out[row * width + position] = if present { integer } else { 0 };
                }
            }
        })?;
        for escape in self.escapes(tile) {
            let escape = escape?;
            let value = &mut out[escape.row * width + escape.position];
            // Addends are at most 2^24: no overflow.
            *value += escape.addend;
            if value.abs() > MAX_INTEGER {
                return Err(self.too_large(tile));
            }
        }
        Ok(())
    }

    fn too_large(&self, tile: usize) -> PayloadError {
        PayloadError::new(ErrorKind::BadEscape, self.tile(tile).offset, "integers below 2^23")
    }

    /// Refuses what [`Self::decode_tile`] refuses, with the same error, and needs no memory for integers.
    ///
    /// # Errors
    /// As [`Self::decode_tile`].
    ///
    /// # Panics
    /// If `tile` is not below [`Self::tile_count`].
    pub fn check_tile(&self, tile: usize) -> Result<(), PayloadError> {
        assert!(tile < self.tile_count(), "a tile of the matrix");
        let steps = self.geometry.steps_in_tile(self.rows, tile);
        // Escapes come in the order of the symbols.
        let mut escapes = self.escapes(tile).peekable();
        let mut legal = true;
        self.decode_symbols(tile, |chunk, step, integers| {
            let first = ((chunk * steps + step) * LANES) as u64;
            let here = |escape: &Result<Escape, _>| {
                escape.as_ref().is_ok_and(|escape| escape.symbol < first + LANES as u64)
            };
            while let Some(Ok(escape)) = escapes.next_if(here) {
                let integer = integers[(escape.symbol - first) as usize] + escape.addend;
                legal &= integer.abs() <= MAX_INTEGER;
            }
        })?;
        if !legal {
            return Err(self.too_large(tile));
        }
        // Escapes that are legal have been met.
        escapes.find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Calls `visit` with (chunk, step, integers of the lanes) in stream order.
    fn decode_symbols(
        &self,
        tile: usize,
        mut visit: impl FnMut(usize, usize, &[i32; LANES]),
    ) -> Result<(), PayloadError> {
        let steps = self.geometry.steps_in_tile(self.rows, tile);
        let Tile { stream, offset, .. } = self.tile(tile);
        let corrupt =
            || PayloadError::new(ErrorKind::CorruptTile, offset, "a tile that ends in its end state");
        let (raw_plane, coded) = stream.split_at(self.raw_plane_bytes(tile));
        let (states, renormalisation) = coded.split_at(STATE_BYTES);
        let mut raw_words = raw_plane.as_chunks::<8>().0.iter();
        let mut bytes = renormalisation.iter();
        let mut x = [0u32; LANES];
        for lane in 0..LANES {
            x[lane] = u32::from(states[lane]) << 8 | u32::from(states[LANES + lane]);
            if x[lane] < FINAL_STATE {
                return Err(corrupt());
            }
        }
        for class in &self.classes {
            let table = &class.table;
            for chunk in class.chunks() {
                let mut trellis_state = [0u8; LANES];
                let integers_in_symbol = if table.pairs().is_some() { 2 } else { 1 };
                for step in (0..steps).step_by(integers_in_symbol) {
                    let mut integers = [0i32; LANES];
                    let mut second = [0i32; LANES];
                    for lane in 0..LANES {
                        let slot = x[lane] & 255;
                        let parity = usize::from(trellis_state[lane] & 1);
                        let run = table.run_of_slot(parity)[slot as usize];
                        let entry = table.entries()[usize::from(run)];
                        let rank = slot - u32::from(entry.rank_base);
                        x[lane] = u32::from(entry.frequency) * (x[lane] >> 8) + rank;
                        if x[lane] < 256 {
                            let Some(&byte) = bytes.next() else { return Err(corrupt()) };
                            x[lane] = x[lane] << 8 | u32::from(byte);
                        }
                        integers[lane] = i32::from(entry.value);
                        second[lane] = i32::from(entry.second);
                    }
                    for bit in 0..table.raw_bits() {
                        let Some(word) = raw_words.next() else { return Err(corrupt()) };
                        for lane in 0..LANES {
                            integers[lane] += i32::from(word[lane >> 3] >> (lane & 7) & 1) << (bit + 1);
                        }
                    }
                    let mut finish = |step: usize, integers: &mut [i32; LANES]| {
                        for lane in 0..LANES {
                            integers[lane] -= table.offset();
                            trellis_state[lane] = self.trellis.next(trellis_state[lane], integers[lane]);
                        }
                        visit(chunk, step, integers);
                    };
                    finish(step, &mut integers);
                    if integers_in_symbol == 2 && step + 1 < steps {
                        finish(step + 1, &mut second);
                    }
                }
            }
        }
        if x.iter().any(|&state| state != FINAL_STATE) || bytes.next().is_some() {
            return Err(corrupt());
        }
        Ok(())
    }

    /// Weights of tile `tile`, row-major: `rows in the tile` x [`Self::columns`]; the order of operations is that of
    /// the specification's section "Reconstruction". `integers` is scratch that grows to the size of a tile.
    ///
    /// # Errors
    /// As [`Self::decode_tile`].
    ///
    /// # Panics
    /// If `tile` is not a tile of the matrix or `out` has another length. (`tile` may be below the number of tiles of
    /// the geometry when all columns are dead: the weights are zero then.)
    pub fn dequantize_tile(
        &self,
        tile: usize,
        integers: &mut Vec<i32>,
        out: &mut [f32],
    ) -> Result<(), PayloadError> {
        let rows = self.geometry.rows_in_tile(self.rows, tile);
        assert!(rows > 0 && out.len() == rows * self.columns, "a buffer of the tile's size");
        out.fill(0.0);
        let width = self.stream_inputs.len();
        if width == 0 {
            return Ok(());
        }
        integers.clear();
        integers.resize(rows * width, 0);
        self.decode_tile(tile, integers)?;
        let first_row = tile * self.geometry.rows_per_tile();
        for (row, (weights, integers)) in
            out.chunks_exact_mut(self.columns).zip(integers.chunks_exact(width)).enumerate()
        {
            for ((&input, &scale), &integer) in
                self.stream_inputs.iter().zip(&self.stream_scales).zip(integers)
            {
                if input != PADDING {
                    weights[input as usize] += scale * integer as f32;
                }
            }
            if let Some(scales) = &self.row_scales {
                let scale = scales[first_row + row];
                for weight in weights {
                    *weight *= scale;
                }
            }
        }
        Ok(())
    }
}
