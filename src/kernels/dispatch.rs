//! The one place where an instruction set is chosen.

use super::activations::{BlockPart, BLOCK, MOST_TERMS};
use super::escapes::{EscapeList, EscapeSums};
use super::group::Group;
use super::halves;
use super::isa::Isa;
use super::matmul::{Product, PANEL_ROWS};
use super::packing::PackedGroup;
use super::plan::ClassPlan;
use super::scalar;
use super::stream::TileState;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, vnni::Vnni};

/// Most tiles that any kernel decodes in turn.
pub(super) const MOST_TILES: usize = 6;

/// Tiles that a kernel decodes in turn.
pub(super) const fn interleave(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx2Vnni => avx2::INTERLEAVE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::INTERLEAVE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vpermb => avx512::ORDERED_INTERLEAVE,
        _ => scalar::INTERLEAVE,
    }
}

/// A few tile states, without allocation.
pub(super) struct States<'s> {
    states: [std::mem::MaybeUninit<TileState<'s>>; MOST_TILES],
    count: usize,
}

impl<'s> States<'s> {
    pub(super) const fn new() -> Self {
        Self { states: [const { std::mem::MaybeUninit::uninit() }; MOST_TILES], count: 0 }
    }

    /// # Panics
    /// If there are [`MOST_TILES`] states already.
    pub(super) fn push(&mut self, state: TileState<'s>) {
        self.states[self.count].write(state);
        self.count += 1;
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [TileState<'s>] {
        // SAFETY: the first `count` elements are initialised by `push`; they own nothing that needs a drop.
        unsafe { std::slice::from_raw_parts_mut(self.states.as_mut_ptr().cast(), self.count) }
    }
}

/// Adds the products of escapes to the sums of their rows, for as many of each list as an instruction set takes: the
/// lists go on behind them, or in the middle of a gap. Element i of `lists` is that of tile i. Returns whether one of
/// the addends is beyond [`SAFE_ADDEND`](super::matvec::SAFE_ADDEND).
pub(super) fn add_escapes(isa: Isa, lists: &mut [EscapeList<'_>], sums: &mut EscapeSums<'_>) -> bool {
    let Some(last) = lists.len().checked_sub(1) else { return false };
    assert!(lists.len() <= MOST_TILES && sums.place.positions.end <= sums.floats.len());
    assert!(last * sums.height + sums.place.rows <= sums.rows.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; sizes were checked above.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::add_escapes(lists, sums) },
        // The others leave them all to `PreparedMatrix::visit_rest`.
        _ => false,
    }
}

/// Whether the instruction set multiplies pairs by [`halves`](super::halves): accumulators of classes that say so hold
/// these then.
pub(super) const fn uses_halves(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vpermb => true,
        _ => false,
    }
}

/// Makes integers of the halves in the accumulators of a tile and term: [`halves::convert`].
pub(super) fn to_integers(isa: Isa, accumulators: &mut [i32], steps: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; the kernel itself only visits what the slice holds.
        Isa::Avx512Vpermb => unsafe { avx512::to_integers(accumulators, steps) },
        _ => halves::convert(accumulators, steps, false),
    }
}

/// Operands of [`dot`]: activations, and the accumulators that products are added to.
///
/// Accumulators: 16 i32 for each step, tile and term; their order within a step is the kernel's own. [`flush`] reads them,
/// and [`to_integers`] and [`halves::convert`] change what they hold.
pub(super) struct Dot<'d> {
    /// Integers of the chunks' columns: for each word of four columns all its terms.
    pub(super) activations: &'d [i8],
    /// 1 or 2.
    pub(super) terms: usize,
    /// What each row of even and odd steps begins with, by term, if not with what its accumulators hold. The same for
    /// both on instruction sets that do not use halves.
    pub(super) start: Option<[[i32; 2]; MOST_TERMS]>,
    pub(super) accumulators: &'d mut [i32],
    /// i32 from one tile to the next.
    pub(super) tile_stride: usize,
    /// i32 from one term of a tile to the next.
    pub(super) term_stride: usize,
}

/// Integers of `chunks` chunks of each tile times the activations, added to the accumulators: decoded once, multiplied
/// with each term.
pub(super) fn dot(
    isa: Isa,
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    operands: Dot<'_>,
) {
    let Dot { activations, terms, tile_stride, term_stride, .. } = operands;
    assert!((1..=MOST_TERMS).contains(&terms) && activations.len() == chunks * class.width * terms);
    // Halves of a last step without a second one need accumulators for both.
    assert!(term_stride >= 16 * steps.next_multiple_of(2) && tile_stride >= term_stride * terms);
    assert!(tile_stride % 16 == 0 && term_stride % 16 == 0);
    let accumulators = &operands.accumulators;
    assert!(accumulators.len() >= tile_stride * states.len() && accumulators.as_ptr().align_offset(64) == 0);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; sizes were checked above.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::dot(class, chunks, steps, states, operands) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::dot(class, chunks, steps, states, operands) },
        _ => scalar::dot(class, chunks, steps, states, operands),
    }
}

/// Adds `scale` times the integer of each row to `sums`. `halves` says what the accumulators hold.
pub(super) fn flush(
    isa: Isa,
    accumulators: &[i32],
    columns_per_chunk: usize,
    halves: bool,
    scale: f32,
    sums: &mut [f32],
) {
    assert!(!halves || uses_halves(isa) && columns_per_chunk >= 16);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; the kernel itself only visits what both
        // slices hold.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe {
            avx512::flush(accumulators, columns_per_chunk, halves, scale, sums)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe {
            avx2::flush(accumulators, columns_per_chunk, scale, sums);
        },
        _ => {
            let _ = columns_per_chunk;
            scalar::flush(accumulators, scale, sums);
        }
    }
}

/// Where decoded values go: 64 bytes for each step at `tile * tile_stride + chunk * chunk_stride`.
pub(super) struct Target<'v> {
    pub(super) values: &'v mut [u8],
    /// Bytes from one tile to the next.
    pub(super) tile_stride: usize,
    /// Bytes from one chunk to the next.
    pub(super) chunk_stride: usize,
}

/// Unsigned values of `chunks` chunks of each tile: 64 bytes for each chunk and step.
pub(super) fn decode(
    isa: Isa,
    class: &ClassPlan,
    chunks: usize,
    steps: usize,
    states: &mut [TileState<'_>],
    target: Target<'_>,
) {
    if chunks == 0 || states.is_empty() {
        return;
    }
    let last = (states.len() - 1) * target.tile_stride + (chunks - 1) * target.chunk_stride;
    assert!(target.chunk_stride >= 64 * steps && target.values.len() >= last + 64 * steps);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; sizes were checked above.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::decode(class, chunks, steps, states, target) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::decode(class, chunks, steps, states, target) },
        _ => scalar::decode(class, chunks, steps, states, target),
    }
}

/// Puts the values of one tile's group into the order that [`multiply`] takes. `values` holds whole chunks of
/// steps rounded up to a multiple of 16.
pub(super) fn rearrange(isa: Isa, values: &mut [u8], columns_per_chunk: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; the kernel only visits what the slice holds.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::rearrange(values, columns_per_chunk) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::rearrange(values, columns_per_chunk) },
        // The portable kernel takes decoded order.
        _ => {
            let _ = (values, columns_per_chunk);
        }
    }
}

/// Values of a group of packed ones: [`PackedGroup::unpack`].
pub(super) fn unpack(isa: Isa, group: &PackedGroup<'_>, to: &mut [u8]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::unpack(group, to) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::unpack(group, to) },
        _ => group.unpack(to, |_| ()),
    }
}

/// Adds to `sums` the product of packed values with one or two vectors, as [`multiply`] does of unpacked ones. Returns
/// whether the instruction set and the vectors are such that this can be done at once.
pub(super) fn multiply_packed(
    isa: Isa,
    group: &PackedGroup<'_>,
    activations: &BlockPart<'_>,
    sums: &mut [f32],
    batch: usize,
) -> bool {
    let vectors = activations.scales.len();
    if !(1..=2).contains(&vectors) || !activations.high_words.is_empty() {
        return false;
    }
    assert!(activations.corrections.len() == vectors);
    assert!(activations.integers.len() == group.packings.len() * group.width * vectors);
    assert!(group.width.is_multiple_of(4) && group.bytes.len() == group.packed_bytes());
    assert!(sums.len() >= (batch + vectors) * PANEL_ROWS);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; sizes were checked above.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe {
            avx512::multiply_packed(group, activations, sums, batch);
            true
        },
        _ => {
            let _ = (sums, batch);
            false
        }
    }
}

/// Integers of groups of activations that share a scale, and the scale: [`Group::quantize`].
pub(super) fn quantize(isa: Isa, parts: &mut [Group]) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::quantize(parts) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::quantize(parts) },
        _ => Group::quantize(parts),
    }
}

/// Integers of a group of activations of mixed precision, and their scale: [`Group::split`].
pub(super) fn split(isa: Isa, group: &mut Group) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::split(group) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { avx2::split(group) },
        _ => group.split(),
    }
}

/// Places of the rows of a panel, as [`multiply`] leaves them.
pub(super) fn lanes_of_panel(isa: Isa, columns_per_chunk: usize) -> [usize; PANEL_ROWS] {
    match isa {
        Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512 | Isa::Avx512Vpermb if columns_per_chunk == 16 => {
            std::array::from_fn(|row| row / 4 + row % 4 * 4)
        }
        _ => std::array::from_fn(|row| row),
    }
}

/// Adds to `sums` the product of one tile's group with one block of vectors: element (panel, vector, row of the panel)
/// at `(panel * batch + vector) * PANEL_ROWS + row`.
pub(super) fn multiply(isa: Isa, product: &Product<'_>, sums: &mut [f32], batch: usize) {
    let activations = &product.activations;
    let vectors = activations.scales.len();
    assert!((1..=BLOCK).contains(&vectors) && activations.corrections.len() == vectors);
    assert!(activations.integers.len() == product.chunks * product.width * vectors);
    assert!(activations.high_integers.len() == 4 * activations.high_words.len() * vectors);
    let words = product.chunks * product.width / 4;
    assert!(activations.high_words.iter().all(|&word| usize::from(word) < words));
    assert!(product.chunk_stride >= product.panels * PANEL_ROWS * product.width);
    assert!(product.values.len() >= product.chunks * product.chunk_stride);
    assert!(sums.len() >= ((product.panels - 1) * batch + vectors) * PANEL_ROWS);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: plans are only made for available instruction sets; sizes were checked above.
        Isa::Avx512 | Isa::Avx512Vpermb => unsafe { avx512::multiply(product, sums, batch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::multiply(product, sums, batch, Vnni::None) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; `Vnni::detect` names what the machine has.
        Isa::Avx2Vnni => unsafe { avx2::multiply(product, sums, batch, Vnni::detect()) },
        _ => scalar::multiply(product, sums, batch),
    }
}
