//! Whether the database is quiet: then memory and garbage are tidied up that busy times leave.

use super::{Jobs, Table};
use crate::store::Store;
use std::time::{Duration, Instant};

/// A database is quiet when less than this part of a memtable was put for so long as
/// `Options::quiet_after_ms` says.
const QUIET_SHARE: u64 = 64;

/// On a nearly full volume deletes are flushed so often, or when the memtable has so many bytes:
/// some thirty times what the flush itself takes.
const DELETES_EVERY: Duration = Duration::from_secs(1);
const DELETES_BYTES: u64 = 4 << 20;

/// Since when hardly anything was put.
#[derive(Default)]
pub(super) struct Quiet {
    /// Bytes put when it last was more than a little, and when that was.
    put_bytes: u64,
    since: Option<Instant>,
    /// Entries written when somebody last looked, and since when it is as many.
    writes: u64,
    unwritten: Option<Instant>,
    /// When deletes were last flushed for the space that they free.
    deletes_flushed: Option<Instant>,
}

impl Quiet {
    /// How long not more than a little was put, when now so many bytes have been.
    fn lasts(&mut self, put_bytes: u64, little_bytes: u64) -> Duration {
        if put_bytes > self.put_bytes.saturating_add(little_bytes) {
            (self.put_bytes, self.since) = (put_bytes, None);
        }
        self.since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether the deletes in a memtable of so many bytes are to be flushed now; if so, they are.
    fn deletes_are_due(&mut self, bytes: u64, now: Instant) -> bool {
        let is_early = |last: Instant| now.duration_since(last) < DELETES_EVERY;
        let due = bytes >= DELETES_BYTES || !self.deletes_flushed.is_some_and(is_early);
        if due {
            self.deletes_flushed = Some(now);
        }
        due
    }
}

impl Table {
    /// Whether hardly anything has been put for some time.
    pub(super) fn is_quiet(&mut self, store: &Store) -> bool {
        let little_bytes = store.options.memtable_bytes / QUIET_SHARE;
        let after = Duration::from_millis(store.options.quiet_after_ms);
        self.quiet.lasts(store.metrics.put_bytes.get(), little_bytes) >= after
    }
}

impl Jobs {
    /// For how long nothing at all has been written, counted from the first call that saw it.
    pub(crate) fn unwritten_for(&self) -> Duration {
        let writes = self.store.metrics.writes.get();
        let quiet = &mut self.table.lock().quiet;
        if writes != quiet.writes {
            (quiet.writes, quiet.unwritten) = (writes, None);
        }
        quiet.unwritten.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether hardly anything has been put for some time.
    pub(crate) fn is_quiet(&self) -> bool {
        self.table.lock().is_quiet(&self.store)
    }

    /// Whether the deletes in an active memtable of so many bytes are to be flushed for the space
    /// that they free.
    pub(crate) fn deletes_are_due(&self, bytes: u64) -> bool {
        self.table.lock().quiet.deletes_are_due(bytes, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each delete was a flush, whose objects took more than it freed.
    #[test]
    fn deletes_are_flushed_at_once_and_then_together() {
        let mut quiet = Quiet::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, bytes, due) in [
            (0, 100, true),
            (1, 100, false),
            (999, DELETES_BYTES - 1, false),
            (999, DELETES_BYTES, true),
            (1998, 100, false),
            (1999, 100, true),
        ] {
            assert_eq!(quiet.deletes_are_due(bytes, at(ms)), due, "at {ms} ms, {bytes} bytes");
        }
    }
}
