//! The trellis that ties the integers of one path together (spec section "Trellis").

/// Next state of the 8-state trellis, by state and by the low bit of the index k (Ungerboeck's code).
pub const NEXT_STATE: [[u8; 2]; 8] = [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]];

/// Which trellis a matrix uses. Every path starts in state 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Trellis {
    /// No memory: the state stays 0, so every integer is even (m = 2k).
    Scalar,
    /// The 8-state trellis: m = 2k + (state & 1), so the state decides the parity of the integer.
    #[default]
    EightState,
}

impl Trellis {
    /// Parity that the integer must have in `state`.
    pub const fn parity(self, state: u8) -> i32 {
        (state & 1) as i32
    }

    /// State after the integer `m` was coded in `state`. `m` has the parity of the state.
    pub const fn next(self, state: u8, m: i32) -> u8 {
        match self {
            Trellis::Scalar => 0,
            Trellis::EightState => NEXT_STATE[(state & 7) as usize][((m >> 1) & 1) as usize],
        }
    }
}
