//! Exact Viterbi search, eight paths side by side: of the 8-state trellis here, of the trellis of pairs in
//! `pair_search`.
//!
//! In: the real-valued targets of one column along up to eight independent paths. Out: for each path the
//! integers that the trellis allows (spec section "Trellis") with the least squared error. Knows nothing of
//! matrices, covariances or scales.
//!
//! The branch that leaves state s with the bit b stands for all integers m = 2b + (s & 1) (mod 4), and the
//! best of them is the nearest one, so a step needs four distances only. [`crate::payload::NEXT_STATE`] is
//! linear over the bits of the state: with s = (s2 s1 s0), the next state is (s0, s2 ^ b, s1 ^ s0). Hence the
//! predecessors of a state t are s = (w, t0 ^ t2, t2) for w = 0, 1, reached with b = t1 ^ w.

pub use super::pair_search::PAIR_PENALTY;
use super::pair_search::{self, Paths};
use crate::payload::Trellis;
use pulp::{Simd, WithSimd};

/// Paths that one call searches.
pub const LANES: usize = 8;

/// One value for each of the paths.
pub type Lanes = [f32; LANES];

/// Adding and subtracting this rounds an f32 of magnitude below 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Targets beyond this magnitude are treated as if they were this large: the integers stay exact in f32.
pub const LARGEST_TARGET: f32 = ((1 << 23) - 8) as f32;

/// Cost of a state that no path has reached.
pub(super) const UNREACHED: f32 = 1e30;

/// Path costs are lowered by their minimum every so many steps or pairs, so that f32 stays exact enough on long paths.
pub(super) const RENORMALISE: usize = 64;

/// Working memory of the search; reusable for columns of any length.
#[derive(Debug, Default)]
pub struct Viterbi {
    /// Bit t of `decisions[step][lane]`: top bit of the best predecessor of state t. The trellis of pairs has its own
    /// use of it: [`pair_search::forward`].
    decisions: Vec<[u32; LANES]>,
}

impl Viterbi {
    /// Writes into `integers[step][lane]` the integers m of least `sum (targets[step][lane] / step_size - m)^2`
    /// over the steps `0..lengths[lane]` of each lane, subject to the trellis (state 0 at step 0). Entries at and
    /// beyond a lane's length are unspecified.
    ///
    /// `inverse_step` is `1 / step_size`. `targets` and `integers` have the same length, at least the longest path.
    /// For [`Trellis::Pairs`], pairs (m, m') with m² + m'² above `reach`, which escapes are likely to code, cost
    /// [`PAIR_PENALTY`] more; other trellises do not look at it.
    pub fn search(
        &mut self,
        trellis: Trellis,
        reach: f32,
        targets: &[Lanes],
        inverse_step: f32,
        lengths: &[usize; LANES],
        integers: &mut [Lanes],
    ) {
        let steps = targets.len().next_multiple_of(2);
        self.decisions.resize(steps.max(self.decisions.len()), [0; LANES]);
        let decisions = &mut self.decisions[..steps];
        pulp::Arch::new().dispatch(Search {
            trellis,
            reach,
            targets,
            inverse_step,
            lengths,
            decisions,
            integers,
        });
    }
}

/// One call of [`Viterbi::search`], compiled once for each instruction set.
struct Search<'a> {
    trellis: Trellis,
    reach: f32,
    targets: &'a [Lanes],
    inverse_step: f32,
    lengths: &'a [usize; LANES],
    decisions: &'a mut [[u32; LANES]],
    integers: &'a mut [Lanes],
}

impl WithSimd for Search<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.trellis {
            Trellis::Scalar => round_even(self.targets, self.inverse_step, self.integers),
            Trellis::EightState => self.eight_states(simd),
            Trellis::Pairs => {
                let shortest = self.lengths.iter().copied().min().unwrap_or(0);
                let Self { reach, targets, inverse_step, lengths, .. } = self;
                let paths = Paths { reach, targets, inverse_step, lengths, shortest };
                let mut end = [0; LANES];
                for first in (0..LANES).step_by(S::F32_LANES) {
                    if reach.is_finite() {
                        pair_search::forward::<S, true>(simd, first, paths, self.decisions, &mut end);
                    } else {
                        pair_search::forward::<S, false>(simd, first, paths, self.decisions, &mut end);
                    }
                    pair_search::backward(simd, first, paths, &end, self.decisions, self.integers);
                }
            }
        }
    }
}

impl Search<'_> {
    #[inline(always)]
    fn eight_states<S: Simd>(self, simd: S) {
        let Self { targets, inverse_step, lengths, decisions, integers, .. } = self;
        let mut end = [0; LANES];
        for first in (0..LANES).step_by(S::F32_LANES) {
            forward(simd, first, targets, inverse_step, lengths, decisions, &mut end);
            backward(simd, first, targets, inverse_step, &end, decisions, integers);
        }
    }
}

/// Nearest even integers: the search of the memoryless trellis.
#[inline(always)]
fn round_even(targets: &[Lanes], inverse_step: f32, integers: &mut [Lanes]) {
    for (target, m) in targets.iter().zip(integers) {
        for l in 0..LANES {
            let x = (target[l] * inverse_step).clamp(-LARGEST_TARGET, LARGEST_TARGET);
            m[l] = ((x * 0.5 + ROUND) - ROUND) * 2.0;
        }
    }
}

/// The first lanes of `slice` as one vector; lanes that the slice does not have are zero.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, slice: &[f32]) -> S::f32s {
    match S::as_simd_f32s(slice).0.first() {
        Some(&vector) => vector,
        None => simd.partial_load_f32s(slice),
    }
}

/// The first lanes of `slice` as one vector; lanes that the slice does not have are zero.
#[inline(always)]
pub(super) fn load_bits<S: Simd>(simd: S, slice: &[u32]) -> S::u32s {
    match S::as_simd_u32s(slice).0.first() {
        Some(&vector) => vector,
        None => simd.partial_load_u32s(slice),
    }
}

/// The multiples of four nearest to the scaled targets, and what remains of the targets, within -2..=2.
#[inline(always)]
pub(super) fn reduce<S: Simd>(simd: S, target: S::f32s, inverse_step: S::f32s) -> (S::f32s, S::f32s) {
    let round = simd.splat_f32s(ROUND);
    let x = simd.mul_f32s(target, inverse_step);
    let x =
        simd.min_f32s(simd.max_f32s(x, simd.splat_f32s(-LARGEST_TARGET)), simd.splat_f32s(LARGEST_TARGET));
    let quarter = simd.sub_f32s(simd.add_f32s(simd.mul_f32s(x, simd.splat_f32s(0.25)), round), round);
    let base = simd.mul_f32s(quarter, simd.splat_f32s(4.0));
    (base, simd.sub_f32s(x, base))
}

/// Squared distances of `rest` to the integers that are 0, 1, 2, 3 modulo 4.
#[inline(always)]
pub(super) fn distances<S: Simd>(simd: S, rest: S::f32s) -> [S::f32s; 4] {
    let (one, two) = (simd.splat_f32s(1.0), simd.splat_f32s(2.0));
    let opposite = |f| simd.sub_f32s(two, simd.abs_f32s(f));
    let mut squares =
        [rest, opposite(simd.add_f32s(rest, one)), opposite(rest), opposite(simd.sub_f32s(rest, one))];
    // Not `map`: it is not always inlined, and code outside of the dispatched function lacks its instructions.
    for d in &mut squares {
        *d = simd.mul_f32s(*d, *d);
    }
    squares
}

/// Costs of the eight states after one more step, and the decisions taken.
#[inline(always)]
fn advance<S: Simd>(simd: S, cost: &[S::f32s; 8], d: &[S::f32s; 4]) -> ([S::f32s; 8], S::u32s) {
    let mut next = *cost;
    let mut decided = simd.splat_u32s(0);
    for (t, least) in next.iter_mut().enumerate() {
        let (t0, t1, t2) = (t & 1, (t >> 1) & 1, t >> 2);
        let s = t2 | (t0 ^ t2) << 1;
        let low = simd.add_f32s(cost[s], d[2 * t1 + t2]);
        let high = simd.add_f32s(cost[s + 4], d[2 * (1 - t1) + t2]);
        let flag =
            simd.select_u32s(simd.less_than_f32s(high, low), simd.splat_u32s(1 << t), simd.splat_u32s(0));
        *least = simd.min_f32s(high, low);
        decided = simd.or_u32s(decided, flag);
    }
    (next, decided)
}

/// Fills `decisions` for the lanes from `first` on, as many as one vector holds, and their best last states.
#[inline(always)]
fn forward<S: Simd>(
    simd: S,
    first: usize,
    targets: &[Lanes],
    inverse_step: f32,
    lengths: &[usize; LANES],
    decisions: &mut [[u32; LANES]],
    end: &mut [u32; LANES],
) {
    let lanes = first..(first + S::F32_LANES).min(LANES);
    let lengths = &lengths[lanes.clone()];
    let shortest = lengths.iter().copied().min().unwrap_or(0);
    let inverse_step = simd.splat_f32s(inverse_step);
    let mut cost = [simd.splat_f32s(UNREACHED); 8];
    cost[0] = simd.splat_f32s(0.0);
    for (step, (target, decided)) in targets.iter().zip(decisions.iter_mut()).enumerate() {
        let (_, rest) = reduce(simd, load(simd, &target[lanes.clone()]), inverse_step);
        let mut d = distances(simd, rest);
        if step >= shortest {
            // Behind a lane's end every branch is free: its costs stay those of its best last state.
            let mut present = [0.0; LANES];
            for (p, &length) in present.iter_mut().zip(lengths) {
                *p = if step < length { 1.0 } else { 0.0 };
            }
            let present = load(simd, &present[..lengths.len()]);
            d = d.map(|d| simd.mul_f32s(d, present));
        }
        let flags;
        (cost, flags) = advance(simd, &cost, &d);
        simd.partial_store_u32s(&mut decided[lanes.clone()], flags);
        if step % RENORMALISE == RENORMALISE - 1 {
            let least = cost.iter().skip(1).fold(cost[0], |a, &b| simd.min_f32s(a, b));
            cost = cost.map(|c| simd.sub_f32s(c, least));
        }
    }
    let mut costs = [[0.0; LANES]; 8];
    for (c, &cost) in costs.iter_mut().zip(&cost) {
        simd.partial_store_f32s(&mut c[lanes.clone()], cost);
    }
    for l in lanes {
        end[l] = 0;
        for t in 1..8 {
            if costs[t][l] < costs[end[l] as usize][l] {
                end[l] = t as u32;
            }
        }
    }
}

/// Follows the decisions back from the states `end` and writes the integers of the best paths.
#[inline(always)]
fn backward<S: Simd>(
    simd: S,
    first: usize,
    targets: &[Lanes],
    inverse_step: f32,
    end: &[u32; LANES],
    decisions: &[[u32; LANES]],
    integers: &mut [Lanes],
) {
    let lanes = first..(first + S::F32_LANES).min(LANES);
    let inverse_step = simd.splat_f32s(inverse_step);
    let (zero, one) = (simd.splat_u32s(0), simd.splat_u32s(1));
    let number = |mask, value| simd.select_f32s(mask, simd.splat_f32s(0.0), simd.splat_f32s(value));
    let mut state = load_bits(simd, &end[lanes.clone()]);
    for ((target, decided), m) in targets.iter().zip(decisions).zip(integers).rev() {
        let (base, rest) = reduce(simd, load(simd, &target[lanes.clone()]), inverse_step);
        let decided = load_bits(simd, &decided[lanes.clone()]);
        let top = simd.and_u32s(simd.wrapping_dyn_shr_u32s(decided, state), one);
        let high = simd.wrapping_dyn_shr_u32s(state, one);
        let parity = simd.wrapping_dyn_shr_u32s(high, one);
        let bit = simd.xor_u32s(simd.and_u32s(high, one), top);
        let middle = simd.and_u32s(simd.xor_u32s(state, parity), one);
        let upper = simd.add_u32s(middle, simd.add_u32s(top, top));
        state = simd.add_u32s(parity, simd.add_u32s(upper, upper));
        let residue = simd
            .add_f32s(number(simd.equal_u32s(parity, zero), 1.0), number(simd.equal_u32s(bit, zero), 2.0));
        let near = simd.less_than_or_equal_f32s(simd.sub_f32s(residue, rest), simd.splat_f32s(2.0));
        let offset = simd.sub_f32s(residue, number(near, 4.0));
        simd.partial_store_f32s(&mut m[lanes.clone()], simd.add_f32s(base, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of even spread within `-width..width`, always the same.
    fn numbers(count: usize, width: f32, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| width * next()).collect()
    }

    /// What pairs beyond the reach cost.
    fn penalties(reach: f32, integers: &[f64]) -> f64 {
        let beyond = |pair: &&[f64]| pair.iter().map(|m| m * m).sum::<f64>() > f64::from(reach);
        f64::from(PAIR_PENALTY) * integers.chunks(2).filter(beyond).count() as f64
    }

    /// Least cost over all paths, by trying every bit sequence with the nearest integer of each residue.
    fn brute_force(trellis: Trellis, reach: f32, targets: &[f32]) -> f64 {
        let mut least = f64::INFINITY;
        for bits in 0u32..1 << targets.len() {
            let (mut state, mut cost, mut integers) = (0u8, 0.0, Vec::new());
            for (step, &x) in targets.iter().enumerate() {
                let residue = 2 * ((bits >> step) & 1) as i32 + trellis.parity(state);
                let m = ((f64::from(x) - f64::from(residue)) / 4.0).round() as i32 * 4 + residue;
                cost += (f64::from(x) - f64::from(m)).powi(2);
                integers.push(f64::from(m));
                state = trellis.next(state, m);
            }
            least = least.min(cost + penalties(reach, &integers));
        }
        least
    }

    fn run(trellis: Trellis, targets: &[Lanes], inverse_step: f32, lengths: &[usize; LANES]) -> Vec<Lanes> {
        run_within(trellis, f32::INFINITY, targets, inverse_step, lengths)
    }

    fn run_within(
        trellis: Trellis,
        reach: f32,
        targets: &[Lanes],
        inverse_step: f32,
        lengths: &[usize; LANES],
    ) -> Vec<Lanes> {
        let mut integers = vec![[f32::NAN; LANES]; targets.len()];
        Viterbi::default().search(trellis, reach, targets, inverse_step, lengths, &mut integers);
        integers
    }

    /// Cost of a lane; checks that it is a path of the trellis.
    fn cost(trellis: Trellis, targets: &[Lanes], integers: &[Lanes], lane: usize, length: usize) -> f64 {
        let (mut state, mut cost) = (0, 0.0);
        for step in 0..length {
            let m = integers[step][lane];
            assert_eq!(m.fract(), 0.0);
            assert_eq!((m as i32).rem_euclid(2), trellis.parity(state));
            cost += (f64::from(targets[step][lane]) - f64::from(m)).powi(2);
            state = trellis.next(state, m as i32);
        }
        cost
    }

    #[test]
    fn finds_the_best_path_of_every_length() {
        let (trellises, widths) =
            ([Trellis::EightState, Trellis::Pairs], [0.5, 2.0, 5.0, 50.0, 1000.0, 30.0]);
        for (trellis, (seed, width)) in
            trellises.into_iter().flat_map(|t| (0..).zip(widths).map(move |w| (t, w)))
        {
            for lengths in [[13, 12, 9, 5, 2, 1, 0, 13], [12, 11, 3, 4, 10, 7, 8, 6]] {
                let steps = lengths[0];
                let values = numbers(steps * LANES, width, seed);
                let targets: Vec<Lanes> = values.chunks_exact(LANES).map(|c| c.try_into().unwrap()).collect();
                let integers = run(trellis, &targets, 1.0, &lengths);
                for (lane, &length) in lengths.iter().enumerate() {
                    let column: Vec<f32> = targets[..length].iter().map(|t| t[lane]).collect();
                    let found = cost(trellis, &targets, &integers, lane, length);
                    let best = brute_force(trellis, f32::INFINITY, &column);
                    assert!(
                        (found - best).abs() <= 1e-4 * best.max(1.0),
                        "{trellis:?}, seed {seed}, lane {lane}: {found} {best}"
                    );
                }
            }
        }
    }

    #[test]
    fn pairs_within_reach_are_preferred_at_their_price() {
        let lengths = [11, 10, 9, 5, 2, 1, 0, 11];
        let mut differences = 0;
        for (seed, (reach, width)) in
            (0..).zip([(8.0, 4.0), (20.0, 6.0), (77.0, 9.0), (0.0, 3.0), (26.0, 40.0), (2.0, 2.5)])
        {
            let values = numbers(11 * LANES, width, seed);
            let targets: Vec<Lanes> = values.chunks_exact(LANES).map(|c| c.try_into().unwrap()).collect();
            let integers = run_within(Trellis::Pairs, reach, &targets, 1.0, &lengths);
            let free = run(Trellis::Pairs, &targets, 1.0, &lengths);
            for (lane, &length) in lengths.iter().enumerate() {
                let column: Vec<f32> = targets[..length].iter().map(|t| t[lane]).collect();
                let path: Vec<f64> = integers[..length].iter().map(|m| f64::from(m[lane])).collect();
                let found = cost(Trellis::Pairs, &targets, &integers, lane, length) + penalties(reach, &path);
                let best = brute_force(Trellis::Pairs, reach, &column);
                assert!((found - best).abs() <= 1e-4 * best.max(1.0), "reach {reach}: {found} {best}");
                differences += (0..length).filter(|&i| integers[i][lane] != free[i][lane]).count();
            }
        }
        assert!(differences > 50, "{differences} integers differ from those of a free search");
    }

    #[test]
    fn narrow_vectors_find_the_same_paths() {
        let values = numbers(75 * LANES, 9.0, 3);
        let targets: Vec<Lanes> = values.chunks_exact(LANES).map(|c| c.try_into().unwrap()).collect();
        let lengths = &[75, 74, 60, 5, 2, 1, 0, 75];
        let searches =
            [(Trellis::EightState, f32::INFINITY), (Trellis::Pairs, f32::INFINITY), (Trellis::Pairs, 45.0)];
        for (trellis, reach) in searches {
            let wide = run_within(trellis, reach, &targets, 0.7, lengths);
            let (targets, inverse_step) = (&targets, 0.7);
            let (decisions, integers) = (&mut vec![[0; LANES]; 76], &mut vec![[0.0; LANES]; 75]);
            Search { trellis, reach, targets, inverse_step, lengths, decisions, integers }
                .with_simd(pulp::Scalar::new());
            for (lane, &length) in lengths.iter().enumerate() {
                assert!(
                    (0..length).all(|step| wide[step][lane] == integers[step][lane]),
                    "{trellis:?} {lane}"
                );
            }
        }
    }

    #[test]
    fn long_paths_reach_the_known_granular_gain() {
        let values = numbers(1001 * LANES, 40.0, 9);
        let targets: Vec<Lanes> = values.chunks_exact(LANES).map(|c| c.try_into().unwrap()).collect();
        // One third is the error of the even integers alone; eight states gain 1.1 dB, pairs 1.2.
        for (trellis, range) in [(Trellis::EightState, 0.255..0.275), (Trellis::Pairs, 0.245..0.259)] {
            let integers = run(trellis, &targets, 1.0, &[1001; LANES]);
            let sum: f64 = (0..LANES).map(|l| cost(trellis, &targets, &integers, l, 1001)).sum();
            let mean = sum / (1001 * LANES) as f64;
            assert!(range.contains(&mean), "{trellis:?} {mean}");
        }
    }

    #[test]
    fn steps_scale_and_large_targets_stay_in_range() {
        let targets = vec![[1e30, -1e30, 2.5e6, -2.5e6, 0.3, -0.3, 0.0, 7.0]; 3];
        for trellis in [Trellis::EightState, Trellis::Scalar, Trellis::Pairs] {
            let integers = run(trellis, &targets, 2.0, &[3; LANES]);
            for m in &integers {
                assert!(m.iter().all(|m| m.fract() == 0.0 && m.abs() <= crate::payload::MAX_INTEGER as f32));
                assert!((m[2] - 5e6).abs() <= 2.0 && (m[7] - 14.0).abs() <= 2.0);
            }
        }
        let integers = run(Trellis::Scalar, &targets, 2.0, &[3; LANES]);
        assert_eq!(integers[0][4..], [0.0, -0.0, 0.0, 14.0]);
    }
}
