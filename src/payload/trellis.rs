//! The trellis that ties the integers of one path together (spec section "Trellis").

/// Next state of the 8-state trellis, by state and by the low bit of the index k (Ungerboeck's code).
pub const NEXT_STATE: [[u8; 2]; 8] = [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]];

/// What the trellis of pairs adds to the halved state for an odd state, and for a branch bit of 1. These are the
/// parity-check polynomials 133 and 042 (octal) without their lowest coefficient: the convolutional code of 64 states
/// with generators 133 and 171, as a lattice in the plane.
pub const PAIR_TAPS: [u8; 2] = [0o133 >> 1, 0o042 >> 1];

/// Which trellis a matrix uses. Every path starts in state 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Trellis {
    /// No memory: the state stays 0, so every integer is even (m = 2k).
    Scalar,
    /// The 8-state trellis: m = 2k + (state & 1), so the state decides the parity of the integer.
    #[default]
    EightState,
    /// The 64-state trellis of pairs: two integers in a row have the parity of the state, then the state moves by
    /// whether their indices differ in their low bits.
    Pairs,
}

impl Trellis {
    /// Bit of a path's state that tells, for [`Self::Pairs`], that the first integer of a pair is done.
    const HALF_DONE: u8 = 1 << 6;

    /// Parity that the integer must have in `state`.
    pub const fn parity(self, state: u8) -> i32 {
        (state & 1) as i32
    }

    /// State after the integer `m` was coded in `state`. `m` has the parity of the state. Inside a pair the state has
    /// two bits more: that the first integer is done, and the low bit of its index.
    pub const fn next(self, state: u8, m: i32) -> u8 {
        let bit = (m >> 1 & 1) as u8;
        match self {
            Trellis::Scalar => 0,
            Trellis::EightState => NEXT_STATE[(state & 7) as usize][bit as usize],
            Trellis::Pairs if state & Self::HALF_DONE == 0 => state | Self::HALF_DONE | bit << 7,
            Trellis::Pairs => Self::after_pair(state & 63, bit ^ state >> 7),
        }
    }

    /// State of the trellis of pairs after a pair; `branch` is 1 if the two indices differ in their low bits.
    pub const fn after_pair(state: u8, branch: u8) -> u8 {
        let odd = if state & 1 == 1 { PAIR_TAPS[0] } else { 0 };
        let taken = if branch & 1 == 1 { PAIR_TAPS[1] } else { 0 };
        (state & 63) >> 1 ^ odd ^ taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_cosets_of_a_convolutional_code() {
        // With a and b the halves of sum and difference of a pair's integers, (a, b) modulo 2 must be a code word of
        // the code with generators 133 and 171 (octal): its syndrome vanishes.
        let mut random = 12345u32;
        let mut words = Vec::new();
        let mut state = 0;
        for _ in 0..200 {
            let mut pair = [0i32; 2];
            for m in &mut pair {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *m = 2 * ((random >> 20) as i32 % 9 - 4) + Trellis::Pairs.parity(state);
                state = Trellis::Pairs.next(state, *m);
            }
            assert!(state < 64);
            words.push([((pair[0] + pair[1]) / 2) & 1, ((pair[0] - pair[1]) / 2) & 1]);
        }
        let taps = |polynomial: u32| (0..7usize).filter(move |bit| polynomial >> bit & 1 == 1);
        for at in 6..words.len() {
            let sum = |polynomial: u32, which: usize| {
                taps(polynomial).map(|delay| words[at - delay][which]).fold(0, |a, b| a ^ b)
            };
            assert_eq!(sum(0o133, 0) ^ sum(0o171, 1), 0, "pair {at}");
        }
    }

    #[test]
    fn every_pair_state_is_reached_twice() {
        let mut reached = [0; 64];
        for state in 0..64 {
            for branch in 0..2 {
                reached[usize::from(Trellis::after_pair(state, branch))] += 1;
            }
        }
        assert_eq!(reached, [2; 64]);
    }
}
