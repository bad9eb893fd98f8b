//! AVX-512 kernels: 64 lanes are one register of bytes, so a step is one pass of about 30 vector instructions.
//!
//! The state's high and low bytes live in two registers per tile; tables live in registers too (`vpermb` looks 64
//! bytes up at once). A slot becomes a run in two moves: the index of its aligned group of 8 slots picks the run of
//! the group's first slot, and one or two comparisons with the run ends inside the group add what is left. Several
//! tiles are decoded in turn because one tile alone is a long dependency chain.

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

/// Run ends inside any aligned group of 8 slots: chooses the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    One,
    Two,
    Any,
}

/// A class table for `vpermb`. Index of the first four: bits 0-4 group of 8 slots, bit 5 parity.
#[derive(Clone, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Avx512Table {
    /// Run of the first slot of the group.
    first_run: Bytes64,
    /// Last slot before the first (second) run end inside the group, 255 if there is none.
    thresholds: [Bytes64; 2],
    /// Bit j set if a run starts at slot j > 0 of the group.
    starts: Bytes64,
    /// By run.
    frequency: Bytes64,
    rank_base: Bytes64,
    value: Bytes64,
    /// The number 1, which the compiler must not know to be one: it would spend an instruction more on adding it.
    one: Bytes64,
    /// Next trellis state in the form the kernel keeps: see [`transition_table`].
    transitions: Bytes64,
    lookup: Lookup,
    /// Whether a frequency exceeds 127, which `vpmaddubsw` would take as negative.
    wide: bool,
}

impl Avx512Table {
    pub(super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let mut this = Self {
            first_run: Bytes64::ZERO,
            thresholds: [Bytes64([255; 64]); 2],
            starts: Bytes64::ZERO,
            frequency: Bytes64::ZERO,
            rank_base: Bytes64::ZERO,
            value: Bytes64::ZERO,
            one: Bytes64([1; 64]),
            transitions: transition_table(trellis),
            lookup: Lookup::One,
            wide: false,
        };
        for (run, entry) in table.entries().iter().enumerate() {
            this.frequency.0[run] = entry.frequency;
            this.rank_base.0[run] = entry.rank_base;
            this.value.0[run] = entry.value;
            this.wide |= entry.frequency > 127;
        }
        let mut most = 0;
        for q in 0..2 {
            let runs = table.run_of_slot(q);
            for group in 0..32 {
                let index = 32 * q + group;
                this.first_run.0[index] = runs[8 * group];
                let mut ends = 0;
                for slot in 8 * group + 1..8 * group + 8 {
                    if runs[slot] != runs[slot - 1] {
                        if let Some(threshold) = this.thresholds.get_mut(ends) {
                            threshold.0[index] = slot as u8 - 1;
                        }
                        this.starts.0[index] |= 1 << (slot & 7);
                        ends += 1;
                    }
                }
                most = most.max(ends);
            }
        }
        this.lookup = match most {
            0 | 1 => Lookup::One,
            2 => Lookup::Two,
            _ => Lookup::Any,
        };
        this
    }
}

/// Trellis state s as a byte: s bit 1 in bit 0, bit 2 in bit 2, bit 0 (the parity) in bits 3 and 5. With the index's
/// low bit put into bit 1, the low six bits address this table of next states.
fn transition_table(trellis: Trellis) -> Bytes64 {
    let mut table = Bytes64::ZERO;
    if trellis == Trellis::EightState {
        for (index, next) in table.0.iter_mut().enumerate() {
            let state = (index >> 3 & 1) | (index & 1) << 1 | (index >> 2 & 1) << 2;
            let after = NEXT_STATE[state][index >> 1 & 1];
            *next = after >> 1 & 1 | (after >> 2 & 1) << 2 | (after & 1) << 3 | (after & 1) << 5;
        }
    }
    table
}

/// Most tiles decoded in turn.
pub(super) const INTERLEAVE: usize = 4;

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
    pub(in super::super) unsafe fn dot(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        accumulators: &mut [i32],
        stride: usize,
    ) {
        let base = accumulators.as_mut_ptr().cast();
        let target = Target { base, tile_stride: 4 * stride, chunk_stride: 0 };
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
        let target = Target { base: values.as_mut_ptr(), tile_stride, chunk_stride };
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
                4 => by_lookup::<4, DOT>(class, chunks, steps, activations, states, target),
                3 => by_lookup::<3, DOT>(class, chunks, steps, activations, states, target),
                2 => by_lookup::<2, DOT>(class, chunks, steps, activations, states, target),
                _ => {
                    for (index, state) in states.iter_mut().enumerate() {
                        let target = Target { base: target.base.add(index * target.tile_stride), ..target };
                        let state = std::slice::from_mut(state);
                        by_lookup::<1, DOT>(class, chunks, steps, activations, state, target);
                    }
                }
            }
        }
    }

    unsafe fn by_lookup<const N: usize, const DOT: bool>(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        let table = table_of(class);
        macro_rules! run {
            ($lookup:literal, $wide:literal, $raw:literal) => {
                // SAFETY: passed on from the caller.
                unsafe {
                    run::<N, $lookup, $wide, $raw, DOT>(class, chunks, steps, activations, states, target)
                }
            };
        }
        match (table.lookup, table.wide, class.raw_bits > 0) {
            (Lookup::One, false, false) => run!(1, false, false),
            (Lookup::Two, false, false) => run!(2, false, false),
            (Lookup::Any, false, false) => run!(3, false, false),
            (Lookup::One, true, false) => run!(1, true, false),
            (Lookup::Two, true, false) => run!(2, true, false),
            (Lookup::Any, true, false) => run!(3, true, false),
            (Lookup::One, false, true) => run!(1, false, true),
            (Lookup::Two, false, true) => run!(2, false, true),
            (Lookup::Any, false, true) => run!(3, false, true),
            (Lookup::One, true, true) => run!(1, true, true),
            (Lookup::Two, true, true) => run!(2, true, true),
            (Lookup::Any, true, true) => run!(3, true, true),
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
        enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,popcnt,bmi1,bmi2"
    )]
    unsafe fn run<const N: usize, const LOOKUP: u8, const WIDE: bool, const RAW: bool, const DOT: bool>(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        const ODD: __mmask64 = 0xAAAA_AAAA_AAAA_AAAA;
        let table = table_of(class);
        let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
        let transitions = load(&table.transitions);
        let first_run = load(&table.first_run);
        let threshold_1 = load(&table.thresholds[0]);
        let threshold_2 = load(&table.thresholds[1]);
        let starts = load(&table.starts);
        let frequency = load(&table.frequency);
        let rank_base = load(&table.rank_base);
        let value = load(&table.value);
        let one = load(&table.one);
        let two = _mm512_set1_epi8(2);
        let group_bits = _mm512_set1_epi8(31);
        let low_bytes = _mm512_set1_epi16(255);
        // Byte j: bits 0..=j of an aligned group of 8 slots; the low six bits of a slot address it.
        let up_to_slot = _mm512_set1_epi64(0xFF7F_3F1F_0F07_0301u64 as i64);
        let low_of_both = load(&LOW_OF_BOTH);
        let raw_bits = if RAW { class.raw_bits } else { 0 };
        let width = activations.len() / chunks;

        let (mut high, mut low) = ([_mm512_setzero_si512(); N], [_mm512_setzero_si512(); N]);
        for k in 0..N {
            high[k] = _mm512_load_si512(states[k].high.as_ptr().cast());
            low[k] = _mm512_load_si512(states[k].low.as_ptr().cast());
        }
        for chunk in 0..chunks {
            let x = if DOT {
                chunk_activations(&activations[chunk * width..(chunk + 1) * width])
            } else {
                _mm512_setzero_si512()
            };
            let mut trellis = [_mm512_setzero_si512(); N];
            let mut start = [std::ptr::null::<u8>(); N];
            let mut raw = [std::ptr::null::<u8>(); N];
            for k in 0..N {
                start[k] = states[k].chunk_start();
                if RAW {
                    raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
                }
            }
            let mut at = start;
            let mut out = target.base.add(chunk * target.chunk_stride);
            for _ in 0..steps {
                for k in 0..N {
                    let (h, l) = (high[k], low[k]);
                    // Bits 0-4 from the slot, the parity from the trellis state.
                    let group =
                        _mm512_ternarylogic_epi32::<0xCA>(group_bits, _mm512_srli_epi16::<3>(l), trellis[k]);
                    let mut run = _mm512_permutexvar_epi8(group, first_run);
                    if LOOKUP == 3 {
                        let before = _mm512_and_si512(
                            _mm512_permutexvar_epi8(group, starts),
                            _mm512_permutexvar_epi8(l, up_to_slot),
                        );
                        run = _mm512_add_epi8(run, _mm512_popcnt_epi8(before));
                    } else {
                        let past = _mm512_cmpgt_epu8_mask(l, _mm512_permutexvar_epi8(group, threshold_1));
                        if LOOKUP == 2 {
                            let also = _mm512_cmpgt_epu8_mask(l, _mm512_permutexvar_epi8(group, threshold_2));
                            run = _mm512_mask_add_epi8(run, also, run, one);
                        }
                        run = _mm512_mask_add_epi8(run, past, run, one);
                    }
                    let f = _mm512_permutexvar_epi8(run, frequency);
                    let rank = _mm512_sub_epi8(l, _mm512_permutexvar_epi8(run, rank_base));
                    let mut u = _mm512_permutexvar_epi8(run, value);
                    if RAW {
                        for bit in 0..raw_bits {
                            let plane = raw[k].add(8 * bit).cast::<u64>().read_unaligned();
                            u = _mm512_mask_add_epi8(u, plane, u, _mm512_set1_epi8(2 << bit));
                        }
                        raw[k] = raw[k].add(8 * raw_bits);
                    }
                    trellis[k] = _mm512_permutexvar_epi8(
                        _mm512_ternarylogic_epi32::<0xCA>(two, u, trellis[k]),
                        transitions,
                    );
                    // x = frequency * high byte + rank, in 16 bits: even lanes and odd lanes.
                    let (even, odd) = if WIDE {
                        (
                            _mm512_mullo_epi16(
                                _mm512_and_si512(f, low_bytes),
                                _mm512_and_si512(h, low_bytes),
                            ),
                            _mm512_mulhi_epu16(
                                _mm512_andnot_si512(low_bytes, f),
                                _mm512_andnot_si512(low_bytes, h),
                            ),
                        )
                    } else {
                        (
                            _mm512_maddubs_epi16(_mm512_and_si512(h, low_bytes), f),
                            _mm512_maddubs_epi16(_mm512_andnot_si512(low_bytes, h), f),
                        )
                    };
                    let even = _mm512_add_epi16(even, _mm512_and_si512(rank, low_bytes));
                    let odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(rank));
                    let new_high = _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(even), odd);
                    let new_low = _mm512_permutex2var_epi8(even, low_of_both, odd);
                    // Lanes below 256 move up by one byte of the stream, in lane order.
                    let refill = _mm512_testn_epi8_mask(new_high, new_high);
                    high[k] = _mm512_mask_mov_epi8(new_high, refill, new_low);
                    let next = _mm512_loadu_si512(at[k].cast());
                    low[k] = _mm512_mask_expand_epi8(new_low, refill, next);
                    at[k] = at[k].add(refill.count_ones() as usize);
                    _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                    let slot = out.add(k * target.tile_stride).cast::<__m512i>();
                    if DOT {
                        _mm512_store_si512(slot, _mm512_dpbusd_epi32(_mm512_load_si512(slot), u, x));
                    } else {
                        _mm512_storeu_si512(slot, u);
                    }
                }
                out = out.add(64);
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

    /// Adds `scale` times the integer dot product of each row to `sums` and restarts the accumulators with `next` as
    /// the integer of each row.
    ///
    /// # Safety
    /// The machine has the instructions of `Isa::Avx512`; `accumulators` is aligned to 64 bytes and holds
    /// 16 i32 for each step, steps rounded up to a multiple of 16; `sums` holds the rows of as many steps.
    pub(in super::super) unsafe fn flush(
        accumulators: &mut [i32],
        columns_per_chunk: usize,
        scale: f32,
        next: i32,
        sums: &mut [f32],
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match columns_per_chunk {
                64 => flush_as::<16>(accumulators, scale, next, sums),
                16 => flush_as::<4>(accumulators, scale, next, sums),
                _ => flush_as::<1>(accumulators, scale, next, sums),
            }
        }
    }

    /// `PARTS` neighbouring accumulators belong to one row.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    unsafe fn flush_as<const PARTS: usize>(
        accumulators: &mut [i32],
        scale: f32,
        next: i32,
        sums: &mut [f32],
    ) {
        let scale = _mm512_set1_ps(scale);
        let first_part: __mmask16 = match PARTS {
            16 => 0x0001,
            4 => 0x1111,
            _ => 0xFFFF,
        };
        let restart = _mm512_maskz_set1_epi32(first_part, next);
        for (rows, sums) in accumulators.chunks_exact_mut(16 * PARTS).zip(sums.chunks_exact_mut(16)) {
            let at = rows.as_mut_ptr();
            let mut parts = [_mm512_setzero_si512(); PARTS];
            for (index, part) in parts.iter_mut().enumerate() {
                *part = _mm512_load_si512(at.add(16 * index).cast());
                _mm512_store_si512(at.add(16 * index).cast(), restart);
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
