//! Exact Viterbi search of the trellis of pairs: 64 states, several paths side by side.
//!
//! In: the targets of one column along a few independent paths. Out: for each path the integers that
//! [`crate::payload::Trellis::Pairs`] allows with the least cost. Called by [`super::viterbi`] only.
//!
//! A branch that leaves a state of parity q with the bit b stands for all pairs (2k + q, 2k' + q) with k + k' = b
//! (mod 2): modulo 4 these are (q, q + 2b) and (q + 2, q + 2 - 2b). So a pair costs one of four numbers, by q and b.
//!
//! With the taps of [`PAIR_TAPS`] the next state t of a state s is (s >> 1) ^ 45 q ^ 17 b. Bit 5 of t is q, because
//! only the first of the taps has it; hence the predecessor of t for the bit b is 2 (i ^ 17 b) + q with the *index*
//! i = (t ^ 45 q) & 31. The states of the indices i and i ^ 17 share their two predecessors, with the bits exchanged.

use super::viterbi::{distances, load, load_bits, reduce, Lanes, LANES, RENORMALISE, UNREACHED};
use crate::payload::PAIR_TAPS;
use pulp::Simd;

/// States of the trellis.
const STATES: usize = 64;

// The inverse of the step above needs this.
const _: () = assert!(PAIR_TAPS[0] as usize >> 5 == 1 && PAIR_TAPS[1] as usize >> 5 == 0);

/// What a pair beyond the reach costs beside its squared error, in units of m². Best for Gaussian and for Laplacian
/// targets alike; an escape's 14 bits are worth 4.8 at the exchange rate of error for bits, but few pairs that the
/// search avoids would have needed one.
pub const PAIR_PENALTY: f32 = 3.0;

/// What the search reads: see [`super::viterbi::Viterbi::search`].
#[derive(Clone, Copy)]
pub(super) struct Paths<'a> {
    pub reach: f32,
    pub targets: &'a [Lanes],
    pub inverse_step: f32,
    pub lengths: &'a [usize; LANES],
    /// Least of the lengths.
    pub shortest: usize,
}

impl Paths<'_> {
    /// Pairs of the longest path; the last one may lack its second integer.
    const fn pairs(&self) -> usize {
        self.targets.len().div_ceil(2)
    }

    /// Both integers' targets of a pair, for the lanes from `first` on, as many as one vector holds.
    #[inline(always)]
    fn pair<S: Simd>(&self, simd: S, first: usize, pair: usize) -> [Target<S>; 2] {
        [self.target(simd, first, 2 * pair), self.target(simd, first, 2 * pair + 1)]
    }

    #[inline(always)]
    fn target<S: Simd>(&self, simd: S, first: usize, step: usize) -> Target<S> {
        let lanes = first..(first + S::F32_LANES).min(LANES);
        let Some(target) = self.targets.get(step) else {
            let zero = simd.splat_f32s(0.0);
            return Target { base: zero, rest: zero, weight: zero };
        };
        let inverse_step = simd.splat_f32s(self.inverse_step);
        let (base, rest) = reduce(simd, load(simd, &target[lanes.clone()]), inverse_step);
        let mut weight = simd.splat_f32s(1.0);
        if step >= self.shortest {
            let mut present = [0.0; LANES];
            for (p, &length) in present.iter_mut().zip(self.lengths) {
                *p = if step < length { 1.0 } else { 0.0 };
            }
            weight = load(simd, &present[lanes]);
        }
        Target { base, rest, weight }
    }
}

/// A scaled target: a multiple of four and what remains of it.
#[derive(Clone, Copy)]
struct Target<S: Simd> {
    base: S::f32s,
    rest: S::f32s,
    /// 0 behind the end of a path, where everything is free, and 1 before.
    weight: S::f32s,
}

/// The integer nearest to a target among those of one residue modulo 4.
#[derive(Clone, Copy)]
struct Nearest<S: Simd> {
    integer: S::f32s,
    /// Squared error, and what it adds to the pair's m² + m'².
    cost: S::f32s,
    square: S::f32s,
}

impl<S: Simd> Target<S> {
    #[inline(always)]
    fn nearest(self, simd: S, residue: S::f32s) -> Nearest<S> {
        let near = simd.less_than_or_equal_f32s(simd.sub_f32s(residue, self.rest), simd.splat_f32s(2.0));
        let offset = simd.select_f32s(near, residue, simd.sub_f32s(residue, simd.splat_f32s(4.0)));
        let difference = simd.sub_f32s(self.rest, offset);
        let integer = simd.add_f32s(self.base, offset);
        Nearest {
            integer,
            cost: simd.mul_f32s(self.weight, simd.mul_f32s(difference, difference)),
            square: simd.mul_f32s(self.weight, simd.mul_f32s(integer, integer)),
        }
    }
}

/// Fills `decisions` for the lanes from `first` on, as many as one vector holds, and their best last states.
/// The words 2p and 2p + 1 belong to the states that the p-th pair reaches from parity 0 and 1; the place in a word is
/// that of [`decision_shift`].
#[inline(always)]
pub(super) fn forward<S: Simd, const LIMITED: bool>(
    simd: S,
    first: usize,
    paths: Paths<'_>,
    decisions: &mut [[u32; LANES]],
    end: &mut [u32; LANES],
) {
    let lanes = first..(first + S::F32_LANES).min(LANES);
    let (mut cost, mut next) =
        (&mut [simd.splat_f32s(UNREACHED); STATES], &mut [simd.splat_f32s(0.0); STATES]);
    cost[0] = simd.splat_f32s(0.0);
    for (pair, decided) in decisions.chunks_exact_mut(2).enumerate().take(paths.pairs()) {
        let targets = paths.pair(simd, first, pair);
        let branches =
            if LIMITED { limited_costs(simd, paths.reach, targets) } else { branch_costs(simd, targets) };
        let words = advance(simd, cost, &branches, next);
        for (decided, word) in decided.iter_mut().zip(words) {
            simd.partial_store_u32s(&mut decided[lanes.clone()], word);
        }
        std::mem::swap(&mut cost, &mut next);
        if pair % RENORMALISE == RENORMALISE - 1 {
            let least = cost.iter().skip(1).fold(cost[0], |a, &b| simd.min_f32s(a, b));
            cost.iter_mut().for_each(|c| *c = simd.sub_f32s(*c, least));
        }
    }
    let mut least = [f32::INFINITY; LANES];
    for (state, &cost) in cost.iter().enumerate() {
        let mut costs = [0.0; LANES];
        simd.partial_store_f32s(&mut costs[lanes.clone()], cost);
        for l in lanes.clone() {
            if costs[l] < least[l] {
                (least[l], end[l]) = (costs[l], state as u32);
            }
        }
    }
}

/// Costs of a pair, by parity and branch bit.
#[inline(always)]
fn branch_costs<S: Simd>(simd: S, pair: [Target<S>; 2]) -> [[S::f32s; 2]; 2] {
    let (mut x, mut y) = (distances(simd, pair[0].rest), distances(simd, pair[1].rest));
    for (x, y) in x.iter_mut().zip(&mut y) {
        *x = simd.mul_f32s(pair[0].weight, *x);
        *y = simd.mul_f32s(pair[1].weight, *y);
    }
    let mut costs = [[x[0]; 2]; 2];
    for (q, costs) in costs.iter_mut().enumerate() {
        for (b, cost) in costs.iter_mut().enumerate() {
            let near = simd.add_f32s(x[q], y[q + 2 * b]);
            *cost = simd.min_f32s(near, simd.add_f32s(x[q + 2], y[q + 2 - 2 * b]));
        }
    }
    costs
}

/// [`branch_costs`] where pairs beyond the reach cost more.
#[inline(always)]
fn limited_costs<S: Simd>(simd: S, reach: f32, pair: [Target<S>; 2]) -> [[S::f32s; 2]; 2] {
    let [x, y] = pair;
    let mut costs = [[simd.splat_f32s(0.0); 2]; 2];
    for (q, costs) in costs.iter_mut().enumerate() {
        let (low, high) = (simd.splat_f32s(q as f32), simd.splat_f32s(q as f32 + 2.0));
        let x = [x.nearest(simd, low), x.nearest(simd, high)];
        let y = [y.nearest(simd, low), y.nearest(simd, high)];
        for (b, cost) in costs.iter_mut().enumerate() {
            let near = pair_cost(simd, reach, x[0], y[b]);
            *cost = simd.min_f32s(near, pair_cost(simd, reach, x[1], y[1 - b]));
        }
    }
    costs
}

/// Cost of a pair. Among the pairs of two residues the search knows the nearest alone: one beyond the reach is left for
/// other residues, or taken at its price.
#[inline(always)]
fn pair_cost<S: Simd>(simd: S, reach: f32, x: Nearest<S>, y: Nearest<S>) -> S::f32s {
    let beyond = simd.less_than_f32s(simd.splat_f32s(reach), simd.add_f32s(x.square, y.square));
    let penalty = simd.select_f32s(beyond, simd.splat_f32s(PAIR_PENALTY), simd.splat_f32s(0.0));
    simd.add_f32s(simd.add_f32s(x.cost, y.cost), penalty)
}

/// Costs of the states after one more pair, and the decisions taken.
#[inline(always)]
fn advance<S: Simd>(
    simd: S,
    cost: &[S::f32s; STATES],
    branches: &[[S::f32s; 2]; 2],
    next: &mut [S::f32s; STATES],
) -> [S::u32s; 2] {
    // In pieces short enough for the compiler to unroll: all places of states are constants then.
    let mut even = [simd.splat_u32s(0); 2];
    advance_some::<S, 0, 24>(simd, cost, branches, next, &mut even);
    advance_some::<S, 0, 16>(simd, cost, branches, next, &mut even);
    advance_some::<S, 0, 8>(simd, cost, branches, next, &mut even);
    advance_some::<S, 0, 0>(simd, cost, branches, next, &mut even);
    let mut odd = [simd.splat_u32s(0); 2];
    advance_some::<S, 1, 24>(simd, cost, branches, next, &mut odd);
    advance_some::<S, 1, 16>(simd, cost, branches, next, &mut odd);
    advance_some::<S, 1, 8>(simd, cost, branches, next, &mut odd);
    advance_some::<S, 1, 0>(simd, cost, branches, next, &mut odd);
    let sixteen = simd.splat_u32s(16);
    let even = simd.or_u32s(even[0], simd.wrapping_dyn_shl_u32s(even[1], sixteen));
    [even, simd.or_u32s(odd[0], simd.wrapping_dyn_shl_u32s(odd[1], sixteen))]
}

/// [`advance`] for the states that are reached from parity `Q` with the even indices from `FIRST` to `FIRST` + 6, last
/// first, and their partners of odd index. Their decisions are shifted into `flags`.
#[inline(always)]
fn advance_some<S: Simd, const Q: usize, const FIRST: usize>(
    simd: S,
    cost: &[S::f32s; STATES],
    branches: &[[S::f32s; 2]; 2],
    next: &mut [S::f32s; STATES],
    flags: &mut [S::u32s; 2],
) {
    let [odd, taken] = PAIR_TAPS.map(usize::from);
    for place in 0..4 {
        let index = FIRST + 6 - 2 * place;
        let sources = [cost[2 * index + Q], cost[2 * (index ^ taken) + Q]];
        for partner in 0..2 {
            let state = index ^ (taken * partner) ^ (odd * Q);
            let zero = simd.add_f32s(sources[partner], branches[Q][0]);
            let one = simd.add_f32s(sources[1 - partner], branches[Q][1]);
            let better = simd.less_than_f32s(one, zero);
            let flag = simd.select_u32s(better, simd.splat_u32s(u32::MAX), simd.splat_u32s(0));
            flags[partner] = simd.sub_u32s(simd.add_u32s(flags[partner], flags[partner]), flag);
            next[state] = simd.min_f32s(one, zero);
        }
    }
}

/// Place of an index's decision in its word: even ones in rising order, then their partners.
#[inline(always)]
fn decision_shift<S: Simd>(simd: S, index: S::u32s) -> S::u32s {
    let one = simd.splat_u32s(1);
    let even = simd.equal_u32s(simd.and_u32s(index, one), simd.splat_u32s(0));
    let partner =
        simd.select_u32s(even, simd.splat_u32s(0), simd.splat_u32s(16 | u32::from(PAIR_TAPS[1]) >> 1));
    simd.xor_u32s(simd.wrapping_dyn_shr_u32s(index, one), partner)
}

/// Follows the decisions back from the states `end` and writes the integers of the best paths.
#[inline(always)]
pub(super) fn backward<S: Simd>(
    simd: S,
    first: usize,
    paths: Paths<'_>,
    end: &[u32; LANES],
    decisions: &[[u32; LANES]],
    integers: &mut [Lanes],
) {
    let lanes = first..(first + S::F32_LANES).min(LANES);
    let [odd, taken] = PAIR_TAPS.map(u32::from);
    let (odd, taken) = (simd.splat_u32s(odd), simd.splat_u32s(taken));
    let (zero, one) = (simd.splat_u32s(0), simd.splat_u32s(1));
    let two = simd.splat_f32s(2.0);
    let mut state = load_bits(simd, &end[lanes.clone()]);
    for (pair, m) in integers.chunks_mut(2).enumerate().rev() {
        let even = simd.equal_u32s(simd.wrapping_dyn_shr_u32s(state, simd.splat_u32s(5)), zero);
        let index = simd.xor_u32s(state, simd.select_u32s(even, zero, odd));
        let from_even = load_bits(simd, &decisions[2 * pair][lanes.clone()]);
        let from_odd = load_bits(simd, &decisions[2 * pair + 1][lanes.clone()]);
        let word = simd.select_u32s(even, from_even, from_odd);
        let bit = simd.and_u32s(simd.wrapping_dyn_shr_u32s(word, decision_shift(simd, index)), one);
        let same = simd.equal_u32s(bit, zero);
        let source = simd.xor_u32s(index, simd.select_u32s(same, zero, taken));
        state = simd.add_u32s(simd.add_u32s(source, source), simd.select_u32s(even, zero, one));

        let q = simd.select_f32s(even, simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        let opposite = simd.add_f32s(q, two);
        let [x, y] = paths.pair(simd, first, pair);
        let (x0, x1) = (x.nearest(simd, q), x.nearest(simd, opposite));
        let (y0, y1) = (y.nearest(simd, q), y.nearest(simd, opposite));
        let choose = |mask, a: Nearest<S>, b: Nearest<S>| Nearest {
            integer: simd.select_f32s(mask, a.integer, b.integer),
            cost: simd.select_f32s(mask, a.cost, b.cost),
            square: simd.select_f32s(mask, a.square, b.square),
        };
        let (partner0, partner1): (Nearest<S>, Nearest<S>) = (choose(same, y0, y1), choose(same, y1, y0));
        let cost = pair_cost(simd, paths.reach, x0, partner0);
        let second = simd.less_than_f32s(pair_cost(simd, paths.reach, x1, partner1), cost);
        let best = [choose(second, x1, x0).integer, choose(second, partner1, partner0).integer];
        for (m, best) in m.iter_mut().zip(best) {
            simd.partial_store_f32s(&mut m[lanes.clone()], best);
        }
    }
}
