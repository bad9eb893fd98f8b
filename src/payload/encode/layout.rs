//! Where the slots of each symbol go: runs spread over the 256 slots.
//!
//! The coder maps the numbers 0, 1, 2, … of a symbol of frequency f to its slots and should keep them in proportion:
//! number j belongs at slot (j + 1/2) * 256 / f. The state is only 16 bits wide, so one block of slots for each symbol
//! costs about .0085 bit per weight; a mean squared distance of d from the right places costs about d / 10^6.
//!
//! Fast kernels look a slot up by its aligned group of 8 (or 32) slots and compare it with the run ends inside the
//! group, so every run end inside a group costs them instructions. A good layout has at most one in any group of 8,
//! and at most two in any group of 32 (three if there are more than 16 runs). Ends on the edge of a group are free.
//!
//! The search anneals: seeded, it always gives the same answer.

use crate::payload::table::Run;

/// Run ends inside an aligned group of 8 slots.
const GOAL_IN_8: u32 = 1;
/// Run ends inside an aligned group of 32 slots, with few and with many runs.
const GOAL_IN_32: [u32; 2] = [2, 3];
/// Runs of one parity that count as few.
const FEW_RUNS: usize = 16;
const STEPS: u32 = 6000;
/// What one run end above the goals costs, in the unit of squared distances summed over all slots and divided by 256.
const CROWDING: f64 = 100.0;
const FIRST_TEMPERATURE: f64 = 60.0;
const LAST_TEMPERATURE: f64 = 0.01;
/// Most slots that one move shifts between two runs.
const MOST_SHIFTED: usize = 8;
const MOST_RUNS: usize = 64;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}

/// Runs in slot order, cheap to copy.
#[derive(Clone, Copy)]
struct Layout {
    runs: [Run; MOST_RUNS],
    count: usize,
}

impl Layout {
    fn new() -> Self {
        Self { runs: [Run { symbol: 0, length: 0 }; MOST_RUNS], count: 0 }
    }

    fn runs(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    fn insert(&mut self, at: usize, run: Run) {
        self.runs.copy_within(at..self.count, at + 1);
        self.runs[at] = run;
        self.count += 1;
    }

    fn remove(&mut self, at: usize) {
        self.runs.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }

    /// Joins neighbouring runs of the same symbol.
    fn join(&mut self) {
        let mut kept = 0;
        for i in 1..self.count {
            if self.runs[kept].symbol == self.runs[i].symbol {
                self.runs[kept].length += self.runs[i].length;
            } else {
                kept += 1;
                self.runs[kept] = self.runs[i];
            }
        }
        self.count = kept + 1;
    }

    /// Another run of the symbol of run `i`, if there is one.
    fn sibling(&self, i: usize, random: &mut Random) -> Option<usize> {
        let others = || (0..self.count).filter(|&j| j != i && self.runs[j].symbol == self.runs[i].symbol);
        let count = others().count();
        if count == 0 {
            return None;
        }
        others().nth(random.below(count))
    }

    /// A random neighbour of this layout with at most `most_runs` runs, or `None` if the draw was impossible.
    fn neighbour(&self, most_runs: usize, random: &mut Random) -> Option<Self> {
        let mut other = *self;
        let i = random.below(self.count);
        match random.below(5) {
            0 => other.runs.swap(i, random.below(self.count)),
            1 => other.runs[..self.count].swap(i, (i + 1) % self.count),
            2 => {
                let slots = 1 + random.below(MOST_SHIFTED) as u8;
                if other.runs[i].length <= slots {
                    return None;
                }
                let to = self.sibling(i, random)?;
                other.runs[i].length -= slots;
                other.runs[to].length += slots;
            }
            3 => {
                let length = self.runs[i].length;
                if self.count >= most_runs || length < 2 {
                    return None;
                }
                let part = 1 + random.below(usize::from(length) - 1) as u8;
                other.runs[i].length -= part;
                other.insert(random.below(self.count + 1), Run { length: part, ..self.runs[i] });
            }
            _ => {
                let to = self.sibling(i, random)?;
                other.runs[to].length += self.runs[i].length;
                other.remove(i);
            }
        }
        other.join();
        Some(other)
    }

    /// Squared distance of all slots from their right places, over 256.
    fn distance(&self, frequencies: &[u16]) -> f64 {
        let mut ranks = [0.0f64; MOST_RUNS];
        let mut slot = 0.0;
        let mut total = 0.0;
        for run in self.runs() {
            let symbol = usize::from(run.symbol);
            let n = f64::from(run.length);
            let pitch = 256.0 / f64::from(frequencies[symbol]);
            // Distances a, a + b, …, a + (n - 1) b.
            let (a, b) = (slot + 0.5 - (ranks[symbol] + 0.5) * pitch, 1.0 - pitch);
            total += n * a * a + a * b * n * (n - 1.0) + b * b * (n - 1.0) * n * (2.0 * n - 1.0) / 6.0;
            ranks[symbol] += n;
            slot += n;
        }
        total / 256.0
    }

    /// Run ends above the goals.
    fn crowding(&self, goal_in_32: u32) -> u32 {
        let (mut in_8, mut in_32) = ([0u32; 32], [0u32; 8]);
        let mut slot = 0usize;
        for run in &self.runs()[..self.count - 1] {
            slot += usize::from(run.length);
            in_8[slot >> 3] += u32::from(slot & 7 != 0);
            in_32[slot >> 5] += u32::from(slot & 31 != 0);
        }
        let above = |counts: &[u32], goal| counts.iter().map(|count| count.saturating_sub(goal)).sum::<u32>();
        above(&in_8, GOAL_IN_8) + above(&in_32, goal_in_32)
    }
}

/// Splits symbols of the given `frequencies` (all at least 1, 256 together) into at most `most_runs` runs.
pub(crate) fn spread(frequencies: &[u16], most_runs: usize) -> Vec<Run> {
    let goal_in_32 = GOAL_IN_32[usize::from(most_runs > FEW_RUNS)];
    let score =
        |layout: &Layout| layout.distance(frequencies) + CROWDING * f64::from(layout.crowding(goal_in_32));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut layout = even_layout(frequencies, &pieces(frequencies, most_runs));
    let mut cost = score(&layout);
    let mut best = (layout, cost);
    for step in 0..STEPS {
        let left = 1.0 - f64::from(step) / f64::from(STEPS);
        let temperature = FIRST_TEMPERATURE * left * left + LAST_TEMPERATURE;
        let Some(other) = layout.neighbour(most_runs, &mut random) else { continue };
        let other_cost = score(&other);
        if other_cost < cost || random.unit() < ((cost - other_cost) / temperature).exp() {
            (layout, cost) = (other, other_cost);
            if cost < best.1 {
                best = (layout, cost);
            }
        }
    }
    best.0.runs().to_vec()
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

/// The pieces of every symbol at even distances: where the search starts.
fn even_layout(frequencies: &[u16], pieces: &[usize]) -> Layout {
    let mut placed = Vec::with_capacity(MOST_RUNS);
    for (symbol, (&frequency, &count)) in frequencies.iter().zip(pieces).enumerate() {
        let frequency = usize::from(frequency);
        for piece in 0..count {
            let length = frequency * (piece + 1) / count - frequency * piece / count;
            placed.push(((2 * piece + 1) as f64 / (2 * count) as f64, symbol, length));
        }
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut layout = Layout::new();
    for (_, symbol, length) in placed {
        layout.insert(layout.count, Run { symbol: symbol as u8, length: length as u8 });
    }
    layout.join();
    layout
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
            let mut layout = Layout::new();
            runs.iter().for_each(|&run| layout.insert(layout.count, run));
            assert_eq!(layout.crowding(GOAL_IN_32[0]), 0, "{frequencies:?}");
            let even = even_layout(&frequencies, &vec![1; frequencies.len()]);
            assert!(layout.distance(&frequencies) <= even.distance(&frequencies), "{frequencies:?}");
        }
    }
}
