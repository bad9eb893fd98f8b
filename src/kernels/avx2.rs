//! AVX2 kernels: 64 lanes are two registers of bytes.
//!
//! `vpshufb` looks up 16 entries, so a table is cut to fit: the index of a slot's aligned group of 32 and the parity
//! give the group's first run, comparisons with the run ends inside the group add the rest, and each attribute of a
//! run has one register for each parity. There is no byte expansion instruction: a prefix sum over the lanes that
//! need a byte tells each of them which one.

use super::dispatch;
use super::plan::{ClassPlan, Tables};
use super::stream::TileState;
use crate::payload::table::ClassTable;
use crate::payload::{Trellis, NEXT_STATE};

/// Sixteen table entries, twice: `vpshufb` looks up in each half of a register.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Twice16([u8; 32]);

impl Twice16 {
    fn new(entries: [u8; 16]) -> Self {
        let mut both = [0; 32];
        both[..16].copy_from_slice(&entries);
        both[16..].copy_from_slice(&entries);
        Self(both)
    }
}

/// Groups of 32 slots of one parity.
const GROUPS: usize = 8;
/// Marks runs of parity 1 in the lookup by parity.
const ODD_PARITY: u8 = 0x80;

/// A class table for `vpshufb`.
#[derive(Clone, Debug)]
pub(super) struct Avx2Table {
    /// By group, parity 0 first: run of the group's first slot. Runs are numbered through both parities, or, if
    /// `by_parity`, from 0 for parity 0 and from [`ODD_PARITY`] for parity 1.
    first_run: Twice16,
    /// By group: last slot before the n-th run end inside the group, less 128; 127 if there is none.
    thresholds: Vec<Twice16>,
    /// By run (numbered through): 16 of them in each.
    frequency: [Twice16; 4],
    rank_base: [Twice16; 4],
    value: [Twice16; 4],
    /// Next trellis state: see [`transition_table`].
    transitions: Twice16,
    /// Whether each parity has at most 16 runs; the first register of each attribute is then parity 0, the second 1.
    by_parity: bool,
    /// Whether a frequency exceeds 127, which `vpmaddubsw` would take as negative.
    wide: bool,
}

impl Avx2Table {
    pub(super) fn new(table: &ClassTable, trellis: Trellis) -> Self {
        let counts = [table.runs(0).len(), table.runs(1).len()];
        let by_parity = counts.iter().all(|&count| count <= 16);
        // Place of a run in the attribute registers, and its number in the lookup.
        let place = |run: usize| match (by_parity, run.checked_sub(counts[0])) {
            (true, Some(odd)) => (16 + odd, ODD_PARITY + odd as u8),
            _ => (run, run as u8),
        };
        let mut attributes = [[0u8; 64]; 3];
        let mut wide = false;
        for (run, entry) in table.entries().iter().enumerate() {
            let at = place(run).0;
            attributes[0][at] = entry.frequency;
            attributes[1][at] = entry.rank_base;
            attributes[2][at] = entry.value;
            wide |= entry.frequency > 127;
        }
        let mut first_run = [0; 16];
        let mut thresholds = vec![];
        for q in 0..2 {
            let runs = table.run_of_slot(q);
            for group in 0..GROUPS {
                let index = GROUPS * q + group;
                first_run[index] = place(usize::from(runs[32 * group])).1;
                let slots = 32 * group + 1..32 * group + 32;
                let ends = slots.filter(|&slot| runs[slot] != runs[slot - 1]);
                for (n, slot) in ends.enumerate() {
                    if thresholds.len() == n {
                        thresholds.push([127; 16]);
                    }
                    thresholds[n][index] = (slot as u8 - 1) ^ 0x80;
                }
            }
        }
        let registers = |attribute: [u8; 64]| {
            let part = |n: usize| std::array::from_fn(|i| attribute[16 * n + i]);
            std::array::from_fn(|n| Twice16::new(part(n)))
        };
        Self {
            first_run: Twice16::new(first_run),
            thresholds: thresholds.into_iter().map(Twice16::new).collect(),
            frequency: registers(attributes[0]),
            rank_base: registers(attributes[1]),
            value: registers(attributes[2]),
            transitions: transition_table(trellis),
            by_parity,
            wide,
        }
    }
}

/// Trellis state s as a byte: s bit 1 in bit 0, bit 2 in bit 2, bit 0 (the parity) in bit 3. With the index's low bit
/// in bit 1 this addresses the table of next states.
fn transition_table(trellis: Trellis) -> Twice16 {
    let next = |index: usize| {
        let state = (index >> 3 & 1) | (index & 1) << 1 | (index >> 2 & 1) << 2;
        let after = match trellis {
            Trellis::Scalar => 0,
            Trellis::EightState => NEXT_STATE[state][index >> 1 & 1],
        };
        after >> 1 & 1 | (after >> 2 & 1) << 2 | (after & 1) << 3
    };
    Twice16::new(std::array::from_fn(next))
}

/// Most tiles decoded in turn.
pub(super) const INTERLEAVE: usize = 2;

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
        tile_stride: usize,
        chunk_stride: usize,
    }

    fn table_of(class: &ClassPlan) -> &Avx2Table {
        match &class.tables {
            Tables::Avx2(table) => table,
            _ => unreachable!("plans and kernels are chosen together"),
        }
    }

    /// See `avx512::dot`.
    ///
    /// # Safety
    /// As there, with the instructions of `Isa::Avx2`.
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

    /// See `avx512::decode`.
    ///
    /// # Safety
    /// As there, with the instructions of `Isa::Avx2`.
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
        macro_rules! run {
            ($ends:literal, $parity:literal, $general:literal) => {
                // SAFETY: passed on from the caller.
                unsafe {
                    run::<N, $ends, $parity, $general, DOT>(class, chunks, steps, activations, states, target)
                }
            };
        }
        // Raw bits and large frequencies share one slower variant.
        let general = table.wide || class.raw_bits > 0;
        match (table.thresholds.len(), table.by_parity, general) {
            (0..=2, true, false) if table.thresholds.len() == 2 => run!(2, true, false),
            (3, true, false) => run!(3, true, false),
            (4, true, false) => run!(4, true, false),
            (_, true, false) => run!(0, true, false),
            (_, true, true) => run!(0, true, true),
            (_, false, false) => run!(0, false, false),
            (_, false, true) => run!(0, false, true),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &Twice16) -> __m256i {
        // SAFETY: 32 aligned bytes.
        unsafe { _mm256_load_si256(bytes.0.as_ptr().cast()) }
    }

    /// Operands of the dot product: the activations of one chunk, repeated for each row of the step.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn chunk_activations(activations: &[i8]) -> [__m256i; 2] {
        // SAFETY: each arm reads as many bytes as the slice is long.
        unsafe {
            let at = activations.as_ptr();
            match activations.len() {
                64 => [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())],
                16 => [_mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast())); 2],
                4 => [_mm256_set1_epi32(at.cast::<i32>().read_unaligned()); 2],
                _ => [_mm256_setzero_si256(); 2],
            }
        }
    }

    /// Attribute of the runs: `registers` by parity, or numbered through.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn attribute<const PARITY: bool>(registers: &[Twice16; 4], indices: &[__m256i; 4]) -> __m256i {
        let part = |n: usize| _mm256_shuffle_epi8(load(&registers[n]), indices[n]);
        let low = _mm256_or_si256(part(0), part(1));
        if PARITY {
            low
        } else {
            _mm256_or_si256(low, _mm256_or_si256(part(2), part(3)))
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn run<
        const N: usize,
        const ENDS: usize,
        const PARITY: bool,
        const GENERAL: bool,
        const DOT: bool,
    >(
        class: &ClassPlan,
        chunks: usize,
        steps: usize,
        activations: &[i8],
        states: &mut [TileState<'_>],
        target: Target,
    ) {
        let table = table_of(class);
        let Ok(states): Result<&mut [TileState<'_>; N], _> = states.try_into() else { return };
        let zero = _mm256_setzero_si256();
        let low_bytes = _mm256_set1_epi16(255);
        let raw_bits = if GENERAL { class.raw_bits } else { 0 };
        let ends = if ENDS > 0 { ENDS } else { table.thresholds.len() };
        let thresholds = &table.thresholds[..ends];
        let width = activations.len() / chunks;

        let (mut high, mut low) = ([[zero; 2]; N], [[zero; 2]; N]);
        for k in 0..N {
            for half in 0..2 {
                high[k][half] = _mm256_load_si256(states[k].high.as_ptr().add(32 * half).cast());
                low[k][half] = _mm256_load_si256(states[k].low.as_ptr().add(32 * half).cast());
            }
        }
        for chunk in 0..chunks {
            let x = if DOT {
                chunk_activations(&activations[chunk * width..(chunk + 1) * width])
            } else {
                [zero; 2]
            };
            let mut trellis = [[zero; 2]; N];
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
            for _ in 0..steps {
                for k in 0..N {
                    for half in 0..2 {
                        let (h, l) = (high[k][half], low[k][half]);
                        // Bits 0-2 from the slot, the parity from the trellis state.
                        let group = _mm256_or_si256(
                            _mm256_and_si256(_mm256_srli_epi16::<5>(l), _mm256_set1_epi8(7)),
                            _mm256_and_si256(trellis[k][half], _mm256_set1_epi8(8)),
                        );
                        let slot = _mm256_xor_si256(l, _mm256_set1_epi8(-128));
                        let mut run = _mm256_shuffle_epi8(load(&table.first_run), group);
                        for threshold in thresholds {
                            let past = _mm256_cmpgt_epi8(slot, _mm256_shuffle_epi8(load(threshold), group));
                            run = _mm256_sub_epi8(run, past);
                        }
                        let indices = if PARITY {
                            [run, _mm256_xor_si256(run, _mm256_set1_epi8(-128)), zero, zero]
                        } else {
                            // The index of the right register keeps its low bits, the others get bit 7.
                            [0x00, 0x10, 0x20, 0x30].map(|n| {
                                let other = _mm256_xor_si256(run, _mm256_set1_epi8(n));
                                _mm256_adds_epu8(other, _mm256_set1_epi8(0x70))
                            })
                        };
                        let f = attribute::<PARITY>(&table.frequency, &indices);
                        let rank = _mm256_sub_epi8(l, attribute::<PARITY>(&table.rank_base, &indices));
                        let mut u = attribute::<PARITY>(&table.value, &indices);
                        if GENERAL {
                            for bit in 0..raw_bits {
                                let plane = raw[k].add(8 * bit + 4 * half).cast::<i32>().read_unaligned();
                                u = _mm256_add_epi8(u, spread_bits(plane, 2 << bit));
                            }
                        }
                        let index =
                            _mm256_or_si256(trellis[k][half], _mm256_and_si256(u, _mm256_set1_epi8(2)));
                        trellis[k][half] = _mm256_shuffle_epi8(load(&table.transitions), index);
                        // x = frequency * high byte + rank, in 16 bits: even lanes and odd lanes.
                        let (even, odd) = if GENERAL {
                            (
                                _mm256_mullo_epi16(
                                    _mm256_and_si256(f, low_bytes),
                                    _mm256_and_si256(h, low_bytes),
                                ),
                                _mm256_mulhi_epu16(
                                    _mm256_andnot_si256(low_bytes, f),
                                    _mm256_andnot_si256(low_bytes, h),
                                ),
                            )
                        } else {
                            (
                                _mm256_maddubs_epi16(_mm256_and_si256(h, low_bytes), f),
                                _mm256_maddubs_epi16(_mm256_andnot_si256(low_bytes, h), f),
                            )
                        };
                        let even = _mm256_add_epi16(even, _mm256_and_si256(rank, low_bytes));
                        let odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(rank));
                        let new_high = _mm256_blendv_epi8(odd, _mm256_srli_epi16::<8>(even), low_bytes);
                        let new_low = _mm256_blendv_epi8(_mm256_slli_epi16::<8>(odd), even, low_bytes);
                        // Lanes below 256 move up by one byte of the stream, in lane order.
                        let refill = _mm256_cmpeq_epi8(new_high, zero);
                        let mask = _mm256_movemask_epi8(refill) as u32;
                        let low_count = (mask & 0xFFFF).count_ones() as usize;
                        let next = _mm256_inserti128_si256::<1>(
                            _mm256_castsi128_si256(_mm_loadu_si128(at[k].cast())),
                            _mm_loadu_si128(at[k].add(low_count).cast()),
                        );
                        // Minus the number of refilled lanes up to each one, in each half.
                        let mut count = _mm256_add_epi8(refill, _mm256_slli_si256::<1>(refill));
                        count = _mm256_add_epi8(count, _mm256_slli_si256::<2>(count));
                        count = _mm256_add_epi8(count, _mm256_slli_si256::<4>(count));
                        count = _mm256_add_epi8(count, _mm256_slli_si256::<8>(count));
                        let place = _mm256_xor_si256(count, _mm256_set1_epi8(-1));
                        let filled = _mm256_shuffle_epi8(next, place);
                        high[k][half] = _mm256_blendv_epi8(new_high, new_low, refill);
                        low[k][half] = _mm256_blendv_epi8(new_low, filled, refill);
                        at[k] = at[k].add(mask.count_ones() as usize);
                        let slot = out.add(k * target.tile_stride + 32 * half).cast::<__m256i>();
                        if DOT {
                            let sum = _mm256_load_si256(slot);
                            let product =
                                if GENERAL { product_wide(u, x[half]) } else { product(u, x[half]) };
                            _mm256_store_si256(slot, _mm256_add_epi32(sum, product));
                        } else {
                            _mm256_storeu_si256(slot, u);
                        }
                    }
                    if GENERAL {
                        raw[k] = raw[k].add(8 * raw_bits);
                    }
                    _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                }
                out = out.add(64);
            }
            for k in 0..N {
                states[k].chunk_end(at[k].offset_from(start[k]) as usize);
            }
        }
        for k in 0..N {
            for half in 0..2 {
                _mm256_store_si256(states[k].high.as_mut_ptr().add(32 * half).cast(), high[k][half]);
                _mm256_store_si256(states[k].low.as_mut_ptr().add(32 * half).cast(), low[k][half]);
            }
        }
    }

    /// `value` in each byte whose bit in `plane` is set, 0 elsewhere.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn spread_bits(plane: i32, value: i8) -> __m256i {
        let byte_of_lane =
            _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bit_of_lane = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(plane), byte_of_lane);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_lane), bit_of_lane);
        _mm256_and_si256(set, _mm256_set1_epi8(value))
    }

    /// Sums of four products of neighbouring bytes; `u` up to 127.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn product(u: __m256i, x: __m256i) -> __m256i {
        _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1))
    }

    /// The same for `u` up to 255: nibbles one by one, so that the 16-bit sums do not saturate.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn product_wide(u: __m256i, x: __m256i) -> __m256i {
        let nibble = _mm256_set1_epi8(15);
        let low = _mm256_maddubs_epi16(_mm256_and_si256(u, nibble), x);
        let high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(u), nibble), x);
        _mm256_add_epi32(
            _mm256_madd_epi16(low, _mm256_set1_epi16(1)),
            _mm256_madd_epi16(high, _mm256_set1_epi16(16)),
        )
    }

    /// See `avx512::flush`.
    ///
    /// # Safety
    /// As there, with the instructions of `Isa::Avx2`.
    #[target_feature(enable = "avx2")]
    pub(in super::super) unsafe fn flush(
        accumulators: &mut [i32],
        columns_per_chunk: usize,
        scale: f32,
        next: i32,
        sums: &mut [f32],
    ) {
        let parts = columns_per_chunk / 4;
        for (row, sum) in accumulators.chunks_exact_mut(parts).zip(sums) {
            let total: i32 = row.iter().sum();
            *sum += scale * total as f32;
            row.fill(0);
            row[0] = next;
        }
    }
}
