//! AVX-512 kernels: 64 lanes are one register of bytes, so a step is one pass of about 26 vector instructions.
//!
//! The state's high and low bytes live in two registers per tile; tables live in registers too (`vpermb` looks up 64
//! bytes at once, `vpermi2b` 128). A slot becomes a run in two moves: the index of its aligned group of 4 slots and the
//! parity pick a bias, and slot plus bias is 4 times the run, because the bias carries into the next run exactly from
//! the slot on where that one starts. The trellis is linear over GF(2): `vgf2p8affineqb` makes its transition.
//!
//! Several tiles advance together, operation by operation: one alone is a chain of dependent instructions, and several
//! chains one after the other exceed what processors look ahead. The order of instructions in the source matters, and
//! so does their kind: `vpternlogd` costs nearly twice an addition on Zen 4, so masks are used where they do.

use super::dispatch;
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use crate::payload::table::ClassTable;
use crate::payload::{Trellis, LANES, NEXT_STATE};

/// A register of bytes in memory.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes64(pub(super) [u8; 64]);

impl Bytes64 {
    const ZERO: Self = Self([0; 64]);
}

/// A class table for `vpermb` and `vpermi2b`. Tables by group: 64 aligned groups of 4 slots of each parity.
#[derive(Clone, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Avx512Table {
    /// If `simple`: what added to a slot gives 4 times its run and something below 4. Else the run of the group's
    /// first slot.
    runs: [Bytes64; 2],
    /// Bit j set if a run starts at slot j > 0 of the group.
    starts: [Bytes64; 2],
    /// By run.
    frequency: Bytes64,
    rank_base: Bytes64,
    value: Bytes64,
    /// Next trellis state: see [`transition_matrix`].
    transitions: Bytes64,
    /// Whether at most one run ends inside any group.
    simple: bool,
    /// Whether a frequency exceeds 127, which `vpmaddubsw` would take as negative.
    wide: bool,
}

/// Slots of a group.
const GROUP: usize = 4;

impl Avx512Table {
    pub(super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let mut this = Self {
            runs: [Bytes64::ZERO; 2],
            starts: [Bytes64::ZERO; 2],
            frequency: Bytes64::ZERO,
            rank_base: Bytes64::ZERO,
            value: Bytes64::ZERO,
            transitions: transition_matrix(trellis),
            simple: true,
            wide: false,
        };
        for (run, entry) in table.entries().iter().enumerate() {
            this.frequency.0[run] = entry.frequency;
            this.rank_base.0[run] = entry.rank_base;
            this.value.0[run] = entry.value;
            this.wide |= entry.frequency > 127;
        }
        for q in 0..2 {
            let runs = table.run_of_slot(q);
            for (group, runs) in runs.as_chunks::<GROUP>().0.iter().enumerate() {
                let mut starts = 0u8;
                for slot in 1..GROUP {
                    starts |= u8::from(runs[slot] != runs[slot - 1]) << slot;
                }
                this.runs[q].0[group] = runs[0];
                this.starts[q].0[group] = starts;
                this.simple &= starts.count_ones() <= 1;
            }
        }
        if this.simple {
            for (runs, starts) in this.runs.iter_mut().zip(&this.starts) {
                for (group, (run, starts)) in runs.0.iter_mut().zip(&starts.0).enumerate() {
                    // From the slot on where the next run starts, the sum reaches the next multiple of 4.
                    let carry = if *starts > 0 { GROUP as u8 - starts.trailing_zeros() as u8 } else { 0 };
                    *run = (*run * GROUP as u8).wrapping_sub((group * GROUP) as u8).wrapping_add(carry);
                }
            }
        }
        this
    }
}

/// The transition of the trellis as a matrix over GF(2), in the form of `vgf2p8affineqb`. A byte holds bit 0 of the
/// state (the parity) in bit 6, bit 1 in bit 7 and bit 2 in bit 5, and the low bit of the index in bit 1.
fn transition_matrix(trellis: Trellis) -> Bytes64 {
    const PLACES: [usize; 3] = [6, 7, 5];
    let mut rows = [0u8; 8];
    if trellis == Trellis::EightState {
        let mut add = |column: usize, state: u8| {
            for (bit, place) in PLACES.into_iter().enumerate() {
                // The matrix's row of result bit i is byte 7 - i.
                rows[7 - place] |= (state >> bit & 1) << column;
            }
        };
        // A linear map is what it does to single bits.
        add(1, NEXT_STATE[0][1]);
        for (bit, place) in PLACES.into_iter().enumerate() {
            add(place, NEXT_STATE[1 << bit][0]);
        }
    }
    let mut matrix = Bytes64::ZERO;
    matrix.0.as_chunks_mut::<8>().0.fill(rows);
    matrix
}

/// Most tiles decoded in turn.
pub(super) const INTERLEAVE: usize = 6;

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{decode, dot, flush};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    /// How far ahead of the decoder the stream is fetched.
    const PREFETCH: usize = 1024;

    /// Where accumulators are or decoded values go: 64 bytes for each step.
    #[derive(Clone, Copy)]
    struct Target {
        base: *mut u8,
        /// Bytes from one tile to the next.
        tile_stride: usize,
        /// Bytes from one chunk to the next: none for accumulators.
        chunk_stride: usize,
        /// What the accumulators of each row begin with, if not with what they hold.
        start: Option<i32>,
    }

    fn table_of(class: &ClassPlan) -> &Avx512Table {
        match &class.tables {
            Tables::Avx512(table) => table,
            _ => unreachable!("plans and kernels are chosen together"),
        }
    }

    /// Integers of `chunks` chunks of each tile times the activations, added to the accumulators.
    ///
    /// # Safety
    /// The machine has the instructions of `Isa::Avx512`; `accumulators` holds `states.len()` blocks of
    /// `stride` i32, each at least 16 * steps long; `activations` holds one i8 for each column of the chunks; each
    /// state stands at the first of these chunks of a tile of `steps` steps.
    #[allow(clippy::too_many_arguments)]
    pub(in super::super) unsafe fn dot(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        start: Option<i32>,
        states: &mut [TileState<'_>],
        accumulators: &mut [i32],
        stride: usize,
    ) {
        let base = accumulators.as_mut_ptr().cast();
        let target = Target { base, tile_stride: 4 * stride, chunk_stride: 0, start };
        // SAFETY: passed on from the caller.
        unsafe { by_count::<true>(class, chunks, steps, activations, states, target) }
    }

    /// Unsigned values of `chunks` chunks of each tile: 64 bytes for each chunk and step, chunks in order.
    ///
    /// # Safety
    /// As [`dot`]; the bytes at `tile * tile_stride + chunk * chunk_stride`, 64 * steps of them, are in
    /// `target.values` for every tile and chunk.
    pub(in super::super) unsafe fn decode(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        states: &mut [TileState<'_>],
        target: dispatch::Target<'_>,
    ) {
        let dispatch::Target { values, tile_stride, chunk_stride } = target;
        let target = Target { base: values.as_mut_ptr(), tile_stride, chunk_stride, start: None };
        // SAFETY: passed on from the caller.
        unsafe { by_count::<false>(class, chunks, steps, &[], states, target) }
    }

    unsafe fn by_count<const DOT: bool>(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match states.len() {
                6 => by_table::<6, DOT>(class, chunks, steps, activations, states, target),
                5 => by_table::<5, DOT>(class, chunks, steps, activations, states, target),
                4 => by_table::<4, DOT>(class, chunks, steps, activations, states, target),
                3 => by_table::<3, DOT>(class, chunks, steps, activations, states, target),
                2 => by_table::<2, DOT>(class, chunks, steps, activations, states, target),
                _ => {
                    for (index, state) in states.iter_mut().enumerate() {
                        let target = Target { base: target.base.add(index * target.tile_stride), ..target };
                        let state = std::slice::from_mut(state);
                        by_table::<1, DOT>(class, chunks, steps, activations, state, target);
                    }
                }
            }
        }
    }

    unsafe fn by_table<const N: usize, const DOT: bool>(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        let table = table_of(class);
        // Raw bits and large frequencies share one slower variant.
        let general = table.wide || class.raw_bits > 0;
        // SAFETY: passed on from the caller.
        unsafe {
            match (table.simple, general) {
                (true, false) => {
                    run::<N, true, false, DOT>(class, chunks, steps, activations, states, target);
                }
                (true, true) => {
                    run::<N, true, true, DOT>(class, chunks, steps, activations, states, target);
                }
                (false, _) => {
                    run::<N, false, true, DOT>(class, chunks, steps, activations, states, target);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &Bytes64) -> __m512i {
        // SAFETY: 64 aligned bytes.
        unsafe { _mm512_load_si512(bytes.0.as_ptr().cast()) }
    }

    /// Operand of the dot product: the activations of one chunk, repeated for each row of the step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn chunk_activations(activations: &[i8]) -> __m512i {
        // SAFETY: each arm reads as many bytes as the slice is long.
        unsafe {
            let at = activations.as_ptr();
            match activations.len() {
                64 => _mm512_loadu_si512(at.cast()),
                16 => _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast())),
                4 => _mm512_set1_epi32(at.cast::<i32>().read_unaligned()),
                _ => _mm512_setzero_si512(),
            }
        }
    }

    #[target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,gfni,popcnt,bmi1,bmi2"
    )]
    unsafe fn run<const N: usize, const SIMPLE: bool, const GENERAL: bool, const DOT: bool>(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        const EVEN: __mmask64 = 0x5555_5555_5555_5555;
        let table = table_of(class);
        let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
        let zero = _mm512_setzero_si512();
        let runs = [load(&table.runs[0]), load(&table.runs[1])];
        let starts = [load(&table.starts[0]), load(&table.starts[1])];
        let frequency = load(&table.frequency);
        let rank_base = load(&table.rank_base);
        let value = load(&table.value);
        let transitions = load(&table.transitions);
        let group_bits = _mm512_set1_epi8(63);
        let value_bits = _mm512_set1_epi8(31);
        let low_bytes = _mm512_set1_epi16(255);
        // Byte j: bits 0..=j of an aligned group of 4 slots; the low six bits of a slot address it.
        let up_to_slot = _mm512_set1_epi32(0x0F07_0301);
        let low_of_both = load(&LOW_OF_BOTH);
        let raw_bits = if GENERAL { class.raw_bits } else { 0 };
        let width = activations.len() / chunks;
        let start_values = target.start.map(|start| start_values(start, width));

        let (mut high, mut low) = ([zero; N], [zero; N]);
        for k in 0..N {
            high[k] = _mm512_load_si512(states[k].high.as_ptr().cast());
            low[k] = _mm512_load_si512(states[k].low.as_ptr().cast());
        }
        for chunk in 0..chunks {
            let x =
                if DOT { chunk_activations(&activations[chunk * width..(chunk + 1) * width]) } else { zero };
            let mut trellis = [zero; N];
            let mut start = [std::ptr::null::<u8>(); N];
            let mut raw = [std::ptr::null::<u8>(); N];
            for k in 0..N {
                start[k] = states[k].chunk_start();
                if GENERAL {
                    raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
                }
            }
            let mut at = start;
            let mut out = target.base.add(chunk * target.chunk_stride);
            // Where the accumulators of the first step and tile come from; the next tile's and the next step's.
            let (mut from, from_tile, from_step) = match &start_values {
                Some(values) if chunk == 0 => (values.0.as_ptr(), 0, 0),
                _ => (out.cast_const(), target.tile_stride, 64),
            };
            for _ in 0..steps {
                let mut run = [zero; N];
                // Bits 0-5 from the slot, the parity from the trellis state. The lookup ignores bit 7.
                for k in 0..N {
                    let slot = _mm512_srli_epi16::<2>(low[k]);
                    run[k] = _mm512_ternarylogic_epi32::<0xE4>(slot, trellis[k], group_bits);
                }
                if SIMPLE {
                    for k in 0..N {
                        run[k] = _mm512_permutex2var_epi8(runs[0], run[k], runs[1]);
                    }
                    // Bits that the shift takes from the neighbour are ignored by the lookups.
                    for k in 0..N {
                        run[k] = _mm512_srli_epi16::<2>(_mm512_add_epi8(run[k], low[k]));
                    }
                } else {
                    for k in 0..N {
                        let before = _mm512_and_si512(
                            _mm512_permutex2var_epi8(starts[0], run[k], starts[1]),
                            _mm512_permutexvar_epi8(low[k], up_to_slot),
                        );
                        let first = _mm512_permutex2var_epi8(runs[0], run[k], runs[1]);
                        run[k] = _mm512_add_epi8(first, _mm512_popcnt_epi8(before));
                    }
                }
                // Values, their products and the next trellis state: nothing below needs them, and registers are few.
                for k in 0..N {
                    let mut u = _mm512_permutexvar_epi8(run[k], value);
                    if GENERAL {
                        for bit in 0..raw_bits {
                            let plane = raw[k].cast::<u64>().read_unaligned();
                            raw[k] = raw[k].wrapping_add(8);
                            u = _mm512_mask_add_epi8(u, plane, u, _mm512_set1_epi8(2 << bit));
                        }
                    }
                    let bits = _mm512_ternarylogic_epi32::<0xD8>(trellis[k], u, value_bits);
                    trellis[k] = _mm512_gf2p8affine_epi64_epi8::<0>(bits, transitions);
                    let slot = out.add(k * target.tile_stride).cast::<__m512i>();
                    if DOT {
                        let sum = _mm512_load_si512(from.add(k * from_tile).cast());
                        _mm512_store_si512(slot, _mm512_dpbusd_epi32(sum, u, x));
                    } else {
                        _mm512_storeu_si512(slot, u);
                    }
                }
                let (mut f, mut rank) = ([zero; N], [zero; N]);
                for k in 0..N {
                    f[k] = _mm512_permutexvar_epi8(run[k], frequency);
                }
                for k in 0..N {
                    rank[k] = _mm512_sub_epi8(low[k], _mm512_permutexvar_epi8(run[k], rank_base));
                }
                // x = frequency * high byte + rank, in 16 bits: even lanes and odd lanes.
                let (mut even, mut odd) = ([zero; N], [zero; N]);
                for k in 0..N {
                    let high_even = _mm512_and_si512(high[k], low_bytes);
                    let high_odd = _mm512_andnot_si512(low_bytes, high[k]);
                    if GENERAL {
                        even[k] = _mm512_mullo_epi16(_mm512_and_si512(f[k], low_bytes), high_even);
                        odd[k] = _mm512_mulhi_epu16(_mm512_andnot_si512(low_bytes, f[k]), high_odd);
                    } else {
                        even[k] = _mm512_maddubs_epi16(high_even, f[k]);
                        odd[k] = _mm512_maddubs_epi16(high_odd, f[k]);
                    }
                }
                for k in 0..N {
                    even[k] = _mm512_add_epi16(even[k], _mm512_and_si512(rank[k], low_bytes));
                    odd[k] = _mm512_add_epi16(odd[k], _mm512_srli_epi16::<8>(rank[k]));
                }
                // Lanes below 256 move up by one byte of the stream, in lane order.
                let mut refill = [0; N];
                for k in 0..N {
                    high[k] = _mm512_mask_mov_epi8(odd[k], EVEN, _mm512_srli_epi16::<8>(even[k]));
                    low[k] = _mm512_permutex2var_epi8(even[k], low_of_both, odd[k]);
                    refill[k] = _mm512_testn_epi8_mask(high[k], high[k]);
                }
                for k in 0..N {
                    let next = _mm512_loadu_si512(at[k].cast());
                    high[k] = _mm512_mask_mov_epi8(high[k], refill[k], low[k]);
                    low[k] = _mm512_mask_expand_epi8(low[k], refill[k], next);
                    at[k] = at[k].add(refill[k].count_ones() as usize);
                    _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                }
                out = out.add(64);
                from = from.wrapping_add(from_step);
            }
            for k in 0..N {
                states[k].chunk_end(at[k].offset_from(start[k]) as usize);
            }
        }
        for k in 0..N {
            _mm512_store_si512(states[k].high.as_mut_ptr().cast(), high[k]);
            _mm512_store_si512(states[k].low.as_mut_ptr().cast(), low[k]);
        }
    }

    /// Accumulators of one step with `start` in the first one of each row.
    fn start_values(start: i32, columns_per_chunk: usize) -> Bytes64 {
        let mut values = Bytes64::ZERO;
        for row in values.0.chunks_exact_mut(columns_per_chunk) {
            row[..4].copy_from_slice(&start.to_le_bytes());
        }
        values
    }

    /// Selects the low byte of each 16-bit lane: even lanes from the first operand, odd lanes from the second.
    static LOW_OF_BOTH: Bytes64 = {
        let mut indices = [0; 64];
        let mut lane = 0;
        while lane < LANES {
            indices[lane] = if lane % 2 == 0 { lane as u8 } else { 64 + lane as u8 - 1 };
            lane += 1;
        }
        Bytes64(indices)
    };

    /// Adds `scale` times the integer dot product of each row to `sums`.
    ///
    /// # Safety
    /// The machine has the instructions of `Isa::Avx512`; `accumulators` is aligned to 64 bytes and holds
    /// 16 i32 for each step, steps rounded up to a multiple of 16; `sums` holds the rows of as many steps.
    pub(in super::super) unsafe fn flush(
        accumulators: &[i32],
        columns_per_chunk: usize,
        scale: f32,
        sums: &mut [f32],
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match columns_per_chunk {
                64 => flush_as::<16>(accumulators, scale, sums),
                16 => flush_as::<4>(accumulators, scale, sums),
                _ => flush_as::<1>(accumulators, scale, sums),
            }
        }
    }

    /// `PARTS` neighbouring accumulators belong to one row.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    unsafe fn flush_as<const PARTS: usize>(accumulators: &[i32], scale: f32, sums: &mut [f32]) {
        let scale = _mm512_set1_ps(scale);
        for (rows, sums) in accumulators.chunks_exact(16 * PARTS).zip(sums.chunks_exact_mut(16)) {
            let at = rows.as_ptr();
            let mut parts = [_mm512_setzero_si512(); PARTS];
            for (index, part) in parts.iter_mut().enumerate() {
                *part = _mm512_load_si512(at.add(16 * index).cast());
            }
            let total = match PARTS {
                16 => {
                    let mut quarters = [_mm512_setzero_si512(); 4];
                    for (quarter, parts) in quarters.iter_mut().zip(parts.chunks_exact(4)) {
                        *quarter = fold_quads(parts);
                    }
                    fold_lanes(&quarters)
                }
                // Rows 4 r + j of part j sit in lane r after folding: put them in order.
                4 => _mm512_permutexvar_epi32(
                    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                    fold_quads(&parts),
                ),
                _ => parts[0],
            };
            let sum = _mm512_loadu_ps(sums.as_ptr());
            let product = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(total));
            _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(sum, product));
        }
    }

    /// Sums of neighbouring fours: element j of each 128-bit lane is the sum of that lane of part j.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fold_quads(parts: &[__m512i]) -> __m512i {
        let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
        _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }

    /// Lane j of the result is the sum of the four lanes of part j.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fold_lanes(parts: &[__m512i; 4]) -> __m512i {
        let pair =
            |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b));
        let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
        pair(a, b)
    }
}
