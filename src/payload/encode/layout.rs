//! Where the slots of each symbol go: runs spread over the 256 slots.
//!
//! A symbol whose slots stand in one block makes the coder lose about .0085 bit per weight, because its 16-bit
//! state is small; several runs far apart lose .002. The fast kernels look a slot up as one of 32 buckets of 8
//! slots plus at most two thresholds, and as one of 16 buckets of 16 slots plus at most four, so a good layout has
//! at most two (four) inner boundaries in any aligned 8 (16) slots. The search is a seeded random one and always
//! gives the same answer.

use crate::payload::table::Run;

/// Boundaries inside an aligned group of 8 slots that the fast lookup handles without a slower variant.
const GOAL_IN_8: u32 = 2;
/// The same for groups of 16 slots.
const GOAL_IN_16: u32 = 2;
const TRIALS: usize = 600;

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Splits symbols of the given `frequencies` (all at least 1, 256 together) into at most `most_runs` runs.
pub(crate) fn spread(frequencies: &[u16], most_runs: usize) -> Vec<Run> {
    let mut best = (u32::MAX, Vec::new());
    let mut budget = most_runs;
    loop {
        let pieces = pieces(frequencies, budget);
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for trial in 0..TRIALS {
            let jitter = match trial {
                0 => 0.0,
                1..=60 => 0.05,
                61..=240 => 0.15,
                _ => 0.35,
            };
            let runs = arrange(frequencies, &pieces, jitter, &mut random);
            let score = crowding(&runs);
            if score < best.0 {
                best = (score, runs);
            }
            if best.0 == 0 {
                return best.1;
            }
        }
        if budget <= frequencies.len() {
            return best.1;
        }
        budget = (budget - 2).max(frequencies.len());
    }
}

/// Number of runs for each symbol: one each, then more for those that gain most by a further split.
fn pieces(frequencies: &[u16], budget: usize) -> Vec<usize> {
    let mut pieces = vec![1usize; frequencies.len()];
    for _ in frequencies.len()..budget {
        let gain = |i: usize| {
            let f = f64::from(frequencies[i]);
            f * f / (pieces[i] * (pieces[i] + 1)) as f64
        };
        let candidates = (0..frequencies.len()).filter(|&i| pieces[i] < usize::from(frequencies[i]) / 4);
        match candidates.max_by(|&a, &b| gain(a).total_cmp(&gain(b))) {
            Some(best) => pieces[best] += 1,
            None => break,
        }
    }
    pieces
}

/// Puts the pieces of every symbol at even distances (with some jitter) and nudges their ends to multiples of 8.
fn arrange(frequencies: &[u16], pieces: &[usize], jitter: f64, random: &mut Random) -> Vec<Run> {
    let mut placed = Vec::with_capacity(64);
    for (symbol, (&frequency, &count)) in frequencies.iter().zip(pieces).enumerate() {
        let frequency = usize::from(frequency);
        for piece in 0..count {
            let shift = jitter * count as f64 * (random.unit() - 0.5);
            let length = frequency * (piece + 1) / count - frequency * piece / count;
            placed.push(((piece as f64 + 0.5 + shift) / count as f64, symbol, length));
        }
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    // Move a few slots between runs of the same symbol so that runs end on multiples of 8.
    let mut slot = 0;
    for i in 0..placed.len() {
        let (_, symbol, length) = placed[i];
        if let Some(next) = (i + 1..placed.len()).find(|&j| placed[j].1 == symbol) {
            let end = slot + length;
            let target = (end + 4) / 8 * 8;
            let (more, fewer) = (target.saturating_sub(end), end.saturating_sub(target));
            if more > 0 && placed[next].2 > more + 1 {
                placed[i].2 += more;
                placed[next].2 -= more;
            } else if fewer > 0 && length > fewer + 1 {
                placed[i].2 -= fewer;
                placed[next].2 += fewer;
            }
        }
        slot += placed[i].2;
    }
    let mut runs: Vec<Run> = Vec::with_capacity(placed.len());
    for (_, symbol, length) in placed {
        match runs.last_mut() {
            Some(last) if usize::from(last.symbol) == symbol => last.length += length as u8,
            _ => runs.push(Run { symbol: symbol as u8, length: length as u8 }),
        }
    }
    runs
}

/// How far the layout misses the goals for inner boundaries; 0 is perfect.
fn crowding(runs: &[Run]) -> u32 {
    let (mut in_8, mut in_16) = ([0u32; 32], [0u32; 16]);
    let mut slot = 0usize;
    for run in &runs[..runs.len() - 1] {
        slot += usize::from(run.length);
        if slot & 7 != 0 {
            in_8[slot >> 3] += 1;
        }
        if slot & 15 != 0 {
            in_16[slot >> 4] += 1;
        }
    }
    let worst = |counts: &[u32]| counts.iter().copied().max().unwrap_or(0);
    8 * worst(&in_8).saturating_sub(GOAL_IN_8) + worst(&in_16).saturating_sub(GOAL_IN_16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_keeps_frequencies_and_goals() {
        for frequencies in [
            vec![254u16, 1, 1],
            vec![20, 60, 96, 60, 20],
            vec![1, 3, 9, 25, 45, 90, 45, 25, 9, 3, 1],
            (0..15).map(|i| if i == 7 { 256 - 14 * 17 } else { 17 }).collect(),
        ] {
            let runs = spread(&frequencies, 16);
            assert!(runs.len() <= 16.max(frequencies.len()));
            let mut total = vec![0u16; frequencies.len()];
            for run in &runs {
                total[usize::from(run.symbol)] += u16::from(run.length);
            }
            assert_eq!(total, frequencies);
            assert_eq!(crowding(&runs), 0, "{frequencies:?}");
        }
    }
}
