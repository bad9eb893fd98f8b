//! The escapes of a tile, read fast.
//!
//! Same list and same refusals as `Matrix::escapes`, which defines them. An escape costs a few nanoseconds and a
//! tile's thousands of weights not much more, so this loop counts: one 64-bit window holds nearly every escape whole.

use super::plan::PreparedMatrix;
use crate::payload::{ErrorKind, PayloadError};

/// An addend for one integer of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileEscape {
    /// Row of the tile.
    pub(super) row: usize,
    /// Stream position.
    pub(super) position: usize,
    /// A multiple of 4.
    pub(super) addend: i32,
}

/// Largest gap parameter and exponent of the format.
pub(super) const MOST_GAP_BITS: u32 = 24;
pub(super) const MOST_EXPONENT: u32 = 22;
/// Bits of a window that are valid whatever bit of a byte it starts at.
pub(super) const WINDOW_BITS: u32 = 57;
/// Escapes that are read from one window: of 13 bits each, most often.
pub(super) const SEVERAL: usize = 3;
/// Fraction bits of the reciprocal that divides by the number of steps: exact for numbers below 2^32 and divisors
/// up to 256.
const RECIPROCAL_BITS: u32 = 40;

impl PreparedMatrix<'_> {
    /// Calls `visit` for each escape of `tile` in stream order.
    ///
    /// # Errors
    /// As `Matrix::escapes`.
    pub(super) fn visit_escapes(
        &self,
        tile: usize,
        visit: impl FnMut(TileEscape),
    ) -> Result<(), PayloadError> {
        self.visit_rest(tile, EscapeList::new(self, tile), visit)
    }

    /// The same from where `list`, that of `tile`, stands.
    pub(super) fn visit_rest(
        &self,
        tile: usize,
        mut list: EscapeList<'_>,
        mut visit: impl FnMut(TileEscape),
    ) -> Result<(), PayloadError> {
        if list.gap_bits > MOST_GAP_BITS {
            return Err(self.refusal(tile));
        }
        let place = Place::new(self, tile);
        // Several at a time: each waits for the length of the one before, and for a window if that were loaded anew.
        loop {
            let several = match list.before_end() {
                true => list.several(),
                false => None,
            };
            if let Some((escapes, used)) = several {
                for (gap, code) in escapes {
                    if list.take(&place, gap, code, &mut visit).is_none() {
                        return Err(self.refusal(tile));
                    }
                }
                list.at += used as usize;
                continue;
            }
            match list.visit_one(&place, &mut visit) {
                Some(true) => {}
                Some(false) => return Ok(()),
                None => return Err(self.refusal(tile)),
            }
        }
    }

    /// The refusal of the definition for a tile with damaged escapes.
    #[cold]
    fn refusal(&self, tile: usize) -> PayloadError {
        let definition = self.matrix.escapes(tile).find_map(Result::err);
        let at = self.matrix.tile(tile).offset;
        definition.unwrap_or_else(|| PayloadError::new(ErrorKind::BadEscape, at, "escapes in order"))
    }
}

/// The escapes of a tile that are still to be visited: bits, least significant first. Past the end there are zeros.
#[derive(Clone, Copy, Default)]
pub(super) struct EscapeList<'b> {
    /// Behind the gap parameter.
    pub(super) bytes: &'b [u8],
    pub(super) gap_bits: u32,
    /// Next bit.
    pub(super) at: usize,
    /// First symbol behind the escapes visited.
    pub(super) next: u64,
    /// Not so for a tile without escapes.
    is_there: bool,
}

impl<'b> EscapeList<'b> {
    pub(super) fn new(plan: &'b PreparedMatrix<'_>, tile: usize) -> Self {
        match plan.matrix.tile(tile).escapes.split_first() {
            Some((&gap_bits, bytes)) => {
                Self { bytes, gap_bits: u32::from(gap_bits), at: 0, next: 0, is_there: true }
            }
            None => Self::default(),
        }
    }

    /// Whether a whole window is ahead.
    #[inline]
    fn before_end(&self) -> bool {
        self.at + 64 <= 8 * self.bytes.len()
    }

    /// Visits an escape that leaves out `gap` symbols. `None` if there is no weight.
    #[inline]
    fn take(&mut self, place: &Place, gap: u64, code: u32, visit: &mut impl FnMut(TileEscape)) -> Option<()> {
        let (row, position) = place.of(self.next + gap)?;
        self.next += gap + 1;
        let addend = 4 * ((code >> 1) as i32 ^ -((code & 1) as i32));
        visit(TileEscape { row, position, addend });
        Some(())
    }

    /// Visits the next escape, however long. False at the end of the list, `None` if the list is malformed.
    fn visit_one(&mut self, place: &Place, visit: &mut impl FnMut(TileEscape)) -> Option<bool> {
        let end = 8 * self.bytes.len();
        if !self.is_there {
            return Some(false);
        }
        let window = self.window(self.at);
        // A list that is there holds one escape at least.
        if window == 0 && self.at + 8 > end && self.at > 0 {
            return Some(false);
        }
        let (gap, code, after) = match self.escape(window) {
            Some((gap, code, used)) => (gap, code, self.at + used as usize),
            None => self.long_escape(self.at)?,
        };
        if after > end {
            return None;
        }
        self.take(place, gap, code, visit)?;
        self.at = after;
        Some(true)
    }

    /// The next [`WINDOW_BITS`] bits at least.
    #[inline]
    fn window(&self, at: usize) -> u64 {
        let word = match self.bytes.get(at / 8..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(word) => u64::from_le_bytes(*word),
            None => self.last_word(at),
        };
        word >> (at % 8)
    }

    #[cold]
    fn last_word(&self, at: usize) -> u64 {
        let rest = self.bytes.get(at / 8..).unwrap_or(&[]);
        rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// Gap, value code and length of the escape that `window` starts with. Of a window that does not hold it whole, the
    /// length is more than that of a window, and the others are any numbers.
    #[inline]
    fn parse(&self, window: u64) -> (u64, u32, u32) {
        let quotient = window.trailing_zeros();
        let low = window.wrapping_shr(quotient) >> 1;
        let rest = low >> self.gap_bits;
        let exponent = rest.trailing_zeros();
        let gap = u64::from(quotient) << self.gap_bits | (low & ((1 << self.gap_bits) - 1));
        let code = 1u32.wrapping_shl(exponent);
        let code = code | (rest.wrapping_shr(exponent) >> 1) as u32 & code.wrapping_sub(1);
        let malformed = if exponent > MOST_EXPONENT { 64 } else { 0 };
        (gap, code, quotient + 1 + self.gap_bits + 2 * exponent + 1 + malformed)
    }

    /// The same if the window holds the escape whole.
    #[inline]
    fn escape(&self, window: u64) -> Option<(u64, u32, u32)> {
        let (gap, code, used) = self.parse(window);
        (used <= WINDOW_BITS).then_some((gap, code, used))
    }

    /// Gaps and value codes of the next [`SEVERAL`] escapes, and their length together; `None` if one window does not hold
    /// them all.
    #[inline]
    fn several(&self) -> Option<([(u64, u32); SEVERAL], u32)> {
        let (mut window, mut all) = (self.window(self.at), 0);
        let escapes = std::array::from_fn(|_| {
            let (gap, code, used) = self.parse(window);
            window = window.wrapping_shr(used);
            all += used;
            (gap, code)
        });
        // Lengths only add up: if one escape was not whole, or began behind the window's end, they are too many.
        (all <= WINDOW_BITS).then_some((escapes, all))
    }

    /// Gap, value code and end of any escape; `None` if it is malformed.
    #[cold]
    fn long_escape(&self, at: usize) -> Option<(u64, u32, usize)> {
        let (quotient, at) = self.unary(at)?;
        let (low, at) = self.number(at, self.gap_bits)?;
        let (exponent, at) = self.unary(at)?;
        if exponent > u64::from(MOST_EXPONENT) {
            return None;
        }
        let (low_code, at) = self.number(at, exponent as u32)?;
        Some(((quotient << self.gap_bits) + u64::from(low), (1 << exponent) + low_code, at))
    }

    fn unary(&self, start: usize) -> Option<(u64, usize)> {
        let mut at = start;
        while at < 8 * self.bytes.len() {
            let window = self.window(at);
            if window != 0 {
                at += window.trailing_zeros() as usize + 1;
                return Some(((at - start - 1) as u64, at));
            }
            at += 8 - at % 8;
        }
        None
    }

    fn number(&self, at: usize, count: u32) -> Option<(u32, usize)> {
        let value = self.window(at) & ((1 << count) - 1);
        let end = at + count as usize;
        (end <= 8 * self.bytes.len()).then_some((value as u32, end))
    }
}

/// Where products of escapes go.
pub(super) struct EscapeSums<'s> {
    /// That of all tiles.
    pub(super) place: Place,
    /// Activation of each stream position.
    pub(super) floats: &'s [f32],
    /// Sums of the rows of all tiles.
    pub(super) rows: &'s mut [f32],
    /// Rows from one tile to the next.
    pub(super) height: usize,
}

/// Where the symbols of a tile stand.
pub(super) struct Place {
    reciprocal: u64,
    pub(super) steps: u64,
    /// Logarithm of the columns of a chunk.
    pub(super) width_bits: u32,
    pub(super) rows: usize,
    /// Those of columns that are there.
    pub(super) positions: std::ops::Range<usize>,
}

impl Place {
    pub(super) fn new(plan: &PreparedMatrix<'_>, tile: usize) -> Self {
        let geometry = plan.geometry();
        let steps = geometry.steps_in_tile(plan.rows(), tile) as u64;
        Self {
            reciprocal: (1u64 << RECIPROCAL_BITS).div_ceil(steps),
            steps,
            width_bits: geometry.columns_per_chunk().trailing_zeros(),
            rows: geometry.rows_in_tile(plan.rows(), tile),
            positions: plan.padding..plan.matrix.stream_length(),
        }
    }

    /// Row and stream position of a symbol, if there is a weight.
    #[inline]
    fn of(&self, symbol: u64) -> Option<(usize, usize)> {
        let step_of_all = symbol >> 6;
        if step_of_all >= 1 << 32 {
            return None;
        }
        // The product has up to 72 bits.
        let chunk = ((u128::from(step_of_all) * u128::from(self.reciprocal)) >> RECIPROCAL_BITS) as u64;
        let step = (step_of_all - chunk * self.steps) as usize;
        let lane = (symbol & 63) as usize;
        let position = ((chunk as usize) << self.width_bits) + (lane & ((1 << self.width_bits) - 1));
        let row = (step << (6 - self.width_bits)) + (lane >> self.width_bits);
        (self.positions.contains(&position) && row < self.rows).then_some((row, position))
    }
}
