//! Matrices of our type that multiply straight from the mapped file.

use super::form::{Budget, Form, Spent};
use super::on_demand::{multiply_floats, source_error, tokens_of, Located};
use super::shares::{multiply, shares, Share};
use super::tensor::open_payload;
use crate::kernels::{KernelError, Preparation, PreparedMatrix, Rounding, Scratch};
use crate::model::spread::spread;
use crate::model::{Beside, MatrixProduct, ModelError, TokenTable};
use crate::payload::Limits;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// How a quantized matrix multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Integers of the weights times activations rounded to integers: fast. Single tokens are rounded to two terms of
    /// eight bits ([`Rounding::TwoTerms`]), which is as good as floats; several at a time, a prompt, to eight bits and
    /// fifteen for outliers ([`Rounding::Mixed`]), but for the output head.
    #[default]
    Integer,
    /// The same with two terms for a prompt too, which takes up to half as long again.
    FineInteger,
    /// Weights become floats in passing and multiply floats: the products of the unpacked model, slower.
    Float,
}

/// Tokens whose activations are prepared at a time: for so many a tile is decoded once.
const TOKENS_AT_ONCE: usize = 256;
/// Bytes of rows that a table keeps of those looked up last.
const KEPT_BYTES: usize = 1 << 19;

self_cell::self_cell!(
    /// A matrix with the mapping that it borrows from.
    struct Mapped {
        owner: Located,
        #[covariant]
        dependent: Form,
    }
);

thread_local! {
    /// Working memory of this thread's kernel calls.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Calls a kernel with `bytes` bytes of working memory. Kernels do not call back, so the memory is never in use.
fn with_scratch<R>(bytes: usize, call: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.reserve(bytes);
        call(scratch.as_bytes())
    })
}

/// Numbers that a thread prepares in about the time that it takes to hand work over.
const NUMBERS_PER_PART: usize = 2048;

/// Prepares `numbers` activations on all threads.
fn run_parts(whole: Preparation<'_>, numbers: usize) {
    let mut parts = vec![whole];
    let threads = rayon::current_num_threads();
    let most = if threads > 1 { (2 * threads).min(numbers / NUMBERS_PER_PART) } else { 1 };
    while parts.len() < most {
        parts = parts.into_iter().flat_map(|part| <[_; 2]>::from(part.halves())).collect();
    }
    spread(parts, |mut part| part.run());
}

/// How many of `threads` threads fall to a matrix of `rows` rows beside others, with one vector at a time: fewer tiles in
/// turn decode slower, so a matrix is not cut for threads that others keep busy. All together get each thread once,
/// unless there are more matrices than threads.
fn threads_for(rows: usize, beside: Beside, threads: usize) -> usize {
    let all = beside.rows.max(1) as u128;
    // The thread in whose share a row begins, rounded to the nearest bound.
    let bound = |row: usize| ((row as u128 * threads as u128 + all / 2) / all) as usize;
    bound(beside.before.saturating_add(rows)).saturating_sub(bound(beside.before)).max(1)
}

/// Gives back all threads' working memory, which a prompt needs more of than single tokens do.
pub(super) fn release_scratch() {
    SCRATCH.set(Scratch::new());
    rayon::broadcast(|_| SCRATCH.set(Scratch::new()));
}

/// A matrix of a WSIC tensor. Besides the mapped bytes it keeps tables of some 20 bytes for each input feature, and its
/// integers if they are within the budget.
pub(super) struct FusedMatrix {
    mapped: Mapped,
    arithmetic: Arithmetic,
    /// What its integers cost.
    _spent: Option<Spent>,
}

impl FusedMatrix {
    /// Opens the tensor, which must hold one matrix. With a budget it is decoded if that suffices.
    pub(super) fn open(
        tensor: Located,
        arithmetic: Arithmetic,
        budget: Option<&Arc<Budget>>,
    ) -> Result<Self, ModelError> {
        let mut spent = None;
        let mapped = Mapped::try_new(tensor, |tensor| {
            let (file, info) = tensor.find()?;
            let payload = open_payload(file, info, &Limits::default())
                .map_err(|error| source_error(&tensor.tensor, error))?;
            match payload.matrices() {
                [matrix] => {
                    let form = Form::within(budget, PreparedMatrix::new(matrix));
                    let (form, cost) = form.map_err(|error| source_error(&tensor.tensor, error))?;
                    spent = cost;
                    Ok(form)
                }
                several => Err(ModelError::shape(&tensor.tensor, "one matrix", several.len())),
            }
        })?;
        Ok(Self { mapped, arithmetic, _spent: spent })
    }

    fn form(&self) -> &Form<'_> {
        self.mapped.borrow_dependent()
    }

    fn matrix(&self) -> &PreparedMatrix<'_> {
        self.form().plan()
    }

    fn error(&self, error: KernelError) -> ModelError {
        source_error(&self.mapped.borrow_owner().tensor, error)
    }

    /// Rows of a tile, but the last one.
    fn height(&self) -> usize {
        self.matrix().matrix().geometry().rows_per_tile()
    }

    fn read_tiles(&self, tiles: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let matrix = self.matrix();
        with_scratch(matrix.dequantize_scratch(), |scratch| matrix.dequantize_rows(tiles, out, scratch))
            .map_err(|error| self.error(error))
    }

    fn multiply_integers(&self, shares: &[Share], x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        let matrix = self.matrix();
        let tokens = x.len() / matrix.columns();
        let rounding = match self.arithmetic {
            // A vector alone costs but an eighth more with two terms.
            Arithmetic::Integer if tokens > 1 => Rounding::Mixed,
            _ => Rounding::TwoTerms,
        };
        let mut buffer = vec![0; matrix.activation_bytes(tokens, rounding)];
        let activations =
            matrix.prepare_by(x, tokens, rounding, &mut buffer, |whole| run_parts(whole, x.len()))?;
        let form = self.form();
        let scratch = form.matmul_scratch(tokens, rounding);
        multiply(shares, tokens, y, |share, y| {
            with_scratch(scratch, |scratch| form.matmul(share.units.clone(), &activations, y, scratch))
        })
    }

    /// Floats of rows given by number.
    fn rows_by_number(&self, rows: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
        let matrix = self.matrix();
        with_scratch(matrix.dequantize_scratch(), |scratch| matrix.get_rows(rows, out, scratch))
            .map_err(|error| self.error(error))
    }
}

impl MatrixProduct for FusedMatrix {
    fn rows(&self) -> usize {
        self.matrix().rows()
    }

    fn columns(&self) -> usize {
        self.matrix().columns()
    }

    fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<(), ModelError> {
        self.multiply_beside(x, y, Beside { before: 0, rows: self.rows() })
    }

    fn multiply_beside(&self, x: &[f32], y: &mut [f32], beside: Beside) -> Result<(), ModelError> {
        let (rows, columns) = (self.rows(), self.columns());
        let tokens = tokens_of(rows, columns, x, y)?;
        match self.arithmetic {
            Arithmetic::Integer | Arithmetic::FineInteger => {
                // Each result is the same whatever the cut.
                let threads = match tokens {
                    1 => threads_for(rows, beside, rayon::current_num_threads()),
                    _ => rayon::current_num_threads(),
                };
                let (units, at_once, height) = self.form().units();
                let shares = shares(units, at_once, height, rows, threads);
                let chunks = x.chunks(TOKENS_AT_ONCE * columns).zip(y.chunks_mut(TOKENS_AT_ONCE * rows));
                for (x, y) in chunks {
                    self.multiply_integers(&shares, x, y).map_err(|error| self.error(error))?;
                }
                Ok(())
            }
            Arithmetic::Float => {
                let shares: Vec<Share> = (0..self.matrix().tiles())
                    .map(|tile| Share { units: tile..tile + 1, rows: self.matrix().rows_of(tile..tile + 1) })
                    .collect();
                multiply_floats(&shares, columns, x, y, |share, out| {
                    self.read_tiles(share.units.clone(), out)
                })
            }
        }
    }
}

/// Number and floats of a row.
type KeptRow = (u32, Box<[f32]>);

/// A [`FusedMatrix`] with a row for each token.
pub(super) struct FusedTable {
    matrix: FusedMatrix,
    /// Rows looked up last, each at the place that its number gives modulo the number of places.
    kept: Mutex<Vec<Option<KeptRow>>>,
}

impl FusedTable {
    pub(super) fn new(mut matrix: FusedMatrix) -> Self {
        // Errors of logits are not evened out by anything after them, and a prompt needs those of one token only.
        if matrix.arithmetic == Arithmetic::Integer {
            matrix.arithmetic = Arithmetic::FineInteger;
        }
        let places = KEPT_BYTES / size_of::<f32>() / matrix.columns().max(1);
        Self { kept: Mutex::new(vec![None; places.max(1)]), matrix }
    }

    fn look_up_one(&self, token: u32, out: &mut [f32]) -> Result<(), ModelError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let places = kept.len();
        let Some(place) = kept.get_mut(token as usize % places) else { return Ok(()) };
        match place {
            Some((of, row)) if *of == token => out.copy_from_slice(row),
            _ => {
                self.matrix.rows_by_number(&[token], out)?;
                *place = Some((token, out.into()));
            }
        }
        Ok(())
    }
}

impl TokenTable for FusedTable {
    fn tokens(&self) -> usize {
        self.matrix.rows()
    }

    fn width(&self) -> usize {
        self.matrix.columns()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let numbers: Vec<u32> = rows.filter_map(|row| u32::try_from(row).ok()).collect();
        self.matrix.rows_by_number(&numbers, out)
    }

    fn look_up(&self, tokens: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
        if let &[token] = tokens {
            return self.look_up_one(token, out);
        }
        // Tokens of one tile together: it is decoded once for all of them.
        let (width, height) = (self.width(), self.matrix.height());
        let mut wanted = tokens.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let groups: Vec<&[u32]> =
            wanted.chunk_by(|&a, &b| a as usize / height == b as usize / height).collect();
        let rows: Vec<Result<Vec<f32>, ModelError>> = groups
            .into_par_iter()
            .map(|group| {
                let mut rows = vec![0.0; group.len() * width];
                self.matrix.rows_by_number(group, &mut rows).map(|()| rows)
            })
            .collect();
        let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        for (out, token) in out.chunks_exact_mut(width).zip(tokens) {
            if let Ok(at) = wanted.binary_search(token) {
                out.copy_from_slice(&rows[at * width..(at + 1) * width]);
            }
        }
        Ok(())
    }

    fn product(&self) -> Option<&dyn MatrixProduct> {
        Some(&self.matrix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_side_by_side_get_each_thread_once() {
        for threads in [1usize, 2, 3, 8, 16, 64] {
            for matrices in [
                &[2048usize, 2048, 2048][..],
                &[4096, 1024, 1024],
                &[2048, 512, 512],
                &[1536, 1536],
                &[7],
                &[usize::MAX / 2; 2],
            ] {
                let all = matrices.iter().sum();
                let mut before = 0;
                let mut given = Vec::new();
                for &rows in matrices {
                    given.push(threads_for(rows, Beside { before, rows: all }, threads));
                    before += rows;
                }
                let sum: usize = given.iter().sum();
                let enough = threads >= 8 || matrices.len() == 1;
                assert!(
                    given.iter().all(|&given| given > 0) && (!enough || sum == threads),
                    "{threads} {given:?}"
                );
                assert!(sum < threads.max(matrices.len()) + matrices.len(), "{threads} {given:?}");
            }
        }
        assert_eq!(threads_for(0, Beside { before: 0, rows: 0 }, 4), 1);
    }
}
