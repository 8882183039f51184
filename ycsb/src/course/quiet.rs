//! PURE. When a store is quiet: nothing is due, and its background work has ended.
//!
//! No store is asked whether it is done, for not all can tell, and those that can may be wrong. It
//! is looked at: while it flushes or compacts, bytes are read or written.
//!
//! ```text
//!   bytes moved  ##.####.##..#......................
//!                             ^ quiet since
//!                             |<---- silence ---->|  seen here
//! ```

use std::time::Duration;

/// Bytes between two looks that are no work: a page of a log, a line of a journal.
const NOISE_BYTES: u64 = 64 << 10;

/// What one look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Since the load ended.
    pub(crate) at: Duration,
    /// Read and written so far, together.
    pub(crate) bytes: u64,
    /// The store says itself that something waits.
    pub(crate) waits: bool,
}

/// Whether it has been quiet for long enough, look by look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    silence: Duration,
    since: Duration,
    bytes: Option<u64>,
}

impl Quiet {
    /// `silence` is how long nothing must have happened.
    pub(crate) fn new(silence: Duration) -> Self {
        Self { silence, since: Duration::ZERO, bytes: None }
    }

    /// Since when it is quiet, once it has been for long enough.
    pub(crate) fn look(&mut self, look: Look) -> Option<Duration> {
        let moved = self.bytes.map_or(0, |before| look.bytes.saturating_sub(before));
        if moved > NOISE_BYTES || look.waits {
            self.since = look.at;
        }
        // Noise does not add up to work: each look is compared with the one before it.
        self.bytes = Some(look.bytes);
        (look.at.saturating_sub(self.since) >= self.silence).then_some(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn quiet_since(looks: &[(u64, u64, bool)]) -> Option<u64> {
        let mut quiet = Quiet::new(Duration::from_secs(3));
        let mut found = looks.iter().map(|(at, bytes, waits)| {
            quiet.look(Look { at: Duration::from_secs(*at), bytes: *bytes, waits: *waits })
        });
        found.find_map(|since| since).map(|since| since.as_secs())
    }

    #[test]
    fn a_store_is_quiet_when_it_has_moved_nothing_for_long_enough() {
        let work = [(0, 0, false), (1, 9 * MIB, false), (2, 10 * MIB, false)];
        let silent = |from: u64| (from..from + 4).map(|at| (at, 10 * MIB, false));
        for (name, looks, expect) in [
            ("at once", (0..5).map(|at| (at, 7, false)).collect::<Vec<_>>(), Some(0)),
            ("after work", work.into_iter().chain(silent(3)).collect(), Some(2)),
            ("not long enough", work.into_iter().chain([(3, 10 * MIB, false)]).collect(), None),
            ("noise", (0..8).map(|at| (at, at * NOISE_BYTES, false)).collect(), Some(0)),
            (
                "a pause between two jobs",
                work.into_iter()
                    .chain([(4, 10 * MIB, false), (4, 30 * MIB, false), (8, 30 * MIB, false)])
                    .collect(),
                Some(4),
            ),
            (
                "something waits",
                vec![(0, 0, true), (2, 0, true), (4, 0, false), (5, 0, false)],
                Some(2),
            ),
        ] {
            assert_eq!(quiet_since(&looks), expect, "{name}");
        }
    }
}
