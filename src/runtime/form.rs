//! What a matrix is kept as: its mapped bytes, or its integers as far as a budget of memory goes.

use crate::kernels::{Activations, ExpandedMatrix, KernelError, PreparedMatrix, Rounding};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// What a matrix multiplies from, with the same results.
pub(super) enum Form<'a> {
    /// The mapped bytes.
    Coded(PreparedMatrix<'a>),
    /// Its integers, a byte or half of one each.
    Decoded(ExpandedMatrix<'a>),
}

impl<'a> Form<'a> {
    /// Decoded if there is a budget that suffices, and what that costs.
    pub(super) fn within(
        budget: Option<&Arc<Budget>>,
        plan: PreparedMatrix<'a>,
    ) -> Result<(Self, Option<Spent>), KernelError> {
        // Nothing is there to decode if all columns are dead.
        let wanted = budget.filter(|_| plan.matrix().tile_count() > 0);
        let Some(mut spent) = wanted.and_then(|budget| budget.spend(plan.expanding_bytes())) else {
            return Ok((Self::Coded(plan), None));
        };
        let matrix = plan.expand()?;
        spent.keep(matrix.bytes());
        Ok((Self::Decoded(matrix), Some(spent)))
    }

    pub(super) fn plan(&self) -> &PreparedMatrix<'a> {
        match self {
            Self::Coded(plan) => plan,
            Self::Decoded(matrix) => matrix.plan(),
        }
    }

    /// Units that products are cut into, those that a kernel takes in one go, and rows of a unit but the last one.
    pub(super) fn units(&self) -> (usize, usize, usize) {
        match self {
            Self::Coded(plan) => {
                (plan.tiles(), plan.tiles_at_once(), plan.matrix().geometry().rows_per_tile())
            }
            Self::Decoded(matrix) => (matrix.blocks(), usize::MAX, ExpandedMatrix::rows_per_block()),
        }
    }

    pub(super) fn matmul_scratch(&self, batch: usize, rounding: Rounding) -> usize {
        match self {
            Self::Coded(plan) => plan.matmul_scratch(batch, rounding),
            Self::Decoded(matrix) => matrix.matmul_scratch(batch, rounding),
        }
    }

    pub(super) fn matmul(
        &self,
        units: Range<usize>,
        activations: &Activations<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        match self {
            Self::Coded(plan) => plan.matmul(units, activations, y, scratch),
            Self::Decoded(matrix) => matrix.matmul(units, activations, y, scratch),
        }
    }
}

/// Bytes that may still be spent on decoded integers.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
    /// Matrices that it was too small for.
    refused: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes), refused: AtomicUsize::new(0) }
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Spends the bytes if they are left.
    fn spend(self: &Arc<Self>, bytes: Option<usize>) -> Option<Spent> {
        let less = |left: usize| left.checked_sub(bytes?);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Some(Spent { budget: Arc::clone(self), bytes: bytes? }),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Bytes of a [`Budget`], given back when it is dropped.
pub(super) struct Spent {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Spent {
    /// Gives back all but `bytes`.
    fn keep(&mut self, bytes: usize) {
        let rest = self.bytes.saturating_sub(bytes);
        self.bytes -= rest;
        self.budget.left.fetch_add(rest, Ordering::Relaxed);
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.keep(0);
    }
}
