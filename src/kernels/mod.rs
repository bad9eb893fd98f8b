//! Multiplying straight from the coded form: decode, matvec, matmul and row lookup for each instruction set.
//!
//! In: a validated [`crate::payload::Matrix`] and activations. Out: products, integers or weights of a range of row
//! tiles. Callers own threads and memory: every call works on a range of tiles, takes its scratch from the caller and
//! allocates nothing (but [`PreparedMatrix::expand`], which decodes a matrix once). Depends on `payload` and std alone.
//! `docs/KERNELS.md` explains how it works and what it costs.
//!
//! One folder or file per instruction set; `dispatch` is the only place that chooses. The integer arithmetic is exact and the
//! order of the float operations is part of each function's contract, so all instruction sets give the same bits.

// Loops over lanes index several arrays at once.
#![allow(clippy::needless_range_loop)]

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod error;
mod escapes;
mod expanded;
mod group;
mod halves;
mod isa;
mod matmul;
mod matvec;
pub mod measure;
mod packing;
mod pass;
mod plan;
mod rows;
mod scalar;
mod scratch;
mod stream;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use activations::{Activations, Preparation, Rounding};
pub use error::KernelError;
pub use expanded::ExpandedMatrix;
pub use isa::{force, Isa};
pub use plan::{PreparedMatrix, GROUP_COLUMNS, WIDE_GROUP_COLUMNS};
pub use scratch::Scratch;
