//! Memory of this process and of the machine, as the operating system counts it.

/// Resident bytes of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// Pages of mapped files and its own, shared ones divided among the processes that share them.
    pub(super) all: u64,
    /// Pages that no file backs: heap and stacks.
    pub(super) anonymous: u64,
}

impl Resident {
    /// From `/proc/self/smaps_rollup`; `None` where there is none.
    pub(super) fn of_this_process() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/smaps_rollup").ok()?)
    }

    fn parse(rollup: &str) -> Option<Self> {
        Some(Self { all: bytes_of(rollup, "Pss")?, anonymous: bytes_of(rollup, "Anonymous")? })
    }
}

/// Bytes that new allocations could have without others being swapped out, or the limit of a container being met; `None`
/// where that is not known.
pub(super) fn available() -> Option<u64> {
    let of_machine = available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let of_group = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok()?.trim().parse().ok()
    };
    let left = of_group("max").zip(of_group("current")).map(|(most, used)| most.saturating_sub(used));
    Some(left.map_or(of_machine, |left| left.min(of_machine)))
}

fn available_in(meminfo: &str) -> Option<u64> {
    bytes_of(meminfo, "MemAvailable")
}

/// A number of kB in Linux's descriptions of memory.
fn bytes_of(description: &str, name: &str) -> Option<u64> {
    let line = description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = "55 [rollup]\nRss:  900 kB\nPss:        77 kB\nPss_Anon:  5 kB\nAnonymous:      12 kB\n";
        let found = Resident::parse(text).unwrap();
        assert_eq!((found.all, found.anonymous), (77 * 1024, 12 * 1024));
        assert!(Resident::parse("Rss: 1 kB").is_none());
        assert_eq!(available_in("MemFree: 2 kB\nMemAvailable:   3 kB\n"), Some(3 * 1024));
    }
}
