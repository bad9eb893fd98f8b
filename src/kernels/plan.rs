//! A matrix made ready for the kernels: lookup tables of each class, derived once.

use super::activations::Rounding;
use super::dispatch;
use super::halves;
use super::isa::Isa;
use super::rows::{extra_positions, ExtraPosition};
use super::scalar::ScalarTable;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2Table, avx512::Avx512Table};
use crate::payload::table::ClassTable;
use crate::payload::{Class, Geometry, Matrix, TableIdentifier, Trellis, PADDING};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Stream columns that share one activation scale of eight bits. 128 instead of 256 cost 3 % of the speed and spare 7 to
/// 20 % of the rounding error of activations (`docs/KERNELS.md`).
pub const GROUP_COLUMNS: usize = 128;
/// The same where a number has two terms, which have precision to spare: sums are converted a quarter as often. With at
/// most 512 the integer dot product of a group stays below 2^24, exact in f32.
pub const WIDE_GROUP_COLUMNS: usize = 512;

/// A class as kernels see it.
#[derive(Clone, Debug)]
pub(super) struct ClassPlan {
    pub(super) first_chunk: usize,
    pub(super) chunks: usize,
    /// Columns of one chunk.
    pub(super) width: usize,
    pub(super) offset: i32,
    pub(super) raw_bits: usize,
    /// Whether accumulators hold halves of its pairs, on instruction sets that use them.
    pub(super) halves: bool,
    pub(super) tables: Tables,
}

/// Lookup tables in the form of one instruction set.
#[derive(Clone, Debug)]
pub(super) enum Tables {
    Scalar(Arc<ScalarTable>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Arc<Avx2Table>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Arc<Avx512Table>),
}

/// Those of the standard tables that were met, made once for all matrices: most classes have one of them, and there are
/// but 860 with all trellises.
static STANDARD: Mutex<BTreeMap<(TableIdentifier, Trellis, Isa), Tables>> = Mutex::new(BTreeMap::new());

impl Tables {
    fn of(class: &Class, trellis: Trellis, isa: Isa) -> Self {
        let make = || Self::new(class.table(), trellis, isa);
        let Some(identifier) = class.standard_table() else { return make() };
        let mut standard = STANDARD.lock().unwrap_or_else(PoisonError::into_inner);
        standard.entry((identifier, trellis, isa)).or_insert_with(make).clone()
    }

    fn new(table: &ClassTable, trellis: Trellis, isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx2Vnni => Self::Avx2(Arc::new(Avx2Table::new(table, trellis))),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vpermb => {
                Self::Avx512(Arc::new(Avx512Table::new(table, trellis, isa == Isa::Avx512Vpermb)))
            }
            _ => Self::Scalar(Arc::new(ScalarTable::new(table, trellis))),
        }
    }
}

/// A matrix of a payload with everything that multiplying from it needs; borrows the payload's bytes.
///
/// Cheap to make (about as much work as parsing the header), immutable, and shared freely between threads. A payload with
/// all its matrices made ready stays within what [`Limits`](crate::payload::Limits) says of an opened payload, and 9 KiB
/// more for each class of each matrix. Tables of standard class tables are shared by all matrices and stay when these are
/// dropped: at most 8 MiB for each instruction set that is used, a small part of it for most models.
#[derive(Clone, Debug)]
pub struct PreparedMatrix<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) isa: Isa,
    pub(super) classes: Vec<ClassPlan>,
    /// Stream positions at the start that carry no column.
    pub(super) padding: usize,
    pub(super) extra: Vec<ExtraPosition>,
}

impl<'a> PreparedMatrix<'a> {
    /// Prepares `matrix` for the instruction set that [`Isa::selected`] names.
    pub fn new(matrix: &Matrix<'a>) -> Self {
        Self::with_isa(matrix, Isa::selected())
    }

    /// Prepares `matrix` for `isa`, or for [`Isa::Scalar`] if this machine does not have it.
    pub fn with_isa(matrix: &Matrix<'a>, isa: Isa) -> Self {
        let isa = if isa.available() { isa } else { Isa::Scalar };
        let plan = |class: &Class| ClassPlan {
            first_chunk: class.chunks().start,
            chunks: class.chunks().len(),
            width: matrix.geometry().columns_per_chunk(),
            offset: class.table().offset(),
            raw_bits: class.table().raw_bits() as usize,
            halves: halves::are_used(class.table()),
            tables: Tables::of(class, matrix.trellis(), isa),
        };
        let classes = matrix.classes().iter().map(plan).collect();
        let padding = matrix.stream_inputs().iter().take_while(|&&input| input == PADDING).count();
        let extra = extra_positions(matrix.columns(), matrix.stream_inputs(), matrix.stream_scales());
        Self { matrix: matrix.clone(), isa, classes, padding, extra }
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix<'a> {
        &self.matrix
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.matrix.rows()
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.matrix.columns()
    }

    /// Row tiles: the unit of work. Threads take disjoint ranges of them.
    pub fn tiles(&self) -> usize {
        self.geometry().tiles(self.rows())
    }

    /// Tiles that the instruction set decodes in turn: ranges of fewer run slower.
    pub fn tiles_at_once(&self) -> usize {
        dispatch::interleave(self.isa)
    }

    /// The most tiles of this matrix that are decoded in turn.
    pub(super) fn most_tiles(&self) -> usize {
        self.tiles_at_once().min(self.tiles())
    }

    /// Steps of its first tile, which no other exceeds.
    pub(super) fn most_steps(&self) -> usize {
        self.geometry().steps_in_tile(self.rows(), 0)
    }

    /// Rows of a tile range, clipped to the matrix: where its results go.
    pub fn rows_of(&self, tiles: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let height = self.geometry().rows_per_tile();
        let bound = |tile: usize| tile.saturating_mul(height).min(self.rows());
        bound(tiles.start)..bound(tiles.end)
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.matrix.geometry()
    }

    /// Chunks that share an activation scale.
    pub(super) fn chunks_per_group(&self, rounding: Rounding) -> usize {
        rounding.group_columns() / self.geometry().columns_per_chunk()
    }

    /// Stream positions of a group; the last one may have fewer than [`Rounding::group_columns`].
    pub(super) fn group_positions(&self, group: usize, rounding: Rounding) -> std::ops::Range<usize> {
        let columns = rounding.group_columns();
        group * columns..((group + 1) * columns).min(self.matrix.stream_length())
    }

    /// Activation groups of the stream.
    pub(super) fn groups(&self, rounding: Rounding) -> usize {
        self.matrix.stream_length().div_ceil(rounding.group_columns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::measure::synthetic_payload;
    use crate::payload::{Limits, Payload};

    /// Address of a class's tables.
    fn address(tables: &Tables) -> usize {
        match tables {
            Tables::Scalar(table) => Arc::as_ptr(table).addr(),
            #[cfg(target_arch = "x86_64")]
            Tables::Avx2(table) => Arc::as_ptr(table).addr(),
            #[cfg(target_arch = "x86_64")]
            Tables::Avx512(table) => Arc::as_ptr(table).addr(),
        }
    }

    #[test]
    fn standard_tables_are_shared_and_depend_on_trellis_and_instruction_set() {
        let bytes = synthetic_payload(64, 64, 3.0, 1);
        let payload = Payload::open(&bytes, &Limits::default()).unwrap();
        let mut classes = payload.matrices()[0].classes().iter();
        let class = classes.find(|class| class.standard_table().is_some()).expect("small matrices use them");
        for isa in Isa::all_available() {
            let of = |trellis, isa| address(&Tables::of(class, trellis, isa));
            let first = of(Trellis::EightState, isa);
            assert_eq!(first, of(Trellis::EightState, isa), "{isa:?}");
            assert_ne!(first, of(Trellis::Pairs, isa), "{isa:?}");
            for other in Isa::all_available().filter(|&other| other != isa) {
                assert_ne!(first, of(Trellis::EightState, other), "{isa:?} {other:?}");
            }
        }
    }
}
