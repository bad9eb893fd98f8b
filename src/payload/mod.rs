//! The tensor type: bytes to integers and back. The encoder, and the scalar decoder that defines the format.
//!
//! In: a [`QuantizedMatrix`] (integers, scales, geometry) or hostile bytes. Out: bytes, or the same matrix, or an
//! error. Depends on std alone; knows nothing of models, files or floats other than stored scales.
//! The text of the format is `spec/FORMAT.md`; each constant here names the section that states it.

mod bits;
mod crc32c;
mod error;
mod geometry;
mod layout;
mod limits;
mod matrix;
mod open;
mod pair_grid;
mod side;
mod side_information;
pub mod standard;
pub mod table;
mod tile;
mod trellis;

pub mod encode;

pub use crc32c::crc32c;
pub use error::{ErrorKind, PayloadError};
pub use geometry::{Geometry, Path, LANES};
pub use layout::{MAGIC, VERSION};
pub use limits::Limits;
pub use matrix::{QuantizedMatrix, ScaleKind, StreamColumn, MAX_INTEGER};
pub use open::{announced_length, Class, Matrix, Payload, TableIdentifier, PADDING};
pub use tile::{Escape, Escapes, Tile};
pub use trellis::{Trellis, NEXT_STATE, PAIR_TAPS};
