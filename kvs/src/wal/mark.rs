//! FORMAT: the mark of a clean close, version 1. Property `kvs.closed` of the pool's journal.
//!
//! ```text
//! offset  size  field
//!      0     1  version     1
//!      1     8  sequence    of the log's last segment
//!      9     8  end         revision of the log's last frame
//!     17     8  last        last revision given out, `end` or greater
//!     25     8  journal     id of the manifest's MDC; 0 if there is none
//!     33     8  generation  of its last frame ...
//!     41     8  seqno       ... and where in that generation it is
//! ```
//!
//! Integers are little-endian. The end of a log is where rot looks like an append that was cut
//! short. What the mark says of both logs stays true whatever comes after: up to there everything
//! was durable. So one that ends before it has rotted. A log of revisions may end before it where
//! kvsets make up for it; another manifest than the mark's was made, whole, after it.
//!
//! And nothing after `last` was given out by then: that holds while no segment has a greater
//! sequence, because an open starts a new segment before it gives out its first revision.
//!
//! A close writes the mark even if it says nothing new: then it is the last record of the pool's
//! journal, and rot there is in the mark alone. The open after that has the mark before.

use crate::error::{Error, Result};
use crate::key::Revision;
use mpool::Pool;

/// Property of the pool that is the mark.
const PROPERTY: &str = "kvs.closed";
/// Begins the reason of an error of a manifest that ends before its clean close.
pub(crate) const CLOSED: &str = "it was closed at frame";
const VERSION: u8 = 1;
const LEN: usize = 49;

/// Where both logs of a database were when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log: LogEnd,
    pub(crate) manifest: ManifestEnd,
}

/// Where the write-ahead log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) sequence: u64,
    pub(crate) end: Revision,
    pub(crate) last: Revision,
}

/// Where the manifest ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestEnd {
    pub(crate) journal: u64,
    pub(crate) generation: u64,
    pub(crate) seqno: u64,
}

impl Mark {
    /// What the last clean close has left, if there was one.
    pub(crate) fn read(pool: &Pool) -> Result<Option<Self>> {
        pool.property(PROPERTY).map(|raw| Self::decode(&raw)).transpose()
    }

    /// Leaves it, durably.
    pub(crate) fn leave(self, pool: &Pool) -> Result<()> {
        Ok(pool.set_property(PROPERTY, &self.encode())?)
    }

    fn encode(self) -> [u8; LEN] {
        let Self { log, manifest } = self;
        let words = [
            log.sequence,
            log.end.get(),
            log.last.get(),
            manifest.journal,
            manifest.generation,
            manifest.seqno,
        ];
        let mut raw = [VERSION; LEN];
        for (to, word) in raw[1..].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        raw
    }

    fn decode(raw: &[u8]) -> Result<Self> {
        if let Some(&found) = raw.first().filter(|found| **found > VERSION) {
            return Err(Error::Format { found: found.into(), supported: VERSION.into() });
        }
        let bad = |reason: &str| Error::Corrupt {
            what: format!("mark of the last clean close (property {PROPERTY})"),
            reason: reason.to_owned(),
        };
        let raw: &[u8; LEN] = raw.try_into().map_err(|_| bad("it has a wrong length"))?;
        let word = |at: usize| {
            u64::from_le_bytes(*raw[1 + 8 * at..].first_chunk().expect("six words behind one byte"))
        };
        let (end, last) = (Revision::new(word(1)), Revision::new(word(2)));
        let fits = end <= last && last <= Revision::LAST && word(0) <= Revision::LAST.get();
        if raw[0] != VERSION || !fits {
            return Err(bad("its fields do not fit each other"));
        }
        Ok(Self {
            log: LogEnd { sequence: word(0), end, last },
            manifest: ManifestEnd { journal: word(3), generation: word(4), seqno: word(5) },
        })
    }
}

impl ManifestEnd {
    /// Err if the manifest of now ends before `closed`, where a clean close has left it.
    pub(crate) fn check(self, closed: Self) -> Result<()> {
        let place = |end: Self| (end.generation, end.seqno);
        if self.journal != closed.journal || place(self) >= place(closed) {
            return Ok(());
        }
        Err(Error::Corrupt {
            what: format!("manifest (mdc-{})", self.journal),
            reason: format!(
                "{CLOSED} {} of generation {}, and ends at frame {} of generation {}",
                closed.seqno, closed.generation, self.seqno, self.generation
            ),
        })
    }
}

impl LogEnd {
    /// Err if the log, kvsets included, ends at `end` and was closed after it.
    pub(crate) fn check(self, end: Revision) -> Result<()> {
        if end >= self.end {
            return Ok(());
        }
        Err(Error::Corrupt {
            what: "write-ahead log".to_owned(),
            reason: format!(
                "it was closed at revision {} in segment {}, and ends at revision {end}",
                self.end, self.sequence
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark {
        log: LogEnd { sequence: 0x0102, end: Revision::new(3), last: Revision::new(4) },
        manifest: ManifestEnd { journal: 5, generation: 6, seqno: 7 },
    };

    #[test]
    fn layout_is_frozen() {
        let mut raw = [0; LEN];
        for (at, byte) in [(0, 1), (1, 2), (2, 1), (9, 3), (17, 4), (25, 5), (33, 6), (41, 7)] {
            raw[at] = byte;
        }
        assert_eq!(MARK.encode(), raw);
        assert_eq!(Mark::decode(&raw).unwrap(), MARK);
    }

    #[test]
    fn other_bytes_are_an_error() {
        let raw = MARK.encode();
        for len in 0..LEN {
            assert!(Mark::decode(&raw[..len]).is_err(), "{len} bytes");
        }
        let mut newer = raw;
        newer[0] = 2;
        assert!(matches!(Mark::decode(&newer), Err(Error::Format { found: 2, supported: 1 })));
        let mut ends_late = raw;
        ends_late[9] = 5;
        assert!(matches!(Mark::decode(&ends_late), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_manifest_that_ends_early_is_told() {
        let end = |journal, generation, seqno| ManifestEnd { journal, generation, seqno };
        let closed = end(5, 6, 7);
        for (found, sound) in [
            (end(5, 6, 7), true),
            (end(5, 6, 8), true),
            (end(5, 7, 1), true),
            (end(9, 1, 1), true),
            (end(5, 6, 6), false),
            (end(5, 5, 99), false),
        ] {
            assert_eq!(found.check(closed).is_ok(), sound, "{found:?}");
        }
    }
}
