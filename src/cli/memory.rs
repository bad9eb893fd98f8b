//! Memory of this process, as the operating system counts it.

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
        let field = |name: &str| -> Option<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { all: field("Pss")?, anonymous: field("Anonymous")? })
    }
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
    }
}
