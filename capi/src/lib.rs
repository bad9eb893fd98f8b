//! The C ABI of the WSIC decoder: what `include/wsic.h` declares.
//!
//! In: pointers and lengths of a C caller. Out: products and weights in the caller's memory, or a status. Depends on
//! the payload and kernels of the crate `wsic` (std alone). It computes nothing of its own: it checks arguments,
//! borrows the caller's memory for the length of one call, and translates errors.
//!
//! | file | what it holds |
//! |---|---|
//! | `status` | status codes, the error record, the guard that keeps panics inside |
//! | `arguments` | raw pointers to checked references |
//! | `tensor` | open, close, shapes, sharing rows among threads |
//! | `product` | activations, matvec, matmul |
//! | `rows` | integers and weights of rows, checksums |
//! | `isa` | instruction sets |
//!
//! Names here are Rust's; `cbindgen.toml` gives the C names, and the test `header` keeps `include/wsic.h` up to date.
//! The rules for callers (lifetimes, threads, memory) stand at the top of that header.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

#[cfg(not(panic = "unwind"))]
compile_error!("the C ABI turns panics into a status: build with panic = \"unwind\"");

mod arguments;
mod isa;
mod product;
mod rows;
mod status;
mod tensor;
#[cfg(test)]
mod tests;

use std::ffi::c_char;

/// Version of this interface. It changes with every change that needs callers to be compiled anew.
pub const WSIC_ABI_VERSION: u32 = 0;

/// The version of the interface that the library was built with: equal to WSIC_ABI_VERSION if header and library
/// belong together.
#[no_mangle]
pub extern "C" fn wsic_abi_version() -> u32 {
    WSIC_ABI_VERSION
}

/// The version of the library as text, for example "0.1.0".
#[no_mangle]
pub extern "C" fn wsic_version() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}
