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
        /// What the accumulators of each row begin with, if not with what they hold.
        start: Option<i32>,
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
                2 => by_table::<2, 4, DOT>(class, chunks, steps, activations, states, target),
                _ => {
                    for (index, state) in states.iter_mut().enumerate() {
                        let target = Target { base: target.base.add(index * target.tile_stride), ..target };
                        let state = std::slice::from_mut(state);
                        by_table::<1, 2, DOT>(class, chunks, steps, activations, state, target);
                    }
                }
            }
        }
    }

    unsafe fn by_table<const N: usize, const M: usize, const DOT: bool>(
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
                    run::<N, M, $ends, $parity, $general, DOT>(
                        class,
                        chunks,
                        steps,
                        activations,
                        states,
                        target,
                    )
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

    /// States of several tiles: halves 2 k and 2 k + 1 are the 64 lanes of tile k.
    struct Halves<const M: usize> {
        high: [__m256i; M],
        low: [__m256i; M],
        trellis: [__m256i; M],
    }

    /// Attribute of the runs: `registers` by parity, or numbered through. `index` has the run of each lane; of
    /// `by_parity`, `odd` has the same with the mark of parity 1 flipped.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn attribute<const M: usize, const PARITY: bool>(
        registers: &[Twice16; 4],
        run: &[__m256i; M],
        odd: &[__m256i; M],
    ) -> [__m256i; M] {
        let mut result = [_mm256_setzero_si256(); M];
        if PARITY {
            let (first, second) = (load(&registers[0]), load(&registers[1]));
            for j in 0..M {
                let (a, b) = (_mm256_shuffle_epi8(first, run[j]), _mm256_shuffle_epi8(second, odd[j]));
                result[j] = _mm256_or_si256(a, b);
            }
        } else {
            for (n, register) in registers.iter().enumerate() {
                let register = load(register);
                for j in 0..M {
                    // The index of the right register keeps its low bits, the others get bit 7.
                    let other = _mm256_xor_si256(run[j], _mm256_set1_epi8(16 * n as i8));
                    let index = _mm256_adds_epu8(other, _mm256_set1_epi8(0x70));
                    result[j] = _mm256_or_si256(result[j], _mm256_shuffle_epi8(register, index));
                }
            }
        }
        result
    }

    /// One step of `M` halves: their values. `at` of each tile moves past the bytes that were taken.
    ///
    /// The halves advance together, operation by operation: one alone is a chain of dependent instructions longer
    /// than what processors look ahead.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn step<const M: usize, const N: usize, const PARITY: bool, const GENERAL: bool>(
        table: &Avx2Table,
        thresholds: &[Twice16],
        halves: &mut Halves<M>,
        at: &mut [*const u8; N],
        raw: &[*const u8; N],
        raw_bits: usize,
    ) -> [__m256i; M] {
        let zero = _mm256_setzero_si256();
        let low_bytes = _mm256_set1_epi16(255);
        let Halves { high, low, trellis } = halves;

        // Bits 0-2 from the slot, the parity from the trellis state.
        let mut group = [zero; M];
        for j in 0..M {
            group[j] = _mm256_or_si256(
                _mm256_and_si256(_mm256_srli_epi16::<5>(low[j]), _mm256_set1_epi8(7)),
                _mm256_and_si256(trellis[j], _mm256_set1_epi8(8)),
            );
        }
        let mut run = [zero; M];
        for j in 0..M {
            run[j] = _mm256_shuffle_epi8(load(&table.first_run), group[j]);
        }
        for threshold in thresholds {
            let threshold = load(threshold);
            for j in 0..M {
                let slot = _mm256_xor_si256(low[j], _mm256_set1_epi8(-128));
                let past = _mm256_cmpgt_epi8(slot, _mm256_shuffle_epi8(threshold, group[j]));
                run[j] = _mm256_sub_epi8(run[j], past);
            }
        }
        let mut odd_run = [zero; M];
        if PARITY {
            for j in 0..M {
                odd_run[j] = _mm256_xor_si256(run[j], _mm256_set1_epi8(-128));
            }
        }
        let frequency = attribute::<M, PARITY>(&table.frequency, &run, &odd_run);
        let mut rank = attribute::<M, PARITY>(&table.rank_base, &run, &odd_run);
        for j in 0..M {
            rank[j] = _mm256_sub_epi8(low[j], rank[j]);
        }

        // x = frequency * high byte + rank, in 16 bits: even lanes and odd lanes.
        let (mut even, mut odd) = ([zero; M], [zero; M]);
        for j in 0..M {
            let high_even = _mm256_and_si256(high[j], low_bytes);
            let high_odd = _mm256_andnot_si256(low_bytes, high[j]);
            if GENERAL {
                even[j] = _mm256_mullo_epi16(_mm256_and_si256(frequency[j], low_bytes), high_even);
                odd[j] = _mm256_mulhi_epu16(_mm256_andnot_si256(low_bytes, frequency[j]), high_odd);
            } else {
                even[j] = _mm256_maddubs_epi16(high_even, frequency[j]);
                odd[j] = _mm256_maddubs_epi16(high_odd, frequency[j]);
            }
        }
        let (mut new_high, mut new_low) = ([zero; M], [zero; M]);
        for j in 0..M {
            even[j] = _mm256_add_epi16(even[j], _mm256_and_si256(rank[j], low_bytes));
            odd[j] = _mm256_add_epi16(odd[j], _mm256_srli_epi16::<8>(rank[j]));
            new_high[j] = _mm256_blendv_epi8(odd[j], _mm256_srli_epi16::<8>(even[j]), low_bytes);
            new_low[j] = _mm256_blendv_epi8(_mm256_slli_epi16::<8>(odd[j]), even[j], low_bytes);
        }

        // Lanes below 256 move up by one byte of the stream, in lane order.
        let mut refill = [zero; M];
        for j in 0..M {
            refill[j] = _mm256_cmpeq_epi8(new_high[j], zero);
        }
        let mut next = [zero; M];
        for j in 0..M {
            let mask = _mm256_movemask_epi8(refill[j]) as u32;
            let first = at[j / 2];
            // SAFETY: the caller's stream has 64 bytes more than all its symbols can take.
            unsafe {
                let upper = first.add((mask & 0xFFFF).count_ones() as usize);
                next[j] = _mm256_inserti128_si256::<1>(
                    _mm256_castsi128_si256(_mm_loadu_si128(first.cast())),
                    _mm_loadu_si128(upper.cast()),
                );
                at[j / 2] = first.add(mask.count_ones() as usize);
            }
        }
        // Minus the number of refilled lanes up to each one, in each 16; its complement is the place of the byte.
        let mut count = [zero; M];
        for j in 0..M {
            count[j] = _mm256_add_epi8(refill[j], _mm256_slli_si256::<1>(refill[j]));
        }
        for j in 0..M {
            count[j] = _mm256_add_epi8(count[j], _mm256_slli_si256::<2>(count[j]));
        }
        for j in 0..M {
            count[j] = _mm256_add_epi8(count[j], _mm256_slli_si256::<4>(count[j]));
        }
        for j in 0..M {
            let complement = _mm256_xor_si256(count[j], _mm256_set1_epi8(-1));
            let place = _mm256_sub_epi8(complement, _mm256_slli_si256::<8>(count[j]));
            high[j] = _mm256_blendv_epi8(new_high[j], new_low[j], refill[j]);
            low[j] = _mm256_blendv_epi8(new_low[j], _mm256_shuffle_epi8(next[j], place), refill[j]);
        }

        let mut value = attribute::<M, PARITY>(&table.value, &run, &odd_run);
        if GENERAL {
            for bit in 0..raw_bits {
                for j in 0..M {
                    // SAFETY: the caller's raw plane has 8 bytes for each bit.
                    let plane =
                        unsafe { raw[j / 2].add(8 * bit + 4 * (j % 2)).cast::<i32>().read_unaligned() };
                    value[j] = _mm256_add_epi8(value[j], spread_bits(plane, 2 << bit));
                }
            }
        }
        for j in 0..M {
            let index = _mm256_or_si256(trellis[j], _mm256_and_si256(value[j], _mm256_set1_epi8(2)));
            trellis[j] = _mm256_shuffle_epi8(load(&table.transitions), index);
        }
        value
    }

    /// `M` is twice `N`: a constant of its own because constants cannot be computed from others here.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn run<
        const N: usize,
        const M: usize,
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
        let raw_bits = if GENERAL { class.raw_bits } else { 0 };
        let ends = if ENDS > 0 { ENDS } else { table.thresholds.len() };
        let thresholds = &table.thresholds[..ends];
        let width = activations.len() / chunks;
        // Accumulators of one step with the start in the first one of each row.
        let start_values = target.start.map(|start| {
            let parts = width / 4;
            std::array::from_fn::<i32, 16, _>(|i| if i % parts == 0 { start } else { 0 })
        });

        let mut halves = Halves { high: [zero; M], low: [zero; M], trellis: [zero; M] };
        for j in 0..M {
            let (state, at) = (&states[j / 2], 32 * (j % 2));
            halves.high[j] = _mm256_load_si256(state.high.as_ptr().add(at).cast());
            halves.low[j] = _mm256_load_si256(state.low.as_ptr().add(at).cast());
        }
        for chunk in 0..chunks {
            let x = if DOT {
                chunk_activations(&activations[chunk * width..(chunk + 1) * width])
            } else {
                [zero; 2]
            };
            let mut start = [std::ptr::null::<u8>(); N];
            let mut raw = [std::ptr::null::<u8>(); N];
            for k in 0..N {
                start[k] = states[k].chunk_start();
                if GENERAL {
                    raw[k] = states[k].take_raw(8 * raw_bits * steps).as_ptr();
                }
            }
            halves.trellis = [zero; M];
            let mut at = start;
            let mut out = target.base.add(chunk * target.chunk_stride);
            // Where the accumulators of the first step and tile come from; the next tile's and the next step's.
            let (mut from, from_tile, from_step) = match &start_values {
                Some(values) if chunk == 0 => (values.as_ptr().cast(), 0, 0),
                _ => (out.cast_const(), target.tile_stride, 64),
            };
            for _ in 0..steps {
                let values =
                    step::<M, N, PARITY, GENERAL>(table, thresholds, &mut halves, &mut at, &raw, raw_bits);
                for j in 0..M {
                    let slot = out.add(j / 2 * target.tile_stride + 32 * (j % 2)).cast::<__m256i>();
                    if DOT {
                        let (u, x) = (values[j], x[j % 2]);
                        let product = if GENERAL { product_wide(u, x) } else { product(u, x) };
                        let sum = from.add(j / 2 * from_tile + 32 * (j % 2)).cast::<__m256i>();
                        _mm256_store_si256(slot, _mm256_add_epi32(_mm256_loadu_si256(sum), product));
                    } else {
                        _mm256_storeu_si256(slot, values[j]);
                    }
                }
                for k in 0..N {
                    if GENERAL {
                        raw[k] = raw[k].wrapping_add(8 * raw_bits);
                    }
                    _mm_prefetch::<_MM_HINT_T0>(at[k].wrapping_add(PREFETCH).cast());
                }
                out = out.add(64);
                from = from.wrapping_add(from_step);
            }
            for k in 0..N {
                states[k].chunk_end(at[k].offset_from(start[k]) as usize);
            }
        }
        for j in 0..M {
            let (state, at) = (&mut states[j / 2], 32 * (j % 2));
            _mm256_store_si256(state.high.as_mut_ptr().add(at).cast(), halves.high[j]);
            _mm256_store_si256(state.low.as_mut_ptr().add(at).cast(), halves.low[j]);
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

    /// `PARTS` neighbouring accumulators belong to one row; eight rows at a time.
    #[target_feature(enable = "avx2")]
    unsafe fn flush_as<const PARTS: usize>(accumulators: &[i32], scale: f32, sums: &mut [f32]) {
        let scale = _mm256_set1_ps(scale);
        let zero = _mm256_setzero_si256();
        for (rows, sums) in accumulators.chunks_exact(8 * PARTS).zip(sums.as_chunks_mut::<8>().0) {
            let at = rows.as_ptr().cast::<__m256i>();
            // SAFETY: `rows` is `PARTS` registers long.
            let total = unsafe {
                match PARTS {
                    16 => {
                        let mut parts = [zero; 8];
                        for (row, part) in parts.iter_mut().enumerate() {
                            let (low, high) = (at.add(2 * row), at.add(2 * row + 1));
                            *part = _mm256_add_epi32(_mm256_loadu_si256(low), _mm256_loadu_si256(high));
                        }
                        let [a, b, c, d, e, f, g, h] = parts;
                        let (upper, lower) = (fold_quads([a, b, c, d]), fold_quads([e, f, g, h]));
                        _mm256_add_epi32(
                            _mm256_permute2x128_si256::<0x20>(upper, lower),
                            _mm256_permute2x128_si256::<0x31>(upper, lower),
                        )
                    }
                    4 => {
                        let mut parts = [zero; 4];
                        for (index, part) in parts.iter_mut().enumerate() {
                            *part = _mm256_loadu_si256(at.add(index));
                        }
                        // Rows 2 j and 2 j + 1 are the halves of part j.
                        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                        _mm256_permutevar8x32_epi32(fold_quads(parts), order)
                    }
                    _ => _mm256_loadu_si256(at),
                }
            };
            let product = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(total));
            // SAFETY: eight sums.
            unsafe {
                let sum = _mm256_loadu_ps(sums.as_ptr());
                _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(sum, product));
            }
        }
    }

    /// Element j of each 128-bit lane is the sum of that lane of part j.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fold_quads(parts: [__m256i; 4]) -> __m256i {
        let pair = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (a, b) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
        _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
    }
}
