//! Matrix times vector, straight from the coded form.

use super::activations::{Activations, Rounding};
use super::dispatch::{self, Dot};
use super::error::{require, KernelError};
use super::escapes::{EscapeList, EscapeSums, Place};
use super::halves;
use super::pass::padded_steps;
use super::plan::PreparedMatrix;
use super::scratch::{bytes_for, Carver};
use super::stream::{corrupt, fetch_start, tail_bytes, TileState};
use crate::payload::{PayloadError, MAX_INTEGER};
use std::ops::Range;

/// i32 accumulators of one tile and term; the odd cache lines keep tiles apart in the cache.
const fn accumulator_stride(steps: usize) -> usize {
    16 * padded_steps(steps) + 16 * 5
}

/// Largest magnitude that an escape can add whatever integer it is added to.
pub(super) const SAFE_ADDEND: i32 = MAX_INTEGER - 255;

impl PreparedMatrix<'_> {
    /// Scratch bytes that [`Self::matvec`] needs, for any range of tiles.
    pub fn matvec_scratch(&self, rounding: Rounding) -> usize {
        let terms = rounding.terms();
        if rounding == Rounding::Mixed {
            return self.product_scratch(1, rounding);
        }
        let (steps, tiles) = (self.most_steps(), self.most_tiles());
        bytes_for::<i32>(tiles * terms * accumulator_stride(steps))
            + bytes_for::<f32>(tiles * terms * self.sums_per_tile())
            + tiles * bytes_for::<u8>(tail_bytes(steps))
    }

    fn sums_per_tile(&self) -> usize {
        padded_steps(self.most_steps()) * self.geometry().rows_per_step()
    }

    /// Product of the rows of `tiles` with one prepared vector: `y` has one element for each of these rows.
    ///
    /// The result is the same on every instruction set, bit for bit. With D(g) the exact integer dot product of the
    /// row's unescaped integers and q over group g, and all operations in f32 with one rounding each, that of D
    /// included:
    /// `S = ((0 + s(0) * D(0)) + s(1) * D(1)) + …` over the groups in order, with two terms the sum of one S for each;
    /// `E = (0 + addend * x'[p]) + …` over the row's escapes in stream order; `y = S + E`, times the row's scale if the
    /// matrix has row scales.
    ///
    /// # Errors
    /// [`KernelError`]; of several damaged tiles the first is named.
    pub fn matvec(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_tiles(&tiles)?;
        activations.fits(self)?;
        require("vectors in the batch", 1, activations.batch)?;
        require("results", self.rows_of(tiles.clone()).len(), y.len())?;
        if activations.rounding == Rounding::Mixed {
            return self.matmul_batch(tiles, activations, y, scratch);
        }
        if self.matrix.tile_count() == 0 {
            y.fill(0.0);
            return Ok(());
        }
        let mut y = y;
        self.for_each_group(tiles, |group| {
            let (here, rest) = std::mem::take(&mut y).split_at_mut(self.rows_of(group.clone()).len());
            y = rest;
            self.matvec_group(group, activations, here, scratch)
        })
    }

    pub(super) fn check_tiles(&self, tiles: &Range<usize>) -> Result<(), KernelError> {
        if tiles.start > tiles.end || tiles.end > self.tiles() {
            return Err(KernelError::Shape { what: "tile range", expected: self.tiles(), got: tiles.end });
        }
        Ok(())
    }

    /// Cuts `tiles` into groups of equal numbers of steps that are decoded in turn, as even in size as can be.
    pub(super) fn for_each_group(
        &self,
        tiles: Range<usize>,
        mut work: impl FnMut(Range<usize>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let full = self.rows() / self.geometry().rows_per_tile();
        let full_end = tiles.end.min(full.max(tiles.start));
        let most = self.tiles_at_once();
        let mut start = tiles.start;
        let mut groups = (full_end - start).div_ceil(most);
        while groups > 0 {
            let end = start + (full_end - start).div_ceil(groups);
            work(start..end)?;
            start = end;
            groups -= 1;
        }
        if start < tiles.end {
            work(start..tiles.end)?;
        }
        Ok(())
    }

    fn matvec_group(
        &self,
        tiles: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let count = tiles.len();
        let geometry = self.geometry();
        let (width, rows_per_step) = (geometry.columns_per_chunk(), geometry.rows_per_step());
        let steps = geometry.steps_in_tile(self.rows(), tiles.start);
        let terms = activations.rounding.terms();
        let term_stride = accumulator_stride(steps);
        let tile_stride = terms * term_stride;
        let per_term = padded_steps(steps) * rows_per_step;
        let mut carver = Carver::new(scratch, self.matvec_scratch(activations.rounding))?;
        let accumulators = carver.take::<i32>(count * tile_stride);
        // By tile, term and row.
        let sums = carver.take::<f32>(count * terms * per_term);
        sums.fill(0.0);
        let mut states = dispatch::States::new();
        for tile in tiles.clone() {
            states.push(TileState::new(self, tile, carver.take::<u8>(tail_bytes(steps))));
            fetch_start(self.matrix.tile(tile).escapes);
        }
        let states = states.as_mut_slice();

        let used = 16 * padded_steps(steps);
        // The first chunk of each group sets all of them but those of the steps that pad.
        if padded_steps(steps) > steps {
            accumulators.fill(0);
        }
        let group_chunks = self.chunks_per_group(activations.rounding);
        let last = self.matrix.stream_length() / width;
        let uses_halves = dispatch::uses_halves(self.isa);
        // What the accumulators hold.
        let mut in_halves = false;
        for class in &self.classes {
            let halves = uses_halves && class.halves;
            let (mut chunk, end) = (class.first_chunk, class.first_chunk + class.chunks);
            while chunk < end {
                let group = chunk / group_chunks;
                let stop = end.min((group + 1) * group_chunks);
                let of_group = group * terms..(group + 1) * terms;
                let begins = chunk % group_chunks == 0;
                if halves != in_halves && !begins {
                    for accumulators in accumulators.chunks_mut(term_stride) {
                        match halves {
                            false => dispatch::to_integers(self.isa, &mut accumulators[..used], steps),
                            true => halves::convert(&mut accumulators[..used], steps, true),
                        }
                    }
                }
                in_halves = halves;
                let start = begins.then(|| {
                    let of_term = |term: usize| {
                        let at = of_group.start + term.min(terms - 1);
                        match uses_halves {
                            false => [activations.corrections[at]; 2],
                            true if halves => halves::of_integers(activations.corrections_of_halves[at]),
                            true => activations.corrections_of_halves[at],
                        }
                    };
                    std::array::from_fn(of_term)
                });
                let operands = Dot {
                    activations: &activations.integers[chunk * width * terms..stop * width * terms],
                    terms,
                    start,
                    accumulators,
                    tile_stride,
                    term_stride,
                };
                dispatch::dot(self.isa, class, stop - chunk, steps, states, operands);
                if stop % group_chunks == 0 || stop == last {
                    if in_halves && width < 16 {
                        // Kernels know halves of rows in a register of their own only.
                        for accumulators in accumulators.chunks_mut(term_stride) {
                            dispatch::to_integers(self.isa, &mut accumulators[..used], steps);
                        }
                        in_halves = false;
                    }
                    // Tiles and terms alike.
                    let scales = activations.scales[of_group].iter().cycle();
                    let parts = accumulators.chunks(term_stride).zip(sums.chunks_mut(per_term));
                    for ((accumulators, sums), &scale) in parts.zip(scales) {
                        dispatch::flush(self.isa, &accumulators[..used], width, in_halves, scale, sums);
                    }
                }
                chunk = stop;
            }
        }

        if !states.iter().all(|state| state.complete()) {
            return Err(self.first_error(tiles));
        }
        self.add_all_escapes(tiles.clone(), activations.floats, y)?;
        let height = geometry.rows_per_tile();
        let mut y = y;
        for (tile, sums) in tiles.zip(sums.chunks(terms * per_term)) {
            let rows = geometry.rows_in_tile(self.rows(), tile);
            let (here, rest) = y.split_at_mut(rows);
            y = rest;
            let (first, rest) = sums.split_at(per_term);
            if rest.is_empty() {
                here.iter_mut().zip(first).for_each(|(value, sum)| *value += sum);
            } else {
                for (value, (first, second)) in here.iter_mut().zip(first.iter().zip(rest)) {
                    *value += first + second;
                }
            }
            if let Some(scales) = self.matrix.row_scales() {
                let first = tile * height;
                for (value, scale) in here.iter_mut().zip(&scales[first..]) {
                    *value *= scale;
                }
            }
        }
        Ok(())
    }

    /// Sets `y` to the products of the escapes of `tiles`, which have equal numbers of steps.
    fn add_all_escapes(&self, tiles: Range<usize>, floats: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        y.fill(0.0);
        let mut lists = [EscapeList::default(); dispatch::MOST_TILES];
        let lists = &mut lists[..tiles.len()];
        for (list, tile) in lists.iter_mut().zip(tiles.clone()) {
            *list = EscapeList::new(self, tile);
        }
        let height = self.geometry().rows_per_tile();
        let mut sums = EscapeSums { place: Place::new(self, tiles.start), floats, rows: y, height };
        let mut doubtful = dispatch::add_escapes(self.isa, lists, &mut sums);
        for ((tile, &mut list), y) in tiles.clone().zip(lists).zip(y.chunks_mut(height)) {
            let rest = self.visit_rest(tile, list, |escape| {
                doubtful |= escape.addend.abs() > SAFE_ADDEND;
                y[escape.row] += escape.addend as f32 * floats[escape.position];
            });
            if rest.is_err() {
                return Err(self.first_error(tiles));
            }
        }
        if doubtful && tiles.clone().any(|tile| self.matrix.check_tile(tile).is_err()) {
            return Err(self.first_error(tiles));
        }
        Ok(())
    }

    /// Calls `add` with (row of the tile, stream position, addend) for each escape of `tile`.
    pub(super) fn add_escapes(
        &self,
        tile: usize,
        mut add: impl FnMut(usize, usize, f32),
    ) -> Result<(), PayloadError> {
        let mut doubtful = false;
        self.visit_escapes(tile, |escape| {
            doubtful |= escape.addend.abs() > SAFE_ADDEND;
            add(escape.row, escape.position, escape.addend as f32);
        })?;
        if doubtful {
            self.matrix.check_tile(tile)?;
        }
        Ok(())
    }

    /// The first refusal of the scalar definition for damaged `tiles`: the same on every instruction set.
    #[cold]
    pub(super) fn first_error(&self, tiles: Range<usize>) -> KernelError {
        let refusal = tiles.clone().find_map(|tile| self.matrix.check_tile(tile).err());
        refusal.unwrap_or_else(|| corrupt(&self.matrix.tile(tiles.start))).into()
    }

    /// Multiplies all rows with one vector, on `threads` threads; convenience for programs without threads of their
    /// own. Allocates its working memory.
    ///
    /// # Errors
    /// As [`Self::matvec`].
    pub fn matvec_threads(&self, x: &[f32], y: &mut [f32], threads: usize) -> Result<(), KernelError> {
        require("results", self.rows(), y.len())?;
        let rounding = Rounding::OneTerm;
        let mut buffer = vec![0; self.activation_bytes(1, rounding)];
        let activations = self.prepare(x, 1, rounding, &mut buffer)?;
        let mut rest = y;
        let shares = self.shares(threads).map(|tiles| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(self.rows_of(tiles.clone()).len());
            rest = after;
            (tiles, here)
        });
        on_threads(shares.collect(), |tiles, y| {
            self.matvec(tiles, &activations, y, &mut vec![0; self.matvec_scratch(rounding)])
        })
    }

    /// Cuts all tiles into one contiguous share for each of `threads` threads, at most as many as there are tiles.
    pub(super) fn shares(&self, threads: usize) -> impl Iterator<Item = Range<usize>> {
        let tiles = self.tiles();
        let threads = threads.clamp(1, tiles);
        (0..threads).map(move |thread| tiles * thread / threads..tiles * (thread + 1) / threads)
    }
}

/// Runs `work` on every share, each on a thread of its own. The first error in order is returned.
pub(super) fn on_threads<S: Send>(
    mut shares: Vec<(Range<usize>, S)>,
    work: impl Fn(Range<usize>, S) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    let Some((tiles, last)) = shares.pop() else { return Ok(()) };
    std::thread::scope(|scope| {
        let work = &work;
        let spawn = |(tiles, share)| scope.spawn(move || work(tiles, share));
        let handles: Vec<_> = shares.into_iter().map(spawn).collect();
        // The calling thread takes the last share.
        let own = work(tiles, last);
        let mut verdict = Ok(());
        for handle in handles {
            match handle.join() {
                Ok(result) => verdict = verdict.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        verdict.and(own)
    })
}
